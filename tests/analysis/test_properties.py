"""What must not change does not: the numbers of runs that hypothesis makes up, before and after a change that means
nothing for them."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from run_folders import made_runs, made_scores

from analysis import align
from analysis.statistics import events, reliability
from analysis.statistics.aggregates import Bootstrap, improvements
from analysis.statistics.compare import Comparison, collapse_tests, concluded, differences

DRAWN = {"deadline": None, "derandomize": True, "database": None, "phases": [Phase.explicit, Phase.generate]}
"""Always the same cases, and no shrinking, which takes minutes."""


def holds_for(*drawn: st.SearchStrategy) -> Callable[[Callable], Callable]:
    """Makes two tests of a property, which is a function of what is drawn: of a few cases, and a slow one of many."""

    def tests(holds: Callable) -> Callable:
        @pytest.mark.parametrize("examples", [3, pytest.param(25, marks=pytest.mark.slow)])
        def test(examples: int):
            settings(max_examples=examples, **DRAWN)(given(*drawn)(holds))()

        test.__name__, test.__doc__ = holds.__name__, holds.__doc__
        return test

    return tests


ENV, THRESHOLD = "CartPole-v1", 475.0
QUICK = Bootstrap(n_boot=50)
WINDOW = reliability.Reliability(window=2000)


@st.composite
def sweeps(draw: st.DrawFn) -> pd.DataFrame:
    """Curves of two variants of 2 to 4 runs: stretches of updates at one level, from untrained to solved and back."""
    size = draw(st.sampled_from([1, 5, 10, 25, 60]))
    level = st.one_of(st.integers(0, 500), st.sampled_from([0, 20, 250, 475, 500]))
    stretches = st.lists(st.tuples(level, st.integers(1, 200)), min_size=2, max_size=5)
    parts = []
    for run_id in [f"{variant}/{seed}" for variant in "ab" for seed in range(draw(st.integers(2, 4)))]:
        y = np.concatenate([np.full(-(-episodes // size), y) for y, episodes in [(20, 50), *draw(stretches)]])
        t = 100 * (1 + np.arange(len(y)))
        about = {"run_id": run_id, "variant": run_id[0], "env": ENV, "seed": int(run_id[2:]), "episodes": size}
        parts.append(pd.DataFrame(about | {"env_steps": t, "value": y.astype(float)}))
    return pd.concat(parts, ignore_index=True)


def became(curves: pd.DataFrame, threshold: float = THRESHOLD) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Events, outcomes and shares, as the report computes them."""
    ways = events.ways_up(curves, dict.fromkeys(curves["env"].unique(), threshold))
    falls = events.collapses(curves, ways)
    runs = curves.drop_duplicates("run_id")[["run_id", "variant", "env", "seed"]].assign(status="completed")
    outcomes = events.outcomes(made_runs(runs), curves, falls, ways)
    return falls, outcomes, events.collapse_shares(outcomes, ways)


def reliable(curves: pd.DataFrame) -> pd.DataFrame:
    """Every measure of reliability, divided by ranges."""
    bases = {env: way.base for env, way in events.ways_up(curves, {ENV: THRESHOLD}).items()}
    first, last = (getattr(curves.groupby("run_id")["env_steps"], end)() for end in ("min", "max"))
    aligned = align.align(curves, np.arange(first.max(), last.min() + 1, 100))
    across = reliability.across_runs(aligned, curves, "y", bases, WINDOW, QUICK)
    return pd.concat([reliability.within_runs(curves, "y", WINDOW), across], ignore_index=True)


WHAT = ["run_id", "kind", "start", "peak", "trough", "end", "recovered", "duration"]
"""Of an event, what is not in units of the return."""
SHARE = ["variant", "env", "estimate", "lo", "hi", "n_runs", *events.COUNTS, "missing"]


def assert_same(one: pd.DataFrame, other: pd.DataFrame, columns: list[str]) -> None:
    pd.testing.assert_frame_equal(
        one[columns].reset_index(drop=True), other[columns].reset_index(drop=True), check_dtype=False, rtol=1e-6, atol=1e-9
    )


def test_there_is_something_to_change():
    """Or the tests below would be about nothing."""
    kinds: set[str] = set()

    @settings(max_examples=25, **DRAWN)
    @given(sweeps())
    def look(curves: pd.DataFrame):
        kinds.update(became(curves)[0]["kind"])

    look()
    assert kinds == {"collapse", "catastrophic", "falling"}


