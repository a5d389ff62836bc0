"""A variant in a few rows: its reliability with intervals over runs, and the share of its runs that collapsed."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.aggregates import Bootstrap, aggregate, doubts_about, interval
from analysis.align import matrix
from analysis.reliability import Reliability, span
from analysis.results import row, table


def over_runs(within: pd.DataFrame, runs: pd.DataFrame, spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """DT, SRT, LRT and the maximal drawdown of every run (reliability.within_runs) → their IQM a variant."""
    seeds = runs.set_index("run_id")["seed"]
    parts = []
    for metric, rows in within.groupby("metric", sort=False):
        scores = rows[["run_id", "variant", "env"]].assign(
            seed=rows["run_id"].map(seeds).to_numpy(), value=rows["estimate"]
        )
        found = aggregate(scores, metric, "iqm", spec)
        method = "IQM over runs; " + found["method"]
        parts.append(found.assign(metric=metric, method=method, params_json=rows["params_json"].iloc[0]))
    return pd.concat(parts, ignore_index=True) if parts else table([])


def across_runs(
    aligned: pd.DataFrame, metric: str, reliability: Reliability = Reliability(), spec: Bootstrap = Bootstrap()
) -> pd.DataFrame:
    """DR and RR averaged over the points that every run reached: a row a variant, whole runs resampled."""
    measures: dict[str, Callable[..., Any]] = {
        "DR": lambda y, axis: _spread(y, axis).mean(0),
        "RR": lambda y, axis: _lower_tail(y, reliability.alpha, axis).mean(0),
    }
    rows = []
    for (variant, env), group in aligned.groupby(["variant", "env"]):
        y = matrix(group)
        some = y[~np.isnan(y).all(1)]
        whole = some[:, ~np.isnan(some).any(0)]
        spans = [span(curve) for curve in some]
        scale = float(np.median(spans)) if spans and reliability.normalise else 1.0
        doubts = [*doubts_about(len(some), "", spec.level)]
        if len(some) < len(y):
            doubts.append(f"{len(y) - len(some)} of {len(y)} runs have no curve and are left out")
        if scale <= 0:
            doubts.append("the median of P95(y) − y₀ is not positive: nothing to normalise by")
        usable = len(some) > 1 and whole.shape[1] > 0 and scale > 0
        if not usable:
            doubts.append("fewer than 2 runs with a point in common")
        for name, measure in measures.items():
            estimate = lo = hi = np.nan
            if usable and name == "RR" and len(some) * reliability.alpha < 2:
                doubts.append(f"the worst {reliability.alpha:.0%} of {len(some)} runs is hardly more than one, and no "
                              "resample is worse than the worst run: lo is too high")  # fmt: skip
            if usable:
                estimate = measure(whole, axis=0) / scale
                lo, hi = (end / scale for end in interval([whole], measure, spec))
            rows.append(
                row(
                    "variant",
                    variant,
                    env,
                    f"{name} of {metric}",
                    estimate,
                    lo,
                    hi,
                    level=spec.level,
                    method=f"averaged over {whole.shape[1]} points; percentile bootstrap of whole curves",
                    n_runs=len(some),
                    n_boot=spec.n_boot,
                    rng_seed=spec.rng_seed,
                    params=[reliability, spec],
                    warning=doubts,
                )
            )
    return table(rows)


def _spread(y: np.ndarray, axis: int) -> np.ndarray:
    lower, upper = np.quantile(y, [0.25, 0.75], axis=axis)
    return upper - lower


def _lower_tail(y: np.ndarray, alpha: float, axis: int) -> np.ndarray:
    """CVaR_α along an axis, as reliability.cvar, without NaN."""
    tail = y <= np.quantile(y, alpha, axis=axis, keepdims=True)
    return np.where(tail, y, 0.0).sum(axis) / tail.sum(axis)


def collapse_shares(outcomes: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Share of a variant's runs that collapsed at least once, for good or not (extra column collapsed: how many).

    Of the runs that left a curve; Wilson's interval (Wilson 1927).
    """
    rows = []
    for (variant, env), group in outcomes.groupby(["variant", "env"]):
        seen = group[group["final"].notna()]
        n, k = len(seen), int((seen["collapses"] > 0).sum())
        share, lo, hi = np.nan, np.nan, np.nan
        if n:
            share, ends = k / n, stats.binomtest(k, n).proportion_ci(level, method="wilson")
            lo, hi = max(0.0, ends.low), min(1.0, ends.high)
        missing = len(group) - n
        doubts = [f"{missing} of {len(group)} runs have no curve" if missing else "", "" if n else "no curves"]
        rows.append(
            row(
                "variant",
                variant,
                env,
                "share of runs that collapsed",
                share,
                lo,
                hi,
                level=level,
                method="Wilson",
                n_runs=n,
                warning=doubts,
                collapsed=k,
            )
        )
    return table(rows, "collapsed")


def collapse_tests(shares: pd.DataFrame) -> pd.DataFrame:
    """Fisher's exact test of every pair (scope `comparison`, extra columns a, b, p); `estimate`: a's share − b's.

    The interval of the difference is Newcombe's, from the two Wilson intervals (Newcombe 1998, method 10).
    """
    rows = []
    for env, of_env in shares.groupby("env"):
        for (_, a), (_, b) in combinations(of_env.iterrows(), 2):
            estimate = lo = hi = p = np.nan
            if a["n_runs"] and b["n_runs"]:
                counts = [[x["collapsed"], x["n_runs"] - x["collapsed"]] for x in (a, b)]
                p = float(stats.fisher_exact(counts).pvalue)
                estimate = a["estimate"] - b["estimate"]
                lo = estimate - np.hypot(a["estimate"] - a["lo"], b["hi"] - b["estimate"])
                hi = estimate + np.hypot(a["hi"] - a["estimate"], b["estimate"] - b["lo"])
            rows.append(
                row(
                    "comparison",
                    f"{a['variant']} − {b['variant']}",
                    env,
                    "difference of shares of runs that collapsed",
                    estimate,
                    lo,
                    hi,
                    level=a["level"],
                    method="Newcombe; Fisher's exact test",
                    n_runs=min(a["n_runs"], b["n_runs"]),
                    warning=[a["warning"], b["warning"]],
                    a=a["variant"],
                    b=b["variant"],
                    p=p,
                )
            )
    return table(rows, "a", "b", "p")
