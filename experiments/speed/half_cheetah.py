"""Training on Gymnasium's HalfCheetah-v5, which steps on the host: beside the same lanes with random actions, and beside
A2C of Stable-Baselines3 with as many environments."""

import importlib.util
import time
from typing import Any

import numpy as np

from experiments.speed.common import Figure, assemble, interleave, ratios, skipped, throughput
from experiments.speed.host import a2c, missing_for_a2c

ID, LANES = "HalfCheetah-v5", 8
SETTINGS = ("+experiment=half_cheetah", f"env.num_lanes={LANES}", f"episodes_per_update={LANES}")
STEPS = 1_000
"""Of each lane, in a figure: an episode."""
OF_RANDOM, AGAINST_A2C = 0.8, 3.0


def run(repeat: int, seconds: float) -> list[Figure]:
    ours, share, ratio = f"pgx gae 64×64, {LANES} lanes", "of Gymnasium with random actions", "against SB3's A2C"
    if importlib.util.find_spec("mujoco") is None:
        return [skipped(name, "mujoco (pip install '.[mujoco]')") for name in (ours, share, ratio)]
    import gymnasium

    parts = assemble(*SETTINGS)
    throughput(parts.runner, parts.untrained, 1)
    gymnasiums, of_run = gymnasium.make_vec(ID, LANES, vectorization_mode="sync"), parts.env
    contenders = {
        ours: lambda: throughput(parts.runner, parts.untrained, 1).steps_per_second,
        "random actions, Gymnasium's lanes": lambda: random_actions(gymnasiums.step, gymnasiums.reset(seed=0)),
        "random actions, the lanes of the run": lambda: random_actions(of_run.step, of_run.reset(0)),
    }
    if not (missing := missing_for_a2c()):
        contenders |= a2c(ID, LANES, env_steps=STEPS * LANES, threads=(1,))  # for so few environments, two are slower
    values = interleave(contenders, repeat)
    _, plain, in_run, *theirs = values.values()
    return [
        *(Figure(name, "env steps/s", x) for name, x in values.items()),
        Figure(share, "×", ratios(values[ours], plain), at_least=OF_RANDOM),
        Figure("of the lanes of the run with random actions", "×", ratios(values[ours], in_run)),
        skipped(ratio, missing) if missing else Figure(ratio, "×", ratios(values[ours], *theirs), at_least=AGAINST_A2C),
    ]


def random_actions(step: Any, began: Any) -> float:
    """Env steps a second of nothing but the environment, after a reset."""
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, LANES, 6)).astype(np.float32)
    start = time.perf_counter()
    for action in actions:
        step(action)
    return STEPS * LANES / (time.perf_counter() - start)
