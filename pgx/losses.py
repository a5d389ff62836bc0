"""What is differentiated. Each takes N steps of any episodes and returns a sum over them.

Sums, not means: the caller divides by the number of *episodes* (policy) or of valid steps (critic).
A mean over the steps of one's own episode would weigh steps by 1/length and optimise something else.
Whoever calls zeroes `weight` on padding; that is the only masking a loss needs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def log_probabilities(policy, obs: Float[Array, "O N"]) -> Float[Array, "A N"]:
    """log π(·|s) of every step. Steps come last: on a CPU the long axis must be the contiguous one."""
    return jax.nn.log_softmax(policy(obs), axis=0)


def select(log_probs: Float[Array, "A N"], action: Int[Array, " N"]) -> Float[Array, " N"]:
    """log π(a|s). A one-hot product: the gradient of a gather is a scatter, which is slow on a CPU."""
    return (log_probs * jax.nn.one_hot(action, log_probs.shape[0], axis=0)).sum(0)


def entropy(log_probs: Float[Array, "A N"]) -> Float[Array, " N"]:
    """H(π(·|s)) = −Σ_a π log π, in nats."""
    return -(jnp.exp(log_probs) * log_probs).sum(0)


def kl(old: Float[Array, "A N"], new: Float[Array, "A N"]) -> Float[Array, " N"]:
    """KL(old ‖ new) = Σ_a old (log old − log new), closed form, in nats."""
    return (jnp.exp(old) * (old - new)).sum(0)


def policy_loss(
    log_probs: Float[Array, "A N"], action: Int[Array, " N"], advantage: Float[Array, " N"]
) -> Float[Array, ""]:
    """−Σ log π(a|s) · stop_gradient(A): its gradient is minus the policy gradient; its value means nothing."""
    return -(select(log_probs, action) * jax.lax.stop_gradient(advantage)).sum()


def value_loss(
    value: Float[Array, " N"], target: Float[Array, " N"], weight: Float[Array, " N"]
) -> Float[Array, ""]:
    """Σ weight · (V(s) − G)²."""
    return (weight * (value - jax.lax.stop_gradient(target)) ** 2).sum()
