"""A checkpoint that restores wrong numbers silently is worse than none: these tests damage them in every way
and ask that the damage is named and an intact one used."""

import contextlib
import functools
import itertools
import json
import logging
import os
import pickle
import pickletools
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgx.runs.checkpoint import CheckpointError, Checkpoints


class State(eqx.Module):
    network: eqx.nn.MLP
    count: jax.Array
    flags: jax.Array
    nothing: None
    empty: jax.Array


@functools.cache
def network(width: int) -> eqx.nn.MLP:
    return eqx.filter_jit(eqx.nn.MLP)(3, 2, width, 1, key=jax.random.key(0))


def state(fill: float = 0.0, width: int = 4) -> State:
    filled = jax.tree.map(lambda x: jnp.full_like(x, fill) if eqx.is_array(x) else x, network(width))
    return State(filled, jnp.array(int(fill)), jnp.array([True, False]), None, jnp.zeros((0, 3)))


def saved(folder: Path, updates: list[int], **options) -> Checkpoints:
    with Checkpoints(folder, **options) as checkpoints:
        for update in updates:
            checkpoints.save(update, state(update), f"rows until {update}")
    return Checkpoints(folder, **options)


def assert_bits_equal(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        if eqx.is_array(x):
            assert (x.dtype, x.shape, np.asarray(x).tobytes()) == (y.dtype, y.shape, np.asarray(y).tobytes())
        else:
            assert x is y or x == y


def files(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


# What comes back is what was saved.


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


# Defects.


def flip(path: Path, byte: int):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "altered": lambda path: flip(path, path.stat().st_size // 2),
    "truncated": truncate,
    "missing": Path.unlink,
}


def assert_falls_back(folder: Path, caplog, *words: str):
    caplog.clear()
    update, restored, origin = Checkpoints(folder).restore(state())
    assert update == origin.update == 1
    assert_bits_equal(restored, state(1))
    [record] = [record for record in caplog.records if record.name == "pgx"]
    assert record.levelno == logging.WARNING
    for word in (str(folder / "7"), *words):
        assert word in record.getMessage()


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_any_file_is_named_and_the_step_before_used(tmp_path, caplog, kind):
    saved(tmp_path, [1, 7])
    step = tmp_path / "7"
    names = [str(path.relative_to(step)) for path in files(step)]
    assert {"manifest.json", "meta/metadata", "state/bytes/0", "state/_METADATA"} < set(names)
    for name in names:
        content = (step / name).read_bytes()
        DAMAGE[kind](step / name)
        # What is wrong with a manifest that can still be read shows only as a file that it does not describe.
        assert_falls_back(tmp_path, caplog, *([] if name == "manifest.json" else [f"{name} is {kind}"]))
        (step / name).write_bytes(content)
    assert Checkpoints(tmp_path).restore(state())[0] == 7


def test_every_byte_of_the_manifest_counts(tmp_path, caplog):
    saved(tmp_path, [1, 7])
    manifest = tmp_path / "7" / "manifest.json"
    content = manifest.read_bytes()
    for byte in range(0, len(content), 41):
        flip(manifest, byte)
        # Where JSON does not care (a space for a line feed, say), nothing is wrong.
        if json.loads(content) != _parsed(manifest):
            assert_falls_back(tmp_path, caplog)
        manifest.write_bytes(content)


def _parsed(path: Path):
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


@pytest.mark.parametrize("left_out", [None, "state/bytes/0", "meta/metadata"], ids=["all", "state", "meta"])
def test_what_the_manifest_does_not_list_is_not_believed(left_out, tmp_path, caplog):
    """One that lists nothing would prove everything: a flipped bit beside it was used."""
    saved(tmp_path, [1, 7])
    manifest = tmp_path / "7" / "manifest.json"
    sums = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({name: x for name, x in sums.items() if left_out and name != left_out}))
    assert_falls_back(tmp_path, caplog, f"{left_out or min(sums)} is not in manifest.json")


# Whose a step is.


def test_a_step_of_another_run_or_update_is_not_used(tmp_path, caplog):
    """Copied in, renamed, or left behind by a run whose run.json is gone: each is intact, and none is this run's."""
    for run in ("ours", "theirs"):
        with Checkpoints(tmp_path / run, run=run) as checkpoints:
            for update in (1, 2):
                checkpoints.save(update, state(update))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    shutil.copytree(theirs / "2", ours / "3")
    shutil.copytree(ours / "1", ours / "4")
    (ours / "2").rename(ours / "5")
    assert Checkpoints(ours, run="ours").restore(state()).update == 1
    says = ["5 is in truth that of update 2", "4 is in truth that of update 1", "3 is of a run with another configuration"]
    assert [word in r.getMessage() for word, r in zip(says, caplog.records, strict=True)] == [True] * 3
    with pytest.raises(CheckpointError, match="1 is of a run with another configuration or seed"):
        Checkpoints(theirs, run="ours").restore(state())


def test_a_step_of_another_history_is_not_used(tmp_path, caplog):
    """The table was altered after row 1: what was saved then is the newest that proves itself."""
    now = {1: "rows until 1", 7: "rows until 7, but one"}
    assert saved(tmp_path, [1, 7]).restore(state(), rows=now.get).update == 1
    assert "the first 7 rows of metrics.csv are not those that it was saved with" in caplog.text
    with pytest.raises(CheckpointError, match="1 is of another history"):
        saved(tmp_path, [1]).restore(state(), rows=lambda update: "")


def test_a_step_that_is_rotated_away_while_it_is_read_is_no_defect(tmp_path, caplog, monkeypatch):
    """Whoever evaluates a run at work looks again, and finds the newer one."""
    import pgx.runs.checkpoint

    checkpoints = saved(tmp_path, [1])
    saved(tmp_path / "newer", [7])

    def late(step):
        monkeypatch.undo()
        (tmp_path / "newer/7").rename(tmp_path / "7")
        shutil.rmtree(step)
        raise FileNotFoundError(step)

    monkeypatch.setattr(pgx.runs.checkpoint, "_orbax_restore", late)
    assert checkpoints.restore(state()).update == 7 and caplog.text == ""


@pytest.mark.parametrize("manifest", ["[]", "{}x", '{"a": 1}', "", "null"])
def test_nonsense_for_a_manifest(tmp_path, caplog, manifest):
    saved(tmp_path, [1, 7])
    (tmp_path / "7" / "manifest.json").write_text(manifest)
    assert_falls_back(tmp_path, caplog, "manifest.json is altered")


def test_an_empty_folder_is_an_unfinished_step(tmp_path, caplog):
    saved(tmp_path, [1])
    (tmp_path / "7").mkdir()
    assert_falls_back(tmp_path, caplog, "unfinished")


def test_never_silently_from_zero(tmp_path):
    checkpoints = saved(tmp_path, [1, 7])
    truncate(tmp_path / "1" / "state" / "bytes" / "0")
    (tmp_path / "7" / "manifest.json").unlink()
    with pytest.raises(CheckpointError) as error:
        checkpoints.restore(state())
    assert "7 is defective: unfinished" in str(error.value) and "1 is defective: state/bytes/0 is truncated" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "skeleton, message",
    [
        (lambda: state(width=5), r"\.network\.layers\[0\]\.weight is float32\(4, 3\) .* float32\(5, 3\) .* 2 more"),
        (lambda: eqx.tree_at(lambda s: s.count, state(), jnp.array(0.0)), r"\.count is int32\(\) .* float32\(\)"),
        (lambda: eqx.tree_at(lambda s: s.flags, state(), None), r"\.flags is bool\(2,\) .* nothing in this run"),
        (lambda: (state(), jnp.zeros(1)), r"is nothing in the checkpoint"),
    ],
)
def test_another_state_is_an_error_that_names_the_leaf(tmp_path, skeleton, message):
    checkpoints = saved(tmp_path, [1, 7])
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore(skeleton())


