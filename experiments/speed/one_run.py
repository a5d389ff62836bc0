"""Env steps a second of one run: CartPole, compiled, networks 2×32, policy near the 500-step limit."""

from experiments.speed.common import Figure, at_the_limit, interleave, ratios, throughput
from experiments.speed.plain import plain

CASES = {  # (variant, episodes an update): (chunks to time, target)
    ("reward_to_go", 256): (1, 2.5e6),
    ("baseline", 256): (1, 1.8e6),
    ("reward_to_go", 10): (5, 0.8e6),
    ("baseline", 10): (5, 0.8e6),
}
PEER, PEER_SPEED = "a plain jitted REINFORCE", {256: 3e6, 10: None}
"""What it made on the machine that the targets are from: a ratio to it says on any machine whether they are met."""


def run(repeat: int, seconds: float) -> list[Figure]:
    contenders, lengths = {}, {}
    for (variant, episodes), (chunks, _) in CASES.items():
        parts = at_the_limit(f"+variant={variant}", f"episodes_per_update={episodes}")

        def measure(case=(variant, episodes), parts=parts, chunks=chunks):
            speed = throughput(parts.runner, parts.state, chunks)  # the same updates every time
            lengths[case] = speed.mean_length
            return speed.steps_per_second

        contenders[variant, episodes] = measure
        if (PEER, episodes) not in contenders:
            contenders[PEER, episodes] = plain(parts, episodes)
    values, figures = interleave(contenders, repeat), []
    for (variant, episodes), (_, target) in CASES.items():
        name, measured = f"{variant}, {episodes} episodes an update", values[variant, episodes]
        note = f"mean length {lengths[variant, episodes]:.0f}"
        figures.append(Figure(name, "env steps/s", measured, at_least=target, note=note))
        there, against = PEER_SPEED[episodes], ratios(measured, values[PEER, episodes])
        figures.append(Figure(f"  against {PEER}", "×", against, at_least=target / there if there else None))
    return figures
