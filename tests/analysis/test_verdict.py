"""Sentences from numbers that are made up: they claim no more than the intervals allow."""

import doctest
import math

import pandas as pd
import pytest

from analysis import hygiene, results, text
from analysis.report.verdict import _Known, _sentences, of_pair, of_share, of_variant
from analysis.statistics.aggregates import proportion
from analysis.statistics.compare import collapse_tests, concluded
from analysis.statistics.events import COUNTS

PAIR = {
    "a": "reward_to_go", "b": "baseline", "endpoint": "time to threshold", "estimate": 0.16, "lo": 0.08, "hi": 0.26,
    "p": 0.0004, "warning": "", "n_a": 30, "n_b": 30, "runs_a": 30, "runs_b": 30, "absent_a": 0.0, "absent_b": 0.0,
    "test": "ranks", "null": 0.5, "against": False, "equal": False, "ratio_lo": 0.97, "ratio_hi": 1.04, "near": 20.0,
    "difference_lo": -3.0, "difference_hi": 4.0,
} | {f"{what}_{side}": 0 for what in ("diverged", "failed", "unknown") for side in "ab"}  # fmt: skip
MEDIANS = {"baseline": (151_000, 30, 30), "reward_to_go": (203_000, 28, 30)}
COLLAPSED = {"baseline": (1, 30), "reward_to_go": (8, 30)}


def share(name: str, collapsed: int, at_risk: int, **more) -> pd.Series:
    """A row of events.collapse_shares."""
    estimate, lo, hi = proportion(collapsed, at_risk)
    counts = dict.fromkeys(COUNTS, 0) | {"runs": 30, "collapsed": collapsed}
    return pd.Series({"variant": name, "env": "e", "estimate": estimate, "lo": lo, "hi": hi, "level": 0.95,
                      "n_runs": at_risk, "params_json": '{"level": 0.8}', "missing": 0.0, "watched": 500_000.0,
                      "warning": ""} | counts | more)  # fmt: skip


def known(medians: dict | None = None, collapsed: dict | None = None) -> _Known:
    of = (medians or MEDIANS).items()
    return _Known(
        medians={name: pd.Series({"estimate": x, "reached": k, "n_runs": n}) for name, (x, k, n) in of},
        restricted={name: pd.Series({"estimate": 1.1 * x}) for name, (x, _, _) in of},
        finals={name: pd.Series({"estimate": 100.0, "n_runs": 30}) for name in MEDIANS},
        shares={name: share(name, *counts) for name, counts in (collapsed or COLLAPSED).items()},
    )


def pair(medians: dict | None = None, collapsed: dict | None = None, family: int = 1, **changed) -> str:
    rows = concluded(pd.DataFrame([PAIR | changed] * family))
    return of_pair(rows.iloc[0], known(medians, collapsed))


def test_a_clear_difference():
    assert pair() == (
        "**baseline reached the threshold sooner than reward_to_go**: median 151k against 203k env steps (restricted mean "
        "166k against 223k), P(sooner) .84 [.74, .92], p < .001 (one test), 30 seeds; collapsed 1 of 30 against 8 of 30 at "
        "risk."
    )
    assert "p = .0012 (Holm over 3)" in pair(family=3)


@pytest.mark.parametrize("endpoint", ["time to threshold", "final score"])
def test_few_seeds_are_said(endpoint: str):
    said = pair(n_a=9, endpoint=endpoint)
    assert said.endswith(". Fewer than 10 seeds: intervals of differences, means and medians are too narrow.")


def test_the_same_the_other_way_round():
    other = pair(a="baseline", b="reward_to_go", estimate=0.84, lo=0.74, hi=0.92)
    assert other == pair()


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"estimate": 0.45, "lo": 0.3, "hi": 0.6, "p": 0.5}, "The interval holds ½."),
        ({"estimate": 0.3, "lo": 0.12, "hi": 0.49, "p": 0.09}, "The interval excludes ½, but p is too large."),
        ({"lo": math.nan, "hi": math.nan}, "Fewer than 3 seeds: no interval."),
        ({"absent_a": 0.2}, "Nothing is clear while more than a tenth of a group's runs are missing (20% of reward_to_go)."),
    ],
)
def test_inconclusive_and_why(changed: dict, reason: str):
    said = pair(**changed)
    assert said.startswith("**Inconclusive: baseline sooner than reward_to_go?** Median 151k against 203k")
    assert said.endswith(reason) and "reached the threshold sooner" not in said


