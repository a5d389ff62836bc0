"""Environments: gymnax's are the ones of Gymnasium, limits cut and do not end, and both adapters keep the contract."""

import math
from dataclasses import replace
from functools import cache, partial

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import checked

from pgx.build import traced
from pgx.envs.checks import GYMNAX, check, complete, parameters
from pgx.envs.gymnasium import GymnasiumEnv, actions
from pgx.envs.gymnax import GymnaxEnv
from pgx.errors import ConfigError
from pgx.play import set_parameters
from pgx.policies import MLPPolicy
from pgx.rollout import HostRollout, rollout
from pgx.spaces import Discrete

FIELDS = {
    "CartPole-v1": ("x", "x_dot", "theta", "theta_dot"),
    "Acrobot-v1": ("joint_angle1", "joint_angle2", "velocity_1", "velocity_2"),
    "MountainCar-v0": ("position", "velocity"),
    "Pendulum-v1": ("theta", "theta_dot"),
    "MountainCarContinuous-v0": ("position", "velocity"),
}
"""What gymnax calls the numbers that Gymnasium keeps in `state`."""

STARTS = {
    "CartPole-v1": {"the pole about to fall": (0.5, 0.3, -0.19, -0.4), "the edge of the track": (2.3, 1.5, 0.05, 0.1)},
    "Acrobot-v1": {"almost up": (1.5, 0.2, 3.0, 1.0), "fast enough to be clipped": (0.3, -2.0, 12.0, -27.0)},
    "MountainCar-v0": {"almost there": (0.45, 0.03), "at the left wall": (-1.15, -0.06)},
    "Pendulum-v1": {"as fast as it may be": (2.0, 7.9)},
    "MountainCarContinuous-v0": {"almost there": (0.43, 0.03)},
}
GO_ON = {"at the left wall", "as fast as it may be"}


@cache
def compiled(id: str):
    env = GymnaxEnv(id)
    return env, jax.jit(lambda key: env.reset(key)), jax.jit(lambda key, state, action: env.step(key, state, action))


def beside_gymnasium(id: str, state, actions) -> tuple[list, list]:
    """What each saw, and whether it ended: one entry a step, until one of them ends."""
    env, _, step = compiled(id)
    peer = gymnasium.make(id).unwrapped
    peer.reset(seed=0)
    peer.state = np.array([getattr(state, name) for name in FIELDS[id]], np.float64)
    ours, theirs = [], []
    for action in actions:
        state, *seen = step(jax.random.key(0), state, jnp.asarray(action))
        ours.append([np.append(np.float64(seen[0]), np.float64(seen[1])), bool(seen[2])])
        obs, reward, terminated, _, _ = peer.step(action)
        theirs.append([np.append(obs, reward), terminated])
        if terminated or seen[2]:
            break
    return ours, theirs


def any_actions(env, rng, count: int) -> np.ndarray:
    """Of every kind; of real numbers also such as the bound cuts off."""
    if isinstance(env.spec.actions, Discrete):
        return rng.integers(0, env.spec.actions.n, count, np.int32)
    return env.spec.actions.to_env(2 * rng.normal(size=(count, env.spec.actions.size)).astype(np.float32))


def last_action(env) -> np.ndarray:
    return np.int32(env.spec.actions.n - 1) if isinstance(env.spec.actions, Discrete) else np.float32(env.spec.actions.high)


def same(ours: list, theirs: list) -> None:
    for (obs, ended), (their_obs, they_ended) in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(obs, their_obs, atol=1e-4)
        assert ended == they_ended


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("id", FIELDS)
def test_gymnax_steps_beside_gymnasium(id, seed):
    """From a fresh start, random actions: the same observation and reward at every step, the same end."""
    env, reset, _ = compiled(id)
    state, obs = reset(jax.random.key(seed))
    assert obs.shape == (env.spec.obs_size,)
    same(*beside_gymnasium(id, state, any_actions(env, np.random.default_rng(seed), 25)))


