"""brax's tasks: what there is, and what a run in one of them must do as in any other environment."""

import re
import tomllib
from functools import partial
from types import SimpleNamespace

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from bits import metrics, num_rows, saved
from program import ROOT, checked, pgx, refusal, rows, start, train_here
from quick import quickly_compiled
from test_kill import kill, wait

from experiments.speed import physics
from pgx import build
from pgx.config import check_overrides
from pgx.envs import brax_source
from pgx.envs.brax import BraxEnv, Task
from pgx.envs.imports import without_warp
from pgx.envs.stage import PICTURE
from pgx.errors import ConfigError
from pgx.loop import Limits
from pgx.play import make_compiled
from pgx.policies import MLPPolicy
from pgx.rollout import rollout
from pgx.runners import PackRunner

BRAX = ("+variant=ppo", "env=brax")
PENDULUM = (*BRAX, "env.id=inverted_pendulum", "env.backend=spring", "env.max_steps=12")
LIMIT = 12
"""Steps. An untrained policy holds the pole for so long in some episodes, and not in others."""
FAST = (*BRAX, "env.id=fast", "env.max_steps=9")
"""brax's own task for tests compiles in half the time."""
SMALL = ("policy.width=4", "critic.width=4", "episodes_per_update=4", "checkpoint_every=2", "updates_per_chunk=1")
SMALL = (*SMALL, "evaluate_every=2", "evaluate_episodes=2")
physics_too = pytest.mark.parametrize("task", [FAST, pytest.param(PENDULUM, marks=pytest.mark.slow)], ids=["fast", "physics"])


# What there is, and what is refused


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "env.id: not chosen yet; env.id=halfcheetah, for example"),
        (("env.id=halfcheeta",), "no task of brax 'halfcheeta'; allowed: .*did you mean 'halfcheetah'?"),
        (("env.id=swimmer",), r"env.id: swimmer does not work: .*jp.clip\(a_min=…\).*; allowed: ant, fast, "),
        (("env.id=ant", "env.backend=warp"), "env.backend: 'warp' is not allowed; allowed: generalized | positional | spring"),
        (("env.id=fast", "env.backend=spring"), "env.backend: fast has no physics"),
        (("env.id=ant", "env.max_steps=null"), "env.max_steps: brax declares no time limit; allowed: a whole number ≥ 1"),
        (("env.id=ant", "env.action_repeat=0"), "env.action_repeat: 0 is not allowed"),
        (("env.id=ant", "+env.options.reset_noise=1"), "nothing in ant heeds it; .*did you mean 'reset_noise_scale'?"),
        (("env.id=ant", "+env.options.use_contact_forces=true"), "nothing in ant heeds it; allowed: ctrl_cost_weight, "),
        (("env.id=ant", "+env.options.healthy_z_range=[1]"), r"\[1\] is not allowed; allowed: two numbers, \[low,high\]"),
        (("env.id=ant", "+env.options.ctrl_cost_weight=yes"), "'yes' is not allowed; allowed: a number"),
        (("env.id=reacher", "+env.options.n_frames=0"), "env.options.n_frames: 0 is not allowed; allowed: a whole number"),
        (("env.id=fast", "+env.options.asymmetric_obs=true"), "env.options.asymmetric_obs: nothing in fast heeds it"),
    ],
)
def test_what_brax_does_not_have_is_one_line(words, message):
    assert re.search(message, refusal(*BRAX, *words))
    check_overrides(words)  # what is refused is the value, and not the way in which it is given


def test_without_the_extra_the_line_says_how_to_get_it(monkeypatch):
    """The same versions as the extra has."""
    find_spec = brax_source.find_spec
    monkeypatch.setattr(brax_source, "find_spec", lambda name: None if name == "brax" else find_spec(name))
    message = refusal(*BRAX, "env.id=ant")
    assert message.startswith("env: brax is not installed; pip install ")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert re.findall("'(.*?)'", message) == extras["brax"]


