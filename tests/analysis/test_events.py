"""Collapse detection on curves made for it. A curve is a list of the returns of single episodes unless it says otherwise."""

import numpy as np
import pandas as pd
import pytest
from run_folders import made_curves
from statsmodels.stats.proportion import proportion_confint

from analysis.load import RUNS
from analysis.statistics.events import COLUMNS, Collapse, WayUp, collapse_shares, collapses, dead, drawdowns, outcomes, ways_up

CARTPOLE = {"CartPole-v1": WayUp(20, 475)}
RAMP = list(np.linspace(20, 500, 200))
NAN = np.nan


def low(n: int, y: float = 20.0) -> list[float]:
    return [y] * n


def high(n: int) -> list[float]:
    return [500.0] * n


def found(y: list[float], ways: dict[str, WayUp] = CARTPOLE, spec: Collapse = Collapse(), size: int = 1) -> pd.DataFrame:
    return collapses(made_curves({"a/0": y}, steps=10, start=10, episodes=size), ways, spec)


def test_drawdown_episodes_by_hand():
    events = drawdowns(made_curves({"a/0": [0, 4, 3, 1, 5, 5, 2, 4], "a/1": [1, 2, 3]}))
    assert tuple(events.columns[: len(COLUMNS)]) == COLUMNS
    assert events[list(COLUMNS)].to_numpy().tolist() == [
        ["a/0", "drawdown", 3000, 2000, 4000, 5000, 3.0, True],
        ["a/0", "drawdown", 7000, 5000, 7000, 8000, 3.0, False],
    ]
    assert events["relative_depth"].tolist() == [3 / 4, 3 / 5] and events["duration"].tolist() == [2000, 1000]
    assert events["trough_value"].tolist() == [1, 2] and events["peak_value"].tolist() == [4, 5]
    small = drawdowns(made_curves({"a/0": [0, 0.04, 0.01], "a/1": [3, 1]}))["relative_depth"]
    np.testing.assert_allclose(small, [3 / 4, np.nan])


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
    "never learned": low(400, 30),
    "falls from below the level": [*RAMP[:150], *low(400)],
    "dip of ninety episodes": [*RAMP, *high(100), *low(90), *high(100)],
    "not half": [*RAMP, *high(100), *[275.0] * 300],  # of a way from 20 to 500, 260 is half
    "empty": [],
    "nan only": low(300, NAN),
    "one episode": [500.0],
    "forty-nine episodes": high(49),
    "noise": list(400 + 60 * np.random.default_rng(0).normal(size=3000)),
}


@pytest.mark.parametrize("y", NO_COLLAPSE.values(), ids=NO_COLLAPSE)
def test_no_collapse(y: list[float]):
    assert found(y).empty


def test_dip_and_recovery_by_hand():
    """From 500 to 20 at once: the mean of 50 is below 260 from the 26th low episode on, and at 452 with the 46th high."""
    event = found([*RAMP, *high(100), *low(150), *high(100)]).iloc[0]
    names = ["kind", "start", "peak", "trough", "end", "depth", "recovered", "relative_depth"]
    fell, low_ends = 10 * 300, 10 * 450
    expected = ["collapse", fell + 260, 10 * 249, fell + 500, low_ends + 450, 480.0, True, 1.0]
    assert event[names].tolist() == expected


def test_a_hundred_episodes_below_are_a_collapse_and_ninety_nine_are_not():
    """Below from the 26th low episode to the 24th high one."""
    assert found([*RAMP, *high(100), *low(101), *high(100)])["kind"].tolist() == ["collapse"]
    assert found([*RAMP, *high(100), *low(100), *high(100)]).empty


