"""A run that was killed, stopped or damaged on the way must end as if nothing had happened, to the last bit: otherwise
every machine that goes down makes a result that nobody can have again. And it must not continue what it should not."""

import json
import logging
import os
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
import numpy as np
import pytest
from program import environment, finish, gate, pgx, start, summary, train_here

from pgx import backend
from pgx.build import build, skeleton
from pgx.errors import ConfigError
from pgx.runs import provenance
from pgx.runs.checkpoint import MANIFEST, CheckpointError, Checkpoints, _checksums
from pgx.runs.restore import trained

# Many short chunks and checkpoints: moments to be killed at
SHORT = ("episodes_per_update=4", "updates_per_chunk=1", "checkpoint_every=3", "diagnose_every=7")
COMPILED = ("+variant=baseline", "+env.params.max_steps_in_episode=30", *SHORT, "num_updates=150", "hydra.run.dir=r")
HOST = ("+variant=baseline", "env=gymnasium_cartpole", "env.max_steps=30", *SHORT, "num_updates=60", "hydra.run.dir=r")

CONTINUOUS = (
    "+variant=ppo", "update.shuffle=true", "env=pendulum", "scale_observations=true", "critic.standardise_target=true",
    "+env.params.max_steps_in_episode=30", *SHORT, "num_updates=60", "hydra.run.dir=r",
)  # fmt: skip


def metrics(folder: Path) -> bytes:
    return (folder / "metrics.csv").read_bytes()


def num_rows(folder: Path) -> int:
    return metrics(folder).count(b"\n") - 1 if (folder / "metrics.csv").exists() else 0


def saved(folder: Path) -> tuple[list[int], list[bytes]]:
    """(the updates that have a checkpoint, every bit of the newest)."""
    config = summary(folder)["config"]
    with Checkpoints(folder / "checkpoints") as checkpoints:
        update, state, _ = checkpoints.restore(skeleton(config, *build(config)))
        assert update == checkpoints.steps()[-1]
        return checkpoints.steps(), [np.asarray(x).tobytes() for x in jax.tree.leaves(eqx.filter(state, eqx.is_array))]


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


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes | None]]:
    """Time and content of everything."""
    paths = (folder, *folder.rglob("*"))
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in paths}


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


# In this process: what is there is one thing, what is asked for another

HERE = ("+variant=baseline", "+env.params.max_steps_in_episode=20", *SHORT)


@pytest.fixture(scope="module")
def short_and_long(tmp_path_factory) -> tuple[Path, Path]:
    """Runs of 13 and of 26 updates."""
    root = tmp_path_factory.mktemp("here")
    for updates in (13, 26):
        train_here(*HERE, f"num_updates={updates}", folder=root / str(updates))
    return root / "13", root / "26"


@pytest.fixture
def copy(short_and_long, tmp_path) -> Path:
    return shutil.copytree(short_and_long[0], tmp_path / "copy")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ("num_updates=13 seed=1", "seed: 0 → 1"),
        ("num_updates=12", "num_updates: 13 → 12"),
        ("num_updates=26 num_env_steps=1000", "num_env_steps: 1000000 → 1000"),
        ("num_updates=26 policy.width=16", "policy.width: 32 → 16"),
        ("num_updates=26 optimiser=adamw", "optimiser.method: adam → adamw"),
        ("num_updates=26 critic=none", "critic._target_: pgx.critics.ValueNetwork → pgx.critics.NoCritic"),
        ("num_updates=26 stop_when_solved=true", "stop_when_solved: False → True"),
        ("num_updates=26 xla_threads=3", "xla_threads: 1 → 3"),
    ],
)
def test_another_configuration_is_refused_by_name(changes, says, copy, capsys):
    """The first half of a run by one learning rate and the second by another is a result of neither."""
    before = snapshot(copy)
    with pytest.raises(SystemExit) as refusal:
        gate(*HERE, *changes.split(), f"hydra.run.dir={copy}")
    text = capsys.readouterr().err
    assert refusal.value.code == 2 and text.startswith(f"pgx: {says}: ") and "choose another folder" in text
    with pytest.raises(ConfigError, match=says.split(":")[0]):  # nor by the door behind
        train_here(*HERE, *changes.split(), folder=copy)
    assert {path: x for path, x in snapshot(copy).items() if path.name not in ("copy", ".lock")} == {
        path: x for path, x in before.items() if path.name not in ("copy", ".lock")
    }


@pytest.mark.parametrize("changes", ["num_updates=26", "num_updates=26 checkpoint_every=5 updates_per_chunk=4"])
def test_a_larger_budget_goes_on_to_what_one_long_run_is(changes, copy, short_and_long):
    """More training is the most common afterthought. How often a run looks up and saves is no part of it."""
    done = train_here(*HERE, *changes.split(), folder=copy)
    assert done["status"] == "completed" and metrics(copy) == metrics(short_and_long[1])
    assert saved(copy)[1] == saved(short_and_long[1])[1]


