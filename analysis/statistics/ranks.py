"""The probability of improvement P(X > Y) + ½ P(X = Y): its estimate, its interval, and the test of P = ½.

All three are of the same ranks, so that they speak of one hypothesis and of one direction. Nothing but the order of the
scores counts: a monotone transformation changes nothing, and −∞ is a score like any other (a run that diverged, or that
never got there).

The test is a permutation test of Brunner and Munzel's statistic, (P̂ − ½) divided by its own standard error (Brunner &
Munzel 2000; Neubert & Brunner 2007). It is exact where the two groups have the same distribution, and because of the
standard error it stays valid for large groups where P = ½ and the distributions differ, as with unequal variances; the
permutation test of U itself, Mann and Whitney's, does not.

The interval is Newcombe's (2006, method 5): all θ that P̂ is compatible with, by a variance that depends on θ, so that it
has a width even where the groups do not overlap. Two things are changed so that it covers for small and for unlike
groups as well: Student's t in place of the normal quantile, and where the runs are more dispersed than the formula
supposes (Brunner and Munzel's variance is larger), the variance is enlarged by as much.
"""

from functools import lru_cache
from itertools import combinations
from math import comb

import numpy as np
from scipy import stats

PERMUTATIONS = 10_000
"""Random permutations, where there are more of them than that; otherwise all."""


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """P(X > Y) + ½ P(X = Y) = U / (n_x n_y), of the last axes (Agarwal et al. 2021, section 4.3)."""
    return _wins(x, y).mean((-2, -1))


def improvement_along(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
    """P(X > Y) + ½ P(X = Y) along another axis."""
    return probability_of_improvement(np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1))


