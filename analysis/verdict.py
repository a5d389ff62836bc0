"""Sentences made of the numbers in the tables, in Markdown. They claim what the intervals allow: where an interval
holds "no difference", or p does after the adjustment for the family, the sentence says inconclusive and why."""

import json
import math
from collections.abc import Iterable

import pandas as pd

from analysis import text
from analysis.study import Study

MOST = 10
"""Pairs that are written out; the others are counted, and in the tables."""
MIN_AT_RISK, MOST_MISSING = 5, 0.1
"""No difference of collapses is clear with fewer runs at risk, or where a larger share of a group was not seen to its end."""


def sentences(study: Study) -> str:
    """The verdict of every environment: each variant by itself, then the pairs on the primary endpoint, then others."""
    parts = []
    for env in study.envs:
        if len(study.envs) > 1:
            parts.append(f"### {env}")
        parts.append(_list(of_variants(study, env)))
        if pairs := of_pairs(study, env):
            parts += ["**Which is better, on the primary endpoint?**", _list(pairs)]
            parts += ["**And in the end?** (secondary, a family of its own)", _list(of_scores(study, env))]
            parts += ["**And how safely?** (secondary, a family of its own)", _list(of_collapses(study, env))]
        else:
            parts.append("There is nothing to compare: one group only, or no scores.")
    return "\n\n".join(filter(None, parts))


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _of(frame: pd.DataFrame, env: str) -> dict[str, pd.Series]:
    """Rows of one environment by variant."""
    return {row["variant"]: row for _, row in frame[frame["env"] == env].iterrows()}


# A variant by itself


def of_variants(study: Study, env: str) -> list[str]:
    medians, finals, shares = (_of(frame, env) for frame in (study.medians, study.final, study.collapse_shares))
    names = sorted(set(study.runs.loc[study.runs["env"] == env, "variant"]))
    return [
        of_variant(name, study.threshold(env), medians.get(name), finals.get(name), shares.get(name)) for name in names
    ]


def of_variant(
    name: str, threshold: float, median: pd.Series | None, final: pd.Series | None, collapsed: pd.Series | None
) -> str:
    """`final` is a row of aggregates.aggregate, `median` of survival.median_times, `collapsed` of collapse_shares."""
    said = []
    if median is not None:
        reached = f"{_share(median, 'reached')} runs reached {text.number(threshold)}"
        said.append(reached + (f", median {text.steps(median['estimate'])} env steps "
                               f"{text.between(median['lo'], median['hi'], text.steps)}"
                               if not math.isnan(median["estimate"]) else ", too few for a median"))  # fmt: skip
    if final is not None and final["n_runs"]:
        said.append(f"final score {text.number(final['estimate'])} {text.between(final['lo'], final['hi'])} "
                    f"({_statistic(final)}, {_seeds(final['n_runs'])})")  # fmt: skip
    if collapsed is not None:
        said.append(of_share(collapsed))
    return f"**{name}**: {'; '.join(filter(None, said)) or 'no scores'}."


def of_share(row: pd.Series) -> str:
    """A row of collapse_shares: of the runs that were at risk, and what else became of runs."""
    level = f"{json.loads(row['params_json'])['level']:.0%}"
    others = {"diverged": "diverged", "failed": "failed", "unfinished": "unfinished", "undetermined": "not determined",
              "falling": "falling at the end", "stopped": "stopped when solved"}  # fmt: skip
    if row["undetermined"] == row["runs"]:
        del others["undetermined"]  # of all runs, and so among the warnings
    beside = [f"{row[name]} {what}" for name, what in others.items() if row[name]]
    if row["undetermined"] == row["runs"]:
        return ", ".join(beside)
    if row["n_runs"]:
        collapsed = f"{_share(row, 'collapsed')} {text.between(row['lo'], row['hi'], text.share)} collapsed"
        for_good = f", {row['catastrophic']} for good" if row["catastrophic"] else ""
        said = f"of those that got {level} of the way up {collapsed}{for_good}"
    else:
        said = f"none of {row['runs']} got {level} of the way up, so none could collapse"
    return f"{said} ({', '.join(beside)})" if beside else said


def _statistic(row: pd.Series) -> str:
    return row["metric"].split(" of ")[0].replace("iqm", "IQM")


def _seeds(n: int) -> str:
    return f"{int(n)} seed{'' if n == 1 else 's'}"