@pytest.mark.parametrize("seed", range(10))
def test_what_lies_on_a_limit_is_on_its_better_side_whatever_rounding_says(seed: int):
    base, top = np.random.default_rng(seed).normal(0, 100, 2).cumsum() + [0, 300]
    ways = {"CartPole-v1": WayUp(base, top)}

    def at(*shares: float) -> list[float]:
        return [base + share * (top - base) for share in shares for _ in range(300)]

    assert found(at(0, 0.9, 0.45), ways).empty  # half of the peak
    events = found(at(0, 0.8, 0.1, 0.72), ways)  # the level; and 0.9 of the peak
    assert events["kind"].tolist() == ["collapse"]
    still = dead(made_curves({"a/0": [0.0] * 600}))
    table = outcomes(made_runs(["completed"]), made_curves({"a/0": at(0, 0.8)}, episodes=1), still, ways)
    assert table["outcome"].tolist() == ["learned"]


def test_a_fall_for_good_is_catastrophic_and_half_way_back_is_not_back():
    event = found([*RAMP, *high(100), *low(300)]).iloc[0]
    assert (event["kind"], event["recovered"], event["end"], event["depth"]) == ("catastrophic", False, 6000, 480)
    half_way_back = found([*RAMP, *high(100), *low(150), *[440.0] * 400])  # 0.9 of the peak is 452
    assert half_way_back["kind"].tolist() == ["catastrophic"]


def test_several_collapses_of_one_run():
    events = found([*RAMP, *high(60), *low(120), *high(60), *low(120), *high(60), *low(150)])
    assert events["kind"].tolist() == ["collapse", "collapse", "catastrophic"]
    assert events["start"].tolist() == [10 * (260 + 26), 10 * (440 + 26), 10 * (620 + 26)]


