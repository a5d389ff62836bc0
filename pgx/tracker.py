"""Mirrors of a run. The run folder is the truth: whatever a tracker does or fails to do, the run goes on.

Hydra instantiates one of these from conf/tracker/; `Tracker` itself is the null object.
"""

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger("pgx")


class Tracker:
    """Tracks nothing (`tracker=none`), and says what a tracker is asked to do."""

    def start(
        self, *, folder: Path, name: str, group: str | None, job_type: str, tags: list[str], config: dict[str, Any]
    ) -> None:
        """A run begins, or goes on: then the rows so far are logged again, from the first."""

    def log(self, rows: list[dict[str, Any]]) -> None:
        """One row an update, by the names of metrics.csv; None where not applicable."""

    def image(self, name: str, path: Path) -> None:
        """A picture, kept with the run."""

    def finish(self, summary: dict[str, Any], exit_code: int = 0) -> None:
        """The run has ended."""


class WandbTracker(Tracker):
    """Weights & Biases, in a thread of its own: no method waits, but `finish`, for at most `patience` seconds.

    The first thing that goes wrong (no package, no key, a killed or hung wandb-core) costs one warning.
    """

    def __init__(self, mode: str, project: str, entity: str | None, patience: float):
        self._mode, self._project, self._entity, self._patience = mode, project, entity, patience
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._given_up = threading.Event()
        self._ended = threading.Event()
        self._run: Any = None

    def start(self, *, folder, name, group, job_type, tags, config):
        def begin():
            os.environ.setdefault("WANDB_SILENT", "true")  # its own messages; Settings below speak for one run only
            import wandb

            quiet = wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                disable_code=True,
                disable_job_creation=True,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_save_requirements=False,
            )
            self._run = wandb.init(
                project=self._project,
                entity=self._entity,
                mode=self._mode,
                dir=folder,
                name=name,
                group=group,
                job_type=job_type,
                tags=tags,
                config=config,
                settings=quiet,
                reinit="create_new",
            )
            self._run.define_metric("env_steps")
            self._run.define_metric("*", step_metric="env_steps")

        threading.Thread(target=self._serve, name="wandb", daemon=True).start()
        self._do(begin)

    def log(self, rows):
        # copies: the caller's rows may grow while they wait here
        rows = [{name: x for name, x in row.items() if x is not None} for row in rows]

        def send():
            for row in rows:
                self._run.log(row)

        self._do(send)

    def image(self, name, path):
        def send():
            import wandb

            self._run.log({name: wandb.Image(str(path))})

        self._do(send)

    def finish(self, summary, exit_code=0):
        def end():
            self._run.summary.update({name: x for name, x in summary.items() if x is not None})
            self._run.finish(exit_code=exit_code)

        self._do(end)
        self._work.put(None)
        if not self._ended.wait(self._patience):
            self._give_up(f"no answer for {self._patience:g} s")

    def _do(self, work: Callable[[], None]) -> None:
        if not self._given_up.is_set():
            self._work.put(work)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            if self._given_up.is_set():
                continue
            try:
                work()
            except BaseException as error:  # wandb raises SystemExit and KeyboardInterrupt of its own, too
                self._give_up(f"{type(error).__name__}: {error}", connection_lost=isinstance(error, OSError))
        self._ended.set()

    def _give_up(self, why: str, *, connection_lost: bool = True) -> None:
        if self._given_up.is_set():
            return
        self._given_up.set()
        log.warning(f"W&B: {' '.join(why.split())[:200]}; the run goes on without it, and its folder has everything")
        if connection_lost:
            _end_wandb_core()


def _end_wandb_core() -> None:
    """Kill our wandb-core, hung or half dead, and take back wandb's exit handler, which would wait for it or
    print a traceback."""
    table = ""
    with contextlib.suppress(FileNotFoundError):  # a machine without ps
        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True, check=False).stdout
    for pid, parent, command in (line.split(None, 2) for line in table.splitlines()):
        if int(parent) == os.getpid() and "wandb" in command:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    wandb = sys.modules.get("wandb")
    with contextlib.suppress(Exception, SystemExit):  # it removes the handler first, then finds nobody to talk to
        wandb.teardown()
