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
    (obs, number), used = quickly_compiled(to_blocks)((jnp.asarray(OBS), jnp.asarray(NUMBER)), jnp.asarray(mask))
    assert obs.shape == (COUNT, O, BLOCK_STEPS) and number.shape == (COUNT, BLOCK_STEPS)
    wanted = np.zeros((COUNT * BLOCK_STEPS, O))
    wanted[: mask.sum()] = np.concatenate([OBS[:length, b] for b, length in enumerate(lengths)])
    np.testing.assert_array_equal(np.moveaxis(obs, 1, -1).reshape(-1, O), wanted)
    np.testing.assert_array_equal(np.asarray(number).reshape(-1), wanted[:, 0])
    assert int(used) == -(-mask.sum() // BLOCK_STEPS)  # and not of the longest episode
    back = quickly_compiled(from_blocks)(number, jnp.asarray(mask))
    np.testing.assert_array_equal(back, np.where(mask, NUMBER, 0))


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_by_time_keeps_the_episodes_apart(lengths):
    (obs, number), used = quickly_compiled(by_time)((jnp.asarray(OBS), jnp.asarray(NUMBER)), jnp.asarray(mask_of(lengths)))
    assert obs.shape == (11, O, STRETCH, B) and number.shape == (11, STRETCH, B)
    np.testing.assert_array_equal(np.asarray(number).reshape(-1, B)[:T], NUMBER)
    np.testing.assert_array_equal(np.moveaxis(obs, 1, -1).reshape(-1, B, O)[:T], OBS)
    assert int(used) == -(-max(lengths) // STRETCH)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_fold_visits_what_is_used(lengths):
    """A block that is not used would show: it counts 1."""
    mask = jnp.asarray(mask_of(lengths))

    def visit(mask):
        blocks = to_blocks(jnp.asarray(NUMBER), mask)
        return fold(lambda number: ((number.sum(), 1), number + 1), blocks), blocks.used

    ((total, visited), more), used = quickly_compiled(visit)(mask)
    assert visited == used and total == NUMBER[np.asarray(mask)].sum()
    np.testing.assert_array_equal(from_blocks(more, mask), np.where(mask, NUMBER + 1, 0))
    assert not np.asarray(more)[int(used) :].any()


def test_side_by_side_each_has_its_own_steps():
    """Under vmap every lane goes on as long as the one with the most steps, and has its own result."""
    masks = jnp.asarray(np.stack([mask_of(lengths) for lengths in LENGTHS.values()]))
    total = lambda mask: fold(lambda number: (number.sum(), ()), to_blocks(jnp.asarray(NUMBER), mask))[0]
    np.testing.assert_array_equal(quickly_compiled(jax.vmap(total))(masks), [NUMBER[np.asarray(m)].sum() for m in masks])


def test_episodes_shorter_than_a_block():
    short = jnp.asarray(NUMBER[:2])
    mask = jnp.array([[True, True, True], [False, True, False]])
    blocks, used = to_blocks(short, mask)
    np.testing.assert_array_equal(blocks, [[NUMBER[0, 0], NUMBER[0, 1], NUMBER[1, 1], NUMBER[0, 2], 0, 0]])
    assert used == 1
