"""What a sweeper is told of its members."""

import math
from pathlib import Path

import pytest
import sweeps
from hydra.core.plugins import Plugins
from sweeps import SWEEP, Trainer, refused

from pgx.runs import record
from pgx.sweep.pool import Done

command = pytest.fixture(sweeps.command)


def test_a_run_that_went_wrong_never_wins():
    """Its return is of before it went wrong, and a tuner would prefer it."""
    well = {"status": "completed", "config": {"evaluate_every": None}, "return_final_iqm": -500.0}
    assert record.objective(well) == -500.0
    evaluated = well | {"config": {"evaluate_every": 5}, "evaluation_final": -400.0}
    assert record.objective(evaluated) == -400.0
    assert record.objective(evaluated | {"evaluation_final": None}) == -math.inf
    for wrong in ("diverged", "failed", "interrupted", "running"):
        assert record.objective(well | {"status": wrong}) == -math.inf
    assert record.objective(well | {"return_final_iqm": None}) == record.objective(None) == -math.inf


def ask(command, monkeypatch, *batches):
    """A sweeper that asks for batches of members, and what it is told."""
    Plugins.instance()  # which loads that module anew
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    told = []

    def sweep(self, arguments):
        number = 0
        for batch in batches:
            jobs = [[*arguments, *words.split()] for words in batch]
            told.extend(x.return_value for x in self.launcher.launch(jobs, number))
            number += len(batch)

    monkeypatch.setattr(BasicSweeper, "sweep", sweep)
    (Path.cwd() / "s").mkdir()
    return told, command("-m", "num_updates=4", "hydra.sweep.dir=s")


def test_a_sweeper_is_told_what_is_true(command, monkeypatch):
    """The same point twice: run once, told twice. What diverges or fails is the worst there is, and stops nobody."""
    Trainer.end = {"baseline": "diverged", "gae": "failed"}
    well, wild, fails = "+variant=vanilla seed=3", "+variant=baseline", "+variant=gae"
    batches = [[well, wild, well], [fails, well], [wild, "+variant=vanilla seed=4"]]
    told, (code, out, err) = ask(command, monkeypatch, *batches)
    assert told == [5.0, -math.inf, 5.0, -math.inf, 5.0, -math.inf, 6.0], err
    assert code == 1 and "4 members: 2 completed, 1 diverged, 1 failed" in out
    assert [str(path) for path in Trainer.ran] == ["s/0", "s/1", "s/3", "s/6"]


def test_a_sweeper_that_changes_the_budget_is_refused(command, monkeypatch):
    """It would be told of one run for both."""
    batches = [["+variant=vanilla num_updates=2"], ["+variant=vanilla num_updates=4"]]
    told, (code, _, err) = ask(command, monkeypatch, *batches)
    assert code == 2 and "num_updates: 2 and 4" in err and told == [2.0]


def test_nobody_minimises_a_return(command):
    refused(command, "hydra.sweeper.direction: minimize", *SWEEP, "hydra.sweep.dir=s", "+hydra.sweeper.direction=minimize")


def test_a_member_that_did_not_end_is_no_success(command, tmp_path, monkeypatch):
    """Somebody else is at work in its folder, say."""

    def busy(self, batches):
        yield Done(0, "another process is at work in s/0")

    monkeypatch.setattr(Trainer, "run", busy)
    code, out, err = command("-m", "+variant=vanilla", "hydra.sweep.dir=s")
    assert code == 1 and "another process is at work in s/0" in out and "1 of 1 members did not end" in err
