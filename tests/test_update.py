"""The gradient that pgx computes, against the true one: exact expectations over every trajectory of a small process."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rlax
from jax.flatten_util import ravel_pytree
from mdp import (
    ONE_HOT,
    PAIRS,
    TRAJECTORIES,
    TabularMDP,
    Theta,
    Trajectory,
    all_episodes,
    choose,
    discounted,
    distribution,
    finite_difference,
    gradient_of_expectation,
    gradient_step_by_step,
    linear_policy,
)
from quick import quickly_compiled

from pgx import losses
from pgx.advantages import weights
from pgx.algorithm import Algorithm
from pgx.blocks import to_blocks
from pgx.critics import LeaveOneOut, NoCritic, ValueNetwork
from pgx.estimators import lambda_return, reward_to_go, vanilla
from pgx.loop import Keys, Limits, advance, chunk
from pgx.networks import MLP
from pgx.optimiser import Optimiser
from pgx.policies import Categorical, MLPPolicy
from pgx.rollout import rollout
from pgx.types import Episodes, Steps, TrainState
from pgx.update import update
from pgx.updates.gradient import GradientStep

GAMMA, LAM, BONUS = 0.8, 0.6, 0.3
TOLERANCE = 1e-6
"""Of ‖g − exact‖ / ‖exact‖: in float32 the real thing keeps 1e-7, and the mutants miss by 3e-2 and more."""

KEY = jax.random.key(0)
ONE_STEP = Optimiser("sgd", 1.0)
"""Parameters after minus parameters before are then the gradient ascended."""
VALUE = ValueNetwork(optimiser=Optimiser("sgd", 0.5), passes=1, minibatch_steps=None, width=1, depth=0, activation="tanh")
SEVERAL_STEPS = dataclasses.replace(VALUE, passes=3, minibatch_steps=2)


def linear(out: int | str, seed: int) -> MLP:
    return MLP(3, out, width=1, depth=0, activation="tanh", key=jax.random.key(seed))


POLICY = linear_policy()
V = jax.tree.unflatten(jax.tree.structure(linear("scalar", 1)), [jnp.array([[0.6, 1.0, -0.4]]), jnp.array([0.1])])
"""About as large as the returns, or mistakes with it would be small, and closer to them than 0 is."""
THETA = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(POLICY)])


def algorithm(estimator, critic=NoCritic(), gamma: float = GAMMA, **switches) -> Algorithm:
    off = {"whiten": False, "bootstrap_truncated": False, "discount_power": False}
    step = GradientStep(ONE_STEP, switches.pop("entropy_coefficient", 0.0))
    return Algorithm(estimator, critic, step, gamma, **(off | switches))


def state_for(algorithm: Algorithm, policy: MLPPolicy = POLICY, critic: MLP = V) -> TrainState:
    learns = isinstance(algorithm.critic, ValueNetwork)
    return TrainState(
        policy=policy,
        policy_opt_state=algorithm.update.init(policy),
        critic=(critic, algorithm.critic.optimiser.init(critic)) if learns else None,
        recent_returns=jnp.full(100, jnp.nan, jnp.float32),
        update=jnp.zeros((), jnp.int32),
    )


def expected_gradient(algorithm: Algorithm, episodes: Episodes) -> np.ndarray:
    """E of the ascended gradient: every batch of two episodes, weighted by its probability."""
    state = state_for(algorithm)

    def of_batch(pair):
        new, _ = update(state, choose(episodes, pair), algorithm, KEY, jnp.array(False))
        change = jax.tree.map(jnp.subtract, new.policy, state.policy)
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(change)])

    gradients = np.asarray(quickly_compiled(jax.vmap(of_batch))(jnp.asarray(PAIRS)), np.float64)
    chance = distribution(THETA)
    return np.outer(chance, chance).ravel() @ gradients


def miss(gradient: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))


# What theory says each combination estimates, in terms of the process alone. None of it knows of pgx.


def value_of(s: int) -> float:
    weight, bias = (np.asarray(x, np.float64) for x in jax.tree.leaves(V))
    return float(weight.ravel() @ ONE_HOT[s] + bias.ravel()[0])


def bonus(tau: Trajectory, on: bool) -> float:
    """V(s_L) at a time limit."""
    return 0.0 if tau.terminated or not on else value_of(tau.states[-1])


def full_return(tau: Trajectory, gamma: float = GAMMA, bootstrap: bool = False) -> float:
    return discounted((*tau.rewards, bonus(tau, bootstrap)), gamma)


def return_from(tau: Trajectory, t: int, bootstrap: bool = False) -> float:
    return discounted((*tau.rewards[t:], bonus(tau, bootstrap)), GAMMA)


def n_step_average(tau: Trajectory, t: int, bootstrap: bool = False) -> float:
    """(1 − λ) Σ_n λ^{n−1} G_t^{(n)}, with the whole return getting the rest of the weight."""
    left = len(tau.rewards) - t
    steps = [discounted((*tau.rewards[t : t + n], value_of(tau.states[t + n])), GAMMA) for n in range(1, left)]
    last = return_from(tau, t, bootstrap)
    return sum((1 - LAM) * LAM**n * g for n, g in enumerate(steps)) + LAM ** (left - 1) * last


def true_gradient(**of_return) -> np.ndarray:
    """∇J."""
    return gradient_of_expectation(partial(full_return, **of_return), THETA)


def usual(**of_return) -> np.ndarray:
    """Σ_t ∂/∂θ_t E[G_t] = Σ_t γ^{−t} ∂J/∂θ_t: what code estimates that omits γ^t."""
    return gradient_step_by_step(partial(return_from, **of_return), THETA)


def entropy_at(theta: Theta, tau: Trajectory) -> float:
    each = [theta.probabilities(s) for s in tau.states[:-1]]
    return float(-sum((p * np.log(p)).sum() for p in each))


def entropy_gradient() -> np.ndarray:
    """∇ E[Σ_t H(π(·|s_t))] with the states' distribution held: an update never looks at where more entropy leads."""
    chance = distribution(THETA)
    return finite_difference(lambda x: float(chance @ [entropy_at(Theta.of_vector(x), t) for t in TRAJECTORIES]), THETA)


