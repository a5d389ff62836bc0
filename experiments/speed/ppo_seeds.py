"""128 seeds of PPO on two cores, from the start of the command to its end: a sweep of ours, which writes a folder for every
seed, beside PureJaxRL's seeds under `jax.vmap`, which only trains. Settings are those of ppo.py, nothing is cached.

Both are held to the same two cores. PureJaxRL's program deadlocks there with as many threads, and sometimes otherwise: one
that does not end in time is ended, and reported. Its networks are larger than ours are by default, which is a row, too.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

from experiments.speed import purejaxrl
from experiments.speed.common import Figure, child, interleave, on_cores, ratios, skipped
from experiments.speed.ppo import MINIBATCH, settings

SEEDS, ENV_STEPS, CORES = 128, 100_000, 2
RATIO, TIMEOUT = 2.0, 150.0


def run(repeat: int, seconds: float) -> list[Figure]:
    with tempfile.TemporaryDirectory() as scratch, on_cores(CORES):
        return _run(repeat, Path(scratch))


def _run(repeat: int, scratch: Path) -> list[Figure]:
    count = iter(range(10**6))

    def ours(*settings: str) -> float:
        n = next(count)
        words = (*settings, f"num_env_steps={ENV_STEPS}", f"seed=range(0,{SEEDS})", f"hydra.sweep.dir={scratch}/{n}")
        return child("-m", "pgx.run", "-m", *words, cache=scratch / f"cache-{n}").seconds

    def theirs() -> float:
        words = (os.environ["PUREJAXRL"], ENV_STEPS, 0, SEEDS, time.time())
        try:
            return child("-m", "experiments.speed.purejaxrl", *map(str, words), timeout=TIMEOUT).seconds
        except subprocess.TimeoutExpired:
            return float("inf")

    contenders = {
        "ours": lambda: ours(*settings(MINIBATCH)),
        "default": lambda: ours("+variant=ppo", "tracker=none"),
    }
    absent = purejaxrl.missing()
    values = interleave(contenders | ({} if absent else {"theirs": theirs}), repeat)
    name = f"{SEEDS} seeds of PPO × {ENV_STEPS:,} env steps, {CORES} cores"
    figures = [Figure(f"{name}, a sweep", "s", values["ours"]), Figure("… as it is by default", "s", values["default"])]
    if absent:
        return [*figures, skipped("… PureJaxRL, vmapped", absent)]
    ended = [n for n, seconds in enumerate(values["theirs"]) if seconds < TIMEOUT]
    of_ended = {name: [seconds[n] for n in ended] for name, seconds in values.items()}
    note = f"{repeat - len(ended)} of {repeat} did not end within {TIMEOUT:g} s" if len(ended) < repeat else ""
    return [
        *figures,
        Figure("… PureJaxRL, vmapped", "s", of_ended["theirs"], note=note),
        Figure("… PureJaxRL / ours", "×", ratios(of_ended["theirs"], of_ended["ours"]), at_least=RATIO, note=note),
        Figure("… PureJaxRL / ours by default", "×", ratios(of_ended["theirs"], of_ended["default"]), note=note),
    ]
