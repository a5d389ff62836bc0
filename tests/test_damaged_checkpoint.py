"""A checkpoint that restores wrong numbers silently is worse than none: these tests damage them in every way
and ask that the damage is named and an intact one used."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import pytest
from states import assert_bits_equal, files, saved, state, truncate

from pgx.runs import checkpoint
from pgx.runs.checkpoint import CheckpointError, Checkpoints


def flip(path: Path, byte: int):
    data = bytearray(path.read_bytes())
    data[byte] ^= 1
    path.write_bytes(data)


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
    checkpoints = saved(tmp_path, [1])
    saved(tmp_path / "newer", [7])

    def late(step):
        monkeypatch.undo()
        (tmp_path / "newer/7").rename(tmp_path / "7")
        shutil.rmtree(step)
        raise FileNotFoundError(step)

    monkeypatch.setattr(checkpoint, "_orbax_restore", late)
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
