"""Scaled observations and rewards: what the learner sees, when the statistics move, and who else must not touch them."""

import dataclasses
from functools import partial

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdp import STATES, TabularMDP, all_episodes, linear_policy
from program import checked, train_here
from quick import quickly_compiled

import pgx
from pgx import build
from pgx.algorithm import Algorithm
from pgx.critics import ValueNetwork
from pgx.diagnosis.seen import SeenEnv
from pgx.estimators import lambda_return
from pgx.loop import Limits
from pgx.optimiser import Optimiser
from pgx.rollout import HostRollout, rollout
from pgx.runners import PackRunner, signature
from pgx.scaling import CLIP, Scaled, Scaling
from pgx.sweep.members import program
from pgx.types import TrainState
from pgx.update import update
from pgx.updates.gradient import GradientStep

KEY = jax.random.key(0)
ADAMW = Optimiser("adamw", 0.1, weight_decay=0.5)
CRITIC = ValueNetwork(optimiser=ADAMW, passes=1, minibatch_steps=None, width=4, depth=1, activation="tanh")
LEARNER = Algorithm(
    partial(lambda_return, gamma=0.9, lam=0.8), CRITIC, GradientStep(ADAMW, 0.01), 0.9,
    whiten=False, bootstrap_truncated=True, discount_power=False, scale_observations=True, reward_scale=0.3,
)  # fmt: skip
SEEN_BEFORE = Scaling(jnp.float32(40.0), jnp.array([0.4, -0.2, 0.1]), jnp.zeros(3), jnp.array([4.0, 90.0, 20.0]))


def state_with(scaling: Scaling | None) -> TrainState:
    policy = linear_policy()
    return TrainState(
        policy=policy,
        policy_opt_state=LEARNER.update.init(policy),
        critic=LEARNER.critic.init(STATES, KEY),
        recent_returns=jnp.full(100, jnp.nan, jnp.float32),
        update=jnp.zeros((), jnp.int32),
        scaling=scaling,
    )


@quickly_compiled
def learned(state, episodes, reward_scale):
    learner = dataclasses.replace(LEARNER, reward_scale=reward_scale)
    return update(state, episodes, learner, KEY, jnp.array(True))