@pytest.mark.parametrize("id, start", [(id, start) for id in FIELDS for start in STARTS[id]])
def test_gymnax_ends_where_gymnasium_does(id, start):
    """Near an end, at a wall, at a speed limit: where implementations differ if they do."""
    env, reset, _ = compiled(id)
    state, _ = reset(jax.random.key(0))
    numbers = dict(zip(FIELDS[id], STARTS[id][start], strict=True))
    state = replace(state, **{name: jnp.asarray(x, jnp.float32) for name, x in numbers.items()})
    ours, theirs = beside_gymnasium(id, state, [last_action(env)] * 12)
    same(ours, theirs)
    assert ours[-1][1] == (start not in GO_ON)


def test_another_gravity_would_be_noticed():
    """The comparison can fail: half a per cent of gravity is more than the tolerance."""
    env, reset, step = compiled("CartPole-v1")
    state, _ = reset(jax.random.key(0))
    heavier = jax.jit(GymnaxEnv("CartPole-v1", params={"gravity": 9.8 * 1.005}).step)
    one, other = state, state
    for _ in range(8):
        one, obs, *_ = step(jax.random.key(0), one, jnp.array(1))
        other, other_obs, *_ = heavier(jax.random.key(0), other, jnp.array(1))
    assert np.abs(np.asarray(obs) - np.asarray(other_obs)).max() > 1e-4


@pytest.mark.parametrize(
    "option, id",
    zip(("cartpole", "acrobot", "mountain_car", "pendulum", "mountain_car_continuous"), FIELDS, strict=True),
)
def test_thresholds_and_limits_are_those_of_gymnasium(option, id):
    """ "Solved" means what it means elsewhere."""
    declared = gymnasium.spec(id)
    options = checked("+variant=vanilla", f"env={option}")["env"]
    ours = {"pendulum": -200.0}  # where Gymnasium declares none
    assert options["id"] == id and options["reward_threshold"] == ours.get(option, declared.reward_threshold)
    peer = gymnasium.make(id)
    host = GymnasiumEnv(id, 2).spec
    assert host.reward_threshold == declared.reward_threshold
    for spec in (compiled(id)[0].spec, host):
        assert spec.max_steps == declared.max_episode_steps
        assert spec.obs_size == math.prod(peer.observation_space.shape)
        assert spec.actions == actions(peer.action_space, "clip")


# Continuous actions


class Pulled(gymnasium.Env):
    """Actions are a 2 × 2 matrix in float64; they are what is observed."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,))
    action_space = gymnasium.spaces.Box(
        np.array([[-1, 0], [-np.inf, 2]], np.float64), np.array([[1, 4], [np.inf, 3]], np.float64), dtype=np.float64
    )

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(4, np.float32), {}

    def step(self, action):
        assert action.dtype == np.float64 and action.shape == (2, 2)
        return action.ravel().astype(np.float32), float(action.sum()), False, False, {}


def test_a_box_of_any_shape():
    """The policy's vector becomes the environment's matrix; each coordinate is bounded by its own ends, ±1 in u where
    both are finite; and Episodes hold what the policy drew, not what the environment was given."""
    gymnasium.register("Pulled-v0", Pulled, max_episode_steps=6)
    for bound, given in (
        ("clip", [[-1, 0], [-9, 2]]),
        ("none", [[-9, 2 + 2 * -9], [-9, 2.5 + 0.5 * -9]]),
    ):
        env = GymnasiumEnv("Pulled-v0", 2, bound=bound)
        assert env.spec.actions.size == 4 and env.spec.actions.low == (-1, 0, -math.inf, 2)
        env.reset(0)
        obs, *_ = env.step(env.spec.actions.to_env(np.full((2, 4), -9, np.float32)))
        np.testing.assert_allclose(obs, [np.ravel(given)] * 2)
    policy = MLPPolicy(4, env.spec.actions, width=1, depth=0, activation="tanh", std=3.0, key=jax.random.key(0))
    clipped = GymnasiumEnv("Pulled-v0", 2)
    episodes = HostRollout(clipped, 2)(policy, jax.random.key(0))
    u, seen = np.asarray(episodes.action), np.asarray(episodes.obs)
    assert u.shape == (6, 2, 4) and abs(u[..., 0]).max() > 1.5
    np.testing.assert_allclose(seen[1:], clipped.spec.actions.to_env(u[:-1]), atol=1e-6)


@pytest.mark.parametrize("bound", ["clip", "tanh"])
def test_mountain_car_charges_for_what_the_motor_gives(bound):
    """gymnax charges 0.1 a² for whatever it is given: an action beyond the ends must not reach it."""
    env = GymnaxEnv("MountainCarContinuous-v0", bound=bound)
    policy = MLPPolicy(2, env.spec.actions, width=1, depth=0, activation="tanh", std=30.0, key=jax.random.key(0))
    episodes = jax.jit(partial(rollout, env, policy, num_episodes=2))(key=jax.random.key(0))
    cost, u = (np.asarray(x)[:200] for x in (episodes.reward, episodes.action[..., 0]))  # before anybody is at the top
    assert cost.min() >= -0.1 - 1e-6 and abs(u).max() > 30
    expected = -0.1 * (np.clip(u, -1, 1) if bound == "clip" else np.tanh(u)) ** 2
    np.testing.assert_allclose(cost, expected, atol=1e-6)


def section(id: str, **more) -> dict:
    """The environment's part of a configuration."""
    base = {"_target_": "pgx.envs.gymnasium.GymnasiumEnv", "id": id, "num_lanes": 2, "max_steps": None, "kwargs": {}}
    return base | {"reward_threshold": None} | more


