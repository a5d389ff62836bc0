"""Seconds from the start of the process to solved and exit, and to the message about bad input; where they go."""

import importlib.util
import statistics
import tempfile
from pathlib import Path

from experiments.speed.common import Figure, child, interleave, ratios, skipped, traced_child
from pgx.config import options

SOLVE = ("+variant=baseline", "stop_when_solved=true")
BAD = {
    "+variant=basline": ("+variant=basline",),
    "optimiser.learning_rate=-1": ("+variant=baseline", "optimiser.learning_rate=-1"),
    "env.id=CliffWalking-v1": ("+variant=baseline", "env=gymnasium", "env.id=CliffWalking-v1"),
}
TARGETS = {"cold": 6.0, "warm": 4.0, "bad input": 1.5}
PEER, PEER_SECONDS = "SB3's PPO", 14.0
"""What it took on the machine that the targets are from: a ratio to it says on any machine whether they are met."""


def run(repeat: int, seconds: float) -> list[Figure]:
    with tempfile.TemporaryDirectory() as scratch:
        return _run(repeat, Path(scratch))


def _run(repeat: int, scratch: Path) -> list[Figure]:
    warm, count = scratch / "warm", iter(range(10**6))

    def arguments(cache: str, tracker: str):
        folder = scratch / f"run-{next(count)}"
        where = warm if cache == "warm" else scratch / f"cache-{next(count)}"
        return (*SOLVE, f"tracker={tracker}", f"hydra.run.dir={folder}"), where

    def solve(cache: str, tracker: str) -> float:
        overrides, where = arguments(cache, tracker)
        return child("-m", "pgx.run", *overrides, cache=where).seconds

    phases = {}

    def look_inside(cache: str, tracker: str) -> float:
        overrides, where = arguments(cache, tracker)
        found = traced_child(scratch / "report.json", *overrides, cache=where)
        for phase, x in found.items():
            phases.setdefault((cache, tracker), {}).setdefault(phase, []).append(x)
        return found["exit"]

    trackers = [name for name in ("wandb", "none") if name in options("tracker")]
    solve("warm", trackers[-1])  # fills the cache, and Python's bytecode
    contenders, limits = {}, {}
    for tracker in trackers:
        for cache in ("cold", "warm"):
            name = f"solved, {cache} cache, tracker {tracker}"
            contenders[name], limits[name] = (lambda c=cache, t=tracker: solve(c, t)), TARGETS[cache]
    peer, slow = importlib.util.find_spec("stable_baselines3") is not None, f"{PEER}, solved"
    if peer:
        contenders[slow], limits[slow] = (lambda: child("-m", "experiments.speed.sb3_ppo").seconds), None
    for what, overrides in BAD.items():
        name = f"message: {what}"
        contenders[name] = lambda overrides=overrides: child("-m", "pgx.run", *overrides, exits_with=2).seconds
        limits[name] = TARGETS["bad input"]
    inside = {f"{c} {t}": (lambda c=c, t=t: look_inside(c, t)) for c, t in (("cold", "none"), ("warm", trackers[0]))}
    values = interleave(contenders | inside, repeat)
    against = [
        Figure(f"  against {PEER}: {name}", "×", ratios(values[name], values[slow]), at_most=limits[name] / PEER_SECONDS)
        for name in contenders
        if peer and name.startswith("solved")
    ]
    return [
        *(Figure(name, "s", values[name], at_most=limits[name]) for name in contenders),
        *(against or [skipped(f"  against {PEER}", "stable-baselines3 (pip install '.[bench]')")]),
        *(
            Figure(f"  {cache} cache, tracker {tracker}: {phase}", "s", found)
            for (cache, tracker), spent in phases.items()
            for phase, found in spent.items()
            if statistics.median(found) >= 0.02 and phase not in ("peak_mb", "loop")
        ),
    ]
