"""One gradient step a batch (REINFORCE): sums over the steps of an episode, means over episodes."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PyTree

from pgx.blocks import Blocks, fold, fold_each
from pgx.device import on_cpu
from pgx.losses import policy_loss
from pgx.optimiser import OptimiserLike
from pgx.policies import Distribution
from pgx.types import Metrics, Steps
from pgx.updates.base import Moved, PolicyUpdate


class GradientStep(PolicyUpdate):
    """θ ← θ + optimiser(1/B Σ_b Σ_t ∇ log π(a_t|s_t) A_t + c ∇H)."""

    optimiser: OptimiserLike
    entropy_coefficient: float | Float[Array, ""]

    def __call__(self, policy, state, steps, key, diagnose):
        loss_and_gradient = of_policy(policy, self.entropy_coefficient)
        found = gradient(loss_and_gradient, steps)
        apart = spread(loss_and_gradient, steps, found.gradient, diagnose)
        norm = optax.global_norm(found.gradient)
        new, state, more = self.move(policy, state, found, steps)
        moved = Moved(
            loss=found.loss,
            entropy=found.entropy / steps.mean_length,
            grad_norm=norm,
            batch_norm=norm,
            spread=apart,
            kl=mean_kl(found.pi, new, steps),
            columns=found.pi.columns(steps.arrays.action, steps.taken) | more,
        )
        return new, state, moved

    def move(self, policy: PyTree, state: PyTree, found: "Gradient", steps: Blocks) -> tuple[PyTree, PyTree, Metrics]:
        """(new policy, new state, columns): what is done with the gradient."""
        return *self.optimiser.step(policy, found.gradient, state), {}


class Gradient(NamedTuple):
    """Of the batch: sums over steps, means over episodes."""

    loss: Float[Array, ""]
    entropy: Float[Array, ""]
    gradient: PyTree
    pi: Distribution
    """π(·|s) of every step, packed as the steps are."""


def block_loss(policy: PyTree, block: Steps, share: Float[Array, " N"], entropy_coefficient: float | Float[Array, ""]):
    """Loss of a block of N steps; `share` is 1/B on steps that were taken and 0 on padding."""
    pi = policy(block.obs)
    mean_entropy = (share * pi.entropy()).sum()
    loss = policy_loss(pi.log_prob(block.action), share * block.weight) - entropy_coefficient * mean_entropy
    return loss, (mean_entropy, pi)


def of_policy(policy: PyTree, entropy_coefficient: float | Float[Array, ""]) -> Callable:
    """(block, share) → (what `block_loss` gives, its gradient). Traced once for all loops over blocks."""
    loss_and_gradient = eqx.filter_value_and_grad(block_loss, has_aux=True)
    return jax.jit(lambda block, share: loss_and_gradient(policy, block, share, entropy_coefficient))


def gradient(
    loss_and_gradient: Callable, steps: Blocks, segment: tuple[Int[Array, ""], Int[Array, ""]] | None = None
) -> Gradient:
    """The gradient of the batch's loss, or what a segment of its steps has in it."""

    def of_block(block, position):
        share = jnp.where(position < steps.steps, 1 / steps.num_episodes, 0.0)
        (loss, (entropy, pi)), gradient = loss_and_gradient(block, share)
        return (loss, entropy, gradient), pi

    sums, pi = fold(of_block, steps, segment)
    return Gradient(*sums, pi)


def spread(loss_and_gradient: Callable, steps: Blocks, mean: PyTree, diagnose: Bool[Array, ""]) -> Float[Array, ""]:
    """Σ_k ‖g_k − ḡ‖², where g_k is the gradient that episode k, or group k of them, alone would give and ḡ their `mean`; 0
    without `diagnose`."""
    mean, _ = ravel_pytree(mean)
    if not on_cpu():
        return jax.lax.cond(diagnose, lambda: _spread_at_once(loss_and_gradient, steps, mean), lambda: jnp.zeros(()))
    (first, last), size = steps.units, steps.group_size or 1

    def one_more(k, spread):
        def of_block(block, position):
            share = jnp.where((first[k] <= position) & (position < last[k]), 1 / size, 0.0)
            return loss_and_gradient(block, share)[1], ()

        of_unit, _ = fold(of_block, steps, (first[k], last[k]))
        return spread + ((ravel_pytree(of_unit)[0] - mean) ** 2).sum()

    return jax.lax.fori_loop(0, jnp.where(diagnose, steps.num_episodes // size, 0), one_more, jnp.zeros(()))


def _spread_at_once(loss_and_gradient: Callable, steps: Blocks, mean: Float[Array, " P"]) -> Float[Array, ""]:
    """The same from the gradients of all episodes, side by side."""
    of_episode = lambda block, taken: ravel_pytree(loss_and_gradient(block, jnp.where(taken, 1.0, 0.0))[1])[0]
    size = steps.group_size or 1
    of_unit = fold_each(of_episode, steps).reshape(-1, size, len(mean)).mean(1)
    squares = ((of_unit - mean[None]) ** 2).sum(1)
    return squares.sum(where=None if steps.played is None else steps.played[::size])


def quality(loss_and_gradient: Callable, steps: Blocks, diagnose: Bool[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(‖ḡ‖, `spread`) for an update that does not make the batch's gradient anyway; 0 without `diagnose`."""
    none_or_all = jnp.array(0), jnp.where(diagnose, steps.steps, 0)
    mean = gradient(loss_and_gradient, steps, none_or_all).gradient
    return optax.global_norm(mean), spread(loss_and_gradient, steps, mean, diagnose)


def mean_kl(old: Distribution, policy: PyTree, steps: Blocks) -> Float[Array, ""]:
    """KL(old ‖ new), mean over the steps."""

    def of_block(block, position):
        obs, old = block
        return jnp.where(position < steps.steps, old.kl(policy(obs)), 0.0).sum(), ()

    total, _ = fold(of_block, steps._replace(arrays=(steps.arrays.obs, old)))
    return total / steps.steps.astype(jnp.float32)