class Case(NamedTuple):
    algorithm: Algorithm
    exact: Callable[[], np.ndarray]


G, R = partial(reward_to_go, gamma=GAMMA), partial(vanilla, gamma=GAMMA)
G_LAMBDA = partial(lambda_return, gamma=GAMMA, lam=LAM)
CASES = {
    "vanilla": Case(algorithm(R), true_gradient),
    "vanilla, γ = 1": Case(algorithm(partial(vanilla, gamma=1.0), gamma=1.0), lambda: true_gradient(gamma=1.0)),
    "reward_to_go, γ = 1": Case(algorithm(partial(reward_to_go, gamma=1.0), gamma=1.0), lambda: true_gradient(gamma=1.0)),
    "reward_to_go": Case(algorithm(G), usual),
    "reward_to_go, γ^t": Case(algorithm(G, discount_power=True), true_gradient),
    # the factor belongs to G_t and not to R(τ), which has it already; the switch multiplies whatever it is given
    "vanilla, γ^t twice": Case(
        algorithm(R, discount_power=True),
        lambda: gradient_step_by_step(lambda tau, t: GAMMA**t * full_return(tau), THETA),
    ),
    "baseline": Case(algorithm(G, VALUE), usual),
    "baseline, several steps of V": Case(algorithm(G, SEVERAL_STEPS), usual),
    "gae, several steps of V": Case(algorithm(G_LAMBDA, SEVERAL_STEPS), lambda: gradient_step_by_step(n_step_average, THETA)),
    "baseline, γ^t": Case(algorithm(G, VALUE, discount_power=True), true_gradient),
    "leave_one_out": Case(algorithm(R, LeaveOneOut()), true_gradient),
    "leave_one_out of G_t": Case(algorithm(G, LeaveOneOut()), usual),
    "gae": Case(algorithm(G_LAMBDA, VALUE), lambda: gradient_step_by_step(n_step_average, THETA)),
    "gae, λ = 1": Case(algorithm(partial(lambda_return, gamma=GAMMA, lam=1.0), VALUE), usual),
    "baseline, bootstrap": Case(algorithm(G, VALUE, bootstrap_truncated=True), lambda: usual(bootstrap=True)),
    "baseline, bootstrap, γ^t": Case(
        algorithm(G, VALUE, bootstrap_truncated=True, discount_power=True), lambda: true_gradient(bootstrap=True)
    ),
    "gae, bootstrap": Case(
        algorithm(G_LAMBDA, VALUE, bootstrap_truncated=True),
        lambda: gradient_step_by_step(partial(n_step_average, bootstrap=True), THETA),
    ),
    "entropy": Case(algorithm(G, entropy_coefficient=BONUS), lambda: usual() + BONUS * entropy_gradient()),
}


