"""Env steps a second of one run: CartPole, compiled, networks 2×32, policy near the 500-step limit.

In a process for each number of XLA's threads, because a process has as many as it began with.
"""

import json
import sys

from experiments.speed.common import Figure, at_the_limit, child, interleave, ratios, throughput
from experiments.speed.plain import plain

CASES = {  # (variant, episodes an update): (xla_threads, chunks to time, target)
    ("reward_to_go", 256): (2, 1, 2.5e6),
    ("baseline", 256): (2, 1, 1.8e6),
    ("reward_to_go", 10): (1, 5, 0.8e6),
    ("baseline", 10): (1, 5, 0.8e6),
}
PEER = "a plain jitted REINFORCE"


def run(repeat: int, seconds: float) -> list[Figure]:
    figures = []
    for threads in (2, 1):
        told = child("-m", "experiments.speed.one_run", str(threads), str(repeat)).last_line
        figures += [Figure(**figure) for figure in json.loads(told)]
    return figures


def _measure(threads: int, repeat: int) -> list[Figure]:
    contenders, lengths = {}, {}
    cases = {case: (chunks, target) for case, (of_case, chunks, target) in CASES.items() if of_case == threads}
    for (variant, episodes), (chunks, _) in cases.items():
        parts = at_the_limit(f"+variant={variant}", f"episodes_per_update={episodes}", f"xla_threads={threads}")

        def measure(case=(variant, episodes), parts=parts, chunks=chunks):
            speed = throughput(parts.runner, parts.state, chunks)  # the same updates every time
            lengths[case] = speed.mean_length
            return speed.steps_per_second

        contenders[variant, episodes] = measure
        if variant == "reward_to_go":
            contenders[PEER, episodes] = plain(parts, episodes)
    values, figures = interleave(contenders, repeat), []
    for (variant, episodes), measured in values.items():
        name = f"{variant}, {episodes} episodes an update"
        if variant == PEER:
            figures.append(Figure(f"reward_to_go / {name}", "×", ratios(values["reward_to_go", episodes], measured)))
        else:
            note = f"mean length {lengths[variant, episodes]:.0f}, xla_threads={threads}"
            target = cases[variant, episodes][1]
            figures.append(Figure(name, "env steps/s", measured, at_least=target, note=note))
    return figures


if __name__ == "__main__":
    print(json.dumps([figure._asdict() for figure in _measure(*map(int, sys.argv[1:]))]))
