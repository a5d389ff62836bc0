"""Signals, and waits that do not end: whoever presses Ctrl-C, and every batch system, must be heard, whatever hangs."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from program import ROOT, environment, finish, pgx, rows, start, summary

from pgx import interrupt
from pgx.errors import Interrupted
from pgx.interrupt import Interrupt
from pgx.runs import recording


@pytest.fixture
def heard(monkeypatch) -> list[str]:
    """What is told to the person at the keyboard, with the time."""
    told: list[tuple[float, str]] = []
    monkeypatch.setattr(Interrupt, "_say", lambda self, what: told.append((time.monotonic(), what)) if self._alone else None)
    return told


@pytest.fixture
def ended(monkeypatch) -> list[object]:
    """Instead of the end of this process: by what, and with which exit code."""
    how: list[object] = []
    monkeypatch.setattr(interrupt, "AT_ONCE", 0.1)
    monkeypatch.setattr(recording, "abandon_all", how.append)

    def end(code: int) -> None:
        how.append(code)
        raise SystemExit  # of the thread

    monkeypatch.setattr(interrupt.os, "_exit", end)
    return how


def later(number: int, seconds: float = 0.2) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), number)).start()


def until(condition, seconds: float = 20) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_signal_is_answered_at_once_while_the_program_is_in_c(heard):
    """XLA compiles for seconds, in which Python's handlers have no turn: people press Ctrl-C again and again."""
    with Interrupt(alone=True) as caught:
        later(signal.SIGINT)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 3_000_000)  # without the interpreter's lock, as XLA
        back = time.monotonic()
        until(lambda: caught.by is not None)
    ((when, what),) = heard
    assert when < back - 0.1 and what.startswith("SIGINT: the run ends after the update in progress")


def test_the_second_ends_it_and_which_was_it_is_known(heard):
    with pytest.raises(Interrupted) as stopped, Interrupt(alone=True) as caught:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # `timeout` sends it to the process and to its group: that is one
        time.sleep(0.6)
        assert caught.by is signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.by is signal.SIGTERM and isinstance(stopped.value, KeyboardInterrupt)


@pytest.mark.parametrize("number", Interrupt.STOP)
def test_every_signal_that_ends_a_run_lets_it_save(number, heard):
    """A closed terminal (SIGHUP) was a kill. In a sweep the worker is told by its parent, and says nothing itself."""
    before = {each: signal.getsignal(each) for each in Interrupt.STOP}
    if number == signal.SIGHUP and before[number] is signal.SIG_IGN:
        pytest.skip("under nohup it is ignored, as it should be")
    with Interrupt() as caught:
        for _ in range(3):
            signal.raise_signal(number)
        assert caught.by is number
    assert heard == []
    assert {each: signal.getsignal(each) for each in Interrupt.STOP} == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("numbers", "code"), [((signal.SIGTERM,), 143), ((signal.SIGINT, signal.SIGINT), 130)])
def test_what_does_not_hear_is_ended(numbers, code, heard, ended, monkeypatch):
    """A batch system sends one signal, and then SIGKILL, of which nothing is recorded."""
    monkeypatch.setattr(interrupt, "GRACE", 0.1)
    with Interrupt(alone=True) as caught:
        caught._note = lambda *_: None  # the main thread hangs: its handlers have no turn
        for number in numbers:
            signal.signal(number, caught._note)
            signal.raise_signal(number)
            time.sleep(0.3) if len(numbers) > 1 else None
        until(lambda: len(ended) == 2)
    assert ended == [numbers[0], code]
    assert f"{numbers[0].name}: the start does not end, in " in heard[-1][1]


def test_one_ctrl_c_is_patient_and_a_slow_run_is_given_time(heard, ended, monkeypatch):
    """Whoever presses it sits there and can press it again; an update of a minute is no hang."""
    monkeypatch.setattr(interrupt, "GRACE", 0.1)
    with Interrupt(alone=True):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0.8)
    with Interrupt(alone=True) as caught:
        caught.beat("the chunk", took=60.0)
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.8)
    assert ended == []


def test_what_takes_so_long_is_told(caplog, monkeypatch):
    """An environment that hangs looks like one that is slow."""
    monkeypatch.setattr(interrupt, "PATIENCE", 0.2)
    with Interrupt() as caught:
        caught.beat("the chunk from update 7 on")
        until(lambda: caplog.text)
    assert "the chunk from update 7 on has taken " in caplog.text
    assert "s so far, in until (test_interrupt.py, line " in caplog.text


@pytest.mark.parametrize("command", ["run", "evaluate"])
def test_ctrl_c_while_a_command_is_imported_is_no_traceback(command, tmp_path):
    """Seconds on a busy machine: whoever sees the typing error then presses it at once."""
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra/__init__.py").write_text("import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(9)")
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    words = [sys.executable, "-m", f"pgx.{command}", "x"]
    done = subprocess.run(words, env=environment(PYTHONPATH=path), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM)])
def test_an_environment_that_hangs_can_be_ended_and_the_run_goes_on(numbers, tmp_path):
    """The whole program: two signals, exit code, run.json, and nothing lost that was saved."""
    fault = tmp_path / "fault"
    command = ("+variant=reward_to_go", "env=gymnasium", "env.id=faulty_envs:Hang-v0", "hydra.run.dir=r")
    command += ("num_updates=8", "checkpoint_every=2", "episodes_per_update=2")
    fault.touch()
    process = start(*command, cwd=tmp_path, PGX_TEST_FAULT=str(fault))
    until(lambda: (tmp_path / "r/checkpoints/4").exists(), 100)
    time.sleep(1)
    for number in numbers:
        process.send_signal(number)
        time.sleep(1)
    done = finish(process, timeout=20)
    assert done.returncode == 128 + numbers[-1] and "Traceback" not in done.stderr
    first, second = done.stderr.splitlines()
    name = numbers[0].name
    assert first.startswith(f"pgx: {name}: the run ends after") and "does not end, in hang (faulty_envs.py" in second
    found = summary(tmp_path / "r")
    assert (found["status"], found["error"]) == ("interrupted", name)
    fault.unlink()
    assert pgx(*command, cwd=tmp_path).returncode == 0 and len(rows(tmp_path / "r")) == 8


def test_nohup_is_respected(monkeypatch):
    """Who asks for it wants the run to go on when the terminal is closed."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupt() as caught:
            signal.raise_signal(signal.SIGHUP)
        assert caught.by is None and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