def test_tasks_backends_and_settings_are_read_from_brax_itself():
    """What its source says without being imported is what it has."""
    with without_warp():
        from brax import envs

    classes = {f"{task.__module__}.{task.__name__}": id for id, task in envs._envs.items()}
    assert {name: id for id, name in brax_source.tasks().items()} == classes
    for backend in brax_source.BACKENDS:
        envs.get_environment("reacher", backend=backend)
    with pytest.raises(ValueError, match="generalized.*spring.*positional.*mjx"):
        envs.get_environment("reacher", backend="warp")
    assert set(brax_source.settings("hopper")) > {"healthy_z_range", "healthy_reward", "n_frames"}
    with pytest.raises(NotImplementedError):  # which is why it is not among them
        envs.get_environment("ant", use_contact_forces=True)


def test_what_does_not_work_does_not_work():
    """The day it does, it may be offered."""
    task = Task("swimmer", {"n_frames": 1})
    state, _ = jax.eval_shape(task.reset, jax.random.key(0))
    with pytest.raises(TypeError, match="a_min"):
        jax.eval_shape(task.step, state, jnp.zeros(2))


@pytest.mark.slow
@pytest.mark.parametrize("backend", [*brax_source.BACKENDS, None])
@pytest.mark.parametrize("id", brax_source.working())
def test_every_task_works_on_every_backend(id, backend):
    """Traced, which is where they fail if they do: a reset and a step, whose results go through a loop."""
    if id in brax_source.WITHOUT_PHYSICS and backend is not None:
        return
    env = BraxEnv(id, backend, options={} if id in brax_source.WITHOUT_PHYSICS else {"n_frames": 1})
    state, obs = jax.eval_shape(env.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct((env.spec.actions.size,), jnp.float32)
    after, *told = jax.eval_shape(env.take, jax.random.key(0), state, action)
    assert jax.tree.map(jax.typeof, after) == jax.tree.map(jax.typeof, state)
    assert [(x.shape, x.dtype) for x in (obs, *told)] == [
        ((env.spec.obs_size,), jnp.float32), ((env.spec.obs_size,), jnp.float32), ((), jnp.float32), ((), bool)
    ]  # fmt: skip


def test_options_reach_the_task():
    config = checked(
        *BRAX, "env.id=hopper", "+env.options.exclude_current_positions_from_observation=false", "+env.options.n_frames=7"
    )
    env = build.environment(config["env"])
    assert env.spec.obs_size == 12 and env.task.env._n_frames == 7
    assert build.environment(config["env"]).task is env.task


# An episode


class Falling:
    """A task that ends at its second step, and pays what was taken."""

    def step(self, state, action):
        return state + 1, jnp.ones(2) * state, action[0], state >= 1


def test_a_repeated_action_pays_until_the_episode_ends():
    env = BraxEnv("fast", action_repeat=5)
    object.__setattr__(env, "task", Falling())
    step = lambda start: env.step(jax.random.key(0), jnp.float32(start), jnp.array([0.5]))
    _, obs, reward, ended = step(0.0)
    assert (float(reward), bool(ended)) == (1.0, True)
    _, obs, reward, ended = step(-10.0)
    assert (float(reward), bool(ended)) == (2.5, False) and obs.tolist() == [-6.0, -6.0]


@pytest.fixture(scope="module")
def pendulum():
    env = build.environment(checked(*PENDULUM)["env"])
    policy = MLPPolicy(env.spec.obs_size, env.spec.actions, width=1, depth=0, activation="tanh", key=jax.random.key(0))
    play = quickly_compiled(partial(rollout, env, policy, num_episodes=16))
    return env, lambda seed: jax.tree.map(np.asarray, play(jax.random.key(seed)))


def test_every_episode_begins_afresh(pendulum):
    """brax's own wrapper goes back to the state that a lane began with, however long it trains."""
    _, play = pendulum
    first = [play(seed).obs[0] for seed in (0, 1)]
    assert len(np.unique(np.concatenate(first)[:, 0])) == 32
    assert all((np.abs(obs[:, :2]) <= 0.0101).all() for obs in first)


def test_a_limit_cuts_and_a_fall_ends(pendulum):
    """The pole has fallen where brax says that the episode is over, and nowhere else."""
    _, play = pendulum
    episodes = play(0)
    fallen = np.abs(episodes.last_obs[:, 1]) > 0.2
    np.testing.assert_array_equal(episodes.terminated, fallen)
    length = episodes.mask.sum(0)
    assert fallen.any() and (~fallen).any() and (length[~fallen] == LIMIT).all() and length.min() < LIMIT
    np.testing.assert_array_equal(episodes.reward.sum(0), length)


def test_only_the_physics_goes_from_step_to_step(pendulum):
    """None of what brax adds for its own learners (metrics, info), nor what the loop keeps anyway."""
    env, _ = pendulum
    from brax.base import State

    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    assert isinstance(state, State)


# A run


def test_a_program_traces_a_task_once(monkeypatch):
    """For training, its batches by steps in a loop of their own, and evaluation: a trace of physics takes a second."""
    counts = {"reset": 0, "step": 0}
    for name in counts:
        traced = getattr(Task, f"_{name}")

        def counting(self, *arguments, name=name, traced=traced):
            counts[name] += 1
            return traced(self, *arguments)

        monkeypatch.setattr(Task, f"_{name}", counting)
    words = ("env.id=fast", "env.max_steps=9", "episodes_per_update=null", "steps_per_update=64", "evaluate_every=2")
    monkeypatch.setattr("pgx.envs.brax._load", lambda id, arguments: Task(id, {}))
    build.assemble(checked(*BRAX, *words, "checkpoint_every=2"))
    assert counts == {"reset": 1, "step": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train_here(*FAST, *SMALL, "num_updates=30", folder=folder)
    return folder


def test_the_same_seed_gives_the_same_run_and_a_stop_on_the_way_changes_no_bit(whole, tmp_path):
    for updates in (13, 30):
        train_here(*FAST, *SMALL, f"num_updates={updates}", folder=tmp_path)
    assert metrics(tmp_path) == metrics(whole) and saved(tmp_path)[1] == saved(whole)[1]


def test_a_run_is_evaluated_and_sees_scaled_observations(whole):
    """env=brax scales them by itself: velocities of 10 beside angles of 0.1."""
    table = rows(whole)
    assert [bool(row["evaluation_return"]) for row in table] == [False, True] * 15
    parts = build.assemble(checked(*FAST, *SMALL))
    state = parts.runner(parts.state, Limits(1)).state
    assert float(state.scaling.count) == float(table[0]["env_steps"])


def test_killed_and_resumed_in_other_processes_it_ends_as_if_nothing_had_happened(whole, tmp_path):
    """And they say nothing of what their libraries say: mjx prints that warp is missing, and brax warns. The log has it."""
    command = (*FAST, *SMALL, "num_updates=30", "hydra.run.dir=r")
    process = start(*command, cwd=tmp_path)
    wait(process, lambda: num_rows(tmp_path / "r") >= 3)
    kill(process)
    assert num_rows(tmp_path / "r") < 30
    done = pgx(*command, cwd=tmp_path)
    assert done.returncode == 0 and "arp" not in done.stdout + done.stderr, done.stderr
    assert metrics(tmp_path / "r") == metrics(whole)
    assert "Failed to import warp" in (tmp_path / "r/run.log").read_text()
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()


@physics_too
def test_a_pack_plays_every_run_as_if_it_were_alone(task):
    """Whatever plays beside it."""
    lanes = []
    for more in (("seed=0",), ("seed=1", "optimiser.learning_rate=0.1")):
        config = checked(*task, *SMALL, "evaluate_every=null", *more)
        env, algorithm = build.build(config)
        lanes.append(build.lane(config, env, algorithm, build.initial_state(config, env, algorithm)[0]))
    pack = partial(PackRunner, width=2, num_episodes=4, max_updates=2)
    both, alone = pack(lanes)([Limits(2)] * 2), pack(lanes[1:])([Limits(2)])
    for name, x in both[1].rows.items():
        np.testing.assert_array_equal(x, alone[0].rows[name], err_msg=name)
    assert (both[0].rows["return_mean"] != both[1].rows["return_mean"]).all()


# Beside MuJoCo


def test_mjx_agrees_with_mujoco_where_both_integrate_alike():
    """Gymnasium's InvertedPendulum-v5 and brax's on mjx: the same bodies, 2 frames of 0.02 s a step, actions, start and
    fall. Two things differ: Gymnasium's model integrates by Runge-Kutta and brax's by Euler, and the step on which the
    pole falls pays 0 there and 1 here. With Euler on both sides they agree to rounding; with its own integrator
    Gymnasium's is off by a thousandth and more after the first step."""
    env = BraxEnv("inverted_pendulum", "mjx")
    begin = quickly_compiled(lambda q, qd: env.task.env.pipeline_init(q, qd))
    step = quickly_compiled(lambda state, u: env.take(jax.random.key(0), state, u))
    apart = {}
    for integrator in (mujoco.mjtIntegrator.mjINT_EULER, mujoco.mjtIntegrator.mjINT_RK4):
        peer = gymnasium.make("InvertedPendulum-v5").unwrapped
        assert peer.model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4 and peer.dt == 0.04
        peer.model.opt.integrator = integrator
        differences = []
        for seed in range(3):
            peer.reset(seed=seed)
            with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
                state = begin(*(np.float32(x) for x in (peer.data.qpos, peer.data.qvel)))
            rng, ended = np.random.default_rng(seed), False
            while not ended:
                u = rng.normal(size=1).astype(np.float32)
                state, obs, reward, ended = step(jax.tree.map(lambda x: x.astype(x.dtype), state), u)
                theirs, their_reward, they_ended, _, _ = peer.step(3 * np.clip(u, -1, 1))
                differences.append(np.abs(np.asarray(obs) - theirs).max())
                if integrator == mujoco.mjtIntegrator.mjINT_EULER:
                    assert they_ended == ended and reward == 1.0 and their_reward == (0 if ended else 1)
        apart[integrator] = np.array(differences)
    assert apart[mujoco.mjtIntegrator.mjINT_EULER].max() < 1e-5
    assert np.median(apart[mujoco.mjtIntegrator.mjINT_RK4]) > 1e-3


# Drawing, and how fast it is


def test_what_has_no_physics_cannot_be_drawn():
    with pytest.raises(ConfigError, match="fast cannot be drawn: it has no physics"):
        make_compiled(BraxEnv("fast"))


class Artist:
    """MuJoCo's renderer, whose pictures need OpenGL; this one's are the positions."""

    def __init__(self, model, height, width):
        assert (height, width) == PICTURE

    def update_scene(self, data, camera):
        self.data = data

    def render(self):
        return np.array([*self.data.qpos, *self.data.xpos[-1]])


def test_a_task_is_drawn_as_it_stands_and_at_its_own_speed(monkeypatch):
    monkeypatch.setattr(mujoco, "Renderer", Artist)
    env = BraxEnv("inverted_pendulum", "spring", action_repeat=2)
    draw, steps_a_second = env.renderer()
    assert steps_a_second == pytest.approx(25)
    x, angle, *pole = draw(SimpleNamespace(q=np.array([0.5, 0.1]), qd=np.zeros(2)))
    assert (x, angle) == (0.5, 0.1) and pole[0] == 0.5


def test_speed_without_the_extra_is_skipped(monkeypatch):
    monkeypatch.setattr(physics.importlib.util, "find_spec", lambda name: None)
    assert all("needs brax and mujoco" in figure.note for figure in physics.run(1, 0))


@pytest.mark.slow
def test_speed_is_a_share_of_brax_alone(monkeypatch):
    """At a tiny scale."""
    tiny = ("tracker=none", "policy.width=2", "critic.width=2", "env.max_steps=3")
    monkeypatch.setattr(physics, "TASK", "fast")
    monkeypatch.setattr(physics, "LANES", 2)
    monkeypatch.setattr(physics, "SETTINGS", (*BRAX, "env.id=fast", "episodes_per_update=2", *tiny))
    monkeypatch.setattr(physics, "ON_HOST", (*physics.ON_HOST, *tiny))
    monkeypatch.setattr(physics, "random_actions", lambda step, began: 1.0)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # as outside of tests
        ours, alone, _, _, share, *_ = physics.run(1, 0)
    assert share.values == [ours.values[0] / alone.values[0]] and share.at_least == 0.85
