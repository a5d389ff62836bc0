"""Rounding is not divided by rounding: where nothing differs there is nothing to learn, whatever float32 leaves of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quick import quickly_compiled

from pgx.advantages import weights
from pgx.algorithm import Algorithm
from pgx.critics import LeaveOneOut, NoCritic
from pgx.diagnosis.value import fit_value
from pgx.estimators import vanilla
from pgx.metrics import gradient_quality
from pgx.optimiser import Optimiser
from pgx.policies import MLPPolicy
from pgx.rounding import differ, equal, explained_variance
from pgx.spaces import Discrete
from pgx.types import Episodes, TrainState
from pgx.update import update
from pgx.updates.gradient import GradientStep

T, B = 200, 10
MASK = jnp.ones((T, B), bool)
POLICY = MLPPolicy(3, Discrete(2), width=4, depth=1, activation="tanh", key=jax.random.key(0))


def algorithm(estimator, critic, gamma, whiten) -> Algorithm:
    of_gamma = jax.tree_util.Partial(estimator, gamma=jnp.float32(gamma))
    return Algorithm(of_gamma, critic, GradientStep(Optimiser("adam", 0.01), 0.0), jnp.float32(gamma), whiten, False, False)


WHITENED = algorithm(vanilla, NoCritic(), 1.0, True)
whiten = quickly_compiled(lambda advantage: weights(advantage, MASK, WHITENED))


@settings(max_examples=60, deadline=None)
@given(st.floats(-20, 20).map(lambda x: float(np.sign(x) * 10.0 ** abs(x))), st.integers(0, 2**32 - 1))
def test_whitening_equal_advantages_gives_exactly_nothing(value, seed):
    """Of any size, and where they are equal only up to the last places of float32."""
    last_places = np.random.default_rng(seed).choice([-1e-7, 0.0, 1e-7], (T, B))
    for advantage in (np.full((T, B), value), value * (1 + last_places)):
        assert not np.asarray(whiten(jnp.asarray(advantage, jnp.float32))).any()


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-15, 1e15), st.floats(-100, 100))
def test_whitening_does_not_see_shift_and_scale(scale, shift):
    """The guard is as large as what it guards: advantages of 1e-15 are whitened like those of 1."""
    x = np.random.default_rng(0).normal(size=(T, B))
    expected = (x - x.mean()) / x.std()
    np.testing.assert_allclose(whiten(jnp.asarray(scale * (x + shift), jnp.float32)), expected, atol=2e-3)


@pytest.mark.parametrize("gamma", [0.999, 0.9])
@pytest.mark.parametrize("name", ["vanilla, whitened", "leave_one_out", "leave_one_out, whitened"])
def test_equal_returns_move_no_policy(name, gamma):
    """All episodes at the time limit, and as good as each other: the gradient is 0, and so is Adam's step, which would
    be as long for a gradient of rounding as for any other."""
    critic = LeaveOneOut() if "leave" in name else NoCritic()
    chosen = algorithm(vanilla, critic, gamma, "whitened" in name)
    rng = np.random.default_rng(0)
    episodes = Episodes(
        obs=jnp.asarray(rng.normal(size=(T, B, 3)), jnp.float32), action=jnp.asarray(rng.integers(0, 2, (T, B)), jnp.int32),
        reward=jnp.full((T, B), -1.0), mask=MASK, terminated=jnp.zeros(B, bool), last_obs=jnp.zeros((B, 3)),
    )  # fmt: skip
    recent, start = jnp.full(100, jnp.nan, jnp.float32), chosen.update.init(POLICY)
    state = TrainState(POLICY, start, None, recent, jnp.zeros((), jnp.int32))
    one = quickly_compiled(lambda state: update(state, episodes, chosen, jax.random.key(0), jnp.array(True)))
    new, row = one(state)
    assert float(row["grad_norm"]) == 0.0 and np.isnan(row["grad_snr"])
    assert float(optax.tree.norm(jax.tree.map(jnp.subtract, new.policy, POLICY))) == 0.0


def test_ratios_of_nothing_are_not_numbers():
    """Explained variance of returns that are all the same, and the signal of gradients that are all the same."""
    same = jnp.full((T, B), 134.02) * (1 + jnp.asarray(np.random.default_rng(0).choice([0, 1e-7], (T, B)), jnp.float32))
    assert np.isnan(explained_variance(same, 0.9 * same, MASK))
    varied = same + jnp.broadcast_to(jnp.arange(B, dtype=jnp.float32), (T, B))
    assert float(explained_variance(varied, varied, MASK)) == 1.0
    for norm, spread in ((0.0, 0.0), (3.0, 1e-13), (3.0, 0.0)):
        assert np.isnan(gradient_quality(jnp.float32(norm), jnp.float32(spread), 10, None)["grad_snr"])
    assert float(gradient_quality(jnp.float32(3.0), jnp.float32(1e-3), 10, None)["grad_snr"]) > 1e4


def test_what_is_not_finite_is_equal_to_nothing():
    """A guard that took NaN for no difference would hide a run that diverges."""
    x = jnp.array([1.0, 1.0])
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert differ(x.at[0].set(bad)) and not equal(x.at[0].set(bad), x, jnp.ones(2, bool))
    assert not differ(x) and equal(x, x + 1e-7, jnp.ones(2, bool))
    assert equal(0 * x, 0 * x) and not differ(0 * x) and not equal(0 * x, x) and not equal(x, x + 1e-5)
    assert not np.isfinite(weights(jnp.full((T, B), jnp.nan), MASK, WHITENED)).any()


def test_an_observation_that_never_changes_has_no_scale():
    """Its standard deviation is rounding: divided by it, V's features would be noise."""
    rng = np.random.default_rng(0)
    obs = np.stack([np.full((T, B), 1234.567), rng.normal(size=(T, B))], -1).astype(np.float32)
    reward = jnp.asarray(rng.normal(size=(T, B)), jnp.float32)
    episodes = Episodes(jnp.asarray(obs), jnp.zeros((T, B), jnp.int32), reward, MASK, jnp.ones(B, bool), jnp.zeros((B, 2)))
    value = quickly_compiled(lambda episodes: fit_value(episodes, 0.9, jax.random.key(0)))(episodes)
    assert float(value.scale[0]) == 1.0 and float(value.scale[1]) == pytest.approx(1.0, abs=0.1)
