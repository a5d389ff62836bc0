"""PPO on Pendulum-v1 with the settings of RLtools' example, on one core: seconds of 300,000 env steps, and what they lead to.

Both have 64×64 networks, batches of about 4,000 steps, 2 epochs of 16 minibatches, γ = 0.9 and an initial standard
deviation of 2; the rest is ours (whole episodes, relu, learning rates). RLtools is C++, and is not run here: beside ours
stands what it takes to −175.
"""

import json
import sys
import time

from experiments.speed.common import Figure, assemble, child, on_cores

ENV_STEPS, MOST = 300_000, 0.8
SETTINGS = (
    *("+variant=ppo", "env=pendulum", "episodes_per_update=20", "gamma=0.9", f"num_env_steps={ENV_STEPS}"),
    *("policy.width=64", "critic.width=64", "policy.std=2", "optimiser.learning_rate=0.001"),
    *("update.epochs=2", "update.minibatch_steps=250", "critic.minibatch_steps=250", "update.stop_at_kl=null"),
)
PEER = "RLtools: 3.1 s (generic build, one core of this machine), 0.73 s (with a BLAS, its authors' Ryzen 9)"


def run(repeat: int, seconds: float) -> list[Figure]:
    with on_cores(1):
        trained = json.loads(child("-m", "experiments.speed.ppo_pendulum", str(repeat), *SETTINGS).last_line)
    took, returned = zip(*trained, strict=True)
    name, last = f"PPO, Pendulum-v1, 64×64, {ENV_STEPS:,} env steps: training", "the last 100 episodes of training"
    return [
        Figure(name, "s", list(took), at_most=MOST, note=PEER),
        Figure(f"… mean return at the end, {repeat} seeds", "", list(returned), note=last),
    ]


def _trained(seeds: int, *words: str) -> list[tuple[float, float]]:
    """(CPU seconds of training without compilation, mean return at the end) of every seed."""
    from pgx.build import limits
    from pgx.loop import train

    found = []
    for seed in range(seeds):
        parts = assemble(*words, f"seed={seed}")
        start = time.process_time()
        *_, last = train(parts.runner, parts.state, **limits(parts.config, parts.env))
        found.append((time.process_time() - start, float(last.rows["return_recent"][-1])))
    return found


if __name__ == "__main__":
    print(json.dumps(_trained(int(sys.argv[1]), *sys.argv[2:])))