# Saving.


def test_a_defective_step_is_saved_again(tmp_path, caplog):
    with saved(tmp_path, [1, 7, 9]) as checkpoints:
        for step in "7", "9":
            truncate(tmp_path / step / "state" / "bytes" / "0")
        assert checkpoints.restore(state())[0] == 1
        checkpoints.save(7, state(70), "again")
        assert checkpoints.restore(state())[0] == 7  # and 9, of the future that was given up, is gone
    caplog.clear()
    update, restored, origin = Checkpoints(tmp_path).restore(state())
    assert (update, origin.rows, caplog.text) == (7, "again", "")
    assert_bits_equal(restored, state(70))


def test_going_back_does_not_lose_what_is_saved_then(tmp_path):
    with saved(tmp_path, [1, 7, 9, 11]) as checkpoints:
        checkpoints.save(8, state(8))
    assert checkpoints.steps() == [7, 8]


@pytest.mark.parametrize("name", ["007", "٣", "-1", "backup", "7.bak"])
def test_strange_names_in_the_folder_are_left_alone(name, tmp_path):
    """No checkpoint could be written any more."""
    (tmp_path / name).mkdir()
    assert saved(tmp_path, [7, 8], keep=1).steps() == [8] and (tmp_path / name).is_dir()


@pytest.mark.parametrize("what", ["file", "link", "dangling link"])
def test_what_stands_in_the_way_of_a_save_is_removed_and_what_it_points_to_is_not(what, tmp_path):
    folder, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    folder.mkdir()
    if what != "dangling link":
        elsewhere.mkdir()
        (elsewhere / "precious").touch()
    for name in (".unfinished", "7"):
        (folder / name).touch() if what == "file" else (folder / name).symlink_to(elsewhere)
    assert saved(folder, [7]).restore(state()).update == 7
    assert what == "dangling link" or (elsewhere / "precious").exists()


