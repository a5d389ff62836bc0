"""MuJoCo Playground's tasks, compiled: they are Playground's own, in MuJoCo's own physics, and every command takes them."""

import re
import subprocess
import sys
from copy import copy
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from program import ROOT, environment, refusal
from quick import quickly_compiled

from pgx.envs import playground, playground_source
from pgx.envs.imports import module_of, without_warp
from pgx.envs.playground import PlaygroundEnv
from pgx.policies import MLPPolicy
from pgx.rollout import rollout

LIMIT, LANES = 20, 7
TASK = ("+variant=ppo", "env=playground", "env.id=CartpoleBalance")


# Mistakes


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("env.id=CheetaRun", "env.id: MuJoCo Playground has no task 'CheetaRun'; did you mean 'CheetahRun'?"),
        ("env.id=???", "env.id: not chosen yet; env.id=CheetahRun, for example"),
        ("+env.options.ctrl=0.1", "env.options.ctrl: CartpoleBalance has no such option; allowed: ctrl_dt, sim_dt, episode_length"),
        ("+env.options.sim_dt=fast", "env.options.sim_dt: 'fast' is not allowed; allowed: a number > 0"),
        ("+env.options.action_repeat=1.5", "env.options.action_repeat: 1.5 is not allowed; allowed: a whole number"),
        ("+env.options.ctrl_dt=0.015", "env.options.ctrl_dt: 0.015, with sim_dt=0.01: an action holds for 1.5 steps"),
        ("+env.options.ctrl_dt=0.004", "allowed: a multiple of sim_dt"),
        ("+env.options.impl=warp", "env.options.impl: cannot be set: it is for NVIDIA's Warp"),
        ("+env.options.vision_config.nworld=2", "env.options.vision_config.nworld: cannot be set"),
        ("env.options=3", "env.options: 3 is not allowed; allowed: names and values, env.options.NAME=…"),
        ("env.id=Go1Getup", "needs the robots of mujoco_menagerie, which are not there; git clone https://"),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_with_what_is_allowed(words, says):
    assert says in refusal(*TASK, *words.split())


def test_options_in_groups_are_read_by_the_kind_of_their_defaults(monkeypatch):
    """Those of a robot's task; where its assets are does not matter for that."""
    monkeypatch.setattr(playground_source, "_check_robots", lambda id: None)
    check = lambda **options: playground_source.check("Go1JoystickFlatTerrain", options)
    found = check(reward_config={"scales": {"termination": -2}}, pert_config={"enable": True, "velocity_kick": [0, 3]})
    assert found == {
        "reward_config.scales.termination": -2.0,
        "pert_config.enable": True,
        "pert_config.velocity_kick": [0.0, 3.0],
    }
    for wrong in ({"pert_config": {"enable": 1}}, {"reward_config": {"scales": 3}}, {"pert_config": {"velocity_kick": 3}}):
        with pytest.raises(playground_source.ConfigError, match="env.options"):
            check(**wrong)


def test_its_source_is_read_as_it_is_imported():
    """Every task, and every number of their configurations."""
    with without_warp():
        suites = [module_of("mujoco_playground", f"_src.{name}") for name in ("dm_control_suite", "locomotion", "manipulation")]
    assert {*playground_source.suites()} == {id for suite in suites for id in suite.ALL_ENVS}
    for suite in suites:
        for id in suite.ALL_ENVS:
            theirs = dict(playground_source.flat(suite.get_default_config(id).to_dict()))
            ours = playground_source.defaults(id)
            assert {*ours} == {*theirs}
            assert all(x is None or x == theirs[key] for key, x in ours.items())


BARE = """
import sys
from pgx import run
sys.modules["mujoco_playground"] = None  # as if it were not installed
sys.argv[1:] = {words!r}
try: run.main()
finally: print(*sys.modules)
"""