@pytest.fixture(scope="module")
def episodes() -> Episodes:
    return all_episodes()


def test_the_process_tells_estimands_apart():
    """If ∇J and the usual estimand agreed here, or nothing were truncated, the tests below would test little."""
    assert len({len(tau.actions) for tau in TRAJECTORIES}) == 4
    assert {tau.terminated for tau in TRAJECTORIES} == {True, False}
    assert distribution(THETA).sum() == pytest.approx(1.0)
    step_by_step = gradient_step_by_step(lambda tau, t: full_return(tau), THETA)
    assert miss(step_by_step, true_gradient()) < 1e-8  # two ways to the same
    assert miss(usual(), true_gradient()) > 0.05
    assert miss(usual(bootstrap=True), usual()) > 0.05


@pytest.mark.parametrize("name", CASES)
def test_expected_gradient_is_what_theory_says(name, episodes):
    """Unbiased where theory says so, and exactly the documented estimand where it does not."""
    case = CASES[name]
    assert miss(expected_gradient(case.algorithm, episodes), case.exact()) < TOLERANCE


# Mutants: published mistakes. Each must fail, by far, the check that the real thing passes.


def off_by_one(algorithm, episodes, monkeypatch):
    """Ψ_t = G_{t+1}: an action gets no credit for its own reward."""
    shifted = lambda *episode: jnp.append(algorithm.estimator(*episode)[1:], 0.0)
    return dataclasses.replace(algorithm, estimator=shifted), episodes


def immediate_reward(algorithm, episodes, monkeypatch):
    """Ψ_t = r_t."""
    return dataclasses.replace(algorithm, estimator=lambda reward, *_: reward), episodes


def no_mask(algorithm, episodes, monkeypatch):
    """Padding is taken for steps."""
    return algorithm, dataclasses.replace(episodes, mask=jnp.ones_like(episodes.mask))


def trailing_step_dropped(algorithm, episodes, monkeypatch):
    """The last step of every episode is lost."""
    kept = jnp.concatenate([episodes.mask[1:], jnp.zeros_like(episodes.mask[:1])])
    return algorithm, dataclasses.replace(episodes, mask=kept)


def slice_of_an_episode(algorithm, episodes, monkeypatch):
    """Ψ is computed on the first two steps."""
    early = jnp.arange(len(episodes.mask))[:, None] < 2
    return algorithm, dataclasses.replace(episodes, mask=episodes.mask & early)


def mean_over_own_steps(algorithm, episodes, monkeypatch):
    """Each episode's sum is divided by its own length."""
    own = lambda a, mask, algorithm: weights(a, mask, algorithm) / mask.sum(0, dtype=jnp.float32)[None]
    monkeypatch.setattr("pgx.advantages.weights", own)
    return algorithm, episodes


