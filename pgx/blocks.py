"""Work through the steps of a batch in blocks, so that cost follows the steps that were taken and not the padding."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from pgx.device import of_each, on_cpu
from pgx.lanes import largest

BLOCK_STEPS = 320
"""Steps of a block on a CPU: enough for a matrix product, few enough for a core's cache (40 kB a layer of 32 units)."""
STRETCH = 32
"""Time steps per block on an accelerator, and in `by_time`."""


class Blocks(NamedTuple):
    """The steps of a batch, one after the other, cut into pieces."""

    arrays: PyTree[Array]
    """[..., blocks, N]"""
    steps: Int[Array, ""]
    """How many there are. In `to_blocks` zeros follow them, in `by_time` padding lies between them."""
    length: Int[Array, " B"]
    """How many each episode has."""
    count: Int[Array, ""] | None = None
    """As in `Episodes`: how many episodes there are, if not B."""
    group_size: int | None = None
    """As in `Episodes`; no array, and so not to be handed to a compiled function."""

    @property
    def num_episodes(self) -> int | Int[Array, ""]:
        return len(self.length) if self.count is None else self.count

    @property
    def played(self) -> Bool[Array, " B"] | None:
        """As of `Episodes`."""
        return None if self.count is None else jnp.arange(len(self.length)) < self.count

    @property
    def mean_length(self) -> Float[Array, ""]:
        """Steps an episode."""
        return self.length.mean(where=self.played)

    @property
    def segments(self) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
        """Where in the row of all steps each episode begins, and where it ends; of `to_blocks` only."""
        return _segments(self.length)

    @property
    def units(self) -> tuple[Int[Array, " K"], Int[Array, " K"]]:
        """As `segments`, of what is drawn independently: each episode, or each group of them."""
        (first, last), size = self.segments, self.group_size or 1
        return first[::size], last[size - 1 :: size]

    @property
    def taken(self) -> Bool[Array, "blocks N"]:
        """True where there is a step; of `to_blocks` only."""
        blocks, N = jax.tree.leaves(self.arrays)[0].shape[-2:]
        return jnp.arange(blocks * N).reshape(blocks, N) < self.steps


