"""Distributions against scipy and finite differences; the clipped score against quadrature."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from pgx.policies import FLAT, Categorical, ClippedGaussian, Gaussian, MLPPolicy
from pgx.spaces import Box, Discrete

RNG = np.random.default_rng(0)
A, N = 3, 7
SPACE = Box((-1.0, -2.0, -np.inf), (1.0, 6.0, np.inf))


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


OLD, NEW, ACTION = Gaussian(draw(A, N), 0.3 * draw(A, N), SPACE), Gaussian(draw(A, N), 0.3 * draw(A, N), SPACE), draw(A, N)


def scipys(pi, n):
    return stats.multivariate_normal(np.asarray(pi.mean[:, n]), np.diag(np.exp(2 * np.asarray(pi.log_std[:, n], np.float64))))


def test_a_gaussian_is_scipys():
    """Density and entropy of d dimensions: to leave out the sum over dimensions, or σ, would show."""
    for n in range(N):
        peer = scipys(OLD, n)
        assert float(OLD.log_prob(ACTION)[n]) == pytest.approx(peer.logpdf(np.asarray(ACTION[:, n])), rel=1e-5)
        assert float(OLD.entropy()[n]) == pytest.approx(peer.entropy(), rel=1e-5)


def test_divergence_is_the_expectation_of_the_log_ratio():
    """KL(old ‖ new) in closed form against the mean over draws, and 0 of itself."""
    noise = OLD.noise(jax.random.key(0), 40_000)
    draws = jax.vmap(OLD.sample)(noise)
    ratios = np.asarray(jax.vmap(lambda u: OLD.log_prob(u) - NEW.log_prob(u))(draws), np.float64)
    error = ratios.std(0) / np.sqrt(len(ratios))
    assert (abs(OLD.kl(NEW) - ratios.mean(0)) < 4.5 * error).all()
    np.testing.assert_allclose(OLD.kl(OLD), 0, atol=1e-6)
    assert not np.allclose(OLD.kl(NEW), NEW.kl(OLD), rtol=0.05), "which is which must matter"
    assert np.asarray(draws.mean(0) - OLD.mean).std() < 0.02 and OLD.mode() is OLD.mean


@pytest.mark.parametrize("pi", [OLD, Categorical(draw(4, N))], ids=["gaussian", "categorical"])
def test_the_expected_score_is_zero(pi):
    """E ∇ log π = 0 at the very parameters that the actions are drawn with."""
    draws = jax.vmap(pi.sample)(pi.noise(jax.random.key(1), 40_000))
    score = jax.vmap(lambda u: jax.grad(lambda pi: pi.log_prob(u).sum())(pi))(draws)
    for x in jax.tree.leaves(score):
        assert (abs(x.mean(0)) < 5 * x.std(0) / np.sqrt(len(x))).all()


# What the environment makes of u


def test_bounds_in_the_environments_units():
    u = jnp.array([[-3.0, 0.0, -3.0], [0.5, -0.5, 7.0], [1.0, 1.0, 0.0]])
    np.testing.assert_allclose(SPACE.to_env(u), [[-1, 2, -3], [0.5, 0, 7], [1, 6, 0]])
    bounded = Box((-1.0, -2.0), (1.0, 6.0), "tanh")
    np.testing.assert_allclose(bounded.to_env(u[:, :2]), np.tanh(u[:, :2]) * [1, 4] + [0, 2], rtol=1e-6)
    np.testing.assert_allclose(SPACE._replace(bound="none").to_env(u), np.asarray(u) * [1, 4, 1] + [0, 2, 0])
    half = Box((0.0,), (np.inf,))
    np.testing.assert_allclose(half.to_env(jnp.array([[-1.0], [3.0]])), [[0], [3]])


def one_step(family, mean, log_std, f, space):
    """(E, Var) of score · f(action) over u, by quadrature, for the score of μ and of log σ."""

    def both(u):
        score = jax.grad(lambda p: family(p[:1], p[1:], space).log_prob(jnp.full((1, 1), u))[0])
        value = f(space.to_env(jnp.full((1,), u))[0])
        return score(jnp.array([[mean], [log_std]]))[:, 0] * value

    u = np.linspace(mean - 9 * np.exp(log_std), mean + 9 * np.exp(log_std), 8_001)
    terms = np.asarray(jax.jit(jax.vmap(both))(jnp.asarray(u, jnp.float32)), np.float64)
    density = stats.norm(mean, np.exp(log_std)).pdf(u)[:, None]
    first, second = (integrate.trapezoid(terms**k * density, u, axis=0) for k in (1, 2))
    return first, second - first**2


def through_the_bound(mean, log_std, f, space, bounded=None):
    """E of the derivative of f(action) with the noise held, for μ and log σ."""
    bounded = bounded or (lambda u: space.to_env(u))

    def value(p, noise):
        return f(bounded(Gaussian(p[:1], p[1:], space).sample(jnp.full((1, 1), noise))[:, 0])[0])

    noise = np.linspace(-9, 9, 8_001)
    slope = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))
    terms = np.asarray(slope(jnp.array([[mean], [log_std]]), jnp.asarray(noise, jnp.float32)), np.float64)[:, :, 0]
    return integrate.trapezoid(terms * stats.norm.pdf(noise)[:, None], noise, axis=0)


def reward(action):
    return (action - 0.3) ** 2 + action


@pytest.mark.parametrize("bound", ["clip", "tanh", "none"])
@pytest.mark.parametrize(("mean", "log_std"), [(0.9, -0.7), (-1.6, 0.0)])
def test_every_bound_gives_the_gradient_of_the_expected_reward(bound, mean, log_std):
    """∇ E f(bounded u) by finite differences of the expectation, by the raw score, through the bound, and under clip by
    CAPG's score: all equal; CAPG's variance is not greater."""
    space = Box((-1.0,), (1.0,), bound)

    def expectation(mean, log_std):
        u = np.linspace(-12, 12, 40_001)
        values = np.asarray(reward(space.to_env(jnp.asarray(u[:, None], jnp.float32))[:, 0]), np.float64)
        return integrate.trapezoid(values * stats.norm(mean, np.exp(log_std)).pdf(u), u)

    h = 1e-3
    exact = np.array([
        (expectation(mean + h, log_std) - expectation(mean - h, log_std)) / (2 * h),
        (expectation(mean, log_std + h) - expectation(mean, log_std - h)) / (2 * h),
    ])  # fmt: skip
    raw, raw_variance = one_step(Gaussian, mean, log_std, reward, space)
    np.testing.assert_allclose(raw, exact, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(through_the_bound(mean, log_std, reward, space), exact, rtol=2e-3, atol=2e-4)
    if bound == "tanh":
        # squashed by the policy and by the environment; and a density of the squashed action that looks at it as at u
        twice = through_the_bound(mean, log_std, reward, space, lambda u: space.to_env(jnp.tanh(u)))
        assert abs(twice - exact).max() > 0.02
        assert abs(one_step(_Squashed, mean, log_std, reward, space)[0] - exact).max() > 0.02
    if bound == "clip":
        capg, capg_variance = one_step(ClippedGaussian, mean, log_std, reward, space)
        np.testing.assert_allclose(capg, exact, rtol=2e-3, atol=2e-4)
        assert (capg_variance <= raw_variance * (1 + 1e-6)).all() and capg_variance.sum() < 0.99 * raw_variance.sum()
        # to store the clipped action and score it as a density: what several published programs do
        stored, _ = one_step(_Stored, mean, log_std, reward, space)
        assert abs(stored - exact).max() > 0.02


class _Squashed(Gaussian):
    """A mutant: the action is squashed before it is stored."""

    def log_prob(self, action):
        return super().log_prob(jnp.tanh(action))


class _Stored(Gaussian):
    """A mutant: the action is clipped before it is stored."""

    def log_prob(self, action):
        low, high = (edge[:, None] for edge in self.actions.edges)
        return super().log_prob(jnp.clip(action, low, high))


def test_a_clipped_score_is_finite_far_out_and_beside_infinite_ends():
    pi = ClippedGaussian(jnp.array([[50.0], [0.0], [0.0]]), jnp.full((3, 1), -3.0), SPACE)
    score = jax.grad(lambda pi: pi.log_prob(jnp.array([[-1.0], [0.5], [1e4]])).sum())(pi)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(score))


# The network beside it

MAKE = partial(MLPPolicy, 4, Box((-1.0,) * A, (1.0,) * A), width=8, depth=1, activation="tanh", key=jax.random.key(0))


@pytest.mark.parametrize("state_dependent_std", [False, True])
def test_a_gaussian_policy_begins_where_it_is_told(state_dependent_std):
    """A small mean whatever is seen, and the wanted σ."""
    pi = MAKE(std=0.5, state_dependent_std=state_dependent_std)(draw(4, 100))
    assert abs(pi.mean).max() < 0.02 and pi.mean.std() > 0
    np.testing.assert_allclose(jnp.exp(pi.log_std), 0.5, rtol=0.02 if state_dependent_std else 1e-5)
    assert MAKE(last_layer_scale=1.0)(draw(4, 100)).mean.std() > 0.1


def test_no_floor_holds_a_standard_deviation_for_ever():
    """Below the floor `max` would have no gradient, and σ would stay there whatever the rewards say."""
    policy = eqx.tree_at(lambda p: p.rho, MAKE(log_std_floor=-2.0), jnp.full(A, -9.0))
    obs = draw(4, 1)
    assert float(policy(obs).log_std.min()) == pytest.approx(-2.0, abs=1e-3)
    away = jax.grad(lambda p: p(obs).log_prob(p(obs).mean + 1.0)[0])(policy)
    assert (away.rho > 0).all()


def test_of_a_gaussian_metrics_say_how_wide_it_is_and_how_much_is_cut_off():
    pi = Gaussian(jnp.zeros((2, 3)), jnp.log(jnp.array([[1.0, 2.0, 9.0], [3.0, 4.0, 9.0]])), Box((-1.0,) * 2, (1.0,) * 2))
    action, taken = jnp.array([[0.5, -1.0, 7.0], [1.0, 0.0, 7.0]]), jnp.array([True, True, False])
    said = pi.columns(action, taken)
    assert {name: float(x) for name, x in said.items()} == {"std_mean": 2.5, "std_min": 1.0, "saturated_share": 0.5}
    squashed = Gaussian(pi.mean, pi.log_std, pi.actions._replace(bound="tanh")).columns(action * FLAT, taken)
    assert float(squashed["saturated_share"]) == 0.5
    assert "saturated_share" not in Gaussian(pi.mean, pi.log_std, pi.actions._replace(bound="none")).columns(action, taken)


def test_a_discrete_space_makes_a_categorical():
    policy = MLPPolicy(4, Discrete(5), width=8, depth=1, activation="tanh", key=jax.random.key(0))
    assert policy(draw(4, 2)).support().tolist() == [0, 1, 2, 3, 4] and policy.rho is None


def test_of_a_categorical_metrics_say_how_often_its_most_frequent_action_was_taken():
    """Of three actions: of two, the share of all others is as large as that of the most frequent one."""
    taken = jnp.array([True, True, True, True, True, False, False])
    said = Categorical(jnp.zeros((3, N))).columns(jnp.array([2, 0, 2, 1, 2, 0, 0]), taken)
    assert {name: float(x) for name, x in said.items()} == {"action_share": pytest.approx(3 / 5)}
