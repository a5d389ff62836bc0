"""Whole sweep commands in this process, whose pool writes down at once what training would have left."""

import gc
import json
import logging
import os
import sys
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from pgx import run
from pgx.config import CONF
from pgx.gate import Gate
from pgx.runs import record
from pgx.sweep import members, pool
from pgx.sweep.compose import fast_loader
from pgx.sweep.launch import missing
from pgx.sweep.pool import Done


class Trainer(pool.Pool):
    """In the place of the pool: a member's run is over when it is asked for, and its bits tell its configuration."""

    sizes: list[int]
    ran: list[Path]
    end: dict[str, str]
    """Variant → how its runs end, if not well."""

    def __init__(self, callbacks, size, patience):  # starts nobody
        self.sizes.append(size)

    def grow(self, size):
        pass

    def run(self, batches):
        for member in (member for batch in batches for member in batch.members):
            hydra = member.hydra_config.hydra
            assert os.path.join(hydra.sweep.dir, hydra.sweep.subdir) == str(member.folder)  # where Hydra puts the run
            how = self.end.get(member.config["variant"], "completed")
            train(member, how)
            self.ran.append(member.folder)
            yield Done(member.number, None if how in ("completed", "diverged") else "it did not go well")


def train(member, how="completed"):
    member.folder.mkdir(parents=True, exist_ok=True)
    value = {"return_final": 1.0 + member.config["seed"], "return_final_iqm": 2.0 + member.config["seed"], "env_steps": 7}
    value |= {"episodes": 1, "solved_at_env_steps": None, "reward_threshold": None}
    summary = record.new_summary(member.config, member.before, group=str(member.sweep), executor="map")
    summary |= value | {"status": how, "error": None if how == "completed" else "it did not go well"}
    record.write_summary(member.folder, summary)
    (member.folder / "metrics.csv").write_text(f"{member.key} {member.config['num_updates']}\n")
    (member.folder / "checkpoints/4/meta").mkdir(parents=True, exist_ok=True)
    (member.folder / "checkpoints/4/meta/metadata").write_text(json.dumps({"origin": {"run": member.key}}))
    (member.folder / ".hydra").mkdir(exist_ok=True)
    (member.folder / ".hydra/overrides.yaml").write_text(json.dumps(member.task_overrides))


def command(tmp_path, monkeypatch, capsys):
    """`python -m pgx.run …` in tmp_path; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pool, "Pool", Trainer)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    Trainer.sizes, Trainer.ran, Trainer.end = [], [], {}

    def run_here(*words):
        handlers = logging.root.handlers[:]
        monkeypatch.setattr(sys, "argv", ["pgx", words[0], "tracker=none", *words[1:]])
        Trainer.ran.clear()
        Gate.untouched = None
        try:
            run.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            gc.enable()
            GlobalHydra.instance().clear()
            logging.root.handlers[:] = handlers
            logging.disable(logging.NOTSET)
        return code, *capsys.readouterr()

    return run_here


def composed_in(folder, *words):
    """The members of a command, composed."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", [f"hydra.sweep.dir={folder}", "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        jobs = enumerate(["tracker=none", *x.split()] for x in words)
        return members.composed(fast_loader(loader), config, jobs)


SWEEP = ("-m", "+variant=vanilla,baseline", "seed=0,1", "num_updates=4")


def files(folder):
    """Everything below a folder, with contents and times."""
    return {path: path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def bits(sweep):
    """What was trained, wherever it lies."""
    return sorted(path.read_text() for path in sweep.rglob("metrics.csv"))


def refused(command, says, *words):
    code, out, err = command(*words)
    assert (code, out) == (2, "") and err.startswith("pgx: ") and err.count("\n") == 1 and says in err, err
    assert not Trainer.ran


def four():
    """The members of a command, composed."""
    return composed_in("s", *(f"+variant={variant} seed={seed}" for variant in ("vanilla", "baseline") for seed in (0, 1)))


def run_missing(four, sweep, train=train):
    """The command on this folder; whose members it ran."""
    placed = members.placed([member._replace(sweep=sweep) for member in four])
    todo = missing(placed)
    for member in todo:
        train(member)
    return [member.name for member in todo]


def altered(change):
    def alter(path):
        said = json.loads(path.read_text())
        change(said)
        path.write_text(json.dumps(said))

    return alter
