"""Does one variant differ from another, by how much, and how sure is that? Differences with their tests, families of
them, and what may be concluded."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, count

import numpy as np
import pandas as pd
from scipy import stats

from analysis.load import InputError
from analysis.results import row, table
from analysis.statistics.aggregates import Bootstrap, doubts_about, interval, statistic_named
from analysis.statistics.ranks import (
    PERMUTATIONS,
    improvement_along,
    improvement_interval,
    sign_flip_p,
    smallest_p,
    smallest_sign_flip_p,
)

LEAST_SEEDS = 5
"""A group with fewer makes no claim, whatever its p."""
FEW_SEEDS = 10
"""A group with fewer has intervals that are too narrow, and is not called equal to another."""
MOST_ABSENT = 0.1
"""Of a group. Where more of its runs are missing, what they would have been may decide."""


@dataclass(frozen=True)
class Comparison:
    """`paired`: by seed, or not; None: where the two groups have the same seeds and what a seed gives in one is
    correlated with what it gives in the other, so clearly that the interval is above 0. Elsewhere pairs gain nothing,
    and cost degrees of freedom."""

    statistic: str = "iqm"
    paired: bool | None = False
    level: float = 0.95
    n_boot: int = 2000
    n_permutations: int = PERMUTATIONS
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


def _groups(scores: pd.DataFrame) -> Iterator[tuple[str, str, str, pd.DataFrame, pd.DataFrame]]:
    for env, of_env in scores.groupby("env"):
        groups = dict(list(of_env.groupby("variant")))
        for a, b in combinations(groups, 2):
            yield a, b, env, groups[a], groups[b]


def _pair(a: str, b: str, env: str, of_a: pd.DataFrame, of_b: pd.DataFrame, paired: bool = False) -> _Pair:
    """A score of −∞, of a run that diverged, counts as the lowest of the others of this pair."""
    x, y = of_a.dropna(subset="value"), of_b.dropna(subset="value")
    doubts = [
        f"{name}: {len(all_) - len(some)} of {len(all_)} runs have no score and are left out"
        for name, all_, some in ((a, of_a, x), (b, of_b, y))
        if len(some) < len(all_)
    ]
    both = np.concatenate([x["value"], y["value"]])
    if np.isneginf(both).any():
        lowest = both[np.isfinite(both)].min(initial=np.inf)
        doubts.append("runs that diverged count as the lowest of the other scores")
        worst = {-np.inf: lowest if np.isfinite(lowest) else np.nan}
        x, y = (group.assign(value=group["value"].replace(worst)).dropna(subset="value") for group in (x, y))
    if paired:
        if x["seed"].duplicated().any() or y["seed"].duplicated().any():
            return _Pair(a, b, env, np.array([]), np.array([]), [*doubts, "a seed occurs twice: no pairs can be made"])
        both = x.merge(y, on="seed").sort_values("seed")
        if alone := len(x) + len(y) - 2 * len(both):
            doubts.append(f"{alone} runs have no partner of the same seed and are left out")
        return _Pair(a, b, env, both["value_x"].to_numpy(float), both["value_y"].to_numpy(float), doubts)
    return _Pair(a, b, env, x["value"].to_numpy(float), y["value"].to_numpy(float), doubts)


def correlation(pair: _Pair, level: float = 0.95) -> tuple[float, float, float]:
    """Spearman's, of what the same seeds give, with the interval of Bonett and Wright (2000); NaN below 5 pairs or
    where one of the two is constant."""
    if pair.n < LEAST_SEEDS or np.ptp(pair.x) == 0 or np.ptp(pair.y) == 0:
        return np.nan, np.nan, np.nan
    r = float(stats.spearmanr(pair.x, pair.y).statistic)
    reach = stats.norm.ppf(0.5 + level / 2) * np.sqrt((1 + r**2 / 2) / (pair.n - 3))
    with np.errstate(divide="ignore"):
        return r, float(np.tanh(np.arctanh(r) - reach)), float(np.tanh(np.arctanh(r) + reach))


def correlations(scores: pd.DataFrame, metric: str, level: float = 0.95) -> pd.DataFrame:
    """Between what the same seeds give in two variants: a row a pair that has the same seeds, each once (scope
    `comparison`, extra columns a, b)."""
    rows = []
    for a, b, env, of_a, of_b in _groups(scores):
        if not _same_seeds(of_a, of_b):
            continue
        pair = _pair(a, b, env, of_a, of_b, paired=True)
        numbers = correlation(pair, level)
        doubts = [*pair.doubts, "fewer than 5 pairs, or one of the two is constant" if np.isnan(numbers[0]) else ""]
        rows.append(
            row(
                "comparison",
                f"{a} with {b}",
                env,
                f"correlation between seeds of {metric}",
                *numbers,
                level=level,
                method="Spearman's; Bonett and Wright's interval",
                n_runs=pair.n,
                warning=doubts,
                a=a,
                b=b,
            )
        )
    return table(rows, "a", "b")


def _same_seeds(of_a: pd.DataFrame, of_b: pd.DataFrame) -> bool:
    seeds = [group.dropna(subset="value")["seed"] for group in (of_a, of_b)]
    if any(s.isna().any() or s.duplicated().any() for s in seeds):
        return False
    return set(seeds[0]) == set(seeds[1])


def differences(scores: pd.DataFrame, metric: str, spec: Comparison = Comparison()) -> pd.DataFrame:
    """a's minus b's, for every pair of variants in every env (scope `comparison`, extra columns a, b, p, paired).

    Not paired: the difference of the two statistics, with a bootstrap interval. It has no p: the test of two groups is
    the one of their ranks (aggregates.improvements), and is of another hypothesis. Paired: the mean of the differences
    by seed, Student's interval, and p of the same mean over all signs (ranks.sign_flip_p).
    """
    rows = []
    for a, b, env, of_a, of_b in _groups(scores):
        paired = spec.paired
        if paired is None:
            paired = _same_seeds(of_a, of_b) and correlation(_pair(a, b, env, of_a, of_b, True), spec.level)[1] > 0
        make = _paired_difference if paired else _difference
        rows.append(make(_pair(a, b, env, of_a, of_b, paired), metric, spec))
    return table(rows, "a", "b", "p", "paired").astype({"paired": "bool"})


def _difference(pair: _Pair, metric: str, spec: Comparison) -> dict:
    of_sample = statistic_named(spec.statistic)
    statistic = lambda x, y, axis: of_sample(x, axis=axis) - of_sample(y, axis=axis)
    estimate = lo = hi = np.nan
    if pair.n:
        estimate = statistic(pair.x, pair.y, axis=0)
        lo, hi = interval([pair.x, pair.y], statistic, spec.bootstrap)
    return row(
        "comparison", f"{pair.a} − {pair.b}", pair.env, f"difference of {spec.statistic} of {metric}", estimate, lo, hi,
        level=spec.level, method="percentile bootstrap over runs of each variant", n_runs=pair.n, n_boot=spec.n_boot,
        rng_seed=spec.rng_seed, params=spec, warning=[*pair.doubts, *doubts_about(pair.n, spec.statistic, spec.level)],
        a=pair.a, b=pair.b, p=np.nan, paired=False,
    )  # fmt: skip


def _paired_difference(pair: _Pair, metric: str, spec: Comparison) -> dict:
    d = pair.x - pair.y
    estimate = lo = hi = np.nan
    if pair.n:
        estimate = d.mean()
    if pair.n > 2:
        reach = stats.t.ppf(0.5 + spec.level / 2, pair.n - 1) * d.std(ddof=1) / np.sqrt(pair.n)
        lo, hi = estimate - reach, estimate + reach
    return row(
        "comparison", f"{pair.a} − {pair.b}", pair.env, f"mean of the paired differences of {metric}", estimate, lo, hi,
        level=spec.level, method="Student's interval over pairs of runs; permutation of signs", n_runs=pair.n,
        rng_seed=spec.rng_seed, params=spec, warning=[*pair.doubts, *doubts_about(pair.n, "", spec.level)],
        a=pair.a, b=pair.b, p=sign_flip_p(d, spec.n_permutations, spec.rng_seed), paired=True,
    )  # fmt: skip


# Families


def _holm(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


FAMILIES = {"holm": _holm, "by": lambda p: stats.false_discovery_control(p, method="by")}


def adjust(results: pd.DataFrame, method: str = "holm") -> pd.DataFrame:
    """The same rows with p_adjusted over all of them as one family, and how (p_method).

    `holm` bounds the chance of any false positive; `by`, Benjamini–Yekutieli, the share of false ones among the
    positives, whatever the dependence. Rows without p are not of the family.
    """
    if method not in FAMILIES:
        raise InputError(f"there is no adjustment '{method}'; there are: {', '.join(FAMILIES)}")
    adjusted = _adjusted(results["p"].to_numpy(float), method)
    return results.assign(p_adjusted=adjusted, p_method=f"{method} over {int((~np.isnan(adjusted)).sum())}")


def _adjusted(p: np.ndarray, method: str) -> np.ndarray:
    adjusted, known = np.full(len(p), np.nan), ~np.isnan(p)
    if known.any():
        adjusted[known] = FAMILIES[method](p[known])
    return adjusted


# What may be concluded

CONCLUSIONS = {
    "inconclusive": "these runs do not tell",
    "equal": "the whole interval lies within the smallest effect of interest",
    "clear": "the interval excludes no difference, and p after the adjustment is at most α",
    "mixed": "clear by the probability, but the effect in env steps or points is the other way round",
    "absent": "too many runs of a group are missing for anything to be clear",
    "undecidable": "so few seeds that no result could have been clear",
    "none": "nothing to compare",
}
"""The conclusions about a pair; it has the last of these that is true of it."""


def concluded(
    pairs: pd.DataFrame, alpha: float = 0.05, method: str = "holm", n_permutations: int = PERMUTATIONS
) -> pd.DataFrame:
    """A family of pairs with p_adjusted and p_method, and with what may be concluded of each (CONCLUSIONS).

    `pairs` are results rows with a, b, p and
        test                  which: ranks, signs or fisher
        null                  the estimate that means no difference
        n_a, n_b              runs that were compared
        absent_a, absent_b    share of each group's runs that are missing
        against, equal        whether another summary of the same runs points the other way; or shows that they are equal
    New: family, how many pairs it is of; smallest_p, what two groups without any overlap would have had;
    smallest_p_adjusted, the same of all the family; seeds_least, the seeds each that are needed for a clear result;
    conclusion; conclusive.
    """
    adjusted = adjust(pairs, method).astype({"against": "bool", "equal": "bool"})
    n = zip(adjusted["test"], adjusted["n_a"], adjusted["n_b"], strict=True)
    smallest = np.array([_smallest(test, a, b, n_permutations) for test, a, b in n], float)
    smallest[adjusted["p"].isna()] = np.nan
    of_family = _adjusted(smallest, method)
    family = int(adjusted["estimate"].notna().sum())
    least = {test: seeds_least(test, family, alpha, method, n_permutations) for test in adjusted["test"].unique()}
    fewest = adjusted[["n_a", "n_b"]].min(axis=1)
    excluded = (adjusted["lo"] > adjusted["null"]) | (adjusted["hi"] < adjusted["null"])
    clear = excluded & (adjusted["p_adjusted"] <= alpha)
    conditions = {
        "none": adjusted["estimate"].isna(),
        "undecidable": (fewest < LEAST_SEEDS) | ~(of_family <= alpha),
        "absent": adjusted[["absent_a", "absent_b"]].max(axis=1) > MOST_ABSENT,
        "mixed": clear & adjusted["against"],
        "clear": clear,
        "equal": adjusted["equal"] & (fewest >= FEW_SEEDS),
    }
    strongest = [name for name in reversed(CONCLUSIONS) if name in conditions]
    conclusion = np.select([conditions[name] for name in strongest], strongest, "inconclusive")
    return adjusted.assign(
        family=family, smallest_p=smallest, smallest_p_adjusted=of_family, conclusion=conclusion,
        seeds_least=adjusted["test"].map(least).astype(float), conclusive=conclusion == "clear",
    )  # fmt: skip


def _smallest(test: str, n: int, m: int, n_permutations: int) -> float:
    if min(n, m) < 1:
        return np.nan
    if test == "fisher":
        return float(stats.fisher_exact([[n, 0], [0, m]]).pvalue)
    return smallest_sign_flip_p(min(n, m), n_permutations) if test == "signs" else smallest_p(n, m, n_permutations)


def needed_p(family: int, alpha: float = 0.05, method: str = "holm") -> float:
    """The p that is clear after the adjustment where none of the other pairs is.

    >>> needed_p(5)
    0.01
    """
    others = np.ones(family - 1)
    return alpha * 1e-6 / float(_adjusted(np.array([1e-6, *others]), method)[0])


def seeds_least(test: str, family: int, alpha: float = 0.05, method: str = "holm", n_permutations: int = PERMUTATIONS) -> float:
    """Seeds each with which a family of so many comparisons can come out at all; ∞ where the permutations, not the seeds,
    are too few."""
    for n in count(LEAST_SEEDS):
        smallest = _smallest(test, n, n, n_permutations)
        if _adjusted(np.full(max(1, family), smallest), method)[0] <= alpha:
            return n
        if smallest == _smallest(test, n + 1, n + 1, n_permutations):
            return np.inf
    return np.inf


# Shares of collapses


def collapse_tests(shares: pd.DataFrame) -> pd.DataFrame:
    """Fisher's exact test of every pair (scope `comparison`, extra columns a, b, p and those that `concluded` asks for);
    `estimate`: a's share − b's, of the runs at risk (events.collapse_shares). No comparison where a group has none.

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
            doubts = [f"{x['variant']}: {x['warning']}" for x in (a, b) if x["warning"]]
            rows.append(
                row("comparison", f"{a['variant']} − {b['variant']}", env,
                    "difference of shares of runs at risk that collapsed", estimate, lo, hi, level=a["level"],
                    method="Newcombe; Fisher's exact test", n_runs=min(a["n_runs"], b["n_runs"]), warning=doubts,
                    a=a["variant"], b=b["variant"], p=p, test="fisher", null=0.0, n_a=a["n_runs"], n_b=b["n_runs"],
                    absent_a=a["missing"], absent_b=b["missing"], against=False, equal=False)
            )  # fmt: skip
    return table(rows, "a", "b", "p", "test", "null", "n_a", "n_b", "absent_a", "absent_b", "against", "equal")


