"""Chan et al. (2020) by hand and by naive loops; and where the published default is wrong, ours is not."""

import numpy as np
import pandas as pd
import pytest
from run_folders import made_curves
from scipy import stats

from analysis.align import align
from analysis.statistics.aggregates import Bootstrap, iqm
from analysis.statistics.reliability import (
    Reliability,
    across_rollouts,
    across_runs,
    cvar,
    differences,
    dispersion_across_time,
    drawdown,
    iqr,
    over_runs,
    span,
    within_runs,
)

RAW = Reliability(normalise=False, window=3000, min_points=2)
WIDE = Reliability(normalise=False, window=3000)
QUICK = Bootstrap(n_boot=100)
BASES = {"CartPole-v1": -1.0}


def estimates(results: pd.DataFrame) -> dict[str, float]:
    return dict(zip(results["metric"].str.removesuffix(" of y"), results["estimate"], strict=True))


def test_cvar_by_hand():
    x = np.arange(1.0, 101.0)  # the 5 % quantile is 5.95: the mean of 1 … 5
    assert cvar(x, 0.05) == 3.0
    assert cvar(x, 0.05, "upper") == 98.0  # of 96 … 100
    assert cvar(np.array([2.0, np.nan, 4.0]), 0.05) == 2.0  # never empty: the tail includes the quantile's own x
    assert cvar(np.array([3.0]), 0.05) == cvar(np.array([3.0]), 0.05, "upper") == 3.0
    assert np.isnan(cvar(np.array([np.nan]), 0.05))


def test_drawdown_by_hand():
    np.testing.assert_array_equal(drawdown(np.array([1.0, 4, 2, 5, 0])), [0, 0, 2, 0, 5])
    np.testing.assert_array_equal(drawdown(np.array([1.0, np.nan, 0.5])), [0, np.nan, 0.5])


def test_within_a_run_by_hand():
    results = estimates(within_runs(made_curves({"a/0": [0, 2, 1, 5, 4]}), "y", RAW))
    # d per 1000 steps: 2 −1 4 −1. The whole windows of 3000 steps hold (2 −1 4) and (−1 4 −1)
    first, second = (
        np.subtract(*np.quantile([2, -1, 4], [0.75, 0.25])),
        np.subtract(*np.quantile([-1, 4, -1], [0.75, 0.25])),
    )
    assert (first, second) == (2.5, 2.5)
    np.testing.assert_allclose(results["DT"], 2.5e-3)
    np.testing.assert_allclose(results["SRT"], -1e-3)
    assert results["LRT"] == results["max drawdown"] == 1.0


def test_within_a_run_by_naive_loops(rng: np.random.Generator):
    y = rng.normal(size=200).cumsum()
    t = rng.integers(1, 400, size=200).cumsum()
    curves = made_curves({"a/0": list(y)}).assign(env_steps=t)
    results = estimates(within_runs(curves, "y", Reliability(window=5000, min_points=4)))
    scale = np.percentile(y, 95) - y[0]
    d = [(y[i] - y[i - 1]) / (t[i] - t[i - 1]) for i in range(1, 200)]
    spreads = []
    for end in range(1, 200):
        inside = [d[i - 1] for i in range(1, 200) if t[end] - 5000 < t[i] <= t[end]]
        if t[end] - 5000 >= t[0] and len(inside) >= 4:
            spreads.append(stats.iqr(inside))
    losses = [max(y[: i + 1]) - y[i] for i in range(200)]
    np.testing.assert_allclose(results["DT"], np.mean(spreads) / scale, rtol=1e-9)
    worst = [x for x in d if x <= np.percentile(d, 5)]
    np.testing.assert_allclose(results["SRT"], np.mean(worst) / scale)
    worst = [x for x in losses if x >= np.percentile(losses, 95)]
    np.testing.assert_allclose(results["LRT"], np.mean(worst) / scale)
    np.testing.assert_allclose(results["max drawdown"], max(losses) / scale)


def test_a_full_collapse_is_a_long_term_risk():
    """The published code's default configuration takes the lower tail of the drawdown, and sees nothing here."""
    y = np.array([*range(0, 101, 5), *[0.0] * 10])
    assert cvar(drawdown(y), 0.05, "lower") == 0.0
    assert estimates(within_runs(made_curves({"a/0": list(y)}), "y", RAW))["LRT"] == 100.0


# The worked examples of the published code (github.com/google-research/rl-reliability-metrics, Apache 2.0: the numbers
# of metrics/metrics_online_test.py, metrics_offline_test.py and metric_utils_test.py at commit 40fe3ef).