def test_a_missing_extra_is_one_line_with_the_command(tmp_path):
    """Before anything heavy is imported."""
    code = BARE.format(words=[*TASK, f"hydra.run.dir={tmp_path / 'r'}"])
    done = subprocess.run([sys.executable, "-c", code], env=environment(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "MuJoCo Playground is not installed; pip install 'playground==0.2.0' 'mujoco==3.17.0'" in done.stderr
    assert not {"jax", "mujoco"} & {*done.stdout.split()} and not (tmp_path / "r").exists()


def test_it_is_loaded_without_brax_and_warp_and_without_a_word(tmp_path):
    """Both are there in this process, and whoever imports them fails."""
    for name in ("brax", "warp"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    code = (
        "import sys; from pgx.envs.playground import PlaygroundEnv; env = PlaygroundEnv('CheetahRun'); "
        "assert env.spec.obs_size == 17 and not {'brax', 'warp', 'torch'} & {*sys.modules}; "
        "import mujoco.mjx; assert not mujoco.mjx.warp.WARP_INSTALLED"
    )
    path = f"{tmp_path}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(PYTHONPATH=path), cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert {path.name for path in tmp_path.iterdir()} == {"brax.py", "warp.py"}, "no MUJOCO_LOG.TXT"


# Agreement


def moved(env: PlaygroundEnv, actions: np.ndarray) -> tuple[mujoco.MjData, np.ndarray]:
    """(the state before, positions and velocities after each of these actions)."""
    state, _ = quickly_compiled(env.reset)(jax.random.key(0))
    step, data = quickly_compiled(env.step), mujoco.MjData(env.task.mj_model)
    for name in ("qpos", "qvel", "qacc_warmstart"):
        getattr(data, name)[:] = getattr(state.data, name)
    rows = []
    for action in actions:
        state, *_ = step(jax.random.key(0), state, jnp.asarray(action))
        rows.append(np.concatenate([state.data.qpos, state.data.qvel]))
    return data, np.array(rows)


def moved_by_mujoco(env: PlaygroundEnv, data: mujoco.MjData, actions: np.ndarray, change=lambda model: None, substeps=0):
    """The same by MuJoCo's own C engine. `change` and `substeps` make another problem of it."""
    model, data = mujoco.MjModel.from_xml_path(env.task.xml_path), copy(data)
    model.opt.timestep = env.task.sim_dt
    change(model)
    rows = []
    for action in actions:
        data.ctrl[:] = action
        for _ in range(env.task.n_substeps + substeps):
            mujoco.mj_step(model, data)
        rows.append(np.concatenate([data.qpos, data.qvel]))
    return np.array(rows)


def lighter(model):
    model.opt.gravity[2] *= 0.99


def longer_steps(model):
    model.opt.timestep *= 1.01


OTHERS = {"lighter": {"change": lighter}, "longer steps": {"change": longer_steps}, "a substep fewer": {"substeps": -1}}


def agrees_with_mujoco(id: str, steps: int, tolerance: float) -> None:
    """MJX in 32 bits beside MuJoCo in 64, and one per cent of gravity or of the time step would be noticed."""
    env = PlaygroundEnv(id)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, env.task.action_size)).astype(np.float32)
    start, found = moved(env, actions)
    np.testing.assert_allclose(found, moved_by_mujoco(env, start, actions), rtol=0, atol=tolerance)
    for name, other in OTHERS.items():
        assert np.abs(found - moved_by_mujoco(env, start, actions, **other)).max() > 10 * tolerance, name


def test_a_pole_moves_as_in_mujoco():
    """A second, without contacts."""
    agrees_with_mujoco("CartpoleBalance", 100, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("id", "tolerance"), [("CheetahRun", 1e-4), ("HopperHop", 1e-4)])
def test_a_robot_on_its_feet_moves_as_in_mujoco(id, tolerance):
    """Twenty actions, with contacts and, of the hopper, four steps of the physics for each."""
    agrees_with_mujoco(id, 20, tolerance)


@pytest.fixture(scope="module")
def pole():
    return PlaygroundEnv("CartpoleBalance", max_steps=LIMIT)


def test_a_task_is_playgrounds_own(pole):
    """Observations, rewards and ends, to the bit."""
    state, obs = quickly_compiled(pole.reset)(jax.random.key(3))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = quickly_compiled(pole.task.reset)(jax.random.key(3))
        their_step = quickly_compiled(pole.task.step).lower(theirs, jnp.zeros(1)).compile()
    np.testing.assert_array_equal(obs, theirs.obs)
    step = quickly_compiled(pole.step)
    for n in range(15):
        action = jnp.array([np.sin(n)], jnp.float32)
        state, obs, reward, ended = step(jax.random.key(0), state, action)
        theirs = their_step(theirs, action)
        np.testing.assert_array_equal(obs, theirs.obs)
        assert reward == theirs.reward > 0 and not ended and not theirs.done
    assert pole.spec.max_steps == LIMIT and PlaygroundEnv("CartpoleBalance").spec.max_steps == 1000


def test_an_action_may_be_held_for_several_steps():
    """Their rewards are added, and the time limit counts actions."""
    one, three = (PlaygroundEnv("CartpoleBalance", options={"action_repeat": n, "episode_length": 100}) for n in (1, 3))
    assert (one.spec.max_steps, three.spec.max_steps) == (100, 34)
    state, _ = quickly_compiled(one.reset)(jax.random.key(0))
    action, key = jnp.array([0.5]), jax.random.key(0)
    _, found, total, _ = quickly_compiled(three.step)(key, state, action)
    rewards, step = [], quickly_compiled(one.step)
    for _ in range(3):
        state, obs, reward, _ = step(key, state, action)
        rewards.append(float(reward))
    np.testing.assert_allclose(found, obs, rtol=1e-5)
    assert float(total) == pytest.approx(sum(rewards))


class Fallen(NamedTuple):
    """What a robot's task shows: here its steps, and as what is privileged their opposite. It ends at the third."""

    obs: dict[str, jax.Array]
    reward: jax.Array
    done: jax.Array

    def after(self, steps):
        return Fallen({"state": steps, "privileged_state": -steps}, jnp.float32(1), jnp.float32(steps[0] == 3))


class Robot:
    action_size, dt = 2, 0.02
    reset = staticmethod(lambda key: Fallen.after(None, jnp.zeros(1)))
    step = staticmethod(lambda state, action: state.after(state.obs["state"] + 1))


def test_a_policy_sees_what_is_not_privileged_and_nothing_is_paid_after_an_end(monkeypatch):
    """Of robots; their own assets are not in the package."""
    config = SimpleNamespace(action_repeat=2, episode_length=9)
    monkeypatch.setattr(playground, "_load", lambda id, options: (Robot(), config))
    monkeypatch.setattr(playground, "check", lambda id, options: options)
    env = PlaygroundEnv("Go1Getup")
    assert (env.spec.obs_size, env.spec.actions.size, env.spec.max_steps) == (1, 2, 5)
    state, obs = env.reset(jax.random.key(0))
    found = []
    for _ in range(2):
        state, obs, reward, ended = env.step(jax.random.key(0), state, jnp.zeros(2))
        found.append((float(obs[0]), float(reward), bool(ended)))
    assert found == [(2.0, 2.0, False), (4.0, 1.0, True)]


def test_a_task_whose_source_is_older_than_this_mujoco_is_made():
    """It compares 3.17 with 3.3 as texts, and asks for a function by its old name."""
    assert PlaygroundEnv("ReacherEasy").spec.actions.size == 2


def test_what_is_no_number_ends_an_episode(pole):
    """All else is the time limit's, and that cuts and does not end."""
    state, _ = quickly_compiled(pole.reset)(jax.random.key(3))
    broken = state.replace(data=state.data.replace(qvel=jnp.full(2, jnp.nan)))
    assert quickly_compiled(pole.step)(jax.random.key(0), broken, jnp.zeros(1))[3]


def test_a_loop_carries_what_a_step_reads(pole):
    """Of a lane's state, 1.8 kB, positions, velocities and the solver's first guess, beside what is recorded; the rest of
    it every step makes anew, and XLA drops it."""
    play = quickly_compiled(partial(rollout, pole, policy_for(pole.spec), num_episodes=LANES))
    compiled = play.lower(jax.random.key(0)).compile().as_text()
    loops = [line for line in compiled.splitlines() if " while(" in line and f"[{LIMIT},{LANES}]" in line]
    assert len(loops) == 1
    carried = re.findall(r"f32\[(\d+),(\d+)\]", loops[0].partition(" while(")[0])
    of_a_lane = [int(b if a == str(LANES) else a) for a, b in carried if str(LANES) in (a, b) and f"{LIMIT}" not in (a, b)]
    assert sorted(of_a_lane) == [2, 2, 2, 5], "and the observation"


def policy_for(spec) -> MLPPolicy:
    return MLPPolicy(spec.obs_size, spec.actions, width=1, depth=0, activation="tanh", key=jax.random.key(0))