# Effect sizes


def effect_sizes(scores: pd.DataFrame, metric: str, spec: Comparison = Comparison()) -> pd.DataFrame:
    """Two rows for every pair of variants in every env (scope `comparison`, extra columns a, b); runs are not paired.

    Cliff's δ = P(a > b) − P(a < b), which asks nothing of the distributions, with the interval of ranks.py; and Hedges'
    g, the difference of means in pooled standard deviations, with the large-sample interval (Hedges & Olkin 1985, ch. 5).
    """
    rows = []
    for a, b, env, of_a, of_b in _groups(scores):
        pair = _pair(a, b, env, of_a, of_b)
        doubts, same = [*pair.doubts, *doubts_about(pair.n, "", spec.level)], dict(a=pair.a, b=pair.b)
        common = dict(level=spec.level, n_runs=pair.n, params=spec, **same)
        of = ("comparison", f"{pair.a} − {pair.b}", pair.env)
        estimate, (lo, hi) = np.nan, (np.nan, np.nan)
        if pair.n:
            ordered = [group["value"].dropna().to_numpy(float) for group in (of_a, of_b)]
            estimate = 2 * improvement_along(*ordered, 0) - 1
            lo, hi = (2 * end - 1 for end in improvement_interval(*ordered, spec.level))
        rows.append(row(*of, f"Cliff's δ of {metric}", estimate, lo, hi, method="Newcombe", warning=doubts, **common))
        g, error = hedges_g(pair.x, pair.y)
        if np.isnan(g):
            doubts.append("no spread within the variants: g is not defined")
        reach = stats.norm.ppf(0.5 + spec.level / 2) * error
        rows.append(
            row(*of, f"Hedges' g of {metric}", g, g - reach, g + reach, method="large-sample normal", warning=doubts, **common)
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
