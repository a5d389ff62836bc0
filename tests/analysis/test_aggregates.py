"""Aggregates against rliable's functions, and intervals against the same bootstrap written as a loop."""

import numpy as np
import pandas as pd
import pytest
from rliable import metrics as rliable
from run_folders import made_curves, made_scores
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from analysis.align import align, grid
from analysis.load import InputError
from analysis.statistics.aggregates import (
    Bootstrap,
    aggregate,
    curve_bands,
    improvements,
    interval,
    iqm,
    mean,
    profile,
    proportion,
    tolerance,
    tolerance_bands,
    tolerance_confidence,
    tolerance_ranks,
)
from analysis.statistics.ranks import probability_of_improvement

QUICK = Bootstrap(n_boot=200)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("n", [1, 3, 4, 7, 10, 33])
def test_point_estimates_agree_with_rliable(rng: np.random.Generator, n: int):
    x, y = rng.lognormal(size=(2, n, 1)).round(1)  # rounded: ties
    np.testing.assert_allclose(iqm(x[:, 0]), rliable.aggregate_iqm(x))
    np.testing.assert_allclose(np.median(x), rliable.aggregate_median(x.T))  # of tasks, each the mean of its runs
    np.testing.assert_allclose(
        probability_of_improvement(x[:, 0], y[:, 0]), rliable.probability_of_improvement(x, y), atol=1e-12
    )


def test_by_hand():
    assert iqm(np.array([100.0, 1, 2, 3, 4, -50, 5, 6])) == 3.5  # without −50, 1 and 6, 100: 2 3 4 5
    assert iqm(np.array([1.0, 2, 30])) == 11  # nothing is trimmed
    assert probability_of_improvement(np.array([1, 2]), np.array([1, 0, 3])) == (0.5 + 1 + 0 + 1 + 1 + 0) / 6
    u = stats.mannwhitneyu([1, 2], [1, 0, 3]).statistic
    assert probability_of_improvement(np.array([1, 2]), np.array([1, 0, 3])) == u / 6


def test_one_row_a_variant_and_env(rng: np.random.Generator):
    x = rng.normal(size=20)
    result = aggregate(made_scores({"b": list(x), "a": [1.0] * 10}), "return", spec=QUICK)
    assert result["variant"].tolist() == ["a", "b"] and result["metric"].unique().tolist() == ["iqm of return"]
    a, b = result.iloc[0], result.iloc[1]
    assert (a["estimate"], a["lo"], a["hi"], a["warning"]) == (1, 1, 1, "")
    assert b["lo"] < b["estimate"] == iqm(x) < b["hi"] and b["n_runs"] == 20
    assert (b["n_boot"], b["rng_seed"], b["level"]) == (200, 0, 0.95) and '"statistic": "iqm"' in b["params_json"]


def test_interval_is_a_loop_over_resamples(rng: np.random.Generator):
    x = rng.normal(size=12)
    picks = np.random.default_rng(7).integers(0, 12, size=(500, 12))
    lo, hi = np.quantile([x[pick].mean() for pick in picks], [0.05, 0.95])
    np.testing.assert_allclose(interval([x], mean, Bootstrap(0.9, 500, 7)), (lo, hi))


def test_no_interval_where_any_sample_has_fewer_than_three_runs(rng: np.random.Generator):
    difference = lambda x, y, axis: mean(x, axis) - mean(y, axis)
    for n, m, none in ((2, 12, True), (12, 2, True), (3, 3, False)):
        found = interval([rng.normal(size=n), rng.normal(size=m)], difference, QUICK)
        assert np.isnan(found).tolist() == [none, none]


def test_a_share_has_wilsons_interval_within_0_and_1():
    for k, n in ((0, 7), (3, 7), (7, 7)):
        share, lo, hi = proportion(k, n)
        np.testing.assert_allclose((share, lo, hi), (k / n, *proportion_confint(k, n, method="wilson")), atol=1e-12)
        assert 0 <= lo <= share <= hi <= 1
    assert np.isnan(proportion(0, 0)).all()


