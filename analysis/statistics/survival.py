"""How many env steps until the threshold? Runs that never got there are censored, not left out: an average over those
that did says nothing about how fast a variant learns."""

import warnings
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.align import runs_of
from analysis.results import row, table
from analysis.statistics.aggregates import Bootstrap, doubts_about, interval

TIMES = ("run_id", "variant", "env", "seed", "time", "reached", "cut_short")
NEVER = ("completed", "diverged", "failed")
"""Statuses of runs that will not get there any more: it is followed to any horizon."""


def times_to_threshold(curves: pd.DataFrame, runs: pd.DataFrame, threshold: float | None = None) -> pd.DataFrame:
    """One row a run of `runs` (TIMES): the first env step where its curve is ≥ the threshold, or where it ended.

    `curves` are those of `return_recent`, the trailing mean over 100 episodes; `threshold` is by default the
    environment's own. `reached` False: right-censored at `time`; `cut_short`: and that was before its budget was spent,
    which need not be independent of how it was doing. See `at_horizon` before runs are compared.
    """
    by_run = {run["run_id"].iloc[0]: run for run in runs_of(curves)}
    rows = []
    for run in runs.itertuples():
        limit = run.reward_threshold if threshold is None else threshold
        curve = by_run.get(run.run_id)
        above = curve.loc[curve["value"] >= limit, "env_steps"] if curve is not None else []
        reached = len(above) > 0
        rows.append(
            {
                "run_id": run.run_id,
                "variant": run.variant,
                "env": run.env,
                "seed": run.seed,
                "time": float(above.iloc[0] if reached else run.env_steps),
                "reached": reached,
                "cut_short": not reached and run.status != "completed",
            }
        )
    types = {"time": "float64", "reached": "bool", "cut_short": "bool", "seed": runs["seed"].dtype}
    return pd.DataFrame(rows, columns=list(TIMES)).astype(types)


def common_horizon(times: pd.DataFrame, runs: pd.DataFrame) -> float:
    """Env steps of one environment that all of its runs were followed for: the completed ones or, if there are none, all
    that have begun. A run that got there was followed to its budget, even if it stopped there because it had."""
    status = times["run_id"].map(runs.set_index("run_id")["status"])
    ends, budget = (times["run_id"].map(runs.set_index("run_id")[name]) for name in ("env_steps", "budget"))
    followed = ends.where(~times["reached"], np.fmax(ends, budget)).astype(float)
    for those in (status == "completed", status.isin(["running", "interrupted"]), followed > 0):
        if len(some := followed[those & (followed > 0)]):
            return float(some.min())
    return np.nan


def at_horizon(times: pd.DataFrame, runs: pd.DataFrame, horizon: float) -> pd.DataFrame:
    """The same times, cut at a horizon that all runs have: a run that got there later did not get there within it.

    A run that diverged or failed stays in the comparison, as one that never gets there: it is followed to the horizon.
    `cut_short`: it ended before the horizon for a reason that says nothing about what it would have done.
    """
    reached = times["reached"] & (times["time"] <= horizon)
    never = ~times["reached"] & times["run_id"].map(runs.set_index("run_id")["status"]).isin(NEVER)
    time = times["time"].where(~never, horizon).clip(upper=horizon)
    return times.assign(time=time, reached=reached, cut_short=~reached & (time < horizon))


