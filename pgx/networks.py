"""Networks: features first, any number of steps last."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from pgx.device import on_cpu

ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": jax.nn.gelu, "silu": jax.nn.silu, "elu": jax.nn.elu}


class Linear(eqx.Module):
    """W x + b, of one observation [I] or of N of them [I, N]."""

    weight: Float[Array, "J I"]
    bias: Float[Array, " J"]

    def __call__(self, x: Float[Array, "I *N"], matmul: Callable = jnp.matmul) -> Float[Array, "J *N"]:
        return matmul(self.weight, x) + jnp.expand_dims(self.bias, range(1, x.ndim))


class MLP(eqx.Module):
    """`depth` hidden layers of `width` units. One observation [O] gives [A], and N of them [O, N] give [A, N].

    A vmap over [N, O] says the same, but XLA's gradient of it takes a quarter longer on a CPU. `out` is the
    number of outputs, or "scalar": a value head must return [] and not [1], because [N,1] · [N] broadcasts
    to [N,N] without a word. All leaves are arrays (in `eqx.nn.MLP` the activation is a leaf too), so that a
    network can be carried through a loop as it is.
    """

    layers: tuple[Linear, ...]
    activation: str = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

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
        self.activation, self.scalar = activation, out == "scalar"
        sizes = list(pairwise([in_size, *[width] * depth, 1 if self.scalar else out]))
        # Equinox's and PyTorch's numbers, W and b ~ U(−1/√I, 1/√I), but of one draw: a start of a run waits for this,
        # and each call of the generator takes 30 ms to load
        counts = [(i + 1) * o for i, o in sizes]
        draws = jnp.split(jax.random.uniform(key, (sum(counts),), minval=-1.0, maxval=1.0), np.cumsum(counts)[:-1])
        blocks = [x.reshape(o, i + 1) / math.sqrt(i) for x, (i, o) in zip(draws, sizes, strict=True)]
        self.layers = tuple(Linear(block[:, :-1], block[:, -1]) for block in blocks)

    def __call__(self, obs: Float[Array, "O *N"], matmul: Callable = jnp.matmul) -> Float[Array, "..."]:
        x = [obs, *self.hidden(obs, matmul)][-1]
        x = self.layers[-1](x, matmul)
        return x[0] if self.scalar else x

    def hidden(self, obs: Float[Array, "O *N"], matmul: Callable = jnp.matmul) -> list[Float[Array, "H *N"]]:
        """The output of every hidden layer."""
        outputs, x = [], obs
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x, matmul))
            outputs.append(x)
        return outputs


def matmul_in_loop(weight: Float[Array, "J I"], x: Float[Array, "I N"]) -> Float[Array, "J N"]:
    """W x for a loop of small steps on a CPU, as Σ_i W[:, i] ⊗ x[i]. On an accelerator, and for more
    than 256 columns, where the library is as fast, it is `jnp.matmul`.

    XLA hands a product to a library, and a loop with such a call in it goes from kernel to kernel. Without, the whole
    loop is one kernel (see `backend.prepare`), in which a step with 10 environments takes a third of the time.
    Not to be differentiated: of a sum written out, all partial sums are kept.
    """
    if not on_cpu() or x.shape[1] > 256:
        return jnp.matmul(weight, x)
    short, long = sorted((weight.T, x), key=lambda m: m.shape[1])  # the last axis is the one that is vectorised
    add = lambda y, of_input: (y + jnp.outer(*of_input), None)
    y, _ = jax.lax.scan(add, jnp.zeros((short.shape[1], long.shape[1])), (short, long), unroll=8)
    return y if long is x else y.T
