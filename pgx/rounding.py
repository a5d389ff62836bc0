"""What float32 leaves of a difference of equal numbers, told from what is a difference.

Equal numbers rarely have exactly their own mean, and what is left, divided by its own size (by whitening, by Adam), is as
good as any signal. So it is held against the size of what was subtracted first.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

ROUNDING = 1e-6
"""Of a number, some of float32's last places: a difference of no more is none."""


def equal(x: Float[Array, "*n"], y: Float[Array, "*n"], mask: Bool[Array, "*n"] | None = None) -> Bool[Array, ""]:
    """Whether all of x − y is rounding, where `mask` is True. What is not finite is equal to nothing."""
    apart = ~(jnp.abs(x - y) <= ROUNDING * jnp.abs(x)) | ~jnp.isfinite(x)
    return ~apart.any(where=mask)


def differ(
    x: Float[Array, "..."], mask: Bool[Array, "..."] | None = None, axis: int | tuple[int, ...] | None = None
) -> Bool[Array, "..."]:
    """Whether these numbers, along `axis` and where `mask` is True, are more than one.

    By their range and not by their standard deviation, whose error grows with their number.
    """
    where = jnp.ones((), bool) if mask is None else mask
    least = x.min(axis, where=where, initial=jnp.inf)
    most = x.max(axis, where=where, initial=-jnp.inf)
    same = most - least <= ROUNDING * jnp.maximum(jnp.abs(least), jnp.abs(most))
    return ~same | ~jnp.isfinite(most - least)


def explained_variance(target: Float[Array, "T B"], value: Float[Array, "T B"], mask: Bool[Array, "T B"]) -> Float[Array, ""]:
    """1 − Var(target − value) / Var(target) over the steps; NaN where all targets are equal."""
    explained = 1 - (target - value).var(where=mask) / target.var(where=mask)
    return jnp.where(differ(target, mask), explained, jnp.nan)
