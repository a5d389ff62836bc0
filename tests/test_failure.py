"""Runs that diverge or break: a dead run must not look alive, and what was recorded is kept."""

import errno
import math
import re
import signal
from pathlib import Path

import pytest
from hydra.types import RunMode
from omegaconf import read_write
from program import composed, pgx, rows, summary, train_here

from pgx import run
from pgx.errors import RunFailed
from pgx.runs import record
from pgx.runs.checkpoint import Checkpoints
from pgx.runs.table import Table

# Divergence: NaN logits sample action 0 without a word.

BLOWS_UP = ("+variant=baseline", "num_updates=60")
BLOWS_UP += ("optimiser@critic.optimiser=sgd", "critic.optimiser.learning_rate=1000.0", "critic.minibatch_steps=null")


def test_a_run_that_diverges_says_so_and_keeps_what_was_finite(tmp_path):
    """The whole program: which quantity, at which update, exit code 1, and a folder that can be looked into."""
    done = pgx(*BLOWS_UP, "hydra.run.dir=r", cwd=tmp_path)
    found, table = summary(tmp_path / "r"), rows(tmp_path / "r")
    assert done.returncode == 1 and found["status"] == "diverged"
    watched = "policy_loss|value_loss|grad_norm|parameters"
    assert re.fullmatch(rf"({watched}) is not finite at update {len(table) + 1}", found["error"])
    assert found["error"] in done.stdout and "files in r" in done.stdout and "Traceback" not in done.stderr
    assert len(table) >= 1 and all(math.isfinite(float(cell)) for row in table for cell in row.values() if cell)
    assert found["updates"] == len(table) and (tmp_path / "r/learning_curve.png").stat().st_size > 1000
    # once more: it would diverge again, bit for bit
    again = pgx(*BLOWS_UP, "hydra.run.dir=r", cwd=tmp_path)
    assert again.returncode == 1 and "already finished" in again.stdout


def test_the_last_finite_state_is_kept_wherever_the_chunk_began(tmp_path):
    """What a chunk leaves after a divergence is of no use; the state before it must be had whatever the chunks."""
    found = {}
    for size in (1, 7, 60):
        folder = tmp_path / str(size)
        done = train_here(*BLOWS_UP, f"updates_per_chunk={size}", folder=folder)
        newest = Checkpoints(folder / "checkpoints").steps()[-1]
        assert newest == done["updates"] == len(rows(folder))
        told = [done[key] for key in ("return_final", "return_final_iqm", "error")]
        found[size] = [(folder / "metrics.csv").read_bytes(), *told]
    assert found[1] == found[7] == found[60]


def test_a_run_that_diverges_at_once_is_recorded_as_well(tmp_path):
    """No row, no checkpoint, no return: and still a status, a picture and valid JSON (NaN is not)."""
    done = train_here("+variant=reward_to_go", "optimiser=sgd", "optimiser.learning_rate=3e38", folder=tmp_path)
    assert done["status"] == "diverged" and done["error"].endswith("at update 1")
    found = summary(tmp_path)
    assert found["updates"] == 0 and found["return_final"] is None and found["solved_at_env_steps"] is None
    assert (tmp_path / "learning_curve.png").exists()


def test_observations_that_are_not_numbers_end_a_run_on_the_host(tmp_path):
    """Environments on the host are other people's code, and a policy fed NaN goes on choosing action 0."""
    override = ("env=gymnasium", "env.id=faulty_envs:Nan-v0", "num_updates=20", "episodes_per_update=2")
    done = train_here("+variant=reward_to_go", *override, folder=tmp_path)
    assert done["status"] == "diverged" and done["error"].endswith("is not finite at update 5")
    assert len(rows(tmp_path)) == 4 and Checkpoints(tmp_path / "checkpoints").steps() == [4]


# A fault inside


