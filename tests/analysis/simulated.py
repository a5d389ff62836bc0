"""A sweep that looks like pgx's: curves that climb, wobble and now and then collapse, with every column."""

import json
from pathlib import Path
from typing import Any

import numpy as np

HEADER = (
    "update,env_steps,episodes,return_mean,return_std,return_min,return_max,return_recent,length_mean,policy_loss,"
    "value_loss,entropy,action_share,grad_norm,explained_variance,kl,grad_variance,grad_snr"
)
VARIANTS = {"vanilla": (0.5, 0.3), "reward_to_go": (0.8, 0.25), "baseline": (1.2, 0.05)}
"""Variant → how fast it learns, relative to the budget, and the share of seeds that collapse for good."""


def sweep(
    folder: Path,
    variants: dict[str, tuple[float, float]] = VARIANTS,
    seeds: range = range(10),
    *,
    points: int = 60,
    budget: int = 300_000,
    sweeper: str = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    **summary: Any,
) -> Path:
    """One run folder a variant and seed; the same arguments give the same bytes."""
    for variant, (speed, collapse) in variants.items():
        for seed in seeds:
            run(folder / f"{variant}_{seed}", variant, seed, speed, collapse, points, budget, sweeper, **summary)
    return folder


def run(
    folder: Path, variant: str, seed: int, speed: float, collapse: float, points: int, budget: int,
    sweeper: str = "", **summary: Any,
) -> Path:  # fmt: skip
    rng = np.random.default_rng([seed, *variant.encode()])
    t = np.linspace(budget / points, budget, points).round().astype(int)
    x = t / budget
    middle = rng.lognormal(np.log(0.45 / speed), 0.3)
    y = 20 + 480 / (1 + np.exp(-(x - middle) * 12 * speed))
    falls = rng.random() < collapse
    if falls:
        y = np.where(x > min(middle + 0.3, 0.85), 30, y)
    noise = rng.normal(0, 0.08, points) * y
    mean = np.clip(y + noise, 8, 500)
    recent = np.convolve(mean, np.ones(10) / 10)[:points]
    norm = 5 * rng.lognormal(0, 0.3, points) * (1 + 3 * (y < 60))
    columns = {
        "update": np.arange(1, points + 1), "env_steps": t, "episodes": 10 * np.arange(1, points + 1),
        "return_mean": mean, "return_std": 0.2 * mean, "return_min": 0.6 * mean,
        "return_max": np.minimum(mean * 1.3, 500),
        "return_recent": np.where(np.arange(points) < 9, np.nan, recent), "length_mean": mean,
        "policy_loss": rng.normal(size=points), "value_loss": 100 * rng.lognormal(0, 0.3, points),
        "entropy": 0.69 - 0.4 * x - 0.25 * (x > 0.85) * falls,
        "action_share": 0.5 + 0.5 * (x > 0.85) * falls, "grad_norm": norm,
        "explained_variance": np.clip(0.8 * x + rng.normal(0, 0.1, points), -1, 1),
        "kl": 1e-3 * rng.lognormal(0, 0.8, points),
        "grad_variance": np.where(np.arange(points) % 5 == 4, norm**2 * 20 / speed, np.nan),
        "grad_snr": np.where(np.arange(points) % 5 == 4, speed * rng.normal(0.05, 0.02, points), np.nan),
    }  # fmt: skip
    if variant != "baseline":
        columns |= {"value_loss": np.full(points, np.nan), "explained_variance": np.full(points, np.nan)}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    body = "\n".join(",".join("" if x != x else f"{x:.6g}" if isinstance(x, float) else str(x) for x in r) for r in rows)
    solved = np.flatnonzero(recent[9:] >= 475)
    about = {
        "status": "completed", "variant": variant, "env": "CartPole-v1", "seed": seed, "executor": "single",
        "config_hash": f"{variant}-{seed}", "started": "2026-01-01T00:00:00+00:00", "wall_seconds": 3.0, "error": None,
        "return_final": float(recent[-1]), "git_commit": "0123456789abcdef", "git_dirty": False, "device": "cpu",
        "reward_threshold": 475.0, "solved_at_env_steps": int(t[9 + solved[0]]) if len(solved) else None,
        "versions": {"jax": "0.10.2", "numpy": "2.4.6"},
    } | summary  # fmt: skip
    same = {"variant": variant, "seed": seed, "num_env_steps": budget, "gamma": 1.0}
    about["config"] = same | {"env": {"id": about["env"]}} | about.get("config", {})
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(about))
    (folder / "metrics.csv").write_text(f"{HEADER}\n{body}\n")
    if sweeper:
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "hydra.yaml").write_text(f"hydra:\n  sweeper:\n    _target_: {sweeper}\n  job: {{}}\n")
    return folder
