"""Runs side by side under `jax.vmap`: what one lane has to know of the others."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped


@jax.custom_batching.custom_vmap
def largest(x: Shaped[Array, ""]) -> Shaped[Array, ""]:
    """`x` itself in a single run; under vmap the largest of all lanes, and one number for all of them.

    For whatever decides how long a loop goes on: of a number that every lane has for itself, vmap would make a loop
    that copies all it carries at every step, to hold back the lanes that have ended.
    """
    return x


@largest.def_vmap
def _(axis_size: int, in_batched: list[bool], x: Shaped[Array, " S"]) -> tuple[Shaped[Array, ""], bool]:
    return (largest(jnp.max(x)) if in_batched[0] else x), False
