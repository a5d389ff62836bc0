"""One run: `python -m pgx.run +variant=baseline`.

compose and check the configuration → build the parts → for each chunk: record, save, show.
"""

import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from pgx.config import CONF, check
from pgx.errors import ConfigError, RunFailed, one_line, root
from pgx.gate import Gate, of_words, one_line_errors
from pgx.streams import tolerant_streams

if TYPE_CHECKING:
    from pgx.recording import Recording
    from pgx.train import Chunk

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
    from pgx.recording import Recording

    with Interrupt() as interrupt, Recording(config, folder, group=group, executor=executor) as recording:
        if recording.goes_on:
            _train(recording, interrupt, watch)
    return recording.summary


def _train(recording: "Recording", interrupt: "Interrupt", watch: Watch | None) -> None:
    from pgx.train import Keys, make_runner, train

    config = recording.config
    runner = make_runner(
        recording.skeleton,
        recording.algorithm,
        recording.env,
        Keys.of_seed(config["seed"]),
        num_episodes=config["episodes_per_update"],
        max_updates=config["updates_per_chunk"],
        diagnose_every=config["diagnose_every"],
    )
    # XLA compiles without the interpreter's lock: what is in Python costs little beside it
    first = ThreadPoolExecutor(1).submit(recording.state)
    recording.warm_up()
    compiling = time.perf_counter()
    runner.compile()
    recording.compile_seconds = time.perf_counter() - compiling
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


class Interrupt:
    """A signal of STOP ends a run after the chunk in progress; a second SIGINT ends it at once."""

    STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
    """Ctrl-C, `kill`, and what `sbatch --signal=USR2@120` sends before a job's time is up."""

    def __init__(self):
        self.by: signal.Signals | None = None

    def __enter__(self) -> "Interrupt":
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.STOP}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self.by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.by = signal.Signals(number)


@contextlib.contextmanager
def _told(watch: Watch, recording: "Recording") -> Iterator[Callable[["Chunk"], None]]:
    yield lambda _: watch(recording.share, recording.history.env_steps)


@contextlib.contextmanager
def _progress_bar(recording: "Recording") -> Iterator[Callable[["Chunk"], None]]:
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

        def show(chunk: "Chunk") -> None:
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
        error = root(error)
        if isinstance(error, ConfigError):
            if many:  # else it ends the program, which says it
                log.warning(error)
            raise error from None
        log.debug("the run failed", exc_info=True)
        file = folder / f"{settings.job.name}.log"
        where = f"; the traceback is in {file}" if file.exists() else ""  # hydra/job_logging may keep none
        raise RunFailed(one_line(error) + where) from None


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(config: DictConfig) -> float:
    """What Hydra calls for a run, or for every job of a launcher of its own; the objective is the interquartile mean
    of the last 100 returns."""
    from pgx import record

    many = HydraConfig.get().mode.name == "MULTIRUN"
    if not (many or Gate.passed):
        raise ConfigError("hydra.callbacks.gate", "cannot be removed")
    with contextlib.nullcontext() if many else _in_one_line(), job() as (folder, group):
        summary = run(check(config), folder, group=group)
    print(record.last_line(summary, folder))
    if summary["status"] == "interrupted" or (summary["status"] == "diverged" and not many):
        raise SystemExit(record.exit_code(summary))
    return record.objective(summary)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """An error ends the program with one line on stderr."""
    with one_line_errors(whatever=True):
        try:
            yield
        except KeyboardInterrupt:
            sys.exit(130)
        except RunFailed as error:
            print(f"pgx: {error}", file=sys.stderr)
            sys.exit(1)


def main() -> None:
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and we say it in one line
    gc.disable()  # until all is imported and compiled: 0.5 s
    with tolerant_streams():
        try:
            with _in_one_line():
                sys.argv[1:] = of_words(sys.argv[1:])
                task()
        finally:
            Gate.take_back()


if __name__ == "__main__":
    main()
    atexit._run_exitfuncs()
    with tolerant_streams():
        sys.stdout.flush()
    os._exit(0)  # taking jax apart object by object would take 0.5 s
