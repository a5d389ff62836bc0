"""Networks: features first, any number of steps last."""

from collections.abc import Callable
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

    def __call__(self, obs: Float[Array, "O *N"], matmul: Callable = jnp.matmul) -> Float[Array, "..."]:
        *hidden, last = self.layers
        x = obs
        for layer in hidden:
            x = ACTIVATIONS[self.activation](_affine(layer, x, matmul))
        x = _affine(last, x, matmul)
        return x[0] if last.out_features == "scalar" else x


def _affine(layer: eqx.nn.Linear, x: Float[Array, "I *N"], matmul: Callable) -> Float[Array, "J *N"]:
    """W x + b"""
    return matmul(layer.weight, x) + jnp.expand_dims(layer.bias, range(1, x.ndim))


def matmul_in_loop(weight: Float[Array, "J I"], x: Float[Array, "I N"]) -> Float[Array, "J N"]:
    """W x for a loop of small steps on a CPU, as Σ_i W[:, i] ⊗ x[i]. On an accelerator, and for more
    than 256 columns, where the library is as fast, it is `jnp.matmul`.

    XLA hands a product to a library, and a loop with such a call in it goes from kernel to kernel. Without, the whole
    loop is one kernel (see `backend.prepare`), in which a step with 10 environments takes a third of the time.
    Not to be differentiated: of a sum written out, all partial sums are kept.
    """
    if jax.default_backend() != "cpu" or x.shape[1] > 256:
        return jnp.matmul(weight, x)
    short, long = sorted((weight.T, x), key=lambda m: m.shape[1])  # the last axis is the one that is vectorised
    add = lambda y, of_input: (y + jnp.outer(*of_input), None)
    y, _ = jax.lax.scan(add, jnp.zeros((short.shape[1], long.shape[1])), (short, long), unroll=8)
    return y if long is x else y.T
