"""Networks: features first, any number of steps last."""

from itertools import pairwise
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu, "silu": jax.nn.silu, "elu": jax.nn.elu}


class MLP(eqx.Module):
    """`depth` hidden layers of `width` units. One observation [O] gives [A], and N of them [O, N] give [A, N].

    A vmap over [N, O] says the same, but XLA's gradient of it takes a quarter longer on a CPU. `out` is the
    number of outputs, or "scalar": a value head must return [] and not [1], because [N,1] · [N] broadcasts
    to [N,N] without a word. All leaves are arrays (in `eqx.nn.MLP` the activation is a leaf too), so that a
    network can be carried through a loop as it is.
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

    def __call__(self, obs: Float[Array, "O *N"]) -> Float[Array, "..."]:
        *hidden, last = self.layers
        x = obs
        for layer in hidden:
            x = ACTIVATIONS[self.activation](_affine(layer, x))
        x = _affine(last, x)
        return x[0] if last.out_features == "scalar" else x


def _affine(layer: eqx.nn.Linear, x: Float[Array, "I *N"]) -> Float[Array, "J *N"]:
    """W x + b"""
    return jnp.tensordot(layer.weight, x, 1) + jnp.expand_dims(layer.bias, range(1, x.ndim))
