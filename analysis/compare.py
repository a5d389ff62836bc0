"""Does one variant differ from another, by how much, how sure is that, and how many seeds would settle it?"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestIndPower

from analysis.aggregates import Bootstrap, doubts_about, improvement_along, interval, statistic_named
from analysis.load import InputError
from analysis.results import row, table

FAMILIES = {"holm": "holm", "by": "fdr_by"}


@dataclass(frozen=True)
class Comparison:
    """`paired`: by seed. Only where randomness is really shared does that make a difference smaller; where it is not,
    it costs nothing but the runs without a partner."""

    statistic: str = "iqm"
    paired: bool = False
    level: float = 0.95
    n_boot: int = 2000
    n_permutations: int = 9999
    rng_seed: int = 0

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.level, self.n_boot, self.rng_seed)


@dataclass(frozen=True)
class _Pair:
    """Scores of two variants in one env; with pairing x[i] and y[i] are of the same seed."""

    a: str
    b: str
    env: str
    x: np.ndarray
    y: np.ndarray
    doubts: list[str]

    @property
    def n(self) -> int:
        return min(len(self.x), len(self.y))


def _pairs(scores: pd.DataFrame, paired: bool = False) -> Iterator[_Pair]:
    for env, of_env in scores.groupby("env"):
        groups = dict(list(of_env.groupby("variant")))
        for a, b in combinations(groups, 2):
            yield _pair(a, b, env, groups[a], groups[b], paired)


def _pair(a: str, b: str, env: str, of_a: pd.DataFrame, of_b: pd.DataFrame, paired: bool) -> _Pair:
    x, y = of_a.dropna(subset="value"), of_b.dropna(subset="value")
    doubts = [
        f"{name}: {len(all_) - len(some)} of {len(all_)} runs have no score and are left out"
        for name, all_, some in ((a, of_a, x), (b, of_b, y))
        if len(some) < len(all_)
    ]
    if paired:
        if x["seed"].duplicated().any() or y["seed"].duplicated().any():
            return _Pair(a, b, env, np.array([]), np.array([]), [*doubts, "a seed occurs twice: no pairs can be made"])
        both = x.merge(y, on="seed").sort_values("seed")
        if alone := len(x) + len(y) - 2 * len(both):
            doubts.append(f"{alone} runs have no partner of the same seed and are left out")
        return _Pair(a, b, env, both["value_x"].to_numpy(float), both["value_y"].to_numpy(float), doubts)
    return _Pair(a, b, env, x["value"].to_numpy(float), y["value"].to_numpy(float), doubts)


def differences(scores: pd.DataFrame, metric: str, spec: Comparison = Comparison()) -> pd.DataFrame:
    """a's minus b's, for every pair of variants in every env (scope `comparison`, extra columns a, b, p).

    The difference of the two statistics, or the statistic of the differences by seed. p is two-sided from a
    permutation test of the same quantity: (k + 1)/(m + 1) over random permutations (Phipson & Smyth 2010), or exact
    where there are at most `n_permutations`. It assumes that under the null hypothesis the two are exchangeable.
    """
    of_sample = statistic_named(spec.statistic)
    if spec.paired:
        statistic = lambda x, y, axis: of_sample(x - y, axis=axis)  # noqa: E731
        name, method = f"{spec.statistic} of the paired differences of {metric}", "bootstrap over pairs of runs"
    else:
        statistic = lambda x, y, axis: of_sample(x, axis=axis) - of_sample(y, axis=axis)  # noqa: E731
        name, method = f"difference of {spec.statistic} of {metric}", "bootstrap over runs of each variant"
    rows = []
    for pair in _pairs(scores, spec.paired):
        estimate = lo = hi = p = np.nan
        doubts = [*pair.doubts, *doubts_about(pair.n, spec.statistic, spec.level)]
        if pair.n:
            estimate = statistic(pair.x, pair.y, axis=0)
            lo, hi = interval([pair.x, pair.y], statistic, spec.bootstrap, paired=spec.paired)
        if pair.n > 1:
            p = permutation_p(pair.x, pair.y, statistic, spec)
        rows.append(
            row("comparison", f"{pair.a} − {pair.b}", pair.env, name, estimate, lo, hi, level=spec.level,
                method=f"percentile {method}; permutation test", n_runs=pair.n, n_boot=spec.n_boot,
                rng_seed=spec.rng_seed, params=spec, warning=doubts, a=pair.a, b=pair.b, p=p)
        )
    return table(rows, "a", "b", "p")


def permutation_p(x: np.ndarray, y: np.ndarray, statistic, spec: Comparison) -> float:
    """Two-sided p of `statistic(x, y, axis=…)`: labels permuted, or swapped within pairs."""
    return float(
        stats.permutation_test(
            (x, y),
            statistic,
            permutation_type="samples" if spec.paired else "independent",
            n_resamples=spec.n_permutations,
            batch=max(1, 8_000_000 // (len(x) + len(y))),
            vectorized=True,
            axis=0,
            rng=np.random.default_rng(spec.rng_seed),
        ).pvalue
    )


def adjust(results: pd.DataFrame, method: str = "holm") -> pd.DataFrame:
    """The same rows with p_adjusted over all of them as one family, and how (p_method).

    `holm` bounds the chance of any false positive; `by`, Benjamini–Yekutieli, the share of false ones among the
    positives, whatever the dependence. Rows without p are not of the family.
    """
    if method not in FAMILIES:
        raise InputError(f"there is no adjustment '{method}'; there are: {', '.join(FAMILIES)}")
    p = results["p"].to_numpy(float)
    adjusted, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        adjusted[known] = multipletests(p[known], method=FAMILIES[method])[1]
    return results.assign(p_adjusted=adjusted, p_method=f"{method} over {int(known.sum())}")


def collapse_tests(shares: pd.DataFrame) -> pd.DataFrame:
    """Fisher's exact test of every pair (scope `comparison`, extra columns a, b, p, missing); `estimate`: a's share −
    b's, of the runs at risk (events.collapse_shares). No comparison where a group has none.

    The interval of the difference is Newcombe's, from the two Wilson intervals (Newcombe 1998, method 10). `missing` is
    the larger of the two groups'.
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
            doubts = [f"{x['variant']}: {x['warning']}" for x in (a, b) if x["warning"]]
            rows.append(
                row("comparison", f"{a['variant']} − {b['variant']}", env,
                    "difference of shares of runs at risk that collapsed", estimate, lo, hi, level=a["level"],
                    method="Newcombe; Fisher's exact test", n_runs=min(a["n_runs"], b["n_runs"]), warning=doubts,
                    a=a["variant"], b=b["variant"], p=p, missing=max(a["missing"], b["missing"]))
            )  # fmt: skip
    return table(rows, "a", "b", "p", "missing")


