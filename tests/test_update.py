"""One update against numpy, episode by episode and step by step."""

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from estimands import BONUS, G_LAMBDA, GAMMA, KEY, POLICY, VALUE, G, V, algorithm, state_for
from jax.flatten_util import ravel_pytree
from mdp import TabularMDP, Theta, discounted, with_room
from quick import quickly_compiled

from pgx.advantages import weights
from pgx.critics import LeaveOneOut
from pgx.loop import Keys, Limits, advance, chunk
from pgx.networks import MLP
from pgx.optimiser import Optimiser
from pgx.rollout import rollout
from pgx.types import Episodes
from pgx.update import update
from pgx.updates.gradient import GradientStep

LENGTHS = {
    "one block": ((1, 32, 33, 64, 70), 70),
    "a few of its steps": ((3, 1, 7, 20, 2), 70),
    "several, and episodes over three": ((300, 10, 640, 1, 330), 640),
    "full blocks": ((320, 320, 160, 160, 320), 320),
}
"""Lengths of a batch's episodes, and what they are padded to; on a CPU a block has 320 steps."""
BATCHES = {name: (*batch, None) for name, batch in LENGTHS.items()} | {
    "room for more": (*LENGTHS["a few of its steps"], 9),
    "room for more, several blocks": ((300, 10, 640), 640, 4),
}
"""… and the columns that there are, where not all of them are episodes."""


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


@pytest.mark.parametrize("lengths, padded_to, columns", BATCHES.values(), ids=BATCHES)
def test_one_update_step_by_step(lengths, padded_to, columns):
    """Every number of an update, recomputed naively; rewards and lengths differ, padding is random."""
    episodes = random_episodes(lengths, padded_to)
    if columns is not None:
        episodes = with_room(episodes, columns)
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

    undiscounted = np.asarray(episodes.reward, np.float64).sum(0)[: len(lengths)]
    assert float(row["return_mean"]) == pytest.approx(undiscounted.mean(), rel=1e-4, abs=1e-5)
    assert float(row["return_std"]) == pytest.approx(undiscounted.std(), rel=1e-4)
    assert float(row["return_max"]) == pytest.approx(undiscounted.max(), rel=1e-4)
    assert float(row["return_min"]) == pytest.approx(undiscounted.min(), rel=1e-4)
    assert int(row["episodes"]) == len(lengths)
    np.testing.assert_allclose(new.recent_returns[-len(lengths) :], undiscounted, rtol=1e-4, atol=1e-5)
    assert np.isnan(new.recent_returns[: -len(lengths)]).all()
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
    beside = jnp.asarray(np.column_stack([target, np.full((6, 2), 7.0)]), jnp.float32)
    with_two_more = LeaveOneOut().baseline(None, with_room(episodes, 5), beside)
    for b in range(3):
        expected = np.where(episodes.mask[:, b], np.delete(target[0], b).mean(), 0)
        np.testing.assert_allclose(found[:, b], expected, rtol=1e-5)
        np.testing.assert_allclose(with_two_more[:, b], expected, rtol=1e-5)


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
