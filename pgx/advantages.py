"""What multiplies ∇ log π(a_t|s_t): A_t = Ψ_t − b(s_t), and what the switches make of it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from pgx.algorithm import Algorithm
from pgx.estimators import reward_to_go
from pgx.rounding import differ, equal
from pgx.types import Episodes


class Weighted(NamedTuple):
    """Numbers of every step; what stands on padding is 0 in `weight` and means nothing in the others."""

    returns: Float[Array, "T B"]
    """The reward-to-go, to which V is fitted."""
    baseline: Float[Array, "T B"]
    weight: Float[Array, "T B"]


def weigh(critic_state: PyTree, episodes: Episodes, algorithm: Algorithm) -> Weighted:
    """Returns, b and the weights of a batch, by the critic as it is before it is fitted to this batch."""
    bootstrap = jnp.zeros(episodes.terminated.shape)
    if algorithm.bootstrap_truncated:
        after = algorithm.critic.bootstrap(critic_state, episodes.last_obs)
        bootstrap = jnp.where(episodes.terminated, 0.0, jax.lax.stop_gradient(after))

    zeros = jnp.zeros_like(episodes.reward)
    returns = each_episode(reward_to_go, episodes, zeros, bootstrap, gamma=algorithm.gamma)
    baseline = algorithm.critic.baseline(critic_state, episodes, returns)
    psi = each_episode(algorithm.estimator, episodes, baseline, bootstrap)
    advantage = psi - baseline
    if (divisor := algorithm.critic.divisor(episodes, returns)) is not None:
        advantage = advantage / divisor[None]
    weight = weights(advantage, episodes.mask, algorithm)
    return Weighted(returns, baseline, jnp.where(equal(psi, baseline, episodes.mask), 0.0, weight))


def weights(advantage: Float[Array, "T B"], mask: Bool[Array, "T B"], algorithm: Algorithm) -> Float[Array, "T B"]:
    """The advantage, 0 on padding, changed by whichever switches are on."""
    if algorithm.whiten:
        advantage = whitened(advantage, mask)
    if algorithm.discount_power:
        advantage = advantage * algorithm.gamma ** jnp.arange(mask.shape[0], dtype=advantage.dtype)[:, None]
    return aggregated(jnp.where(mask, advantage, 0.0), mask, algorithm.aggregation)


def aggregated(weight: Float[Array, "T B"], mask: Bool[Array, "T B"], aggregation: str) -> Float[Array, "T B"]:
    """Weights whose sum over the steps of all episodes, divided by B, is what `aggregation` says. It is of A alone: the
    entropy bonus and the penalty on the KL remain sums over the steps of an episode.

    sum         (1/B) Σ_b Σ_t: the expectation is the gradient.
    own_mean    (1/B) Σ_b (1/L_b) Σ_t (GRPO): with Ψ = R(τ) it ascends E[(R(τ) − b)/L], b held. A step counts for less the
                longer its episode, and b is no longer without effect: (R − b)/L grows with L where R < b.
    batch_mean  (1/n) Σ_b Σ_t over the n steps of the batch (DAPO): 1/E[L] of the gradient where B is large. n is that of
                these very episodes, so it is biased by an order of 1/B; batches of long episodes count for less.
    """
    if aggregation == "sum":
        return weight
    length = mask.sum(0, dtype=weight.dtype)
    if aggregation == "batch_mean":
        length = length.sum(keepdims=True) / jnp.maximum(mask[0].sum(dtype=weight.dtype), 1)
    return weight / jnp.maximum(length, 1)[None]


def whitened(advantage: Float[Array, "*n"], mask: Bool[Array, "*n"]) -> Float[Array, "*n"]:
    """To mean 0 and standard deviation 1 where `mask` is True; 0 if all are equal there."""
    deviation = advantage - advantage.mean(where=mask)
    return jnp.where(differ(advantage, mask), deviation / advantage.std(where=mask), 0.0)


def each_episode(
    estimator: Callable, episodes: Episodes, value: Float[Array, "T B"], bootstrap: Float[Array, " B"], **numbers
) -> Float[Array, "T B"]:
    """Ψ of every episode."""
    over_episodes = jax.vmap(lambda *episode: estimator(*episode, **numbers), in_axes=(1, 1, 1, 0), out_axes=1)
    return over_episodes(episodes.reward, value, episodes.mask, bootstrap)
