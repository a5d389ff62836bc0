"""What happens during a run: drawdown episodes, collapses, dead policies; and what became of every run."""

from dataclasses import dataclass

import pandas as pd

COLUMNS = ("run_id", "kind", "start", "peak", "trough", "end", "depth", "recovered")
"""Steps are env steps: `start` the first below the peak, `end` the recovery, or the last step if there is none.
After them: relative_depth, duration, peak_value, trough_value."""


@dataclass(frozen=True)
class Collapse:
    """When a fall counts as a collapse; shares are of the way from the run's base up to the threshold or the peak."""

    level: float = 0.8
    fall: float = 0.5
    points: int = 3
    back: float = 0.9
    smoothing: int = 5


def drawdowns(curves: pd.DataFrame) -> pd.DataFrame:
    """Every maximal stretch with DD > 0 (kind `drawdown`)."""
    raise NotImplementedError


def collapses(curves: pd.DataFrame, threshold: float, spec: Collapse = Collapse()) -> pd.DataFrame:
    """Collapses (kind `collapse`, or `catastrophic` if never back)."""
    raise NotImplementedError


def dead(metrics: pd.DataFrame, points: int = 10, tiny: float = 1e-6) -> pd.DataFrame:
    """Runs whose policy has stopped moving (kind `dead`), from `start` to the end."""
    raise NotImplementedError


def outcomes(runs: pd.DataFrame, curves: pd.DataFrame, spec: Collapse = Collapse()) -> pd.DataFrame:
    """One row a run: what became of it."""
    raise NotImplementedError
