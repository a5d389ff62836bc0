"""Collapse detection on curves made for it."""

import numpy as np
import pandas as pd
import pytest
from run_folders import made_curves
from statsmodels.stats.proportion import proportion_confint

from analysis.events import COLUMNS, Collapse, collapse_shares, collapses, dead, drawdowns, outcomes
from analysis.load import RUNS

PLAIN = Collapse(smoothing=1)
RAMP = list(np.linspace(0, 500, 21))
NAN = np.nan


def found(y: list[float], threshold: float = 475.0, spec: Collapse = PLAIN) -> pd.DataFrame:
    return collapses(made_curves({"a/0": y}), threshold, spec)


def test_drawdown_episodes_by_hand():
    events = drawdowns(made_curves({"a/0": [0, 4, 3, 1, 5, 5, 2, 4], "a/1": [1, 2, 3]}))
    assert tuple(events.columns[: len(COLUMNS)]) == COLUMNS
    assert events[list(COLUMNS)].to_numpy().tolist() == [
        ["a/0", "drawdown", 3000, 2000, 4000, 5000, 3.0, True],
        ["a/0", "drawdown", 7000, 5000, 7000, 8000, 3.0, False],
    ]
    assert events["relative_depth"].tolist() == [3 / 4, 3 / 5] and events["duration"].tolist() == [2000, 1000]
    assert events["trough_value"].tolist() == [1, 2] and events["peak_value"].tolist() == [4, 5]


def test_drawdowns_by_a_naive_loop():
    y = np.random.default_rng(1).normal(size=300).cumsum()
    spans, start = [], None
    for i in range(300):
        below = y[i] < max(y[: i + 1])
        if below and start is None:
            start = i
        if not below and start is not None:
            spans.append((start, i))
            start = None
    events = drawdowns(made_curves({"a/0": list(y)}))
    assert [(e.start, e.end) for e in events[events["recovered"]].itertuples()] == [
        (1000 * (a + 1), 1000 * (b + 1)) for a, b in spans
    ]
    assert (~events["recovered"]).sum() == (start is not None)


NO_COLLAPSE = {
    "ramp": RAMP,
    "never learned": [20.0, 30, 10, 25, 5, 1, 1, 1, 1],
    "falls from below the level": [*RAMP[:15], 0, 0, 0, 0, 0],  # 350 < 0.8 · 475
    "dip of two points": [*RAMP, 100, 100, 500, 500],
    "not half": [*RAMP, *[260.0] * 10],
    "two low points at the end": [*RAMP, 0, 0],
    "empty": [],
    "nan only": [NAN, NAN],
    "one point": [500.0],
    "noise": list(400 + 60 * np.random.default_rng(0).normal(size=300)),
}


@pytest.mark.parametrize("y", NO_COLLAPSE.values(), ids=NO_COLLAPSE)
def test_no_collapse(y: list[float]):
    assert found(y).empty


def test_dip_and_recovery():
    event = found([*RAMP, 200, 100, 150, 300, 460, 500]).iloc[0]
    assert event[["kind", "start", "peak", "trough", "end", "depth", "recovered"]].tolist() == [
        "collapse",
        22000,
        21000,
        23000,
        26000,
        400,
        True,
    ]


def test_permanent_collapse_is_catastrophic():
    event = found([*RAMP, *[9.0] * 30]).iloc[0]
    assert (event["kind"], event["recovered"], event["end"], event["depth"]) == ("catastrophic", False, 51000, 491)
    half_way_back = found([*RAMP, *[9.0] * 5, *[440.0] * 20])  # 90 % of the peak is 450
    assert half_way_back["kind"].tolist() == ["catastrophic"]


def test_several_collapses():
    events = found([*RAMP, 0, 0, 0, 500, 0, 0, 0, 0, 480, 10, 10, 10])
    assert events["kind"].tolist() == ["collapse", "collapse", "catastrophic"]
    assert events["start"].tolist() == [22000, 26000, 31000]


def test_late_start_and_nan():
    late = made_curves({"a/0": [*RAMP, *[0.0] * 5]}, start=700_000)
    assert collapses(late, 475.0, PLAIN)["start"].tolist() == [721_000]
    assert found([NAN, NAN, *RAMP, 0, NAN, 0, NAN, 0])["start"].tolist() == [24000]  # three in a row of those measured
    assert found([*RAMP, *[0.0] * 5], threshold=NAN).empty


