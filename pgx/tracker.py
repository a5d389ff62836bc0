"""Mirrors of a run. The run folder is the truth: whatever a tracker does or fails to do, the run goes on.

Hydra instantiates one of these from conf/tracker/; `Tracker` itself is the null object.
"""

import contextlib
import itertools
import json
import logging
import os
import queue
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from pgx import child

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
    """Weights & Biases, in a process of its own: in this one, importing and feeding it would take turns with the run
    for the interpreter's lock. No method waits, but `finish`, for at most `patience` seconds.

    The first thing that goes wrong (no package, no key, a killed or hung wandb-core) costs one warning.
    """

    def __init__(self, mode: str, project: str, entity: str | None, patience: float):
        self._mode, self._project, self._entity, self._patience = mode, project, entity, patience
        self._over = threading.Event()

    def start(self, *, folder, name, group, job_type, tags, config):
        where = {"project": self._project, "entity": self._entity, "mode": self._mode, "dir": str(folder)}
        what = {"name": name, "group": group, "job_type": job_type, "tags": tags, "config": config}
        self._process = _Process.running()
        self._number = self._process.open(self)
        self._ask("start", **where, **what)

    def log(self, rows):
        self._ask("log", rows=[_applicable(row) for row in rows])

    def image(self, name, path):
        self._ask("image", name=name, path=str(path))

    def finish(self, summary, exit_code=0):
        self._ask("finish", summary=_applicable(summary), exit_code=exit_code)
        if not self._over.wait(self._patience):
            self.end(f"no answer for {self._patience:g} s")
            self._process.kill()

    def end(self, error: str | None) -> None:
        """W&B has finished this run, or nothing more is to be had from it."""
        if error is not None and not self._over.is_set():
            error = " ".join(error.split())[:200]
            log.warning(f"W&B: {error}; the run goes on without it, and its folder has everything")
        self._over.set()

    def _ask(self, do: str, **arguments: Any) -> None:
        if not self._over.is_set():
            self._process.ask({"run": self._number, "do": do, **arguments})


def _applicable(row: dict[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in row.items() if x is not None}


class _Process:
    """`pgx.wandb_process`, for all runs of this process; its file says what is asked and answered."""

    _running: "_Process | None" = None

    @classmethod
    def running(cls) -> "_Process":
        if cls._running is None or not cls._running._alive:
            cls._running = cls()
        return cls._running

    def __init__(self):
        self._child = child.start("pgx.wandb_process", WANDB_SILENT="true")
        self._alive = True
        self._numbers = itertools.count()
        self._runs: dict[int, WandbTracker] = {}
        self._requests: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._write, daemon=True).start()
        threading.Thread(target=self._read, daemon=True).start()

    def open(self, run: WandbTracker) -> int:
        number = next(self._numbers)
        self._runs[number] = run
        return number

    def ask(self, request: dict[str, Any]) -> None:
        self._requests.put(json.dumps(request) + "\n")  # text: the caller's rows may change meanwhile

    def kill(self) -> None:
        """It hangs: end it, and what it has started."""
        for pid in _descendants(self._child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # it has died: `_read` says so
            while True:
                self._child.stdin.write(self._requests.get())
                self._child.stdin.flush()

    def _read(self) -> None:
        for line in self._child.stdout:
            answer = json.loads(line)
            self._runs.pop(answer["run"]).end(answer["error"])
        self._alive = False
        self._child.wait()
        for run in self._runs.values():
            run.end("its process has ended")


def _descendants(pid: int) -> list[int]:
    """`pid` and all that came of it, children first."""
    try:
        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:  # a machine without ps
        return [pid]
    parents = [tuple(map(int, line.split())) for line in table.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, its in parents if its == parent]
    return found[::-1]
