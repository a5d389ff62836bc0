"""Scores of several runs → one number with an honest interval (Agarwal et al. 2021, "Deep Reinforcement Learning at
the Edge of the Statistical Precipice")."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Bootstrap:
    """Percentile bootstrap over runs, stratified by environment."""

    level: float = 0.95
    n_boot: int = 2000
    rng_seed: int = 0


def iqm(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: a quarter of the scores is cut off at either end."""
    raise NotImplementedError


def optimality_gap(x: np.ndarray, target: float = 1.0, axis: int = -1) -> np.ndarray:
    """Mean shortfall from the target, scores above it counting as the target."""
    raise NotImplementedError


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(X > Y) + ½ P(X = Y) = U / (n_x n_y)."""
    raise NotImplementedError


def aggregate(scores: pd.DataFrame, metric: str, statistic: str = "iqm", spec: Bootstrap = Bootstrap(), *, target: float = 1.0, pool_envs: bool = False) -> pd.DataFrame:  # fmt: skip  # noqa: E501
    """Scores → a results row a (variant, env), or a variant over all environments (scope `variant`)."""
    raise NotImplementedError


def curve_bands(aligned: pd.DataFrame, metric: str, statistic: str = "iqm", spec: Bootstrap = Bootstrap()) -> pd.DataFrame:  # fmt: skip  # noqa: E501
    """Aligned curves → a results row a point (scope `point`, extra column env_steps); whole curves resampled."""
    raise NotImplementedError


def profile(scores: pd.DataFrame, metric: str, taus: Sequence[float], spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """Performance profile P(score > τ): a results row a τ (scope `point`, extra column tau)."""
    raise NotImplementedError


def improvements(scores: pd.DataFrame, metric: str, spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """Probability of improvement of every ordered pair of variants (scope `comparison`, extra columns a, b)."""
    raise NotImplementedError


def tolerance(scores: pd.DataFrame, metric: str, share: float = 0.9, level: float = 0.95) -> pd.DataFrame:
    """Where the middle `share` of runs lies, with the confidence that was achieved (scope `variant`)."""
    raise NotImplementedError
