"""Gradient quality on a process where every trajectory can be listed: what is estimated from batches against the exact
covariance, and published mistakes that must be found out."""

import dataclasses
from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimands import GAMMA, LAM, POLICY, VALUE, G, R, V, algorithm, n_step_average, state_for, value_of
from mdp import ONE_HOT, PAIRS, TRAJECTORIES, TabularMDP, Theta, all_episodes, choose, discounted, distribution
from quick import quickly_compiled

from pgx.critics import LeaveOneOut
from pgx.diagnosis import quality
from pgx.diagnosis.quality import (
    Estimand,
    batches,
    estimates,
    own_gradients,
    statistics,
)
from pgx.diagnosis.units import dead_units, effective_rank, some_states
from pgx.diagnosis.value import fit_value
from pgx.estimators import lambda_return
from pgx.networks import MLP
from pgx.policies import MLPPolicy
from pgx.rollout import rollout
from pgx.spaces import Discrete
from pgx.types import Episodes
from pgx.update import update

THETA = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(POLICY)])
CHANCE = distribution(THETA)
ESTIMAND = Estimand(GAMMA, LAM, False, False)
OTHER = MLP(3, "scalar", width=1, depth=0, activation="tanh", key=jax.random.key(9))
"""Another V, which stands for the run's own."""


# The exact thing, in float64 and without pgx.


def linear_value(network: MLP, s: int) -> float:
    weight, bias = (np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(network))
    return float(weight @ ONE_HOT[s] + bias[0])


def to_go(tau, t: int) -> float:
    return discounted(tau.rewards[t:], GAMMA)


ADVANTAGES: dict[str, Callable] = {
    "vanilla": lambda tau, t: to_go(tau, 0),
    "reward_to_go": to_go,
    "baseline": lambda tau, t: to_go(tau, t) - value_of(tau.states[t]),
    "gae": lambda tau, t: n_step_average(tau, t) - value_of(tau.states[t]),
    "baseline, own V": lambda tau, t: to_go(tau, t) - linear_value(OTHER, tau.states[t]),
}


def exact_gradients(advantage: Callable) -> np.ndarray:
    """Σ_t ∇ log π(a_t|s_t) A_t of every trajectory, in closed form for a linear softmax."""
    theta = Theta.of_vector(THETA)
    found = np.zeros((len(TRAJECTORIES), len(THETA)))
    for i, tau in enumerate(TRAJECTORIES):
        for t, (s, a) in enumerate(zip(tau.states, tau.actions, strict=False)):
            of_logits = (np.eye(2)[a] - theta.probabilities(s)) * advantage(tau, t)
            found[i] += np.concatenate([np.outer(of_logits, ONE_HOT[s]).ravel(), of_logits])
    return found


EXACT = {name: exact_gradients(advantage) for name, advantage in ADVANTAGES.items()}
MEAN = {name: CHANCE @ g for name, g in EXACT.items()}
VARIANCE = {name: CHANCE @ ((g - MEAN[name]) ** 2).sum(1) for name, g in EXACT.items()}
"""tr Σ of one episode's gradient."""


@pytest.fixture(scope="module")
def every() -> Episodes:
    return all_episodes(garbage=7.0)


