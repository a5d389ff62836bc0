"""What is differentiated. Each takes N steps of any episodes and returns a sum over them.

Sums, not means: the caller divides by the number of *episodes* (policy) or of valid steps (critic).
A mean over the steps of one's own episode would weigh steps by 1/length and optimise something else.
The caller sets `weight` to 0 on padding; that is the only masking a loss needs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def policy_loss(log_prob: Float[Array, " N"], advantage: Float[Array, " N"]) -> Float[Array, ""]:
    """−Σ log π(a|s) · stop_gradient(A): its gradient is minus the policy gradient; its value means nothing."""
    return -(log_prob * jax.lax.stop_gradient(advantage)).sum()


def value_loss(value: Float[Array, " N"], target: Float[Array, " N"], weight: Float[Array, " N"]) -> Float[Array, ""]:
    """Σ weight · (V(s) − G)²."""
    return (weight * (value - jax.lax.stop_gradient(target)) ** 2).sum()


def clipped_value_loss(
    value: Float[Array, " N"],
    before: Float[Array, " N"],
    target: Float[Array, " N"],
    weight: Float[Array, " N"],
    clip: float | Float[Array, ""],
) -> Float[Array, ""]:
    """Σ weight · max((V(s) − G)², (V_before(s) + clip(V(s) − V_before(s), ±ε) − G)²): the larger of two errors, so that V
    gains nothing by moving further than ε."""
    target = jax.lax.stop_gradient(target)
    error, of_clipped = value - target, before + jnp.clip(value - before, -clip, clip) - target
    return (weight * jnp.maximum(error**2, of_clipped**2)).sum()