def mean_over_all_steps(algorithm, episodes, monkeypatch):
    """The batch's sum is divided by its steps (times a constant, so that only the direction is wrong)."""

    def divided(a, mask, algorithm):
        return weights(a, mask, algorithm) * 5 / mask.sum(dtype=jnp.float32)

    monkeypatch.setattr("pgx.advantages.weights", divided)
    return algorithm, episodes


def broadcast(algorithm, episodes, monkeypatch):
    """log π as (n,1) times A as (n,): every action gets the sum of all advantages."""

    def outer(log_prob, advantage):
        return -(log_prob[:, None] * advantage[None, :]).mean(0).sum()

    monkeypatch.setattr("pgx.updates.gradient.policy_loss", outer)
    return algorithm, episodes


class AfterItsFit(ValueNetwork):
    """A critic whose baseline is V as it is after being fitted to these very episodes."""

    def baseline(self, state, episodes, returns):
        steps = to_blocks(Steps(episodes.obs, episodes.action, returns, returns), episodes.mask)
        return super().baseline(self.fit(state, steps, KEY)[0], episodes, returns)


def value_after_its_fit(algorithm, episodes, monkeypatch):
    wrong = AfterItsFit(**{field.name: getattr(algorithm.critic, field.name) for field in dataclasses.fields(ValueNetwork)})
    return dataclasses.replace(algorithm, critic=wrong), episodes


class MeanOfAll(LeaveOneOut):
    """The mean return, this episode's own included."""

    def baseline(self, state, episodes, returns):
        return jnp.where(episodes.mask, returns[0].mean(), 0.0)


def nobody_left_out(algorithm, episodes, monkeypatch):
    return dataclasses.replace(algorithm, critic=MeanOfAll()), episodes


def truncation_as_termination(algorithm, episodes, monkeypatch):
    """The return ends at the time limit although it is to go on with V."""
    return algorithm, dataclasses.replace(episodes, terminated=jnp.ones_like(episodes.terminated))


def termination_as_truncation(algorithm, episodes, monkeypatch):
    """The return goes on with V although the episode has ended."""
    return algorithm, dataclasses.replace(episodes, terminated=jnp.zeros_like(episodes.terminated))


def bootstrap_from_the_state_before(algorithm, episodes, monkeypatch):
    """V(s_{L−1}) instead of V(s_L)."""
    before = episodes.obs[episodes.length - 1, jnp.arange(len(episodes.length))]
    return algorithm, dataclasses.replace(episodes, last_obs=before)


def value_of_this_state(algorithm, episodes, monkeypatch):
    """V(s_t) where the λ-return needs V(s_{t+1})."""
    early = lambda r, v, *rest: algorithm.estimator(r, jnp.append(v[:1], v[:-1]), *rest)
    return dataclasses.replace(algorithm, estimator=early), episodes


def whitened(algorithm, episodes, monkeypatch):
    """A normalisation that nobody asked for."""
    return dataclasses.replace(algorithm, whiten=True), episodes


MUTANTS = [
    ("reward_to_go", off_by_one),
    ("reward_to_go", immediate_reward),
    ("vanilla", no_mask),
    ("baseline", no_mask),
    ("leave_one_out", no_mask),
    ("reward_to_go", trailing_step_dropped),
    ("reward_to_go", slice_of_an_episode),
    ("reward_to_go", mean_over_own_steps),
    ("reward_to_go", mean_over_all_steps),
    ("reward_to_go", broadcast),
    ("baseline", value_after_its_fit),
    ("baseline, several steps of V", value_after_its_fit),
    ("gae, several steps of V", value_after_its_fit),
    ("leave_one_out", nobody_left_out),
    ("baseline, bootstrap", truncation_as_termination),
    ("gae, bootstrap", truncation_as_termination),
    ("baseline, bootstrap", termination_as_truncation),
    ("baseline, bootstrap", bootstrap_from_the_state_before),
    ("gae", value_of_this_state),
    ("reward_to_go", whitened),
]