SEQUENCE = np.array([-1, 2, 3.5, 5, 2, 1, 1.5, 3, 1.5, 6, 2])
RISKY = {"a/0": ([1, 2, 4, 5], [1, 2, 3, 4]), "a/1": ([0, 1, 2, 3], [0.3, 0.1, -0.5, 1])}
WITHIN = {"a/0": ([5, 7, 9], [1, 1, 1]), "a/1": ([5, 7, 9, 11], [2, 3, 4, 5]), "a/2": ([5, 7, 9, 10], [5, 4, 2, 1])}
ROLLOUTS = {"a": [-1, 2, 5, 7, 3], "b": [6, 5, 1, 34, 2]}


def published_curves(runs: dict[str, tuple[list[float], list[float]]]) -> pd.DataFrame:
    parts = [made_curves({name: list(y)}).assign(env_steps=t) for name, (t, y) in runs.items()]
    return pd.concat(parts, ignore_index=True)


def of_metric(results: pd.DataFrame, name: str) -> list[float]:
    return results.loc[results["metric"] == f"{name} of y", "estimate"].tolist()


def test_published_building_blocks():
    np.testing.assert_array_equal(drawdown(SEQUENCE), [0, 0, 0, 0, 3, 4, 3.5, 2, 3.5, 0, 4])  # testComputeDrawdown
    assert cvar(SEQUENCE, 0.3) == 0.75 and cvar(SEQUENCE, 0.1, "upper") == 5.5  # testComputeCVaR
    np.testing.assert_allclose(differences(np.array([3, 6, 8, 9]), np.array([-1, 4, 2.3, 0])),
                               [1.66666667, -0.85, -2.3])  # fmt: skip  # testComputeDifferencing
    np.testing.assert_allclose([span(np.array([4.0, 5, 6])), span(np.array([-1, 4, 2.3, 0]))],
                               [1.9, 4.745])  # fmt: skip  # testCurveRange


@pytest.mark.parametrize(("alpha", "expected"), [(0.51, [0.8333333, -0.4]), (0.49, [0.5, -0.6])])
def test_published_short_term_risk(alpha: float, expected: list[float]):
    """testCorrectCVaR, LowerCVaROnDiffs."""
    spec = Reliability(alpha, window=10, min_points=1, normalise=False)
    found = of_metric(within_runs(published_curves(RISKY), "y", spec), "SRT")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("alpha", "expected"), [(0.25, [0, 0.8]), (0.49, [0, 0.5])])
def test_published_long_term_risk(alpha: float, expected: list[float]):
    """testCorrectCVaR: UpperCVaROnDrawdown is ours. LowerCVaROnDrawdown, which evaluation/example.gin asks for, is 0 for
    both curves, though the second falls from .3 to −.5."""
    found = within_runs(published_curves(RISKY), "y", Reliability(alpha, window=10, min_points=1, normalise=False))
    np.testing.assert_allclose(of_metric(found, "LRT"), expected)
    for lower_alpha in (0.51, 0.49):
        assert [cvar(drawdown(np.array(y, float)), lower_alpha, "lower") for _, y in RISKY.values()] == [0, 0]


def test_published_maximal_drawdown():
    """testCorrectMaxDrawdown, those that are not divided by the mean."""
    curves = {"a/0": [1, 2, 3, 4], "a/1": [-1, -2, -3, -4, -5], "a/2": [1, 3, 2, 1.2], "a/3": [5, 5, 3, 6, 5],
              "a/4": [100, 150, 90, 120, 80, 200]}  # fmt: skip
    found = within_runs(made_curves({name: [float(x) for x in y] for name, y in curves.items()}), "y", RAW)
    np.testing.assert_allclose(of_metric(found, "max drawdown"), [0, 4, 1.8, 2, 70])


@pytest.mark.parametrize(("window", "points"), [(3, 3), (4, 4)], ids=["at its point 9", "whole runs"])
def test_published_dispersion_across_time(window: int, points: int):
    """testCorrectIqrWithinRuns. Over a whole run theirs is of all differences, of which there are at most 3 here."""
    curves = published_curves({name: (t[:points], y[:points]) for name, (t, y) in WITHIN.items()})
    found = within_runs(curves, "y", Reliability(window=window, min_points=2, normalise=False))
    np.testing.assert_allclose(of_metric(found, "DT"), [0, 0, 0.25])


def test_published_dispersion_of_a_run_that_fell():
    """testCorrectStddevWithinRuns, by `curve_range`: a dispersion of −1.92. Ours is none, and says why."""
    t, y = np.array(WITHIN["a/2"], float)
    np.testing.assert_allclose(differences(t, y).std(ddof=1) / span(y), -1.9245008946666669)
    found = within_runs(published_curves(WITHIN), "y", Reliability(window=4, min_points=2))
    fell = found[(found["run_id"] == "a/2") & (found["metric"] == "DT of y")].iloc[0]
    assert np.isnan(fell["estimate"]) and "P95(y) − y₀ is not positive" in fell["warning"]


