"""Pendulum-v1, compiled, on one core: `gae` with V in 4 passes, beside CartPole and beside rejax's PPO."""

import os

from experiments.speed.common import Figure, assemble, at_the_limit, child, interleave, ratios, skipped, throughput

LARGE = ("+experiment=pendulum",)
SMALL = (*LARGE, "policy.width=32", "critic.width=32")
CARTPOLE = ("+variant=gae", "critic.passes=4", "whiten=true")
CHUNKS = 2
AGAINST_CARTPOLE, AGAINST_REJAX = 0.4, 4.0


def run(repeat: int, seconds: float) -> list[Figure]:
    def contender(parts):
        return lambda: throughput(parts.runner, parts.state, CHUNKS).steps_per_second

    large, small, cartpole = "gae, networks 64×64", "gae, networks 2×32", "CartPole, gae, networks 2×32, at the limit"
    contenders = {
        large: contender(assemble(*LARGE)),  # every episode has 200 steps, whatever the policy
        small: contender(assemble(*SMALL)),
        cartpole: contender(at_the_limit(*CARTPOLE)),
    }
    folder, theirs = os.environ.get("REJAX"), "rejax's PPO, networks 64×64"
    if folder is not None:
        contenders[theirs] = lambda: float(child("-m", "experiments.speed.rejax_ppo", folder).last_line)
    values = interleave(contenders, repeat)
    against = f"{large} / {theirs}"
    return [
        *(Figure(name, "env steps/s", x) for name, x in values.items()),
        Figure(f"{small} / CartPole's", "×", ratios(values[small], values[cartpole]), at_least=AGAINST_CARTPOLE),
        Figure(against, "×", ratios(values[large], values[theirs]), at_least=AGAINST_REJAX)
        if folder is not None
        else skipped(against, "REJAX=FOLDER, see rejax_ppo.py"),
    ]