def test_a_fault_is_one_line_with_a_log_and_can_be_mended(tmp_path):
    """A crash after hours must keep what was recorded, say where its traceback is, and let the run go on."""
    fault = tmp_path / "fault"
    command = ("+variant=reward_to_go", "env=gymnasium", "env.id=faulty_envs:Faulty-v0")
    command += ("num_updates=8", "checkpoint_every=2", "episodes_per_update=2")
    fault.touch()
    broken = pgx(*command, "hydra.run.dir=r", cwd=tmp_path, PGX_TEST_FAULT=str(fault))
    assert broken.returncode == 1 and broken.stdout == ""
    line = "pgx: ZeroDivisionError: the pole fell off the cart; the traceback is in "
    assert broken.stderr.startswith(line) and broken.stderr.count("\n") == 1
    log = broken.stderr.removeprefix(line).strip()
    assert "Traceback" in Path(log).read_text()
    found = summary(tmp_path / "r")
    assert found["status"] == "failed" and found["error"] == "ZeroDivisionError: the pole fell off the cart"
    kept = rows(tmp_path / "r")
    assert len(kept) == 4
    fault.unlink()
    mended = pgx(*command, "hydra.run.dir=r", cwd=tmp_path, PGX_TEST_FAULT=str(fault))
    assert mended.returncode == 0 and summary(tmp_path / "r")["status"] == "completed"
    assert rows(tmp_path / "r")[:4] == kept and len(rows(tmp_path / "r")) == 8


FAULTY = ("+variant=reward_to_go", "env=gymnasium", "num_updates=8", "checkpoint_every=2", "episodes_per_update=2")


@pytest.mark.parametrize(("env", "error"), [("Exit", "SystemExit: 3"), ("Long", "ValueError: too much too much ")])
def test_what_an_environment_may_raise_as_well(env, error, tmp_path, monkeypatch):
    """sys.exit left `running` for ever; a message of 90,000 characters stood in the table, the ledger and on the screen."""
    monkeypatch.setenv("PGX_TEST_FAULT", str(tmp_path))
    with pytest.raises((SystemExit, ValueError)):
        train_here(*FAULTY, f"env.id=faulty_envs:{env}-v0", folder=tmp_path)
    found = summary(tmp_path)
    assert found["status"] == "failed" and found["error"].startswith(error) and len(found["error"]) <= 501
    monkeypatch.delenv("PGX_TEST_FAULT")
    train_here(*FAULTY, f"env.id=faulty_envs:{env}-v0", folder=tmp_path)
    assert summary(tmp_path)["status"] == "completed" and len(rows(tmp_path)) == 8


@pytest.mark.parametrize("where", ["the table", "the log as well"])
def test_a_full_disk_is_told_in_a_line_and_recorded(where, tmp_path, monkeypatch, capsys):
    """It was a flood of tracebacks, a run.json that said `running`, and a last line that promised a traceback in vain."""
    full = OSError(errno.ENOSPC, "No space left on device")

    def append(self, rows):
        raise full

    monkeypatch.setattr(Table, "append", append)
    write, first = record.write_atomically, []

    def no_room(path, content):
        if (path.parent / record.ROOM).exists() and first:
            raise full
        first.append(path)
        write(path, content)

    log = tmp_path / "run.log"
    if where == "the table":
        monkeypatch.setattr(run, "_logged", lambda *_: log)
    with composed("+variant=vanilla") as config, read_write(config.hydra):
        config.hydra.runtime.output_dir, config.hydra.job.name, config.hydra.mode = str(tmp_path), "run", RunMode.RUN
    monkeypatch.setattr(run.HydraConfig, "get", lambda: config.hydra)
    with pytest.raises(RunFailed) as failed, run.job():
        monkeypatch.setattr(record, "write_atomically", no_room)
        train_here("+variant=vanilla", "num_updates=2", "env=catch", folder=tmp_path)
    promise = f"; the traceback is in {log}" if where == "the table" else ""
    assert str(failed.value) == f"OSError: [Errno 28] No space left on device{promise}"
    found = summary(tmp_path)
    assert found["status"] == "failed" and "No space left" in found["error"]


def test_a_second_ctrl_c_is_an_interruption_and_not_a_fault(tmp_path, monkeypatch):
    """Status `running` of a run that is not would keep people from resuming it."""
    import pgx.loop

    def twice(*_, **__):
        signal.raise_signal(signal.SIGINT)  # noted
        signal.raise_signal(signal.SIGINT)
        yield

    before = signal.getsignal(signal.SIGINT)  # a shell's background job has it ignored
    monkeypatch.setattr(pgx.loop, "train", twice)
    with pytest.raises(KeyboardInterrupt):
        train_here("+variant=vanilla", "num_updates=1", folder=tmp_path)
    assert summary(tmp_path)["status"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before
