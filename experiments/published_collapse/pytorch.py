"""Post 1 in PyTorch, literally: a Gymnasium loop, a DataLoader-like walk over the episode, AdamW with PyTorch's defaults.

The author's own PyTorch program was not published; this is what "almost identical" would be. It leaves run folders of
the harness's form (run.json, metrics.csv), so that they are measured as all the others are.
"""

import csv
import json
import time
from pathlib import Path

import gymnasium
import numpy as np

MINIBATCH, RATE = 4, 3e-4
COLUMNS = ("update", "env_steps", "episodes", "return_mean", "return_recent", "entropy", "action_share", "kl")
NEEDED = (
    "PyTorch is needed for this part: pip install torch --index-url https://download.pytorch.org/whl/cpu (or the extra `bench`)"
)


def train(folder: Path, seed: int, one_step: bool, num_episodes: int, num_env_steps: int) -> None:
    """One run, unless it is there. `one_step`: the minibatches' gradients are added up, and the optimiser steps once."""
    try:
        import torch
    except ImportError:
        raise SystemExit(NEEDED) from None
    if (folder / "run.json").exists():
        return
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    policy = torch.nn.Sequential(
        torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2)
    )
    optimiser = torch.optim.AdamW(policy.parameters(), lr=RATE, fused=True)  # the same numbers, sooner
    env = gymnasium.make("CartPole-v1", max_episode_steps=500)
    env.reset(seed=seed)
    rows, returns, env_steps, start = [], [], 0, time.perf_counter()
    while len(rows) < num_episodes and env_steps < num_env_steps:
        states, actions, rewards = rollout(env, policy, generator, torch)
        with torch.no_grad():
            before = torch.log_softmax(policy(states), 1)
        learn(policy, optimiser, states, actions, rewards, one_step, torch)
        with torch.no_grad():
            after = torch.log_softmax(policy(states), 1)
        env_steps += len(rewards)
        returns.append(float(rewards.sum()))
        rows.append(
            {
                "update": len(returns), "env_steps": env_steps, "episodes": len(returns), "return_mean": returns[-1],
                "return_recent": np.mean(returns[-100:]) if len(returns) >= 100 else "",
                "entropy": float(-(before.exp() * before).sum(1).mean()),
                "action_share": float(torch.bincount(actions).max()) / len(actions),
                "kl": float((before.exp() * (before - after)).sum(1).mean()),
            }
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    summary = {
        "status": "completed", "variant": "pytorch, one step" if one_step else "pytorch", "env": "CartPole-v1",
        "seed": seed, "config_hash": f"{one_step}-{seed}", "wall_seconds": time.perf_counter() - start, "error": None,
        "return_final": np.mean(returns[-100:]), "reward_threshold": 475.0, "versions": {"torch": torch.__version__},
        "config": {"episodes_per_update": 1, "num_updates": num_episodes, "num_env_steps": num_env_steps, "seed": seed},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(summary, indent=2) + "\n")


def rollout(env, policy, generator, torch):
    """One episode, sampled. NumPy acts, with the network's own numbers: it does not learn before the episode's end."""
    obs, _ = env.reset()
    (w1, b1), (w2, b2), (w3, b3) = ([x.detach().numpy() for x in layer.parameters()] for layer in list(policy)[::2])
    states, actions, rewards, done = [], [], [], False
    while not done:
        logits = w3 @ np.maximum(w2 @ np.maximum(w1 @ obs + b1, 0) + b2, 0) + b3
        action = int(generator.random() >= 1 / (1 + np.exp(logits[1] - logits[0])))
        states.append(obs)
        obs, reward, terminated, truncated, _ = env.step(action)
        actions.append(action)
        rewards.append(reward)
        done = terminated or truncated
    return torch.from_numpy(np.array(states)), torch.tensor(actions), torch.tensor(rewards, dtype=torch.float32)


def learn(policy, optimiser, states, actions, rewards, one_step: bool, torch) -> None:
    """The post's inner loop: 4 consecutive steps at a time, the last and smaller minibatch dropped."""
    optimiser.zero_grad()
    for first in range(0, len(rewards) - MINIBATCH + 1, MINIBATCH):
        part = slice(first, first + MINIBATCH)
        log_probs = torch.log_softmax(policy(states[part]), 1)
        chosen = log_probs.gather(1, actions[part, None])  # [4, 1], times [4]: [4, 4], as published
        (-(chosen * rewards[part]).mean()).backward()
        if not one_step:
            optimiser.step()
            optimiser.zero_grad()
    if one_step and len(rewards) >= MINIBATCH:
        optimiser.step()
