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
    from pgx import record

    with record.sole_use(folder):
        before = record.earlier_run(folder, config)
        if before is not None and not record.goes_on(before, config):
            return before | {"already": True}
        summary = record.new_summary(config, before, group=group, executor=executor)
        started = time.perf_counter() - summary["wall_seconds"]
        try:
            with _Interrupt() as interrupt:
                _train(config, folder, summary, interrupt, watch)
        except Exception as error:
            summary |= {"status": "failed", "error": _one_line(_root(error))}
            raise
        except KeyboardInterrupt:
            summary |= {"status": "interrupted", "error": "SIGINT"}
            raise
        finally:
            summary |= {"finished": record.now(), "wall_seconds": round(time.perf_counter() - started, 3)}
            record.write_summary(folder, summary)
        return summary


def _train(
    config: dict[str, Any], folder: Path, summary: dict[str, Any], interrupt: "_Interrupt", watch: Watch | None
) -> None:
    """From the first import of jax to the last file; keeps `summary` up to date."""
    from pgx import backend

    backend.prepare(config["xla_threads"])
    import jax
    from hydra.utils import instantiate

    from pgx import curve, record
    from pgx.build import build, initial_state, random_streams, skeleton
    from pgx.checkpoint import Checkpoints
    from pgx.metrics import COLUMNS
    from pgx.train import Limits, make_runner, train

    env, algorithm = build(config)
    state = skeleton(config, env, algorithm)
    threshold = env.spec.reward_threshold
    summary |= record.provenance() | {"device": jax.devices()[0].device_kind, "reward_threshold": threshold}
    metrics = record.Table(folder / "metrics.csv", tuple(COLUMNS))
    timing = record.Table(folder / "timing.csv", record.TIMING)
    checkpoints = Checkpoints(folder / "checkpoints", keep=config["checkpoints_kept"])
    tracker = instantiate(config["tracker"])
    with checkpoints:
        restored = checkpoints.restore(state)
        if restored is not None:
            state = restored[1]
        saved = int(state.update)
        history = record.History(metrics.keep_until(saved), threshold)
        if history.updates != saved:
            raise RuntimeError(f"metrics.csv has {history.updates} updates, the checkpoint {saved}: the file was altered")
        timing.keep_until(saved)
        record.write_summary(folder, summary)

        # from here to the end of compilation XLA and other processes work beside us
        tracker.start(
            folder=folder,
            name=folder.name,
            group=summary["group"],
            job_type=config["variant"],
            tags=[env.spec.id],
            config=config,
        )
        tracker.log(history.rows)
        checkpoints.warm_up()
        runner = make_runner(
            state,
            algorithm,
            env,
            random_streams(config).train,
            num_episodes=config["episodes_per_update"],
            max_updates=config["updates_per_chunk"],
            diagnose_every=config["diagnose_every"],
        )
        # XLA compiles without the interpreter's lock: what is in Python costs little beside it
        if restored is None:
            fresh = ThreadPoolExecutor(1).submit(initial_state, config, env, algorithm)
        threading.Thread(target=curve.warm_up, daemon=True).start()
        compiling = time.perf_counter()
        runner.compile()
        compile_seconds = time.perf_counter() - compiling
        if restored is None:
            state, _ = fresh.result()
        gc.freeze()  # what start-up made lives on
        gc.enable()

        chunks = train(
            runner,
            state,
            env_steps=history.env_steps,
            num_updates=config["num_updates"] or math.inf,
            num_env_steps=config["num_env_steps"] or math.inf,
            solved_at=threshold if config["stop_when_solved"] else math.inf,
            pause_every=config["checkpoint_every"],
        )
        status = "completed"
        with _progress_bar(config, history) if watch is None else _told(watch, config, history) as show:
            for chunk in chunks:
                rows = history.extend(chunk.rows)
                metrics.append(rows)
                tracker.log(rows)
                if chunk.not_finite:
                    status = "diverged"
                    summary["error"] = f"{chunk.not_finite} is not finite at update {history.updates + 1}"
                    if rows:  # chunk.state is past it: once more, up to the last row
                        state = runner(state, Limits(len(rows), math.inf, math.inf)).state
                    break
                state = chunk.state
                timing.append([history.timing(rows, chunk.seconds, compile_seconds)])
                compile_seconds = None
                show(chunk.seconds)
                if history.updates % config["checkpoint_every"] == 0:
                    checkpoints.save(history.updates, state, {}, history.recent)
                    saved = history.updates
                if interrupt.by is not None:
                    status = "interrupted"
                    summary["error"] = interrupt.by.name
                    break
        if saved != int(state.update):
            checkpoints.save(int(state.update), state, {}, history.recent)

    final, iqm = record.last_returns(jax.device_get(state.recent_returns))
    summary |= history.summary() | {"return_final": final, "return_final_iqm": iqm, "status": status}
    picture = folder / "learning_curve.png"
    curve.draw(history.rows, f"{config['variant']} on {env.spec.id}, seed {config['seed']}", threshold, picture)
    tracker.image("learning_curve", picture)
    tracker.finish({key: x for key, x in summary.items() if key != "config"}, 0 if status == "completed" else 1)


