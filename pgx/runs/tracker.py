"""Mirrors of a run. The run folder is the truth: no failure of a tracker stops a run.

A run has one of these, from conf/tracker/; `Tracker` itself is the null object.
"""

import contextlib
import itertools
import json
import logging
import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgx.runs import child

log = logging.getLogger("pgx")


def id_of(summary: dict[str, Any]) -> str | None:
    """The id of a run in its tracker, from its run.json. It becomes part of a path: it must look like one of ours."""
    id = summary.get("tracker_id")
    return id if isinstance(id, str) and re.fullmatch(r"[\w-]{1,64}", id) else None


def of_run(summary: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Tracker.start` for a run, from its run.json."""
    label = summary.get("label", summary["variant"])
    return {
        "id": summary["tracker_id"],
        "name": f"{label} {summary['env']} s{summary['seed']}",
        "group": summary["group"],
        "job_type": label,
        "tags": [summary["env"]],
        "commit": summary.get("git_commit"),
        "config": summary["config"],
    }


class Tracker:
    """The null tracker (`tracker=none`), and the interface of every other."""

    def new_id(self) -> str | None:
        """A name for a new run, which it keeps however often it is resumed; None if it needs none."""
        return None

    def start(
        self,
        *,
        folder: Path,
        id: str | None,
        name: str,
        group: str | None,
        job_type: str,
        tags: list[str],
        commit: str | None,
        config: dict[str, Any],
    ) -> None:
        """Begin a run, or resume the one of this `id`: then all rows are given again, from the first."""

    def log(self, rows: list[dict[str, Any]]) -> None:
        """Add rows, one an update, by the names of metrics.csv; None where a column does not apply."""

    def image(self, name: str, path: Path, env_steps: int) -> None:
        """Add a picture of the run at that environment step."""

    def video(self, name: str, path: Path, env_steps: int) -> None:
        """Add a film (GIF) of the run's policy."""

    def checkpoint(self, folder: Path) -> None:
        """Add the best checkpoint of a run that ends."""

    def finish(self, summary: dict[str, Any], exit_code: int = 0) -> None:
        """End the run; `summary` is its run.json."""


class WandbTracker(Tracker):
    """Weights & Biases, in a process of its own: in this one, importing and feeding it would take turns with the run
    for the interpreter's lock. No method waits, but `finish`, for at most `patience` seconds.

    The first thing that goes wrong (no package, no key, a killed or hung wandb-core) costs one warning.
    What is None is as W&B's own variables in the environment say, or else as `start` says.
    """

    def __init__(
        self,
        mode: str | None = None,
        project: str | None = None,
        entity: str | None = None,
        patience: float = 15.0,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        checkpoint: bool = False,
    ):
        self._mode = mode or os.environ.get("WANDB_MODE") or "offline"
        self._project = project or os.environ.get("WANDB_PROJECT") or "pgx"
        self._entity, self._name, self._group, self._tags, self._notes = entity, name, group, tags, notes
        self._keeps_checkpoint, self._patience = checkpoint, patience
        self._over = threading.Event()

    def new_id(self):
        """The id that W&B's sweep agent has chosen, if it runs us: it insists on it."""
        agent = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        return agent or os.urandom(4).hex()

    def start(self, *, folder, id, name, group, job_type, tags, commit, config):
        if self._mode == "disabled":
            self._over.set()
            return
        self._process = _Process.running()
        self._number = self._process.open(self)
        self._ask(
            "start",
            dir=str(folder.absolute()),
            id=id,
            mode=self._mode,
            project=self._project,
            entity=self._entity,
            name=self._name or os.environ.get("WANDB_NAME") or name,
            group=self._group or group,
            job_type=job_type,
            tags=[*dict.fromkeys([*tags, *self._tags])],
            notes=self._notes,
            commit=commit,
            config=config,
        )

    def log(self, rows):
        self._ask("log", rows=[_applicable(row) for row in rows])

    def image(self, name, path, env_steps):
        self._ask("image", name=name, path=str(path.absolute()), env_steps=env_steps)

    def video(self, name, path, env_steps):
        self._ask("video", name=name, path=str(path.absolute()), env_steps=env_steps)

    def checkpoint(self, folder):
        if self._keeps_checkpoint:
            self._ask("checkpoint", folder=str(folder.absolute()))

    def finish(self, summary, exit_code=0):
        about = {name: x for name, x in summary.items() if name not in ("config", "made_with")}  # that it has; not numbers
        self._ask("finish", summary=_applicable(about), exit_code=exit_code)
        if not self._over.wait(self._patience):
            self.end(f"no answer for {self._patience:g} s")
            self._process.kill()

    def end(self, error: str | None) -> None:
        """Note that W&B has finished this run, or that nothing more is to be had from it."""
        if error is not None and not self._over.is_set():
            error = " ".join(error.split())[:200]
            log.warning(f"W&B: {error}; the run continues without it, and its folder has everything")
        self._over.set()

    def _ask(self, do: str, **arguments: Any) -> None:
        if not self._over.is_set():
            self._process.ask({"run": self._number, "do": do, **arguments})


def _applicable(row: dict[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in row.items() if x is not None}


class _Process:
    """`pgx.runs.wandb_process`, for all runs of this process; its file says what is asked and answered."""

    _running: "_Process | None" = None

    @classmethod
    def running(cls) -> "_Process":
        if cls._running is None or not cls._running._alive:
            cls._running = cls()
        return cls._running

    def __init__(self):
        self._child = child.start("pgx.runs.wandb_process", WANDB_SILENT="true")
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
        """Kill the process, which hangs, and what it has started."""
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
    """`pid` and all its descendants, children first."""
    try:
        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:  # a machine without ps
        return [pid]
    parents = [tuple(map(int, line.split())) for line in table.splitlines()]
    descendants = [pid]
    for parent in descendants:
        descendants += [child for child, its in parents if its == parent]
    return descendants[::-1]