def flip_a_bit(step: Path) -> str:
    file = step / "state/bytes/0"
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(data)
    return "state/bytes/0 is altered"


def truncate(step: Path) -> str:
    file = step / "state/bytes/0"
    file.write_bytes(file.read_bytes()[:-1])
    return "state/bytes/0 is truncated"


def remove_a_file(step: Path) -> str:
    (step / "meta/metadata").unlink()
    return "meta/metadata is missing"


def remove_the_manifest(step: Path) -> str:
    (step / "manifest.json").unlink()
    return "unfinished, it has no manifest.json"


def remove_all(step: Path) -> str:
    shutil.rmtree(step)
    step.mkdir()
    return "unfinished, it has no manifest.json"


DAMAGES = (flip_a_bit, truncate, remove_a_file, remove_the_manifest, remove_all)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, copy, short_and_long, caplog):
    """Disks fill up and files rot. Wrong parameters would go on without a word."""
    newest = copy / "checkpoints/13"
    says = damage(newest)
    with caplog.at_level(logging.WARNING, "pgx"):
        train_here(*HERE, "num_updates=26", folder=copy)
    (warning,) = caplog.records
    assert warning.getMessage() == f"checkpoint {newest} is defective: {says}; not used"
    assert metrics(copy) == metrics(short_and_long[1]) and saved(copy)[1] == saved(short_and_long[1])[1]


def assert_refused(folder: Path, says: str, *changes: str) -> None:
    """By name, and every byte is what it was."""
    before = contents(folder)
    with pytest.raises((CheckpointError, ConfigError), match=says):
        train_here(*HERE, "num_updates=26", *changes, folder=folder)
    assert contents(folder) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: x for path, (_, x) in snapshot(folder).items() if x is not None and path.name != ".lock"}


def steps(folder: Path) -> list[Path]:
    return [path for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]


def test_without_any_good_checkpoint_nothing_starts_from_zero(copy):
    """It would overwrite the only record of the run that there is."""
    for step in steps(copy):
        flip_a_bit(step)
    assert len(steps(copy)) > 2
    assert_refused(copy, "no checkpoint in .* can be used: 13 is defective")


@pytest.mark.parametrize("gone", ["folder", "steps", "table as well", "run.json as well"])
def test_without_any_checkpoint_nothing_starts_from_zero(gone, copy):
    """Left out of a copy, deleted to save space, not in the archive: it wiped the history without a word."""
    shutil.rmtree(copy / "checkpoints")
    if gone == "steps":
        (copy / "checkpoints").mkdir()
    if gone == "table as well":
        (copy / "metrics.csv").unlink()
    if gone == "run.json as well":
        (copy / "run.json").unlink()
    assert_refused(copy, "no checkpoint in .* can be used: there is none")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(copy, short_and_long):
    """Nothing is lost that would not be computed again at once."""
    shutil.rmtree(copy / "checkpoints")
    lines = metrics(copy).splitlines(keepends=True)
    (copy / "metrics.csv").write_bytes(b"".join(lines[:3]))  # of two updates: one is saved every three
    killed = {"status": "running", "updates": None, "finished": None}
    (copy / "run.json").write_text(json.dumps(summary(copy) | killed))
    assert train_here(*HERE, "num_updates=26", folder=copy)["status"] == "completed"
    assert metrics(copy) == metrics(short_and_long[1])


def test_run_json_is_left_as_it_was_by_what_fails_before_the_first_new_update(copy, short_and_long, monkeypatch):
    """A finished run became `failed`, and its results were gone, because there was no GPU that day."""
    from pgx import build, loop

    before = contents(copy)

    def fails(*_, **__):
        raise AssertionError

    for where, name in ((backend, "prepare"), (build, "runner"), (loop, "train")):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(where, name, fails)
            train_here(*HERE, "num_updates=26", folder=copy)
        assert contents(copy) == before
    assert train_here(*HERE, "num_updates=26", folder=copy)["status"] == "completed"  # it can still go on
    assert metrics(copy) == metrics(short_and_long[1])


# The table and the checkpoints prove each other


def test_a_run_whose_run_json_is_gone_goes_on_by_its_own_command_only(copy, short_and_long):
    """20 updates of seed 0 and 10 of seed 1 were a whole run of seed 1."""
    (copy / "run.json").unlink()
    for other in ("seed=1", "gamma=0.5", "optimiser.learning_rate=0.5"):
        assert_refused(copy, "13 is of a run with another configuration or seed", other)
    assert train_here(*HERE, "num_updates=26", folder=copy)["status"] == "completed"
    assert metrics(copy) == metrics(short_and_long[1])


