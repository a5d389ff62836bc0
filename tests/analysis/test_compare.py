"""Comparisons: pairs by seed, families, what may be concluded, and effect sizes."""

import numpy as np
import pandas as pd
import pytest
from run_folders import made_scores
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from analysis.load import InputError
from analysis.results import row, table
from analysis.statistics.aggregates import proportion
from analysis.statistics.compare import (
    Comparison,
    adjust,
    collapse_tests,
    concluded,
    correlations,
    differences,
    effect_sizes,
    hedges_g,
)
from analysis.statistics.ranks import improvement_interval

QUICK = Comparison(n_boot=200)


def test_a_difference_and_no_p_of_another_hypothesis():
    row = differences(made_scores({"a": [1.0, 5, 7, 9], "b": [2.0, 3, 4, 6]}), "return", Comparison("mean", n_boot=200)).iloc[0]
    assert row["estimate"] == 5.5 - 3.75 and (row["a"], row["b"], row["variant"]) == ("a", "b", "a − b")
    assert np.isnan(row["p"]) and not row["paired"] and row["lo"] < row["estimate"] < row["hi"]


def shared(n: int = 12) -> pd.DataFrame:
    """Two variants of which most is decided by the seed."""
    rng = np.random.default_rng(0)
    seed = rng.normal(0, 100, size=n)
    return made_scores({"a": list(seed + 1 + 0.1 * rng.normal(size=n)), "b": list(seed)})


def test_pairs_by_seed():
    scores = shared()
    paired, unpaired = (differences(scores, "return", Comparison("mean", p, n_boot=500)).iloc[0] for p in (True, False))
    np.testing.assert_allclose(paired["estimate"], unpaired["estimate"])
    assert paired["hi"] - paired["lo"] < 0.2 and unpaired["hi"] - unpaired["lo"] > 20
    np.testing.assert_allclose(paired["p"], 2 / 2**12)  # all 2¹² signs were tried
    a, b = (group["value"].to_numpy() for _, group in scores.groupby("variant"))
    t = stats.ttest_rel(a, b)
    np.testing.assert_allclose((paired["lo"], paired["hi"]), t.confidence_interval(0.95))
    lame = scores[~((scores["variant"] == "b") & (scores["seed"] < 3))].sample(frac=1, random_state=1)
    row = differences(lame, "return", Comparison("mean", True)).iloc[0]
    assert row["n_runs"] == 9 and "3 runs have no partner" in row["warning"]
    twice = scores.assign(seed=0)
    row = differences(twice, "return", Comparison(paired=True)).iloc[0]
    assert np.isnan(row["p"]) and "no pairs can be made" in row["warning"]
    one_twice = scores.assign(seed=scores["seed"].where((scores["variant"] == "b") | (scores["seed"] > 1), 0))
    assert "no pairs can be made" in differences(one_twice, "return", Comparison(paired=True))["warning"].item()
    assert paired["warning"] == unpaired["warning"] == ""
    two = differences(scores[scores["seed"] < 2], "return", Comparison(paired=True)).iloc[0]
    assert np.isnan([two["lo"], two["hi"]]).all() and not np.isnan(two["estimate"])


def test_pairs_are_made_where_that_gains_and_not_elsewhere():
    rng = np.random.default_rng(1)
    scores = pd.concat([shared(), made_scores({"c": list(rng.normal(0, 100, 12))})])
    rows = differences(scores, "return", Comparison(paired=None, n_boot=50)).set_index(["a", "b"])
    assert rows["paired"].to_dict() == {("a", "b"): True, ("a", "c"): False, ("b", "c"): False}
    found = correlations(scores, "return").set_index(["a", "b"])
    assert found.loc[("a", "b"), "lo"] > 0.9 and found.loc[("a", "c"), "lo"] < 0
    lame = scores[~((scores["variant"] == "b") & (scores["seed"] < 3))]  # would cost three runs of a
    assert not differences(lame, "return", Comparison(paired=None, n_boot=50))["paired"].any()


def test_correlation_covers():
    """Of two normal variables with Spearman's ρ = .48 (Pearson's .5), 10 seeds."""
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], (100, 10))
    truth = 6 / np.pi * np.arcsin(0.25)
    rows = [correlations(made_scores({"a": d[:, 0], "b": d[:, 1]}), "r").iloc[0] for d in draws[:100]]
    assert np.mean([row["lo"] <= truth <= row["hi"] for row in rows]) > 0.9
    none = rng.normal(size=(100, 10, 2))
    rows = [correlations(made_scores({"a": d[:, 0], "b": d[:, 1]}), "r").iloc[0] for d in none]
    assert np.mean([row["lo"] > 0 for row in rows]) < 0.06  # seldom paired by chance


def test_a_run_that_diverged_counts_as_the_lowest_of_its_pair():
    scores = made_scores({"a": [-np.inf, 9.0, 9.0, 9.0], "b": [1.0, 2.0, 3.0, 4.0], "c": [-100.0] * 4})
    row = differences(scores, "return", Comparison("mean", n_boot=50)).set_index(["a", "b"]).loc[("a", "b")]
    assert row["estimate"] == (1 + 27) / 4 - 2.5  # 1, not −100 of a variant that has nothing to do with it
    assert "diverged count as the lowest" in row["warning"]


