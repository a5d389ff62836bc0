"""Comparisons: what p means, pairs by seed, families, effect sizes, and how many seeds."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from run_folders import made_scores
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep
from statsmodels.stats.power import TTestIndPower

from analysis.aggregates import proportion
from analysis.compare import (
    Comparison,
    adjust,
    collapse_tests,
    differences,
    effect_sizes,
    hedges_g,
    seeds_by_means,
    seeds_by_rank,
    seeds_needed,
)
from analysis.load import InputError
from analysis.results import row, table

QUICK = Comparison(n_boot=200, n_permutations=999)


def test_exact_permutation_test_by_naive_enumeration():
    x, y = [1.0, 5, 7, 9], [2.0, 3, 4, 6]
    row = differences(made_scores({"a": x, "b": y}), "return", Comparison("mean", n_boot=200)).iloc[0]
    assert row["estimate"] == 5.5 - 3.75 and (row["a"], row["b"], row["variant"]) == ("a", "b", "a − b")
    everyone = np.array(x + y)
    every = [everyone[list(c)].mean() - np.delete(everyone, list(c)).mean() for c in combinations(range(8), 4)]
    one_sided = min(np.mean(np.array(every) >= 1.75 - 1e-9), np.mean(np.array(every) <= 1.75 + 1e-9))
    np.testing.assert_allclose(row["p"], 2 * one_sided)


def test_random_permutations_count_the_one_observed():
    """Two groups far apart: no permutation is as extreme, and p is 2 · 1/(m + 1), never 0."""
    scores = made_scores({"a": list(np.arange(20.0)), "b": list(np.arange(20.0) + 100)})
    assert differences(scores, "return", QUICK)["p"].item() == 2 / 1000


def test_pairs_by_seed():
    rng = np.random.default_rng(0)
    seed = rng.normal(0, 100, size=12)  # what the runs of a seed share
    scores = made_scores({"a": list(seed + 1 + 0.1 * rng.normal(size=12)), "b": list(seed)})
    paired, unpaired = (differences(scores, "return", Comparison("mean", p, n_boot=500)).iloc[0] for p in (True, False))
    np.testing.assert_allclose(paired["estimate"], unpaired["estimate"])
    assert paired["hi"] - paired["lo"] < 0.2 and unpaired["hi"] - unpaired["lo"] > 20
    assert paired["p"] < 0.01 and unpaired["p"] > 0.5
    np.testing.assert_allclose(paired["p"], 2 / 2**12)  # all 2¹² swaps were tried
    lame = scores[~((scores["variant"] == "b") & (scores["seed"] < 3))].sample(frac=1, random_state=1)
    row = differences(lame, "return", Comparison("mean", True, n_boot=200)).iloc[0]
    assert row["n_runs"] == 9 and "3 runs have no partner" in row["warning"]
    twice = scores.assign(seed=0)
    row = differences(twice, "return", Comparison(paired=True)).iloc[0]
    assert np.isnan(row["p"]) and "no pairs can be made" in row["warning"]


def test_no_difference_where_there_is_none():
    row = differences(made_scores({"a": [1.0] * 10, "b": [1.0] * 10}), "return", QUICK).iloc[0]
    assert (row["estimate"], row["lo"], row["hi"], row["p"]) == (0, 0, 0, 1)


@pytest.mark.parametrize("paired", [False, True])
def test_false_positives(paired: bool):
    """The same skewed distribution twice, 8 seeds: p ≤ .05 at most 5 % of the time, and noise (3 standard errors)."""
    rng, spec = np.random.default_rng(1), Comparison(paired=paired, n_boot=10, n_permutations=199)
    p = [
        differences(made_scores(dict(a=x, b=y)), "return", spec)["p"].item() for x, y in rng.lognormal(size=(100, 2, 8))
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100)


def test_families():
    scores = made_scores({"a": [1.0, 2, 3, 4], "b": [3.0, 4, 5, 6], "c": [9.0, 9, 8, 9], "d": [np.nan]})
    result = differences(scores, "return", QUICK)
    assert len(result) == 6 and result["p"].isna().sum() == 3
    holm, by = adjust(result), adjust(result, "by")
    p = np.sort(result["p"].dropna())
    expected = np.minimum(np.maximum.accumulate(p * [3, 2, 1]), 1)
    np.testing.assert_allclose(np.sort(holm["p_adjusted"].dropna()), expected)
    np.testing.assert_allclose(
        by["p_adjusted"].dropna(), stats.false_discovery_control(result["p"].dropna(), method="by")
    )
    assert (holm["p_method"] == "holm over 3").all() and holm["p_adjusted"].isna().sum() == 3
    with pytest.raises(InputError, match="no adjustment 'bonferroni'; there are: holm, by"):
        adjust(result, "bonferroni")
    assert adjust(differences(scores[scores["variant"] == "a"], "return")).empty


def test_effect_sizes_by_hand():
    g, error = hedges_g(np.array([3.0, 4, 5]), np.array([1.0, 2, 3]))
    assert g == (1 - 3 / 15) * 2 / 1
    np.testing.assert_allclose(error, np.sqrt(6 / 9 + g**2 / 12))
    result = effect_sizes(made_scores({"a": [3.0, 4, 5], "b": [1.0, 2, 3]}), "return", QUICK)
    assert result["metric"].tolist() == ["Cliff's δ of return", "Hedges' g of return"]
    np.testing.assert_allclose(result["estimate"], [(8 + 0.5) / 9 * 2 - 1, g])
    assert np.isnan(hedges_g(np.array([1.0, 1]), np.array([2.0, 2]))[0]) and np.isnan(
        hedges_g(np.array([1.0]), np.array([2.0, 3]))[0]
    )


def test_seeds_needed():
    assert seeds_by_rank(0.5) == np.inf and seeds_by_means(0.0) == np.inf
    assert seeds_by_rank(0.65) == seeds_by_rank(0.35) == np.ceil((1.959964 + 0.841621) ** 2 / (6 * 0.15**2))
    n = seeds_by_means(0.8)
    assert TTestIndPower().power(0.8, n, 0.05) >= 0.8 > TTestIndPower().power(0.8, n - 1, 0.05)
    assert n == 26  # Cohen (1988), table 2.4.1
    assert seeds_by_means(50.0) == 2
    assert (np.diff([seeds_by_means(effect) for effect in np.geomspace(2e-3, 20, 60)]) <= 0).all()  # and never NaN
    rng = np.random.default_rng(0)
    scores = made_scores(
        {"a": list(rng.normal(1, 1, 20)), "b": list(rng.normal(size=20)), "c": list(rng.normal(size=20))}
    )
    rows = seeds_needed(scores, "return").set_index(["a", "b"])
    far, near = rows.loc[("a", "b")].iloc[0], rows.loc[("b", "c")].iloc[0]
    assert far["lo"] <= far["estimate"] <= far["hi"] < np.inf and near["hi"] == np.inf


def test_one_run_or_one_variant():
    one = made_scores({"a": [1.0], "b": [2.0]})
    row = differences(one, "return", QUICK).iloc[0]
    assert row["estimate"] == -1 and np.isnan(row["p"]) and "no interval" in row["warning"]
    assert effect_sizes(one, "return")["estimate"].iloc[0] == -1 and seeds_needed(one, "return")["lo"].isna().all()
    for function in (differences, effect_sizes, seeds_needed):
        assert function(made_scores({"a": [1.0, 2]}), "return").empty


@pytest.mark.slow
def test_noethers_seeds_give_the_power_they_promise():
    rng, shift = np.random.default_rng(0), 0.7
    n = int(seeds_by_rank(stats.norm.cdf(shift / np.sqrt(2))))
    x, y = rng.normal(shift, 1, (4000, n)), rng.normal(size=(4000, n))
    power = (stats.mannwhitneyu(x, y, axis=1).pvalue <= 0.05).mean()
    assert abs(power - 0.8) < 0.04, (n, power)


def made_shares(counts: dict[str, tuple[int, int]], **more: object) -> pd.DataFrame:
    """Of so many runs at risk, so many collapsed."""
    rows = []
    for name, (k, n) in counts.items():
        share, lo, hi = proportion(k, n)
        rows.append(row("variant", name, "e", "share", share, lo, hi, n_runs=n, collapsed=k, missing=0.0, **more))
    return table(rows)


def test_shares_of_collapses_are_compared_as_scipy_and_statsmodels_do():
    test = collapse_tests(made_shares({"a": (1, 30), "b": (8, 30)})).iloc[0]
    np.testing.assert_allclose(test["p"], stats.fisher_exact([[1, 29], [8, 22]]).pvalue)
    np.testing.assert_allclose((test["lo"], test["hi"]), confint_proportions_2indep(1, 30, 8, 30, method="newcomb"))


def test_where_no_run_was_at_risk_no_shares_are_compared():
    test = collapse_tests(made_shares({"a": (10, 30), "b": (0, 0)}, warning="none was at risk")).iloc[0]
    assert np.isnan(test[["estimate", "lo", "hi", "p"]].astype(float)).all() and test["n_runs"] == 0
    assert test["warning"] == "a: none was at risk; b: none was at risk"
