"""Reliability over runs and shares of collapses, against loops, scipy and a worked example."""

import numpy as np
import pandas as pd
import pytest
from run_folders import made_curves
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from analysis.aggregates import Bootstrap, iqm
from analysis.reliability import Reliability, cvar, iqr, span, within_runs
from analysis.summary import across_runs, collapse_shares, collapse_tests, over_runs

QUICK = Bootstrap(n_boot=100)
RAW = Reliability(normalise=False, window=3000)


@pytest.fixture
def curves() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return made_curves(
        {f"{v}/{i}": list(rng.normal(size=12).cumsum() + np.arange(12)) for v in "ab" for i in range(10)}
    )


def test_within_runs_over_runs(curves: pd.DataFrame):
    within = within_runs(curves, "y", RAW)
    runs = curves.drop_duplicates("run_id")
    result = over_runs(within, runs, QUICK)
    assert result["metric"].tolist() == [f"{m} of y" for m in ("DT", "SRT", "LRT", "max drawdown") for _ in "ab"]
    one = within[(within["variant"] == "a") & (within["metric"] == "LRT of y")]["estimate"]
    row = result[(result["variant"] == "a") & (result["metric"] == "LRT of y")].iloc[0]
    assert row["estimate"] == iqm(one.to_numpy()) and row["lo"] <= row["estimate"] <= row["hi"] and row["n_runs"] == 10


def test_across_runs_is_the_loop_over_points(curves: pd.DataFrame):
    for spec in (RAW, Reliability()):
        result = across_runs(curves, "y", spec, QUICK).set_index(["variant", "metric"])
        y = np.array([run["value"] for _, run in curves[curves["variant"] == "a"].groupby("run_id", sort=False)])
        scale = np.median([span(run) for run in y]) if spec.normalise else 1
        np.testing.assert_allclose(result.loc[("a", "DR of y"), "estimate"], np.mean([iqr(x) for x in y.T]) / scale)
        np.testing.assert_allclose(
            result.loc[("a", "RR of y"), "estimate"], np.mean([cvar(x, 0.05) for x in y.T]) / scale
        )
        picks = np.random.default_rng(0).integers(0, 10, size=(100, 10))
        resampled = [np.mean([iqr(x) for x in y[pick].T]) / scale for pick in picks]
        np.testing.assert_allclose(
            result.loc[("a", "DR of y"), ["lo", "hi"]].astype(float), np.quantile(resampled, [0.025, 0.975])
        )
    assert "lo is too high" in result.loc[("a", "RR of y"), "warning"]
    assert result.loc[("a", "DR of y"), "warning"] == ""


def test_across_runs_that_cannot_be_normalised_or_are_alone(curves: pd.DataFrame):
    flat = across_runs(curves.assign(value=1.0), "y", Reliability(), QUICK)
    assert flat["estimate"].isna().all() and flat["warning"].str.contains("nothing to normalise by").all()
    one = across_runs(curves[curves["run_id"] == "a/0"], "y", RAW, QUICK)
    assert one["estimate"].isna().all() and one["warning"].str.contains("fewer than 2 runs").all()


def outcomes(counts: dict[str, tuple[int, int]]) -> pd.DataFrame:
    rows = [
        {"variant": variant, "env": "e", "collapses": int(i < k), "final": 1.0}
        for variant, (k, n) in counts.items()
        for i in range(n)
    ]
    return pd.DataFrame(rows)


def test_collapses_agree_with_scipy_and_statsmodels():
    shares = collapse_shares(outcomes({"a": (1, 30), "b": (8, 30)}))
    assert shares["collapsed"].tolist() == [1, 8] and shares["estimate"].tolist() == [1 / 30, 8 / 30]
    np.testing.assert_allclose(shares.loc[1, ["lo", "hi"]].astype(float), proportion_confint(8, 30, method="wilson"))
    test = collapse_tests(shares).iloc[0]
    np.testing.assert_allclose(test["p"], stats.fisher_exact([[1, 29], [8, 22]]).pvalue)
    np.testing.assert_allclose((test["lo"], test["hi"]), confint_proportions_2indep(1, 30, 8, 30, method="newcomb"))


def test_runs_without_a_curve_do_not_count_as_safe():
    seen = outcomes({"a": (2, 4)})
    lost = seen.assign(final=np.nan, collapses=0)
    row = collapse_shares(pd.concat([seen, lost])).iloc[0]
    assert (row["collapsed"], row["n_runs"], row["warning"]) == (2, 4, "4 of 8 runs have no curve")
    none = collapse_shares(lost)
    assert np.isnan(none["estimate"].item()) and np.isnan(collapse_tests(pd.concat([none, none]))["p"].item())