def test_curves_are_resampled_whole(rng: np.random.Generator):
    """Each point's interval uses the same runs as its neighbour's, and equals that of the point alone."""
    y = rng.normal(size=(12, 4)).cumsum(1)
    aligned = align(curves := made_curves({f"a/{i}": list(row) for i, row in enumerate(y)}), grid(curves, 4))
    bands = curve_bands(aligned, "y", spec=QUICK)
    for i, point in enumerate(bands.itertuples()):
        np.testing.assert_allclose((point.lo, point.hi), interval([y[:, i]], iqm, QUICK))
        assert point.estimate == iqm(y[:, i])
    shifted = curve_bands(aligned.assign(value=aligned["value"] + 5), "y", spec=QUICK)
    np.testing.assert_allclose(shifted["lo"], bands["lo"] + 5)


def test_curve_bands_where_runs_have_ended():
    curves = made_curves({f"a/{i}": [float(i)] * (5 if i < 4 else 3) for i in range(12)})
    bands = curve_bands(align(curves, np.arange(1000, 7000, 1000)), "y", spec=QUICK)
    assert bands["n_runs"].tolist() == [12, 12, 12, 4, 4, 0] and bands["env_steps"].is_monotonic_increasing
    assert bands["estimate"].tolist()[:5] == [5.5, 5.5, 5.5, 1.5, 1.5] and np.isnan(bands["estimate"].iloc[5])
    assert "4 of 12 runs got here" in bands["warning"].iloc[3] and bands["warning"].iloc[0] == ""


def test_few_runs_are_said():
    def of(n: int) -> tuple[str, float]:
        result = aggregate(made_scores({"a": list(range(n))}), "return", spec=QUICK).iloc[0]
        return result["warning"], result["lo"]

    assert of(10)[0] == ""
    assert "9 runs: a nominal 95% interval covers less" in of(9)[0] and not np.isnan(of(9)[1])
    assert "nothing is trimmed" in of(3)[0] and not np.isnan(of(3)[1])
    assert "fewer than 3 runs: no interval" in of(2)[0] and np.isnan(of(2)[1])
    assert np.isnan(of(1)[1])


def test_runs_without_a_score_are_said():
    result = aggregate(made_scores({"a": [1.0, np.nan, 3.0, 2.0], "b": [np.nan]}), "return", spec=QUICK)
    assert "1 of 4 runs have no score" in result.loc[0, "warning"] and result.loc[0, "estimate"] == 2
    assert np.isnan(result.loc[1, "estimate"]) and result.loc[1, "n_runs"] == 0 and "no scores" in result.loc[1, "warning"]


def test_unknown_statistic():
    with pytest.raises(InputError, match="no statistic 'mode'; there are: iqm, mean, median"):
        aggregate(made_scores({"a": [1.0]}), "return", "mode")


def test_profile_and_improvements():
    scores = made_scores({"a": [1.0, 2, 3, 4], "b": [0.0, 0, 5, 1]})
    result = profile(scores, "return", [0, 2, 4.5], QUICK)
    assert result["estimate"].tolist() == [1, 0.5, 0, 0.5, 0.25, 0.25] and result["tau"].tolist() == [0, 2, 4.5] * 2
    better = improvements(scores, "return", QUICK)
    assert better[["a", "b"]].to_numpy().tolist() == [["a", "b"], ["b", "a"]] and better["p"].nunique() == 1
    assert better["estimate"].tolist() == [(2.5 + 3 + 3 + 3) / 16, (0 + 0 + 4 + 0.5) / 16]
    np.testing.assert_allclose(better["estimate"].sum(), 1)
    assert improvements(scores[scores["variant"] == "a"], "return").empty


