"""Work through time in blocks, so that cost follows the longest episode and not the padding."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from pgx.lanes import largest

BLOCK_STEPS = 32


def to_blocks(tree: PyTree[Array], steps: int = BLOCK_STEPS) -> PyTree[Array]:
    """[T, B, …] → [blocks, …, N = steps · B], zeros after T. Within a block, order is time, then episode.
    Fewer steps than a block has are one block, as they are."""

    def one(x):
        size = min(steps, x.shape[0])
        x = jnp.pad(x, [(0, -x.shape[0] % size)] + [(0, 0)] * (x.ndim - 1))
        return jnp.moveaxis(x.reshape(x.shape[0] // size, size * x.shape[1], *x.shape[2:]), 1, -1)

    return jax.tree.map(one, tree)


def from_blocks(blocks: Array, like: Array) -> Array:
    """[blocks, N] → [T, B] as in `like`."""
    return blocks.reshape(-1, like.shape[1])[: like.shape[0]]


def fold(
    f: Callable[[PyTree], tuple[PyTree, PyTree]], blocks: PyTree[Array], longest: Int[Array, ""]
) -> tuple[PyTree, PyTree]:
    """(Σ_i f(block_i)[0], stack_i f(block_i)[1]) over the blocks that hold the first `longest` steps.

    The trip count is dynamic: nothing recompiles when it changes. What is stacked stays 0 in blocks
    that were not visited.
    """
    f = jax.jit(f)  # traced once, for its shapes and for the loop
    count = jax.tree.leaves(blocks)[0].shape[0]
    block = lambda i: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), blocks)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(f, block(0)))
    stacks = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), zeros[1])

    def body(i, carry):
        sums, stacks = carry
        summed, stacked = f(block(i))
        sums = jax.tree.map(jnp.add, sums, summed)
        return sums, jax.tree.map(lambda s, x: jax.lax.dynamic_update_index_in_dim(s, x, i, 0), stacks, stacked)

    visited = largest((longest + BLOCK_STEPS - 1) // BLOCK_STEPS)
    return jax.lax.fori_loop(0, visited, body, (zeros[0], stacks))
