"""Scores of several runs → one number with an honest interval (Agarwal et al. 2021, "Deep Reinforcement Learning at
the Edge of the Statistical Precipice", sections 4.1–4.3). The unit of resampling is the run, never the episode.

How often a nominal 95 % interval holds the truth (2,000 simulated sweeps each, by tests/analysis/test_coverage.py):

    distribution  statistic  n = 3  n = 5  n = 10  n = 30
    normal        iqm         .74    .90     .93     .95
    skewed        iqm         .74    .90     .93     .95
    bimodal       iqm         .75    .88     .93     .94
    normal        mean        .74    .85     .89     .94
    skewed        mean        .63    .72     .81     .87
    bimodal       mean        .48    .65     .87     .93

The interval of P(improvement) is no bootstrap (see ranks.py), and rather too wide than too narrow:

    two groups                          P    n = 3  n = 5  n = 10  n = 20  n = 30
    normal, one or two σ apart       .76, .92  .99    .98     .97     .96     .96
    normal, one five times as wide     .50    1       .96     .97     .96     .97
    one of ten runs against half fails .70    .99     .99     .97     .96     .96
    times, a fifth and half censored   .72    1       .99     .98     .96     .97
    scores capped at 500               .66    1       1       .98     .97     .96
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.align import matrix
from analysis.load import InputError
from analysis.results import row, table
from analysis.statistics.ranks import PERMUTATIONS, improvement_along, improvement_interval, improvement_p


@dataclass(frozen=True)
class Bootstrap:
    """Percentile bootstrap over runs."""

    level: float = 0.95
    n_boot: int = 2000
    rng_seed: int = 0


def mean(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(x, axis=axis)


def median(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.median(x, axis=axis)


def iqm(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """Interquartile mean: ⌊n/4⌋ of the scores are cut off at either end, so that with fewer than 4 none is."""
    return stats.trim_mean(x, 0.25, axis=axis)


STATISTICS: dict[str, Callable[..., np.ndarray]] = {"iqm": iqm, "mean": mean, "median": median}


def statistic_named(name: str) -> Callable[..., np.ndarray]:
    if name not in STATISTICS:
        raise InputError(f"there is no statistic '{name}'; there are: {', '.join(STATISTICS)}")
    return STATISTICS[name]


def mean_improvement(*samples: np.ndarray, axis: int) -> np.ndarray:
    """The mean over environments of P, of samples x, y, x, y, …"""
    return np.mean([improvement_along(*pair, axis) for pair in zip(samples[::2], samples[1::2], strict=True)], axis=0)


# Intervals


def proportion(k: int, n: int, level: float = 0.95) -> tuple[float, float, float]:
    """k / n with Wilson's interval (Wilson 1927); NaN of nothing."""
    if not n:
        return np.nan, np.nan, np.nan
    ends = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    return k / n, max(0.0, ends.low), min(1.0, ends.high)