def test_unequal_lengths():
    curves = made_curves({"a/0": [*RAMP, *[0.0] * 9], "a/1": RAMP, "a/2": [3.0], "a/3": [*RAMP, 0, 0, 0, 500]})
    events = collapses(curves, {"a/0": 475, "a/1": 475, "a/2": 475, "a/3": 475}, PLAIN)
    assert dict(zip(events["run_id"], events["kind"], strict=True)) == {"a/0": "catastrophic", "a/3": "collapse"}
    assert collapses(curves.iloc[:0], 475.0).empty and drawdowns(curves.iloc[:0]).empty and dead(curves.iloc[:0]).empty


def test_smoothing_ignores_a_short_dip_and_finds_a_long_one():
    assert len(found([*RAMP, 0, 0, 0, *[500.0] * 9])) == 1
    assert found([*RAMP, 0, 0, 0, *[500.0] * 9], spec=Collapse(smoothing=10)).empty
    assert len(found([*RAMP, *[0.0] * 20], spec=Collapse(smoothing=10))) == 1


def test_negative_returns_are_measured_from_the_first():
    """Acrobot: −500 at the start, −100 solves it. Half of a peak of −80 would be −40, and every run a collapse."""
    learned = [-500.0, -300, -120, -90, -80, -85, -90, -95, -90]
    assert found(learned, threshold=-100.0).empty
    assert found([*learned, -400, -450, -450, -450], threshold=-100.0)["kind"].tolist() == ["catastrophic"]


def test_dead_policies():
    moving = made_curves(
        {"a/0": [1.0] * 5 + [1e-9] * 12, "a/1": [1.0] * 17, "a/2": [NAN] * 17, "a/3": [1.0] * 14 + [0.0] * 3}
    )
    events = dead(moving)
    assert events["run_id"].tolist() == ["a/0", "a/2"] and events["start"].tolist() == [6000, 1000]
    assert events["end"].tolist() == [17000, 17000]


def test_outcomes_leave_no_run_out():
    y = {
        "learned": RAMP,
        "collapsed": [*RAMP, 0, 0, 0],
        "dipped": [*RAMP, 0, 0, 0, 500],
        "never learned": [1.0, 2],
        "dead": [1.0] * 20,
        "diverged": RAMP,
        "unfinished": RAMP,
    }
    status = {"diverged": "diverged", "unfinished": "running"}
    curves = made_curves({f"a/{i}": values for i, values in enumerate(y.values())})
    runs = pd.DataFrame(
        [{"run_id": f"a/{i}", "status": status.get(name, "completed")} for i, name in enumerate([*y, "failed"])]
    )
    runs.loc[runs["run_id"] == "a/7", "status"] = "missing"
    runs = runs.assign(variant="a", env="e", seed=range(8), folder="f").reindex(columns=list(RUNS))
    events = pd.concat([collapses(curves, 475.0, PLAIN), dead(made_curves({"a/4": [0.0] * 20, "a/0": [0.0] * 21}))])
    table = outcomes(runs, curves, events, 475.0, PLAIN)
    assert table["outcome"].tolist() == [*y, "failed"]
    assert table["collapses"].tolist() == [0, 1, 1, 0, 0, 0, 0, 0] and table["final"].iloc[:2].tolist() == [500, 0]


def test_shares_have_the_interval_of_statsmodels_and_runs_without_a_curve_do_not_count_as_safe():
    seen = pd.DataFrame({"variant": "b", "env": "e", "collapses": [2] * 8 + [0] * 22, "final": 1.0})
    row = collapse_shares(seen).iloc[0]
    assert (row["collapsed"], row["n_runs"], row["estimate"], row["warning"]) == (8, 30, 8 / 30, "")
    np.testing.assert_allclose(row[["lo", "hi"]].astype(float), proportion_confint(8, 30, method="wilson"))
    lost = seen.assign(final=np.nan, collapses=0)
    row = collapse_shares(pd.concat([seen, lost])).iloc[0]
    assert (row["collapsed"], row["n_runs"], row["warning"]) == (8, 30, "30 of 60 runs have no curve")
    assert np.isnan(collapse_shares(lost)["estimate"].item())