def test_a_sweep_removes_what_a_kill_left(tmp_path):
    """At the end of a run, which may have nothing left to save."""
    with saved(tmp_path, [1]) as checkpoints:
        (tmp_path / ".unfinished/2").mkdir(parents=True)
        checkpoints.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_disk_that_hangs_is_an_error_in_the_end(tmp_path, monkeypatch):
    import threading

    import pgx.runs.checkpoint

    hang = threading.Event()
    monkeypatch.setattr(pgx.runs.checkpoint, "PATIENCE", 0.05)
    monkeypatch.setattr(pgx.runs.checkpoint, "_orbax_save", lambda *_: hang.wait(30))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state())
        try:
            with pytest.raises(CheckpointError, match="was not written in 0.05 s"):
                checkpoints.save(2, state())
        finally:
            hang.set()


def test_errors_of_the_thread_surface_once_at_the_next_save(tmp_path):
    blocker = tmp_path / "run"
    blocker.write_text("a file where the folder should be")
    with Checkpoints(blocker / "checkpoints") as checkpoints:
        checkpoints.save(1, state())
        with pytest.raises(CheckpointError, match="cannot write .*checkpoints/1: NotADirectoryError") as error:
            checkpoints.save(2, state())
        assert "\n" not in str(error.value)
        blocker.unlink()
        checkpoints.save(3, state())
    assert checkpoints.steps() == [3]


def test_errors_of_the_thread_surface_at_close(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError), Checkpoints(tmp_path / "file") as checkpoints:
        checkpoints.save(1, state())


def test_a_failed_save_does_not_hide_what_ended_the_run(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZeroDivisionError), Checkpoints(tmp_path / "file") as checkpoints:
        checkpoints.save(1, state())
        raise ZeroDivisionError
    assert "cannot write checkpoint" in caplog.text


def test_orbax_is_quiet(tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO)
    saved(tmp_path, [1, 2], keep=1).restore(state())
    assert [record.name for record in caplog.records if record.levelno > logging.INFO] == []
    assert not any("orbax" in record.pathname for record in caplog.records)
    assert capfd.readouterr() == ("", "")


class Killed(BaseException):
    pass


def deadly(operation: Callable, number: int, moment: str) -> Callable:
    """`operation`, but its call of that number is the last thing that happens: before it, amid it or after it."""
    calls = itertools.count(1)

    def call(path, *args, **kwargs):
        last = next(calls) == number
        if not last or moment == "after":
            operation(path, *args, **kwargs)
        elif moment == "amid":
            for inner in [inner for inner in Path(path).rglob("*") if inner.is_file()][:1]:
                inner.unlink()
        if last:
            raise Killed

    return call


@pytest.mark.parametrize(
    "owner, name, moment", [(Path, "rename", "before"), (Path, "rename", "after"), (shutil, "rmtree", "amid")]
)
def test_a_kill_at_each_operation_on_files(tmp_path, caplog, monkeypatch, owner, name, moment):
    saved(tmp_path / "whole", [2, 3])
    for number in range(1, 99):
        folder = shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        (folder / ".unfinished").mkdir()  # of another kill
        checkpoints = Checkpoints(folder, keep=1)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, deadly(getattr(owner, name), number, moment))
            with contextlib.suppress(Killed):
                survived = False
                checkpoints.save(3, state(3))  # replaces 3 and removes 2
                survived = checkpoints._writing.exception() is None
        if survived:
            break
        left = Checkpoints(folder)
        assert left.steps()
        for step in left.steps():
            assert_bits_equal(left.at(step, state()), state(step))
    assert number > 2 and caplog.text == ""
    assert checkpoints.steps() == [3]


SAVE_FOR_EVER = """
import os, sys
import jax.numpy as jnp
import orbax.checkpoint  # once, here: each fork below then starts in no time
from pathlib import Path
from pgx.runs.checkpoint import Checkpoints

def save_for_ever():
    skeleton = {"a": jnp.zeros(1000), "b": jnp.int32(0)}
    with Checkpoints(Path(sys.argv[1]), keep=2) as checkpoints:
        found = checkpoints.restore(skeleton)
        update = found[0] if found else 0
        while True:
            update += 1
            checkpoints.save(update, {"a": jnp.full(1000, float(update)), "b": jnp.int32(update)})

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        save_for_ever()
    print(pid, flush=True)
    os.waitpid(pid, 0)
"""


def test_a_kill_at_any_moment_leaves_a_good_checkpoint(tmp_path, caplog):
    chance = random.Random(0)
    skeleton = {"a": jnp.zeros(1000), "b": jnp.int32(0)}
    reached, leftovers = 0, 0
    command = [sys.executable, "-W", "ignore", "-c", SAVE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as saver:
        for _ in range(8):
            print("start", file=saver.stdin, flush=True)
            pid = int(saver.stdout.readline())
            deadline = time.monotonic() + 60
            while max(Checkpoints(tmp_path).steps(), default=0) <= reached:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(chance.uniform(0, 0.05))
            os.kill(pid, signal.SIGKILL)
            for step in Checkpoints(tmp_path).steps():
                restored = Checkpoints(tmp_path).at(step, skeleton)
                assert int(restored["b"]) == step and (restored["a"] == step).all()
            assert step > reached
            reached, leftovers = step, leftovers + (tmp_path / ".unfinished").exists()
    assert caplog.text == ""
    assert leftovers  # else no kill fell into a save, and the test shows nothing
