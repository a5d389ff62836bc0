"""Saving a checkpoint: what stands in its way, errors of its thread, and a kill at any moment."""

import contextlib
import itertools
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import pytest
from states import assert_bits_equal, saved, state, truncate

from pgx.runs import checkpoint
from pgx.runs.checkpoint import CheckpointError, Checkpoints


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
    hang = threading.Event()
    monkeypatch.setattr(checkpoint, "PATIENCE", 0.05)
    monkeypatch.setattr(checkpoint, "_orbax_save", lambda *_: hang.wait(30))
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
from pgx.runs import checkpoint
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
