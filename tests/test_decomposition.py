"""The three parts of the variance, on a process where all that can follow a state can be listed."""

from collections import defaultdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimands import GAMMA, POLICY, VALUE, G, V, algorithm, bonus, return_from, value_of
from mdp import ONE_HOT, TRAJECTORIES, TabularMDP, Theta, discounted, distribution
from quick import quickly_compiled

from pgx.diagnosis import decomposition
from pgx.diagnosis.decomposition import Actions, actions, continuations, decompose, of_drawn_actions, scores, visited
from pgx.diagnosis.quality import Estimand, decompositions

THETA = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(POLICY)])
M, K, REPEATS, EPISODES = 4, 2, 5000, 20_000
DRAWS = 3
LARGE = 10.0
"""Times V(s_L): where the time limit matters, it must be seen."""


# The exact thing, in float64 and without pgx: every step of every trajectory, and the law of total variance as it is.


def total_variance(chance: np.ndarray, x: np.ndarray) -> float:
    mean = chance @ x / chance.sum()
    return float(chance @ ((x - mean) ** 2).sum(1) / chance.sum())


def exact(baseline=lambda s, t: 0.0, bootstrap: float = 0.0, power: bool = False) -> dict[str, float]:
    """What a step of the policy is, is decided in this order: its state (and time), its action, all the rest.

    `bootstrap` multiplies V(s_L) at the time limit.
    """
    theta, steps = Theta.of_vector(THETA), []
    to_go = lambda tau, t: discounted((*tau.rewards[t:], bootstrap * bonus(tau, on=True)), GAMMA)
    for tau, p in zip(TRAJECTORIES, distribution(THETA), strict=True):
        for t, (s, a) in enumerate(zip(tau.states, tau.actions, strict=False)):
            of_logits = (np.eye(2)[a] - theta.probabilities(s)) * (GAMMA**t if power else 1.0)
            score = np.concatenate([np.outer(of_logits, ONE_HOT[s]).ravel(), of_logits])
            steps.append((p, (t, s), a, score * (to_go(tau, t) - baseline(s, t))))
    chance, x = np.array([p for p, *_ in steps]), np.array([x for *_, x in steps])

    def conditional_mean(*labels: int) -> np.ndarray:
        groups = defaultdict(list)
        for i, step in enumerate(steps):
            groups[tuple(step[k] for k in labels)].append(i)
        found = np.zeros_like(x)
        for i in groups.values():
            found[i] = chance[i] @ x[i] / chance[i].sum()
        return found

    of_state, of_action = conditional_mean(1), conditional_mean(1, 2)
    parts = {
        "variance_state": total_variance(chance, of_state),
        "variance_action": total_variance(chance, of_action - of_state),
        "variance_return": total_variance(chance, x - of_action),
    }
    assert sum(parts.values()) == pytest.approx(total_variance(chance, x))
    return parts


def exact_value(s: int, t: int) -> float:
    returns = [(p, return_from(tau, t)) for tau, p in zip(TRAJECTORIES, distribution(THETA), strict=True)
               if len(tau.actions) > t and tau.states[t] == s]  # fmt: skip
    chance, x = np.array(returns).T
    return float(chance @ x / chance.sum())


# Many small experiments of M states and K continuations: their mean must hit, within its standard error.


def every_action(policy, obs, key) -> Actions:
    return actions(policy, obs, key, 1)


def some_actions(policy, obs, key) -> Actions:
    """As of a policy whose actions cannot all be taken: DRAWS of them, one twice or not."""
    pi = policy(obs.T)
    return Actions(jax.vmap(pi.sample)(pi.noise(key, DRAWS)).T, None)


@quickly_compiled
def draw_all(key):
    of_states, of_returns, of_actions = jax.random.split(key, 3)
    states = visited(TabularMDP(), POLICY, of_states, REPEATS * M, EPISODES)
    played = {}
    for choose in (every_action, some_actions):
        done = choose(POLICY, states.obs, of_actions)
        played[choose] = done, continuations(TabularMDP(), POLICY, states, done.taken, GAMMA, of_returns, K)
    return states, list(played.values())