@pytest.mark.parametrize("name, mutant", MUTANTS, ids=[f"{mutant.__name__}, {name}" for name, mutant in MUTANTS])
def test_a_mutant_is_rejected(name, mutant, episodes, monkeypatch):
    """A check that a known mistake passes would be no check."""
    case = CASES[name]
    algorithm, wrong = mutant(case.algorithm, episodes, monkeypatch)
    assert miss(expected_gradient(algorithm, wrong), case.exact()) > 10_000 * TOLERANCE


@pytest.mark.parametrize("name", ["leave_one_out", "gae, bootstrap"])
def test_padding_is_never_looked_at(name):
    """Not even where it breaks the promise that rewards are 0 there."""
    case = CASES[name]
    assert miss(expected_gradient(case.algorithm, all_episodes(garbage=7.0)), case.exact()) < TOLERANCE


# One batch against numpy, episode by episode and step by step; on a CPU a block has 320 steps.

LENGTHS = {
    "one block": ((1, 32, 33, 64, 70), 70),
    "a few of its steps": ((3, 1, 7, 20, 2), 70),
    "several, and episodes over three": ((300, 10, 640, 1, 330), 640),
    "full blocks": ((320, 320, 160, 160, 320), 320),
}
"""And what they are padded to."""


def random_episodes(lengths: tuple[int, ...], padded_to: int) -> Episodes:
    rng = np.random.default_rng(0)
    shape = (padded_to, len(lengths))
    mask = np.arange(padded_to)[:, None] < np.array(lengths)
    return Episodes(
        obs=jnp.asarray(rng.normal(size=(*shape, 3)), jnp.float32),
        action=jnp.asarray(rng.integers(0, 2, shape), jnp.int32),
        reward=jnp.asarray(np.where(mask, rng.normal(size=shape), 0.0), jnp.float32),
        mask=jnp.asarray(mask),
        terminated=jnp.asarray(rng.random(len(lengths)) < 0.5),
        last_obs=jnp.asarray(rng.normal(size=(len(lengths), 3)), jnp.float32),
    )


class Naive(NamedTuple):
    """One episode in float64, with loops."""

    obs: np.ndarray
    action: np.ndarray
    returns: np.ndarray
    value: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def of(cls, episodes: Episodes, b: int, policy: MLP, value: MLP) -> "Naive":
        length = int(episodes.mask[:, b].sum())
        obs = np.asarray(episodes.obs[:length, b], np.float64)
        reward = np.asarray(episodes.reward[:length, b], np.float64)
        returns = np.array([discounted(tuple(reward[t:]), GAMMA) for t in range(length)])
        theta = Theta(*(np.asarray(x, np.float64) for x in jax.tree.leaves(policy)))
        weight, bias = (np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(value))
        logits = obs @ theta.weight.T + theta.bias
        exponential = np.exp(logits)
        return cls(
            obs,
            np.asarray(episodes.action[:length, b]),
            returns,
            obs @ weight + bias,
            exponential / exponential.sum(1, keepdims=True),
        )

    def gradient(self, entropy_coefficient: float) -> np.ndarray:
        """Σ_t ∇ log π · (G − V) + c Σ_t ∇H, in closed form for a linear softmax."""
        total = np.zeros(8)
        steps = zip(self.obs, self.action, self.returns, self.value, self.probabilities, strict=True)
        for obs, action, g, v, p in steps:
            of_logits = (np.eye(2)[action] - p) * (g - v)
            entropy = -(p * np.log(p)).sum()
            of_logits -= entropy_coefficient * p * (np.log(p) + entropy)
            total += np.concatenate([np.outer(of_logits, obs).ravel(), of_logits])
        return total


