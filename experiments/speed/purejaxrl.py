"""A yardstick: PureJaxRL's own file, PPO on CartPole-v1. It is no package, and asks for an older gymnax than ours:

    mkdir purejaxrl; cp …/purejaxrl/{ppo,wrappers}.py purejaxrl/; pip install --no-deps --target purejaxrl gymnax==0.0.9
    PUREJAXRL=purejaxrl python -m experiments.speed --only ppo ppo_seeds

`python -m experiments.speed.purejaxrl FOLDER ENV_STEPS SEED SEEDS STARTED` trains from SEED on, SEEDS of them side by
side, and prints what `Trained` has as JSON. STARTED is the time.time() at which the parent started this process.
"""

import json
import os
import sys
import time
import types
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

SETTINGS = {
    "LR": 2.5e-4, "NUM_ENVS": 4, "NUM_STEPS": 128, "UPDATE_EPOCHS": 4, "NUM_MINIBATCHES": 4, "GAMMA": 0.99,
    "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2, "ENT_COEF": 0.01, "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.5, "ACTIVATION": "tanh",
    "ENV_NAME": "CartPole-v1", "ANNEAL_LR": True, "DEBUG": False,
}  # fmt: skip
"""As its file has them."""
OTHERS = ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix")
"""What its wrappers import for other environments."""
THRESHOLD, EPISODES = 475, 100
"""Solved: so much on average over the last so many episodes, as everywhere here."""


class Trained(NamedTuple):
    """What a training says of itself."""

    env_steps_per_second: float
    """Of CPU time, compilation apart."""
    solved: float | None
    """Seconds from the start of the process to the first update after which it is solved, with compilation; None: never,
    or several seeds. The program cannot stop there: of its run time, those updates' share counts."""


def missing() -> str | None:
    """What keeps it from being measured."""
    folder = os.environ.get("PUREJAXRL")
    if folder is None:
        return "PUREJAXRL=FOLDER, see purejaxrl.py"
    absent = [name for name in ("ppo.py", "wrappers.py", "gymnax") if not (Path(folder) / name).exists()]
    absent += [name for name in ("flax", "distrax") if find_spec(name) is None and not (Path(folder) / name).exists()]
    return f"{' and '.join(absent)} in PUREJAXRL={folder}, see purejaxrl.py" if absent else None


def main(folder: str, env_steps: int, seed: int, seeds: int, started: float) -> Trained:
    if seeds > 1:  # with two threads on two cores the program of 128 seeds never ends, with four it does not always
        os.environ["PJRT_NPROC"] = "1"
    sys.path.insert(0, str(Path(folder).absolute()))
    for name in OTHERS:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["brax"].envs = sys.modules["brax.envs"]
    training = sys.modules["brax.envs.wrappers.training"]
    training.EpisodeWrapper = training.AutoResetWrapper = object
    import jax
    import ppo

    train, keys = ppo.make_train(SETTINGS | {"TOTAL_TIMESTEPS": env_steps}), jax.random.PRNGKey(seed)
    if seeds > 1:
        train, keys = jax.vmap(train), jax.random.split(keys, seeds)
    program = jax.jit(train).lower(keys).compile()
    compiled, start = time.time() - started, time.process_time()
    found = jax.block_until_ready(program(keys))
    seconds, wall = time.process_time() - start, time.time() - started - compiled
    share = solved_after(found["metrics"]) if seeds == 1 else None
    taken = found["metrics"]["returned_episode"].size  # whole updates of 512
    return Trained(taken / seconds, None if share is None else compiled + share * wall)


def solved_after(metrics: dict) -> float | None:
    """The share of the updates after which it is solved. Numbers are [updates, steps, environments]."""
    import numpy as np

    ended, returns = (np.asarray(metrics[name]) for name in ("returned_episode", "returned_episode_returns"))
    done = ended.reshape(len(ended), -1).sum(1).cumsum()
    finished = np.concatenate([np.full(EPISODES, np.nan), returns[ended]])
    recent = np.convolve(finished, np.full(EPISODES, 1 / EPISODES), "valid")[done]
    solved = np.flatnonzero(recent >= THRESHOLD)
    return (solved[0] + 1) / len(ended) if len(solved) else None


if __name__ == "__main__":
    folder, *numbers = sys.argv[1:]
    env_steps, seed, seeds = map(int, numbers[:3])
    print(json.dumps(main(folder, env_steps, seed, seeds, float(numbers[3]))._asdict()))
