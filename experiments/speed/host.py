"""Training on Gymnasium's CartPole-v1, which steps on the host: HostRunner against A2C of Stable-Baselines3."""

import importlib.util
import time

from experiments.speed.common import Figure, assemble, at_the_limit, interleave, quiet, ratios, skipped, throughput

TARGET = 6.0
UPDATES = {"at the limit": 20, "untrained": 40}


def run(repeat: int, seconds: float) -> list[Figure]:
    missing = [name for name in ("stable_baselines3", "torch") if importlib.util.find_spec(name) is None]
    figures = []
    for envs in (8, 64):
        lengths, contenders = {}, {}
        for width in (32, 64):
            contenders |= _ours(envs, width, lengths)
        if not missing:
            contenders |= _theirs(envs)
        values = interleave(contenders, repeat)
        named = {name: Figure(f"{envs} envs: {name}", "env steps/s", x) for name, x in values.items()}
        for name, length in lengths.items():
            named[name] = named[name]._replace(note=f"mean length {length:.0f}")
        figures += named.values()
        if missing:
            figures.append(skipped(f"{envs} envs: ratio to SB3", f"{' and '.join(missing)} (pip install '.[bench]')"))
            continue
        best = max((name for name in named if name.startswith("SB3")), key=lambda name: named[name].median)
        for name in lengths:
            target = TARGET if "2×32" in name else None
            figures.append(
                Figure(f"{envs} envs: {name} / {best}", "×", ratios(values[name], values[best]), at_least=target)
            )
    return figures


def _ours(envs: int, width: int, lengths: dict[str, float]) -> dict:
    """Contenders; `lengths` is filled as they run."""
    numbers = ["+variant=baseline", f"episodes_per_update={envs}", f"policy.width={width}", f"critic.width={width}"]
    host = assemble(*numbers, "env=gymnasium_cartpole")
    # the networks are the same whichever environment they act in, and the compiled one is done in seconds
    states = {"at the limit": at_the_limit(*numbers).state, "untrained": host.untrained}
    contenders = {}
    for stage, state in states.items():
        name = f"pgx 2×{width}, {stage}"
        throughput(host.runner, state, 2)

        def measure(name=name, state=state, chunks=UPDATES[stage]):
            speed = throughput(host.runner, state, chunks)
            lengths[name] = speed.mean_length
            return speed.steps_per_second

        contenders[name] = measure
    return contenders


def _theirs(envs: int) -> dict:
    import torch
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env

    env_steps = 1_200 * envs if envs < 16 else 600 * envs

    def contender(threads: int):
        model = A2C("MlpPolicy", make_vec_env("CartPole-v1", n_envs=envs, seed=0), device="cpu", seed=0)

        def measure():
            torch.set_num_threads(threads)
            before, start = model.num_timesteps, time.perf_counter()
            with quiet():
                model.learn(env_steps, reset_num_timesteps=False)
            return (model.num_timesteps - before) / (time.perf_counter() - start)

        measure()
        return measure

    return {f"SB3 A2C, {threads} threads": contender(threads) for threads in (1, 2)}
