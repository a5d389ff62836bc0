"""A sweep of 30 runs, from a cold start: our launcher, Hydra's basic one, and a process for each run."""

import csv
import json
import tempfile
from pathlib import Path

from experiments.speed.common import Figure, child, interleave, ratios

VARIANTS, SEEDS, ENV_STEPS = ("vanilla", "reward_to_go", "baseline"), 10, 300_000
FEW, MANY = 20, 60
TARGETS = {"basic launcher": 1.5, "a process a run": 5.0}
AGGREGATE, OVERHEAD = 1.6e6, 0.2


def run(repeat: int, seconds: float) -> list[Figure]:
    with tempfile.TemporaryDirectory() as scratch:
        return _run(repeat, Path(scratch))


def _run(repeat: int, scratch: Path) -> list[Figure]:
    count, warm = iter(range(10**6)), scratch / "warm"
    folders: list[Path] = []

    def overrides() -> tuple[str, ...]:
        folders.append(scratch / f"sweep-{next(count)}")
        return f"num_env_steps={ENV_STEPS}", "tracker=none", f"hydra.sweep.dir={folders[-1]}"

    def sweep(*more: str) -> float:
        grid = (f"+variant={','.join(VARIANTS)}", f"seed=range(0,{SEEDS})")
        return child("-m", "pgx.run", "-m", *grid, *overrides(), *more, cache=scratch / f"cache-{next(count)}").seconds

    def one_by_one() -> float:
        cache = scratch / f"cache-{next(count)}"  # cold for the first run of a variant
        total = 0.0
        for variant in VARIANTS:
            for seed in range(SEEDS):
                budget, tracker, _ = overrides()
                run = (f"+variant={variant}", f"seed={seed}", budget, tracker, f"hydra.run.dir={folders[-1]}")
                total += child("-m", "pgx.run", *run, cache=cache).seconds
        return total

    def tiny(members: int) -> float:
        grid = ("+variant=baseline", f"seed=range(0,{members})", "num_updates=1", "episodes_per_update=2")
        _, *rest = overrides()
        return child("-m", "pgx.run", "-m", *grid, *rest, cache=warm).seconds

    aggregate: list[float] = []

    def ours() -> float:
        seconds = sweep()
        aggregate.append(_env_steps_per_second(folders[-1]))
        return seconds

    tiny(2)
    walls = interleave(
        {
            "ours": ours,
            "basic launcher": lambda: sweep("hydra/launcher=basic"),
            "a process a run": one_by_one,
            "few": lambda: tiny(FEW),
            "many": lambda: tiny(MANY),
        },
        repeat,
    )
    each = [(many - few) / (MANY - FEW) for many, few in zip(walls["many"], walls["few"], strict=True)]
    return [
        *(Figure(f"30 runs, {name}", "s", walls[name]) for name in ("ours", *TARGETS)),
        *(Figure(f"{name} / ours", "×", ratios(walls[name], walls["ours"]), at_least=x) for name, x in TARGETS.items()),
        Figure("all members together, while training", "env steps/s", aggregate, at_least=AGGREGATE),
        Figure("a member more", "s", each, at_most=OVERHEAD, note=f"{MANY} members of one update against {FEW}"),
    ]


def _env_steps_per_second(sweep: Path) -> float:
    """Env steps of all members over the time that a process spent in compiled chunks, on average."""
    import os

    steps = seconds = 0.0
    for path in sweep.glob("*/timing.csv"):
        with open(path, newline="") as file:
            chunks = list(csv.DictReader(file))
        steps += int(chunks[-1]["env_steps"])
        seconds += sum(float(chunk["seconds"]) for chunk in chunks)
    assert json.loads((sweep / "members.json").read_text())
    return steps / (seconds / len(os.sched_getaffinity(0)))