def effect_sizes(scores: pd.DataFrame, metric: str, spec: Comparison = Comparison()) -> pd.DataFrame:
    """Two rows for every pair of variants in every env (scope `comparison`, extra columns a, b); runs are not paired.

    Cliff's δ = P(a > b) − P(a < b), which asks nothing of the distributions, with a bootstrap interval; and Hedges' g,
    the difference of means in pooled standard deviations, with the large-sample interval (Hedges & Olkin 1985, ch. 5).
    """
    delta = lambda x, y, axis: 2 * improvement_along(x, y, axis) - 1  # noqa: E731
    rows = []
    for pair in _pairs(scores):
        doubts, same = [*pair.doubts, *doubts_about(pair.n, "", spec.level)], dict(a=pair.a, b=pair.b)
        common = dict(level=spec.level, n_runs=pair.n, params=spec, **same)
        of = ("comparison", f"{pair.a} − {pair.b}", pair.env)
        estimate, (lo, hi) = np.nan, (np.nan, np.nan)
        if pair.n:
            estimate, (lo, hi) = delta(pair.x, pair.y, 0), interval([pair.x, pair.y], delta, spec.bootstrap)
        rows.append(
            row(*of, f"Cliff's δ of {metric}", estimate, lo, hi,
                method="percentile bootstrap over runs of each variant", n_boot=spec.n_boot, rng_seed=spec.rng_seed,
                warning=doubts, **common)
        )
        g, error = hedges_g(pair.x, pair.y)
        if np.isnan(g):
            doubts.append("no spread within the variants: g is not defined")
        reach = stats.norm.ppf(0.5 + spec.level / 2) * error
        rows.append(
            row(*of, f"Hedges' g of {metric}", g, g - reach, g + reach, method="large-sample normal", warning=doubts,
                **common)
        )
    return table(rows, "a", "b")


