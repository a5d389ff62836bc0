"""Sentences from numbers that are made up: they claim no more than the intervals allow."""

import doctest
import math

import pandas as pd
import pytest

from analysis import results, study, text
from analysis.verdict import of_difference, of_pair, of_variant

PAIR = {
    "a": "reward_to_go", "b": "baseline", "endpoint": "time to threshold", "estimate": 0.16, "lo": 0.08, "hi": 0.26,
    "p_adjusted": 0.0004, "p_method": "holm over 3", "conclusive": True, "seeds_needed": 14.0, "warning": "",
    "n_runs": 30,
}  # fmt: skip
MEDIANS = {"baseline": (151_000, 30, 30), "reward_to_go": (203_000, 28, 30)}
COLLAPSED = {"baseline": (1, 30), "reward_to_go": (8, 30)}


def pair(medians: dict | None = None, collapsed: dict | None = None, **changed) -> str:
    rows = {
        name: pd.Series({"estimate": x, "reached": k, "n_runs": n}) for name, (x, k, n) in (medians or MEDIANS).items()
    }
    finals = {name: pd.Series({"estimate": 100.0, "n_runs": 30}) for name in MEDIANS}
    shares = {name: pd.Series({"collapsed": k, "n_runs": n}) for name, (k, n) in (collapsed or COLLAPSED).items()}
    return of_pair(pd.Series(PAIR | changed), rows, finals, shares)


def test_a_clear_difference():
    assert pair() == (
        "**baseline reached the threshold sooner than reward_to_go**: median 151k against 203k env steps, "
        "P(improvement) .84 [.74, .92], p < .001 (Holm over 3), 30 seeds; collapse 1 of 30 against 8 of 30."
    )


def test_few_seeds_are_said():
    assert pair(n_runs=9).endswith("against 8 of 30. Fewer than 10 seeds: the interval is too narrow.")


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
    shares = pd.Series({"estimate": 1 / 30, "lo": 0.006, "hi": 0.167, "collapsed": 1, "n_runs": 30})
    assert of_variant("baseline", 475.0, median, final, shares) == (
        "**baseline**: 29 of 30 runs reached 475, median 151k env steps [140k, –]; final score 473 [460, 480] (IQM, 30 "
        "seeds); 1 of 30 collapsed [.01, .17]."
    )
    assert of_variant("lost", 475.0, None, None, None) == "**lost**: no scores."


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