def batches(number: int, *, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Observations of many batches, far from 0, and which of them are steps; what is not is garbage."""
    rng = np.random.default_rng(1)
    obs = rng.normal([mean, -3 * mean, 0.0, 7.0], [1.0, 20.0, 1e-3, 0.0], (number, 30, 5, 4))
    obs += np.linspace(0, 4, number)[:, None, None, None] * [1, 0, 1e-3, 0]  # the policy moves, and so do its states
    mask = np.arange(30)[:, None] < rng.integers(1, 31, (number, 1, 5))
    return np.where(mask[..., None], obs, 1e6).astype(np.float32), mask


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_the_running_statistics_are_those_of_all_steps_at_once(mean):
    """Also where float32 has three digits left for a deviation from the mean; padding has no part in them."""
    obs, mask = batches(400, mean=mean)
    every = jax.jit(lambda obs, mask: jax.lax.scan(lambda s, x: (s.after(*x), None), Scaling.fresh(4), (obs, mask))[0])
    found = every(obs, mask)
    steps = obs[mask].astype(np.float64)
    assert float(found.count) == mask.sum()
    np.testing.assert_allclose(np.float64(found.mean) + np.float64(found.rest), steps.mean(0), rtol=1e-7, atol=2e-4)
    np.testing.assert_allclose(found.std[:3], steps.std(0)[:3], rtol=1e-3)
    assert found.std[3] == 1.0, "what never changes is not divided by rounding"


def test_a_late_batch_still_moves_a_large_mean():
    """After 10⁹ steps a batch of 1,000 moves the mean by a millionth of its distance: below float32's last place at 10⁴."""
    start = Scaling(jnp.float32(1e9), jnp.array([1e4]), jnp.zeros(1), jnp.array([1e9]))
    obs, mask = jnp.full((10, 100, 1), 1e4 + 8.0), jnp.ones((10, 100), bool)
    found = jax.jit(lambda s: jax.lax.fori_loop(0, 10_000, lambda _, s: s.after(obs, mask), s))(start)
    expected = 8 * (1 - (1e9 / (1e9 + 1e7)))
    assert float(found.mean[0] - 1e4) + float(found.rest[0]) == pytest.approx(expected, rel=1e-2)
    assert expected / 10_000 < np.spacing(np.float32(1e4)) / 2, "the sum alone would not have moved"


def test_episode_by_episode_they_are_the_same():
    """As batches by steps take them in, whose last columns are no episodes, and as lanes do that have fewer than others."""
    obs, mask = batches(1, mean=100.0)
    obs, mask = jnp.asarray(obs[0]), jnp.asarray(mask[0])
    start = Scaling(jnp.float32(20.0), jnp.full(4, 50.0), jnp.zeros(4), jnp.full(4, 3e3))
    few = jax.jit(jax.vmap(lambda count: start.after(obs, mask & (jnp.arange(5)[None] < count), count)))(jnp.array([5, 2]))
    for i, count in enumerate((5, 2)):
        whole = start.after(obs[:, :count], mask[:, :count])
        for name in ("count", "mean", "m2"):
            np.testing.assert_allclose(getattr(few, name)[i], getattr(whole, name), rtol=2e-5, err_msg=name)


def test_scaled_observations_are_standard_and_end_at_ten():
    z = SEEN_BEFORE(jnp.array([[0.4, 1e6], [-0.2 + 1.5, -1e6], [0.1, 0.1]]))
    np.testing.assert_allclose(z, [[0.0, CLIP], [1.0, -CLIP], [0.0, 0.0]], atol=1e-6)
    obs = jax.random.normal(KEY, (7, 2, 3))
    np.testing.assert_array_equal(SEEN_BEFORE(obs, axis=-1), jnp.moveaxis(SEEN_BEFORE(jnp.moveaxis(obs, -1, 0)), 0, -1))
    np.testing.assert_array_equal(Scaling.fresh(3)(obs, axis=-1), jnp.clip(obs, -CLIP, CLIP))


def test_the_learner_sees_the_batch_by_the_statistics_from_before_it():
    """An update of raw episodes is that of the episodes as the policy saw them, with nothing left to scale; only then do
    the statistics move, and what is reported is the environment's own."""
    episodes = all_episodes()
    new, row = learned(state_with(SEEN_BEFORE), episodes, 0.3)
    by_hand = dataclasses.replace(
        episodes,
        obs=SEEN_BEFORE(episodes.obs, axis=-1), last_obs=SEEN_BEFORE(episodes.last_obs, axis=-1), reward=0.3 * episodes.reward,
    )  # fmt: skip
    expected, its_row = learned(state_with(None), by_hand, 1.0)
    for x, y in zip(
        jax.tree.leaves((new.policy, new.critic)), jax.tree.leaves((expected.policy, expected.critic)), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    of_returns = ("return_mean", "return_std", "return_min", "return_max")
    for name in row.keys() - {*of_returns, "return_recent"}:
        np.testing.assert_allclose(row[name], its_row[name], rtol=1e-4, err_msg=name)
    returns = episodes.reward.sum(0)
    np.testing.assert_array_equal(new.recent_returns[-len(returns) :], returns)
    np.testing.assert_allclose(
        [row[name] for name in of_returns], [f(returns) for f in (np.mean, np.std, np.min, np.max)], rtol=1e-5
    )

    # the wrong order would have learned something else
    _, too_early = learned(state_with(new.scaling), episodes, 0.3)
    assert float(too_early["grad_norm"]) != pytest.approx(float(row["grad_norm"]), rel=0.01)


def test_nothing_but_observations_moves_the_statistics():
    """No gradient, no weight decay: they are those of `after`, and the optimisers do not know of them."""
    episodes, state = all_episodes(), state_with(SEEN_BEFORE)
    new, _ = learned(state, episodes, 0.3)
    expected = quickly_compiled(lambda obs, mask: SEEN_BEFORE.after(obs, mask))(episodes.obs, episodes.mask)
    for name in ("count", "mean", "m2"):
        np.testing.assert_allclose(getattr(new.scaling, name), getattr(expected, name), rtol=1e-6, err_msg=name)
    assert float(new.scaling.count) == 40 + float(episodes.mask.sum())
    without = state_with(None)
    assert jax.tree.structure(state.policy_opt_state) == jax.tree.structure(without.policy_opt_state)
    assert jax.tree.structure(state.critic) == jax.tree.structure(without.critic)
    # padding: none of what stands there
    garbage = dataclasses.replace(episodes, obs=jnp.where(episodes.mask[..., None], episodes.obs, 77.0))
    assert eqx.tree_equal(learned(state, garbage, 0.3)[0].scaling, new.scaling)


def test_before_the_step_the_policy_is_the_one_that_acted():
    """Of episodes as the learner sees them, the policy's most probable actions are those that its actor took, and the
    ratio of its probabilities to the actor's is 1. By the statistics after the batch, or by none, they would not be."""
    weights = jnp.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), jnp.zeros(2)
    policy = jax.tree.unflatten(jax.tree.structure(linear_policy()), weights)
    state = dataclasses.replace(state_with(SEEN_BEFORE), policy=policy)
    episodes = rollout(TabularMDP(), state.actor, KEY, 200, greedy=True)

    def of_steps(policy, obs):
        """(most probable actions, log-probabilities of those that were taken) of every step."""
        pi = policy(jnp.moveaxis(obs, -1, 0).reshape(STATES, -1))
        found = pi.mode(), pi.log_prob(episodes.action.reshape(-1))
        return [np.asarray(x)[np.asarray(episodes.mask).ravel()] for x in found]

    taken = np.asarray(episodes.action)[np.asarray(episodes.mask)]
    _, acted = of_steps(state.actor, episodes.obs)
    ratio = lambda scaling: np.exp(of_steps(policy, episodes.seen(scaling, 1.0).obs)[1] - acted)
    np.testing.assert_array_equal(of_steps(policy, episodes.seen(SEEN_BEFORE, 1.0).obs)[0], taken)
    np.testing.assert_array_equal(ratio(SEEN_BEFORE), np.ones(len(taken)))
    for wrong in (None, SEEN_BEFORE.after(episodes.obs, episodes.mask)):
        assert abs(ratio(wrong) - 1).mean() > 0.05


def test_a_factor_of_one_changes_no_bit_of_what_follows():
    """The product alone is contracted with a sum that it is part of, and the last bits are others."""
    reward, more = jax.random.normal(KEY, (2, *all_episodes().mask.shape))
    episodes = dataclasses.replace(all_episodes(), reward=reward)
    one = jnp.float32(1)
    sums = jax.jit(lambda episodes, scale, factor: episodes.seen(None, scale).reward + factor * more)
    plain = jax.jit(lambda episodes, factor: episodes.reward + factor * more)
    np.testing.assert_array_equal(sums(episodes, one, jnp.float32(0.05)), plain(episodes, jnp.float32(0.05)))
    np.testing.assert_allclose(sums(episodes, jnp.float32(0.5), one), 0.5 * reward + more, rtol=1e-5, atol=1e-6)


def test_an_environment_as_the_learner_sees_it_plays_the_same_episodes():
    """Where diagnosis goes on from a state, the policy is given what `Episodes.seen` would give it."""
    state = state_with(SEEN_BEFORE)
    plain = rollout(TabularMDP(), state.actor, KEY, 50).seen(SEEN_BEFORE, 0.3)
    found = rollout(SeenEnv(TabularMDP(), SEEN_BEFORE, 0.3), state.policy, KEY, 50)
    for name in ("action", "mask", "terminated"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))
    np.testing.assert_allclose(found.reward, plain.reward, rtol=1e-6)
    np.testing.assert_allclose(
        jnp.where(found.mask[..., None], found.obs, 0), jnp.where(plain.mask[..., None], plain.obs, 0), rtol=1e-6
    )


