"""Observation scaling: running statistics of what the environment shows, and the policy that looks through them.

The statistics belong to the run's state and to no parameter: no gradient, no optimiser and no weight decay ever sees
them. They are frozen while a batch is played and learned from, and take the batch in after the update's step. So the
policy that is improved is the policy that acted (the ratio of the two is 1 until the first step), and whoever evaluates
a checkpoint plays the very policy that was trained.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from pgx.device import on_cpu
from pgx.lanes import largest
from pgx.rounding import ROUNDING

CLIP = 10.0
"""Scaled observations end here: one outlier must not drive a network."""


class Moments(eqx.Module):
    """Count, mean and sum of squared deviations of D numbers, over all steps that were taken (Welford's sums, merged
    batch by batch as Chan et al. 1983 do).

    In float32 throughout. The mean is kept in two parts, so that a late batch still moves it where it weighs less than
    the mean's last place. A count beyond 2^24 is rounded, and so are the weights that follow from it.
    """

    count: Float[Array, ""]
    mean: Float[Array, " D"]
    rest: Float[Array, " D"]
    """What `mean` is too coarse to hold."""
    m2: Float[Array, " D"]
    """Σ (x − mean)²."""

    @classmethod
    def fresh(cls, size: int) -> "Moments":
        """Before the first batch: mean 0, standard deviation 1."""
        zeros = jnp.zeros(size)
        return cls(jnp.zeros(()), zeros, zeros, zeros)

    @property
    def std(self) -> Float[Array, " D"]:
        """Standard deviations; 1 where nothing but rounding was ever seen to change."""
        std = jnp.sqrt(self.m2 / jnp.maximum(self.count, 1.0))
        return jnp.where(std > ROUNDING * jnp.abs(self.mean), std, 1.0)

    def after(self, x: Float[Array, "T B D"], mask: Bool[Array, "T B"], count: Int[Array, ""] | None = None) -> "Moments":
        """With a batch taken in, where `mask` is True. With the `count` of `Episodes`, on a CPU one episode after the other:
        the columns that are empty cost nothing."""
        if count is not None and on_cpu():
            one = lambda x, b: jax.lax.dynamic_slice_in_dim(x, b, 1, axis=1)
            take_in = lambda b, moments: moments.after(one(x, b), one(mask, b))
            return jax.lax.fori_loop(0, largest(count), take_in, self)
        taken, steps = mask[..., None], mask.sum(dtype=jnp.float32)
        mean_of = lambda x: x.sum((0, 1)) / jnp.maximum(steps, 1.0)
        # from the running mean, and once more from the batch's own: sums of small numbers keep their last places
        distance = jnp.where(taken, x - self.mean[None, None], 0.0)
        shift = mean_of(distance)
        deviation = jnp.where(taken, distance - shift[None, None], 0.0)
        left = mean_of(deviation)
        of_batch = (deviation**2).sum((0, 1)) - steps * left**2
        count = self.count + steps
        share = steps / jnp.maximum(count, 1.0)
        apart = shift + (left - self.rest)
        step = share * apart + self.rest
        mean = self.mean + step
        m2 = self.m2 + of_batch + self.count * share * apart**2
        return type(self)(count, mean, step - (mean - self.mean), m2)


class Scaling(Moments):
    """Those of the environment's observations, as a map: a policy and a critic see (obs − mean) / std, clipped."""

    def __call__(self, obs: Float[Array, "..."], axis: int = 0) -> Float[Array, "..."]:
        """Scaled observations; the observed numbers are along `axis`."""
        others = [i for i in range(obs.ndim) if i != axis % obs.ndim]
        mean, std = jnp.expand_dims(self.mean, others), jnp.expand_dims(self.std, others)
        return jnp.clip((obs - mean) / std, -CLIP, CLIP)


class Scaled(eqx.Module):
    """A policy behind its scaling: it acts on the environment's own observations. `policy` is the part that is trained
    and looks at scaled ones."""

    policy: PyTree
    scaling: Scaling

    def __call__(self, obs: Float[Array, "O N"], matmul: Callable = jnp.matmul) -> Any:
        return self.policy(self.scaling(obs), matmul)
