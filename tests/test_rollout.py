"""Episodes: whole, honest about how they ended, drawn from the policy, the same through both doors."""

from functools import partial
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdp import (  # fmt: skip
    ACTIONS,
    END,
    NEXT,
    ONE_HOT,
    REWARD,
    START,
    STATES,
    STEPS,
    TRAJECTORIES,
    TabularMDP,
    distribution,
    linear_policy,
)
from quick import quickly_compiled
from scipy import stats

from pgx.algorithm import Algorithm
from pgx.build import traced
from pgx.critics import ValueNetwork
from pgx.envs.base import EnvSpec, HostEnv, JittedEnv
from pgx.envs.gymnasium import GymnasiumEnv
from pgx.envs.gymnax import GymnaxEnv
from pgx.estimators import reward_to_go
from pgx.loop import Keys, Limits, init
from pgx.optimiser import Optimiser
from pgx.policies import Categorical, Gaussian, MLPPolicy
from pgx.rollout import HostRollout, rollout
from pgx.runners import make_runner
from pgx.spaces import Box, Discrete
from pgx.types import Episodes
from pgx.updates.gradient import GradientStep

POLICY = linear_policy()
THETA = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(POLICY)])
MANY = 20_000


class BrokenAfterTheEnd(TabularMDP):
    """The contract allows anything after termination: here it is NaN, and a second end."""

    def step(self, key, state, action):
        new, obs, reward, ended = super().step(key, state, action)
        over = state == END
        return jnp.where(over, END, new), jnp.where(over, jnp.nan, obs), jnp.where(over, jnp.nan, reward), over | ended


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    drawn = quickly_compiled(partial(rollout, BrokenAfterTheEnd(), POLICY, num_episodes=MANY))(key=jax.random.key(0))
    return jax.tree.map(np.asarray, drawn)


def test_what_was_taken_is_a_prefix_and_the_rest_is_nothing(episodes):
    """Sums over time need no mask for rewards, and lengths are sums of the mask."""
    assert episodes.mask[0].all()
    assert (episodes.mask[1:] <= episodes.mask[:-1]).all()
    assert (episodes.reward[~episodes.mask] == 0).all() and (~episodes.mask).any()
    assert all(np.isfinite(x).all() for x in (episodes.obs, episodes.reward, episodes.last_obs))


def test_episodes_follow_the_tables_to_their_end(episodes):
    """Every step is one the environment can take, the reward is that step's, and the end is an end or the limit."""
    length = episodes.mask.sum(0)
    seen = np.concatenate([episodes.obs, episodes.last_obs[None]])
    seen[length, np.arange(MANY)] = episodes.last_obs
    state = np.where(seen.any(-1), seen.argmax(-1), END)
    t, b = np.nonzero(episodes.mask)
    before, action, after = state[t, b], episodes.action[t, b], state[t + 1, b]
    assert (before != END).all()
    assert (NEXT[before, action, after] > 0).all()
    np.testing.assert_array_equal(episodes.reward[t, b], REWARD[before, action].astype(np.float32))
    np.testing.assert_array_equal(episodes.terminated, state[length, np.arange(MANY)] == END)
    assert (length[~episodes.terminated] == STEPS).all()
    assert episodes.terminated.any() and not episodes.terminated.all()
    assert (episodes.terminated & (length == STEPS)).any(), "an end at the very limit is an end"


def counts(episodes: Episodes) -> np.ndarray:
    """How often each of TRAJECTORIES occurred."""
    length = episodes.mask.sum(0)
    seen = {}
    last = np.where(episodes.last_obs.any(-1), episodes.last_obs.argmax(-1), END)
    for b in range(len(length)):
        states = (*episodes.obs[: length[b], b].argmax(-1).tolist(), int(last[b]))
        key = states, tuple(episodes.action[: length[b], b].tolist())
        seen[key] = seen.get(key, 0) + 1
    return np.array([seen.pop((tau.states, tau.actions), 0) for tau in TRAJECTORIES] + [sum(seen.values())])


def test_episodes_are_drawn_with_the_right_probabilities(episodes):
    """Chi-square of whole trajectories: start, transitions, actions and their independence, all at once."""
    *found, unknown = counts(episodes)
    assert unknown == 0
    assert stats.chisquare(found, distribution(THETA) * MANY).pvalue > 1e-3
    # the test is sharp enough: a policy that is a little different would be noticed
    assert stats.chisquare(found, distribution(THETA + 0.3 * np.eye(8)[0]) * MANY).pvalue < 1e-6