# Pairs on the primary endpoint


def of_pairs(study: Study, env: str) -> list[str]:
    pairs = study.primary[study.primary["env"] == env]
    medians, finals, shares = (_of(frame, env) for frame in (study.medians, study.final, study.collapse_shares))
    order = (pairs["estimate"] - 0.5).abs() + pairs["conclusive"]
    rows = [row for _, row in pairs.loc[order.sort_values(ascending=False, kind="stable").index].iterrows()]
    said = [of_pair(row, medians, finals, shares, power=study.question.power) for row in rows[:MOST]]
    if len(rows) > MOST:
        clear = int(pairs["conclusive"].sum())
        said.append(
            f"… and {len(rows) - MOST} more pairs, in the table `primary`: {clear} of all {len(rows)} are clear."
        )
    return said


def of_pair(
    pair: pd.Series,
    medians: dict[str, pd.Series],
    finals: dict[str, pd.Series],
    shares: dict[str, pd.Series],
    *,
    power: float = 0.8,
) -> str:
    """One row of Study.primary; the others by variant, as in `of_variant`."""
    p, lo, hi, first, second = pair["estimate"], pair["lo"], pair["hi"], pair["a"], pair["b"]
    if math.isnan(p):
        return f"**Inconclusive**: {first} or {second}? There are no scores to compare: {pair['warning']}."
    if p < 0.5:  # the better one comes first
        p, lo, hi, first, second = 1 - p, 1 - hi, 1 - lo, second, first
    by_time = pair["endpoint"] == "time to threshold"
    if by_time:
        numbers = _medians(medians[first], medians[second])
        claim, doubt = f"{first} reached the threshold sooner than {second}", f"{first} sooner than {second}?"
        if not medians[first]["reached"] and not medians[second]["reached"]:
            return f"**Inconclusive: neither {first} nor {second} reached the threshold** in {_both(pair, medians)}."
    else:
        numbers = f"IQM {text.number(finals[first]['estimate'])} against {text.number(finals[second]['estimate'])}"
        claim, doubt = f"{first} scored higher in the end than {second}", f"{first} better than {second}?"
    adjusted = f"{text.p_value(pair['p_adjusted'])} ({text.family(pair['p_method'])})"
    numbers += f", P(improvement) {text.share(p)} {text.between(lo, hi, text.share)}, {adjusted}, "
    numbers += _both(pair, medians if by_time else finals)
    collapsed = ""
    if all(name in shares and shares[name]["undetermined"] < shares[name]["runs"] for name in (first, second)):
        collapsed = (f"; collapsed {_share(shares[first], 'collapsed')} against {_share(shares[second], 'collapsed')} "
                     "at risk")  # fmt: skip
    if pair["conclusive"]:
        few = " Fewer than 10 seeds: the interval is too narrow." if pair["n_runs"] < 10 else ""
        return f"**{claim}**: {numbers}{collapsed}.{few}"
    return (
        f"**Inconclusive: {doubt}** {numbers[0].upper()}{numbers[1:]}{collapsed}. {_why(lo, hi)}{_needed(pair, power)}"
    )


def _medians(a: pd.Series, b: pd.Series) -> str:
    if not math.isnan(a["estimate"] + b["estimate"]):
        return f"median {text.steps(a['estimate'])} against {text.steps(b['estimate'])} env steps"
    said = [
        f"{_share(row, 'reached')} got there"
        + ("" if math.isnan(row["estimate"]) else f" (median {text.steps(row['estimate'])} env steps)")
        for row in (a, b)
    ]
    return " against ".join(said)


def _share(row: pd.Series, of: str) -> str:
    return f"{int(row[of])} of {int(row['n_runs'])}"


def _both(pair: pd.Series, rows: dict[str, pd.Series]) -> str:
    a, b = (int(rows[name]["n_runs"]) for name in (pair["a"], pair["b"]))
    return _seeds(a) if a == b else f"{a} runs of {pair['a']} and {b} of {pair['b']}"


def _why(lo: float, hi: float) -> str:
    if math.isnan(lo):
        return "Fewer than 3 seeds: no interval."
    if lo <= 0.5 <= hi:
        return "The interval holds ½."
    return "The interval excludes ½, but p is too large."