# In a run

TINY = (
    "+variant=baseline",
    "scale_observations=true",
    "reward_scale=0.1",
    "critic.standardise_target=true",
    "episodes_per_update=4",
    "checkpoint_every=2",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six updates."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    assert train_here(*TINY, "num_updates=6", folder=folder)["status"] == "completed"
    return folder


def test_a_resumed_run_goes_on_with_its_statistics(whole, tmp_path):
    """Lost, they would change every row after the break."""
    for updates in (3, 6):
        train_here(*TINY, f"num_updates={updates}", folder=tmp_path)
    assert (tmp_path / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    state = "checkpoints/6/state/bytes/0"
    assert (tmp_path / state).read_bytes() == (whole / state).read_bytes()


def test_whoever_plays_a_checkpoint_plays_through_its_statistics(whole):
    """Of the checkpoint, and not of nothing or of a later one; what `train` returns is the same and acts on raw numbers."""
    run = pgx.Run(whole)
    acting = run.policy()
    assert isinstance(acting, Scaled)
    assert float(acting.scaling.count) == run.summary["env_steps"] and float(acting.scaling.std[1]) < 1.0
    here = pgx.train("baseline", *TINY[1:], "num_updates=6", "tracker=none", progress=False)
    assert eqx.tree_equal(here.policy, acting)
    pd_rows = run.metrics["return_mean"].to_numpy()
    np.testing.assert_array_equal(here.table["return_mean"].to_numpy(), pd_rows)
    assert pd_rows.min() >= 8, "CartPole's returns are as they are"
    np.testing.assert_array_equal(
        pgx.evaluate(here.policy, episodes=5, greedy=True, seed=4), pgx.evaluate(whole, episodes=5, greedy=True, seed=4)
    )


@pytest.mark.parametrize("env", ["cartpole", "gymnasium_cartpole"], ids=["compiled", "host"])
def test_training_plays_through_the_statistics_of_its_state(env):
    """Where they turn the policy round, the batch is another one; they then take in the steps of that batch."""
    parts = pgx.assemble(*TINY, f"env={env}", "num_updates=6", "tracker=none")
    turned = Scaling(jnp.float32(50.0), jnp.array([0.5, -0.5, 0.3, 0.2]), jnp.zeros(4), jnp.full(4, 1e-3))
    state = dataclasses.replace(parts.state, policy=jax.tree.map(lambda x: 4 * x, parts.state.policy), scaling=turned)
    key = jax.random.fold_in(parts.keys.train, 0)
    play = HostRollout(parts.env, 4) if env != "cartpole" else partial(eqx.filter_jit(rollout), parts.env, num_episodes=4)
    returns, others = (np.sort(play(policy, key).reward.sum(0)) for policy in (state.actor, state.policy))
    assert not np.array_equal(returns, others), "the two policies play alike: this would show nothing"
    chunk = parts.runner(state, Limits(1))
    assert (chunk.rows["return_min"][0], chunk.rows["return_max"][0]) == (returns[0], returns[-1])
    assert chunk.rows["env_steps"][0] == returns.sum() == float(chunk.state.scaling.count) - 50


def lane(*overrides):
    config = checked(*TINY, *overrides, "diagnose_every=4", "episodes_per_update=3")
    env, algorithm = build.build(config)
    state, _ = build.initial_state(config, env, algorithm)
    return build.lane(config, env, algorithm, state)


def test_a_lane_of_a_pack_has_statistics_of_its_own():
    """Shared, they would tell of the companions; and `reward_scale` is a number of the lane's, of one program."""
    one, other, third = lane("seed=3"), lane("seed=4", "reward_scale=1.0"), lane("seed=5")
    assert signature(one) == signature(other)
    assert len({program(checked(*TINY, f"reward_scale={x}")) for x in (0.1, 1, 3)}) == 1
    pack = lambda *lanes: PackRunner(lanes, width=4, num_episodes=3, max_updates=6)
    alone = pack(one)([Limits(6)])[0]
    beside, its_neighbour, _ = pack(one, other, third)([Limits(6)] * 3)
    for x, y in zip(jax.tree.leaves((alone.rows, alone.state)), jax.tree.leaves((beside.rows, beside.state)), strict=True):
        np.testing.assert_array_equal(x, y)
    assert float(beside.state.scaling.count) == beside.rows["env_steps"].sum()
    assert not eqx.tree_equal(beside.state.scaling, its_neighbour.state.scaling)


class Mixed(gymnasium.Env):
    """A number, and buttons that are pressed or not."""

    observation_space = gymnasium.spaces.Dict(
        {"number": gymnasium.spaces.Box(0, 1), "inside": gymnasium.spaces.Tuple([gymnasium.spaces.MultiBinary(3)])}
    )
    action_space = gymnasium.spaces.Discrete(2)


def test_names_have_no_mean(monkeypatch):
    """What is one-hot by nature is not scaled: refused in a line, at any depth of the observation."""
    declared = gymnasium.envs.registration.EnvSpec("Mixed-v0", entry_point=Mixed, max_episode_steps=9)
    monkeypatch.setitem(gymnasium.registry, "Mixed-v0", declared)
    for id, says in {
        "FrozenLake-v1": "Discrete(16)",
        "Blackjack-v1 env.max_steps=9": "Discrete(32)",
        "Mixed-v0": "MultiBinary(3)",
    }.items():
        words = ("+variant=baseline", "env=gymnasium", *f"env.id={id}".split())
        with pytest.raises(pgx.ConfigError) as error:
            checked(*words, "scale_observations=true")
        assert str(error.value).startswith(f"scale_observations: {id.split()[0]} observes {says}: ")
        assert not checked(*words)["scale_observations"]
    assert checked("+variant=baseline", "env=gymnasium_cartpole", "scale_observations=true")["scale_observations"]


@pytest.mark.parametrize(
    ("override", "allowed"),
    [("reward_scale=0", "a number > 0"), ("reward_scale=.inf", "a number > 0"), ("scale_observations=1", "true or false")],
)
def test_a_wrong_value_is_one_line(override, allowed):
    with pytest.raises(pgx.ConfigError, match=f"is not allowed; allowed: {allowed}"):
        checked("+variant=baseline", override)
