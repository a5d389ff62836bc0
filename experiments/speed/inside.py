"""`pgx.run` with timers around its parts: python -m experiments.speed.inside REPORT STARTED OVERRIDE…

STARTED is the time.time() at which the parent started this process. Writes {phase: seconds} as JSON; a
phase that is passed many times is summed. pgx itself is not changed: its functions are wrapped from outside.
"""

import functools
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from types import ModuleType

SECONDS: dict[str, float] = defaultdict(float)
_last = 0.0


def timed(phase: str, function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            SECONDS[phase] += time.perf_counter() - start

    return wrapper


def since_last(phase: str) -> None:
    """What passed since the mark before belongs to `phase`."""
    global _last
    now = time.time()
    SECONDS[phase] += now - _last
    _last = now


def wrap(owner, name: str, phase: str) -> None:
    setattr(owner, name, timed(phase, getattr(owner, name)))


def wrap_tracker(build: ModuleType) -> None:
    """Times the methods of the tracker that a run makes."""
    make_tracker = build.tracker

    def wrapped_tracker(config):
        tracker = timed("tracker: start", make_tracker)(config)
        for method in ("start", "log", "image", "finish"):
            wrap(tracker, method, f"tracker: {method}")
        return tracker

    build.tracker = wrapped_tracker


def mark_loop(runner_class: type, checkpoints_class: type) -> None:
    """Times the loop: from the end of the compile to the end of the last checkpoint."""
    compile_program, close = runner_class.compile, checkpoints_class.close

    def compile_and_mark(runner):
        compile_program(runner)
        SECONDS["loop"] = -time.perf_counter()

    def close_and_mark(checkpoints):
        close(checkpoints)
        if SECONDS["loop"] < 0:  # the first time
            SECONDS["loop"] += time.perf_counter()

    runner_class.compile, checkpoints_class.close = compile_and_mark, close_and_mark


def main(report: Path, started: float) -> None:
    global _last
    _last = started
    since_last("interpreter")
    from pgx import backend, run

    since_last("import Hydra")
    prepare = backend.prepare

    def prepare_and_wrap(threads: int) -> None:
        since_last("compose, check, run folder")
        prepare(threads)
        since_last("import jax")
        from pgx import build, runners
        from pgx.runs import checkpoint, curve, provenance, record, table

        since_last("import equinox, optax …")
        wrap(build, "build", "build")
        wrap(build, "initial_state", "initial state")
        wrap(provenance, "made_with", "provenance (git)")
        wrap(runners.JittedRunner, "__init__", "trace")
        wrap(runners.JittedRunner, "compile", "compile")
        wrap(runners.JittedRunner, "__call__", "chunks")
        wrap(checkpoint.Checkpoints, "save", "checkpoints: save")
        wrap(checkpoint.Checkpoints, "close", "checkpoints: last wait")
        wrap(table.Table, "append", "CSV")
        wrap(record.History, "extend", "rows")
        wrap(curve.Artist, "wait", "learning curve")
        wrap_tracker(build)
        mark_loop(runners.JittedRunner, checkpoint.Checkpoints)

    backend.prepare = prepare_and_wrap
    try:
        run.main()
    finally:
        status = Path("/proc/self/status").read_text()
        # not getrusage: its maximum is inherited from the process that started us
        SECONDS["peak_mb"] = int(status.split("VmHWM:")[1].split()[0]) / 1024
        SECONDS["end"] = time.time()
        report.write_text(json.dumps(SECONDS))


if __name__ == "__main__":
    report, started = Path(sys.argv[1]), float(sys.argv[2])
    sys.argv = [sys.argv[0], *sys.argv[3:]]
    main(report, started)