@holds_for(sweeps(), st.floats(-1e4, 1e4), st.floats(0.01, 100))
def test_another_zero_and_another_unit_of_rewards_change_nothing(curves: pd.DataFrame, shift: float, scale: float):
    moved = curves.assign(value=shift + scale * curves["value"])
    plain, changed = became(curves), became(moved, shift + scale * THRESHOLD)
    assert_same(plain[0], changed[0], [*WHAT, "relative_depth"])
    assert_same(plain[1], changed[1], ["run_id", "outcome", "reached_at", "watched", "collapses", "undetermined"])
    assert_same(plain[2], changed[2], SHARE)
    assert_same(reliable(curves), reliable(moved), ["variant", "metric", "estimate", "lo", "hi"])


@holds_for(sweeps(), st.randoms(use_true_random=False))
def test_the_order_of_runs_and_the_names_of_seeds_change_nothing(curves: pd.DataFrame, random):
    names = list(curves["run_id"].unique())
    runs = dict(list(curves.groupby("run_id")))
    random.shuffle(names)
    shuffled = pd.concat([runs[name].assign(seed=100 + i) for i, name in enumerate(names)], ignore_index=True)
    plain, changed = became(curves), became(shuffled)
    assert_same(plain[0], changed[0].sort_values(["run_id", "start"]), WHAT)
    assert_same(plain[2], changed[2], SHARE)
    by = ["variant", "metric", "estimate"]
    assert_same(reliable(curves).sort_values(by), reliable(shuffled).sort_values(by), by)


@holds_for(sweeps(), sweeps())
def test_another_variant_and_another_environment_change_nothing(curves: pd.DataFrame, more: pd.DataFrame):
    more = more.assign(run_id="more/" + more["run_id"])
    plain = became(curves)
    for other in (more.assign(variant="c"), more.assign(env="Acrobot-v1", value=more["value"] - 500)):
        falls, outcomes, shares = became(pd.concat([curves, other], ignore_index=True))
        assert_same(plain[0], falls[~falls["run_id"].str.startswith("more/")], WHAT)
        assert_same(plain[1], outcomes[~outcomes["run_id"].str.startswith("more/")], ["run_id", "outcome", "watched"])
        assert_same(plain[2], shares[shares["variant"].isin(["a", "b"]) & (shares["env"] == ENV)], SHARE)


