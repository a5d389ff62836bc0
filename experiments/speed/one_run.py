"""Env steps a second of one run: CartPole, compiled, networks 2×32, policy near the 500-step limit."""

from experiments.speed.common import Figure, at_the_limit, interleave, ratios, throughput
from experiments.speed.plain import plain

CASES = {  # (variant, episodes an update): (chunks to time, target)
    ("reward_to_go", 256): (1, 2.5e6),
    ("baseline", 256): (1, 1.8e6),
    ("reward_to_go", 10): (5, 0.8e6),
    ("baseline", 10): (5, 0.8e6),
}
PEER = "a plain jitted REINFORCE"


def run(repeat: int, seconds: float) -> list[Figure]:
    contenders, lengths = {}, {}
    for (variant, episodes), (chunks, _) in CASES.items():
        parts = at_the_limit(f"+variant={variant}", f"episodes_per_update={episodes}")

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
            note = f"mean length {lengths[variant, episodes]:.0f}"
            target = CASES[variant, episodes][1]
            figures.append(Figure(name, "env steps/s", measured, at_least=target, note=note))
    return figures
