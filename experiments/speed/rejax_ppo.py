"""A yardstick: rejax's PPO on Pendulum-v1 with its own settings, on one core. rejax asks for an older gymnax than ours:

    pip install --no-deps --target rejax gymnax==0.0.9 rejax
    REJAX=rejax python -m experiments.speed --only pendulum

Prints the env steps a second of a training that is compiled before, evaluation left out.
"""

import os
import sys
import time
from pathlib import Path

import jax

SETTINGS = {  # its configs/gymnax/pendulum.yaml; the networks are 64×64
    "env": "Pendulum-v1",
    "agent_kwargs": {"activation": "swish"},
    "num_envs": 100,
    "num_steps": 100,
    "num_epochs": 10,
    "num_minibatches": 10,
    "learning_rate": 0.001,
    "max_grad_norm": 10,
    "total_timesteps": 150_000,
    "gamma": 0.995,
    "gae_lambda": 0.95,
    "clip_eps": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "normalize_observations": True,
}


def main(folder: str) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sys.path.insert(0, str(Path(folder).absolute()))
    from rejax import PPO

    batch = SETTINGS["num_envs"] * SETTINGS["num_steps"]
    ppo = PPO.create(**SETTINGS, eval_freq=batch, skip_initial_evaluation=True)
    train = jax.jit(ppo.replace(eval_callback=lambda *_: ()).train)
    jax.block_until_ready(train(jax.random.key(0)))
    start = time.perf_counter()
    state, _ = jax.block_until_ready(train(jax.random.key(0)))
    print(int(state.global_step) / (time.perf_counter() - start))


if __name__ == "__main__":
    main(sys.argv[1])