def test_what_no_policy_puts_out_is_refused_by_name():
    """tanh between infinite ends, whole numbers in a box, several choices at once."""
    gymnasium.register("Unbounded-v0", Pulled, max_episode_steps=6)
    assert check(section("Unbounded-v0")).continuous
    with pytest.raises(ConfigError, match=r"env.bound: tanh needs finite ends.*Unbounded-v0.*clip \| none"):
        check(section("Unbounded-v0", bound="tanh"))
    for name, space in (
        ("Whole-v0", gymnasium.spaces.Box(0, 9, (2,), np.int32)),
        ("Empty-v0", gymnasium.spaces.Box(-1, 1, (0,))),
        ("Several-v0", gymnasium.spaces.MultiDiscrete([2, 3])),
        ("Switches-v0", gymnasium.spaces.MultiBinary(4)),
    ):
        gymnasium.register(name, type(name, (Pulled,), {"action_space": space}), max_episode_steps=6)
        with pytest.raises(ConfigError, match=rf"env.id: {name} has the actions.*Discrete, or a Box of real numbers"):
            check(section(name))


def test_observations_that_have_no_one_size_are_refused_like_continuous_actions():
    """A Sequence passes `gymnasium.make` and fails when lanes are stacked, with a TypeError about None."""

    class Growing(gymnasium.Env):
        action_space = gymnasium.spaces.Discrete(2)
        observation_space = gymnasium.spaces.Dict({"seen": gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(3))})

    gymnasium.register("Growing-v0", Growing, max_episode_steps=4)
    with pytest.raises(ConfigError, match=r"env.id: Growing-v0 has the observations Dict.*one size"):
        check(section("Growing-v0"))


