"""Groups of episodes from one start: what each estimator and each aggregation has as its expected gradient.

Every group of three trajectories from one state is enumerated, with its probability. What theory says knows nothing of
pgx: the weight that an episode gets is its expectation over the other two, and the gradient that of an expectation.
"""

import dataclasses
import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_epochs import OFF
from estimands import (
    BONUS,
    GAMMA,
    KEY,
    ONE_STEP,
    THETA,
    G,
    R,
    algorithm,
    entropy_gradient,
    full_return,
    state_for,
    true_gradient,
    usual,
)
from jax.flatten_util import ravel_pytree
from mdp import (
    START,
    STEPS,
    TRAJECTORIES,
    TabularMDP,
    all_episodes,
    choose,
    distribution,
    finite_difference,
    gradient_of_expectation,
    with_room,
)
from program import checked
from quick import quickly_compiled
from test_quality import exact_gradients

from pgx import build
from pgx.advantages import weigh
from pgx.algorithm import Algorithm
from pgx.critics import Critic, GroupMean, GroupStandardised, LeaveOneOut, MaxRL, NoCritic
from pgx.types import Episodes
from pgx.update import update
from pgx.updates.ppo import PPO

SIZE = 3
EPS = 0.05
TOLERANCE = 1e-6
CHANCE = distribution(THETA)
LENGTH = np.array([len(tau.actions) for tau in TRAJECTORIES])
RETURN = np.array([full_return(tau) for tau in TRAJECTORIES])
FROM = np.array([tau.states[0] for tau in TRAJECTORIES])
FAILURE = -0.2
"""Some groups are of less on average, most are not, and none is so close that float32 could not tell."""
SCORE = exact_gradients(lambda tau, t: 1.0)
"""Σ_t ∇ log π(a_t|s_t) of every trajectory."""


