"""The record of a run under way: what it keeps while it trains, and the files that it leaves behind."""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgx import backend
from pgx.errors import CheckpointError, Interrupted, one_line
from pgx.runs import curve, provenance, record
from pgx.runs.table import Table
from pgx.runs.tracker import of_run

if TYPE_CHECKING:
    from pgx.loop import Chunk
    from pgx.runs.checkpoint import Restored
    from pgx.types import TrainState

log = logging.getLogger("pgx")


class Recording:
    """A run under way, from the lock on its folder to its last file: fed with chunks, it keeps the tables, the
    checkpoints, the mirror and run.json up to date, and has the state from which training continues.

    A context manager: however the run ends, run.json says it.
    """

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        *,
        group: str | None = None,
        executor: str = "single",
        width: int = 1,
        label: str | None = None,
    ):
        self.config, self._folder = config, folder
        self._about = {"group": group, "executor": executor, "width": width, "label": label}

    def __enter__(self) -> "Recording":
        """Open everything: from the first import of jax to the state from which training continues."""
        with contextlib.ExitStack() as opened:
            record.make(self._folder)
            opened.enter_context(record.sole_use(self._folder))
            before = record.earlier_run(self._folder, self.config)
            self.needs_more = before is None or record.needs_more(before, self.config)
            if self.needs_more:
                opened.enter_context(record.room(self._folder))
                self.summary = record.new_summary(self.config, before, **self._about)
                history = (self._folder / name for name in ("metrics.csv", "checkpoints"))
                new = before is None and not any(path.exists() for path in history)  # else run.json is all that is lost
                opened.enter_context(self._record_outcome(new=new))
                self._open(opened, before)
            else:
                self.summary = before | {"already": True}
            self._opened = opened.pop_all()
        return self

    def __exit__(self, kind: type | None, *error: Any) -> bool | None:
        if kind is not None:
            return self._opened.__exit__(kind, *error)
        self.close()

    @contextlib.contextmanager
    def _record_outcome(self, *, new: bool) -> Iterator[None]:
        """Write status, error and times to run.json, however the run ends; not if a resumed run fails before its first
        update."""
        self._begun = new
        self._started = time.perf_counter() - self.summary["wall_seconds"]
        _at_work.add(self)
        try:
            yield
        except BaseException as error:  # an environment may call sys.exit
            if isinstance(error, KeyboardInterrupt):
                by = error.by if isinstance(error, Interrupted) else signal.SIGINT
                self.summary |= {"status": "interrupted", "error": by.name}
            else:
                self.summary |= {"status": "failed", "error": one_line(error)}
            with contextlib.suppress(OSError):  # the disk is full, say: the error itself matters more
                self._write()
            raise
        finally:
            _at_work.discard(self)
        self._write()

    def _write(self) -> None:
        if self._begun:
            self.summary |= self._times()
            record.write_summary(self._folder, self.summary)

    def _times(self) -> dict[str, Any]:
        return {"finished": record.now(), "wall_seconds": round(time.perf_counter() - self._started, 3)}

    def _open(self, opened: contextlib.ExitStack, before: dict[str, Any] | None) -> None:
        config, folder = self.config, self._folder
        curve.Artist.running()  # gets ready while we import jax
        backend.prepare(config["xla_threads"])
        import jax

        from pgx.build import build, check_sizes, initial_state, skeleton, tracker
        from pgx.metrics import COLUMNS
        from pgx.runs.checkpoint import Checkpoints

        self.env, self.algorithm = build(config)
        check_sizes(config, self.env)
        self.skeleton = skeleton(config, self.env, self.algorithm)
        threshold = self.env.spec.reward_threshold
        self._metrics = Table(folder / "metrics.csv", tuple(COLUMNS))
        self._timing = Table(folder / "timing.csv", record.TIMING)
        places = {"run": record.run_hash(config), "keep": config["checkpoints_kept"]}
        self._checkpoints = opened.enter_context(Checkpoints(folder / "checkpoints", **places))
        self._tracker = tracker(config)
        self.summary["tracker_id"] = self.summary["tracker_id"] or self._tracker.new_id()
        restored = self._checkpoints.restore(self.skeleton, rows=self._metrics.sum_until)
        if restored is None:
            if record.must_have_saved(before, len(self._metrics), saving=self._checkpoints.unfinished):
                problem = "there is none, and to begin again would overwrite the only record of the run; choose another folder"
                raise CheckpointError(f"no checkpoint in {folder / 'checkpoints'} can be used: {problem}")
            self._saved, self.state = 0, lambda: initial_state(config, self.env, self.algorithm)[0]
        else:
            self._saved, self.state = restored.update, lambda: restored.state
            _check_old(restored, len(self._metrics), folder)
        self.history = record.History(self._metrics.keep(self._saved), threshold, record.scored_by(config))
        self._timing.keep_until(self._saved)
        now = provenance.made_with(config, jax.devices()[0].device_kind)
        made_with, changes = provenance.stretches(before, self._saved, now)
        self.summary |= {key: now[key] for key in ("versions", "git_commit", "git_dirty", "device")}
        self.summary |= {"made_with": made_with, "reward_threshold": threshold, "resumed_from": self._saved}
        _warn_of_other_bits(before, self.summary, changes)
        if self._begun:
            self._begin()

        # from here to the end of compilation XLA and other processes work beside us
        self._tracker.start(folder=folder, **of_run(self.summary))
        self._tracker.log(self.history.rows)
        self._status = "completed"

    def _begin(self) -> None:
        """Take over the files of the run: it is new, or its first new update is done."""
        self._begun = True
        self._metrics.begin()
        self._timing.begin()
        record.write_summary(self._folder, self.summary)

    def warm_up(self) -> None:
        """Import in the background what saving needs: best while XLA compiles."""
        self._checkpoints.warm_up()

    compile_seconds: float | None = None
    """Seconds that compiling took, for the next line of timing.csv."""

    state: Callable[[], "TrainState"]
    """Returns the TrainState after the last update; before the first one it is made here."""

    @property
    def limits(self) -> dict[str, float]:
        """The limits of this run: arguments of `pgx.loop.train`."""
        from pgx.build import limits

        evaluation = self.history.evaluation
        so_far = {"env_steps": self.history.env_steps, "evaluation": math.nan if evaluation is None else evaluation}
        return limits(self.config, self.env) | so_far | {"pause_every": self.config["checkpoint_every"]}

    @property
    def share(self) -> float:
        """The share of the budget that is used."""
        return self.history.share(self.config)

    def take(self, chunk: "Chunk") -> None:
        """Record the next Chunk."""
        if not self._begun:
            self._begin()
        rows = self.history.extend(chunk.rows)
        self._metrics.append(rows)
        self._tracker.log(rows)
        self.state = chunk.after
        if chunk.not_finite:
            self._status = "diverged"
            self.summary["error"] = f"{chunk.not_finite} is not finite at update {self.history.updates + 1}"
            return
        self._timing.append([self.history.timing(rows, chunk.seconds, self.compile_seconds)])
        self.compile_seconds = None
        if self.history.updates % self.config["checkpoint_every"] == 0:
            self.save()

    def save(self) -> None:
        """Save a checkpoint, unless there is one of this update."""
        if self._saved != self.history.updates:
            self._saved = self.history.updates
            self._checkpoints.save(self._saved, self.state(), self._metrics.sum, self.history.score)

    def interrupted(self, by: signal.Signals) -> None:
        """Note that a signal ends the run before its budget does."""
        self._status = "interrupted"
        self.summary["error"] = by.name

    def abandon(self, by: signal.Signals) -> None:
        """Say in run.json that the process ends now, though something hangs. Another thread than the run's calls it."""
        if self.summary["status"] == "running":
            self.summary |= {"status": "interrupted", "error": by.name}
        with contextlib.suppress(OSError):
            self._write()

    def close(self) -> None:
        """Write the last checkpoint and the last files, unless that is done."""
        with self._opened.pop_all():
            if self.summary["status"] == "running":
                self._end()

    def _end(self) -> None:
        import jax

        if not self._begun:
            self._begin()
        env, history = self.env.spec, self.history
        artist = curve.Artist.running()
        artist.ask(self._folder, record.called(self.summary), env.reward_threshold)
        self.save()
        self._checkpoints.sweep()
        final, iqm = record.last_returns(jax.device_get(self.state().recent_returns))
        del self.summary["resumed_from"]  # `updates` says more
        self.summary |= history.summary() | {"return_final": final, "return_final_iqm": iqm, "status": self._status}
        if (error := artist.wait(self._folder)) is None:
            self._tracker.image("learning_curve", self._folder / curve.NAME, history.env_steps)
        else:
            log.warning(f"{curve.NAME} is not drawn: {error}")
        if (best := self._checkpoints.best_folder()) is not None:
            self._tracker.checkpoint(best)
        self.summary |= self._times()
        self._tracker.finish(self.summary, 0 if self._status == "completed" else 1)