def kaplan_meier(times: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Share of runs still below the threshold after so many env steps, with a pointwise log-log interval.

    Columns: variant, env, env_steps, survival, lo, hi, at_risk (just before), events, censored; a row for 0 and for
    every time that occurs. lo and hi are NaN once no run is left.
    """
    parts = []
    for (variant, env), group in times.groupby(["variant", "env"]):
        time, reached = group["time"].to_numpy(), group["reached"].to_numpy()
        at = np.union1d(0.0, time)
        survival, lo, hi = _survival(time, reached, at, level)
        parts.append(
            pd.DataFrame(
                {
                    "variant": variant,
                    "env": env,
                    "env_steps": at,
                    "survival": survival,
                    "lo": lo,
                    "hi": hi,
                    "at_risk": (time[:, None] >= at).sum(0),
                    "events": ((time[:, None] == at) & reached[:, None]).sum(0),
                    "censored": ((time[:, None] == at) & ~reached[:, None]).sum(0),
                }
            )
        )
    columns = ["variant", "env", "env_steps", "survival", "lo", "hi", "at_risk", "events", "censored"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _censored(time: np.ndarray, reached: np.ndarray) -> stats.CensoredData:
    return stats.CensoredData.right_censored(time, ~reached)


def _survival(time: np.ndarray, reached: np.ndarray, at: np.ndarray, level: float) -> tuple[np.ndarray, ...]:
    """S(at) and its log-log interval (Kalbfleisch & Prentice 2002, section 1.4); 1 with certainty before any event."""
    survival = stats.ecdf(_censored(time, reached)).sf
    with warnings.catch_warnings(), np.errstate(all="ignore"):  # the log-log formula has no value at 0 and 1
        warnings.simplefilter("ignore", RuntimeWarning)
        band = survival.confidence_interval(level, method="log-log")
    s = survival.evaluate(at)
    lo, hi = (np.where(s == 1, 1.0, end.evaluate(at)) for end in (band.low, band.high))
    gone = s == 0
    return s, np.where(gone, np.nan, lo), np.where(gone, np.nan, hi)


def median_times(times: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Median env steps to the threshold (scope `variant`; extra column reached, the number of runs that did).

    It is the first time where S ≤ ½, NaN if S stays above. The interval is where the band of S crosses ½ (Brookmeyer &
    Crowley 1982); an end that it does not cross is NaN.
    """
    rows = []
    for (variant, env), group in times.groupby(["variant", "env"]):
        time, reached = group["time"].to_numpy(), group["reached"].to_numpy()
        at = np.unique(time)
        s, lo, hi = _survival(time, reached, at, level)
        crossing = [_first(at, end <= 0.5 + 1e-12) for end in (s, np.where(s == 0, 0.0, lo), hi)]
        doubts = [_cut_short(group)]
        if np.isnan(crossing[2]):
            doubts.append(f"{int(reached.sum())} of {len(group)} runs reached the threshold: too few for an upper end")
        rows.append(
            row(
                "variant",
                variant,
                env,
                "median env steps to threshold",
                *crossing,
                level=level,
                n_runs=len(group),
                method="Kaplan–Meier, log-log band",
                params={"level": level},
                warning=doubts,
                reached=int(reached.sum()),
            )
        )
    return table(rows, "reached")


def _first(at: np.ndarray, true: np.ndarray) -> float:
    return float(at[np.argmax(true)]) if true.any() else np.nan


def _cut_short(times: pd.DataFrame) -> str:
    n = int(times["cut_short"].sum())
    return f"{n} of {len(times)} runs ended before their budget and count as censored there" if n else ""


def restricted_mean(time: np.ndarray, reached: np.ndarray, horizon: float, axis: int = -1) -> np.ndarray:
    """∫₀^horizon S(t) dt, in env steps: the mean of min(time, horizon), censoring allowed for (Irwin 1949).

    After the last time S stays what it is. Vectorised over the other axes; equals scipy's Kaplan–Meier.
    """
    time, reached = np.moveaxis(np.asarray(time, float), axis, -1), np.moveaxis(np.asarray(reached, float), axis, -1)
    order = np.lexsort((1 - reached, time), axis=-1)  # of equal times, who got there comes before who was censored
    time, reached = np.take_along_axis(time, order, -1), np.take_along_axis(reached, order, -1)
    n = time.shape[-1]
    survival = np.cumprod(1 - reached / (n - np.arange(n)), axis=-1)
    edge = np.zeros_like(time[..., :1])
    width = np.diff(np.minimum(np.concatenate([edge, time, edge + np.inf], -1), horizon), axis=-1)
    return (width * np.concatenate([edge + 1, survival], -1)).sum(-1)


def restricted_means(times: pd.DataFrame, horizon: float, spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """Mean env steps to the threshold or to the horizon, whichever is first (scope `variant`).

    NaN with a warning where the longest run was censored before the horizon: then S is not known up to it.
    """
    rows = []
    for (variant, env), group in times.groupby(["variant", "env"]):
        time, reached = group["time"].to_numpy(), group["reached"].to_numpy(float)
        statistic = lambda time, reached, axis: restricted_mean(time, reached, horizon, axis)
        doubts = [_cut_short(group), *doubts_about(len(group), "", spec.level)]
        if _known_until(group, horizon):
            estimate = restricted_mean(time, reached, horizon)
            lo, hi = interval([time, reached], statistic, spec, paired=True)
        else:
            estimate = lo = hi = np.nan
            doubts.append("no run was followed up to the horizon")
        rows.append(
            row(
                "variant",
                variant,
                env,
                "restricted mean env steps to threshold",
                estimate,
                lo,
                hi,
                level=spec.level,
                method="area under Kaplan–Meier; percentile bootstrap over runs",
                n_runs=len(group),
                n_boot=spec.n_boot,
                rng_seed=spec.rng_seed,
                params=[spec, {"horizon": horizon}],
                warning=doubts,
            )
        )
    return table(rows)


def _known_until(times: pd.DataFrame, horizon: float) -> bool:
    """Whether S is known until then: some run was followed up to there, or the last of them got there."""
    last = times["time"] == times["time"].max()
    return bool(times["time"].max() >= horizon or times.loc[last, "reached"].all())


def restricted_ratios(times: pd.DataFrame, horizon: float, spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """a's restricted mean divided by b's, for every pair of variants in every env (scope `comparison`; extra columns a,
    b). Below 1: a is sooner on average."""
    mean_of = lambda sample, axis: restricted_mean(*np.moveaxis(sample, axis, -1), horizon)
    ratio = lambda x, y, axis: mean_of(x, axis) / mean_of(y, axis)
    rows = []
    for env, of_env in times.groupby("env"):
        groups = dict(list(of_env.groupby("variant")))
        for a, b in combinations(groups, 2):
            doubts = [_cut_short(groups[a]), _cut_short(groups[b])]
            n = min(len(groups[a]), len(groups[b]))
            estimate = lo = hi = np.nan
            if _known_until(groups[a], horizon) and _known_until(groups[b], horizon):
                samples = [groups[name][["time", "reached"]].to_numpy(float) for name in (a, b)]
                estimate, (lo, hi) = ratio(*samples, axis=0), interval(samples, ratio, spec)
            else:
                doubts.append("no run was followed up to the horizon")
            rows.append(
                row(
                    "comparison",
                    f"{a} / {b}",
                    env,
                    "ratio of restricted mean env steps to threshold",
                    estimate,
                    lo,
                    hi,
                    level=spec.level,
                    method="percentile bootstrap over runs of each variant",
                    n_runs=n,
                    n_boot=spec.n_boot,
                    rng_seed=spec.rng_seed,
                    params=[spec, {"horizon": horizon}],
                    warning=[*doubts, *doubts_about(n, "", spec.level)],
                    a=a,
                    b=b,
                )
            )
    return table(rows, "a", "b")


def log_rank(times: pd.DataFrame) -> pd.DataFrame:
    """Log-rank test of every pair of variants in every env (scope `comparison`, extra columns a, b, p).

    `estimate` is the statistic Z: positive where a gets there sooner (Mantel 1966).
    """
    rows = []
    for env, of_env in times.groupby("env"):
        groups = dict(list(of_env.groupby("variant")))
        for a, b in combinations(groups, 2):
            x, y = groups[a], groups[b]
            doubts = [_cut_short(x), _cut_short(y)]
            z = p = np.nan
            if x["reached"].any() or y["reached"].any():
                with np.errstate(all="ignore"):
                    test = stats.logrank(*(_censored(g["time"].to_numpy(), g["reached"].to_numpy()) for g in (x, y)))
                z, p = float(test.statistic), float(test.pvalue)
            else:
                doubts.append("no run reached the threshold")
            rows.append(
                row(
                    "comparison",
                    f"{a} − {b}",
                    env,
                    "log-rank Z of time to threshold",
                    z,
                    n_runs=min(len(x), len(y)),
                    method="log-rank, two-sided",
                    warning=doubts,
                    a=a,
                    b=b,
                    p=p,
                )
            )
    return table(rows, "a", "b", "p")
