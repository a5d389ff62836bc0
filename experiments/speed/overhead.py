"""What recording a run costs: the same updates bare, and through `pgx.run` with metrics, checkpoints and W&B."""

import math
import tempfile
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

from experiments.speed.common import Figure, Trained, assemble, interleave, ratios, traced_child, train_to
from pgx.config import options

RUN = ("+variant=baseline", "num_env_steps=null")
SHARE, PEAK_MB = 5.0, 600.0


def run(repeat: int, seconds: float) -> list[Figure]:
    tracker = "wandb" if "wandb" in options("tracker") else "none"
    parts = assemble(*RUN, "num_updates=1")  # that number only has to be there
    updates = _count_updates(parts, seconds)
    inside: list[dict[str, float]] = []

    def full() -> float:
        with tempfile.TemporaryDirectory() as scratch:
            overrides = (*RUN, f"num_updates={updates}", f"tracker={tracker}", f"hydra.run.dir={scratch}/run")
            inside.append(traced_child(Path(scratch) / "report.json", *overrides))
        return inside[-1]["loop"]

    walls = interleave({"bare": lambda: _bare(parts, updates), "full": full}, repeat)
    in_program = interleave(_with_and_without_metrics(parts), repeat)
    around = [found["loop"] - found["chunks"] for found in inside]
    ending = [found["learning curve"] + found["tracker: finish"] for found in inside]
    chunks = [found["chunks"] for found in inside]
    return [
        Figure(f"{updates} updates, bare", "s", walls["bare"], note="JittedRunner in a loop, in this process"),
        Figure(f"{updates} updates, pgx.run, tracker {tracker}", "s", walls["full"], note="first chunk to last checkpoint"),
        Figure("pgx.run against bare", "%", [100 * (x - 1) for x in ratios(walls["full"], walls["bare"])], at_most=SHARE),
        Figure("between the chunks, of the chunks", "%", [100 * x for x in ratios(around, chunks)], at_most=SHARE),
        Figure("picture and tracker's end", "s", ending, note="once a run, whatever its length"),
        Figure(
            "metrics within the program",
            "%",
            [100 * (x - 1) for x in ratios(in_program["with"], in_program["without"])],
            note="part of both walls above",
        ),
        Figure("peak memory of pgx.run", "MB", [found["peak_mb"] for found in inside], at_most=PEAK_MB),
    ]


def _chunks(parts: Trained, updates: float):
    from pgx.loop import train

    return train(parts.runner, parts.untrained, num_updates=updates, pause_every=parts.config["checkpoint_every"])


def _count_updates(parts: Trained, seconds: float) -> int:
    """How many updates take so long."""
    start = time.perf_counter()
    for chunk in _chunks(parts, math.inf):
        if time.perf_counter() - start >= seconds:
            return int(chunk.state.update)
    raise RuntimeError("the run diverged")


def _bare(parts: Trained, updates: int) -> float:
    start = time.perf_counter()
    for _ in _chunks(parts, updates):
        pass
    return time.perf_counter() - start


def _with_and_without_metrics(parts: Trained) -> dict[str, Any]:
    """Seconds of a hundred updates near the limit; whatever is not returned, XLA leaves out of a program."""
    from pgx.loop import Limits, chunk

    state = train_to(480.0, parts)
    limits = Limits(*(jax.numpy.array(x) for x in (100, 2**31 - 1, math.inf)))
    diagnose_every = jax.numpy.array(parts.config["diagnose_every"])
    arguments = (state, parts.algorithm, parts.env, parts.keys, limits, diagnose_every)

    def contender(keep: int):
        def program(*arguments):
            return chunk(*arguments, num_episodes=parts.config["episodes_per_update"], max_updates=100)[:keep]

        compiled = eqx.filter_jit(program).lower(*arguments).compile(compiler_options={"xla_backend_optimization_level": 1})

        def measure() -> float:
            start = time.perf_counter()
            jax.block_until_ready(jax.tree.leaves(compiled(*arguments)))
            return time.perf_counter() - start

        return measure

    return {"with": contender(2), "without": contender(1)}
