"""How reliable training is, within a run, across runs and across rollouts (Chan et al. 2020, "Measuring the
Reliability of Reinforcement Learning Algorithms", section 3). Greater is worse for DT, LRT, DR and DF; SRT, RR and
RF are risks, whose lower values are worse.

Their code's default configuration takes the lower tail of the drawdown in LRT, which is 0 even for a run that
collapses and never recovers; the worst drawdowns are the large ones, so here it is the upper tail.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.align import matrix, runs_of
from analysis.results import row, table
from analysis.statistics.aggregates import Bootstrap, aggregate, doubts_about, interval


@dataclass(frozen=True)
class Reliability:
    """`alpha` of the CVaR; `window` of DT in env steps; windows with fewer than `min_points` differences do not
    count; `normalise`: divide by P95(y) − y_0, the range that a run covered (its median over runs for DR and RR).

    Chan et al.'s code divides each run by its own range before the RR of all. Here it is the median: a run that never
    rose has no range to be divided by, and is the very one that RR is about."""

    alpha: float = 0.05
    window: float = 50_000
    min_points: int = 4
    normalise: bool = True


def cvar(x: np.ndarray, alpha: float, tail: str = "lower") -> float:
    """The mean of the worst share α: of x ≤ its α-quantile (`lower`), or of x ≥ its (1 − α)-quantile (`upper`).

    Quantiles interpolate linearly; the tail includes them; NaN is left out (Chan et al. 2020, appendix B).
    """
    x = np.asarray(x, float)
    x = x[~np.isnan(x)]
    if not len(x):
        return np.nan
    if tail == "upper":
        return -cvar(-x, alpha)
    return float(x[x <= np.quantile(x, alpha)].mean())


def iqr(x: np.ndarray, axis: int | None = None) -> Any:
    """Interquartile range, without the NaN."""
    lower, upper = np.nanquantile(x, [0.25, 0.75], axis=axis)
    return upper - lower


def differences(env_steps: np.ndarray, y: np.ndarray) -> np.ndarray:
    """d_i = (y_i − y_{i−1}) / (t_i − t_{i−1}), in units of y an env step: differencing is the detrending."""
    return np.diff(y) / np.diff(env_steps)


def drawdown(y: np.ndarray) -> np.ndarray:
    """DD_i = max_{j≤i} y_j − y_i, in units of y; NaN where y is, and it does not touch the maximum."""
    return np.fmax.accumulate(y) - y


def span(y: np.ndarray) -> float:
    """The normaliser P95(y) − y_0, the range a run covered; y_0 is its first value that is not NaN."""
    y = y[~np.isnan(y)]
    return float(np.quantile(y, 0.95) - y[0]) if len(y) else np.nan


def dispersion_across_time(env_steps: np.ndarray, y: np.ndarray, window: float, min_points: int) -> float:
    """DT: IQR of d in the trailing window (t − window, t], averaged over all t whose window lies within the run.

    NaN if no window has `min_points` differences.
    """
    known = ~np.isnan(y)
    if known.sum() < 2:
        return np.nan
    t, start = env_steps[known][1:], env_steps[known][0]
    clock = pd.to_timedelta(t.astype(np.int64), unit="ns")  # what pandas needs for a window that is no number of rows
    d = pd.Series(differences(env_steps[known], y[known]), clock)
    windows = d.rolling(pd.Timedelta(int(window), "ns"), min_periods=min_points)  # (t − window, t]
    spread = (windows.quantile(0.75) - windows.quantile(0.25)).to_numpy()
    whole = spread[(t - window >= start) & ~np.isnan(spread)]
    return float(whole.mean()) if len(whole) else np.nan


def within_runs(curves: pd.DataFrame, metric: str, spec: Reliability = Reliability()) -> pd.DataFrame:
    """DT, SRT, LRT and the maximal drawdown: a results row a run each (scope `run`, extra column run_id).

    DT and SRT are per env step. With `normalise`, a run that never rose above its first value has NaN.
    """
    rows = []
    for run in runs_of(curves):
        t, y = run["env_steps"].to_numpy(float), run["value"].to_numpy(float)
        known = ~np.isnan(y)
        t, y = t[known], y[known]
        loss = drawdown(y)
        measured = {
            "DT": dispersion_across_time(t, y, spec.window, spec.min_points),
            "SRT": cvar(differences(t, y), spec.alpha),
            "LRT": cvar(loss, spec.alpha, "upper"),
            "max drawdown": loss.max() if len(loss) else np.nan,
        }
        scale, warning = _scale(span(y), spec)
        first = run.iloc[0]
        for name, x in measured.items():
            doubts = [warning]
            if np.isnan(x):
                few = f"no window of {spec.window:,.0f} env steps within the run has {spec.min_points} differences"
                doubts.append(few if name == "DT" and len(y) > 1 else "too few points")
            method = f"{name} within a run{', divided by P95(y) − y₀' if spec.normalise else ''}"
            rows.append(
                row(
                    "run",
                    first["variant"],
                    first["env"],
                    f"{name} of {metric}",
                    x / scale,
                    method=method,
                    n_runs=1,
                    params=spec,
                    warning=doubts,
                    run_id=first["run_id"],
                )
            )
    return table(rows, "run_id")


def _scale(span: float, spec: Reliability) -> tuple[float, str]:
    """The divisor, and a warning if that is NaN."""
    if not spec.normalise:
        return 1.0, ""
    return (span, "") if span > 0 else (np.nan, "P95(y) − y₀ is not positive: nothing to normalise by")


def over_runs(within: pd.DataFrame, runs: pd.DataFrame, spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """DT, SRT, LRT and the maximal drawdown of every run (reliability.within_runs) → their IQM a variant."""
    seeds = runs.set_index("run_id")["seed"]
    parts = []
    for metric, rows in within.groupby("metric", sort=False):
        scores = rows[["run_id", "variant", "env"]].assign(seed=rows["run_id"].map(seeds).to_numpy(), value=rows["estimate"])
        results = aggregate(scores, metric, "iqm", spec)
        method = "IQM over runs; " + results["method"]
        parts.append(results.assign(metric=metric, method=method, params_json=rows["params_json"].iloc[0]))
    return pd.concat(parts, ignore_index=True) if parts else table([])


def across_runs(
    aligned: pd.DataFrame,
    curves: pd.DataFrame,
    metric: str,
    bases: Mapping[str, float],
    spec: Reliability = Reliability(),
    bootstrap: Bootstrap = Bootstrap(),
) -> pd.DataFrame:
    """DR and RR averaged over the points that every run reached: a row a variant, whole runs resampled.

    `aligned` are the `curves` on one grid; the range that a run covered is that of its whole curve. RR is a level of
    the metric, so with `normalise` it is counted from `bases`, what an untrained policy returns in each environment.
    They are not detrended (Chan et al. 2020, section 3).
    """
    spans = {run["run_id"].iloc[0]: span(run["value"].to_numpy(float)) for run in runs_of(curves)}
    rows = []
    for (variant, env), group in aligned.groupby(["variant", "env"]):
        steps, y = np.unique(group["env_steps"]), matrix(group)
        there = ~np.isnan(y).all(1)
        some = y[there]
        common = ~np.isnan(some).any(0)
        whole = some[:, common]
        scale, base = 1.0, 0.0
        doubts = [*doubts_about(len(some), "", bootstrap.level)]
        if len(some) < len(y):
            doubts.append(f"{len(y) - len(some)} of {len(y)} runs have no curve and are left out")
        if len(some) < 2 or not common.any():
            doubts.append("fewer than 2 runs with a point in common")
        elif common.sum() < len(steps):
            doubts.append(f"up to {steps[common][-1]:,} env steps only: not all runs go on")
        if spec.normalise and len(some):
            base = bases[env]
            scale, warning = _scale(float(np.median([spans[name] for name in group["run_id"].unique()[there]])), spec)
            doubts.append(warning and f"the median of {warning}")
        measures: dict[str, Callable[..., Any]] = {
            "DR": lambda y, axis, scale=scale: _spread(y, axis).mean(0) / scale,
            "RR": lambda y, axis, scale=scale, base=base: (_lower_tail(y, spec.alpha, axis).mean(0) - base) / scale,
        }
        usable = len(some) > 1 and whole.shape[1] > 0
        for name, measure in measures.items():
            estimate = lo = hi = np.nan
            if name == "RR" and usable and len(some) * spec.alpha < 2:
                doubts.append(f"the worst {spec.alpha:.0%} of {len(some)} runs is hardly more than one, and no "
                              "resample is worse than the worst run: lo is too high")  # fmt: skip
            if name == "RR" and np.isnan(base):
                doubts.append("what an untrained policy returns is not known")
            if usable:
                estimate = measure(whole, axis=0)
            if not np.isnan(estimate):
                lo, hi = interval([whole], measure, bootstrap)
            over = f"averaged over {whole.shape[1]} points; percentile bootstrap of whole curves"
            rows.append(
                row("variant", variant, env, f"{name} of {metric}", estimate, lo, hi, level=bootstrap.level,
                    method=over, n_runs=len(some), n_boot=bootstrap.n_boot, rng_seed=bootstrap.rng_seed,
                    params=[spec, bootstrap, {"base": base, "range": scale}], warning=doubts)
            )  # fmt: skip
    return table(rows)


def _spread(y: np.ndarray, axis: int) -> np.ndarray:
    lower, upper = np.quantile(y, [0.25, 0.75], axis=axis)
    return upper - lower


def _lower_tail(y: np.ndarray, alpha: float, axis: int) -> np.ndarray:
    """CVaR_α along an axis, as reliability.cvar, without NaN."""
    tail = y <= np.quantile(y, alpha, axis=axis, keepdims=True)
    return np.where(tail, y, 0.0).sum(axis) / tail.sum(axis)


def across_rollouts(rollouts: pd.DataFrame, metric: str, spec: Reliability = Reliability()) -> pd.DataFrame:
    """DF and RF of fixed policies: a results row a policy each (scope `run`, extra column run_id).

    `rollouts` has run_id, variant, env, value: one row an episode. Divided by the median over the episodes; NaN with a
    warning where that is not positive.
    """
    measures: dict[str, Callable[[np.ndarray], float]] = {"DF": iqr, "RF": lambda x: cvar(x, spec.alpha)}
    rows = []
    for (run_id, variant, env), group in rollouts.groupby(["run_id", "variant", "env"], sort=False):
        x = group["value"].dropna().to_numpy(float)
        median = float(np.median(x)) if len(x) else np.nan
        scale = (median if median > 0 else np.nan) if spec.normalise else 1.0
        doubts = ["no episodes" if not len(x) else "the median is not positive" if np.isnan(scale) else ""]
        for name, measure in measures.items():
            rows.append(
                row(
                    "run",
                    variant,
                    env,
                    f"{name} of {metric}",
                    measure(x) / scale if len(x) else np.nan,
                    n_runs=1,
                    method=f"{name} over {len(x)} episodes{', divided by their median' if spec.normalise else ''}",
                    params=spec,
                    warning=doubts,
                    run_id=run_id,
                )
            )
    return table(rows, "run_id")
