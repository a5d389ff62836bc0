"""What an environment's actions are. Hashable: a space decides shapes, and so what is compiled."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Discrete(NamedTuple):
    """One of the whole numbers 0 … n − 1."""

    n: int


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
        return self._in_u(self.low), self._in_u(self.high)

    def to_env(self, u: Float[Array, "*B A"]) -> Float[Array, "*B A"]:
        """The environment's action."""
        if self.bound == "clip":
            u = jnp.clip(u, *(jnp.broadcast_to(edge, u.shape) for edge in self.edges))
        elif self.bound == "tanh":
            u = jnp.tanh(u)
        centre, half = (jnp.broadcast_to(jnp.array(x, u.dtype), u.shape) for x in zip(*self._affine, strict=True))
        return centre + half * u

    @property
    def _affine(self) -> list[tuple[float, float]]:
        """(centre, half the width) of every coordinate; (0, 1) where an end is infinite."""
        ends = zip(self.low, self.high, strict=True)
        return [((a + b) / 2, (b - a) / 2) if math.isfinite(b - a) else (0.0, 1.0) for a, b in ends]

    def _in_u(self, end: tuple[float, ...]) -> Float[Array, " A"]:
        return jnp.array([(x - centre) / half for x, (centre, half) in zip(end, self._affine, strict=True)], jnp.float32)


Space = Discrete | Box
"""Every kind of action space that there is a policy for."""
