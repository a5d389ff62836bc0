"""Time to threshold against scipy, statsmodels and a worked example."""

import numpy as np
import pandas as pd
import pytest
from run_folders import made_curves
from scipy import stats
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from analysis.statistics.aggregates import Bootstrap
from analysis.statistics.survival import (
    at_horizon,
    common_horizon,
    kaplan_meier,
    log_rank,
    median_times,
    restricted_mean,
    restricted_means,
    restricted_ratios,
    times_to_threshold,
)


def made_times(groups: dict[str, list[float]]) -> pd.DataFrame:
    """Times of each variant; a negative one is censored there."""
    rows = [
        {"run_id": f"{variant}/{i}", "variant": variant, "env": "e", "seed": i, "time": abs(t), "reached": t > 0}
        for variant, times in groups.items()
        for i, t in enumerate(times)
    ]
    return pd.DataFrame(rows).astype({"time": float}).assign(cut_short=False)


@pytest.fixture
def random_times() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    a, b = rng.exponential(100, 41).round(-1) + 10, rng.exponential(200, 31).round(-1) + 10  # ties; S is never ½
    return made_times({"a": list(np.where(a > 300, -300, a)), "b": list(np.where(b > 300, -300, b))})


def test_times():
    curves = made_curves({"a/0": [1, 9, 2, 9], "a/1": [1, 2, 3], "a/2": [9]})
    runs = pd.DataFrame(
        {
            "run_id": ["a/0", "a/1", "a/2", "a/3"],
            "variant": "a",
            "env": "e",
            "seed": [0, 1, 2, 3],
            "env_steps": [4000, 3500, 1000, 0],
            "reward_threshold": 5.0,
            "status": ["completed", "diverged", "running", "missing"],
        }
    )
    times = times_to_threshold(curves, runs)
    assert times["time"].tolist() == [2000, 3500, 1000, 0]  # the first time; or the run's last step
    assert times["reached"].tolist() == [True, False, True, False]
    assert times["cut_short"].tolist() == [False, True, False, True]
    assert times_to_threshold(curves, runs, threshold=3)["time"].tolist() == [2000, 3000, 1000, 0]
    assert not times_to_threshold(curves, runs.assign(reward_threshold=np.nan))["reached"].any()


def test_kaplan_meier_by_hand():
    """6 runs: S falls by 1/6, then (one censored at 20) by 1/4 of what is left, then by 1/2."""
    table = kaplan_meier(made_times({"a": [10, -20, 30, 30, -40, -50]}))
    assert table["env_steps"].tolist() == [0, 10, 20, 30, 40, 50]
    np.testing.assert_allclose(table["survival"], [1, 5 / 6, 5 / 6, 5 / 6 * 2 / 4, 5 / 12, 5 / 12])
    assert table["at_risk"].tolist() == [6, 6, 5, 4, 2, 1] and table["events"].tolist() == [0, 1, 0, 2, 0, 0]
    assert table["censored"].tolist() == [0, 0, 1, 0, 1, 1]
    assert (table["lo"].iloc[0], table["hi"].iloc[0]) == (1, 1)


def test_agrees_with_statsmodels(random_times: pd.DataFrame):
    table = kaplan_meier(random_times)
    for variant, group in random_times.groupby("variant"):
        theirs = SurvfuncRight(group["time"], group["reached"].astype(int))
        ours = table[table["variant"] == variant].set_index("env_steps").loc[theirs.surv_times]
        np.testing.assert_allclose(ours["survival"], theirs.surv_prob)
        median = median_times(random_times).set_index("variant").loc[variant]
        assert median["estimate"] == theirs.quantile(0.5)
        np.testing.assert_allclose(median[["lo", "hi"]].astype(float), theirs.quantile_ci(0.5, method="cloglog"))
    test = log_rank(random_times).iloc[0]
    chi2, p = survdiff(random_times["time"], random_times["reached"].astype(int), random_times["variant"])
    np.testing.assert_allclose((test["estimate"] ** 2, test["p"]), (chi2, p))
    assert test["estimate"] > 0  # a is sooner


def test_restricted_mean_is_the_area_under_kaplan_meier(random_times: pd.DataFrame):
    for _, group in random_times.groupby("variant"):
        time, reached = group["time"].to_numpy(), group["reached"].to_numpy()
        curve = stats.ecdf(stats.CensoredData.right_censored(time, ~reached)).sf
        for horizon in (5, 60, 75.5, 300):
            edges = np.concatenate([[0.0], curve.quantiles[curve.quantiles < horizon], [horizon]])
            area = sum(curve.evaluate(left) * (right - left) for left, right in zip(edges[:-1], edges[1:], strict=True))
            np.testing.assert_allclose(restricted_mean(time, reached, horizon), area)
    both = np.stack([time, time[::-1]]), np.stack([reached, reached[::-1]])
    np.testing.assert_allclose(restricted_mean(*both, 100), [restricted_mean(time, reached, 100)] * 2)
    np.testing.assert_allclose(restricted_mean([10, 20, 90], [True, True, True], 50), (10 + 20 + 50) / 3)  # a plain mean


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_at_the_same_step_who_got_there_comes_before_who_was_censored(order: tuple[int, int]):
    """Of two runs one gets there at 10, where the other ends: S is ½ from then on, and not 0."""
    time, reached = np.array([10.0, 10.0]), np.array([True, False])[list(order)]
    assert restricted_mean(time, reached, 20) == 10 + 0.5 * 10
    assert kaplan_meier(made_times({"a": [10, -10]}))["survival"].tolist() == [1, 0.5]


