"""Work through the steps of a batch in blocks, so that cost follows the steps that were taken and not the padding."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from pgx.lanes import largest

BLOCK_STEPS = 320
"""Steps of a block on a CPU: enough for a matrix product, few enough for a core's cache (40 kB a layer of 32 units)."""
STRETCH = 32
"""Time steps of a block in which episodes stay apart, and what an accelerator's block has of every episode."""


class Blocks(NamedTuple):
    """Arrays whose first axis is the block."""

    arrays: PyTree[Array]
    used: Int[Array, ""]
    """The blocks after these hold zeros only."""


def to_blocks(tree: PyTree[Array], mask: Bool[Array, "T B"]) -> Blocks:
    """[T, B, …] → [blocks, …, N]: one episode's steps after the other's, then zeros."""
    T, B = mask.shape
    size = min(BLOCK_STEPS if jax.default_backend() == "cpu" else STRETCH * B, T * B)
    count = -(-T * B // size)
    step = jnp.full(count * size, T * B).at[_places(mask).reshape(-1)].set(jnp.arange(T * B), mode="drop")

    def one(x):
        x = x.reshape(T * B, *x.shape[2:]).at[step].get(mode="fill", fill_value=0)
        return jnp.moveaxis(x.reshape(count, size, *x.shape[1:]), 1, -1)

    return Blocks(jax.tree.map(one, tree), -(-mask.sum() // size))


def from_blocks(arrays: Float[Array, "blocks N"], mask: Bool[Array, "T B"]) -> Float[Array, "T B"]:
    """Every step's number, back where the step was; 0 on padding."""
    return arrays.reshape(-1).at[_places(mask)].get(mode="fill", fill_value=0)


def _places(mask: Bool[Array, "T B"]) -> Int[Array, "T B"]:
    """Where in the row of taken steps each of them stands; on padding past the end of all blocks, the last filled up."""
    length = mask.sum(0)
    start = jnp.cumsum(length) - length
    return jnp.where(mask, start[None] + jnp.arange(len(mask))[:, None], 2 * mask.size)


def by_time(tree: PyTree[Array], mask: Bool[Array, "T B"]) -> Blocks:
    """[T, B, …] → [blocks, …, STRETCH, B] up to the end of the longest episode, for whoever asks what each episode
    does by itself."""
    size = min(STRETCH, mask.shape[0])

    def one(x):
        x = jnp.pad(x, [(0, -x.shape[0] % size)] + [(0, 0)] * (x.ndim - 1))
        return jnp.moveaxis(x.reshape(x.shape[0] // size, size, *x.shape[1:]), (1, 2), (-2, -1))

    return Blocks(jax.tree.map(one, tree), -(-mask.sum(0).max() // size))


def fold(f: Callable[[PyTree], tuple[PyTree, PyTree]], blocks: Blocks) -> tuple[PyTree, PyTree]:
    """(Σ_i f(block_i)[0], stack_i f(block_i)[1]) over the blocks that are used.

    The trip count is dynamic: nothing recompiles when it changes. What is stacked stays 0 in blocks
    that were not visited.
    """
    f = jax.jit(f)  # traced once, for its shapes and for the loop
    count = len(jax.tree.leaves(blocks.arrays)[0])
    block = lambda i: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), blocks.arrays)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(f, block(0)))
    stacks = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), zeros[1])

    def body(i, carry):
        sums, stacks = carry
        summed, stacked = f(block(i))
        sums = jax.tree.map(jnp.add, sums, summed)
        return sums, jax.tree.map(lambda s, x: jax.lax.dynamic_update_index_in_dim(s, x, i, 0), stacks, stacked)

    return jax.lax.fori_loop(0, largest(blocks.used), body, (zeros[0], stacks))