def test_families():
    p = np.array([0.01, 0.04, 0.03, np.nan])
    result = pd.DataFrame({"p": p})
    holm, by = adjust(result), adjust(result, "by")
    np.testing.assert_allclose(holm["p_adjusted"][:3], [0.03, 0.06, 0.06])
    for method, theirs in (("holm", "holm"), ("by", "fdr_by")):
        many = np.round(np.random.default_rng(0).random(20) ** 3, 2)  # ties
        ours = adjust(pd.DataFrame({"p": many}), method)["p_adjusted"]
        np.testing.assert_allclose(ours, multipletests(many, method=theirs)[1])
    np.testing.assert_allclose(by["p_adjusted"][0], 0.01 * 3 * (1 + 1 / 2 + 1 / 3))
    assert (holm["p_method"] == "holm over 3").all() and holm["p_adjusted"].isna().sum() == 1
    with pytest.raises(InputError, match="no adjustment 'bonferroni'; there are: holm, by"):
        adjust(result, "bonferroni")
    assert adjust(result.iloc[:0]).empty


def pairs(k: int = 1, **changed) -> pd.DataFrame:
    row = {"estimate": 0.9, "lo": 0.7, "hi": 0.97, "p": 0.001, "test": "ranks", "null": 0.5, "n_a": 20, "n_b": 20,
           "absent_a": 0.0, "absent_b": 0.0, "against": False, "equal": False}  # fmt: skip
    return pd.DataFrame([row | changed] * k)


@pytest.mark.parametrize(
    ("changed", "conclusion"),
    [
        ({}, "clear"),
        ({"estimate": np.nan, "p": np.nan}, "none"),
        ({"p": 0.06}, "inconclusive"),
        ({"lo": 0.49}, "inconclusive"),
        ({"n_a": 4}, "undecidable"),
        ({"n_a": 3, "n_b": 3}, "undecidable"),
        ({"absent_b": 0.1}, "clear"),
        ({"absent_b": 0.11}, "absent"),
        ({"against": True}, "mixed"),
        ({"p": 0.5, "lo": 0.3, "equal": True}, "equal"),
        ({"p": 0.5, "lo": 0.3, "equal": True, "n_a": 9}, "inconclusive"),  # its interval is too narrow to be believed
        ({"p": 0.5, "lo": 0.3, "equal": True, "absent_a": 0.2}, "absent"),
        ({"against": True, "p": 0.06}, "inconclusive"),
    ],
)
def test_what_may_be_concluded(changed: dict, conclusion: str):
    row = concluded(pairs(**changed)).iloc[0]
    assert row["conclusion"] == conclusion and row["conclusive"] == (conclusion == "clear")


@pytest.mark.parametrize(
    ("test", "n", "k", "adjustment", "smallest", "least"),
    [
        ("ranks", 5, 1, "holm", 2 / 252, 5),
        ("ranks", 5, 6, "holm", 6 * 2 / 252, 5),
        ("ranks", 5, 10, "holm", 10 * 2 / 252, 6),
        ("ranks", 5, 10, "by", 2 / 252 * sum(1 / i for i in range(1, 11)), 5),
        ("signs", 5, 1, "holm", 2 / 32, 6),
        ("signs", 8, 10, "holm", 10 * 2 / 2**8, 9),
        ("fisher", 5, 10, "holm", 10 * 2 / 252, 6),
    ],
)
def test_what_no_result_could_decide(test: str, n: int, k: int, adjustment: str, smallest: float, least: int):
    """The smallest p that these seeds and so many comparisons can give, and the seeds with which it is at most α."""
    rows = concluded(pairs(k, test=test, n_a=n, n_b=n, p=0.0), method=adjustment)
    np.testing.assert_allclose(rows["smallest_p_adjusted"], smallest)
    assert (rows["seeds_least"] == least).all()
    assert (rows["conclusion"] == ("clear" if smallest <= 0.05 else "undecidable")).all()
    enough = concluded(pairs(k, test=test, n_a=least, n_b=least, p=0.0), method=adjustment)
    assert (enough["conclusion"] == "clear").all()


def test_what_is_exactly_alpha_is_clear():
    """… p, and the smallest p that five seeds of each can have."""
    row = concluded(pairs(n_a=5, n_b=5, p=2 / 252), alpha=2 / 252).iloc[0]
    assert row["conclusion"] == "clear" and row["smallest_p_adjusted"] == row["p_adjusted"] == 2 / 252


def test_effect_sizes_by_hand():
    g, error = hedges_g(np.array([3.0, 4, 5]), np.array([1.0, 2, 3]))
    assert g == (1 - 3 / 15) * 2 / 1
    np.testing.assert_allclose(error, np.sqrt(6 / 9 + g**2 / 12))
    result = effect_sizes(made_scores({"a": [3.0, 4, 5], "b": [1.0, 2, 3]}), "return", QUICK)
    assert result["metric"].tolist() == ["Cliff's δ of return", "Hedges' g of return"]
    np.testing.assert_allclose(result["estimate"], [(8 + 0.5) / 9 * 2 - 1, g])
    lo, hi = improvement_interval(np.array([3.0, 4, 5]), np.array([1.0, 2, 3]))
    np.testing.assert_allclose(result["lo"], [2 * lo - 1, g - stats.norm.ppf(0.975) * error])
    np.testing.assert_allclose(result["hi"], [2 * hi - 1, g + stats.norm.ppf(0.975) * error])
    assert np.isnan(hedges_g(np.array([1.0, 1]), np.array([2.0, 2]))[0]) and np.isnan(
        hedges_g(np.array([1.0]), np.array([2.0, 3]))[0]
    )


def test_one_run_or_one_variant():
    one = made_scores({"a": [1.0], "b": [2.0]})
    row = differences(one, "return", QUICK).iloc[0]
    assert row["estimate"] == -1 and np.isnan(row["p"]) and "no interval" in row["warning"]
    assert effect_sizes(one, "return")["estimate"].iloc[0] == -1
    for function in (differences, effect_sizes, correlations):
        assert function(made_scores({"a": [1.0, 2]}), "return").empty


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
