"""What evaluation while training costs: CartPole near the 500-step limit on one core, 10 episodes after every tenth update,
and what one evaluation takes beside playing its episodes and nothing else.

Seconds are of CPU time. With evaluations and without, the updates are the same to the last bit.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial

from experiments.speed.common import Figure, Trained, at_the_limit, child, interleave, on_cores, ratios

EVERY, EPISODES = 10, 10
CHUNKS = {"ppo": 1, "baseline": 3}
"""Variants, and how many chunks of theirs are timed."""


def run(repeat: int, seconds: float) -> list[Figure]:
    figures = []
    for variant in CHUNKS:
        words = f"+variant={variant}", f"evaluate_episodes={EPISODES}"
        with on_cores(1):
            found = json.loads(child("-m", "experiments.speed.evaluation", str(repeat), str(CHUNKS[variant]), *words).last_line)
        name, note = f"{variant}, evaluated after every {EVERY}th update: adds", f"{EPISODES} episodes, {found['share']:.3g} %"
        figures += [
            Figure(name, "%", found["added"], at_most=found["share"], note=f"of the time; {note} of its env steps"),
            Figure("… an evaluation, of playing its episodes", "×", found["of_playing"]),
        ]
    return figures


def _measure(repeat: int, chunks: int, *words: str) -> dict[str, float | list[float]]:
    """Percent of time and of env steps, and by how much an evaluation is dearer than its episodes alone."""
    import jax
    import numpy as np

    from pgx import build
    from pgx.runners import compiler_options

    plain = at_the_limit(*words)
    parts = {every: at_the_limit(*words, f"evaluate_every={every}") for every in (1, EVERY)}
    evaluation, updates = build.evaluation(parts[1].config), chunks * plain.runner.max_updates

    @partial(jax.jit, compiler_options=compiler_options())
    def play(actor):
        again = lambda _, total: (
            total + evaluation(plain.env, plain.keys.evaluate, jax.tree.map(lambda x: x + 0 * total, actor))[0]
        )
        return jax.lax.fori_loop(0, updates, again, 0.0)

    play(plain.state.actor)  # compiled
    contenders = {str(every): partial(_seconds, x, chunks) for every, x in parts.items()}
    contenders |= {"plain": partial(_seconds, plain, chunks), "play": lambda: _timed(lambda: play(plain.state.actor))}
    values = interleave(contenders, repeat)
    rows = parts[EVERY].runner(parts[EVERY].state).rows
    share = EPISODES * np.nansum(rows["evaluation_return"]) / rows["env_steps"].sum()  # CartPole's return is its length
    dearer = [(x - y) / z for x, y, z in zip(values["1"], values["plain"], values["play"], strict=True)]
    return {
        "share": 100 * float(share),
        "added": [100 * (x - 1) for x in ratios(values[str(EVERY)], values["plain"])],
        "of_playing": dearer,
    }


def _seconds(parts: Trained, chunks: int) -> float:
    """Of CPU time, for as many chunks from the same state."""
    return _timed(lambda: [parts.runner(parts.state) for _ in range(chunks)])


def _timed(do: Callable) -> float:
    start = time.process_time()
    do()
    return time.process_time() - start


if __name__ == "__main__":
    print(json.dumps(_measure(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])))
