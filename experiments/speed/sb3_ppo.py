"""A yardstick for start-up: PPO of Stable-Baselines3 with RL-Zoo's settings for CartPole-v1, until it is solved."""

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env


class UntilSolved(BaseCallback):
    """Mean return ≥ 475 over the last 100 episodes, as in pgx."""

    def _on_step(self) -> bool:
        returns = [episode["r"] for episode in self.model.ep_info_buffer]
        return len(returns) < 100 or np.mean(returns) < 475


def main() -> None:
    torch.set_num_threads(1)  # two are slower
    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", n_envs=8, seed=0),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        ent_coef=0.0,
        learning_rate=lambda left: left * 1e-3,
        clip_range=lambda left: left * 0.2,
        device="cpu",
        seed=0,
    )
    model.learn(100_000, callback=UntilSolved())
    print(f"{model.num_timesteps} env steps")
    if model.num_timesteps >= 100_000:
        raise SystemExit("not solved")


if __name__ == "__main__":
    main()