@pytest.mark.parametrize("row", [2, 11])
def test_a_table_that_somebody_edited_is_not_believed(row, copy, short_and_long, caplog):
    """One digit, in a row that some checkpoints still prove, or in one that none does."""
    lines = metrics(copy).splitlines(keepends=True)
    first, second, rest = lines[row].split(b",", 2)
    lines[row] = b",".join([first, b"9999", rest])
    (copy / "metrics.csv").write_bytes(b"".join(lines))
    if row == 2:
        assert_refused(copy, "13 is of another history: the first 13 rows of metrics.csv are not those")
    else:
        train_here(*HERE, "num_updates=26", folder=copy)
        assert "13 is of another history" in caplog.text and "12 is of another history" in caplog.text
        assert metrics(copy) == metrics(short_and_long[1])


def test_a_torn_table_goes_on_from_the_checkpoint_that_it_still_has(copy, short_and_long, caplog):
    """What a power failure leaves: the last rows are gone, the checkpoint that they led to is there."""
    (copy / "metrics.csv").write_bytes(metrics(copy)[:-3])
    train_here(*HERE, "num_updates=26", folder=copy)
    assert "13 is of another history" in caplog.text
    assert metrics(copy) == metrics(short_and_long[1]) and saved(copy)[1] == saved(short_and_long[1])[1]


def test_a_damaged_timing_csv_stops_nothing(copy, short_and_long, caplog):
    """It decides nothing."""
    damaged = (copy / "timing.csv").read_bytes().replace(b".", b"v")
    (copy / "timing.csv").write_bytes(damaged)
    assert train_here(*HERE, "num_updates=26", folder=copy)["status"] == "completed"
    assert "timing.csv: row 1 was altered" in caplog.text and metrics(copy) == metrics(short_and_long[1])


def of_an_older_version(folder: Path) -> None:
    """As checkpoints were before they said whose they are."""
    for step in steps(folder):
        about = json.loads((step / "meta/metadata").read_text())
        del about["origin"]
        (step / "meta/metadata").write_text(json.dumps(about | {"meta": {}}))
        (step / MANIFEST).write_text(json.dumps(_checksums(step)))


def test_a_checkpoint_of_an_older_version_is_used_with_a_warning(copy, short_and_long, caplog):
    """Of it only this can be asked: has the table its rows, and is it the update that its folder says?"""
    of_an_older_version(copy)
    lines = metrics(copy).splitlines(keepends=True)
    (copy / "metrics.csv").write_bytes(b"".join(lines[:-2]))
    assert_refused(copy, r"metrics\.csv has 11 rows, the checkpoint 13: the file was altered")
    (copy / "metrics.csv").write_bytes(b"".join([*lines[:4], lines[4].replace(b",", b",x", 1), *lines[5:]]))
    assert_refused(copy, r"metrics\.csv: row 4 was altered")
    (copy / "metrics.csv").write_bytes(b"".join(lines))
    (copy / "checkpoints/13").rename(copy / "checkpoints/14")
    assert_refused(copy, "14 is in truth that of update 13")
    (copy / "checkpoints/14").rename(copy / "checkpoints/13")
    caplog.clear()
    train_here(*HERE, "num_updates=26", folder=copy)
    assert "13 is of an older version of pgx and does not prove that it is of this run" in caplog.text
    assert metrics(copy) == metrics(short_and_long[1])


def test_whoever_only_reads_a_run_does_not_take_another_ones_step_either(copy, caplog):
    """`evaluate` would show somebody else's policy under this run's name, and change nothing doing so."""
    foreign = shutil.copytree(copy / "checkpoints/13", copy / "checkpoints/20")
    about = json.loads((foreign / "meta/metadata").read_text())
    about["origin"] |= {"run": "0123456789abcdef", "update": 20}
    (foreign / "meta/metadata").write_text(json.dumps(about))
    (foreign / MANIFEST).write_text(json.dumps(_checksums(foreign)))
    before = contents(copy)
    assert trained(copy, summary(copy)["config"], best=False).update == 13
    assert "checkpoints/20 is of a run with another configuration or seed; not used" in caplog.text
    assert contents(copy) == before


# What a run was made with


def test_what_each_stretch_was_made_with_is_kept_and_a_change_is_told(copy, monkeypatch, caplog):
    """run.json named the last commit, whoever had made the first thirty updates."""
    (first,) = summary(copy)["made_with"]
    assert first["from_update"] == 1 and first["device"] and first["versions"]["jax"]
    train_here(*HERE, "num_updates=14", folder=copy)
    assert summary(copy)["made_with"] == [first] and caplog.text == ""
    other = {"git_commit": "f" * 40, "versions": first["versions"] | {"jax": "99"}, "environment": {"XLA_FLAGS": "--fast"}}
    now = {key: x for key, x in first.items() if key != "from_update"} | other
    monkeypatch.setattr(provenance, "made_with", lambda *_: now)
    train_here(*HERE, "num_updates=16", folder=copy)
    assert f"jax {jax.__version__} → 99" in caplog.text and "XLA_FLAGS none → --fast" in caplog.text
    found = summary(copy)
    assert [stretch["from_update"] for stretch in found["made_with"]] == [1, 15] and found["git_commit"] == "f" * 40
    assert found["made_with"][0] == first and found["made_with"][1]["environment"] == {"XLA_FLAGS": "--fast"}
