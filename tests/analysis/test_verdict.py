"""Sentences from numbers that are made up: they claim no more than the intervals allow."""

import doctest
import math

import pandas as pd
import pytest

from analysis import compare, results, study, text
from analysis.aggregates import proportion
from analysis.events import COUNTS
from analysis.verdict import of_collapse_pair, of_difference, of_pair, of_share, of_variant

PAIR = {
    "a": "reward_to_go", "b": "baseline", "endpoint": "time to threshold", "estimate": 0.16, "lo": 0.08, "hi": 0.26,
    "p_adjusted": 0.0004, "p_method": "holm over 3", "conclusive": True, "seeds_needed": 14.0, "warning": "",
    "n_runs": 30,
}  # fmt: skip
MEDIANS = {"baseline": (151_000, 30, 30), "reward_to_go": (203_000, 28, 30)}
COLLAPSED = {"baseline": (1, 30), "reward_to_go": (8, 30)}


def share(name: str, collapsed: int, at_risk: int, **more) -> pd.Series:
    """A row of events.collapse_shares."""
    estimate, lo, hi = proportion(collapsed, at_risk)
    counts = dict.fromkeys(COUNTS, 0) | {"runs": 30, "collapsed": collapsed}
    return pd.Series({"variant": name, "env": "e", "estimate": estimate, "lo": lo, "hi": hi, "level": 0.95,
                      "n_runs": at_risk, "params_json": '{"level": 0.8}', "missing": 0.0, "watched": 500_000.0,
                      "warning": ""} | counts | more)  # fmt: skip


def pair(medians: dict | None = None, collapsed: dict | None = None, **changed) -> str:
    rows = {
        name: pd.Series({"estimate": x, "reached": k, "n_runs": n}) for name, (x, k, n) in (medians or MEDIANS).items()
    }
    finals = {name: pd.Series({"estimate": 100.0, "n_runs": 30}) for name in MEDIANS}
    shares = {name: share(name, *counts) for name, counts in (collapsed or COLLAPSED).items()}
    return of_pair(pd.Series(PAIR | changed), rows, finals, shares)


def test_a_clear_difference():
    assert pair() == (
        "**baseline reached the threshold sooner than reward_to_go**: median 151k against 203k env steps, "
        "P(improvement) .84 [.74, .92], p < .001 (Holm over 3), 30 seeds; collapsed 1 of 30 against 8 of 30 at risk."
    )


def test_few_seeds_are_said():
    assert pair(n_runs=9).endswith("against 8 of 30 at risk. Fewer than 10 seeds: the interval is too narrow.")


def test_the_same_the_other_way_round():
    other = pair(a="baseline", b="reward_to_go", estimate=0.84, lo=0.74, hi=0.92)
    assert other == pair()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"estimate": 0.45, "lo": 0.3, "hi": 0.6, "p_adjusted": 0.5}, "The interval holds ½."),
        ({"estimate": 0.3, "lo": 0.12, "hi": 0.49, "p_adjusted": 0.09}, "The interval excludes ½, but p is too large."),
        ({"lo": math.nan, "hi": math.nan}, "Fewer than 3 seeds: no interval."),
    ],
)
def test_inconclusive_and_why(changed: dict, reason: str):
    said = pair(conclusive=False, **changed)
    assert said.startswith("**Inconclusive: baseline sooner than reward_to_go?** Median 151k against 203k")
    assert reason in said and said.endswith("about 14 seeds each to be found with 80% power.")
    assert "reached the threshold sooner" not in said


def test_no_number_of_seeds_where_there_is_no_effect():
    assert "seeds each" not in pair(conclusive=False, estimate=0.5, lo=0.4, hi=0.6, seeds_needed=math.inf)
    assert "more than 1,000 seeds each" in pair(conclusive=False, estimate=0.49, lo=0.4, hi=0.6, seeds_needed=52_326.0)


def test_medians_that_were_not_reached():
    said = pair({"baseline": (151_000, 30, 30), "reward_to_go": (math.nan, 12, 30)})
    assert "30 of 30 got there (median 151k env steps) against 12 of 30 got there, P" in said
    neither = pair({"baseline": (math.nan, 0, 30), "reward_to_go": (math.nan, 0, 29)}, conclusive=False, estimate=0.5)
    assert neither == (
        "**Inconclusive: neither reward_to_go nor baseline reached the threshold** in 29 runs of reward_to_go and 30"
        " of baseline."
    )


def test_without_a_threshold_final_scores_decide():
    said = pair(endpoint="final score", p_method="holm over 1")
    assert said.startswith(
        "**baseline scored higher in the end than reward_to_go**: IQM 100 against 100, P(improvement) .84"
    )
    assert "(one test)" in said