def interval(
    samples: Sequence[np.ndarray], statistic: Callable[..., np.ndarray], spec: Bootstrap, *, paired: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of `statistic(*samples, axis=…)`; runs are along axis 0 of every sample.

    Several samples are resampled each by itself (strata), with `paired` together. A sample of 2 dimensions
    [runs, points] is resampled by whole curves. NaN where a sample has fewer than 3 runs.
    """
    shape = np.shape(statistic(*samples, axis=0))
    if min(len(sample) for sample in samples) < 3:
        return np.full(shape, np.nan), np.full(shape, np.nan)
    elements = sum(np.asarray(sample).size for sample in samples)
    if len(samples) > 1:  # a comparison of all pairs is n_x n_y numbers a resample
        elements += int(np.prod([float(len(sample)) for sample in samples[:2]]))
    with np.errstate(invalid="ignore"):
        done = stats.bootstrap(
            samples,
            statistic,
            n_resamples=spec.n_boot,
            batch=max(1, min(spec.n_boot, 8_000_000 // elements)),  # bounds the memory, and does not change a bit
            confidence_level=spec.level,
            method="percentile",
            paired=paired,
            vectorized=True,
            axis=0,
            rng=np.random.default_rng(spec.rng_seed),
        )
    return done.confidence_interval.low, done.confidence_interval.high


def doubts_about(n: int, statistic: str = "", level: float = 0.95) -> list[str]:
    """The warnings about an interval over n runs; the figures are at the top of this file."""
    doubts = []
    if statistic == "iqm" and n < 4:
        doubts.append(f"with {n} runs nothing is trimmed: the IQM is the mean")
    if n < 3:
        doubts.append("fewer than 3 runs: no interval")
    elif n < 10:
        doubts.append(f"{n} runs: a nominal {level:.0%} interval covers less than that (it takes 10)")
    return doubts


def _finite(scores: pd.DataFrame) -> tuple[np.ndarray, str]:
    """The scores there are, and a warning about those that are not."""
    x = scores["value"].to_numpy(float)
    missing = int(np.isnan(x).sum())
    return x[~np.isnan(x)], f"{missing} of {len(x)} runs have no score and are left out" if missing else ""


def aggregate(scores: pd.DataFrame, metric: str, statistic: str = "iqm", spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """Scores → a results row a (variant, env) (scope `variant`). `statistic`: iqm, mean or median."""
    score = statistic_named(statistic)
    rows = []
    for (variant, env), group in scores.groupby(["variant", "env"]):
        x, missing = _finite(group)
        estimate, (lo, hi), doubts = np.nan, (np.nan, np.nan), [missing]
        if len(x):
            estimate, (lo, hi) = score(x, axis=0), interval([x], score, spec)
            doubts += doubts_about(len(x), statistic, spec.level)
        else:
            doubts.append("no scores")
        rows.append(row("variant", variant, env, f"{statistic} of {metric}", estimate, lo, hi, level=spec.level,
                        method="percentile bootstrap over runs", n_runs=len(x), n_boot=spec.n_boot, rng_seed=spec.rng_seed,
                        warning=doubts, params=[spec, {"statistic": statistic}]))  # fmt: skip
    return table(rows)


def curve_bands(aligned: pd.DataFrame, metric: str, statistic: str = "iqm", spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """Curves on one grid → a results row a point (scope `point`, extra column env_steps).

    The interval is pointwise; whole curves are resampled. At a point which some runs did not reach, those that did
    are resampled, n_runs is their number and a warning says so.
    """
    score, rows = statistic_named(statistic), []
    for (variant, env), group in aligned.groupby(["variant", "env"]):
        y, steps = matrix(group), np.unique(group["env_steps"])
        there = ~np.isnan(y)
        # points with the same runs behind them are resampled in one go
        for pattern in np.unique(there, axis=1).T:
            points = np.flatnonzero((there == pattern[:, None]).all(0))
            part, n = y[np.ix_(pattern, points)], int(pattern.sum())
            doubts = [*doubts_about(n, statistic, spec.level), "" if n == len(y) else f"{n} of {len(y)} runs got here"]
            estimate = score(part, axis=0) if n else np.full(len(points), np.nan)
            lo, hi = interval([part], score, spec) if n else (estimate, estimate)
            for i, point in enumerate(points):
                rows.append(
                    row(
                        "point",
                        variant,
                        env,
                        f"{statistic} of {metric}",
                        estimate[i],
                        lo[i],
                        hi[i],
                        level=spec.level,
                        method="pointwise percentile bootstrap of whole curves",
                        n_runs=n,
                        n_boot=spec.n_boot,
                        rng_seed=spec.rng_seed,
                        params=[spec, {"statistic": statistic}],
                        warning=doubts,
                        env_steps=steps[point],
                    )
                )
    return table(rows, "env_steps").sort_values(["variant", "env", "env_steps"], kind="stable", ignore_index=True)


def profile(scores: pd.DataFrame, metric: str, taus: Sequence[float], spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """Performance profile P(score > τ): a results row a τ (scope `point`, extra column tau); pointwise intervals.

    Agarwal et al. 2021, section 4.2. Reads well where it stays above another variant's: then it is better at every
    level.
    """
    taus, rows = np.asarray(taus, float), []
    for (variant, env), group in scores.groupby(["variant", "env"]):
        x, warning = _finite(group)
        if not len(x):
            continue
        above = (x[:, None] > taus).astype(float)
        lo, hi = interval([above], mean, spec)
        for i, tau in enumerate(taus):
            rows.append(
                row(
                    "point",
                    variant,
                    env,
                    f"P({metric} > τ)",
                    above[:, i].mean(),
                    lo[i],
                    hi[i],
                    level=spec.level,
                    method="pointwise percentile bootstrap over runs",
                    n_runs=len(x),
                    n_boot=spec.n_boot,
                    rng_seed=spec.rng_seed,
                    params=spec,
                    tau=tau,
                    warning=[warning, *doubts_about(len(x), "", spec.level)],
                )
            )
    return table(rows, "tau")


def improvements(
    scores: pd.DataFrame, metric: str, spec: Bootstrap = Bootstrap(), n_permutations: int = PERMUTATIONS
) -> pd.DataFrame:
    """P(a > b) of every ordered pair of variants in every env (scope `comparison`, extra columns a, b, p): estimate,
    interval and test of ranks.py (without permutations no test). −∞ is a score, and the worst.

    Where there are several environments, `all` is the mean over them of P, so that each counts alike and none has to
    be on another's scale (Agarwal et al. 2021, section 4.3); its interval is a bootstrap, and it has no p.
    """
    method = "U / (n m), ties ½; Newcombe's interval; permutation test of Brunner and Munzel's statistic"
    params, rows = {"level": spec.level, "n_permutations": n_permutations}, []
    for env, of_env in scores.groupby("env"):
        samples = {variant: _finite(group) for variant, group in of_env.groupby("variant")}
        for (a, (x, lost)), (b, (y, also_lost)) in combinations(samples.items(), 2):
            numbers, p, n = (np.nan, np.nan, np.nan), np.nan, min(len(x), len(y))
            if n:
                numbers = float(improvement_along(x, y, 0)), *improvement_interval(x, y, spec.level)
                p = improvement_p(x, y, n_permutations, spec.rng_seed) if n_permutations else np.nan
            doubts = [lost, also_lost, *doubts_about(n, "", spec.level)]
            rows += _both_ways(a, b, env, metric, numbers, level=spec.level, method=method, n_runs=n, params=params,
                               rng_seed=spec.rng_seed, warning=doubts, p=p)  # fmt: skip
    envs = sorted(scores.dropna(subset="value")["env"].unique())
    return table(rows + (_over_envs(scores, metric, envs, spec) if len(envs) > 1 else []), "a", "b", "p")


def _over_envs(scores: pd.DataFrame, metric: str, envs: list[str], spec: Bootstrap) -> list[dict[str, Any]]:
    method = f"mean over {len(envs)} environments of U / (n m), ties ½, in each; percentile bootstrap over runs"
    samples = {variant: [_finite(group[group["env"] == env]) for env in envs]
               for variant, group in scores[scores["env"].isin(envs)].groupby("variant")}  # fmt: skip
    rows = []
    for a, b in combinations(samples, 2):
        both = [x for pair in zip(samples[a], samples[b], strict=True) for x, _ in pair]
        numbers, n = (np.nan, np.nan, np.nan), min(map(len, both))
        if n:
            numbers = mean_improvement(*both, axis=0), *interval(both, mean_improvement, spec)
        doubts = [*(lost for _, lost in (*samples[a], *samples[b])), *doubts_about(n, "", spec.level)]
        rows += _both_ways(a, b, "all", metric, numbers, level=spec.level, method=method, n_runs=n, n_boot=spec.n_boot,
                           rng_seed=spec.rng_seed, params=spec, warning=doubts, p=np.nan)  # fmt: skip
    return rows


def _both_ways(a: str, b: str, env: str, metric: str, numbers: tuple[float, float, float], **more: Any) -> list[dict]:
    """The rows of a against b and of b against a."""
    name, (estimate, lo, hi) = f"probability of improvement of {metric}", numbers
    return [
        row("comparison", f"{a} > {b}", env, name, estimate, lo, hi, a=a, b=b, **more),
        row("comparison", f"{b} > {a}", env, name, 1 - estimate, 1 - hi, 1 - lo, a=b, b=a, **more),
    ]


# Tolerance intervals: where the runs lie, not where their centre lies


def tolerance_confidence(r: int, s: int, n: int, share: float) -> float:
    """Confidence that [x_(r), x_(s)] of n runs holds at least `share` of all runs: BinomCDF(s − r − 1; n, share).

    Order statistics, without any assumption about the distribution (Wilks 1941).
    """
    return float(stats.binom.cdf(s - r - 1, n, share))


@lru_cache
def tolerance_ranks(n: int, share: float, level: float) -> tuple[int, int]:
    """The narrowest (r, s), as central as can be, whose confidence reaches `level`; (1, n) if none does."""
    for width in range(1, n):
        if tolerance_confidence(1, 1 + width, n, share) >= level:
            r = (n - width + 1) // 2
            return r, r + width
    return 1, n


def tolerance(scores: pd.DataFrame, metric: str, share: float = 0.9, level: float = 0.95) -> pd.DataFrame:
    """Where at least that share of runs lies: a results row a (variant, env) (scope `variant`).

    `estimate` is the median, `level` the confidence that was achieved, which n decides: with 10 runs and a share of
    .9 it is .26.
    """
    rows = []
    for (variant, env), group in scores.groupby(["variant", "env"]):
        x, warning = _finite(group)
        rows.append(_tolerance_row(np.sort(x), variant, env, metric, share, level, warning))
    return table(rows)


def tolerance_bands(aligned: pd.DataFrame, metric: str, share: float = 0.9, level: float = 0.95) -> pd.DataFrame:
    """The same at every point of curves on one grid (scope `point`, extra column env_steps)."""
    rows = []
    for (variant, env), group in aligned.groupby(["variant", "env"]):
        y = np.sort(matrix(group), axis=0)  # NaN come last
        for step, column in zip(np.unique(group["env_steps"]), y.T, strict=True):
            x = column[~np.isnan(column)]
            short = "" if len(x) == len(column) else f"{len(x)} of {len(column)} runs got here"
            band = _tolerance_row(x, variant, env, metric, share, level, short)
            rows.append(band | {"scope": "point", "env_steps": step})
    return table(rows, "env_steps")


def _tolerance_row(ordered: np.ndarray, variant: str, env: str, metric: str, share: float, level: float, warning: str) -> dict:
    n = len(ordered)
    lo = hi = achieved = np.nan
    doubts = [warning]
    if n < 2:
        doubts.append("fewer than 2 runs: no interval")
    else:
        r, s = tolerance_ranks(n, share, level)
        lo, hi, achieved = ordered[r - 1], ordered[s - 1], tolerance_confidence(r, s, n, share)
        if achieved < level:
            doubts.append(f"only {achieved:.0%} confidence that {share:.0%} of runs lie here: {n} runs allow no more")
    return row(
        "variant",
        variant,
        env,
        f"tolerance of {metric}",
        np.median(ordered) if n else np.nan,
        lo,
        hi,
        level=achieved,
        method=f"order statistics that hold {share:.0%} of runs",
        n_runs=n,
        params={"share": share, "asked": level},
        warning=doubts,
    )
