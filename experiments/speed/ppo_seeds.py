"""128 seeds of PPO on two cores, from the start of the command to its end: a sweep of ours, which writes a folder for every
seed, beside PureJaxRL's seeds under `jax.vmap`, which only trains. Settings are those of ppo.py, nothing is cached.

Theirs are one program, which has one thread (see purejaxrl.py), and then two processes, each with half of the seeds and a core
to itself. One that does not end in time is ended, and reported. Its networks are larger than ours are by default, which is
a row, too.
"""

import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.speed import purejaxrl
from experiments.speed.common import Figure, child, interleave, on_cores, ratios, skipped
from experiments.speed.ppo import MINIBATCH, settings

SEEDS, ENV_STEPS, CORES = 128, 200_000, 2
RATIO, TIMEOUT = 2.0, 180.0


def run(repeat: int, seconds: float) -> list[Figure]:
    with tempfile.TemporaryDirectory() as scratch, on_cores(CORES) as cores:
        return _run(repeat, Path(scratch), cores)


def _run(repeat: int, scratch: Path, cores: list[int]) -> list[Figure]:
    count = iter(range(10**6))

    def ours(*variant: str) -> float:
        n = next(count)
        words = (*variant, f"num_env_steps={ENV_STEPS}", f"seed=range(0,{SEEDS})", f"hydra.sweep.dir={scratch}/{n}")
        return child("-m", "pgx.run", "-m", *words, cache=scratch / f"cache-{n}").seconds

    contenders = {
        "ours": lambda: ours(*settings(MINIBATCH)),
        "default": lambda: ours("+variant=ppo", "tracker=none"),
    }
    peers = {"one program": lambda: _seeds(0, SEEDS), f"{CORES} processes, a core each": lambda: _a_core_each(cores)}
    absent = purejaxrl.missing()
    values = interleave(contenders | ({} if absent else peers), repeat)
    name = f"{SEEDS} seeds of PPO × {ENV_STEPS:,} env steps, {CORES} cores"
    figures = [Figure(f"{name}, a sweep", "s", values["ours"]), Figure("… as it is by default", "s", values["default"])]
    if absent:
        return [*figures, skipped("… PureJaxRL, vmapped", absent)]
    for peer, target in zip(peers, (RATIO, None), strict=True):
        ended = [n for n, seconds in enumerate(values[peer]) if seconds < TIMEOUT]
        note = f"{repeat - len(ended)} of {repeat} did not end within {TIMEOUT:g} s" if len(ended) < repeat else ""
        theirs, sweep, default = ([values[name][n] for n in ended] for name in (peer, "ours", "default"))
        figures += [
            Figure(f"… PureJaxRL, vmapped, {peer}", "s", theirs, note=note),
            Figure("… … / ours", "×", ratios(theirs, sweep), at_least=target, note=note),
            Figure("… … / ours by default", "×", ratios(theirs, default), note=note),
        ]
    return figures


def _seeds(first: int, number: int) -> float:
    """Seconds that so many of PureJaxRL's take; infinite if they do not end."""
    words = (os.environ["PUREJAXRL"], ENV_STEPS, first, number, time.time())
    try:
        return child("-m", "experiments.speed.purejaxrl", *map(str, words), timeout=TIMEOUT).seconds
    except subprocess.TimeoutExpired:
        return float("inf")


def _a_core_each(cores: list[int]) -> float:
    """The same of all of them, as many on every core."""
    each = SEEDS // len(cores)

    def on(core: int) -> float:
        os.sched_setaffinity(0, {core})  # of this thread, and of what it begins
        return _seeds(core * each, each)

    with ThreadPoolExecutor(len(cores)) as pool:
        return max(pool.map(on, cores))
