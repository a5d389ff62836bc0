"""Episodes: whole, honest about how they ended, drawn from the policy, the same through both doors."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdp import END, NEXT, REWARD, STEPS, TabularMDP, counts, distribution, linear_policy
from quick import quickly_compiled
from scipy import stats

from pgx.algorithm import Algorithm
from pgx.batch import BySteps
from pgx.build import traced
from pgx.critics import ValueNetwork
from pgx.envs.base import EnvSpec, JittedEnv
from pgx.envs.gymnasium import GymnasiumEnv
from pgx.envs.gymnax import GymnaxEnv
from pgx.estimators import reward_to_go
from pgx.loop import Keys, Limits, init
from pgx.optimiser import Optimiser
from pgx.policies import Categorical, Gaussian, MLPPolicy
from pgx.rollout import rollout
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


@pytest.mark.parametrize("B, count, draws", [(5, None, 1), (40, 35, 3)], ids=["together", "in groups"])
def test_no_random_key_serves_twice(B, count, draws):
    """One for each reset, for each step of each lane, and for the actions: draws of one key are copies of each other."""
    T = ShowsKeys().spec.max_steps
    policy = lambda obs, matmul=jnp.matmul: ActsByKey(obs, obs, ShowsKeys().spec.actions)
    drawn = rollout(ShowsKeys(), policy, jax.random.key(0), B, count=count and jnp.array(count))
    played = slice(count or B)
    resets_and_steps = np.concatenate([np.reshape(drawn.obs[:, played], (-1, 2)), drawn.last_obs[played]])
    actions = np.unique(np.reshape(drawn.action[:, played], (-1, 2)), axis=0)
    assert len(actions) == draws and bool(drawn.mask[:, played].all())
    assert len(np.unique(np.concatenate([resets_and_steps, actions]), axis=0)) == (T + 1) * (count or B) + draws


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


@pytest.mark.parametrize("batch", [None, BySteps(80, least=1, most=20)], ids=["by episodes", "by steps"])
@pytest.mark.parametrize(
    "make_env", [Survival, partial(GymnasiumEnv, "CartPole-v1", 2, max_steps=100)], ids=["compiled", "host"]
)
def test_nothing_compiles_after_the_first_update(make_env, batch, compilations):
    """A program that compiled for every new length of episode, or number of them, would be right, and useless."""
    env = make_env()
    critic = ValueNetwork(optimiser=Optimiser("adam", 0.01), passes=2, minibatch_steps=7, width=4, depth=1, activation="tanh")
    estimator = jax.tree_util.Partial(reward_to_go, gamma=0.9)
    switches = {"whiten": False, "bootstrap_truncated": True, "discount_power": False}
    algorithm = traced(Algorithm(estimator, critic, GradientStep(Optimiser("adam", 0.01), 0.01), 0.9, **switches, batch=batch))
    make_policy = partial(MLPPolicy, width=4, depth=1, activation="tanh")
    size = {"num_episodes": 2 if batch is None else batch.most}
    state = jax.jit(partial(init, make_policy=make_policy, spec=env.spec))(algorithm, key=jax.random.key(0))
    runner = make_runner(state, algorithm, env, Keys.of_seed(1), **size, diagnose_every=3, max_updates=2)
    state = runner(state, Limits(2)).state
    warm = len(compilations)
    assert warm > 0
    lengths, episodes = [], []
    for _ in range(40):
        chunk = runner(state, Limits(2))
        state = chunk.state
        lengths.extend(chunk.rows["length_mean"].tolist())
        episodes.extend(chunk.rows["episodes"].tolist())
        assert len(compilations) == warm
    assert len(set(lengths)) > 5 and max(lengths) > 32 > min(lengths), "lengths must vary, across blocks too"
    assert len(set(episodes)) == 1 if batch is None else max(episodes) > 3 > min(episodes)
    # the counter works: arrays cut to the longest episode, as one might write it, would each compile anew
    for length in lengths[:3]:
        jnp.zeros(int(2 * length)).sum()
    assert len(compilations) > warm


@pytest.mark.parametrize("id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0", "Pendulum-v1", "MountainCarContinuous-v0"])
def test_the_loop_is_one_kernel(id):
    """A loop that went from kernel to kernel would be right, and take three times as long. A product in the policy or
    a scatter in the environment is enough for that."""
    env = GymnaxEnv(id)
    policy = MLPPolicy(env.spec.obs_size, env.spec.actions, width=32, depth=2, activation="tanh", key=jax.random.key(0))

    def loops(policy):
        program = eqx.filter_jit(rollout).lower(env, policy, jax.random.key(0), 10).compile().compiled
        main = program.as_text().partition("\nENTRY")[2]
        return main.count(" while("), main.count('xla_cpu_small_call="true"')

    whole, in_one = loops(policy)
    assert not whole and in_one
    assert loops(lambda obs, *_: policy(obs))[0] == 1