@pytest.mark.parametrize("lengths, padded_to", LENGTHS.values(), ids=LENGTHS)
def test_one_update_step_by_step(lengths, padded_to):
    """Every number of an update, recomputed naively; rewards and lengths differ, padding is random."""
    episodes = random_episodes(lengths, padded_to)
    algorithm_ = algorithm(G, VALUE, entropy_coefficient=BONUS)
    state = state_for(algorithm_)
    one = quickly_compiled(lambda state, diagnose: update(state, episodes, algorithm_, KEY, diagnose))
    new, row = one(state, jnp.array(True))
    old_episodes = [Naive.of(episodes, b, POLICY, V) for b in range(len(lengths))]
    gradients = np.array([one.gradient(BONUS) for one in old_episodes])
    gradient = gradients.mean(0)

    ascended = ravel_pytree(new.policy)[0] - ravel_pytree(state.policy)[0]
    np.testing.assert_allclose(ascended, gradient, rtol=1e-4, atol=2e-5)
    assert float(row["grad_norm"]) == pytest.approx(np.linalg.norm(gradient), rel=1e-4)

    returns, value = (np.concatenate([getattr(e, x) for e in old_episodes]) for x in ("returns", "value"))
    assert float(row["value_loss"]) == pytest.approx(((value - returns) ** 2).mean(), rel=1e-4)
    explained = 1 - (returns - value).var() / returns.var()
    assert float(row["explained_variance"]) == pytest.approx(explained, rel=1e-3, abs=1e-4)
    all_obs = np.concatenate([e.obs for e in old_episodes])
    slope = (2 * (value - returns)[:, None] * np.column_stack([all_obs, np.ones(len(returns))])).mean(0)
    changed = ravel_pytree(new.critic[0])[0] - ravel_pytree(V)[0]
    np.testing.assert_allclose(changed, -0.5 * slope, rtol=1e-3, atol=1e-5)

    old = np.concatenate([e.probabilities for e in old_episodes])
    after = np.concatenate([Naive.of(episodes, b, new.policy, V).probabilities for b in range(len(lengths))])
    assert float(row["entropy"]) == pytest.approx(-(old * np.log(old)).sum(1).mean(), rel=1e-4)
    assert float(row["kl"]) == pytest.approx((old * np.log(old / after)).sum(1).mean(), rel=1e-3)

    variance = sum(((g - gradient) ** 2).sum() for g in gradients) / (len(lengths) - 1)
    signal = (gradient**2).sum() - variance / len(lengths)
    assert float(row["grad_variance"]) == pytest.approx(variance, rel=1e-4)
    assert float(row["grad_snr"]) == pytest.approx(signal / variance, rel=1e-3, abs=1e-5)

    # to diagnose changes nothing else, not in the last bit
    undiagnosed, other_row = one(state, jnp.array(False))
    assert np.isnan(other_row["grad_variance"]) and np.isnan(other_row["grad_snr"])
    same = {name: x for name, x in row.items() if name not in ("grad_variance", "grad_snr")}
    for x, y in zip(jax.tree.leaves((new, same)), jax.tree.leaves((undiagnosed, {n: other_row[n] for n in same})), strict=True):
        np.testing.assert_array_equal(x, y)

    taken = np.concatenate([np.asarray(episodes.action)[:length, b] for b, length in enumerate(lengths)])
    assert float(row["action_share"]) == pytest.approx(np.bincount(taken).max() / len(taken))

    undiscounted = np.asarray(episodes.reward, np.float64).sum(0)
    assert float(row["return_mean"]) == pytest.approx(undiscounted.mean(), rel=1e-4, abs=1e-5)
    assert float(row["return_std"]) == pytest.approx(undiscounted.std(), rel=1e-4)
    assert float(row["return_max"]) == pytest.approx(undiscounted.max(), rel=1e-4)
    assert float(row["return_min"]) == pytest.approx(undiscounted.min(), rel=1e-4)
    assert int(row["env_steps"]) == sum(lengths) and float(row["length_mean"]) == pytest.approx(np.mean(lengths))


