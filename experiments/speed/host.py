"""Training on Gymnasium's CartPole-v1, which steps on the host: HostRunner against A2C of Stable-Baselines3."""

import importlib.util
import time
from collections.abc import Callable, Sequence

from experiments.speed.common import (
    Figure,
    Speed,
    assemble,
    at_the_limit,
    interleave,
    quiet,
    ratios,
    skipped,
    throughput,
    timed,
)

TARGET = 6.0
HELD = ("pgx 2×32, at the limit", "pgx 2×32, a training run")
SEVERAL = 8
"""Episodes a lane where lanes are not to wait for the longest episode of all."""


def run(repeat: int, seconds: float) -> list[Figure]:
    missing, figures = missing_for_a2c(), []
    for envs in (8, 64):
        lengths, contenders = {}, {}
        for width in (32, 64):
            contenders |= _ours(envs, width, lengths)
        if not missing:
            contenders |= a2c("CartPole-v1", envs, env_steps=1_200 * envs if envs < 16 else 600 * envs)
        values = interleave(contenders, repeat)
        named = {name: Figure(f"{envs} envs: {name}", "env steps/s", x) for name, x in values.items()}
        for name, length in lengths.items():
            named[name] = named[name]._replace(note=f"mean length {length:.0f}")
        figures += named.values()
        if missing:
            figures.append(skipped(f"{envs} envs: ratio to SB3", missing))
            continue
        best = max((name for name in named if name.startswith("SB3")), key=lambda name: named[name].median)
        for name in lengths:
            target = TARGET if name in HELD else None
            figures.append(Figure(f"{envs} envs: {name} / {best}", "×", ratios(values[name], values[best]), at_least=target))
    return figures


def _ours(envs: int, width: int, lengths: dict[str, float]) -> dict:
    """Contenders; `lengths` is filled as they run."""
    from pgx.loop import train

    numbers = ("+variant=baseline", f"policy.width={width}", f"critic.width={width}")
    on_host = (*numbers, "env=gymnasium_cartpole", f"env.num_lanes={envs}")
    one, several = (assemble(*on_host, f"episodes_per_update={envs * each}") for each in (1, SEVERAL))
    budget = one.config["num_env_steps"]
    # the networks are the same whichever environment they act in, and the compiled one is done in seconds
    trained = at_the_limit(*numbers, f"episodes_per_update={envs}").state
    throughput(one.runner, trained, 2)
    throughput(several.runner, several.untrained, 2)
    stages = {
        "at the limit": lambda: throughput(one.runner, trained, 20),
        "untrained": lambda: throughput(one.runner, one.untrained, 40),
        f"untrained, {SEVERAL} episodes a lane": lambda: throughput(several.runner, several.untrained, 5),
        "a training run": lambda: timed(train(one.runner, one.untrained, num_env_steps=budget)),
    }

    def contender(name: str, measure: Callable[[], Speed]) -> Callable[[], float]:
        def steps_per_second() -> float:
            speed = measure()
            lengths[name] = speed.mean_length
            return speed.steps_per_second

        return steps_per_second

    named = {f"pgx 2×{width}, {stage}": measure for stage, measure in stages.items()}
    return {name: contender(name, measure) for name, measure in named.items()}


def missing_for_a2c() -> str:
    """What has to be installed; nothing: ""."""
    missing = [name for name in ("stable_baselines3", "torch") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} (pip install '.[bench]')" if missing else ""


def a2c(id: str, envs: int, env_steps: int, threads: Sequence[int] = (1, 2)) -> dict[str, Callable[[], float]]:
    """SB3's, with its own settings, as contenders that train for so many steps."""
    import torch
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env

    def contender(threads: int):
        model = A2C("MlpPolicy", make_vec_env(id, n_envs=envs, seed=0), device="cpu", seed=0)

        def measure():
            torch.set_num_threads(threads)
            before, start = model.num_timesteps, time.perf_counter()
            with quiet():
                model.learn(env_steps, reset_num_timesteps=False)
            return (model.num_timesteps - before) / (time.perf_counter() - start)

        measure()
        return measure

    return {f"SB3 A2C, {n} threads": contender(n) for n in threads}