@cache
def groups(size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """(every group, as indices into TRAJECTORIES; its probability)."""
    of_start = [np.flatnonzero(FROM == s) for s in np.flatnonzero(START)]
    index = np.array([group for some in of_start for group in itertools.product(some, repeat=size)])
    return index, START[FROM[index[:, 0]]] * (CHANCE[index] / START[FROM[index]]).prod(1)


def independent() -> tuple[np.ndarray, np.ndarray]:
    """(every three trajectories, wherever they begin; their probability)."""
    index = np.array([*itertools.product(range(len(TRAJECTORIES)), repeat=SIZE)])
    return index, CHANCE[index].prod(1)


# What theory says


def held(weight: Callable[[np.ndarray, np.ndarray], np.ndarray], size: int = SIZE) -> np.ndarray:
    """∇ E[w(τ)], w the expected weight of an episode given the others' distribution, held; `weight` is of (returns, lengths)
    of groups, and the same for all steps of an episode."""
    index, chance = groups(size)
    weights = weight(RETURN[index], LENGTH[index])[:, 0]
    of_each = dict(zip(TRAJECTORIES, np.bincount(index[:, 0], weights * chance, len(TRAJECTORIES)) / CHANCE, strict=True))
    return gradient_of_expectation(of_each.__getitem__, THETA)


def mean(x):
    return x.mean(1, keepdims=True)


def differ(r):
    """By more than float64's rounding: two trajectories have one return."""
    return np.ptp(r, 1, keepdims=True) > 1e-9


def over(x, divisor):
    """0 where the divisor is no more than that."""
    return np.divide(x, divisor, where=divisor > 0, out=np.zeros_like(x))


def standardised(r, n):
    return over(r - mean(r), np.where(differ(r), r.std(1, ddof=1, keepdims=True) + EPS, 0))


def maxrl(r, n):
    return over(r - mean(r), mean(r) - FAILURE)


def of_all_steps(r, n):
    """Whitened over the steps of these episodes."""
    from_mean = r - mean(n * r) / mean(n)
    return over(from_mean, np.where(differ(r), np.sqrt(mean(n * from_mean**2) / mean(n)), 0))


class Case(NamedTuple):
    algorithm: Algorithm
    exact: Callable[[], np.ndarray]


def case(critic: Critic, exact: Callable[[], np.ndarray], aggregation: str = "sum", estimator=R, **switches) -> Case:
    chosen = algorithm(estimator, critic, aggregation=aggregation, **switches)
    return Case(dataclasses.replace(chosen, group_size=SIZE), exact)


GRPO, MAXRL = GroupStandardised(EPS), MaxRL(FAILURE)
CASES = {
    "leave one out": case(LeaveOneOut(), true_gradient),
    "leave one out, of G_t": case(LeaveOneOut(), usual, estimator=G),
    "group mean": case(GroupMean(), lambda: (SIZE - 1) / SIZE * true_gradient()),
    "group standardised": case(GRPO, lambda: held(standardised)),
    "maxrl": case(MAXRL, lambda: held(maxrl)),
    "own mean": case(NoCritic(), lambda: held(lambda r, n: r / n), "own_mean"),
    "own mean, leave one out": case(LeaveOneOut(), lambda: held(lambda r, n: (r - mean(r)) * 1.5 / n), "own_mean"),
    "batch mean": case(NoCritic(), lambda: held(lambda r, n: r / mean(n)), "batch_mean"),
    "batch mean, group mean": case(GroupMean(), lambda: held(lambda r, n: (r - mean(r)) / mean(n)), "batch_mean"),
    "grpo": case(GRPO, lambda: held(lambda r, n: standardised(r, n) / n), "own_mean"),
    "grpo, entropy": case(
        GRPO,
        lambda: held(lambda r, n: standardised(r, n) / n) + BONUS * entropy_gradient(),
        "own_mean",
        entropy_coefficient=BONUS,
    ),
    "whitened": case(NoCritic(), lambda: held(of_all_steps), whiten=True),
    "whitened, batch mean": case(
        NoCritic(), lambda: held(lambda r, n: of_all_steps(r, n) / mean(n)), "batch_mean", whiten=True
    ),
}


def expected_gradient(chosen: Algorithm, batches=None, arrange: Callable = lambda batch: batch) -> np.ndarray:
    """E of the ascended gradient over these batches of one group."""
    index, chance = groups() if batches is None else batches
    state, every = state_for(chosen), all_episodes(garbage=7.0)

    def of_batch(group):
        episodes = arrange(dataclasses.replace(choose(every, group), group_size=SIZE))
        new, _ = update(state, episodes, chosen, KEY, jnp.array(False))
        change = jax.tree.map(jnp.subtract, new.policy, state.policy)
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(change)])

    gradients = quickly_compiled(jax.vmap(of_batch))(jnp.asarray(index))
    return chance @ np.asarray(gradients, np.float64)


def miss(gradient: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(gradient - exact) / np.linalg.norm(exact))


def test_the_process_tells_the_methods_apart():
    """If any two had the same expectation here, up to their length, the tests below would test little."""
    assert groups()[1].sum() == pytest.approx(1.0) and len(np.unique(LENGTH)) > 2
    assert miss(held(lambda r, n: r), true_gradient()) < 1e-8
    directions = [x.exact() for name, x in CASES.items() if name not in ("leave one out", "leave one out, of G_t")]
    directions = [x / np.linalg.norm(x) for x in directions]
    assert min(np.linalg.norm(x - y) for x, y in itertools.combinations(directions, 2)) > 1e-3


@pytest.mark.parametrize("name", CASES)
def test_expected_gradient_of_groups_is_what_theory_says(name):
    """Unbiased where theory says so, (G − 1)/G of it for Dr. GRPO, and exactly the predicted bias of the others."""
    chosen, exact = CASES[name]
    assert miss(expected_gradient(chosen), exact()) < TOLERANCE


def test_maxrl_of_successes_and_failures_ascends_the_series_of_a_logarithm():
    """log p = −Σ_k (1 − p)^k / k, up to k = G − 1, of the chance p of success from each start."""
    success = np.array([tau.terminated for tau in TRAJECTORIES])
    reward = lambda episodes: jnp.zeros_like(episodes.reward).at[0].set(episodes.terminated.astype(jnp.float32))
    as_success = lambda episodes: dataclasses.replace(episodes, reward=reward(episodes))
    chosen = dataclasses.replace(MAXRL, failure=0.0)

    def series(theta):
        of_start = [(START[s], distribution(theta)[(FROM == s) & ~success].sum() / START[s]) for s in np.flatnonzero(START)]
        return -sum(share * sum(failed**k / k for k in range(1, SIZE)) for share, failed in of_start)

    found = expected_gradient(case(chosen, true_gradient).algorithm, arrange=as_success)
    assert miss(found, finite_difference(series, THETA)) < TOLERANCE
    assert miss(found, finite_difference(lambda x: distribution(x) @ success, THETA)) > 0.1