class _Interrupt:
    """SIGINT and SIGTERM end a run after the chunk in progress; a second SIGINT ends it at once."""

    def __init__(self):
        self.by: signal.Signals | None = None

    def __enter__(self) -> "_Interrupt":
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
def _told(watch: Watch, config: dict[str, Any], history: Any) -> Iterator[Callable[[float], None]]:
    by_steps = config["num_env_steps"] is not None
    budget = config["num_env_steps"] if by_steps else config["num_updates"]
    yield lambda _: watch(min(1.0, (history.env_steps if by_steps else history.updates) / budget), history.env_steps)


@contextlib.contextmanager
def _progress_bar(config: dict[str, Any], history: Any) -> Iterator[Callable[[float], None]]:
    """A bar over the budget with update, env steps/s and live return; nothing if nobody is watching."""
    if not sys.stderr.isatty():
        yield lambda seconds: None
        return
    from tqdm import tqdm

    by_steps = config["num_env_steps"] is not None
    total, unit = (config["num_env_steps"], "step") if by_steps else (config["num_updates"], "update")
    form = "{desc} {percentage:3.0f}% |{bar}| {postfix} [{elapsed} < {remaining}]"
    done = history.env_steps
    with tqdm(total=total, unit=unit, bar_format=form, desc=config["variant"], dynamic_ncols=True, leave=False) as bar:

        def show(seconds: float) -> None:
            nonlocal done
            rate, done = (history.env_steps - done) / seconds, history.env_steps
            live = history.rows[-1]["return_mean"] if history.recent is None else history.recent
            bar.set_postfix_str(f"update {history.updates:,}, {rate:,.0f} steps/s, return {live:.1f}", refresh=False)
            bar.n = min(total, history.env_steps if by_steps else history.updates)
            bar.refresh()

        yield show


def job(config: DictConfig, *, executor: str = "single", watch: Watch | None = None) -> tuple[dict[str, Any], Path]:
    """What a job of Hydra's does: run in Hydra's folder; (summary, folder). Raises RunFailed, the traceback logged."""
    settings = HydraConfig.get()
    folder = Path(settings.runtime.output_dir)
    group = settings.sweep.dir if settings.mode.name == "MULTIRUN" else None
    try:
        return run(check(config), folder, group=group, executor=executor, watch=watch), folder
    except Exception as error:
        error = _root(error)
        if isinstance(error, ConfigError):
            raise error from None
        log.debug("the run failed", exc_info=True)
        raise RunFailed(f"{_one_line(error)}; the traceback is in {folder / settings.job.name}.log") from None


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(config: DictConfig) -> float:
    """What Hydra calls for a run, or for every job of a launcher of its own; the objective is the interquartile mean
    of the last 100 returns."""
    from pgx import record

    many = HydraConfig.get().mode.name == "MULTIRUN"
    with contextlib.nullcontext() if many else _in_one_line():
        summary, folder = job(config)
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
