"""Blocks: every step that was taken once, none that was not, and each number back where it came from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quickly_compiled

from pgx.blocks import BLOCK_STEPS, STRETCH, by_time, fold, from_blocks, to_blocks

T, B, O = BLOCK_STEPS + 5, 3, 2
COUNT = 4  # blocks, the last of them hardly filled
LENGTHS = {
    "of all lengths": (T, 1, BLOCK_STEPS),
    "all short": (2, 1, 3),
    "to the limit": (T, T, T),
    "one block, full": (BLOCK_STEPS - 3, 2, 1),
    "one step more": (1, BLOCK_STEPS - 3, 3),
    "an episode of no steps": (0, 4, 0),
    "none at all": (0, 0, 0),
}
OBS = np.arange(1, T * B * O + 1, dtype=np.float32).reshape(T, B, O)
NUMBER = OBS[..., 0]


def mask_of(lengths):
    return np.arange(T)[:, None] < np.array(lengths)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_one_episode_after_the_other(lengths):
    mask = mask_of(lengths)
    (obs, number), steps, *_ = quickly_compiled(to_blocks)((jnp.asarray(OBS), jnp.asarray(NUMBER)), jnp.asarray(mask))
    assert obs.shape == (O, COUNT, BLOCK_STEPS) and number.shape == (COUNT, BLOCK_STEPS)
    wanted = np.zeros((COUNT * BLOCK_STEPS, O))
    wanted[: mask.sum()] = np.concatenate([OBS[:length, b] for b, length in enumerate(lengths)])
    np.testing.assert_array_equal(np.asarray(obs).reshape(O, -1).T, wanted)
    np.testing.assert_array_equal(np.asarray(number).reshape(-1), wanted[:, 0])
    assert int(steps) == mask.sum()  # and not of the longest episode
    back = quickly_compiled(from_blocks)(number, jnp.asarray(mask))
    np.testing.assert_array_equal(back, np.where(mask, NUMBER, 0))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_by_time_keeps_the_episodes_apart(lengths):
    (obs, number), steps, *_ = quickly_compiled(by_time)((jnp.asarray(OBS), jnp.asarray(NUMBER)), jnp.asarray(mask_of(lengths)))
    assert obs.shape == (O, 11, STRETCH * B) and number.shape == (11, STRETCH * B)
    np.testing.assert_array_equal(np.asarray(number).reshape(-1, B)[:T], NUMBER)
    np.testing.assert_array_equal(np.moveaxis(obs, 0, -1).reshape(-1, B, O)[:T], OBS)
    assert int(steps) == max(lengths) * B


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_fold_visits_what_is_used(lengths):
    """A block that is not used would show: it counts 1."""
    mask = jnp.asarray(mask_of(lengths))

    def visit(mask):
        blocks = to_blocks(jnp.asarray(NUMBER), mask)
        return fold(lambda number, _: ((number.sum(), 1.0), number + 1), blocks)

    (total, visited), more = quickly_compiled(visit)(mask)
    used = -(-sum(lengths) // BLOCK_STEPS)
    assert visited == used and total == NUMBER[np.asarray(mask)].sum()
    np.testing.assert_array_equal(from_blocks(more, mask), np.where(mask, NUMBER + 1, 0))
    assert not np.asarray(more)[used:].any()


def of_each_episode(mask):
    """(blocks visited, sum of the numbers, the numbers of the visited blocks) of each."""
    blocks = to_blocks(jnp.asarray(NUMBER), mask)

    def of_segment(segment):
        def of_block(number, position):
            inside = (segment[0] <= position) & (position < segment[1])
            return (1.0, jnp.where(inside, number, 0.0).sum()), number + 1

        return fold(of_block, blocks, segment)

    (visited, total), stacked = jax.lax.map(of_segment, blocks.segments)
    return visited, total, stacked


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_fold_over_a_segment(lengths):
    visited, total, stacked = quickly_compiled(of_each_episode)(jnp.asarray(mask_of(lengths)))
    np.testing.assert_array_equal(total, [NUMBER[:length, b].sum() for b, length in enumerate(lengths)])
    last = np.cumsum(lengths)
    begin, end = (last - lengths) // BLOCK_STEPS, -(-last // BLOCK_STEPS)
    np.testing.assert_array_equal(visited, end - begin)
    for row, i, j in zip(np.asarray(stacked), begin, end, strict=True):
        assert (row[i:j] >= 1).all() and not row[:i].any() and not row[j:].any()


def test_side_by_side_each_has_its_own_steps():
    """Under vmap every lane visits what any of them needs, and has its own result."""
    masks = jnp.asarray(np.stack([mask_of(lengths) for lengths in LENGTHS.values()]))
    total = lambda mask: fold(lambda number, _: (number.sum(), ()), to_blocks(jnp.asarray(NUMBER), mask))[0]
    np.testing.assert_array_equal(quickly_compiled(jax.vmap(total))(masks), [NUMBER[np.asarray(m)].sum() for m in masks])
    _, of_each, _ = quickly_compiled(jax.vmap(of_each_episode))(masks)
    np.testing.assert_array_equal(of_each, [np.where(m, NUMBER, 0).sum(0) for m in np.asarray(masks)])


def test_episodes_shorter_than_a_block():
    short = jnp.asarray(NUMBER[:2])
    mask = jnp.array([[True, True, True], [False, True, False]])
    packed = to_blocks(short, mask)
    np.testing.assert_array_equal(packed.arrays, [[NUMBER[0, 0], NUMBER[0, 1], NUMBER[1, 1], NUMBER[0, 2], 0, 0]])
    assert packed.steps == 4 and packed.length.tolist() == [1, 2, 1] and packed.taken.sum() == 4