@pytest.fixture(scope="module")
def both():
    return draw_all(jax.random.key(0))


@pytest.fixture(scope="module", params=[0, 1], ids=["every action", "drawn actions"])
def drawn(both, request):
    """(states, actions, returns of every action) [REPEATS · M …]."""
    states, played = both
    return states, *played[request.param]


def estimated(states, done, returns, value=None, factor=None) -> dict[str, tuple[float, float]]:
    """(mean, its standard error) over experiments."""

    @quickly_compiled
    def parts(obs, done, returns, value):
        score = scores(POLICY, obs, done.taken)
        score = score if factor is None else score * factor[:, None, None]
        given = (score, done.chance, returns, value)
        return jax.vmap(decompose)(*jax.tree.map(lambda x: x.reshape(-1, M, *x.shape[1:]), given))

    found = parts(states.obs, done, returns, value)
    return {name: (float(x.mean()), float(x.std() / np.sqrt(len(x)))) for name, x in found.items()}


def misses(found: dict[str, tuple[float, float]], wanted: dict[str, float]) -> dict[str, float]:
    """In standard errors."""
    assert found.keys() == wanted.keys()
    return {name: abs(x - wanted[name]) / max(error, 1e-9) for name, (x, error) in found.items()}


def test_without_a_baseline(drawn):
    states, done, found = drawn
    wanted = exact()
    assert min(wanted.values()) > 0.05 * sum(wanted.values())  # none is there by name only
    assert max(misses(estimated(states, done, found.total, jnp.zeros(len(states.obs))), wanted).values()) < 4


def test_with_a_baseline(drawn):
    """Of the actions' part alone something is taken, by the exact value most."""
    states, done, found = drawn
    wanted = exact(lambda s, t: value_of(s))
    assert max(misses(estimated(states, done, found.total, jax.vmap(V)(states.obs)), wanted).values()) < 4
    of_exact_value = exact(exact_value)
    assert max(misses(estimated(states, done, found.total, None), of_exact_value).values()) < 4
    for name in ("variance_state", "variance_return"):
        assert exact()[name] == pytest.approx(wanted[name]) == pytest.approx(of_exact_value[name])
    assert of_exact_value["variance_action"] < wanted["variance_action"] < exact()["variance_action"]


def test_time_limit_and_discount(drawn):
    """A return is bootstrapped with V where the limit cuts it off, from any state; γ^t is of the step's own t."""
    states, done, found = drawn
    wanted = exact(lambda s, t: value_of(s), bootstrap=LARGE, power=True)
    factor, value = GAMMA ** states.time.astype(jnp.float32), jax.vmap(V)(states.obs)
    gone_on = found.bootstrapped(lambda obs: LARGE * V(obs))
    assert max(misses(estimated(states, done, gone_on, value, factor), wanted).values()) < 4
    for returns, power in ((found.total, factor), (found.bootstrapped(V), factor), (gone_on, None)):
        assert max(misses(estimated(states, done, returns, value, power), wanted).values()) > 8


def test_luck_taken_for_the_action_is_rejected(drawn):
    """Without the correction by v/L, what luck adds to the squares counts as the actions', and where the continuations of
    one action are multiplied with each other, as the states', too."""
    states, done, found = drawn
    alike = jnp.broadcast_to(found.total.mean(2, keepdims=True), found.total.shape)
    missed = misses(estimated(states, done, alike, jnp.zeros(len(states.obs))), exact())
    assert missed["variance_action"] > 8 and (missed["variance_state"] > 8) == (done.chance is not None)
    missed = misses(estimated(states, done, alike, None), exact(exact_value))
    assert missed["variance_action"] > 8


def multiplied_with_itself(score, q, luck):
    """‖μ̂‖² for ‖μ‖²: what chance adds to the length of a mean."""
    right = of_drawn_actions(score, q, luck)
    return right._replace(square_of_mean=(right.mean**2).sum(1))


def counted_from_all(score, q, luck):
    """q minus a mean that q itself is part of."""
    right = of_drawn_actions(score, q, luck)
    return right._replace(mean=jnp.einsum("mk,mkp->mp", q - q.mean(1, keepdims=True), score) / DRAWS)


