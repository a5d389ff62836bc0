"""How many env steps until the threshold: runs that never got there are censored, not left out."""

import pandas as pd

from analysis.aggregates import Bootstrap


def times_to_threshold(curves: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Curves of `return_recent` → run_id, variant, env, seed, time (env steps), reached."""
    raise NotImplementedError


def kaplan_meier(times: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Share of runs still below the threshold: variant, env, env_steps, survival, lo, hi, at_risk, events, censored."""
    raise NotImplementedError


def median_times(times: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Median time to the threshold with the interval from the Kaplan–Meier band (scope `variant`)."""
    raise NotImplementedError


def restricted_means(times: pd.DataFrame, horizon: float, spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """Mean time to the threshold or to the horizon, whichever is first (scope `variant`)."""
    raise NotImplementedError


def log_rank(times: pd.DataFrame) -> pd.DataFrame:
    """Log-rank test of every pair of variants (scope `comparison`, extra columns a, b, p)."""
    raise NotImplementedError
