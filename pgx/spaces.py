"""What an environment's actions are. Hashable: a space decides shapes, and so what is compiled."""

import math
from functools import cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

AnyArray = Array | np.ndarray
"""Of a compiled environment, or of one on the host."""


class Discrete(NamedTuple):
    """One of the whole numbers 0 … n − 1."""

    n: int

    def to_env(self, action: Int[AnyArray, "*B"]) -> Int[AnyArray, "*B"]:
        """The environment's action: this very one."""
        return action


class Box(NamedTuple):
    """A real numbers, and how the environment bounds what a policy puts out.

    A policy puts out raw u ∈ R^A, and Episodes hold u: its density, ratios and divergences are then a Gaussian's, and
    the learner knows no bounds. The environment is given `to_env(u)`. Where both ends of a coordinate are finite, ±1 in u
    are its ends; otherwise u is in the environment's own unit.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    bound: str = "clip"
    """clip: cut off at the ends. tanh: squashed between them, which asks for finite ends. none: left to the
    environment."""

    @property
    def size(self) -> int:
        return len(self.low)

    @property
    def edges(self) -> tuple[Float[Array, " A"], Float[Array, " A"]]:
        """The ends, in u; ±1 or infinite where the environment has none."""
        _, _, low, high = _affine(self.low, self.high)
        return jnp.asarray(low), jnp.asarray(high)

    def to_env(self, u: Float[AnyArray, "*B A"]) -> Float[AnyArray, "*B A"]:
        """The environment's action, of the kind of array that u is: a host environment's is NumPy's."""
        xp = u.__array_namespace__()
        last = (1,) * (u.ndim - 1) + (self.size,)
        centre, half, low, high = (x.reshape(last) for x in _affine(self.low, self.high))
        if self.bound == "clip":
            u = xp.minimum(xp.maximum(u, low), high)  # as np.clip, which takes twice as long for a few numbers
        elif self.bound == "tanh":
            u = xp.tanh(u)
        return centre + half * u


Space = Discrete | Box
"""Every kind of action space that there is a policy for."""


@cache
def _affine(low: tuple[float, ...], high: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """(centre, half the width, low in u, high in u) of every coordinate; centre 0 and half 1 where an end is infinite."""
    rows = []
    for a, b in zip(low, high, strict=True):
        centre, half = ((a + b) / 2, (b - a) / 2) if math.isfinite(b - a) else (0.0, 1.0)
        rows.append((centre, half, (a - centre) / half, (b - centre) / half))
    return tuple(np.array(rows, np.float32).T)