def test_published_dispersion_and_risk_across_runs():
    """testCorrectIqrAcrossRuns at 0 and 1; LowerCVaROnAcross of testCorrectCVaR at the times that both curves have."""
    curves = published_curves({"a/0": ([-1, 0, 1], [1, 1, 1]), "a/1": ([-1, 0, 1, 2], [2, 3, 4, 5])})
    spec = Reliability(normalise=False)
    at = [across_runs(align(curves, np.array([step])), curves, "y", {}, spec, QUICK) for step in (0, 1)]
    assert [of_metric(found, "DR") for found in at] == [[1], [1.5]]
    risky = published_curves(RISKY)
    spec = Reliability(0.51, normalise=False)
    found = across_runs(align(risky, np.array([1, 2])), risky, "y", {}, spec, QUICK)
    np.testing.assert_allclose(of_metric(found, "RR"), [np.mean([0.1, -0.5])])


def test_published_dispersion_and_risk_across_rollouts():
    """testCorrectIqrAcrossRollouts (divided by the median) and LowerCVaRAcrossRollouts (by ½ there)."""
    episodes = pd.concat([pd.DataFrame({"run_id": name, "variant": "v", "env": "e", "value": np.array(x, float)})
                          for name, x in ROLLOUTS.items()])  # fmt: skip
    assert of_metric(across_rollouts(episodes, "y"), "DF") == [3 / 3, 4 / 5]
    found = across_rollouts(episodes, "y", Reliability(0.49, normalise=False))
    np.testing.assert_allclose(np.array(of_metric(found, "RF")) / 0.5, [0.5 / 0.5, 1.5 / 0.5])


def test_normaliser():
    assert span(np.array([1.0, np.nan, 5.0])) == np.quantile([1, 5], 0.95) - 1
    falling = within_runs(made_curves({"a/0": [5, 4, 3, 2, 1]}), "y", Reliability(window=2000, min_points=1))
    assert falling["estimate"].isna().all() and falling["warning"].str.contains("not positive").all()
    short = within_runs(made_curves({"a/0": [1, 2]}), "y")
    assert "no window of 50,000" in short.loc[0, "warning"] and np.isnan(short.loc[0, "estimate"])
    alone = within_runs(made_curves({"a/0": [np.nan, 3]}), "y", RAW)
    assert alone["estimate"].isna().tolist() == [True, True, False, False]
    assert alone["warning"].tolist() == ["too few points", "too few points", "", ""]
    assert within_runs(made_curves({"a/0": [np.nan]}), "y")["estimate"].isna().all()


@pytest.fixture
def sweep() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return made_curves({f"{v}/{i}": list(rng.normal(size=12).cumsum() + np.arange(12)) for v in "ab" for i in range(10)})


def test_within_runs_over_runs(sweep: pd.DataFrame):
    within = within_runs(sweep, "y", WIDE)
    runs = sweep.drop_duplicates("run_id")
    result = over_runs(within, runs, QUICK)
    assert result["metric"].tolist() == [f"{m} of y" for m in ("DT", "SRT", "LRT", "max drawdown") for _ in "ab"]
    assert result.index.tolist() == list(range(8))
    one = within[(within["variant"] == "a") & (within["metric"] == "LRT of y")]["estimate"]
    row = result[(result["variant"] == "a") & (result["metric"] == "LRT of y")].iloc[0]
    assert row["estimate"] == iqm(one.to_numpy()) and row["lo"] <= row["estimate"] <= row["hi"] and row["n_runs"] == 10


def test_across_runs_is_the_loop_over_points(sweep: pd.DataFrame):
    """… of the grid, and the range is that of whole curves, which here go on and are finer."""
    steps = np.arange(1000, 11_000, 2000)
    aligned = align(sweep, steps)
    for spec in (WIDE, Reliability()):
        result = across_runs(aligned, sweep, "y", BASES, spec, QUICK).set_index(["variant", "metric"])
        of_a = [run["value"].to_numpy() for _, run in sweep[sweep["variant"] == "a"].groupby("run_id", sort=False)]
        y = np.array(of_a)[:, ::2][:, :5]
        scale, base = (np.median([span(run) for run in of_a]), -1) if spec.normalise else (1, 0)
        np.testing.assert_allclose(result.loc[("a", "DR of y"), "estimate"], np.mean([iqr(x) for x in y.T]) / scale)
        risk = np.mean([cvar(x, 0.05) for x in y.T])
        np.testing.assert_allclose(result.loc[("a", "RR of y"), "estimate"], (risk - base) / scale)
        picks = np.random.default_rng(0).integers(0, 10, size=(100, 10))
        resampled = [np.mean([iqr(x) for x in y[pick].T]) / scale for pick in picks]
        np.testing.assert_allclose(
            result.loc[("a", "DR of y"), ["lo", "hi"]].astype(float), np.quantile(resampled, [0.025, 0.975])
        )
    assert "lo is too high" in result.loc[("a", "RR of y"), "warning"]
    assert result.loc[("a", "DR of y"), "warning"] == ""
    assert result.loc[("a", "DR of y"), "method"].startswith("averaged over 5 points")


