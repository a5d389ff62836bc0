"""Curves of different runs on one grid of env steps, and one number out of a curve. Nothing is ever extrapolated."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Alignment:
    """`policy` at a grid point t: `previous`, the last value at or before t; `linear`, between the two around it;
    `exact`, only a value at t itself. Outside of a run's own range of steps: NaN."""

    policy: Literal["previous", "linear", "exact"] = "previous"
    points: int = 100


def grid(curves: pd.DataFrame, points: int = 100, stop: float | None = None) -> np.ndarray:
    """Evenly spaced env steps, from where every run has started to `stop` (default: where the first run ends)."""
    raise NotImplementedError


def align(curves: pd.DataFrame, steps: np.ndarray, spec: Alignment = Alignment()) -> pd.DataFrame:
    """Curves → curves with a row for every (run, step of the grid); NaN where a run has no value."""
    raise NotImplementedError


def smooth(curves: pd.DataFrame, points: int) -> pd.DataFrame:
    """Each run's trailing mean over that many of its points; NaN until there are as many."""
    raise NotImplementedError


def score_at(curves: pd.DataFrame, env_steps: float, policy: str = "previous") -> pd.DataFrame:
    """Curves → scores: the value at one number of env steps; NaN where the run did not get there."""
    raise NotImplementedError


def area(curves: pd.DataFrame, until: float) -> pd.DataFrame:
    """Curves → scores: the mean of the curve over its env steps up to `until` (trapezium rule)."""
    raise NotImplementedError