def test_gradient_of_each_episode_by_every_estimator(every):
    """The same policy and the same episodes; what stands on padding is never looked at."""
    found = quickly_compiled(lambda episodes: estimates(POLICY, episodes, V, OTHER, ESTIMAND))(every)
    assert found.gradient.keys() == EXACT.keys()
    for name, gradient in found.gradient.items():
        np.testing.assert_allclose(gradient, EXACT[name], rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(found.score, exact_gradients(lambda tau, t: 1.0), rtol=1e-4, atol=1e-5)


LEARNERS = {
    "vanilla": algorithm(R),
    "reward_to_go": algorithm(G),
    "baseline": algorithm(G, VALUE),
    "gae": algorithm(jax.tree_util.Partial(lambda_return, gamma=GAMMA, lam=LAM), VALUE),
    "leave_one_out": algorithm(R, LeaveOneOut()),
}
SWITCHES = {"plain": {}, "γ^t, bootstrap": {"discount_power": True, "bootstrap_truncated": True}}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_a_batch_is_what_training_would_have_ascended(switches, every):
    """Each batch's gradient, put together from those of its episodes, is that of `pgx.update`, whitened or not; and so is
    `own`, which any estimator and critic have."""
    size, clean = 3, all_episodes()
    index = jnp.arange(len(TRAJECTORIES) // size * size).reshape(-1, size)
    # without V there is nothing to bootstrap from in training; here V is fitted for all
    names = ("baseline", "gae") if switches else tuple(LEARNERS)
    estimand = Estimand(GAMMA, LAM, bool(switches), bool(switches))

    def ascended(name: str, whiten: bool):
        learner = dataclasses.replace(LEARNERS[name], whiten=whiten, **switches)
        state = state_for(learner)

        def by(batch):
            new, _ = update(state, choose(clean, batch), learner, jax.random.key(0), jnp.array(False))
            change = jax.tree.map(jnp.subtract, new.policy, POLICY)
            return jnp.concatenate([x.ravel() for x in jax.tree.leaves(change)])

        return jax.vmap(by)(index)

    @quickly_compiled
    def both(episodes):
        wanted = {name: ascended(name, False) for name in names}
        wanted |= {f"{name}, whitened": ascended(name, True) for name in names if name != "leave_one_out"}
        own = {name: learned_from(name, episodes) for name in wanted}
        return batches(estimates(POLICY, episodes, V, None, estimand), size), wanted, own

    def learned_from(name: str, episodes: Episodes):
        family, *whitened = name.split(", ")
        learner = dataclasses.replace(LEARNERS[family], whiten=bool(whitened), **switches)
        (gradient,) = own_gradients(POLICY, episodes, state_for(learner).critic, learner, (size,))
        return gradient

    found, wanted, own = both(every)
    assert len(wanted) == (4 if switches else 9)
    for name, gradient in wanted.items():
        np.testing.assert_allclose(found[name], gradient, rtol=2e-3, atol=2e-4, err_msg=name)
        np.testing.assert_allclose(own[name], gradient, rtol=2e-3, atol=2e-4, err_msg=f"own, {name}")


# Unbiased: the expectation over every pair of episodes, K = 2 batches of one.


def expected(statistic: Callable, gradients: np.ndarray) -> dict[str, float]:
    pairs = jnp.asarray(gradients[PAIRS], jnp.float32)
    reference = jnp.asarray(MEAN["baseline"], jnp.float32)
    found = quickly_compiled(jax.vmap(lambda pair: statistic(pair, reference)))(pairs)
    chance = np.outer(CHANCE, CHANCE).ravel()
    return {name: float(chance @ np.asarray(x, np.float64)) for name, x in found.items()}


def cosines(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)


@pytest.mark.parametrize("name", ["vanilla", "reward_to_go", "baseline"])
def test_statistics_are_exactly_unbiased(name):
    g = EXACT[name]
    found = expected(statistics, g)
    assert found["variance"] == pytest.approx(VARIANCE[name], rel=1e-5)
    assert found["signal"] == pytest.approx(MEAN[name] @ MEAN[name], rel=1e-4)
    assert found["cosine"] == pytest.approx(CHANCE @ cosines(g, g) @ CHANCE, rel=1e-4, abs=1e-5)
    to_reference = cosines(g, MEAN["baseline"][None])[:, 0]
    assert found["cosine_reference"] == pytest.approx(CHANCE @ to_reference, rel=1e-4, abs=1e-5)
    assert found["no_gradient"] == 0


def divided_by_k(g, reference):
    return {"variance": ((g - g.mean(0)[None]) ** 2).sum() / len(g)}


def noise_taken_for_signal(g, reference):
    """‖ḡ‖² alone: never negative, and never 0."""
    return {"signal": (g.mean(0) ** 2).sum()}


def variance_of_one_coordinate(g, reference):
    """The mean over coordinates instead of the trace."""
    return {"variance": g.var(0, ddof=1).mean()}


def a_batch_with_itself(g, reference):
    unit = g / jnp.linalg.norm(g, axis=1, keepdims=True)
    return {"cosine": (unit @ unit.T).mean()}


def reference_of_the_same_batches(g, reference):
    return {"cosine_reference": statistics(g, g.mean(0))["cosine_reference"]}


def cosine_of_the_mean(g, reference):
    """Of the mean of directions, which says nothing of one batch."""
    unit = g / jnp.linalg.norm(g, axis=1, keepdims=True)
    return {"cosine_reference": quality.cosine(unit.mean(0), reference)}


MUTANTS = [divided_by_k, noise_taken_for_signal, variance_of_one_coordinate, a_batch_with_itself]
MUTANTS += [reference_of_the_same_batches, cosine_of_the_mean]


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_rejected(mutant):
    right = expected(statistics, EXACT["reward_to_go"])
    for name, x in expected(mutant, EXACT["reward_to_go"]).items():
        assert abs(x - right[name]) > 0.1 * abs(right[name])


def drawn(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(len(TRAJECTORIES), n, p=CHANCE / CHANCE.sum())


def test_variants_are_ordered_as_they_are(every):
    """Estimates from many batches of 4 lie where the exact numbers do, the signal to noise ratio included; and with V
    as it is here, baseline < reward_to_go < vanilla in variance."""
    size, n = 4, 40_000
    one = quickly_compiled(lambda episodes: estimates(POLICY, episodes, V, OTHER, ESTIMAND))(every)
    index = drawn(n)
    many = quality.Estimates(
        {name: a[:, index] for name, a in one.advantage.items()},
        {name: g[index] for name, g in one.gradient.items()},
        one.score[index],
        one.mask[:, index],
    )
    found = quickly_compiled(lambda many: {name: statistics(g, g[0]) for name, g in batches(many, size).items()})(many)
    for name in EXACT:
        assert float(found[name]["variance"]) == pytest.approx(VARIANCE[name] / size, rel=0.03), name
        snr = size * (MEAN[name] @ MEAN[name]) / VARIANCE[name]
        assert float(found[name]["snr"]) == pytest.approx(snr, rel=0.1, abs=0.01), name
    ordered = sorted(("vanilla", "reward_to_go", "baseline"), key=lambda name: float(found[name]["variance"]))
    assert ordered == sorted(("vanilla", "reward_to_go", "baseline"), key=VARIANCE.get)


def test_batches_without_a_gradient_are_counted_and_left_out():
    g = jnp.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    found = statistics(g, jnp.array([3.0, 0.0]))
    assert float(found["cosine"]) == pytest.approx(1 / 3) and float(found["cosine_reference"]) == pytest.approx(2 / 3)
    assert float(found["no_gradient"]) == 0.25
    none = statistics(jnp.zeros((3, 2)), jnp.ones(2))
    assert np.isnan(none["cosine"]) and np.isnan(none["snr"]) and float(none["no_gradient"]) == 1


def test_equal_advantages_whitened_are_no_gradient(every):
    """Of 500 everywhere rounding alone would be left, divided by rounding."""
    same = quickly_compiled(lambda episodes: estimates(POLICY, episodes, V, None, ESTIMAND))(every)
    same = same._replace(advantage={"vanilla": jnp.full_like(same.advantage["vanilla"], 500.1)},
                         gradient={"vanilla": 500.1 * same.score})  # fmt: skip
    found = batches(same, 5)
    assert not found["vanilla, whitened"].any() and not found["leave_one_out"].any() and found["vanilla"].any()


# V


def test_value_is_what_follows(every):
    """On states that are told apart, V(s) is the mean return from there."""
    index = drawn(20_000)
    value = quickly_compiled(fit_value)(choose(every, index), GAMMA, jax.random.key(0))
    returns = {s: [] for s in range(3)}
    for i in index:
        for t, s in enumerate(TRAJECTORIES[i].states[: len(TRAJECTORIES[i].actions)]):
            returns[s].append(to_go(TRAJECTORIES[i], t))
    by_state = value(jnp.asarray(ONE_HOT, jnp.float32).T)
    for s, found in returns.items():
        assert float(by_state[s]) == pytest.approx(np.mean(found), abs=0.02)


@pytest.fixture(scope="module")
def with_fitted_value(every) -> np.ndarray:
    """[i, j]: the gradient of episode j by `baseline`, V fitted to episode i."""

    def of(i):
        value = fit_value(choose(every, i[None]), GAMMA, jax.random.key(0))
        return estimates(POLICY, every, value, None, ESTIMAND).gradient["baseline"]

    return np.asarray(quickly_compiled(jax.vmap(of))(jnp.arange(len(TRAJECTORIES))), np.float64)


def test_a_value_fitted_to_other_episodes_leaves_the_gradient_unbiased(with_fitted_value):
    mean = np.einsum("i,j,ijp->p", CHANCE, CHANCE, with_fitted_value)
    np.testing.assert_allclose(mean, MEAN["reward_to_go"], atol=1e-4 * np.linalg.norm(mean))


def test_a_value_fitted_to_the_same_episode_would_not(with_fitted_value):
    n = np.arange(len(TRAJECTORIES))
    mean = CHANCE @ with_fitted_value[n, n]
    assert np.linalg.norm(mean - MEAN["reward_to_go"]) > 0.1 * np.linalg.norm(MEAN["reward_to_go"])


def test_three_sets_of_episodes_each_for_one_thing(every, monkeypatch):
    """V is fitted to the first, the reference is made of the second, the third is measured."""
    used = {"fit_value": [], "gradient_of_each": []}
    for name, calls in used.items():
        f, at = getattr(quality, name), int(name == "gradient_of_each")
        watched = lambda *given, f=f, at=at, calls=calls: (calls.append(given[at]), f(*given))[1]
        monkeypatch.setattr(quality, name, watched)
    sets = [choose(every, jnp.asarray(drawn(60, seed))) for seed in range(3)]

    @quickly_compiled
    def run(policy, sets):
        quality.measure(policy, *sets, None, LEARNERS["vanilla"], ESTIMAND, jax.random.key(1), None, batch_sizes=(20,))
        return used

    used = run(POLICY, sets)
    (fitted,), (reference, measured, own) = used.values()
    np.testing.assert_array_equal(measured.action, own.action)
    for given, taken in zip(sets, (fitted, reference, measured), strict=True):
        np.testing.assert_array_equal(given.action, taken.action)


def test_each_policy_has_a_value_of_its_own():
    """V of another policy is a baseline, and a worse one: shared, it would make later checkpoints look bad."""
    policies = [POLICY, jax.tree.map(lambda x: -3 * x, POLICY)]

    @quickly_compiled
    def explained(policy):
        both = [rollout(TabularMDP(), pi, jax.random.key(3), 2000) for pi in policies]
        measured = rollout(TabularMDP(), policy, jax.random.key(4), 2000)

        def of(value):
            found = estimates(policy, measured, value, None, ESTIMAND).advantage
            returns = found["reward_to_go"]
            return quality.explained_variance(returns, returns - found["baseline"], measured.mask)

        return [of(fit_value(x, GAMMA, jax.random.key(0))) for x in both]

    (own, other), (other_again, own_again) = explained(policies[0]), explained(policies[1])
    assert own > other + 0.02 and own_again > other_again + 0.02


# The policy


def test_dead_units_and_effective_rank():
    rng = np.random.default_rng(0)
    flat = np.outer(rng.normal(size=50), [1.0, 2.0, 0.0, -1.0])
    assert float(effective_rank(jnp.asarray(flat, jnp.float32))) == pytest.approx(1.0, abs=1e-3)
    assert float(effective_rank(jnp.eye(8))) == pytest.approx(8.0, rel=1e-5)
    s = np.array([3.0, 1.0])
    p = s / s.sum()
    assert float(effective_rank(jnp.diag(jnp.asarray(s, jnp.float32)))) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert np.isnan(effective_rank(jnp.zeros((4, 2))))
    constant = np.column_stack([rng.normal(size=9), np.zeros(9), np.full(9, 0.7), np.ones(9)])
    assert float(dead_units(jnp.asarray(constant, jnp.float32))) == 0.75


def test_hidden_layers_end_in_the_logits():
    policy = MLPPolicy(3, Discrete(2), width=5, depth=2, activation="tanh", key=jax.random.key(0))
    obs = jnp.array([0.3, -1.0, 2.0])
    layers = policy.hidden(obs)
    assert [x.shape for x in layers] == [(5,), (5,)]
    np.testing.assert_allclose(policy.network.layers[-1](layers[-1]), policy(obs[:, None]).logits[:, 0], rtol=1e-6)


def test_states_are_taken_evenly_and_never_from_padding(every):
    """Every step counts alike; where a batch has fewer, some come again."""
    marked = dataclasses.replace(every, obs=jnp.where(every.mask[..., None], every.obs, 99.0))
    steps = int(every.mask.sum())
    assert float(some_states(marked, 3 * steps).max()) == 1.0
    np.testing.assert_array_equal(some_states(marked, steps), marked.obs.reshape(-1, 3)[every.mask.reshape(-1)])


def test_returns_after_one_update():
    """Each from the same state, by its own batch; a step of 0 changes nothing but the luck, one of NaN is seen."""
    env = TabularMDP()

    play = quickly_compiled(partial(rollout, env), static_argnames="num_episodes")
    learn = eqx.filter_jit(quality.updated)

    def after(learning_rate):
        chosen = eqx.tree_at(lambda a: a.update.optimiser.learning_rate, algorithm(G), jnp.array(learning_rate))
        return np.array(
            quality.post_update_returns(
                play, learn, state_for(chosen), chosen, jax.random.key(0),
                num_episodes=20, num_updates=12, num_evaluations=300,
            )
        )  # fmt: skip

    rest, step = after(0.0), after(3.0)
    true = CHANCE @ [sum(tau.rewards) for tau in TRAJECTORIES]
    assert rest.mean() == pytest.approx(true, abs=0.1) and len(np.unique(rest)) == 12
    assert step.mean() > rest.mean() + 0.5
    np.testing.assert_array_equal(after(3.0), step)
    assert np.isnan(after(float("nan"))).all()
