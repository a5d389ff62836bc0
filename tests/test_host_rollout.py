"""Episodes of environments on the host: each lane's own, and as many as were asked for."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdp import ACTIONS, END, NEXT, ONE_HOT, REWARD, START, STATES, STEPS, TabularMDP, counts, distribution, linear_policy
from quick import quickly_compiled
from scipy import stats
from scripted import Scripted

from pgx.envs.base import EnvSpec, HostEnv, JittedEnv
from pgx.policies import Categorical
from pgx.rollout import HostRollout, rollout
from pgx.spaces import Discrete

POLICY = linear_policy()
THETA = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(POLICY)])
MANY = 20_000


def test_host_episodes_follow_the_script():
    """Each lane stops counting at its own end, whatever it does afterwards."""
    env = Scripted()
    episodes = HostRollout(env, 5)(POLICY, jax.random.key(0))
    mask = np.arange(5)[:, None] < env.length
    np.testing.assert_array_equal(episodes.mask, mask)
    np.testing.assert_array_equal(episodes.terminated, env.terminates)
    expected = np.arange(1, 6)[:, None] + 10.0 * np.arange(5)
    np.testing.assert_array_equal(episodes.reward, np.where(mask, expected, 0))
    np.testing.assert_array_equal(episodes.last_obs[:, 0], env.length)
    np.testing.assert_array_equal(episodes.obs[..., 0][mask], np.broadcast_to(np.arange(5)[:, None], (5, 5))[mask])
    np.testing.assert_array_equal(np.asarray(episodes.action)[mask], np.array(env.taken)[mask])


def test_the_key_seeds_the_host_environment():
    """Another key, other episodes; the same key, the same ones: a resumed run depends on it."""
    env = Scripted()
    draw, seeds, actions = HostRollout(env, 5), [], []
    for seed in (0, 1, 0):
        actions.append(np.asarray(draw(POLICY, jax.random.key(seed)).action))
        seeds.append(env.seed)
    assert seeds[0] == seeds[2] != seeds[1]
    np.testing.assert_array_equal(actions[0], actions[2])
    assert (actions[0] != actions[1]).any()


def test_host_loop_ends_with_the_longest_episode():
    """No step is taken that nobody needs."""
    env = Scripted()
    env.length = np.array([1, 2, 3, 1, 2])
    episodes = HostRollout(env, 5)(POLICY, jax.random.key(0))
    assert env.t == 3 and episodes.length.tolist() == env.length.tolist()


class InTurn(HostEnv):
    """Two lanes. Episode number c, in the order in which they begin, has `length[c]` steps and shows c and the step.
    As in Gymnasium, it takes a step to begin again, and here that step has a reward."""

    length = np.array([2, 5, 1, 3, 5])
    spec, num_lanes = EnvSpec("InTurn-v0", 3, Discrete(ACTIONS), 5, None), 2

    def reset(self, seed):
        self.steps, self.episode, self.t, self.over = 0, np.arange(2), np.zeros(2, int), np.zeros(2, bool)
        return self._obs()

    def _obs(self):
        return np.stack([self.episode, self.t, np.ones(2)], 1).astype(np.float32)

    def step(self, action):
        self.steps += 1
        for lane in np.flatnonzero(self.over):
            self.episode[lane], self.t[lane] = self.episode.max() + 1, -1
        self.t += 1
        began, length = self.over, self.length[np.minimum(self.episode, len(self.length) - 1)]
        self.over = ~began & (self.t == length)
        return self._obs(), np.where(began, 99.0, 10.0 * self.episode + self.t), self.over & (length < 5), self.over


def test_lanes_play_one_episode_after_another():
    """Each is whole, in the order in which they began, with nothing of the step between them; no step is wasted."""
    env = InTurn()
    episodes = jax.tree.map(np.asarray, HostRollout(env, 5)(POLICY, jax.random.key(0)))
    t, c = np.arange(5)[:, None], np.arange(5)
    mask = t < env.length
    np.testing.assert_array_equal(episodes.mask, mask)
    np.testing.assert_array_equal(episodes.obs[..., 0][mask], np.broadcast_to(c, mask.shape)[mask])
    np.testing.assert_array_equal(episodes.obs[..., 1][mask], np.broadcast_to(t, mask.shape)[mask])
    np.testing.assert_array_equal(episodes.reward, np.where(mask, 10.0 * c + t + 1, 0))
    np.testing.assert_array_equal(episodes.last_obs[:, :2], np.stack([c, env.length], 1))
    np.testing.assert_array_equal(episodes.terminated, env.length < 5)
    assert env.steps == 11, "lane 0: 2, 1, 3 steps, lane 1: 5 and 5, and one more wherever an episode follows"


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_some_of_the_episodes_that_there_is_room_for(count):
    """Whole, in the order in which they began, and no more than are wanted: with fewer episodes than lanes, one is idle."""
    env = InTurn()
    some = jax.tree.map(np.asarray, HostRollout(env, 7)(POLICY, jax.random.key(0), count))
    length = np.array([*env.length[:count], *[0] * (7 - count)])
    assert some.mask.shape == (5, 7) and int(some.count) == count
    np.testing.assert_array_equal(some.mask, np.arange(5)[:, None] < length)
    expected = 10.0 * np.arange(7) + np.arange(5)[:, None] + 1
    np.testing.assert_array_equal(some.reward, np.where(some.mask, expected, 0))
    np.testing.assert_array_equal(some.last_obs[:, :2], np.where(np.arange(7) < count, [np.arange(7), length], 0).T)
    assert env.steps == {1: 2, 2: 5, 3: 5, 5: 11}[count]


def test_an_episode_beyond_its_limit_is_not_taken_for_the_next_one():
    """Only the environment can begin again."""
    env = InTurn()
    env.spec = env.spec._replace(max_steps=4)
    with pytest.raises(RuntimeError, match="InTurn-v0 goes on after its limit of 4 steps"):
        HostRollout(env, 5)(POLICY, jax.random.key(0))
    assert HostRollout(env, 2)(POLICY, jax.random.key(0)).length.tolist() == [2, 4], "nothing follows: cut off"


class TablesOnTheHost(HostEnv):
    """TabularMDP in NumPy, two lanes of it."""

    spec, num_lanes = TabularMDP.spec, 2

    def reset(self, seed):
        self.random, self.t = np.random.default_rng(seed), np.zeros(2, int)
        self.state = self.random.choice(STATES, 2, p=START)
        return self._obs()

    def _obs(self):
        return ONE_HOT[self.state].astype(np.float32)

    def step(self, action):
        over, before = (self.state == END) | (self.t == STEPS), self.state
        self.t = np.where(over, 0, self.t + 1)
        chances = [[*START, 0.0] if over[lane] else NEXT[before[lane], action[lane]] for lane in range(2)]
        self.state = np.array([self.random.choice(STATES + 1, p=p) for p in chances])
        reward = [0.0 if over[lane] else REWARD[before[lane], action[lane]] for lane in range(2)]
        return self._obs(), np.array(reward), self.state == END, self.t == STEPS


@pytest.mark.parametrize("room, count", [(5, None), (9, 5)], ids=["all", "five of nine"])
def test_whichever_lane_is_free_episodes_have_the_right_probabilities(room, count):
    """Chi-square of whole trajectories, five at a time in two lanes: of all that began, whenever they ended."""
    draw = HostRollout(TablesOnTheHost(), room)
    batches = [jax.device_get(draw(POLICY, jax.random.key(seed), count)) for seed in range(1000)]

    def p_value(chosen):
        along = {"obs": 1, "action": 1, "mask": 1, "last_obs": 0}
        some = {x: [np.take(getattr(batch, x), chosen(batch), axis) for batch in batches] for x, axis in along.items()}
        *found, unknown = counts(SimpleNamespace(**{x: np.concatenate(some[x], axis) for x, axis in along.items()}))
        assert unknown == 0
        return stats.chisquare(found, distribution(THETA) * sum(found)).pvalue

    assert p_value(lambda batch: np.arange(5)) > 1e-3
    assert p_value(lambda batch: batch.mask[:, :5].sum(0).argsort()[:4]) < 1e-6, "without the longest of five"


class OnTheHost(HostEnv):
    """A compiled environment behind the other door, with the transitions that `rollout` would draw."""

    def __init__(self, env: JittedEnv, key, lanes: int):
        def reset():
            return jax.vmap(env.reset)(jax.random.split(key, 2 + lanes)[2:])

        def step(t, state, action):
            keys = jax.random.split(jax.random.fold_in(jax.random.split(key, 2 + lanes)[0], t), lanes)
            return jax.vmap(env.step)(keys, state, action)

        self.spec, self.num_lanes = env.spec, lanes
        self._reset, self._step = quickly_compiled(reset), quickly_compiled(step)

    def reset(self, seed):
        self.t = 0
        self.state, obs = self._reset()
        return np.array(obs)

    def step(self, action):
        self.state, obs, reward, ended = self._step(self.t, self.state, action)
        self.t += 1
        return np.array(obs), np.array(reward), np.array(ended), np.full(self.num_lanes, self.t == self.spec.max_steps)


def test_both_doors_open_on_the_same_episodes():
    """An environment gives the same steps compiled and on the host, bit by bit. Actions depend on the observation
    alone, since the doors draw theirs in different ways; transitions are random, and so are lengths."""
    env, key, lanes = TabularMDP(), jax.random.key(3), 64
    policy = jax.tree_util.Partial(lambda obs, *_: Categorical(jnp.stack([1 - obs[2], obs[2]])))
    compiled = quickly_compiled(partial(rollout, env, policy, num_episodes=lanes, greedy=True))(key=key)
    stepped = HostRollout(OnTheHost(env, key, lanes), lanes, greedy=True)(policy, key)
    for name in ("mask", "reward", "terminated", "last_obs"):
        np.testing.assert_array_equal(getattr(stepped, name), getattr(compiled, name), err_msg=name)
    mask = np.asarray(compiled.mask)
    for name in ("obs", "action"):
        one, other = (np.asarray(getattr(episodes, name)) for episodes in (stepped, compiled))
        np.testing.assert_array_equal(one[mask], other[mask], err_msg=name)
    assert not compiled.terminated.all() and compiled.terminated.any()
