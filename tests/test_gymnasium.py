"""Limits that cut and do not end, and the environments of Gymnasium on the host."""

from functools import partial
from typing import ClassVar

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleEnv, CartPoleVectorEnv
from gymnasium.vector import AutoresetMode

from pgx.envs.gymnasium import GymnasiumEnv
from pgx.envs.gymnax import GymnaxEnv
from pgx.errors import ConfigError
from pgx.play import make
from pgx.policies import MLPPolicy
from pgx.rollout import HostRollout, rollout


def policy_for(spec) -> MLPPolicy:
    return MLPPolicy(spec.obs_size, spec.actions, width=1, depth=0, activation="tanh", key=jax.random.key(0))


def test_a_limit_cuts_and_does_not_end():
    """MountainCar cannot be won in five steps, so all that ends these episodes is the limit."""
    env = GymnaxEnv("MountainCar-v0", params={"max_steps_in_episode": 5})
    assert env.spec.max_steps == 5
    draw = jax.jit(partial(rollout, env, policy_for(env.spec), num_episodes=3))
    host = GymnasiumEnv("MountainCar-v0", 3, max_steps=5)
    for episodes in (draw(key=jax.random.key(0)), HostRollout(host, 3)(policy_for(host.spec), jax.random.key(0))):
        assert episodes.length.tolist() == [5, 5, 5]
        assert not episodes.terminated.any()
        assert (np.asarray(episodes.last_obs)[:, 0] != np.asarray(episodes.obs)[4, :, 0]).all()


@pytest.mark.parametrize("limit", [5, 220])
def test_the_limit_asked_for_is_the_environments(limit):
    """Shorter and longer than the 200 steps that MountainCar declares."""
    env = GymnasiumEnv("MountainCar-v0", 2, max_steps=limit)
    env.reset(0)
    cut = [env.step(np.array([1, 1]))[3].tolist() for _ in range(limit)]
    assert cut == [[False, False]] * (limit - 1) + [[True, True]]


def test_an_end_at_the_limit_is_an_end():
    """The pole falls whatever the limit: where both coincide, the return does not go on."""
    env = GymnasiumEnv("CartPole-v1", 64, max_steps=12)
    episodes = jax.tree.map(np.asarray, HostRollout(env, 64)(policy_for(env.spec), jax.random.key(0)))
    fallen = (np.abs(episodes.last_obs[:, 2]) > 12 * 2 * np.pi / 360) | (np.abs(episodes.last_obs[:, 0]) > 2.4)
    np.testing.assert_array_equal(episodes.terminated, fallen)
    at_the_limit = episodes.mask.sum(0) == 12
    assert (at_the_limit & fallen).any() and (at_the_limit & ~fallen).any() and (~at_the_limit).any()


def test_gymnasiums_own_vector_environment_is_used():
    """It is forty times as fast as stepping copies one by one."""
    assert isinstance(GymnasiumEnv("CartPole-v1", 2)._envs.unwrapped, CartPoleVectorEnv)
    assert isinstance(GymnasiumEnv("Acrobot-v1", 2)._envs.unwrapped, gymnasium.vector.SyncVectorEnv)


@pytest.mark.parametrize("id", ["CartPole-v1", "MountainCar-v0"])
def test_a_step_leaves_what_was_seen_before_alone(id):
    """Lanes that are stepped one by one write every observation to the same place; who holds one must not see the next."""
    env = GymnasiumEnv(id, 2)
    seen = [env.reset(0)] + [env.step(np.array([0, 1]))[0] for _ in range(2)]
    assert (seen[0] != seen[1]).any() and (seen[1] != seen[2]).any()


def test_lanes_are_those_of_gymnasium():
    """But for what they say of themselves, which costs a tenth of a step and nobody asks for."""
    ours, theirs = (
        GymnasiumEnv("MountainCarContinuous-v0", 3, max_steps=7),
        gymnasium.make_vec("MountainCarContinuous-v0", 3, vectorization_mode="sync", max_episode_steps=7),
    )
    np.testing.assert_array_equal(ours.reset(5), theirs.reset(seed=5)[0])
    for action in np.linspace(-1, 1, 30, dtype=np.float32).reshape(10, 3, 1):  # past the limit, into the next episode
        for mine, their in zip(ours.step(action), theirs.step(action), strict=False):
            np.testing.assert_array_equal(mine, their)


@pytest.mark.parametrize("id", ["CartPole-v1", "Acrobot-v1"])
def test_a_seed_fixes_the_host_environment(id):
    """And lanes are not copies of one another."""
    env = GymnasiumEnv(id, 3)
    first, again, other = env.reset(7), env.reset(7), env.reset(8)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and (first[0] != first[1]).any()
    assert first.dtype == np.float32 and first.shape == (3, env.spec.obs_size)