def test_no_scores():
    assert pair(estimate=math.nan, warning="no runs", conclusive=False) == (
        "**Inconclusive**: reward_to_go or baseline? There are no scores to compare: no runs."
    )


def test_a_variant_by_itself():
    median = pd.Series({"estimate": 151_000.0, "lo": 140_000.0, "hi": math.nan, "reached": 29, "n_runs": 30})
    final = pd.Series({"metric": "iqm of final r", "estimate": 473.2, "lo": 460.0, "hi": 480.0, "n_runs": 30})
    assert of_variant("baseline", 475.0, median, final, share("baseline", 1, 30)) == (
        "**baseline**: 29 of 30 runs reached 475, median 151k env steps [140k, –]; final score 473 [460, 480] (IQM, 30 "
        "seeds); of those that got 80% of the way up 1 of 30 [.01, .17] collapsed."
    )
    assert of_variant("lost", 475.0, None, None, None) == "**lost**: no scores."


def test_what_is_said_of_collapses_beside_their_share():
    of = share("a", 4, 20, catastrophic=3, diverged=6, falling=1)
    assert of_share(of) == (
        "of those that got 80% of the way up 4 of 20 [.08, .42] collapsed, 3 for good (6 diverged, 1 falling at the end)"
    )
    assert of_share(share("a", 0, 0)) == "none of 30 got 80% of the way up, so none could collapse"
    assert of_share(share("a", 0, 0, undetermined=30)) == ""
    assert of_share(share("a", 0, 0, undetermined=30, diverged=2, failed=1)) == "2 diverged, 1 failed"
    assert "collapsed" not in pair(collapsed={"baseline": (0, 0)})


def compared(a: pd.Series, b: pd.Series) -> str:
    tests = compare.adjust(compare.collapse_tests(pd.DataFrame([a, b])))
    return of_collapse_pair(tests.iloc[0], a, b, 0.05)


def test_collapses_are_compared_among_the_runs_at_risk():
    """F3: 0 of 30 that never learned is not a lower share than 10 of the 30 that did."""
    assert compared(share("a", 1, 30), share("b", 12, 30)).startswith(
        "**a against b: share of runs at risk that collapsed lower**: 1 of 30 against 12 of 30 runs at risk; difference −"
    )
    never = compared(share("learns", 10, 30), share("never", 0, 0))
    assert never == (
        "**No comparison**: learns against never, share of runs at risk that collapsed: 10 of 30 against 0 of 0 runs at "
        "risk."
    )
    few = compared(share("a", 0, 4), share("b", 24, 24))
    assert few.startswith("**Inconclusive: a against b**") and "Fewer than 5 runs at risk." in few


def test_a_competing_end_is_told_and_nothing_is_clear_where_many_ends_were_not_seen():
    """F3: 10 of 20 that diverged did not "collapse less" than 10 of 20 that fell."""
    said = compared(share("diverges", 0, 10, diverged=20, missing=2 / 3), share("falls", 12, 20))
    assert said.startswith("**Inconclusive: diverges against falls**")
    assert said.endswith("The end of more than 10% of a group was not seen. 20 of 30 runs of diverges diverged.")
    both = compared(share("a", 1, 30, falling=1), share("b", 12, 30, falling=2, watched=100_000.0))
    assert both.startswith("**a against b: share") and both.endswith(
        "1 of 30 runs of a and 2 of 30 runs of b are falling at the end. Runs at risk were watched for a median of 500k "
        "against 100k env steps."
    )


def test_differences():
    row = {"a": "a", "b": "b", "metric": "iqm of the paired differences of r", "estimate": -3.0, "lo": -5.0, "hi": -1.0,
           "p_adjusted": 0.01, "p_method": "by over 2", "warning": ""}  # fmt: skip
    assert of_difference(pd.Series(row), 0.05, "final score", text.number) == (
        "**a against b: final score lower**: difference paired by seed −3 [−5, −1], p = .01 "
        "(Benjamini–Yekutieli over 2)."
    )
    for changed in ({"hi": 1.0}, {"p_adjusted": 0.06}, {"lo": math.nan, "hi": math.nan}, {"p_adjusted": math.nan}):
        said = of_difference(pd.Series(row | changed), 0.05, "final score", text.number)
        assert said.startswith("**Inconclusive: a against b**, final score: difference")
    assert "The interval excludes 0" in of_difference(pd.Series(row | {"p_adjusted": 0.06}), 0.05, "x", text.number)


@pytest.mark.parametrize("module", [text, study, results])
def test_examples_in_docstrings(module):
    done = doctest.testmod(module)
    assert done.attempted and not done.failed