def test_no_power_is_read_off_the_result():
    """How many seeds an effect needs that happened to be found says nothing that p does not say."""
    assert "seeds each" not in pair(p=0.2) and "power" not in pair(p=0.2)


def test_two_summaries_that_disagree_make_no_claim():
    said = pair(against=True)
    assert said.startswith("**Mixed: baseline sooner than reward_to_go?** Median 151k")
    assert said.endswith("baseline is sooner more often than not, but later on average.")


def test_practically_equal():
    said = pair(estimate=0.45, lo=0.3, hi=0.6, p=0.5, equal=True)
    assert said.startswith("**baseline and reward_to_go are practically equal**, restricted means within 5% of each other "
                           "(ratio [0.97, 1.04]): median")  # fmt: skip
    said = pair(estimate=0.45, lo=0.3, hi=0.6, p=0.5, equal=True, endpoint="final score")
    assert "final scores within ±20, 5% of what a run's curve spans (difference [−3, 4])" in said
    assert "It is a small difference: restricted means within 5%" in pair(equal=True)  # clear, and small


def test_runs_that_were_lost_are_told():
    said = pair(diverged_a=10, failed_b=2, unknown_b=1)
    assert ("10 of 30 runs of reward_to_go diverged and rank last; 2 of 30 runs of baseline failed and rank last; 1 of 30 "
            "runs of baseline were stopped or have not ended and are left out") in said  # fmt: skip
    paired = pair(diverged_a=10, failed_b=2, test="signs", null=0.0, endpoint="final score", estimate=-3.0, lo=-5.0, hi=-1.0)
    assert "diverged and count as the lowest score" in paired and "failed and are left out" in paired
    assert "mean difference by seed 3 [1, 5]" in paired


def test_medians_that_were_not_reached():
    said = pair({"baseline": (151_000, 30, 30), "reward_to_go": (math.nan, 12, 30)})
    assert "30 of 30 got there (median 151k env steps) against 12 of 30 got there, P(sooner)" in said


def test_without_a_threshold_final_scores_decide():
    said = pair(endpoint="final score")
    assert said.startswith("**baseline scored higher in the end than reward_to_go**: IQM 100 against 100, P(higher) .84")


def test_no_scores():
    assert pair(estimate=math.nan, p=math.nan, warning="no runs") == (
        "**No comparison**: reward_to_go or baseline? There are no times to compare: no runs."
    )


def family(*pairs: dict) -> list[str]:
    return _sentences(concluded(pd.DataFrame([PAIR | pair for pair in pairs])), known(), "primary")


def test_what_cannot_be_decided_is_said_once():
    three = dict(n_a=3, n_b=3, runs_a=3, runs_b=3, estimate=1.0, p=0.1)
    said = family(*({"a": a, "b": b} | three for a, b in ("ab", "ac", "bc")))
    assert said == [
        "**Not decidable with 3 seeds and 3 comparisons** (at least 5 seeds each would be needed): a or b, a or c, b or c. "
        "The smallest p that so many can give is .1, after the adjustment .3."
    ]
    assert (
        "**Not decidable with 8 pairs and 10 comparisons** (at least 9"
        in family(*[dict(test="signs", null=0.0, estimate=3.0, lo=1.0, hi=5.0, n_a=8, n_b=8, p=2 / 2**8)] * 10)[0]
    )


def test_the_smallest_p_is_printed():
    assert family({})[-1] == "The smallest p that so many can give is < .001, after the adjustment < .001."


def test_groups_of_several_sizes_are_named_together():
    said = family({"a": "a", "b": "b", "n_a": 3}, {"a": "a", "b": "c", "n_a": 3, "n_b": 3}, {})
    assert len(said) == 3 and said[0].startswith("**baseline reached")
    assert ": a or b, a or c. The smallest p that so many can give is < .001 to .1, after" in said[1]


