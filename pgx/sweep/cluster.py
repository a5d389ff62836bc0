"""Packs of members as jobs of a cluster, through another launcher of Hydra's: hydra-submitit-launcher, for Slurm.

Such a job, here called a task, does on its node what the launcher does at home: it looks which of its members are
missing and runs those. So a task that is put back into the queue resumes its members, and one with nothing left to do
does nothing; what became of the members is read from their folders, wherever they ran.
"""

import contextlib
import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from pgx.errors import ConfigError
from pgx.runs import record
from pgx.sweep.compose import fast_loader
from pgx.sweep.index import look
from pgx.sweep.launch import at_once, batches, by_program, missing, progress_bar, returns, work
from pgx.sweep.members import Member, at, composed
from pgx.sweep.pool import Pool

log = logging.getLogger("pgx")


@dataclass
class Task:
    """The work of a job of the other launcher, in a process of its own: its members, composed again there."""

    context: HydraContext
    config: DictConfig
    executor: str
    width: int | None
    processes: int | None
    patience: float
    packs: Sequence[Sequence[tuple[int, Sequence[str], str]]] = ()
    """(number, overrides, name) of the members of every task."""

    def __call__(self, _: DictConfig) -> None:
        try:
            signals = self._work(self.packs[HydraConfig.get().job.num])
        except Exception:
            log.exception("the task failed")  # else only a pickle knows
            raise
        for number in signals:  # now whoever started us: submitit puts the task back into the queue after SIGUSR2
            signal.raise_signal(number)

    def _work(self, mine: Sequence[tuple[int, Sequence[str], str]]) -> list[signal.Signals]:
        loader, numbered = fast_loader(self.context.config_loader), [(number, overrides) for number, overrides, _ in mine]
        members = composed(loader, self.config, numbered)
        todo = missing([at(member, name) for member, (_, _, name) in zip(members, mine, strict=True)])
        for member in todo:
            _make_plain(member.hydra_config.hydra)
        given = batches(todo, self.executor, self.width)
        if not given:
            return []
        pool = Pool(self.context.callbacks, at_once(given, self.processes), self.patience)
        try:
            return work(pool, given, lambda *_: None)[1]
        finally:
            pool.close()


def _make_plain(hydra: DictConfig) -> None:
    """Take off the types of plugins' configurations: in a task Hydra has loaded plugins anew, and pickle refuses the
    classes that came with the task."""
    with read_write(hydra):
        for key in ("launcher", "sweeper"):
            hydra[key] = OmegaConf.to_container(hydra[key])


def require(inner: Launcher) -> None:
    """Raise ConfigError if there is no Slurm to submit to."""
    if getattr(inner, "_EXECUTOR", None) == "slurm" and shutil.which("srun") is None:
        raise ConfigError("hydra/launcher", "there is no Slurm here (no srun)", hint="a cluster's login node has it")


def launch_on(inner: Launcher, task: Task, members: Sequence[Member], *, size: int, detach: bool) -> list[JobReturn]:
    """Run what is missing in tasks like `task`, each of up to `size` members that share a program.

    Raises SystemExit(0) when all is submitted, if `detach`.
    """
    todo = missing(members)
    packs = [group[i : i + size] for group in by_program(todo) for i in range(0, len(group), size)]
    if packs:
        task = replace(task, packs=[[(member.number, member.overrides, member.name) for member in pack] for pack in packs])
        # the members have their callbacks, their folders and their logs; a task has a log
        context = HydraContext(config_loader=task.context.config_loader, callbacks=Callbacks())
        inner.setup(hydra_context=context, task_function=task, config=task.config)
        jobs = [[f"hydra.sweep.subdir=.tasks/{i}", "hydra.output_subdir=null"] for i in range(len(packs))]
        with _followed(inner, members, todo, detach):
            inner.launch(jobs, 0)
    elif detach:
        print("nothing is missing, nothing was submitted")
    if detach:
        raise SystemExit(0)
    return returns(members, {})


@contextlib.contextmanager
def _followed(inner: Launcher, members: Sequence[Member], todo: Sequence[Member], detach: bool) -> Iterator[None]:
    """hydra-submitit-launcher ends by asking its jobs for their results, and gives up at the first that has none.
    Within this it waits until they have ended, with a bar, or, to detach, not even that."""
    import submitit

    sweep = members[0].sweep
    asked: list[str] = []

    def results(job: submitit.Job) -> list[None]:
        if not asked:
            where = f"logs in {sweep / '.submitit'}; python -m pgx.sweep status {sweep}"
            print(f"submitted as {job.job_id.split('_')[0]}, {where}", flush=True)
        asked.append(job.job_id)
        while not detach and not _ended(job):
            if sys.stderr.isatty():
                _show(todo, bar)
            time.sleep(2)
        return [None]

    ask = submitit.Job.results
    submitit.Job.results = results
    logging.getLogger(type(inner).__module__).setLevel(logging.WARNING)  # it knows tasks, not members
    try:
        with progress_bar(len(members), len(members) - len(todo)) as bar:
            yield
    except KeyboardInterrupt:
        print(f"the tasks continue; to end them: scancel {asked[0].split('_')[0]}" if asked else "nothing was submitted")
        raise
    finally:
        submitit.Job.results = ask


def _show(todo: Sequence[Member], bar: Callable[[int, float, int | None], None]) -> None:
    """Show how far the members are, from their folders."""
    for member in todo:
        summary = look(member.folder).summary
        if summary is not None:
            steps, budget = record.last_env_steps(member.folder), member.config["num_env_steps"]
            share = min(steps / budget, 0.99) if budget else 0.0
            bar(member.number, 1.0 if summary["status"] == "completed" else share, steps)


def _ended(job: Any) -> bool:
    """Whether a job has ended. Asks Slurm's queue and not its accounts, which not every cluster keeps and submitit asks
    every ten minutes."""
    import submitit

    if not isinstance(job, submitit.SlurmJob):
        return job.done()
    if job.paths.result_pickle.exists():
        return True
    asked = subprocess.run(["squeue", "--noheader", "--jobs", job.job_id], capture_output=True, text=True, check=False)
    return not asked.stdout.strip() and (asked.returncode == 0 or "Invalid job id" in asked.stderr)