def _needed(pair: pd.Series, power: float) -> str:
    n = pair["seeds_needed"]
    if not math.isfinite(n):
        return ""
    many = f"about {n:,.0f}" if n <= 1000 else "more than 1,000"
    return f" A difference of this size would need {many} seeds each to be found with {power:.0%} power."


# Pairs on the others


def of_scores(study: Study, env: str) -> list[str]:
    rows = study.differences[study.differences["env"] == env]
    said = [of_difference(row, study.question.alpha, "final score", text.number) for _, row in rows.iterrows()]
    return _cut(said)


def of_collapses(study: Study, env: str) -> list[str]:
    rows, shares = study.collapse_tests[study.collapse_tests["env"] == env], _of(study.collapse_shares, env)
    if (reason := study.ways[env].undetermined) and len(rows):
        return [f"**Not determined**: {reason}."]
    said = [of_collapse_pair(row, shares[row["a"]], shares[row["b"]], study.question.alpha) for _, row in rows.iterrows()]
    return _cut(said)


def of_collapse_pair(row: pd.Series, a: pd.Series, b: pd.Series, alpha: float) -> str:
    """A row of compare.collapse_tests, and of collapse_shares those of its two groups."""
    what, beside = "share of runs at risk that collapsed", _beside_collapses(a, b)
    counts = f"{_share(a, 'collapsed')} against {_share(b, 'collapsed')} runs at risk"
    if math.isnan(row["estimate"]):
        return " ".join([f"**No comparison**: {row['a']} against {row['b']}, {what}: {counts}.", *beside])
    unclear = ""
    if row["missing"] > MOST_MISSING:
        unclear = f" The end of more than {MOST_MISSING:.0%} of a group was not seen."
    elif row["n_runs"] < MIN_AT_RISK:
        unclear = f" Fewer than {MIN_AT_RISK} runs at risk."
    said = of_difference(row, alpha, what, _signed_share, f"{counts}; ", unclear)
    return " ".join([said, *beside])


def _beside_collapses(a: pd.Series, b: pd.Series) -> list[str]:
    """What else became of the runs of two groups, and for how long those at risk were watched, where that differs."""
    what = {"diverged": "diverged", "failed": "failed", "unfinished": "are unfinished", "stopped": "were stopped when solved",
            "falling": "are falling at the end", "undetermined": "are not determined"}  # fmt: skip
    said = []
    for name, became in what.items():
        counts = [f"{row[name]} of {row['runs']} runs of {row['variant']}" for row in (a, b) if row[name]]
        if counts:
            said.append(f"{' and '.join(counts)} {became}.")
    shorter, longer = sorted([a["watched"], b["watched"]])
    if longer > 1.25 * shorter:
        said.append(f"Runs at risk were watched for a median of {text.steps(a['watched'])} against "
                    f"{text.steps(b['watched'])} env steps.")  # fmt: skip
    return said


def _signed_share(x: float) -> str:
    return text.share(x) if x >= 0 or math.isnan(x) else f"−{text.share(-x)}"


def of_difference(row: pd.Series, alpha: float, what: str, of, more: str = "", unclear: str = "") -> str:
    """A row with a difference a − b, its interval, p_adjusted and p_method; `of` writes a number; `unclear`: why it
    cannot be clear, whatever the numbers."""
    pair = f"{row['a']} against {row['b']}"
    if math.isnan(row["estimate"]):
        return f"**Inconclusive**: {pair}: no {what} ({row['warning']})."
    how = " paired by seed" if "paired" in row["metric"] else ""
    numbers = (f"{more}difference{how} {of(row['estimate'])} {text.between(row['lo'], row['hi'], of)}, "
               f"{text.p_value(row['p_adjusted'])} ({text.family(row['p_method'])})")  # fmt: skip
    if (row["lo"] > 0 or row["hi"] < 0) and row["p_adjusted"] <= alpha and not unclear:
        return f"**{pair}: {what} {'higher' if row['estimate'] > 0 else 'lower'}**: {numbers}."
    excluded = "" if not (row["lo"] > 0 or row["hi"] < 0) else " The interval excludes 0, but p is too large."
    return f"**Inconclusive: {pair}**, {what}: {numbers}.{unclear or excluded}"


def _cut(said: list[str]) -> list[str]:
    return said if len(said) <= MOST else [*said[:MOST], f"… and {len(said) - MOST} more pairs, in the tables."]
