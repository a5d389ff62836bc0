"""How reliable training is, within a run, across runs and across rollouts (Chan et al. 2020, "Measuring the
Reliability of Reinforcement Learning Algorithms", section 3)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Reliability:
    """`alpha` of the CVaR; `window` of DT in env steps; windows with fewer than `min_points` differences do not
    count; `normalise`: divide by P95(y) − y_0."""

    alpha: float = 0.05
    window: float = 50_000
    min_points: int = 4
    normalise: bool = True


def cvar(x: np.ndarray, alpha: float, tail: str = "lower") -> float:
    """The mean of the worst share α: of x ≤ its α-quantile (`lower`), or of x ≥ its (1 − α)-quantile (`upper`)."""
    raise NotImplementedError


def differences(env_steps: np.ndarray, y: np.ndarray) -> np.ndarray:
    """d_i = (y_i − y_{i−1}) / (t_i − t_{i−1})."""
    raise NotImplementedError


def drawdown(y: np.ndarray) -> np.ndarray:
    """DD_i = max_{j≤i} y_j − y_i."""
    raise NotImplementedError


def within_runs(curves: pd.DataFrame, metric: str, spec: Reliability = Reliability()) -> pd.DataFrame:
    """DT, SRT, LRT and maximal drawdown: a results row a run each (scope `run`, extra column run_id)."""
    raise NotImplementedError


def across_runs(aligned: pd.DataFrame, metric: str, spec: Reliability = Reliability()) -> pd.DataFrame:
    """DR and RR: a results row a point each (scope `point`, extra column env_steps)."""
    raise NotImplementedError


def across_rollouts(rollouts: pd.DataFrame, spec: Reliability = Reliability()) -> pd.DataFrame:
    """DF and RF of fixed policies; `rollouts`: run_id, variant, env, value, one row an episode (scope `run`)."""
    raise NotImplementedError