def test_what_is_not_measured_is_not_a_number():
    """An empty cell, and never a 0 that could be averaged."""
    plain = algorithm(G)
    episodes = random_episodes((2, 5), 6)
    _, row = quickly_compiled(lambda state: update(state, episodes, plain, KEY, jnp.array(False)))(state_for(plain))
    missing = {name for name, x in row.items() if np.isnan(float(x))}
    assert missing == {"value_loss", "explained_variance", "grad_variance", "grad_snr", "return_recent"}


def test_recent_returns_are_the_last_hundred():
    """They decide when a run counts as solved: newest last, oldest out, no number before there are 100."""
    plain, episodes = algorithm(G), random_episodes((2, 5, 3), 6)
    returns = np.asarray(episodes.reward.sum(0))
    state = dataclasses.replace(state_for(plain), recent_returns=jnp.arange(100, dtype=jnp.float32))
    new, row = quickly_compiled(lambda state: update(state, episodes, plain, KEY, jnp.array(False)))(state)
    np.testing.assert_array_equal(new.recent_returns, np.concatenate([np.arange(3, 100, dtype=np.float32), returns]))
    assert float(row["return_recent"]) == pytest.approx(float(new.recent_returns.mean()))
    assert int(new.update) == 1


@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("discount_power", [False, True])
def test_weights_on_the_log_probabilities(whiten, discount_power):
    """Whitening looks at valid steps only, and γ^t counts from the episode's first step."""
    mask = np.arange(6)[:, None] < np.array([2, 6, 4])
    advantage = np.random.default_rng(0).normal(3.0, 2.0, mask.shape)
    switches = algorithm(G, whiten=whiten, discount_power=discount_power)
    found = weights(jnp.asarray(advantage, jnp.float32), jnp.asarray(mask), switches)
    expected = np.zeros(mask.shape)
    valid = [advantage[t, b] for t, b in np.argwhere(mask)]
    for t, b in np.argwhere(mask):
        a = (advantage[t, b] - np.mean(valid)) / np.std(valid) if whiten else advantage[t, b]
        expected[t, b] = a * GAMMA**t if discount_power else a
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_whitening_equal_advantages_gives_no_gradient():
    """Where all steps are equally good there is nothing to learn, and nothing to divide by."""
    found = weights(jnp.full((4, 2), 3.0), jnp.ones((4, 2), bool), algorithm(G, whiten=True))
    np.testing.assert_allclose(found, 0.0, atol=1e-6)


def test_leave_one_out_is_the_mean_of_the_others():
    """Unbiased it would be with any constant of theirs; the least noise it has with their mean."""
    episodes = random_episodes((2, 5, 3), 6)
    target = np.random.default_rng(1).normal(size=(6, 3))
    found = LeaveOneOut().baseline(None, episodes, jnp.asarray(target, jnp.float32))
    for b in range(3):
        expected = np.where(episodes.mask[:, b], np.delete(target[0], b).mean(), 0)
        np.testing.assert_allclose(found[:, b], expected, rtol=1e-5)


# Losses.


@pytest.fixture
def steps():
    rng = np.random.default_rng(3)
    logits, advantage = rng.normal(size=(9, 4)), rng.normal(size=9)
    return logits, rng.integers(0, 4, 9), advantage


def loss_of_logits(logits, action, advantage):
    """As the update calls it: actions first."""
    return losses.policy_loss(Categorical(logits.T).log_prob(action), advantage)


