"""Ψ of one episode: against another library, against loops, and where the answer is known by heart."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from quick import quickly_compiled

from pgx.estimators import lambda_return, reward_to_go, vanilla

T, N = 12, 40
rng = np.random.default_rng(0)
LENGTHS = rng.choice([1, 2, 7, T], N)  # few, because each compiles
MASK = np.arange(T) < LENGTHS[:, None]
# not a number on padding: whoever reads it, shows it
REWARD, VALUE = (np.where(MASK, rng.normal(size=(N, T)), np.nan).astype(np.float32) for _ in range(2))
BOOTSTRAP = np.where(rng.random(N) < 0.5, rng.normal(size=N), 0.0).astype(np.float32)


def on_every_episode(estimator, **numbers) -> np.ndarray:
    """[N,T]"""
    each = quickly_compiled(jax.vmap(lambda *episode: estimator(*episode, **numbers)))
    return np.asarray(each(*(jnp.asarray(x) for x in (REWARD, VALUE, MASK, BOOTSTRAP))))


def episodes():
    """(number, length, reward, value, bootstrap), without padding, in float64."""
    for n, length in enumerate(LENGTHS):
        yield n, length, np.float64(REWARD[n, :length]), np.float64(VALUE[n, :length]), float(BOOTSTRAP[n])


@quickly_compiled
def rlax_lambda_returns(reward, following, gamma, lam):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return rlax.lambda_returns(reward, jnp.full_like(reward, gamma), following, lam)


@quickly_compiled
def rlax_discounted_returns(reward, bootstrap, gamma):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return rlax.discounted_returns(reward, jnp.full_like(reward, gamma), bootstrap)


@pytest.mark.parametrize("gamma", [0.0, 0.9, 1.0])
def test_reward_to_go_is_rlaxs_discounted_returns(gamma):
    """An independent implementation agrees at every length, padded or not."""
    found = on_every_episode(reward_to_go, gamma=gamma)
    for n, length, reward, _, bootstrap in episodes():
        theirs = rlax_discounted_returns(np.float32(reward), np.float32(bootstrap), gamma)
        np.testing.assert_allclose(found[n, :length], theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gamma, lam", [(0.9, 0.7), (1.0, 0.3), (0.9, 0.0), (0.9, 1.0)])
def test_lambda_return_is_rlaxs(gamma, lam):
    """Theirs takes the values of the states that follow, ours those of the states themselves."""
    found = on_every_episode(lambda_return, gamma=gamma, lam=lam)
    for n, length, reward, value, bootstrap in episodes():
        following = np.append(value[1:], bootstrap)
        theirs = rlax_lambda_returns(np.float32(reward), np.float32(following), gamma, lam)
        np.testing.assert_allclose(found[n, :length], theirs, rtol=1e-5, atol=1e-5)


def n_step(reward, value, bootstrap, t, n, gamma):
    """n rewards, then the value of where one is; past the end, the bootstrap."""
    last = value[t + n] if t + n < len(reward) else bootstrap
    return sum(gamma**k * reward[t + k] for k in range(n)) + gamma**n * last


@pytest.mark.parametrize("gamma, lam", [(0.9, 0.7), (1.0, 1.0), (0.5, 0.0)])
def test_every_estimator_is_its_definition(gamma, lam):
    """Definitions look forward, the code goes backward: sums as the textbook writes them, one term at a time."""
    whole = on_every_episode(vanilla, gamma=gamma)
    to_go = on_every_episode(reward_to_go, gamma=gamma)
    mixed = on_every_episode(lambda_return, gamma=gamma, lam=lam)
    for n, length, reward, value, bootstrap in episodes():
        reward, value = reward.tolist(), value.tolist()
        for t in range(length):
            left = length - t
            steps = [n_step(reward, value, bootstrap, t, k, gamma) for k in range(1, left + 1)]
            average = sum((1 - lam) * lam**k * g for k, g in enumerate(steps[:-1])) + lam ** (left - 1) * steps[-1]
            expected = n_step(reward, value, bootstrap, 0, length, gamma), steps[-1], average
            np.testing.assert_allclose((whole[n, t], to_go[n, t], mixed[n, t]), expected, rtol=1e-5, atol=1e-5)


def test_without_foresight_only_the_reward_counts():
    """γ = 0, for all but the whole return, which is then the first reward."""
    first = np.where(MASK, REWARD[:, :1], 0)
    for estimator, expected in ((reward_to_go, REWARD), (partial(lambda_return, lam=0.7), REWARD), (vanilla, first)):
        found = on_every_episode(estimator, gamma=0.0)
        np.testing.assert_allclose(found[MASK], expected[MASK], rtol=1e-6)


def test_lambda_spans_from_one_step_to_the_whole_return():
    """λ = 1 is the reward-to-go whatever V says; λ = 0 is r_t + γ V(s_{t+1})."""
    whole = on_every_episode(lambda_return, gamma=0.9, lam=1.0)
    np.testing.assert_allclose(whole[MASK], on_every_episode(reward_to_go, gamma=0.9)[MASK], rtol=1e-6, atol=1e-6)
    one_step = on_every_episode(lambda_return, gamma=0.9, lam=0.0)
    for n, length, reward, value, bootstrap in episodes():
        expected = reward + 0.9 * np.append(value[1:], bootstrap)
        np.testing.assert_allclose(one_step[n, :length], expected, rtol=1e-5, atol=1e-5)


def test_lambda_return_minus_v_is_the_generalised_advantage():
    """Σ_k (γλ)^k δ_{t+k}, as Schulman et al. write it."""
    gamma, lam = 0.9, 0.7
    found = on_every_episode(lambda_return, gamma=gamma, lam=lam) - VALUE
    for n, length, reward, value, bootstrap in episodes():
        delta = reward + gamma * np.append(value[1:], bootstrap) - value
        for t in range(length):
            expected = sum((gamma * lam) ** k * d for k, d in enumerate(delta[t:]))
            assert found[n, t] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("estimator", [vanilla, reward_to_go, partial(lambda_return, lam=0.7)])
def test_longer_padding_changes_nothing(estimator):
    """An episode's Ψ may not depend on how long the others are allowed to be."""
    of_one = quickly_compiled(jax.vmap(partial(estimator, gamma=0.9)))
    short = of_one(*(jnp.asarray(x) for x in (REWARD, VALUE, MASK, BOOTSTRAP)))
    more = [np.pad(x, ((0, 0), (0, 29)), constant_values=c) for x, c in ((REWARD, 5), (VALUE, 5), (MASK, False))]
    long = of_one(*(jnp.asarray(x) for x in (*more, BOOTSTRAP)))
    np.testing.assert_allclose(np.asarray(long)[:, :T][MASK], np.asarray(short)[MASK], rtol=1e-5, atol=1e-6)


def test_known_by_heart():
    """1 + ½·2 + ¼·4 = 3 … and the bootstrap comes after the last reward, one discount further."""
    reward, value, mask = jnp.array([1.0, 2.0, 4.0, 0.0]), jnp.zeros(4), jnp.array([True, True, True, False])
    ended, cut = jnp.array(0.0), jnp.array(8.0)
    half = {"gamma": 0.5}
    assert reward_to_go(reward, value, mask, ended, **half)[:3].tolist() == [3.0, 4.0, 4.0]
    assert reward_to_go(reward, value, mask, cut, **half)[:3].tolist() == [4.0, 6.0, 8.0]
    assert vanilla(reward, value, mask, ended, **half)[:3].tolist() == [3.0, 3.0, 3.0]
    assert vanilla(reward, value, mask, cut, **half)[:3].tolist() == [4.0, 4.0, 4.0]
    value = jnp.array([1.0, 10.0, 20.0, 99.0])
    assert lambda_return(reward, value, mask, cut, gamma=0.5, lam=0.0)[:3].tolist() == [6.0, 12.0, 8.0]