@holds_for(sweeps())
def test_a_batch_in_two_rows_is_the_same_batch(curves: pd.DataFrame):
    half = curves.assign(episodes=curves["episodes"] // 2, env_steps=curves["env_steps"] - 50)
    rest = curves.assign(episodes=curves["episodes"] - curves["episodes"] // 2)
    split = pd.concat([half, rest]).sort_values(["run_id", "env_steps"], kind="stable", ignore_index=True)
    plain, changed = became(curves), became(split)
    assert_same(plain[0], changed[0], ["run_id", "kind", "recovered", "depth", "peak_value"])
    np.testing.assert_allclose(plain[0]["start"], changed[0]["start"], atol=50)  # within the batch
    assert_same(plain[2], changed[2], SHARE)


@holds_for(sweeps(), st.sampled_from([np.nan, 0.0, 1000.0]))
def test_rows_without_an_episode_and_rows_without_a_value_change_nothing(curves: pd.DataFrame, value: float):
    padding = curves.assign(env_steps=curves["env_steps"] + 30, value=value, episodes=0)
    empty = curves.assign(env_steps=curves["env_steps"] + 60, value=np.nan)
    padded = pd.concat([curves, padding, empty]).sort_values(["run_id", "env_steps"], kind="stable", ignore_index=True)
    plain, changed = became(curves), became(padded)
    assert_same(plain[0], changed[0], WHAT)
    assert_same(plain[1], changed[1], ["run_id", "outcome", "last", "reached_at", "watched"])
    assert_same(plain[2], changed[2], SHARE)


@holds_for(sweeps(), st.floats(0.2, 1))
def test_what_was_over_before_all_runs_are_cut_stays_as_it_was(curves: pd.DataFrame, part: float):
    ends = curves.groupby("run_id")["env_steps"].transform("max")
    cut = curves[curves["env_steps"] <= np.maximum(part * ends, 5000)]
    last = cut.groupby("run_id")["env_steps"].max()
    (falls, outcomes, _), (kept, shorter, _) = became(curves), became(cut)
    over = falls["recovered"] & (falls["end"] <= falls["run_id"].map(last).astype(float))
    assert_same(falls[over], kept[kept["recovered"]], WHAT)
    for_good = kept.loc[kept["kind"] == "catastrophic", ["run_id", "start"]].merge(falls, on=["run_id", "start"], how="left")
    assert for_good["kind"].isin(["collapse", "catastrophic"]).all()
    reached = outcomes["reached_at"].where(outcomes["reached_at"] <= outcomes["run_id"].map(last).astype(float))
    pd.testing.assert_series_equal(reached, shorter["reached_at"])


@holds_for(sweeps(), st.sampled_from([20.0, 0.0, -5.0, np.nan]))
def test_without_a_way_up_nothing_is_said_to_have_happened(curves: pd.DataFrame, threshold: float):
    falls, outcomes, shares = became(curves, threshold)
    assert falls.empty and (outcomes["outcome"] == "not determined").all()
    assert (shares["n_runs"] == 0).all() and shares["estimate"].isna().all()
    assert (shares["undetermined"] == shares["runs"]).all()


# Simulations, through the functions that the report uses

POLICIES = {
    "fails 1 in 20": lambda rng, n: np.where(rng.random(n) < 0.05, 0.0, 500.0),
    "fails 1 in 5": lambda rng, n: np.where(rng.random(n) < 0.2, 0.0, 500.0),
    "fails 2 in 5": lambda rng, n: np.where(rng.random(n) < 0.4, 0.0, 500.0),
    "0 or 1000": lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, 1000.0),
    "exponential": lambda rng, n: rng.exponential(475, n),
    "lognormal, σ = 1": lambda rng, n: 475 * rng.lognormal(-0.5, 1, n),
}
FALSE = {"exponential": 0.02, "lognormal, σ = 1": 0.45}
"""Of the runs of 4,000 episodes; of the others .01."""


@st.composite
def scores(draw: st.DrawFn) -> pd.DataFrame:
    """Of two variants on 5 to 7 common seeds, with ties, and with runs that diverged (−∞)."""
    n = draw(st.integers(5, 7))
    value = st.one_of(st.integers(-20, 20).map(float), st.just(-np.inf))
    return made_scores({name: draw(st.lists(value, min_size=n, max_size=n)) for name in "ab"})


def pair(scores: pd.DataFrame, a: str = "a", b: str = "b") -> pd.Series:
    rows = improvements(scores, "r").set_index(["a", "b"])
    return rows.loc[(a, b), ["estimate", "lo", "hi", "p"]].astype(float)


def effect(scores: pd.DataFrame) -> pd.Series:
    rows = differences(scores, "r", Comparison(paired=None, n_boot=50)).set_index(["a", "b"])
    return rows.loc[("a", "b"), ["estimate", "lo", "hi", "p", "paired"]].astype(float)


@holds_for(scores(), st.randoms(use_true_random=False))
def test_who_is_named_first_and_the_order_of_seeds_change_only_the_side(scores: pd.DataFrame, random):
    one = pair(scores)
    assert 0 <= one["lo"] <= one["estimate"] <= one["hi"] <= 1 and one["lo"] < one["hi"] and 0 < one["p"] <= 1
    swapped = pair(scores.assign(variant=scores["variant"].map({"a": "b", "b": "a"})))
    np.testing.assert_allclose(swapped, [1 - one["estimate"], 1 - one["hi"], 1 - one["lo"], one["p"]])
    back = pair(scores, "b", "a")
    np.testing.assert_allclose(back, swapped)
    order = list(range(len(scores)))
    random.shuffle(order)
    np.testing.assert_array_equal(pair(scores.iloc[order]), one)


@holds_for(scores())
def test_only_the_order_of_scores_counts_for_which_is_better(scores: pd.DataFrame):
    """Times and their logarithms, seconds and hours: the same P, the same interval, the same p."""
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(pair(scores.assign(value=np.exp(scores["value"] / 5))), pair(scores))


@holds_for(scores(), scores())
def test_a_variant_that_has_nothing_to_do_with_it_changes_no_pair(scores: pd.DataFrame, more: pd.DataFrame):
    both = pd.concat([scores, more.assign(variant=more["variant"].map({"a": "c", "b": "d"}), value=more["value"] - 100)])
    np.testing.assert_array_equal(pair(both), pair(scores))
    np.testing.assert_array_equal(effect(both), effect(scores))


@holds_for(scores(), st.integers(-1000, 1000), st.sampled_from([0.25, 0.5, 2, 64]))
def test_another_zero_and_another_unit_change_a_difference_by_as_much(scores: pd.DataFrame, shift: float, scale: float):
    """And neither its p nor whether it is paired."""
    one, other = effect(scores), effect(scores.assign(value=scores["value"] * scale + shift))
    np.testing.assert_allclose(other[["estimate", "lo", "hi"]], scale * one[["estimate", "lo", "hi"]], atol=1e-9)
    np.testing.assert_array_equal(other[["p", "paired"]], one[["p", "paired"]])


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_how_often_a_policy_that_never_changes_is_called_collapsed(policy: str):
    """The table in events.py: whatever the batch, as good as never, unless single returns are many times the mean."""
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 10, 50, 200):
        parts = []
        for i in range(200):
            y = POLICIES[policy](rng, 4000).reshape(-1, size).mean(1)
            about = {"run_id": f"a/{i}", "variant": "a", "env": ENV, "seed": i, "episodes": size}
            parts.append(pd.DataFrame(about | {"env_steps": 1000 * (1 + np.arange(len(y))), "value": y}))
        falls = events.collapses(pd.concat(parts), {ENV: events.WayUp(0, THRESHOLD)})
        share = falls.loc[falls["kind"] != "falling", "run_id"].nunique() / 200
        print(f"{policy}, {size} episodes an update: {share:.3f}")
        assert share <= FALSE.get(policy, 0.01)