def test_policy_loss_is_rlaxs(steps):
    """rlax takes the mean over steps, here it is the sum: the caller knows what to divide by."""
    logits, action, advantage = (jnp.asarray(x, d) for x, d in zip(steps, ("float32", "int32", "float32"), strict=True))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = jax.value_and_grad(rlax.policy_gradient_loss)(logits, action, advantage, jnp.ones(9))
    ours = jax.value_and_grad(loss_of_logits)(logits, action, advantage)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 9 * b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_losses_against_finite_differences(steps):
    """Gradients of the policy loss, the entropy and the value loss, differenced in float64 numpy."""
    logits, action, advantage = steps

    def log_softmax(x):
        x = x.reshape(logits.shape)
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    def policy_loss(x):
        return -sum(log_softmax(x)[n, action[n]] * advantage[n] for n in range(9))

    def entropy(x):
        return -(np.exp(log_softmax(x)) * log_softmax(x)).sum()

    single = jnp.asarray(logits, jnp.float32)
    ours = jax.grad(loss_of_logits)(single, jnp.asarray(action, jnp.int32), jnp.asarray(advantage, jnp.float32))
    np.testing.assert_allclose(ours.ravel(), finite_difference(policy_loss, logits.ravel()), rtol=1e-4, atol=1e-6)
    ours = jax.grad(lambda x: Categorical(x.T).entropy().sum())(single)
    np.testing.assert_allclose(ours.ravel(), finite_difference(entropy, logits.ravel()), rtol=1e-4, atol=1e-6)

    target, weight = np.linspace(-1, 2, 9), np.linspace(0, 1, 9)
    arrays = [jnp.asarray(x, jnp.float32) for x in (advantage, target, weight)]
    ours = jax.grad(losses.value_loss)(*arrays)
    theirs = finite_difference(lambda v: (weight * (v - target) ** 2).sum(), advantage)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_no_gradient_flows_through_what_is_given(steps):
    """The advantage and the target are numbers: a gradient through them would train V on the policy's loss."""
    logits, action, advantage = (jnp.asarray(x, d) for x, d in zip(steps, ("float32", "int32", "float32"), strict=True))
    assert not jax.grad(loss_of_logits, argnums=2)(logits, action, advantage).any()
    assert not jax.grad(losses.value_loss, argnums=1)(advantage, 2 * advantage, jnp.ones(9)).any()


def test_shapes_that_would_broadcast_are_refused():
    """(n,1) · (n,) is an error in tests, twice: by annotation and by jax itself."""
    with pytest.raises(Exception, match="type-check|Type-check"):
        losses.policy_loss(jnp.zeros(5), jnp.zeros((5, 1)))
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.zeros((5, 1)) * jnp.zeros(5)


def test_both_kinds_of_environment_get_the_same_update():
    """One compiled chunk (rollout and update) and the update alone, which is what a host environment gets: padding,
    which the two doors leave different things on, changes nothing."""
    env, keys = TabularMDP(), Keys.of_seed(5)
    gae = algorithm(G_LAMBDA, VALUE, bootstrap_truncated=True, entropy_coefficient=BONUS)
    adam = dataclasses.replace(gae, update=GradientStep(Optimiser("adam", 0.01), BONUS))
    state = state_for(adam)
    limits = Limits(jnp.array(1), jnp.array(1000), jnp.array(jnp.inf))
    one_chunk = partial(chunk, num_episodes=6, max_updates=1)
    whole = quickly_compiled(lambda state, limits: one_chunk(state, adam, env, keys, limits, jnp.array(1)))
    jitted, rows, _, _ = whole(state, limits)

    episodes = quickly_compiled(partial(rollout, env, POLICY, num_episodes=6))(key=jax.random.fold_in(keys.train, 0))
    padding = ~episodes.mask
    assert padding.any()
    garbage = dataclasses.replace(
        episodes,
        obs=jnp.where(padding[..., None], 9.0, episodes.obs),
        action=jnp.where(padding, 1, episodes.action),
    )
    alone = quickly_compiled(lambda state, episodes: advance(state, episodes, adam, keys.update, jnp.array(1)))
    host, row, _ = alone(state, garbage)
    for ours, theirs in zip(jax.tree.leaves(jitted), jax.tree.leaves(host), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-7)
    assert optax.tree.norm(jax.tree.map(jnp.subtract, host.policy, POLICY)) > 0.01
    for name, x in row.items():
        np.testing.assert_allclose(rows[name][0], x, rtol=1e-4, atol=1e-6, err_msg=name)