def test_actions_are_drawn_from_the_policy():
    """At each probability, uniform numbers at the edges included; a forbidden action is never taken."""
    probabilities = np.array([0.5, 0.0, 0.3, 0.2])
    with np.errstate(divide="ignore"):
        logits = jnp.asarray(np.log(probabilities), jnp.float32)
    uniform = np.random.default_rng(1).random(MANY, np.float32)
    uniform[:2] = 0.0, 1 - 2**-24  # the edges
    action = np.asarray(jax.jit(Categorical.sample)(Categorical(jnp.broadcast_to(logits[:, None], (4, MANY))), uniform))
    assert action[:2].tolist() == [0, 3]
    found = np.bincount(action, minlength=4)
    assert found[1] == 0
    assert stats.chisquare(found[[0, 2, 3]], probabilities[[0, 2, 3]] * MANY).pvalue > 1e-3
    forbidden_first = jnp.array([[-jnp.inf], [0.0]], jnp.float32)
    assert Categorical(forbidden_first).sample(jnp.zeros(1)).tolist() == [1]


def test_rounding_makes_no_action_that_does_not_exist():
    """Probabilities rounded to float32 may add up to less than the largest uniform number."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(9, 1000)), jnp.float32)
    uniform = jnp.full(1000, 1 - 2**-24, jnp.float32)
    assert (jnp.cumsum(jax.nn.softmax(logits, axis=0), axis=0)[-1] < uniform).any()
    assert int(Categorical(logits).sample(uniform).max()) == 8


def test_greedy_takes_the_most_probable_action():
    """Evaluation's other way to act looks at no random number."""
    logits = jnp.array([[0.0, 3.0], [1.0, 2.0], [0.5, 2.5]])
    assert Categorical(logits).mode().tolist() == [1, 0]
    greedy = partial(rollout, TabularMDP(), POLICY, num_episodes=50, greedy=True)
    drawn = jax.tree.map(np.asarray, quickly_compiled(greedy)(key=jax.random.key(0)))
    best = np.array([POLICY(jnp.eye(3)[s][:, None]).logits.argmax() for s in range(3)])
    np.testing.assert_array_equal(drawn.action[drawn.mask], best[drawn.obs.argmax(-1)][drawn.mask])


def test_lanes_are_independent_and_keys_decide():
    """Chi-square of two lanes' trajectories over many keys; the same key gives the same bits."""
    two = quickly_compiled(jax.vmap(partial(rollout, TabularMDP(), POLICY, num_episodes=2), in_axes=0))
    keys = jax.random.split(jax.random.key(2), 4000)
    drawn = jax.tree.map(np.asarray, two(key=keys))
    first = drawn.action[:, 0] * 4 + drawn.mask.sum(1) - 1  # first action and length, of both lanes
    table = np.zeros((8, 8))
    np.add.at(table, (first[:, 0], first[:, 1]), 1)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    again = jax.tree.map(np.asarray, two(key=keys))
    jax.tree.map(np.testing.assert_array_equal, drawn, again)
    assert stats.chi2_contingency(np.diag(table.sum(0))).pvalue < 1e-6, "lanes that repeat each other would be noticed"


def shown(key):
    """A key as two numbers."""
    return jax.random.key_data(key).astype(jnp.float32)


class ShowsKeys(JittedEnv):
    """Observations are the keys that the environment was given."""

    spec: EnvSpec = EnvSpec("ShowsKeys-v0", 2, Box((-np.inf,) * 2, (np.inf,) * 2), 4, None)

    def reset(self, key):
        return None, shown(key)

    def step(self, key, state, action):
        return None, shown(key), jnp.zeros(()), jnp.array(False)


class ActsByKey(Gaussian):
    """Actions are the key that all noise is drawn with."""

    def noise(self, key, times):
        return jnp.broadcast_to(shown(key)[None, :, None], (times, *self.mean.shape))

    def sample(self, noise):
        return noise


def test_no_random_key_serves_twice():
    """One for each reset, for each step of each lane, and for the actions: draws of one key are copies of each other."""
    B, T = 5, ShowsKeys().spec.max_steps
    policy = lambda obs, matmul=jnp.matmul: ActsByKey(obs, obs, ShowsKeys().spec.actions)
    drawn = rollout(ShowsKeys(), policy, jax.random.key(0), B)
    resets_and_steps = np.concatenate([np.reshape(drawn.obs, (-1, 2)), drawn.last_obs])
    actions = np.unique(np.reshape(drawn.action, (-1, 2)), axis=0)
    assert len(actions) == 1 and bool(drawn.mask.all())
    assert len(np.unique(np.concatenate([resets_and_steps, actions]), axis=0)) == (T + 1) * B + 1