def test_host_episodes_have_no_step_of_the_next_one():
    """Gymnasium restarts a lane by itself; CartPole gives 1 a step, and its first observation is close to 0."""
    env = GymnasiumEnv("CartPole-v1", 16, max_steps=40)
    episodes = jax.tree.map(np.asarray, HostRollout(env, 16)(policy_for(env.spec), jax.random.key(1)))
    length = episodes.mask.sum(0)
    np.testing.assert_array_equal(episodes.reward.sum(0), length)
    assert len(set(length.tolist())) > 4
    step = np.abs(np.diff(episodes.obs[..., 2], axis=0))  # a restarted pole would jump
    assert step[episodes.mask[1:]].max() < 0.1


def test_an_environment_of_gymnasium_plays_one_episode_after_another():
    """Four poles, forty falls, and nothing of the step in which a fallen one is put up again."""
    env = GymnasiumEnv("CartPole-v1", 4)
    episodes = jax.tree.map(np.asarray, HostRollout(env, 40)(policy_for(env.spec), jax.random.key(1)))
    np.testing.assert_array_equal(episodes.reward.sum(0), episodes.mask.sum(0))
    assert (np.abs(episodes.obs[0]) <= 0.05).all() and len(np.unique(episodes.obs[0, :, 2])) == 40
    fallen = (np.abs(episodes.last_obs[:, 2]) > 12 * 2 * np.pi / 360) | (np.abs(episodes.last_obs[:, 0]) > 2.4)
    assert episodes.terminated.all() and fallen.all()


class AtOnce(CartPoleVectorEnv):
    """A vector environment whose last observation is the next episode's first."""

    metadata: ClassVar = CartPoleVectorEnv.metadata | {"autoreset_mode": AutoresetMode.SAME_STEP}


def test_a_vector_environment_that_begins_again_in_another_way_is_not_used():
    """Its last observation would be another episode's."""
    gymnasium.register("AtOnce-v0", CartPoleEnv, vector_entry_point=AtOnce, max_episode_steps=9)
    assert isinstance(GymnasiumEnv("AtOnce-v0", 2)._envs.unwrapped, gymnasium.vector.SyncVectorEnv)


def test_a_vector_environment_that_does_not_take_what_the_environment_takes_is_not_used():
    """The check makes one environment, and passed: then the run failed on an unexpected keyword argument."""

    class Narrow(CartPoleVectorEnv):
        def __init__(self, num_envs):
            super().__init__(num_envs)

    gymnasium.register("NoLimit-v0", CartPoleEnv, vector_entry_point=Narrow)
    gymnasium.register("Limit-v0", CartPoleEnv, vector_entry_point=Narrow, max_episode_steps=9)
    for env in (GymnasiumEnv("NoLimit-v0", 2, max_steps=9), GymnasiumEnv("Limit-v0", 2)):
        assert isinstance(env._envs.unwrapped, gymnasium.vector.SyncVectorEnv) and env.spec.max_steps == 9


class Odd(gymnasium.Env):
    """Actions 5 and 6, observations that are no vector; the reward is the action."""

    observation_space = gymnasium.spaces.Discrete(3)
    action_space = gymnasium.spaces.Discrete(2, start=5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return 2, {}

    def step(self, action):
        return 1, float(action), False, False, {}


def test_spaces_of_another_shape():
    """Discrete observations come one-hot, and the policy's first action is the environment's first."""
    gymnasium.register("OddSpaces-v0", Odd, max_episode_steps=4)
    env = GymnasiumEnv("OddSpaces-v0", 2)
    assert env.spec.obs_size == 3 and env.spec.actions.n == 2
    np.testing.assert_array_equal(env.reset(0), [[0, 0, 1], [0, 0, 1]])
    obs, reward, _, _ = env.step(np.array([0, 1]))
    np.testing.assert_array_equal(obs, [[0, 1, 0], [0, 1, 0]])
    assert reward.tolist() == [5.0, 6.0]


def test_an_environment_without_pictures_is_refused_with_a_reason(recwarn):
    """It said "cannot be drawn: " and nothing after the colon, below a yellow warning of Gymnasium's."""

    class Unseen(Odd):
        def __init__(self, render_mode=None):
            self.render_mode = render_mode

    gymnasium.register("Unseen-v0", Unseen, max_episode_steps=4)
    with pytest.raises(ConfigError, match="env.id: Unseen-v0 cannot be drawn: NotImplementedError"):
        make({"id": "Unseen-v0"})
    assert not recwarn.list
