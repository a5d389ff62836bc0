"""As many at once as an accelerator is for: seeds of CartPole in one pack, and lanes of one compiled physics task.

On a CPU both would only take long: skipped there. `evaluation`, `ppo` and the other parts are for one.
"""

import importlib.util

from experiments.speed import vmapped
from experiments.speed.common import Figure, assemble, skipped, throughput
from experiments.speed.physics import SETTINGS
from pgx import backend

SEEDS, UPDATES, LANES = 1024, 5, 2048


def run(repeat: int, seconds: float) -> list[Figure]:
    seeds, lanes = f"baseline on CartPole, {SEEDS:,} seeds in one program", f"ppo on brax's halfcheetah, {LANES:,} lanes"
    if not backend.accelerator():
        return [skipped(name, "an accelerator") for name in (seeds, lanes)]
    values, length = vmapped.side_by_side(repeat, SEEDS, UPDATES)
    found = [Figure(seeds, "env steps/s", values, note=f"{_device()}, mean length {length:.0f}")]
    if without_brax():
        return [*found, skipped(lanes, "brax (pip install '.[brax]')")]
    return [*found, Figure(lanes, "env steps/s", physics(repeat), note=_device())]


def without_brax() -> bool:
    return importlib.util.find_spec("brax") is None


def physics(repeat: int) -> list[float]:
    """Env steps a second of a whole update: rollout and PPO. Minibatches grow with the lanes, as each of them waits for
    the one before."""
    minibatches = (f"update.minibatch_steps={LANES * 100}", f"critic.minibatch_steps={LANES * 100}")
    parts = assemble(*SETTINGS, f"episodes_per_update={LANES}", "updates_per_chunk=1", *minibatches)
    throughput(parts.runner, parts.untrained, 1)
    return [throughput(parts.runner, parts.untrained, 1).steps_per_second for _ in range(repeat)]


def _device() -> str:
    import jax

    return jax.devices()[0].device_kind