class Scripted(HostEnv):
    """Lane b ends after `length[b]` steps as the script says; then it begins again, as Gymnasium's do."""

    length, terminates = np.array([1, 3, 5, 5, 2]), np.array([True, False, True, False, True])
    spec, num_lanes = EnvSpec("Scripted-v0", 3, Discrete(ACTIONS), 5, None), 5

    def reset(self, seed):
        self.t, self.taken, self.seed = 0, [], seed
        return self._obs()

    def _obs(self):
        return np.stack([np.full(5, self.t), np.arange(5), np.ones(5)], 1).astype(np.float32)

    def step(self, action):
        self.t += 1
        self.taken.append(action.copy())
        over = self.t % self.length == 0
        return self._obs(), self.t + 10.0 * np.arange(5), over & self.terminates, over & ~self.terminates


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


def test_whichever_lane_is_free_episodes_have_the_right_probabilities():
    """Chi-square of whole trajectories, five at a time in two lanes: of all that began, whenever they ended."""
    draw = HostRollout(TablesOnTheHost(), 5)
    batches = [jax.device_get(draw(POLICY, jax.random.key(seed))) for seed in range(1000)]

    def p_value(chosen):
        along = {"obs": 1, "action": 1, "mask": 1, "last_obs": 0}
        some = {x: [np.take(getattr(batch, x), chosen(batch), axis) for batch in batches] for x, axis in along.items()}
        *found, unknown = counts(SimpleNamespace(**{x: np.concatenate(some[x], axis) for x, axis in along.items()}))
        assert unknown == 0
        return stats.chisquare(found, distribution(THETA) * sum(found)).pvalue

    assert p_value(lambda batch: np.arange(5)) > 1e-3
    assert p_value(lambda batch: batch.mask.sum(0).argsort()[:4]) < 1e-6, "without the longest of five"


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


# Nothing compiles after the first update, whatever the episodes' lengths.


class Survival(JittedEnv):
    """Every step is the last with probability 0.05."""

    spec: EnvSpec = EnvSpec("Survival-v0", 1, Discrete(2), 100, None)

    def reset(self, key):
        return jnp.zeros(()), jnp.ones(1)

    def step(self, key, state, action):
        return state, jnp.ones(1), jnp.ones(()), jax.random.uniform(key) < 0.05


@pytest.fixture
def compilations():
    """One entry for every program that was compiled, or taken from a cache, since the test began."""
    found = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    "make_env", [Survival, partial(GymnasiumEnv, "CartPole-v1", 2, max_steps=100)], ids=["compiled", "host"]
)
def test_nothing_compiles_after_the_first_update(make_env, compilations):
    """A program that compiled for every new length of episode would be right, and useless."""
    env = make_env()
    critic = ValueNetwork(optimiser=Optimiser("adam", 0.01), passes=2, minibatch_steps=7, width=4, depth=1, activation="tanh")
    estimator = jax.tree_util.Partial(reward_to_go, gamma=0.9)
    switches = {"whiten": False, "bootstrap_truncated": True, "discount_power": False}
    algorithm = traced(Algorithm(estimator, critic, GradientStep(Optimiser("adam", 0.01), 0.01), 0.9, **switches))
    make_policy = partial(MLPPolicy, width=4, depth=1, activation="tanh")
    state = jax.jit(partial(init, make_policy=make_policy, spec=env.spec))(algorithm, key=jax.random.key(0))
    runner = make_runner(state, algorithm, env, Keys.of_seed(1), num_episodes=2, diagnose_every=3, max_updates=2)
    state = runner(state, Limits(2)).state
    warm = len(compilations)
    assert warm > 0
    lengths = []
    for _ in range(40):
        chunk = runner(state, Limits(2))
        state = chunk.state
        lengths.extend(chunk.rows["length_mean"].tolist())
        assert len(compilations) == warm
    assert len(set(lengths)) > 5 and max(lengths) > 32 > min(lengths), "lengths must vary, across blocks too"
    # the counter works: arrays cut to the longest episode, as one might write it, would each compile anew
    for length in lengths[:3]:
        jnp.zeros(int(2 * length)).sum()
    assert len(compilations) > warm


@pytest.mark.parametrize("env", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_the_loop_is_one_kernel(env):
    """A loop that went from kernel to kernel would be right, and take three times as long. A product in the policy or
    a scatter in the environment is enough for that."""
    policy = MLPPolicy(
        GymnaxEnv(env).spec.obs_size, Discrete(ACTIONS), width=32, depth=2, activation="tanh", key=jax.random.key(0)
    )

    def loops(policy):
        program = eqx.filter_jit(rollout).lower(GymnaxEnv(env), policy, jax.random.key(0), 10).compile().compiled
        main = program.as_text().partition("\nENTRY")[2]
        return main.count(" while("), main.count('xla_cpu_small_call="true"')

    whole, in_one = loops(policy)
    assert not whole and in_one
    assert loops(lambda obs, *_: policy(obs))[0] == 1