def followed(*runs: tuple) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Times and runs from (time, reached, status, env steps, budget)."""
    names = [f"r{i}" for i in range(len(runs))]
    time, reached, status, steps, budget = map(list, zip(*runs, strict=True))
    about = pd.DataFrame({"run_id": names, "status": status, "env_steps": steps, "budget": budget})
    times = pd.DataFrame({"run_id": names, "variant": "a", "env": "e", "seed": range(len(runs)), "time": time,
                          "reached": reached, "cut_short": False}).astype({"time": float})  # fmt: skip
    return times, about


def test_the_horizon_is_what_all_runs_were_followed_for():
    completed = (1000, False, "completed", 1000, 1000)
    assert common_horizon(*followed(completed, (2000, False, "completed", 2000, 2000))) == 1000
    stopped = (100, True, "completed", 100, 2000)  # when it had got there
    assert common_horizon(*followed(completed, stopped)) == 1000 and common_horizon(*followed(stopped, stopped)) == 2000
    for status in ("diverged", "failed", "interrupted", "running"):  # ends before the others do, and does not shorten them
        assert common_horizon(*followed(completed, (50, False, status, 50, 1000))) == 1000
    assert common_horizon(*followed((70, False, "running", 70, 1000), (50, False, "running", 50, 1000))) == 50
    assert np.isnan(common_horizon(*followed((0, False, "failed", 0, 1000))))


def test_times_at_a_horizon():
    times, runs = followed(
        (100, True, "completed", 2000, 2000), (1500, True, "completed", 2000, 2000), (1000, True, "completed", 2000, 2000),
        (2000, False, "completed", 2000, 2000), (50, False, "diverged", 50, 2000), (60, False, "failed", 60, 2000),
        (70, False, "interrupted", 70, 2000), (1200, False, "running", 1200, 2000),
    )  # fmt: skip
    cut = at_horizon(times, runs, 1000)
    assert cut["time"].tolist() == [100, 1000, 1000, 1000, 1000, 1000, 70, 1000]
    assert cut["reached"].tolist() == [True, False, True, False, False, False, False, False]  # at the horizon is within it
    assert cut["cut_short"].tolist() == [False] * 6 + [True, False]  # the last was followed beyond it


def test_restricted_ratios():
    times = made_times({"a": [10, 20, 30], "b": [-50, -60, 10], "c": [-5, -6, -7]})
    rows = restricted_ratios(times, 40, Bootstrap(n_boot=100)).set_index(["a", "b"])
    row = rows.loc[("a", "b")]
    assert row["estimate"] == 20 / 30 and row["lo"] <= 20 / 30 <= row["hi"]
    assert np.isnan(rows.loc[("a", "c"), "estimate"]) and "followed up to the horizon" in rows.loc[("a", "c"), "warning"]
    back = restricted_ratios(made_times({"a": [-50, -60, 10], "b": [10, 20, 30]}), 40, Bootstrap(n_boot=100)).iloc[0]
    assert back["estimate"] == pytest.approx(30 / 20)


def test_restricted_means_rows():
    times = made_times({"a": [10, 20, 30], "b": [-50, -60, 10], "c": [-5, -6, -7]})
    result = restricted_means(times, 40, Bootstrap(n_boot=100)).set_index("variant")
    np.testing.assert_allclose(result["estimate"], [20, 30, np.nan])
    assert result.loc["a", "lo"] <= 20 <= result.loc["a", "hi"]
    assert "followed up to the horizon" in result.loc["c", "warning"]


def test_nobody_and_everybody_reached_it():
    none = made_times({"a": [-5, -5], "b": [-5, -6]})
    assert np.isnan(log_rank(none)["p"].item()) and log_rank(none)["warning"].item() == "no run reached the threshold"
    medians = median_times(none)
    assert medians["estimate"].isna().all() and medians["reached"].tolist() == [0, 0]
    everyone = made_times({"a": [5, 5, 5]})
    assert median_times(everyone)["estimate"].item() == 5 and kaplan_meier(everyone)["survival"].tolist() == [1, 0]
    assert log_rank(everyone).empty
    for a, b in (([5, -6], [-5, -6]), ([-5, -6], [5, -6])):  # one run of one variant is enough for a test
        one = log_rank(made_times({"a": a, "b": b})).iloc[0]
        assert one["estimate"] * (1 if a[0] > 0 else -1) == pytest.approx(1) and one["warning"] == ""
    cut = median_times(none.assign(cut_short=True))
    assert "2 of 2 runs ended before their budget" in cut["warning"].iloc[0]
