"""The probability of improvement: by hand, against scipy, and by naive enumeration."""

import doctest
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import ranks
from analysis.statistics.ranks import (
    improvement_interval,
    improvement_p,
    probability_of_improvement,
    sign_flip_p,
    smallest_p,
    smallest_sign_flip_p,
)


def test_exact_p_by_naive_enumeration():
    x, y = np.array([1.0, 5, 7, 9, 9]), np.array([2.0, 3, 4, 6])
    everyone = np.concatenate([x, y])

    def statistic(group: tuple[int, ...]) -> float:
        a, b = everyone[list(group)], np.delete(everyone, list(group))
        with np.errstate(all="ignore"):
            t = stats.brunnermunzel(a, b, distribution="normal").statistic
        return abs(t)

    every = np.array([statistic(group) for group in combinations(range(9), 5)])
    np.testing.assert_allclose(improvement_p(x, y), np.mean(every >= statistic((0, 1, 2, 3, 4)) - 1e-9))


def test_random_permutations_count_the_one_observed_and_agree_with_brunner_and_munzel():
    assert improvement_p(np.arange(20.0), np.arange(20.0) + 100) == 1 / 10_001  # never 0
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.5, 1, 40), rng.normal(0, 3, 60)
    np.testing.assert_allclose(improvement_p(x, y), stats.brunnermunzel(x, y).pvalue, atol=0.015)


def test_the_same_whichever_comes_first_and_in_any_order():
    rng = np.random.default_rng(1)
    for n, m in ((5, 5), (6, 9), (20, 20), (12, 30)):
        x, y = rng.normal(0.4, 1, n).round(1), rng.normal(size=m).round(1)
        p = improvement_p(x, y)
        assert p == improvement_p(y, x) == improvement_p(rng.permutation(x), rng.permutation(y))
        assert p == improvement_p(np.exp(x), np.exp(y))  # only the order counts
        lo, hi = improvement_interval(x, y)
        np.testing.assert_allclose((1 - hi, 1 - lo), improvement_interval(y, x))
        assert lo < probability_of_improvement(x, y) < hi


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 3), (4, 5), (5, 5), (10, 10)])
def test_no_result_has_a_smaller_p_than_groups_without_overlap(n: int, m: int):
    assert improvement_p([500.0] * n, [10.0] * m) == smallest_p(n, m)  # ties are not in their way
    assert improvement_p(np.arange(n), 100 + np.arange(m)) == smallest_p(n, m) * (1 if n == m else 2)


def test_level_runs_say_nothing():
    assert improvement_p([1.0] * 10, [1.0] * 10) == 1
    assert np.isnan(improvement_p([1.0], [2.0, 3]))
    assert np.isnan(improvement_interval(np.array([1.0, 2]), np.array([3.0, 4, 5]))).all()


@pytest.mark.parametrize("n", [3, 5, 10, 30])
def test_the_interval_never_shrinks_to_a_point(n: int):
    """Two groups that do not overlap: P̂ = 1 is no proof that P is."""
    lo, hi = improvement_interval(np.full(n, 500.0), np.full(n, 10.0))
    assert hi == 1 and lo < 0.95 and (lo > 0.5) == (n >= 5)
    assert improvement_interval(np.full(n, 10.0), np.full(n, 500.0)) == pytest.approx((0, 1 - lo))


def test_unlike_groups_widen_the_interval():
    """61 of 100 far above, 39 far below all of the others, which are level: nothing but the 100 is random."""
    x, y = np.where(np.arange(100) < 61, 1.0, -np.inf), np.zeros(100)
    lo, hi = improvement_interval(x, y)
    binomial = stats.binomtest(61, 100).proportion_ci(method="wilson")
    np.testing.assert_allclose((lo, hi), (binomial.low, binomial.high), atol=0.01)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (5, 9), (30, 12)])
def test_the_ends_are_where_hanley_and_mcneils_variance_puts_them(n: int, m: int):
    """… that of two exponential distributions, with (n + m) / 2 runs in both, and made as large as Brunner and Munzel's
    where that is larger: scipy's statistic has it."""

    def variance(p: float) -> float:
        both_x, both_y = p / (2 - p), 2 * p**2 / (1 + p)  # P(two X are above one Y), P(one X is above two Y)
        return (p * (1 - p) + ((n + m) / 2 - 1) * (both_x - p**2 + both_y - p**2)) / (n * m)

    rng, larger = np.random.default_rng(0), set()
    for _ in range(10):
        x, y = rng.normal(0.4, 1, n), rng.normal(0, 1, m)
        p = probability_of_improvement(x, y)
        measured = ((p - 0.5) / stats.brunnermunzel(x, y).statistic) ** 2
        larger.add(bool(measured > variance(p)))
        reach = stats.t.ppf(0.975, n + m - 2) * np.sqrt(max(1, measured / variance(p)))
        for end in improvement_interval(x, y):
            np.testing.assert_allclose(abs(p - end), reach * np.sqrt(variance(end)), rtol=1e-6)
    assert larger == {True, False}


def test_signs_by_naive_enumeration():
    d = np.array([3.0, -1, 2, 5, 0.5, 4])
    signs = 1 - 2 * ((np.arange(64)[:, None] >> np.arange(6)) & 1)
    assert sign_flip_p(d) == np.mean(np.abs((signs * d).mean(1)) >= abs(d.mean()) - 1e-12)
    assert sign_flip_p(d) == sign_flip_p(-d) == sign_flip_p(d[::-1])
    for n in (5, 8, 20):  # no artificial ties: n differences of one sign have the smallest p there is
        assert sign_flip_p(np.arange(1.0, n + 1)) == pytest.approx(smallest_sign_flip_p(n), rel=3)
    assert sign_flip_p(np.ones(5)) == 2 / 32 and sign_flip_p(np.zeros(5)) == 1 and np.isnan(sign_flip_p(np.ones(1)))


def test_examples():
    done = doctest.testmod(ranks)
    assert done.attempted and not done.failed