@pytest.mark.parametrize("size", [1, 2, 5, 10, 30])
def test_what_falls_at_the_very_end_is_falling_whatever_the_batch(size: int):
    rise = [*RAMP[:: len(RAMP) // (200 // size)], *high(120 // size)]
    events = found([*rise, *low(60 // size)], size=size)
    assert events["kind"].tolist() == ["falling"] and not events["recovered"].item()
    assert found([*rise, *low(150 // size)], size=size)["kind"].tolist() == ["catastrophic"]
    assert found([*rise, *low(150 // size), *high(120 // size), *low(60 // size)], size=size)["kind"].tolist() == [
        "collapse", "falling",
    ]  # fmt: skip


def test_late_start_nan_and_updates_without_an_episode():
    late = made_curves({"a/0": [*RAMP, *high(60), *low(150)]}, steps=10, start=700_010)
    assert collapses(late, CARTPOLE)["start"].tolist() == [700_000 + 10 * (260 + 3)]  # 30 low episodes: three updates
    y = [*low(2, NAN), *RAMP, *high(60), 20.0, NAN, *low(149)]
    assert found(y)["start"].tolist() == [10 * (2 + 260 + 26 + 1)]
    nothing = made_curves({"a/0": [*RAMP, *high(60), *low(150)]}, episodes=0)
    assert collapses(nothing, CARTPOLE).empty and collapses(nothing.iloc[:0], CARTPOLE).empty


def test_unequal_lengths_and_each_environment_on_its_own_way_up():
    fall = [*RAMP, *high(60), *low(150)]
    curves = made_curves({"a/0": fall, "a/1": RAMP, "a/2": [3.0], "a/3": [*fall, *high(80)]}, episodes=1)
    acrobot = made_curves({"a/5": [x - 500 for x in fall]}, episodes=1).assign(env="Acrobot-v1")
    events = collapses(pd.concat([curves, acrobot]), CARTPOLE | {"Acrobot-v1": WayUp(-480, -25)})
    assert dict(zip(events["run_id"], events["kind"], strict=True)) == {
        "a/0": "catastrophic", "a/3": "collapse", "a/5": "catastrophic",
    }  # fmt: skip


def test_negative_returns_are_measured_from_what_an_untrained_policy_returns():
    """Acrobot: −500 untrained, −100 solves it. Half of a peak of −80 would be −40, and every run a collapse."""
    acrobot = {"CartPole-v1": WayUp(-500, -100)}
    learned = [*np.linspace(-500, -80, 200), *[-90.0] * 100]
    assert found(learned, acrobot).empty
    assert found([*learned, *[-250.0] * 300], acrobot).empty  # 0.62 of the way up
    assert found([*learned, *[-400.0] * 150], acrobot)["kind"].tolist() == ["catastrophic"]


def test_a_bad_first_batch_of_one_run_is_not_its_base():
    """CliffWalking's first batch may return −9000: of a way up from there, −1000 for ever looks learned."""
    rest = [*[-1000.0] * 60, *np.linspace(-1000, -13, 100), *[-13.0] * 100, *[-1000.0] * 300]
    bad = [*[-9000.0] * 10, *rest]
    sweep = made_curves({"a/0": bad} | {f"a/{i}": rest for i in range(1, 5)}, episodes=1)
    ways = ways_up(sweep, {"CartPole-v1": -20.0})
    assert ways["CartPole-v1"] == WayUp(-1000, -20)
    assert collapses(sweep, ways)["kind"].tolist() == ["catastrophic"] * 5
    good = [*[-120.0] * 10, *[-500.0] * 90, *np.linspace(-500, -80, 50), *[-80.0] * 60, *[-119.0] * 200]
    sweep = made_curves({"a/0": good, "a/1": good[10:], "a/2": good[10:]}, episodes=1)
    assert collapses(sweep, ways_up(sweep, {"CartPole-v1": -75.0})).empty


def test_the_base_is_the_median_over_runs_of_the_mean_of_their_first_fifty_episodes():
    runs = {"a/0": [10.0] * 25 + [20] * 25 + high(50), "a/1": low(60, 17), "b/0": low(60, 1), "a/2": high(49)}
    assert ways_up(made_curves(runs, episodes=1), {"CartPole-v1": 475.0}) == {"CartPole-v1": WayUp(15, 475)}
    big = made_curves({"a/0": [18.0, 500], "a/1": [24.0]}, episodes=200)  # the first batch alone is untrained
    assert ways_up(big, {"CartPole-v1": 475.0})["CartPole-v1"].base == 21
    assert ways_up(big, {"CartPole-v1": 475.0}, base=0.0)["CartPole-v1"] == WayUp(0, 475)


@pytest.mark.parametrize(
    "way, reason",
    [
        (WayUp(20, NAN), "no threshold (--threshold"),
        (WayUp(NAN, 475), "no run has enough episodes"),
        (WayUp(480, 475), "475 is not above 480"),
        (WayUp(475, 475), "(--threshold X sets another)"),
    ],
)
def test_without_a_way_up_nothing_is_determined_and_nobody_is_at_risk(way: WayUp, reason: str):
    curves = made_curves({"a/0": [*RAMP, *high(60), *low(150)]}, episodes=1)
    ways = {"CartPole-v1": way}
    events = collapses(curves, ways)
    table = outcomes(made_runs(["completed"]), curves, events, ways)
    share = collapse_shares(table, ways).iloc[0]
    assert events.empty and table["outcome"].tolist() == ["not determined"] and reason in table["undetermined"].item()
    assert share["n_runs"] == 0 and share["undetermined"] == 1 and np.isnan(share["estimate"])
    assert "not determined for 1 of 1 runs" in share["warning"] and reason in share["warning"]
    gone = outcomes(made_runs(["completed", "diverged", "missing"]), curves, events, ways)
    share = collapse_shares(gone, ways).iloc[0]
    assert share[["runs", "undetermined", "diverged", "failed"]].tolist() == [3, 3, 1, 1]


def in_batches(returns: np.ndarray, size: int) -> list[float]:
    """Of episodes in a row, what metrics.csv says of them where an update has so many."""
    return list(returns[: len(returns) // size * size].reshape(-1, size).mean(1))


@pytest.mark.parametrize("size", [1, 2, 5, 10, 50])
def test_another_batch_is_not_another_detector(size: int):
    """The same episodes, in batches of any size that 50 is a multiple of, have the same events at the same episodes."""
    rng = np.random.default_rng(3)
    chance = np.repeat([0.05, 1, 0.3, 1, 0.2, 1, 0.1], [200, 400, 60, 300, 150, 300, 70])  # of 500, otherwise 20
    returns = np.where(rng.random(len(chance)) < chance, 500.0, 20.0)
    same = ["kind", "recovered"]
    plain = found(list(returns))
    events = found(in_batches(returns, size), size=size)
    assert plain["kind"].tolist() == ["collapse", "falling"] == events["kind"].tolist()
    np.testing.assert_allclose(events["start"] * size, plain["start"], atol=10 * 50)
    pd.testing.assert_frame_equal(events[same], plain[same])


def test_of_a_large_batch_the_mean_is_all_that_counts():
    """… and a run of ten million episodes costs no more than one of as many updates."""
    y = [20.0, 300, 450, 500, 240, 480, 100, 90, 470, 30]
    enough = found(y, size=Collapse().smoothing + Collapse().lasting)
    assert enough["kind"].tolist() == ["collapse", "collapse", "catastrophic"]
    for size in (200, 1000, 10**9):
        pd.testing.assert_frame_equal(found(y, size=size), enough)


@pytest.mark.parametrize("kinds", [(500.0, 20.0, 0.05), (500.0, 20.0, 0.2), (500.0, 380.0, 0.5)], ids=str)
@pytest.mark.parametrize("size", [1, 2, 5, 10, 50, 200])
def test_a_policy_that_never_changes_does_not_collapse(size: int, kinds: tuple[float, float, float]):
    good, bad, share = kinds
    rng = np.random.default_rng([size, int(bad)])
    runs = {f"a/{i}": in_batches(np.where(rng.random(4000) < share, bad, good), size) for i in range(20)}
    assert collapses(made_curves(runs, episodes=size), CARTPOLE).empty


def test_dead_policies():
    moving = made_curves({"a/0": [1.0] * 5 + [1e-6] * 12, "a/1": [1.0] * 17, "a/2": [NAN] * 17, "a/3": [1.0] * 14 + [0.0] * 3})
    events = dead(moving)
    assert events["run_id"].tolist() == ["a/0", "a/2"] and events["start"].tolist() == [6000, 1000]
    assert events["end"].tolist() == [17000, 17000] and not events["recovered"].any()
    assert dead(moving.assign(episodes=5)).empty  # of no run are these a hundred episodes
    assert len(dead(moving.assign(episodes=50))) == 3


def made_runs(statuses: list[str], variant: str = "a", **more: object) -> pd.DataFrame:
    same = {"variant": variant, "env": "CartPole-v1", "folder": "f", "stopped_when_solved": False} | more
    rows = [same | {"run_id": f"{variant}/{i}", "seed": i, "status": status} for i, status in enumerate(statuses)]
    return pd.DataFrame(rows).reindex(columns=list(RUNS))


def test_outcomes_leave_no_run_out():
    fall = [*RAMP, *high(60), *low(150)]
    y = {
        "learned": [*RAMP, *high(60)],
        "collapsed": fall,
        "dipped": [*fall, *high(60)],
        "falling at the end": fall[:-90],
        "never learned": low(100, 100),
        "dead": low(100, 30),
        "not determined": low(30),
        "diverged": fall,
        "unfinished": RAMP,
    }
    status = {"diverged": "diverged", "unfinished": "running"}
    runs = made_runs([*(status.get(name, "completed") for name in y), "missing"])
    curves = made_curves({f"a/{i}": values for i, values in enumerate(y.values())}, steps=10, start=10, episodes=1)
    norms = made_curves({"a/5": [0.0] * 100, "a/0": [0.0] * 260}, episodes=1)
    events = pd.concat([collapses(curves, CARTPOLE), dead(norms)])
    table = outcomes(runs, curves, events, CARTPOLE)
    assert table["outcome"].tolist() == [*y, "failed"]
    assert table["collapses"].tolist() == [0, 1, 1, 0, 0, 0, 0, 1, 0, 0]
    assert table["last"].iloc[:2].tolist() == [500, 20] and table["last"].iloc[8] == pytest.approx(np.mean(RAMP[-50:]))
    assert table.loc[6, "undetermined"] == "fewer than 50 episodes"
    assert table.loc[9, "undetermined"] == "no episodes were recorded"
    reached = table["reached_at"].iloc[0]
    assert 10 * 175 < reached < 10 * 180 and table["watched"].iloc[0] == 2600 - reached
    assert table["watched"].iloc[1] == 10 * 286 - reached
    share = collapse_shares(table, CARTPOLE).iloc[0]
    counted = ["runs", "n_runs", "collapsed", "catastrophic", "falling", "diverged", "failed", "unfinished", "undetermined"]
    assert share[counted].tolist() == [10, 6, 3, 2, 1, 1, 1, 1, 1]
    assert share["missing"] == 0.3  # one failed, one not finished, one too short; who diverged had collapsed before


def test_outcomes_of_one_update_and_of_a_run_without_any():
    curves = made_curves({"a/0": [500.0]}, episodes=200)
    table = outcomes(made_runs(["completed", "missing"]), curves, collapses(curves, CARTPOLE), CARTPOLE)
    assert table["outcome"].tolist() == ["learned", "failed"] and table["last"].tolist()[0] == 500
    assert np.isnan(table["last"].tolist()[1])  # nothing of the other run


@pytest.mark.parametrize("episodes", [50, 200])
def test_who_stops_moving_at_the_level_is_not_dead(episodes: int):
    """By the last smoothed return, of which 50 episodes have one."""
    y = [20.0] * 10 + [400.0] * (episodes - 10)
    last = 20 + 380 * 40 / 50 if episodes == 50 else 400.0

    def outcome(limit: float, norms: int = 100) -> str:
        way = {"CartPole-v1": WayUp(0, limit / 0.8)}
        curves = made_curves({"a/0": y}, episodes=1)
        events = dead(made_curves({"a/0": [0.0] * norms}))
        return outcomes(made_runs(["completed"]), curves, events, way)["outcome"].item()

    assert outcome(last) == "learned" and outcome(last + 1) == "dead"


def test_shares_are_of_the_runs_at_risk_and_have_the_interval_of_statsmodels():
    """F3: of 30 that never got there, none had anything to lose; 10 of 10 that did is not 10 of 30."""
    fall, never = [*RAMP, *high(60), *low(150)], low(300)
    y = [fall] * 8 + [[*RAMP, *high(60)]] * 2 + [never] * 20
    curves = made_curves({f"a/{i}": values for i, values in enumerate(y)}, episodes=1)
    table = outcomes(made_runs(["completed"] * 30), curves, collapses(curves, CARTPOLE), CARTPOLE)
    share = collapse_shares(table, CARTPOLE).iloc[0]
    assert (share["collapsed"], share["n_runs"], share["runs"], share["estimate"]) == (8, 10, 30, 0.8)
    assert share["warning"] == ""
    np.testing.assert_allclose(share[["lo", "hi"]].astype(float), proportion_confint(8, 10, method="wilson"))
    none = collapse_shares(table.iloc[10:], CARTPOLE).iloc[0]
    assert none["n_runs"] == 0 and np.isnan(none["estimate"]) and "none was at risk" in none["warning"]


def test_who_was_stopped_when_it_had_solved_it_was_at_risk_only_while_watched():
    curves = made_curves({f"a/{i}": [*RAMP, *high(60)] for i in range(4)}, episodes=1)
    runs = made_runs(["completed"] * 4).assign(stopped_when_solved=[True, True, False, False])
    share = collapse_shares(outcomes(runs, curves, collapses(curves, CARTPOLE), CARTPOLE), CARTPOLE).iloc[0]
    assert (share["stopped"], share["n_runs"], share["missing"]) == (2, 4, 0.5)
    assert "2 of 4 runs were stopped when they had solved it" in share["warning"]
