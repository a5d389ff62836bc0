"""What comes back from a checkpoint is what was saved, and of the right update."""

import pickle
import pickletools
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from states import assert_bits_equal, files, saved, state

from pgx.runs.checkpoint import CheckpointError, Checkpoints


def test_round_trip_is_bit_exact(tmp_path):
    nans = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0x80000000, 0x00000001], np.uint32).view(np.float32)
    leaves = {
        "nan payloads, -0.0, subnormal": jnp.asarray(nans),
        "fortran / [order].": jnp.asarray(np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))),
        "scalars": (jnp.array(7), jnp.array(True), jnp.array(2.5), jnp.uint32(2**32 - 1)),
        "halves": jnp.array([1.5, -0.0], jnp.bfloat16),
        "size zero": (jnp.zeros((0, 3)), jnp.zeros((2, 0), int)),
        "parts": (None, [], {}, "text", 3, jax.nn.relu),
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, leaves, "a sum")
        skeleton = jax.tree.map(lambda x: jnp.zeros_like(x) if eqx.is_array(x) else x, leaves)
        update, restored, origin = checkpoints.restore(skeleton)
    assert (update, origin) == (3, ("", 3, "a sum"))
    assert jax.tree.structure(restored) == jax.tree.structure(leaves)
    assert_bits_equal(restored, leaves)


@pytest.mark.parametrize("nothing", [(), None, {"a": None}, {"a": jnp.zeros((0, 2))}])
def test_states_without_content(tmp_path, nothing):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, nothing)
        assert checkpoints.restore(nothing)[0] == 0


def test_a_skeleton_may_be_abstract(tmp_path):
    with saved(tmp_path, [5]) as checkpoints:
        _, restored, _ = checkpoints.restore(eqx.filter_eval_shape(state))
    assert_bits_equal(restored, state(5))


def test_restored_state_does_not_recompile(tmp_path):
    step = jax.jit(lambda leaves: [leaf + 1 for leaf in leaves])
    leaves = [jnp.zeros(3), jnp.int32(1)]  # strongly typed, as leaves come back
    step(leaves)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, leaves)
        step(checkpoints.restore(leaves)[1])
    assert step._cache_size() == 1


def test_the_caller_may_change_what_it_saved(tmp_path):
    # Training donates the state's buffers to the next chunk while the thread is still writing.
    add = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(100_000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, x)
        add(x)
        assert not checkpoints.restore(jnp.ones(100_000)).state.any()


def test_a_numpy_leaf_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(TypeError, match=r"\['x'\] .* NumPy"):
        checkpoints.save(0, {"x": np.zeros(2)})


def is_pickle(data: bytes) -> bool:
    """Not `pickletools.genops` alone: one in a few thousand files of any format happens to be valid opcodes."""
    try:
        *_, (_, _, at) = pickletools.genops(data)
    except ValueError:
        return False
    return data[:1] == pickle.PROTO and at == len(data) - 1


def test_no_pickle(tmp_path):
    saved(tmp_path, [1])
    assert is_pickle(pickle.dumps({"update": 1}))
    assert not [path for path in files(tmp_path) if is_pickle(path.read_bytes())]


def test_plain_orbax_reads_it(tmp_path):
    import orbax.checkpoint as ocp

    saved(tmp_path, [1, 2])
    (tmp_path / ".unfinished").mkdir()
    with ocp.CheckpointManager(tmp_path, item_names=("state", "meta")) as manager:
        args = ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore())
        assert manager.restore(manager.latest_step(), args=args)["meta"]["origin"]["update"] == 2


def test_import_is_light():
    code = "import sys, pgx.runs.checkpoint; assert not any('orbax' in name for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# Which step is used, which are kept.


def test_no_step_is_none(tmp_path):
    assert Checkpoints(tmp_path / "absent").restore(state()) is None
    (tmp_path / ".unfinished").mkdir()
    assert Checkpoints(tmp_path).restore(state()) is None


def test_newest_wins(tmp_path):
    checkpoints = saved(tmp_path, [9, 10, 100])
    assert checkpoints.restore(state())[0] == 100
    assert_bits_equal(checkpoints.at(10, state()), state(10))
    with pytest.raises(CheckpointError, match=r"no checkpoint of update 8, only \[9, 10, 100\]"):
        checkpoints.at(8, state())


@pytest.mark.parametrize(
    "scores, kept, best",
    [
        ([None, None, None, None], [2, 3], None),
        ([5.0, 1.0, 1.0, 1.0], [0, 2, 3], 0),
        ([1.0, 5.0, float("nan"), 2.0], [1, 2, 3], 1),
        ([5.0, 5.0, 1.0, 5.0], [0, 2, 3], 0),
        ([-9.0, float("nan"), float("-inf"), float("inf")], [0, 2, 3], 0),
        ([1.0, None, 2.0, 1.0], [2, 3], 2),
    ],
)
def test_the_newest_and_the_best_are_kept(tmp_path, scores, kept, best):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for update, score in enumerate(scores):
            checkpoints.save(update, state(update), score=score)
    assert checkpoints.steps() == kept
    found = Checkpoints(tmp_path).best(state())
    assert (found and found[0]) == best
    if found:
        assert_bits_equal(found[1], state(best))


def test_best_falls_back_to_the_next_best(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        for update, score in enumerate([2.0, 3.0, 1.0]):
            checkpoints.save(update, state(update), score=score)
        (tmp_path / "1" / "state" / "_METADATA").unlink()
        assert checkpoints.best(state())[0] == 0
    assert "_METADATA is missing" in caplog.text


@pytest.mark.parametrize("keep", [1, 3])
def test_keep(tmp_path, keep):
    assert saved(tmp_path, list(range(5)), keep=keep).steps() == list(range(5 - keep, 5))
    assert not (tmp_path / ".unfinished").exists()


def test_keep_at_least_one(tmp_path):
    with pytest.raises(ValueError, match="keep"):
        Checkpoints(tmp_path, keep=0)


def test_a_run_folder_may_be_moved(tmp_path):
    saved(tmp_path / "a", [1])
    (tmp_path / "a").rename(tmp_path / "b")
    assert Checkpoints(tmp_path / "b").restore(state())[0] == 1
