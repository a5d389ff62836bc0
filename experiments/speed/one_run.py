"""Env steps a second of one run: CartPole, compiled, networks 2×32, policy near the 500-step limit."""

from experiments.speed.common import Figure, at_the_limit, interleave, throughput

CASES = {  # (variant, episodes an update): (chunks to time, target)
    ("reward_to_go", 256): (1, 2.5e6),
    ("baseline", 256): (1, 1.8e6),
    ("reward_to_go", 10): (5, 0.8e6),
    ("baseline", 10): (5, 0.8e6),
}


def run(repeat: int, seconds: float) -> list[Figure]:
    contenders, lengths = {}, {}
    for (variant, episodes), (chunks, _) in CASES.items():
        threads = 2 if episodes > 100 else 1
        parts = at_the_limit(f"+variant={variant}", f"episodes_per_update={episodes}", f"xla_threads={threads}")

        def measure(case=(variant, episodes), parts=parts, chunks=chunks):
            speed = throughput(parts.runner, parts.state, chunks)  # the same updates every time
            lengths[case] = speed.mean_length
            return speed.steps_per_second

        contenders[variant, episodes] = measure
    return [
        Figure(
            f"{variant}, {episodes} episodes an update",
            "env steps/s",
            values,
            at_least=CASES[variant, episodes][1],
            note=f"mean length {lengths[variant, episodes]:.0f}" + ", xla_threads=2" * (episodes > 100),
        )
        for (variant, episodes), values in interleave(contenders, repeat).items()
    ]
