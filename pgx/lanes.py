"""Runs side by side under `jax.vmap`: a lane each, and the one number that they share."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


@jax.custom_batching.custom_vmap
def largest(x: Shaped[Array, ""]) -> Shaped[Array, ""]:
    """`x` itself in a single run; under vmap the largest of all lanes, and one number for all of them.

    Use this for every number that bounds a loop. If each lane had its own bound, vmap would run the loop for all lanes
    and keep the old carry of those that have ended: a copy of everything at every step.
    """
    return x


@largest.def_vmap
def _(axis_size: int, in_batched: list[bool], x: Shaped[Array, " S"]) -> tuple[Shaped[Array, ""], bool]:
    return (largest(jnp.max(x)) if in_batched[0] else x), False
