"""Output that nobody can take: `| true`, a full disk, closed streams, a terminal without UTF-8. A run of a night must
not be reported as failed because of its last line."""

import errno
import io
import logging
import os
import subprocess
import sys
import threading

import pytest
from program import environment, summary

from pgx.streams import no_tracebacks_beside, tolerant_streams


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


@pytest.mark.parametrize("make", [closed_pipe, lambda: open("/dev/full", "w")], ids=["closed pipe", "full disk"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_what_cannot_be_written_is_dropped_and_nothing_fails_later(make, name, monkeypatch):
    """Also what waits in the buffer: Python would try it again when it ends, and turn the exit code into 120."""
    with make() as stream:
        monkeypatch.setattr(sys, name, stream)
        with tolerant_streams():
            for text in ("short", "long" * 10_000):
                print(text, file=getattr(sys, name), flush=True)
            print("the last line", file=getattr(sys, name))
        assert getattr(sys, name) is stream  # closing it, which writes what it holds, raises nothing


def test_streams_that_were_closed_from_the_start_take_everything(monkeypatch):
    """With `2>&-` Python has no sys.stderr at all, and a progress bar asks it whether it is a terminal."""
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with tolerant_streams():
        print("out")
        assert not sys.stderr.isatty()
        print("err", file=sys.stderr)


def test_a_character_that_the_terminal_lacks_does_not_lose_the_number(monkeypatch):
    """`PYTHONIOENCODING=ascii pgx.evaluate RUN` played all episodes and then died of the ±."""
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    with tolerant_streams():
        print("return 475.1 ± 12.3")
    assert shown.getvalue() == b"return 475.1 ? 12.3\n"


def test_a_run_whose_output_nobody_takes_completes_and_says_so_by_its_exit_code(tmp_path):
    """The whole program, with a full standard output and no standard error."""
    shell = ["sh", "-c", 'exec "$0" "$@" > /dev/full 2>&-', sys.executable, "-m"]
    run = ["pgx.run", "+variant=reward_to_go", "env=catch", "tracker=none", "num_updates=1", "episodes_per_update=2"]
    done = subprocess.run([*shell, *run, "hydra.run.dir=r"], cwd=tmp_path, env=environment(), check=False)
    assert done.returncode == 0 and summary(tmp_path / "r")["status"] == "completed"
    done = subprocess.run([*shell, "pgx.sweep", "status", "nowhere"], cwd=tmp_path, env=environment(), check=False)
    assert done.returncode == 2


def test_a_log_that_cannot_be_written_and_orbax_threads_print_nothing(monkeypatch, capsys):
    """A full disk was 90 to 530 lines of tracebacks."""
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    no_tracebacks_beside()

    def fails():
        raise OSError(errno.ENOSPC, "No space left on device")

    theirs = type("_SignalingThread", (threading.Thread,), {"__module__": "orbax.checkpoint._src.futures.future"})
    for kind in (theirs, threading.Thread):
        thread = kind(target=fails)
        thread.start()
        thread.join()
        assert ("No space left" in capsys.readouterr().err) == (kind is threading.Thread)
    stream = io.StringIO()
    stream.write = lambda _: fails()
    logging.StreamHandler(stream).emit(logging.makeLogRecord({"msg": "a line"}))
    assert capsys.readouterr().err == ""