def _wins(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.asarray(x)[..., :, None], np.asarray(y)[..., None, :]
    return (x > y) + 0.5 * (x == y)


def improvement_interval(x: np.ndarray, y: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The interval, of the last axes; NaN where a group has fewer than 3 runs. See the top of this file."""
    wins = _wins(x, y)
    n, m = wins.shape[-2:]
    p = wins.mean((-2, -1))
    if min(n, m) < 3:
        return np.full(p.shape, np.nan), np.full(p.shape, np.nan)

    def variance(theta: np.ndarray) -> np.ndarray:
        return theta * (1 - theta) * (1 + ((n + m) / 2 - 1) * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (n * m)

    measured = wins.mean(-1).var(-1, ddof=1) / n + wins.mean(-2).var(-1, ddof=1) / m
    supposed = variance(p)
    wider = np.maximum(1.0, measured / np.where(supposed > 0, supposed, np.inf))
    reach = stats.t.ppf(0.5 + level / 2, n + m - 2) * np.sqrt(wider)
    ends = []
    for bound in (0.0, 1.0):  # bisection: between P̂, which is compatible, and the bound
        inside, outside = p, np.full(p.shape, bound)
        for _ in range(50):
            middle = (inside + outside) / 2
            compatible = np.abs(p - middle) <= reach * np.sqrt(variance(middle))
            inside, outside = np.where(compatible, middle, inside), np.where(compatible, outside, middle)
        ends.append(np.where(p == bound, bound, inside))
    return ends[0], ends[1]


def improvement_p(x: np.ndarray, y: np.ndarray, n_permutations: int = PERMUTATIONS, rng_seed: int = 0) -> float:
    """Two-sided p of P = ½: exact where there are at most `n_permutations` ways to divide the runs, otherwise (k + 1) /
    (n_permutations + 1) over random ones (Phipson & Smyth 2010). NaN where a group has fewer than 2 runs.

    The same whichever group comes first, and whatever the order of the runs.
    """
    x, y = sorted((np.asarray(x, float), np.asarray(y, float)), key=len)
    if len(x) < 2:
        return np.nan
    pooled = np.sort(np.concatenate([x, y]))
    wins = _wins(pooled, pooled).astype(np.float32)
    divisions, exact = _divisions(len(x), len(y), n_permutations, rng_seed)
    observed = np.abs(_brunner_munzel(_wins(x, y).mean(1)[None], _wins(y, x).mean(1)[None]))
    extreme = 0
    for some in np.array_split(divisions, max(1, divisions.size // 2_000_000)):
        of_x = some.astype(np.float32)
        beats_y, beats_x = (1 - of_x) @ wins.T, of_x @ wins.T  # how many of the other group a run beats
        t = _brunner_munzel(
            beats_y[some].reshape(-1, len(x)).astype(float) / len(y),
            beats_x[~some].reshape(-1, len(y)).astype(float) / len(x),
        )
        extreme += int((np.abs(t) >= observed * (1 - 1e-9)).sum())
    return extreme / len(divisions) if exact else (extreme + 1) / (len(divisions) + 1)


def _brunner_munzel(of_x: np.ndarray, of_y: np.ndarray) -> np.ndarray:
    """The statistic of each row, from the share of the other group that each run beats."""
    effect = of_x.mean(1) - 0.5
    variance = of_x.var(1, ddof=1) / of_x.shape[1] + of_y.var(1, ddof=1) / of_y.shape[1]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(variance > 1e-12, effect / np.sqrt(variance), np.sign(effect) * np.inf)
    return np.where(np.abs(effect) < 1e-12, 0.0, t)  # groups that do not overlap: ±∞; all runs level: 0


@lru_cache(maxsize=8)
def _divisions(n: int, m: int, most: int, rng_seed: int) -> tuple[np.ndarray, bool]:
    """[divisions, n + m]: who is of the first group; and whether these are all there are."""
    ways = comb(n + m, n)
    if exact := ways <= most:
        first = np.fromiter((i for group in combinations(range(n + m), n) for i in group), int, ways * n).reshape(-1, n)
    else:
        first = np.random.default_rng(rng_seed).random((most, n + m)).argpartition(n, axis=1)[:, :n]
    divisions = np.zeros((len(first), n + m), bool)
    np.put_along_axis(divisions, first, True, axis=1)
    return divisions, exact


def smallest_p(n: int, m: int, n_permutations: int = PERMUTATIONS) -> float:
    """The p of two groups that do not overlap: no result gives a smaller one. Either may be the better one, but of groups
    of unequal size with ties only one of the two divisions may exist.

    >>> smallest_p(3, 3), smallest_p(10, 10)
    (0.1, 9.999000099990002e-05)
    """
    ways, extreme = comb(n + m, n), 2 if n == m else 1
    return min(1.0, extreme / ways) if ways <= n_permutations else max(extreme / ways, 1 / (n_permutations + 1))


def sign_flip_p(differences: np.ndarray, n_permutations: int = PERMUTATIONS, rng_seed: int = 0) -> float:
    """Two-sided p of a mean of 0, over all signs of the differences or over random ones, as `improvement_p`.

    The mean, because it has no artificial ties: a trimmed one is the same whichever sign a trimmed difference has, and
    then no result of few pairs has a small p.
    """
    d = np.asarray(differences, float)
    if len(d) < 2:
        return np.nan
    d = d[np.argsort(np.abs(d), kind="stable")]
    exact = 2 ** len(d) <= n_permutations
    if exact:
        signs = 1.0 - 2 * (np.arange(2 ** len(d))[:, None] >> np.arange(len(d)) & 1)
    else:
        signs = np.random.default_rng(rng_seed).choice([-1.0, 1.0], (n_permutations, len(d)))
    total = np.abs(d).sum()
    extreme = int((np.abs(signs @ d) >= abs(d.sum()) - 1e-9 * total).sum())
    return extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)


def smallest_sign_flip_p(n: int, n_permutations: int = PERMUTATIONS) -> float:
    """p of n differences of one sign.

    >>> smallest_sign_flip_p(5)
    0.0625
    """
    return min(1.0, 2 / 2**n) if 2**n <= n_permutations else max(2 / 2**n, 1 / (n_permutations + 1))
