"""Networks of one observation; callers vmap."""

from itertools import pairwise
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu, "silu": jax.nn.silu, "elu": jax.nn.elu}


class MLP(eqx.Module):
    """`depth` hidden layers of `width` units on the flattened observation.

    `out` is the number of outputs, or "scalar": a value head must return [] and not [1], because
    [N,1] · [N] broadcasts to [N,N] without a word. All leaves are arrays (in `eqx.nn.MLP` the
    activation is a leaf too), so that a network can be carried through a loop as it is.
    """

    layers: tuple[eqx.nn.Linear, ...]
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        in_size: int,
        out: int | Literal["scalar"],
        *,
        width: int,
        depth: int,
        activation: str,
        key: PRNGKeyArray,
    ):
        sizes = [in_size, *[width] * depth, out]
        keys = jax.random.split(key, depth + 1)
        self.layers = tuple(eqx.nn.Linear(i, o, key=k) for (i, o), k in zip(pairwise(sizes), keys, strict=True))
        self.activation = activation

    def __call__(self, obs: Float[Array, "*O"]) -> Float[Array, "*A"]:
        x = obs.reshape(-1)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)
