"""The gradient that pgx computes, against the true one: exact expectations over every trajectory of a small process."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimands import (
    BONUS,
    G_LAMBDA,
    GAMMA,
    KEY,
    SEVERAL_STEPS,
    THETA,
    VALUE,
    G,
    R,
    algorithm,
    entropy_gradient,
    full_return,
    n_step_average,
    state_for,
    true_gradient,
    usual,
)
from mdp import PAIRS, TRAJECTORIES, all_episodes, choose, distribution, gradient_step_by_step, with_room
from quick import quickly_compiled

from pgx.advantages import weights
from pgx.algorithm import Algorithm
from pgx.blocks import to_blocks
from pgx.critics import LeaveOneOut, ValueNetwork
from pgx.estimators import lambda_return, reward_to_go, vanilla
from pgx.types import Episodes, Steps
from pgx.update import update

TOLERANCE = 1e-6
"""Of ‖g − exact‖ / ‖exact‖: in float32 the real thing keeps 1e-7, and the mutants miss by 3e-2 and more."""


def expected_gradient(algorithm: Algorithm, episodes: Episodes, arrange: Callable = lambda batch: batch) -> np.ndarray:
    """E of the ascended gradient: every batch of two episodes, weighted by its probability, and perhaps arranged."""
    state = state_for(algorithm)

    def of_batch(pair):
        new, _ = update(state, arrange(choose(episodes, pair)), algorithm, KEY, jnp.array(False))
        change = jax.tree.map(jnp.subtract, new.policy, state.policy)
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(change)])

    gradients = np.asarray(quickly_compiled(jax.vmap(of_batch))(jnp.asarray(PAIRS)), np.float64)
    chance = distribution(THETA)
    return np.outer(chance, chance).ravel() @ gradients


def miss(gradient: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))


class Case(NamedTuple):
    algorithm: Algorithm
    exact: Callable[[], np.ndarray]


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


TWO_OF_FIVE = partial(with_room, room=5)
"""A batch by steps: there is room for more episodes than are played."""


@pytest.mark.parametrize("name", ["vanilla", "gae, bootstrap", "leave_one_out", "baseline, several steps of V", "entropy"])
def test_room_for_more_episodes_changes_no_expectation(name, episodes):
    """The gradient is a mean over the episodes that were played, whatever stands in the other columns."""
    case = CASES[name]
    assert miss(expected_gradient(case.algorithm, episodes, TWO_OF_FIVE), case.exact()) < TOLERANCE


@pytest.mark.parametrize("name", ["vanilla", "leave_one_out"])
def test_a_mean_over_all_columns_is_rejected(name, episodes):
    case = CASES[name]
    all_five = lambda batch: dataclasses.replace(TWO_OF_FIVE(batch), count=None)
    assert miss(expected_gradient(case.algorithm, episodes, all_five), case.exact()) > 10_000 * TOLERANCE


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
        steps = to_blocks(Steps(episodes.obs, episodes.action, returns, returns, returns), episodes.mask)
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