# Mutants


def sd_of_n(chosen, monkeypatch):
    """σ of the G episodes as if their mean were known."""

    class Wrong(GroupStandardised):
        def divisor(self, episodes, returns):
            return (super().divisor(episodes, returns) - self.eps) * np.sqrt(1 - 1 / SIZE) + self.eps

    return dataclasses.replace(chosen, critic=Wrong(EPS)), None


def mean_over_padding(chosen, monkeypatch):
    """Of all T steps, taken or not."""
    monkeypatch.setattr("pgx.advantages.aggregated", lambda weight, mask, _: weight / STEPS)
    return chosen, None


def the_other_mean(chosen, monkeypatch):
    other = {"own_mean": "batch_mean", "batch_mean": "own_mean"}[chosen.aggregation]
    return dataclasses.replace(chosen, aggregation=other), None


def starts_that_differ(chosen, monkeypatch):
    """Each episode of a group begins where it will."""
    return chosen, independent()


def noise_that_is_shared(chosen, monkeypatch):
    """All episodes of a group are one."""
    return chosen, (np.repeat(np.arange(len(TRAJECTORIES))[:, None], SIZE, 1), CHANCE)


def nobody_left_out(chosen, monkeypatch):
    return dataclasses.replace(chosen, critic=GroupMean()), None


def oneself_left_out(chosen, monkeypatch):
    return dataclasses.replace(chosen, critic=LeaveOneOut()), None


def descends_where_all_fail(chosen, monkeypatch):
    """(R − μ)/(μ − r) with a negative divisor."""

    class Wrong(MaxRL):
        def divisor(self, episodes, returns):
            return jnp.repeat(returns[0].reshape(-1, SIZE).mean(1) - self.failure, SIZE)

    return dataclasses.replace(chosen, critic=Wrong(FAILURE)), None


MUTANTS = [
    ("group standardised", sd_of_n),
    ("grpo", mean_over_padding),
    ("batch mean", mean_over_padding),
    ("own mean", the_other_mean),
    ("batch mean, group mean", the_other_mean),
    ("group standardised", starts_that_differ),
    ("maxrl", starts_that_differ),
    ("leave one out", noise_that_is_shared),
    ("leave one out", nobody_left_out),
    ("group mean", oneself_left_out),
    ("maxrl", descends_where_all_fail),
]


@pytest.mark.parametrize("name, mutant", MUTANTS, ids=[f"{mutant.__name__}, {name}" for name, mutant in MUTANTS])
def test_a_mutant_of_a_group_is_rejected(name, mutant, monkeypatch):
    chosen, exact = CASES[name]
    wrong, batches = mutant(chosen, monkeypatch)
    assert miss(expected_gradient(wrong, batches), exact()) > 1000 * TOLERANCE


# A batch of several groups, by loops

MANY = 4
LENGTHS = (5, 2, 7, 7, 3, 3, 1, 6, 4, 4, 4, 4)
"""Of three groups of four; in the last one all returns are equal."""


def played() -> Episodes:
    """Random steps; on padding, and in columns without an episode, stands what nobody may look at."""
    rng = np.random.default_rng(0)
    mask = np.arange(8)[:, None] < np.array(LENGTHS)
    reward = np.where(mask, rng.normal(2.0, 1.0, mask.shape), 0.0)
    reward[:4, 8:] = 0.7
    return Episodes(
        obs=jnp.asarray(np.where(mask[..., None], rng.normal(size=(*mask.shape, 3)), 9.0), jnp.float32),
        action=jnp.asarray(np.where(mask, rng.integers(0, 2, mask.shape), 1), jnp.int32),
        reward=jnp.asarray(reward, jnp.float32),
        mask=jnp.asarray(mask),
        terminated=jnp.ones(mask.shape[1], bool),
        last_obs=jnp.zeros((mask.shape[1], 3)),
        group_size=MANY,
    )


