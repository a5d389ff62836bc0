"""Many seeds in one vmapped program, its lanes shared by the cores: CartPole, baseline, policy near the 500-step limit.

In a process of its own, because a process has as many of XLA's CPU devices as it began with.
"""

import json
import os
import sys
import time

from experiments.speed.common import Figure, at_the_limit, child

SEEDS, UPDATES, TARGET = 128, 5, 2e6


def run(repeat: int, seconds: float) -> list[Figure]:
    values, length = json.loads(child("-m", "experiments.speed.vmapped", str(repeat)).last_line)
    note = f"mean length {length:.0f}"
    return [Figure(f"baseline, {SEEDS} seeds in one program", "env steps/s", values, at_least=TARGET, note=note)]


def side_by_side(repeat: int, seeds: int, updates: int) -> tuple[list[float], float]:
    """Env steps (padding not counted) a second of wall time, round by round, and the episodes' mean length."""
    parts = at_the_limit("+variant=baseline")
    from pgx import build
    from pgx.loop import Limits

    same = parts.env, parts.algorithm, parts.state
    lanes = [build.lane(parts.config | {"seed": seed}, *same) for seed in range(seeds)]
    values = []
    for _ in range(repeat):  # each from the same state: a policy that has moved on may have left the limit
        runner = build.pack_runner(parts.config | {"updates_per_chunk": updates}, lanes, width=seeds)
        runner.compile()
        start = time.perf_counter()
        chunks = runner([Limits(updates)] * seeds)
        env_steps = sum(int(chunk.rows["env_steps"].sum()) for chunk in chunks)
        values.append(env_steps / (time.perf_counter() - start))
    return values, env_steps / sum(int(chunk.rows["episodes"].sum()) for chunk in chunks)


if __name__ == "__main__":
    import jax

    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    print(json.dumps(side_by_side(int(sys.argv[1]), SEEDS, UPDATES)))
