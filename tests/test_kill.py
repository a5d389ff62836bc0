"""A run that was killed or stopped on the way ends as if nothing had happened, to the last bit: otherwise every machine that
goes down makes a result that nobody can have again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bits import metrics, num_rows, saved, snapshot
from program import environment, finish, pgx, start, summary

# Many short chunks and checkpoints: moments to be killed at
SHORT = ("episodes_per_update=4", "updates_per_chunk=1", "checkpoint_every=3", "diagnose_every=7")
COMPILED = ("+variant=baseline", "+env.params.max_steps_in_episode=30", *SHORT, "num_updates=150", "hydra.run.dir=r")
HOST = ("+variant=baseline", "env=gymnasium_cartpole", "env.max_steps=30", *SHORT, "num_updates=60", "hydra.run.dir=r")

CONTINUOUS = (
    "+variant=ppo", "update.shuffle=true", "env=pendulum", "scale_observations=true", "critic.standardise_target=true",
    "+env.params.max_steps_in_episode=30", *SHORT, "num_updates=60", "hydra.run.dir=r",
)  # fmt: skip


def assert_same_end(folder: Path, uninterrupted: Path, moments: object = None) -> None:
    assert summary(folder)["status"] == "completed"
    assert metrics(folder) == metrics(uninterrupted), moments
    assert saved(folder) == saved(uninterrupted), moments
    mine, theirs = (
        {key: x for key, x in summary(run).items() if key not in ("started", "finished", "wall_seconds")}
        for run in (folder, uninterrupted)
    )
    assert mine == theirs
    assert (folder / "learning_curve.png").stat().st_size > 1000


def wait(process: subprocess.Popen, until: Callable[[], bool]) -> None:
    """Stop the process as soon as it is so far, and so that it still is when we look again."""
    patience = time.monotonic() + 100
    while time.monotonic() < patience and process.poll() is None:
        if until():
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # all of its threads stand still
            if until():
                return
            process.send_signal(signal.SIGCONT)
    process.kill()
    pytest.fail(f"it ended, or hung, before that moment: {process.communicate()}")


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def uninterrupted(command: tuple[str, ...], root: Path) -> Path:
    done = pgx(*command, cwd=root)
    assert done.returncode == 0, done.stderr
    return root / "r"


@pytest.fixture(scope="module", params=[COMPILED, HOST], ids=["compiled", "host"])
def whole(request, tmp_path_factory) -> tuple[Path, tuple[str, ...]]:
    """A run that nobody interrupted, and its command."""
    return uninterrupted(request.param, tmp_path_factory.mktemp("whole")), request.param


def kill_and_resume(whole: Path, command: tuple[str, ...], root: Path, *, everywhere: bool) -> None:
    """Before the first row, at random rows, within a save, and between the last row and the last file; or at two of
    these."""
    folder, updates = root / "r", num_rows(whole)
    at = sorted(random.sample(range(1, updates), 3))
    workshop = folder / "checkpoints/.unfinished"
    moments = {
        "start": lambda: (folder / "run.json").exists(),
        f"row {at[0]}": lambda: num_rows(folder) >= at[0],
        f"a save after row {at[1]}": lambda: num_rows(folder) >= at[1] and workshop.exists(),
        f"row {at[2]}": lambda: num_rows(folder) >= at[2],
        "last row": lambda: num_rows(folder) == updates,
    }
    for moment, reached in list(moments.items()) if everywhere else list(moments.items())[2:4]:
        process = start(*command, cwd=root)
        wait(process, reached)
        if moment.startswith(("start", "row")):  # anywhere in what follows: the update, the files, a save
            process.send_signal(signal.SIGCONT)
            time.sleep(random.uniform(0, 0.02))
        kill(process)
        assert summary(folder)["status"] == "running"
    done = pgx(*command, cwd=root)
    assert done.returncode == 0 and done.stderr == ""
    assert_same_end(folder, whole, list(moments))


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(whole, tmp_path):
    folder, command = whole
    kill_and_resume(folder, command, tmp_path, everywhere=command is COMPILED)  # little of the host's is another code


def test_so_does_a_continuous_one_with_running_statistics_and_a_shuffle(tmp_path_factory, tmp_path):
    kill_and_resume(uninterrupted(CONTINUOUS, tmp_path_factory.mktemp("whole")), CONTINUOUS, tmp_path, everywhere=False)


def test_signals_save_and_say_so_and_a_second_process_is_kept_out(whole, tmp_path):
    """Batch systems send SIGTERM or SIGUSR2, people press Ctrl-C or close the terminal: nothing may be lost, and two
    processes in one folder would lose everything. The run goes on by its own command and at last by `pgx.resume`."""
    uninterrupted, command = whole
    folder, updates = tmp_path / "r", num_rows(uninterrupted)
    rows = sorted(random.sample(range(1, updates - 20), 3))
    fourth = signal.SIGUSR2 if command is HOST or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else signal.SIGHUP
    for number, row in zip((signal.SIGTERM, signal.SIGINT, fourth), rows, strict=True):
        row = max(row, num_rows(folder))  # a new one, so that it is at work
        process = start(*command, cwd=tmp_path)
        wait(process, lambda row=row: num_rows(folder) > row)
        before = snapshot(folder)
        second = pgx(*command, cwd=tmp_path)
        assert second.returncode == 2 and second.stdout == ""
        assert second.stderr.startswith("pgx: hydra.run.dir: another process is at work in r")
        assert snapshot(folder) == before
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        done, found = finish(process), summary(folder)
        assert done.returncode == 128 + number
        assert done.stderr.startswith(f"pgx: {number.name}: the run ends after") and done.stderr.count("\n") == 1
        assert f": interrupted ({number.name}): return" in done.stdout and done.stdout.endswith("files in r\n")
        assert (found["status"], found["error"]) == ("interrupted", number.name)
        assert saved(folder)[0][-1] == num_rows(folder) == found["updates"] < updates
    resume = [sys.executable, "-m", "pgx.resume", "r"]
    done = subprocess.run(resume, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == "" and summary(folder)["error"] is None
    assert_same_end(folder, uninterrupted)


# A finished run


def test_a_finished_run_says_so_and_is_left_alone(whole):
    """Whoever runs a sweep's command again wants the missing members, and not other files for those that are there."""
    folder, command = whole
    before = snapshot(folder)
    again = pgx(*command, cwd=folder.parent)
    assert again.returncode == 0 and again.stderr == "" and again.stdout.endswith("; already finished; files in r\n")
    changed = pgx(*command, "gamma=0.9", cwd=folder.parent)
    assert changed.returncode == 2 and changed.stdout == ""
    assert changed.stderr.startswith("pgx: gamma: 1.0 → 0.9: ") and changed.stderr.count("\n") == 1
    assert snapshot(folder) == before
