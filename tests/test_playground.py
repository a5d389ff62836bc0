"""MuJoCo Playground's tasks, compiled: they are Playground's own, in MuJoCo's own physics, and every command takes them."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from program import ROOT, environment, refusal

from pgx.envs import playground_source
from pgx.envs.imports import module_of, without_warp
from pgx.envs.playground import PlaygroundEnv

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


def beside_mujoco(env: PlaygroundEnv, steps: int, change=lambda model: None, substeps: int = 0) -> np.ndarray:
    """The largest difference of positions and velocities from MuJoCo's own C engine, a number a step: from the same state,
    by the same actions. `change` and `substeps` make another problem of MuJoCo's."""
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    model = mujoco.MjModel.from_xml_path(env.task.xml_path)
    model.opt.timestep = env.task.sim_dt
    change(model)
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = state.data.qpos, state.data.qvel
    data.qacc_warmstart[:] = state.data.qacc_warmstart
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, model.nu)).astype(np.float32)
    found = []
    for action in actions:
        state, *_ = step(jax.random.key(0), state, jnp.asarray(action))
        data.ctrl[:] = action
        for _ in range(env.task.n_substeps + substeps):
            mujoco.mj_step(model, data)
        ours, theirs = (np.concatenate([x.qpos, x.qvel]) for x in (state.data, data))
        found.append(np.abs(ours - theirs).max())
    return np.array(found)