def made_outcomes(rng: np.random.Generator, n: int, reach: float, collapse: float, variants: str) -> pd.DataFrame:
    """Runs that reach the level with one probability, and collapse with another if they do."""
    runs = pd.DataFrame({"variant": np.repeat(list(variants), n), "env": ENV})
    reached = rng.random(len(runs)) < reach
    fell = reached & (rng.random(len(runs)) < collapse)
    flags = dict.fromkeys(["falling", "diverged", "failed", "unfinished", "stopped"], False)
    return runs.assign(
        reached_at=np.where(reached, 1e5, np.nan), watched=np.where(reached, 1e5, np.nan), collapses=fell.astype(int),
        catastrophic=fell, undetermined="", **flags,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 10, 30])
@pytest.mark.parametrize("collapse", [0.1, 0.3, 0.6])
def test_the_interval_of_a_share_among_the_runs_at_risk_holds_the_truth(n: int, collapse: float):
    """Wilson's is not exact, and how many are at risk is chance: about .95 at all these sizes, never below .9."""
    rng, ways, hit, total = np.random.default_rng(n), {ENV: events.WayUp(0, THRESHOLD)}, 0, 0
    for _ in range(400):
        shares = events.collapse_shares(made_outcomes(rng, n, 0.7, collapse, "abcd"), ways)
        known = shares[shares["n_runs"] > 0]
        hit += int(((known["lo"] <= collapse) & (collapse <= known["hi"])).sum())
        total += len(known)
    print(f"n = {n}, share {collapse}: {hit / total:.3f}")
    assert hit / total > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 10, 30])
def test_equal_shares_of_collapses_are_seldom_called_different(n: int):
    """Fisher's test of the runs at risk is conservative; a group of which a few diverge is no exception."""
    rng, ways, clear = np.random.default_rng(n), {ENV: events.WayUp(0, THRESHOLD)}, {0.0: 0, 0.15: 0}
    for diverge in clear:
        for _ in range(400):
            outcomes = made_outcomes(rng, n, 0.8, 0.4, "ab")
            gone = (rng.random(2 * n) < diverge) & (outcomes["variant"] == "a")
            outcomes = outcomes.assign(diverged=gone, collapses=outcomes["collapses"].mask(gone, 0))
            tests = collapse_tests(events.collapse_shares(outcomes, ways))
            clear[diverge] += int(concluded(tests)["conclusive"].sum())
    print(f"n = {n}: {clear} of 400")
    assert max(clear.values()) <= 0.05 * 400