_at_work: set[Recording] = set()


def abandon_all(by: signal.Signals) -> None:
    """Say in run.json of every run of this process that it ends now, by this signal."""
    for recording in list(_at_work):
        recording.abandon(by)


def _check_old(restored: "Restored", rows: int, folder: Path) -> None:
    """Check what can be checked of a checkpoint of an older version of pgx, which does not say whose it is."""
    if restored.origin is not None:
        return
    name, update = folder / "checkpoints" / str(restored.update), int(restored.state.update)
    if update != restored.update:
        raise CheckpointError(f"checkpoint {name} is in truth that of update {update}")
    if rows < update:
        raise CheckpointError(f"{folder / 'metrics.csv'} has {rows} rows, the checkpoint {update}: the file was altered")
    log.warning(f"checkpoint {name} is of an older version of pgx and does not prove that it is of this run; used all the same")


def _warn_of_other_bits(before: dict[str, Any] | None, now: dict[str, Any], changes: list[str]) -> None:
    """Warn if the code or the program's width has changed: the last bits will not be those of an uninterrupted run."""
    if before is not None and before.get("width", 1) != now["width"]:
        was, is_now = (f"{x['executor']} of width {x.get('width', 1)}" for x in (before, now))
        changes = [f"{was} → {is_now}", *changes]
    if changes:
        log.warning(f"{', '.join(changes)}: the last bits will not be those of an uninterrupted run")