def to_blocks(tree: PyTree[Array], mask: Bool[Array, "T B"], count: Int[Array, ""] | None = None) -> Blocks:
    """[T, B, …] → [..., blocks, N]: one episode's steps after the other's, then zeros. `count` is that of `Episodes`."""
    T, B = mask.shape
    size = min(BLOCK_STEPS if on_cpu() else STRETCH * B, T * B)
    blocks = -(-T * B // size)
    together = _by_episode(mask, blocks * size, count) if on_cpu() else _at_once(mask, blocks * size)

    def one(x):
        row = together(x)
        return row.reshape(*row.shape[:-1], blocks, size)

    return Blocks(jax.tree.map(one, tree), mask.sum(0).sum(), mask.sum(0), count)


def _by_episode(mask: Bool[Array, "T B"], size: int, count: Int[Array, ""] | None) -> Callable[[Array], Array]:
    """[T, B, …] → [..., size], one episode after the other."""
    start, _ = _segments(mask.sum(0))
    columns = mask.shape[1] if count is None else largest(count)

    def together(x):
        def put(b, row):
            episode = jnp.moveaxis(x[:, b], 0, -1)
            episode = jnp.where(mask[:, b], episode, jnp.zeros_like(episode))
            # the padding after an episode is where the next one goes
            return jax.lax.dynamic_update_slice_in_dim(row, episode, start[b], axis=-1)

        return jax.lax.fori_loop(0, columns, put, jnp.zeros((*x.shape[2:], size), x.dtype))

    return together


def _at_once(mask: Bool[Array, "T B"], size: int) -> Callable[[Array], Array]:
    """The same: a scatter that says where each step comes from, and a gather of every array."""
    T, B = mask.shape
    start, _ = _segments(mask.sum(0))
    every = jnp.arange(T * B)
    place = jnp.where(mask.ravel(), (start[None] + jnp.arange(T)[:, None]).ravel(), size + every)  # of padding: none
    source = jnp.zeros(size, every.dtype).at[place].set(every, mode="drop", unique_indices=True)
    taken = jnp.arange(size) < mask.sum()

    def together(x):
        row = jnp.moveaxis(x.reshape(T * B, *x.shape[2:])[source], 0, -1)
        return jnp.where(taken, row, jnp.zeros_like(row))

    return together


def from_blocks(row: Float[Array, "blocks N"], mask: Bool[Array, "T B"]) -> Float[Array, "T B"]:
    """Every step's number, back where the step was; 0 on padding."""
    row, (start, _) = row.reshape(-1), _segments(mask.sum(0))
    of_episode = of_each(lambda first: jax.lax.dynamic_slice_in_dim(row, first, len(mask)), start)
    return jnp.where(mask, of_episode.T, 0.0)


def deal(
    blocks: Blocks,
    hands: Int[Array, ""],
    i: Int[Array, ""],
    size: int,
    order: Callable[[Int[Array, " N"]], Int[Array, " N"]] | None = None,
) -> Blocks:
    """Hand i of all steps of `to_blocks`, dealt out like cards: steps i, i + hands, i + 2 · hands …, no more than `size`,
    as they lie or in an `order` of them.

    So every hand has steps of all episodes, early and late, hands differ in size by one at most, and together they hold
    every step once. As they lie is the rule: V learned no more from a shuffle.
    """
    width = min(size, jax.tree.leaves(blocks.arrays)[0].shape[-1])
    index = i + hands * jnp.arange(-(-size // width) * width)
    if order is not None:
        index = order(index)

    def one(x):
        dealt = jnp.take(x.reshape(*x.shape[:-2], -1), index, axis=-1, mode="clip")
        return dealt.reshape(*x.shape[:-2], -1, width)

    among = lambda first: jnp.maximum(0, -((i - first) // hands))  # the hand's steps among the first so many
    begin, end = blocks.segments
    return Blocks(jax.tree.map(one, blocks.arrays), among(blocks.steps), among(end) - among(begin), blocks.count)


def shuffled(n: Int[Array, ""], key: PRNGKeyArray) -> Callable[[Int[Array, " N"]], Int[Array, " N"]]:
    """A random order of 0 … n − 1: which number is at an index, each once. At an index beyond, any of them.

    No number is looked at but those that are asked for: a sort would order all that there is room for. Four rounds of
    Feistel's network permute all numbers of an even number of bits (Luby & Rackoff 1988), and what comes to lie beyond n
    goes through them again.
    """
    n = jnp.maximum(n, 1).astype(jnp.uint32)
    half = (33 - jax.lax.clz(n - 1)) // 2  # of the bits that n − 1 has, rounded up
    lower = (jnp.uint32(1) << half) - 1
    keys = jax.random.bits(key, 4)

    def permuted(x):
        left, right = x >> half, x & lower
        for k in keys:
            left, right = right, left ^ (_scattered(right + k) & lower)
        return left << half | right

    def at(index):
        start = permuted(jnp.minimum(index.astype(jnp.uint32), n - 1))
        inside = jax.lax.while_loop(lambda x: (x >= n).any(), lambda x: jnp.where(x >= n, permuted(x), x), start)
        return inside.astype(index.dtype)

    return at


def _scattered(x: Shaped[Array, " N"]) -> Shaped[Array, " N"]:
    """Every bit of a 32-bit number depends on all of them (the last step of MurmurHash3)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _segments(length: Int[Array, " B"]) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    stop = jnp.cumsum(length)
    return stop - length, stop


def by_time(tree: PyTree[Array], mask: Bool[Array, "T B"]) -> Blocks:
    """[T, B, …] → [..., blocks, STRETCH · B] up to the end of the longest episode, with episodes in columns of
    their own, for gradients of single episodes."""
    size = min(STRETCH, mask.shape[0])

    def one(x):
        x = jnp.pad(x, [(0, -x.shape[0] % size)] + [(0, 0)] * (x.ndim - 1))
        x = x.reshape(x.shape[0] // size, size * x.shape[1], *x.shape[2:])
        return jnp.moveaxis(x, (0, 1), (-2, -1))

    return Blocks(jax.tree.map(one, tree), mask.sum(0).max() * mask.shape[1], mask.sum(0))


def fold(
    f: Callable[[PyTree, Int[Array, " N"]], tuple[PyTree, PyTree]],
    blocks: Blocks,
    segment: tuple[Int[Array, ""], Int[Array, ""]] | None = None,
) -> tuple[PyTree, PyTree]:
    """(Σ_i f(block_i, position_i)[0], stack_i f(block_i, position_i)[1]) over the blocks that hold steps, or those of
    `segment`: from its first step to before its last. `position` says which of all steps a block holds.

        mean, predictions = fold(lambda block, position: (jnp.where(position < blocks.steps, …).sum(), …), blocks)

    The trip count is dynamic: nothing recompiles when it changes. What is stacked is 0 in blocks that were not visited.
    """
    f = jax.jit(f)  # traced once, for its shapes and for the loop
    count, size = jax.tree.leaves(blocks.arrays)[0].shape[-2:]
    first, last = (jnp.array(0), blocks.steps) if segment is None else segment

    def of_block(i):
        block = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, axis=-2, keepdims=False), blocks.arrays)
        return f(block, i * size + jnp.arange(size))

    shapes = jax.eval_shape(of_block, 0)
    # one sum of a vector, not one a leaf: each is a kernel
    sums, unravel = ravel_pytree(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[0]))
    stacks = jax.tree.map(lambda s: jnp.zeros((*s.shape[:-1], count, s.shape[-1]), s.dtype), shapes[1])

    def body(i, carry):
        sums, stacks = carry
        summed, stacked = of_block(i)
        sums = sums + ravel_pytree(summed)[0]
        return sums, jax.tree.map(lambda s, x: jax.lax.dynamic_update_index_in_dim(s, x, i, -2), stacks, stacked)

    begin, end = -largest(-(first // size)), largest(-(-last // size))  # of all lanes: from the first to the last
    sums, stacks = jax.lax.fori_loop(begin, end, body, (sums, stacks))
    return unravel(sums), stacks


def fold_each(f: Callable[[PyTree, Bool[Array, " N"]], PyTree], blocks: Blocks) -> PyTree:
    """Σ f(steps, which of them are the episode's) of each episode [B, …]: all of them side by side, a stretch of time after
    the other. Of `to_blocks` only, and for an accelerator: `fold` over the segments is faster on a CPU."""
    begin, end = blocks.segments
    rows = jax.tree.map(lambda x: x.reshape(*x.shape[:-2], -1), blocks.arrays)

    def of_stretch(i):
        place = (begin + i * STRETCH)[:, None] + jnp.arange(STRETCH)[None]
        steps = jax.tree.map(lambda x: jnp.take(x, place, axis=-1, mode="clip"), rows)
        return jax.vmap(f, in_axes=(-2, 0))(steps, place < end[:, None])

    add = lambda i, sums: jax.tree.map(jnp.add, sums, of_stretch(i))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(of_stretch, 0))
    return jax.lax.fori_loop(0, largest(-(-blocks.length.max() // STRETCH)), add, nothing)
