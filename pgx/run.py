"""One run: `python -m pgx.run +variant=baseline`.

compose and check the configuration → build the parts → for each chunk: record, save, show.
"""

import atexit
import contextlib
import gc
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import DictConfig

from pgx.config import CONF, ConfigError, Gate, RunFailed, check, one_line_errors

log = logging.getLogger("pgx")


Watch = Callable[[float, int], None]
"""Called after every chunk with the share of the budget that is used, and the environment steps taken."""


def run(
    config: dict[str, Any],
    folder: Path,
    *,
    group: str | None = None,
    executor: str = "single",
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Train in `folder`, going on from what is there, until the budget ends; returns the summary (run.json).

    `group` is the sweep that the run belongs to; a run that goes on keeps its own. Without `watch` a progress bar is
    shown, if somebody is there to see it.
    A fault is recorded as status `failed` and raised. Raises ConfigError if another process is at work here, or
    another configuration was.
    """
    with Interrupt() as interrupt, Recording(config, folder, group=group, executor=executor) as recording:
        if recording.goes_on:
            _train(recording, interrupt, watch)
    return recording.summary


def _train(recording: "Recording", interrupt: "Interrupt", watch: Watch | None) -> None:
    from pgx import curve
    from pgx.build import random_streams
    from pgx.train import make_runner, train

    config = recording.config
    runner = make_runner(
        recording.skeleton,
        recording.algorithm,
        recording.env,
        random_streams(config).train,
        num_episodes=config["episodes_per_update"],
        max_updates=config["updates_per_chunk"],
        diagnose_every=config["diagnose_every"],
    )
    # XLA compiles without the interpreter's lock: what is in Python costs little beside it
    first = ThreadPoolExecutor(1).submit(recording.state)
    threading.Thread(target=curve.warm_up, daemon=True).start()
    compiling = time.perf_counter()
    runner.compile()
    recording.compiled(time.perf_counter() - compiling)
    state = first.result()
    gc.freeze()  # what start-up made lives on
    gc.enable()
    with _progress_bar(recording) if watch is None else _told(watch, recording) as show:
        for chunk in train(runner, state, **recording.limits):
            recording.take(chunk)
            show(chunk)
            if interrupt.by is not None:
                recording.interrupted(interrupt.by)
                break


class Recording:
    """A run under way, from the lock on its folder to its last file: fed with chunks, it keeps the tables, the
    checkpoints, the mirror and run.json up to date, and it knows from where training goes on.

    A context manager; whatever ends it is in run.json.
    """

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        *,
        group: str | None = None,
        executor: str = "single",
        width: int = 1,
    ):
        self.config, self._folder = config, folder
        self._about = {"group": group, "executor": executor, "width": width}

    def __enter__(self) -> "Recording":
        """From the first import of jax to the state that training goes on from."""
        from pgx import record

        with contextlib.ExitStack() as opened:
            opened.enter_context(record.sole_use(self._folder))
            before = record.earlier_run(self._folder, self.config)
            self.goes_on = before is None or record.goes_on(before, self.config)
            if self.goes_on:
                self.summary = record.new_summary(self.config, before, **self._about)
                opened.enter_context(self._put_down())
                _warn_of_other_bits(before, self.summary)
                self._open(opened)
            else:
                self.summary = before | {"already": True}
            self._opened = opened.pop_all()
        return self

    def __exit__(self, kind: type | None, *error: Any) -> bool | None:
        if kind is not None:
            return self._opened.__exit__(kind, *error)
        self.close()

    @contextlib.contextmanager
    def _put_down(self) -> Iterator[None]:
        """How it ended, in run.json."""
        from pgx import record

        summary = self.summary
        started = time.perf_counter() - summary["wall_seconds"]
        try:
            yield
        except Exception as error:
            summary |= {"status": "failed", "error": _one_line(_root(error))}
            raise
        except KeyboardInterrupt:
            summary |= {"status": "interrupted", "error": "SIGINT"}
            raise
        finally:
            summary |= {"finished": record.now(), "wall_seconds": round(time.perf_counter() - started, 3)}
            record.write_summary(self._folder, summary)

    def _open(self, opened: contextlib.ExitStack) -> None:
        from pgx import backend

        config, folder = self.config, self._folder
        backend.prepare(config["xla_threads"])
        import jax
        from hydra.utils import instantiate

        from pgx import record
        from pgx.build import build, initial_state, skeleton
        from pgx.checkpoint import Checkpoints
        from pgx.metrics import COLUMNS

        self.env, self.algorithm = build(config)
        self.skeleton = skeleton(config, self.env, self.algorithm)
        threshold = self.env.spec.reward_threshold
        self.summary |= record.provenance() | {"device": jax.devices()[0].device_kind, "reward_threshold": threshold}
        self._metrics = record.Table(folder / "metrics.csv", tuple(COLUMNS))
        self._timing = record.Table(folder / "timing.csv", record.TIMING)
        self._checkpoints = opened.enter_context(Checkpoints(folder / "checkpoints", keep=config["checkpoints_kept"]))
        self._tracker = instantiate(config["tracker"])
        restored = self._checkpoints.restore(self.skeleton)
        if restored is not None:
            self.state = lambda: restored[1]
        else:
            self.state = lambda: initial_state(config, self.env, self.algorithm)[0]
        self._saved = restored[0] if restored is not None else 0
        self.history = record.History(self._metrics.keep_until(self._saved), threshold)
        if self.history.updates != self._saved:
            has = f"metrics.csv has {self.history.updates} updates, the checkpoint {self._saved}"
            raise RuntimeError(f"{has}: the file was altered")
        self._timing.keep_until(self._saved)
        record.write_summary(folder, self.summary)

        # from here to the end of compilation XLA and other processes work beside us
        self._tracker.start(
            folder=folder,
            name=folder.name,
            group=self.summary["group"],
            job_type=config["variant"],
            tags=[self.env.spec.id],
            config=config,
        )
        self._tracker.log(self.history.rows)
        self._checkpoints.warm_up()
        self._status = "completed"
        self._compile_seconds: float | None = None

    state: Callable[[], Any]
    """The TrainState after the last update; before the first it is made when it is asked for."""

    @property
    def limits(self) -> dict[str, float]:
        """What ends this run: arguments of `pgx.train.train`."""
        config = self.config
        return {
            "env_steps": self.history.env_steps,
            "num_updates": config["num_updates"] or math.inf,
            "num_env_steps": config["num_env_steps"] or math.inf,
            "solved_at": self.env.spec.reward_threshold if config["stop_when_solved"] else math.inf,
            "pause_every": config["checkpoint_every"],
        }

    @property
    def share(self) -> float:
        """… of the budget that is used."""
        steps, updates = self.config["num_env_steps"], self.config["num_updates"]
        return min(1.0, self.history.env_steps / steps if steps is not None else self.history.updates / updates)

    def compiled(self, seconds: float) -> None:
        """The program is compiled: chunks will come."""
        self._compile_seconds = seconds

    def take(self, chunk: Any) -> None:
        """The next Chunk is done."""
        rows = self.history.extend(chunk.rows)
        self._metrics.append(rows)
        self._tracker.log(rows)
        self.state = chunk.after
        if chunk.not_finite:
            self._status = "diverged"
            self.summary["error"] = f"{chunk.not_finite} is not finite at update {self.history.updates + 1}"
            return
        self._timing.append([self.history.timing(rows, chunk.seconds, self._compile_seconds)])
        self._compile_seconds = None
        if self.history.updates % self.config["checkpoint_every"] == 0:
            self.save()

    def save(self) -> None:
        """A checkpoint, unless there is one of this update."""
        if self._saved != self.history.updates:
            self._saved = self.history.updates
            self._checkpoints.save(self._saved, self.state(), {}, self.history.recent)

    def interrupted(self, by: signal.Signals) -> None:
        """It ends before its time."""
        self._status = "interrupted"
        self.summary["error"] = by.name

    def close(self) -> None:
        """Its last checkpoint and its last files. Nothing to do if it is closed already."""
        with self._opened.pop_all():
            if self.summary["status"] == "running":
                self._end()

    def _end(self) -> None:
        import jax

        from pgx import curve, record

        self.save()
        self._checkpoints.close()
        config, env, history = self.config, self.env.spec, self.history
        final, iqm = record.last_returns(jax.device_get(self.state().recent_returns))
        self.summary |= history.summary() | {"return_final": final, "return_final_iqm": iqm, "status": self._status}
        picture = self._folder / "learning_curve.png"
        curve.draw(history.rows, f"{config['variant']} on {env.id}, seed {config['seed']}", env.reward_threshold, picture)
        self._tracker.image("learning_curve", picture)
        told = {key: x for key, x in self.summary.items() if key != "config"}
        self._tracker.finish(told, 0 if self._status == "completed" else 1)



def _warn_of_other_bits(before: dict[str, Any] | None, now: dict[str, Any]) -> None:
    """A run ends with the bits it began with only if it goes on in a program of the same width."""
    if before is not None and before.get("width", 1) != now["width"]:
        was, is_now = (f"{x['executor']} of width {x.get('width', 1)}" for x in (before, now))
        log.warning(f"{was} → {is_now}: the last bits will not be those of an uninterrupted run")


class Interrupt:
    """SIGINT and SIGTERM end a run after the chunk in progress; a second SIGINT ends it at once."""

    def __init__(self):
        self.by: signal.Signals | None = None

    def __enter__(self) -> "Interrupt":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self.by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.by = signal.Signals(number)


@contextlib.contextmanager
def _told(watch: Watch, recording: Recording) -> Iterator[Callable[[Any], None]]:
    yield lambda _: watch(recording.share, recording.history.env_steps)


@contextlib.contextmanager
def _progress_bar(recording: Recording) -> Iterator[Callable[[Any], None]]:
    """A bar over the budget with update, env steps/s and live return; nothing if nobody is watching."""
    if not sys.stderr.isatty():
        yield lambda chunk: None
        return
    from tqdm import tqdm

    config, history = recording.config, recording.history
    by_steps = config["num_env_steps"] is not None
    total, unit = (config["num_env_steps"], "step") if by_steps else (config["num_updates"], "update")
    form = "{desc} {percentage:3.0f}% |{bar}| {postfix} [{elapsed} < {remaining}]"
    with tqdm(total=total, unit=unit, bar_format=form, desc=config["variant"], dynamic_ncols=True, leave=False) as bar:

        def show(chunk: Any) -> None:
            if not history.rows:
                return
            rate = chunk.rows["env_steps"].sum() / chunk.seconds
            live = history.rows[-1]["return_mean"] if history.recent is None else history.recent
            bar.set_postfix_str(f"update {history.updates:,}, {rate:,.0f} steps/s, return {live:.1f}", refresh=False)
            bar.n = min(total, history.env_steps if by_steps else history.updates)
            bar.refresh()

        yield show


@contextlib.contextmanager
def job() -> Iterator[tuple[Path, str | None]]:
    """A job of Hydra's: (its folder, its sweep's folder). Raises RunFailed, the traceback logged."""
    settings = HydraConfig.get()
    folder, many = Path(settings.runtime.output_dir), settings.mode.name == "MULTIRUN"
    try:
        yield folder, settings.sweep.dir if many else None
    except Exception as error:
        error = _root(error)
        if isinstance(error, ConfigError):
            if many:  # else it ends the program, which says it
                log.warning(error)
            raise error from None
        log.debug("the run failed", exc_info=True)
        raise RunFailed(f"{_one_line(error)}; the traceback is in {folder / settings.job.name}.log") from None


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(config: DictConfig) -> float:
    """What Hydra calls for a run, or for every job of a launcher of its own; the objective is the interquartile mean
    of the last 100 returns."""
    from pgx import record

    many = HydraConfig.get().mode.name == "MULTIRUN"
    with contextlib.nullcontext() if many else _in_one_line(), job() as (folder, group):
        summary = run(check(config), folder, group=group)
    print(record.last_line(summary, folder))
    if summary["status"] == "interrupted" or (summary["status"] == "diverged" and not many):
        raise SystemExit(record.exit_code(summary))
    return summary["return_final_iqm"]


def _root(error: Exception) -> Exception:
    """The error that Hydra's instantiate wrapped."""
    return error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def _in_one_line(*, traceback: bool = False) -> Iterator[None]:
    """An error ends the program with one line on stderr; `traceback`: unless nobody foresaw it."""
    try:
        with one_line_errors():
            yield
    except KeyboardInterrupt:
        sys.exit(130)
    except RunFailed as error:
        sys.exit(f"pgx: {error}")
    except Exception as error:  # Hydra's own, as for `policy=[1]`
        if traceback:
            raise
        print(f"pgx: command line: {_one_line(error)}; HYDRA_FULL_ERROR=1 shows the traceback", file=sys.stderr)
        raise SystemExit(2) from None


def main() -> None:
    wanted = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and we say it in one line
    gc.disable()  # until all is imported and compiled: 0.5 s
    try:
        with _in_one_line(traceback=wanted):
            task()
    finally:
        Gate.take_back()


if __name__ == "__main__":
    main()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)  # taking jax apart object by object would take 0.5 s
