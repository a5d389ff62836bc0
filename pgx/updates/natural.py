"""The gradient by the policy's own measure of distance: natural, and within a trust region (TRPO).

    x = (F + λI)⁻¹ g      F = (1/n) Σ ∇²KL(π_θ(·|s) ‖ π_θ'(·|s)) at θ' = θ

g and F are means over the n steps of the batch, so that ½ xᵀFx is the KL that `kl` in metrics.csv measures. F is never
made: conjugate gradients ask for its products with vectors only, each a pass through the blocks.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from pgx.blocks import Blocks, fold
from pgx.lanes import largest
from pgx.updates.gradient import Gradient, GradientStep


class Natural(GradientStep):
    """θ ← θ − optimiser(x) with g the gradient of the loss (Kakade 2001)."""

    damping: float | Float[Array, ""]
    """λ."""
    iterations: int = eqx.field(static=True)
    """Of conjugate gradients, at most."""

    def move(self, policy, state, found, steps):
        direction, _ = self.direction(policy, found.gradient, steps)
        return *self.optimiser.step(policy, direction, state), {}

    def direction(self, policy: PyTree, gradient: PyTree, steps: Blocks) -> tuple[PyTree, Float[Array, ""]]:
        """(x, xᵀ(F + λI)x)."""
        flat, unravel = ravel_pytree(jax.tree.map(lambda g: g / steps.mean_length, gradient))
        product = lambda v: fisher_product(policy, steps, unravel(v)) + self.damping * v
        x, _ = jax.scipy.sparse.linalg.cg(product, flat, maxiter=self.iterations)
        return unravel(x), x @ flat  # what is left of g is orthogonal to x, after however many iterations


class TRPO(Natural):
    """The longest of √(2δ / xᵀ(F + λI)x) · 2⁻ᵏ x that improves the surrogate (1/n) Σ ρA + c H and moves the policy by a KL
    of no more than δ; no step at all where none does (Schulman et al. 2015, appendix C). It has no learning rate."""

    max_kl: float | Float[Array, ""]
    """δ."""
    halvings: int = eqx.field(static=True)
    """The most, before it stays where it is."""

    def init(self, policy):
        """No optimiser steps."""
        return ()

    def move(self, policy, state, found, steps):
        direction, square = self.direction(policy, found.gradient, steps)
        whole = jnp.where(square > 0, jnp.sqrt(2 * self.max_kl / square), 0.0)
        before, _ = self.surrogate(policy, found, steps)

        def stepped(halvings: Int[Array, ""]) -> PyTree:
            length = whole * 0.5 ** halvings.astype(jnp.float32)
            return eqx.apply_updates(policy, jax.tree.map(lambda x: -length * x, direction))

        def attempt(carry):
            halvings, found_one = carry
            after, kl = self.surrogate(stepped(halvings), found, steps)
            good = found_one | ((after > before) & (kl <= self.max_kl))
            return jnp.where(good, halvings, halvings + 1), good

        searching = lambda carry: largest(~carry[1] & (carry[0] <= self.halvings))
        halvings, found_one = jax.lax.while_loop(searching, attempt, (jnp.array(0), whole == 0))
        new = jax.tree.map(lambda new, old: jnp.where(found_one, new, old), stepped(halvings), policy)
        return new, state, {"halvings": halvings}

    def surrogate(self, policy: PyTree, old: Gradient, steps: Blocks) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """((1/n) Σ ρA + c H, KL(old ‖ policy)) over the steps."""

        def of_block(block, position):
            block, old = block
            pi = policy(block.obs)
            ratio = jnp.exp(pi.log_prob(block.action) - old.log_prob(block.action))
            gain = ratio * block.weight + self.entropy_coefficient * pi.entropy()
            return [jnp.where(position < steps.steps, x, 0.0).sum() for x in (gain, old.kl(pi))], ()

        sums, _ = fold(of_block, steps._replace(arrays=(steps.arrays, old.pi)))
        gain, kl = (x / steps.steps.astype(jnp.float32) for x in sums)
        return gain, kl


def fisher_product(policy: PyTree, steps: Blocks, vector: PyTree) -> Float[Array, " P"]:
    """Fv, flat: the derivative of ∇KL(π_θ ‖ π_θ') along v, which is the same for any family of distributions."""
    parameters, rest = eqx.partition(policy, eqx.is_inexact_array)

    def of_block(obs, position):
        old = policy(obs)

        def kl(parameters):
            return jnp.where(position < steps.steps, old.kl(eqx.combine(parameters, rest)(obs)), 0.0).sum()

        return jax.jvp(jax.grad(kl), (parameters,), (vector,))[1], ()

    total, _ = fold(of_block, steps._replace(arrays=steps.arrays.obs))
    return ravel_pytree(total)[0] / steps.steps.astype(jnp.float32)