def test_improvement_over_all_environments(rng: np.random.Generator):
    """rliable's, whose scores are [runs, tasks]; an interval like that of a loop; and every env counts alike, whatever
    its scale and the number of its runs."""
    x, y = rng.normal(size=(2, 9, 3)).round(1) * [1, 10, 1000]
    scores = [made_scores({"x": list(x[:, i]), "y": list(y[:, i])}, f"env{i}") for i in range(3)]
    rows = improvements(pd.concat(scores), "return", Bootstrap(0.9, 400, 3)).set_index(["variant", "env"])
    pooled = rows.loc["x > y", "all"]
    turned = improvements(pd.concat(scores[::-1]), "return", Bootstrap(0.9, 400, 3)).set_index(["variant", "env"])
    pd.testing.assert_series_equal(turned.loc["x > y", "all"], pooled)  # whichever environment comes first
    np.testing.assert_allclose(pooled["estimate"], rliable.probability_of_improvement(x, y))
    np.testing.assert_allclose(pooled["estimate"], rows.loc["x > y"].drop("all")["estimate"].mean())
    generator = np.random.default_rng(3)
    picks = [generator.integers(0, 9, size=(400, 9)) for _ in range(6)]
    means = [np.mean([probability_of_improvement(x[picks[2 * i][k], i], y[picks[2 * i + 1][k], i]) for i in range(3)])
             for k in range(400)]  # fmt: skip
    np.testing.assert_allclose((pooled["lo"], pooled["hi"]), np.quantile(means, [0.05, 0.95]), atol=0.03)
    assert pooled["hi"] - pooled["lo"] < 0.8 * (rows.loc["x > y", "env0"]["hi"] - rows.loc["x > y", "env0"]["lo"])
    more = pd.concat([*scores[:2], made_scores({"x": list(x[:, 2]) * 5, "y": list(y[:, 2])}, "env2")])
    again = improvements(more, "return", QUICK).set_index(["variant", "env"]).loc["x > y", "all"]
    np.testing.assert_allclose(again["estimate"], pooled["estimate"])
    broken = improvements(pd.concat([scores[0], made_scores({"x": [np.nan], "y": [np.nan]}, "?")]), "return", QUICK)
    assert "all" not in set(broken["env"])  # an environment without a score is none
    absent = improvements(pd.concat([*scores[:2], made_scores({"x": [1.0] * 9}, "env2")]), "return", QUICK)
    nothing = absent.set_index(["variant", "env"]).loc[("x > y", "all")]
    assert np.isnan(nothing["estimate"]) and nothing["n_runs"] == 0
    two = improvements(pd.concat(scores[:2]), "return", QUICK).set_index(["variant", "env"]).loc["x > y", "estimate"]
    np.testing.assert_allclose(two["all"], (two["env0"] + two["env1"]) / 2)


def test_tolerance_confidence_is_that_of_order_statistics(rng: np.random.Generator):
    np.testing.assert_allclose([tolerance_confidence(1, n, n, 0.9) for n in (10, 30)], [0.26, 0.82], atol=0.005)
    samples = np.sort(rng.random((20_000, 12)))
    held = samples[:, 10] - samples[:, 1]  # of a uniform distribution [x_(2), x_(11)] holds its own length
    np.testing.assert_allclose(tolerance_confidence(2, 11, 12, 0.7), (held >= 0.7).mean(), atol=0.01)
    assert tolerance_ranks(10, 0.9, 0.95) == (1, 10) and tolerance_ranks(10, 0.001, 0.95) == (5, 6)
    assert tolerance_ranks(3, 0.5, tolerance_confidence(1, 2, 3, 0.5)) == (1, 2)  # exactly the level is enough
    r, s = tolerance_ranks(200, 0.9, 0.95)
    assert tolerance_confidence(r, s, 200, 0.9) >= 0.95 > tolerance_confidence(r, s - 1, 200, 0.9)
    assert abs((r - 1) - (200 - s)) <= 1


def test_tolerance_rows():
    row = tolerance(made_scores({"a": [5.0, 1, 3]}), "return").iloc[0]
    assert (row["lo"], row["estimate"], row["hi"]) == (1, 3, 5)
    np.testing.assert_allclose(row["level"], stats.binom.cdf(1, 3, 0.9))
    assert "only 3% confidence" in row["warning"]
    assert np.isnan(tolerance(made_scores({"a": [5.0]}), "return")["lo"].item())
    curves = made_curves({"a/0": [1, 2], "a/1": [3]})
    bands = tolerance_bands(align(curves, np.array([1000, 2000])), "y")
    assert row["params_json"] == bands["params_json"].iloc[0] == '{"asked": 0.95, "share": 0.9}'
    assert bands["lo"].iloc[0] == 1 and np.isnan(bands["lo"].iloc[1]) and "1 of 2 runs" in bands["warning"].iloc[1]