def test_the_risk_across_runs_does_not_change_with_a_constant_added_to_all_rewards(sweep: pd.DataFrame):
    """F10: it is a level, which over a range alone was .54, 1.18 and −.74 under +0, +300 and −600."""
    found = []
    for shift, scale in ((0, 1), (300, 1), (-600, 1), (0, 0.01), (7, 30)):
        moved, bases = sweep.assign(value=shift + scale * sweep["value"]), {"CartPole-v1": shift - scale}
        found.append(across_runs(moved, moved, "y", bases, Reliability(), QUICK)[["estimate", "lo", "hi"]].to_numpy())
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-9)


def test_across_runs_that_cannot_be_normalised_or_are_alone_or_end_early(sweep: pd.DataFrame):
    flat = sweep.assign(value=1.0)
    table = across_runs(flat, flat, "y", BASES, Reliability(), QUICK)
    assert table["estimate"].isna().all() and table["warning"].str.contains("nothing to normalise by").all()
    one = sweep[sweep["run_id"] == "a/0"]
    table = across_runs(one, one, "y", {}, WIDE, QUICK)
    assert table["estimate"].isna().all() and table["warning"].str.contains("fewer than 2 runs").all()
    two = sweep[sweep["run_id"].isin(["a/0", "a/1"])]
    table = across_runs(two, two, "y", {}, WIDE, QUICK)
    assert table["estimate"].notna().all() and not table["warning"].str.contains("in common").any()
    table = across_runs(sweep, sweep, "y", {"CartPole-v1": np.nan}, Reliability(), QUICK)
    risk = table["metric"] == "RR of y"
    assert table.loc[risk, "estimate"].isna().all() and table.loc[~risk, "estimate"].notna().all()
    assert table.loc[risk, "warning"].str.contains("what an untrained policy returns is not known").all()
    early = sweep[(sweep["run_id"] != "a/0") | (sweep["env_steps"] <= 4000)]
    table = across_runs(align(early, np.arange(1000, 13_000, 1000)), early, "y", {}, WIDE, QUICK)
    assert table["warning"].str.contains("up to 4,000 env steps only").tolist() == [True, True, False, False]


@pytest.mark.filterwarnings("error")
def test_across_runs_that_have_no_point_in_common(sweep: pd.DataFrame):
    first, second = sweep["run_id"] == "a/0", sweep["run_id"] == "a/1"
    apart = sweep[(first & (sweep["env_steps"] < 5000)) | (second & (sweep["env_steps"] > 5000))]
    table = across_runs(align(apart, np.arange(1000, 13_000, 1000)), apart, "y", {}, WIDE, QUICK)
    assert table["estimate"].isna().all()
    assert table["warning"].str.endswith("fewer than 2 runs with a point in common").all()


@pytest.mark.parametrize(("alpha", "few"), [(0.2, False), (0.19, True)])
def test_a_tail_of_two_runs_is_enough(sweep: pd.DataFrame, alpha: float, few: bool):
    table = across_runs(sweep, sweep, "y", {}, Reliability(alpha, normalise=False), QUICK)
    assert table["warning"].str.contains("hardly more than one").tolist() == [False, few] * 2


def test_across_rollouts():
    rollouts = pd.DataFrame({"run_id": "r", "variant": "a", "env": "e", "value": [10.0, 20, 30, 40, 50]})
    assert estimates(across_rollouts(rollouts, "y")) == {"DF": 20 / 30, "RF": 10 / 30}
    for value in (-1.0, 0.0):
        low = across_rollouts(rollouts.assign(value=value), "y")
        assert low["estimate"].isna().all() and (low["warning"] == "the median is not positive").all()
        assert (low["n_runs"] == 1).all()


def test_differences_are_per_env_step():
    np.testing.assert_array_equal(differences(np.array([0, 10, 30]), np.array([0.0, 5, 5])), [0.5, 0])
    assert np.isnan(dispersion_across_time(np.array([1.0]), np.array([1.0]), 10, 1))
    assert dispersion_across_time(np.array([1.0, 11]), np.array([1.0, 3]), 10, 1) == 0  # of one difference


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