def test_pairs_that_never_got_there_are_said_once():
    none = {"baseline": (math.nan, 0, 30), "reward_to_go": (math.nan, 0, 29)}
    rows = concluded(pd.DataFrame([PAIR | dict(estimate=0.5, lo=0.4, hi=0.6, p=1.0)]))
    assert _sentences(rows, known(none), "primary") == [
        "**Inconclusive: no run of either reached the threshold**: reward_to_go or baseline."
    ]


def test_a_variant_by_itself():
    median = pd.Series({"estimate": 151_000.0, "lo": 140_000.0, "hi": math.nan, "reached": 29, "n_runs": 30})
    final = pd.Series({"metric": "iqm of final r", "estimate": 473.2, "lo": 460.0, "hi": 480.0, "n_runs": 30})
    assert of_variant("baseline", 475.0, median, final, share("baseline", 1, 30)) == (
        "**baseline**: 29 of 30 runs reached 475, median 151k env steps [140k, –]; final score 473 [460, 480] (IQM, 30 "
        "seeds); of those that got 80% of the way up 1 of 30 [.01, .17] collapsed."
    )
    assert of_variant("lost", 475.0, None, None, None) == "**lost**: no scores."
    said = of_variant("lost", 475.0, None, None, None, {"diverged": 10, "completed": 8, "failed": 2})
    assert said == "**lost**: no scores; of 20 runs 10 diverged and 2 failed."


def test_what_is_said_of_collapses_beside_their_share():
    of = share("a", 4, 20, catastrophic=3, diverged=6, falling=1)
    assert of_share(of) == (
        "of those that got 80% of the way up 4 of 20 [.08, .42] collapsed, 3 for good (6 diverged, 1 falling at the end)"
    )
    assert of_share(share("a", 0, 0)) == "none of 30 got 80% of the way up, so none could collapse"
    assert of_share(share("a", 0, 0, undetermined=30)) == ""
    assert of_share(share("a", 0, 0, undetermined=30, diverged=2, failed=1)) == "2 diverged, 1 failed"
    assert "collapsed" not in pair(collapsed={"baseline": (0, 0), "reward_to_go": (8, 30)})


def compared(a: pd.Series, b: pd.Series) -> str:
    tests = concluded(collapse_tests(pd.DataFrame([a, b])))
    shares = {row["variant"]: row for row in (a, b)}
    return _sentences(tests, _Known({}, {}, {}, shares), "collapse_tests")[0]


def test_collapses_are_compared_among_the_runs_at_risk():
    """0 of 30 that never learned is not a lower share than 10 of the 30 that did."""
    assert compared(share("a", 1, 30), share("b", 12, 30)).startswith(
        "**b collapsed more often than a**: 12 of 30 against 1 of 30 runs at risk, difference .37 ["
    )
    never = compared(share("learns", 10, 30), share("never", 0, 0))
    assert never == "**No comparison**: learns or never? Of the runs at risk 10 of 30 against 0 of 0 collapsed."
    falling = compared(share("learns", 10, 30, falling=2), share("never", 0, 0, failed=1))
    assert falling == f"{never} 1 of 30 runs of never failed. 2 of 30 runs of learns are falling at the end."
    few = compared(share("a", 0, 4), share("b", 24, 24))
    assert few.startswith("**Not decidable with 4 runs at risk and 1 comparison** (at least 5 at risk in each would be needed)")


def test_a_competing_end_is_told_and_nothing_is_clear_where_many_ends_were_not_seen():
    """10 of 20 that diverged did not "collapse less" than 10 of 20 that fell."""
    said = compared(share("diverges", 0, 10, diverged=20, missing=2 / 3), share("falls", 12, 20))
    assert said.startswith("**Inconclusive: falls collapsed more often than diverges?**")
    assert "the end of more than a tenth of a group's runs was not seen (67% of diverges)" in said
    assert said.endswith("20 of 30 runs of diverges diverged.")
    both = compared(share("a", 1, 30, falling=1), share("b", 12, 30, falling=2, watched=100_000.0))
    assert both.startswith("**b collapsed more often than a**") and both.endswith(
        "1 of 30 runs of a and 2 of 30 runs of b are falling at the end. Runs at risk were watched for a median of 500k "
        "(a) against 100k env steps (b)."
    )


@pytest.mark.parametrize("module", [text, hygiene, results])
def test_examples_in_docstrings(module):
    done = doctest.testmod(module)
    assert done.attempted and not done.failed