def by_loops(episodes: Episodes, critic: str, aggregation: str) -> np.ndarray:
    """The weight of every step."""
    reward, B = np.asarray(episodes.reward, np.float64), len(LENGTHS)
    returns = [sum(GAMMA**t * reward[t, b] for t in range(LENGTHS[b])) for b in range(B)]
    found = np.zeros(reward.shape)
    for b in range(B):
        group = [returns[i] for i in range(B) if i // MANY == b // MANY]
        mu = sum(group) / MANY
        sigma = (sum((x - mu) ** 2 for x in group) / (MANY - 1)) ** 0.5
        others = (sum(group) - returns[b]) / (MANY - 1)
        advantage = {
            "leave one out": returns[b] - others,
            "group mean": returns[b] - mu,
            "group standardised": (returns[b] - mu) / (sigma + EPS),
            "maxrl": (returns[b] - mu) / (mu - FAILURE),
        }[critic]
        steps = {"sum": 1, "own_mean": LENGTHS[b], "batch_mean": sum(LENGTHS) / B}[aggregation]
        for t in range(LENGTHS[b]):
            found[t, b] = advantage / steps if b < 8 else 0.0
    return found


AGGREGATIONS = ("sum", "own_mean", "batch_mean")
CRITICS = {"leave one out": LeaveOneOut(), "group mean": GroupMean(), "group standardised": GRPO, "maxrl": MAXRL}


def test_weights_of_several_groups_are_what_loops_make_of_them():
    """By every critic and aggregation, with room for more groups or not; a group of equal returns has weights of exactly 0,
    and groups that are not looked at, of another size or put together otherwise give other weights."""
    episodes = played()
    wide = dataclasses.replace(with_room(episodes, 20), group_size=MANY)
    apart = {
        "no groups": dataclasses.replace(episodes, group_size=12),
        "another size": dataclasses.replace(episodes, group_size=6),
        "every third": choose_in_groups(episodes, np.arange(12).reshape(4, 3).T.ravel()),
    }
    kinds = [(name, aggregation) for name in CRITICS for aggregation in AGGREGATIONS]
    chosen = {kind: case(CRITICS[kind[0]], true_gradient, kind[1]).algorithm for kind in kinds}
    weights = jax.jit(lambda episodes: {kind: weigh(None, episodes, x).weight for kind, x in chosen.items()})
    found, with_more = jax.device_get((weights(episodes), weights(wide)))
    for kind in kinds:
        expected = by_loops(episodes, *kind)
        np.testing.assert_allclose(found[kind], expected, rtol=2e-5, atol=1e-6, err_msg=str(kind))
        np.testing.assert_allclose(with_more[kind][:, :12], expected, rtol=2e-5, atol=1e-6, err_msg=str(kind))
        assert not found[kind][:, 8:].any()
    for what, wrong in apart.items():
        weight = weigh(None, wrong, chosen["group mean", "sum"]).weight
        assert np.abs(weight - by_loops(episodes, "group mean", "sum")).max() > 0.01, what


def choose_in_groups(episodes: Episodes, index: np.ndarray) -> Episodes:
    return dataclasses.replace(choose(episodes, jnp.asarray(index)), group_size=episodes.group_size)


@pytest.mark.parametrize("aggregation", ["sum", "own_mean"])
def test_one_epoch_of_one_minibatch_is_the_gradient_step_of_groups_too(aggregation):
    """And the diagnosis of both is that of groups: tr Σ is G times that of the groups' means, and a B-th of it the batch's."""
    episodes = played()
    step = case(GRPO, true_gradient, aggregation, entropy_coefficient=BONUS).algorithm
    epoch = PPO(ONE_STEP, BONUS, epochs=1, minibatch_steps=None, clip=0.2, adapt_to_kl=None, **OFF)
    learn = lambda chosen: quickly_compiled(lambda: update(state_for(chosen), episodes, chosen, KEY, jnp.array(True)))()
    (one, row), (other, its_row) = learn(step), learn(dataclasses.replace(step, update=epoch))
    for x, y in zip(jax.tree.leaves(one.policy), jax.tree.leaves(other.policy), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    variance, norm = variance_by_loops(step, episodes)
    for found in (row, its_row):
        assert float(found["grad_variance"]) == pytest.approx(variance, rel=1e-3)
        assert float(found["grad_snr"]) == pytest.approx((norm**2 - variance / 12) / variance, rel=1e-2, abs=1e-4)
    alone = dataclasses.replace(episodes, group_size=None)
    plain = dataclasses.replace(step, critic=NoCritic())
    without = quickly_compiled(lambda: update(state_for(plain), alone, plain, KEY, jnp.array(True)))()[1]
    assert float(without["grad_variance"]) != pytest.approx(variance_by_loops(plain, episodes)[0], rel=0.05)


def variance_by_loops(chosen: Algorithm, episodes: Episodes) -> tuple[float, float]:
    """(tr Σ, ‖ḡ‖)."""
    weight = np.asarray(weigh(None, episodes, chosen).weight)
    of_each = []
    for b in range(len(LENGTHS)):

        def objective(policy, b=b):
            pi = policy(episodes.obs[: LENGTHS[b], b].T)
            log_prob = pi.log_prob(episodes.action[: LENGTHS[b], b])
            return (log_prob * weight[: LENGTHS[b], b]).sum() + chosen.update.entropy_coefficient * pi.entropy().sum()

        of_each.append(np.asarray(ravel_pytree(jax.grad(objective)(state_for(chosen).policy))[0], np.float64))
    of_group = np.array(of_each).reshape(3, MANY, -1).mean(1)
    overall = of_group.mean(0)
    return MANY * ((of_group - overall) ** 2).sum() / 2, float(np.linalg.norm(overall))


def test_an_accelerator_diagnoses_groups_as_well(monkeypatch):
    """By all episodes side by side; with room for more groups."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    chosen, wide = case(GRPO, true_gradient).algorithm, dataclasses.replace(with_room(played(), 20), group_size=MANY)
    row = quickly_compiled(lambda: update(state_for(chosen), wide, chosen, KEY, jnp.array(True)))()[1]
    assert float(row["grad_variance"]) == pytest.approx(variance_by_loops(chosen, played())[0], rel=1e-3)


def test_a_single_group_tells_nothing_of_the_variance():
    """There is nothing to compare it with: no number, and not one made of rounding."""
    one = choose_in_groups(played(), np.arange(4))
    chosen = case(GRPO, true_gradient).algorithm
    row = quickly_compiled(lambda: update(state_for(chosen), one, chosen, KEY, jnp.array(True)))()[1]
    assert np.isnan(row["grad_variance"]) and np.isnan(row["grad_snr"]) and np.isfinite(row["grad_norm"])


@pytest.mark.parametrize("name, aggregation", [("ppo", "own_mean"), ("natural", "batch_mean"), ("trpo", "own_mean")])
def test_every_kind_of_update_heeds_the_aggregation(name, aggregation):
    """Of episodes of one length L both means are a sum of rewards L times as small, and not the sum itself."""
    episodes = choose(all_episodes(), jnp.asarray(np.flatnonzero(LENGTH == 4)[:6]))

    @eqx.filter_jit
    def learned(chosen, state):
        return ravel_pytree(update(state, episodes, chosen, KEY, jnp.array(False))[0].policy)[0]

    def of(**settings):
        config = checked("+variant=vanilla", f"update={name}", "optimiser=sgd", *(f"{key}={x}" for key, x in settings.items()))
        _, chosen = build.build(config)
        return np.asarray(learned(chosen, build.initial_state(config, TabularMDP(), chosen)[0]))

    quarter = of(reward_scale=0.25)
    np.testing.assert_allclose(of(aggregation=aggregation), quarter, rtol=1e-4, atol=1e-6)
    assert name == "trpo" or np.abs(of() - quarter).max() > 1e-4


@pytest.mark.slow
def test_the_experiment_prints_the_table_that_its_page_shows():
    from experiments.group_estimators import __main__ as experiment

    assert experiment.table() in Path(experiment.__file__).with_name("README.md").read_text()