def test_what_mujoco_warns_of_is_in_the_log(monkeypatch, caplog, tmp_path):
    """By itself it says it on the terminal for every lane, and leaves a file MUJOCO_LOG.TXT in the working folder."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("DEBUG", "pgx")
    env = GymnasiumEnv("HalfCheetah-v5", 2)
    assert (env.spec.obs_size, env.spec.actions.size, env.spec.max_steps) == (17, 6, 1000)
    assert not list(tmp_path.iterdir())
    assert sum("settotalmass" in message for message in caplog.messages) <= 1


# Parameters: a value, and a start near which it matters.
PARAMETERS = {
    "CartPole-v1": {
        "gravity": 5, "masscart": 3, "masspole": 0.5, "length": 1, "total_mass": 2, "polemass_length": 0.2,
        "force_mag": 20, "tau": 0.05, "theta_threshold_radians": 0.12, "x_threshold": 0.53,
    },
    "Acrobot-v1": {
        "dt": 0.1, "link_length_1": 2, "link_mass_1": 2, "link_mass_2": 2, "link_com_pos_1": 0.3, "link_com_pos_2": 0.3,
        "link_moi": 2, "max_vel_1": 0.5, "max_vel_2": 0.5,
    },
    "MountainCar-v0": {
        "min_position": 0.4, "max_position": 0.47, "max_speed": 0.001, "goal_position": 0.46, "goal_velocity": 0.05,
        "force": 0.01, "gravity": 0.01,
    },
}  # fmt: skip
NEAR = {"CartPole-v1": (0.5, 0.3, -0.1, -0.4), "Acrobot-v1": (1.5, 0.2, 2.0, 1.0), "MountainCar-v0": (0.45, 0.03)}
NEAR_THE_WALL = {"min_position": (0.41, -0.03)}


@eqx.filter_jit
def one_step(env, key, state, action):
    return env.step(key, state, action)


def stepped(id: str, params: dict, start) -> list:
    """Eight steps with these parameters, as the program makes the environment of a checked configuration."""
    section = {
        "_target_": "pgx.envs.gymnax.GymnaxEnv",
        "id": id,
        "reward_threshold": None,
        "params": {name: float(x) for name, x in params.items()},
    }
    check(section)
    env = traced(GymnaxEnv(id, params=section["params"]))
    state, _ = env.reset(jax.random.key(0))
    state = state.replace(**{name: jnp.float32(x) for name, x in zip(FIELDS[id], start, strict=True)})
    seen = []
    for action in (0, 1, 1, 0, 1, 0, 0, 0):
        state, obs, reward, ended = one_step(env, jax.random.key(1), state, jnp.int32(action))
        seen.append([np.append(np.float64(obs), np.float64(reward)), bool(ended)])
        if ended:
            break
    return seen


@pytest.mark.parametrize("id", PARAMETERS)
def test_every_parameter_does_what_it_does_in_gymnasium(id):
    """gymnax's CartPole reads `total_mass`, a parameter of its own, where Gymnasium adds up two masses: a sweep over
    `masscart` found perfect robustness, because nothing changed. And `pgx.play` must show the same physics."""
    known = {*parameters(id)} - {"max_steps_in_episode", "torque_noise_max"}
    assert known == {*PARAMETERS[id]}
    for name, value in PARAMETERS[id].items():
        start = NEAR_THE_WALL.get(name, NEAR[id])
        ours = stepped(id, {name: value}, start)
        plain = stepped(id, {}, start)
        assert len(ours) != len(plain) or any(np.abs(x - y).max() > 1e-4 for (x, _), (y, _) in zip(ours, plain, strict=True)), (
            name
        )
        peer = gymnasium.make(id).unwrapped
        peer.reset(seed=0)
        set_parameters(peer, complete(id, {name: value}))
        peer.state = np.array(start, np.float64)
        theirs = []
        for action in (0, 1, 1, 0, 1, 0, 0, 0)[: len(ours)]:
            obs, reward, terminated, _, _ = peer.step(action)
            theirs.append([np.append(obs, reward), terminated])
        same(ours, theirs)


def test_noise_on_the_torque_and_a_shorter_limit_act():
    """The two parameters that no step shows beside Gymnasium's."""
    quiet, noisy = (stepped("Acrobot-v1", params, NEAR["Acrobot-v1"]) for params in ({}, {"torque_noise_max": 1.0}))
    assert np.abs(quiet[-1][0] - noisy[-1][0]).max() > 1e-3
    for id in GYMNAX:
        assert GymnaxEnv(id, params={"max_steps_in_episode": 5}).spec.max_steps == 5


def test_what_follows_from_a_parameter_is_in_the_configuration_too():
    """So that run.json says with what a run was made, and a run of the old physics is not gone on with."""
    config = checked("+variant=vanilla", "+env.params.masscart=50")
    assert config["env"]["params"] == {"masscart": 50.0, "total_mass": pytest.approx(50.1)}
    both = checked("+variant=vanilla", "+env.params={masspole:0.2,length:1}")["env"]["params"]
    assert both["total_mass"] == pytest.approx(1.2) and both["polemass_length"] == pytest.approx(0.2)
    # said by a person, they stay
    own = checked("+variant=vanilla", "+env.params={masspole:0.2,total_mass:2,polemass_length:0.3}")["env"]["params"]
    assert own["total_mass"] == 2 and own["polemass_length"] == pytest.approx(0.3)
    assert checked("+variant=vanilla")["env"]["params"] == {}