def hedges_g(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """g = J (x̄ − ȳ)/s_pooled with J = 1 − 3/(4 df − 1), and its standard error; NaN without spread."""
    n, m = len(x), len(y)
    df = n + m - 2
    if min(n, m) < 2:
        return np.nan, np.nan
    spread = np.sqrt(((n - 1) * np.var(x, ddof=1) + (m - 1) * np.var(y, ddof=1)) / df)
    if spread == 0:
        return np.nan, np.nan
    g = (1 - 3 / (4 * df - 1)) * (x.mean() - y.mean()) / spread
    return float(g), float(np.sqrt((n + m) / (n * m) + g**2 / (2 * (n + m))))


def seeds_needed(
    scores: pd.DataFrame, metric: str, power: float = 0.8, alpha: float = 0.05, spec: Bootstrap = Bootstrap()
) -> pd.DataFrame:
    """Seeds a variant with which a difference as large as this one would be found with that power, tested two-sided.

    Two rows for every pair of variants in every env (scope `comparison`, extra columns a, b): with the Mann–Whitney
    test, (z_{1−α/2} + z_power)² / (6 (P(a > b) − ½)²) (Noether 1987), and with a t test (statsmodels). lo and hi come
    from the interval of the probability of improvement: where it holds ½ no number is enough and hi is ∞. The effect
    is an estimate, and the difference that happened to be found is rather too large than too small: so is the power.
    """
    params = [spec, {"power": power, "alpha": alpha}]
    rows = []
    for pair in _pairs(scores):
        doubts = [*pair.doubts, *doubts_about(pair.n, "", spec.level)]
        of = ("comparison", f"{pair.a} − {pair.b}", pair.env)
        n = lo = hi = by_means = np.nan
        if pair.n:
            n = seeds_by_rank(float(improvement_along(pair.x, pair.y, 0)), power, alpha)
            ends = [float(end) for end in interval([pair.x, pair.y], improvement_along, spec)]
            if not np.isnan(ends).any():
                lo, hi = sorted(seeds_by_rank(end, power, alpha) for end in ends)
                hi = np.inf if ends[0] <= 0.5 <= ends[1] else hi
        rows.append(
            row(*of, f"seeds needed for {metric}, Mann–Whitney", n, lo, hi, level=spec.level, n_runs=pair.n,
                method="Noether's formula; from the bootstrap of the probability of improvement", n_boot=spec.n_boot,
                rng_seed=spec.rng_seed, params=params, warning=doubts, a=pair.a, b=pair.b)
        )
        g, _ = hedges_g(pair.x, pair.y)
        if not np.isnan(g):
            by_means = seeds_by_means(g, power, alpha)
        rows.append(
            row(*of, f"seeds needed for {metric}, t test", by_means, n_runs=pair.n, method="power of the t test",
                params=params, warning=doubts, a=pair.a, b=pair.b)
        )
    return table(rows, "a", "b")


def seeds_by_rank(probability: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Runs a group that the Mann–Whitney test needs (Noether 1987, equation 3 with equal groups); ∞ at ½."""
    if probability == 0.5:
        return np.inf
    z = stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)
    return max(2.0, float(np.ceil(z**2 / (6 * (probability - 0.5) ** 2))))


def seeds_by_means(effect: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """Runs a group that a t test needs to find a difference of so many standard deviations; ∞ at 0."""
    effect = min(abs(effect), 10.0)  # then 2 are enough, and the distribution cannot be computed far beyond
    if effect < 1e-3:  # more than ten million
        return np.inf
    # of the two tails only the one that the effect is in: the other adds next to nothing, and is NaN at some sizes
    short = lambda n: TTestIndPower().power(effect, n, alpha / 2, alternative="larger") - power  # noqa: E731
    if short(2) >= 0:
        return 2.0
    by_normal = 2 * ((stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) / effect) ** 2
    return float(np.ceil(optimize.brentq(short, 2, 2 * by_normal + 10)))
