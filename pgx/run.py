"""One run: `python -m pgx.run +variant=baseline`.

compose and check the configuration → build the parts → for each chunk: record, save, show.
"""

import atexit
import contextlib
import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from traceback import format_exception_only
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import pgx
from pgx import progress
from pgx.config import CONF, check
from pgx.declared import on_search_path
from pgx.errors import CheckpointError, ConfigError, Interrupted, RunFailed, came_of, one_line
from pgx.gate import Gate, of_words, one_line_errors
from pgx.interrupt import Interrupt
from pgx.label import label
from pgx.streams import no_tracebacks_beside, tolerant_streams

if TYPE_CHECKING:
    from pgx.loop import Chunk
    from pgx.runs.recording import Recording

log = logging.getLogger("pgx")


OnChunk = Callable[[float, int], None]
"""Called after every chunk with the share of the budget that is used, and the environment steps taken."""


def run(
    config: dict[str, Any],
    folder: Path,
    *,
    group: str | None = None,
    executor: str = "single",
    label: str | None = None,
    watch: OnChunk | None = None,
) -> dict[str, Any]:
    """Train in `folder` until the budget ends, resuming what is there; return the summary (run.json).

    `group` is the sweep that the run belongs to; a resumed run keeps its own. `label` is what it is called, if not
    by its variant. Without `watch` a progress bar is shown, if somebody is there to see it.
    A fault is recorded as status `failed` and raised. Raises ConfigError if another process is at work here, or
    another configuration was.
    """
    from pgx.runs.recording import Recording

    with (
        Interrupt(alone=watch is None) as interrupt,
        Recording(config, folder, group=group, executor=executor, label=label) as recording,
    ):
        if recording.needs_more:
            _train(recording, interrupt, watch)
            interrupt.beat("the end of the run")
    return recording.summary


def _train(recording: "Recording", interrupt: "Interrupt", watch: OnChunk | None) -> None:
    from pgx import build
    from pgx.loop import Keys, train

    config = recording.config
    runner = build.runner(config, recording.env, recording.algorithm, recording.skeleton, Keys.of_seed(config["seed"]))
    # XLA compiles without the interpreter's lock: what is in Python costs little beside it
    first = ThreadPoolExecutor(1).submit(recording.state)
    recording.warm_up()
    interrupt.beat("compiling")
    compiling = time.perf_counter()
    with _status_line(f"{recording.summary['label']}: compiling …") if watch is None else contextlib.nullcontext():
        runner.compile()
    recording.compile_seconds = time.perf_counter() - compiling
    state = first.result()
    gc.freeze()  # what start-up made lives on
    gc.enable()
    with _progress_bar(recording) if watch is None else _report_progress(watch, recording) as show:
        interrupt.beat(f"the chunk from update {recording.history.updates + 1} on")
        for chunk in train(runner, state, **recording.limits):
            recording.take(chunk)
            show(chunk)
            interrupt.beat(f"the chunk from update {recording.history.updates + 1} on", chunk.seconds)
            if interrupt.by is not None:
                recording.interrupted(interrupt.by)
                break


@contextlib.contextmanager
def _report_progress(watch: OnChunk, recording: "Recording") -> Iterator[Callable[["Chunk"], None]]:
    yield lambda _: watch(recording.share, recording.history.env_steps)


@contextlib.contextmanager
def _status_line(what: str) -> Iterator[None]:
    """Show a line on the terminal within this block; nothing if nobody is watching."""
    watched = sys.stderr.isatty()
    if watched:
        print(what, end="\r", file=sys.stderr, flush=True)
    yield
    if watched:
        print("\x1b[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _progress_bar(recording: "Recording") -> Iterator[Callable[["Chunk"], None]]:
    """Yields the function that shows a chunk; it does nothing if nobody is watching."""
    if not sys.stderr.isatty():
        yield lambda chunk: None
        return
    from tqdm import tqdm

    label = recording.summary["label"]
    with tqdm(total=1.0, bar_format=progress.FORM, desc=label, dynamic_ncols=True, leave=False) as bar:
        yield partial(progress.show, bar, recording.config, recording.history)


@contextlib.contextmanager
def job() -> Iterator[tuple[Path, dict[str, str | None]]]:
    """A job of Hydra's: (its folder, arguments of a Recording: its sweep's folder, what the run is called). Raises
    RunFailed, the traceback logged."""
    settings = HydraConfig.get()
    folder, many = Path(settings.runtime.output_dir), settings.mode.name == "MULTIRUN"
    try:
        yield folder, {"group": settings.sweep.dir if many else None, "label": label(settings)}
    except (Exception, SystemExit) as error:  # an environment may call sys.exit
        if isinstance(error, ConfigError):
            if many:  # else it ends the program, which says it
                log.warning(error)
            raise error from None
        if isinstance(error, CheckpointError):
            raise RunFailed(str(error)) from None
        traceback = _logged(folder / f"{settings.job.name}.log", error)
        raise RunFailed(one_line(error) + (f"; the traceback is in {traceback}" if traceback else "")) from None


def _logged(file: Path, error: BaseException) -> Path | None:
    """Log the traceback; the log, if it is there: hydra/job_logging may keep none, and the disk may be full."""
    log.debug("the run failed", exc_info=error)
    try:
        with open(file, "rb") as written:
            written.seek(max(0, file.stat().st_size - 100_000))
            return file if "".join(format_exception_only(error)).strip().encode() in written.read() else None
    except OSError:
        return None


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(config: DictConfig) -> float:
    """What Hydra calls for a run, or for every job of a launcher of its own; see `record.objective`."""
    from pgx.runs import record

    many = HydraConfig.get().mode.name == "MULTIRUN"
    if not (many or Gate.passed):
        raise ConfigError("hydra.callbacks.gate", "cannot be removed")
    with contextlib.nullcontext() if many else _in_one_line(), job() as (folder, about):
        declared = on_search_path(HydraConfig.get(), Gate.modules)
        summary = run(check(config, declared), folder, **about)
    print(record.last_line(summary, folder))
    if summary["status"] == "interrupted" or (summary["status"] == "diverged" and not many):
        raise SystemExit(record.exit_code(summary))
    return record.objective(summary)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """An error ends the program with one line on stderr."""
    with one_line_errors(unforeseen=True):
        try:
            yield
        except Interrupted as error:
            sys.exit(128 + error.by)
        except KeyboardInterrupt:
            sys.exit(130)
        except RunFailed as error:
            print(f"pgx: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception as error:
            if came_of(error, KeyboardInterrupt):  # which OmegaConf may stumble over
                sys.exit(130)
            raise


def main() -> None:
    pgx.started()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and we say it in one line
    no_tracebacks_beside()
    gc.disable()  # until all is imported and compiled: 0.5 s
    with tolerant_streams():
        try:
            with _in_one_line():
                sys.argv[1:] = of_words(sys.argv[1:])
                task()
        finally:
            Gate.take_back()


if __name__ == "__main__":
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    atexit._run_exitfuncs()
    with tolerant_streams():
        sys.stdout.flush()
    os._exit(code)  # taking jax apart object by object would take 0.5 s, and a thread that hangs would never end
