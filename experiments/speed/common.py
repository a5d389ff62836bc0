"""What the parts share: figures, the clock, a run built the way the command line builds it, child processes."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]

import pgx
from pgx import backend


class Figure(NamedTuple):
    """One line of the table. No values: `note` says why."""

    name: str
    unit: str
    values: list[float]
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """None where there is no target."""
        if not self.values or self.at_least is self.at_most is None:
            return None
        return self.median >= self.at_least if self.at_most is None else self.median <= self.at_most


def interleave(contenders: dict[str, Callable[[], float]], repeat: int) -> dict[str, list[float]]:
    """A B A B …, so that a machine that grows slower meanwhile is equally slow to all of them."""
    values = {name: [] for name in contenders}
    for _ in range(repeat):
        for name, measure in contenders.items():
            values[name].append(measure())
    return values


def ratios(above: list[float], below: list[float]) -> list[float]:
    """Round by round: what was measured side by side is divided."""
    return [x / y for x, y in zip(above, below, strict=True)]


def skipped(name: str, need: str) -> Figure:
    return Figure(name, "", [], note=f"skipped: needs {need}")


class Trained(NamedTuple):
    """The parts of a run, and its state when the policy has just come near the 500-step limit."""

    config: dict[str, Any]
    env: Any
    algorithm: Any
    keys: Any
    runner: Any
    untrained: Any
    state: Any


def assemble(*overrides: str) -> Trained:
    """Compiled, not yet trained."""
    config, env, algorithm, state, keys, runner = pgx.assemble(*overrides)
    runner.compile()
    return Trained(config, env, algorithm, keys, runner, state, state)


def at_the_limit(*overrides: str) -> Trained:
    """Trained until the last 100 episodes return 480 on average. There the policy stays: its learning rate is now 0,
    which the same compiled program is given."""
    import equinox as eqx
    import jax.numpy as jnp

    from pgx import build

    parts = assemble(*overrides)
    state = train_to(480.0, parts)
    still = eqx.tree_at(lambda algorithm: algorithm.update.optimiser.learning_rate, parts.algorithm, jnp.zeros(()))
    runner = build.runner(parts.config, parts.env, still, state, parts.keys)
    runner.compile()
    return parts._replace(algorithm=still, runner=runner, state=state)


def train_to(threshold: float, parts: Trained, most_updates: int = 10_000) -> Any:
    from pgx.loop import Limits

    state = parts.state
    while not state.recent_returns.mean() >= threshold:
        if int(state.update) >= most_updates:
            raise RuntimeError(f"{parts.config['variant']} is not at {threshold} after {most_updates} updates")
        state = parts.runner(state, Limits(return_recent=threshold)).state
    return state


class Speed(NamedTuple):
    steps_per_second: float
    mean_length: float


def throughput(runner: Any, state: Any, chunks: int) -> Speed:
    """Every chunk trains on from `state` itself."""
    return timed(runner(state) for _ in range(chunks))


def timed(chunks: Iterable[Any]) -> Speed:
    """Real env steps (padding not counted) a second of wall time that the chunks take."""
    env_steps = episodes = 0
    start = time.perf_counter()
    for chunk in chunks:
        env_steps += int(chunk.rows["env_steps"].sum())
        episodes += int(chunk.rows["episodes"].sum())
    return Speed(env_steps / (time.perf_counter() - start), env_steps / episodes)


class Child(NamedTuple):
    seconds: float
    """From the start of the process to its end."""
    last_line: str


@contextlib.contextmanager
def on_cores(number: int):
    """What begins within, child processes too, has so many of our cores: these."""
    ours = os.sched_getaffinity(0)
    chosen = sorted(ours)[-number:]
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, ours)


def child(*arguments: str, cache: Path | None = None, exits_with: int = 0, timeout: float | None = None) -> Child:
    """`python arguments` from the root of the repository, with its compilation cache in `cache`.

    Raises subprocess.TimeoutExpired, and ends it, if it takes longer than `timeout` seconds.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WANDB_MODE": "offline"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a user's Python keeps its bytecode
    environment.pop("PJRT_NPROC", None)  # ours, not the child's, as the next
    if "XLA_FLAGS" in environment:  # an empty one would be taken for the name of a file
        del environment["XLA_FLAGS"]
        flags = backend.persons_flags()
        environment |= {"XLA_FLAGS": flags} if flags else {}
    if cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    start = time.perf_counter()
    how = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True, "timeout": timeout}
    done = subprocess.run([sys.executable, *arguments], check=False, **how)
    seconds = time.perf_counter() - start
    lines = (done.stdout + done.stderr).strip().splitlines()
    last_line = lines[-1] if lines else ""
    if done.returncode != exits_with:
        raise RuntimeError(f"exit code {done.returncode} instead of {exits_with}: {last_line}")
    return Child(seconds, last_line)


def traced_child(report: Path, *overrides: str, cache: Path | None = None) -> dict[str, float]:
    """A run with timers in it (inside.py): {phase: seconds}, and its peak memory under "peak_mb"."""
    started = time.time()
    child("-m", "experiments.speed.inside", str(report), repr(started), *overrides, cache=cache)
    ended = time.time()
    phases = json.loads(report.read_text())
    phases["exit"] = ended - phases.pop("end")
    return phases


@contextlib.contextmanager
def quiet():
    """Some libraries talk on stdout."""
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        yield