def mean_of_draws_for_the_value(score, q, luck):
    right = of_drawn_actions(score, q, luck)
    return right._replace(doubt=luck)


@pytest.mark.parametrize(
    ("mutant", "quantity"),
    [(multiplied_with_itself, "variance_state"), (multiplied_with_itself, "variance_action"),
     (counted_from_all, "variance_state"), (mean_of_draws_for_the_value, "variance_action")],
)  # fmt: skip
def test_of_drawn_actions_a_mutant_is_rejected(mutant, quantity, both, monkeypatch):
    states, (_, (done, found)) = both
    monkeypatch.setattr(decomposition, "of_drawn_actions", mutant)
    missed = misses(estimated(states, done, found.total, None), exact(exact_value))
    assert missed[quantity] > 8


def test_actions_that_count_alike_are_rejected(both):
    """As if π were uniform."""
    states, ((done, found), _) = both
    half = done._replace(chance=jnp.full((len(states.obs), 2), 0.5))
    missed = misses(estimated(states, half, found.total, jnp.zeros(len(states.obs))), exact())
    assert min(missed.values()) > 8


def test_episodes_that_count_alike_are_rejected():
    """One state an episode, however long: short ones get too much weight."""

    @quickly_compiled
    def draw(key):
        of_states, of_returns = jax.random.split(key)
        one = lambda key: visited(TabularMDP(), POLICY, key, 1, 1)
        states = jax.tree.map(lambda x: x[:, 0], jax.vmap(one)(jax.random.split(of_states, REPEATS * M)))
        done = every_action(POLICY, states.obs, key)
        return states, done, continuations(TabularMDP(), POLICY, states, done.taken, GAMMA, of_returns, K)

    states, done, found = draw(jax.random.key(1))
    assert max(misses(estimated(states, done, found.total, jnp.zeros(len(states.obs))), exact()).values()) > 8


def test_every_step_counts_alike(drawn):
    """The share of each state at each time among all steps."""
    expected = defaultdict(float)
    for tau, p in zip(TRAJECTORIES, distribution(THETA), strict=True):
        for t, s in enumerate(tau.states[: len(tau.actions)]):
            expected[t, s] += p
    steps, n = sum(expected.values()), REPEATS * M
    states, *_ = drawn
    found = np.stack([states.time, states.env_state], 1)
    np.testing.assert_array_equal(states.obs, ONE_HOT[states.env_state])
    for (t, s), p in expected.items():
        share = (found == [t, s]).all(1).mean()
        # both the draws and the episodes they are drawn from are finite
        assert abs(share - p / steps) < 4 * np.sqrt(p / steps * (1 / n + 1 / EPISODES)), (t, s)


@pytest.mark.parametrize("switches", [(False, False), (True, True)], ids=["plain", "bootstrap, γ^t"])
def test_all_of_it_as_rows(switches):
    """The parts as `pgx.diagnose` asks for them, with both V."""
    bootstrap, power = switches
    estimand = Estimand(GAMMA, 0.95, bootstrap, power)
    learner = algorithm(G, VALUE)
    rows = quickly_compiled(
        lambda key: decompositions(
            TabularMDP(),
            POLICY,
            V,
            (V, None),
            learner,
            estimand,
            key,
            num_episodes=EPISODES,
            num_states=20_000,
            num_draws=3,
            num_continuations=K,
        )
    )(jax.random.key(2))
    assert {row.of for row in rows} == {"reward_to_go", "baseline", "baseline, own V", "exact V"}
    for name, baseline in {"reward_to_go": lambda s, t: 0.0, "baseline": lambda s, t: value_of(s)}.items():
        for quantity, x in exact(baseline, float(bootstrap), power).items():
            assert float(rows[name, quantity, 0, 20_000]) == pytest.approx(x, rel=0.1), (name, quantity)
    for quantity in ("variance_state", "variance_action", "variance_return"):
        assert rows["baseline", quantity, 0, 20_000] == rows["baseline, own V", quantity, 0, 20_000]
