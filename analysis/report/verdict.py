"""Sentences made of the numbers in the tables, in Markdown. They claim what compare.concluded allows, and where that is
nothing they say why: inconclusive, practically equal, too many runs missing, or not decidable with so few seeds."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from analysis import text
from analysis.report.study import Study
from analysis.statistics.compare import FEW_SEEDS

MOST = 10
"""Pairs that are written out; the others are counted, and in the tables."""


def sentences(study: Study) -> str:
    """The verdict of every environment: each variant by itself, then the pairs on the primary endpoint, then others."""
    parts = []
    for env in study.envs:
        if len(study.envs) > 1:
            parts.append(f"### {env}")
        parts.append(_list(of_variants(study, env)))
        if pairs := of_pairs(study, env):
            parts += ["**Which is better, on the primary endpoint?**", _list(pairs)]
            if _says_more(study, env):
                parts += ["**And in the end?** (secondary, a family of its own)", _list(of_scores(study, env))]
            parts += ["**And how safely?** (secondary, a family of its own)", _list(of_collapses(study, env))]
        else:
            parts.append("There is nothing to compare: one group only, or no scores.")
    return "\n\n".join(filter(None, parts))


def _says_more(study: Study, env: str) -> bool:
    """Whether final scores are not the primary endpoint already."""
    primary, finals = (frame[frame["env"] == env] for frame in (study.primary, study.final_pairs))
    return bool((primary["endpoint"] != "final score").any() or (finals["test"] == "signs").any())


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _of(frame: pd.DataFrame, env: str) -> dict[str, pd.Series]:
    """Rows of one environment by variant."""
    return {row["variant"]: row for _, row in frame[frame["env"] == env].iterrows()}


# A variant by itself


def of_variants(study: Study, env: str) -> list[str]:
    medians, finals, shares = (_of(frame, env) for frame in (study.medians, study.final, study.collapse_shares))
    names = sorted(set(study.runs.loc[study.runs["env"] == env, "variant"]))
    statuses = study.runs[study.runs["env"] == env].groupby("variant")["status"].value_counts()
    return [
        of_variant(name, study.threshold(env), medians.get(name), finals.get(name), shares.get(name), statuses[name].to_dict())
        for name in names
    ]


def of_variant(
    name: str,
    threshold: float,
    median: pd.Series | None,
    final: pd.Series | None,
    collapsed: pd.Series | None,
    statuses: Mapping[str, int] = {},
) -> str:
    """`final` is a row of aggregates.aggregate, `median` of survival.median_times, `collapsed` of collapse_shares;
    `statuses` is how many runs ended how."""
    clauses = []
    if median is not None:
        reached = f"{_share(median, 'reached')} runs reached {text.number(threshold)}"
        clauses.append(reached + (f", median {text.steps(median['estimate'])} env steps "
                               f"{text.between(median['lo'], median['hi'], text.steps)}"
                               if not math.isnan(median["estimate"]) else ", too few for a median"))  # fmt: skip
    if final is not None and final["n_runs"]:
        clauses.append(f"final score {text.number(final['estimate'])} {text.between(final['lo'], final['hi'])} "
                    f"({_statistic(final)}, {_seeds(final['n_runs'])})")  # fmt: skip
    clauses = clauses or ["no scores"]
    lost = [f"{n} {status}" for status, n in sorted(statuses.items()) if status != "completed"]
    if collapsed is not None and (of_collapses := of_share(collapsed)):
        clauses.append(of_collapses)
    elif lost:
        clauses.append(f"of {sum(statuses.values())} runs {text.listed(lost)}")
    return f"**{name}**: {'; '.join(clauses)}."


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
        clause = f"of those that got {level} of the way up {collapsed}{for_good}"
    else:
        clause = f"none of {row['runs']} got {level} of the way up, so none could collapse"
    return f"{clause} ({', '.join(beside)})" if beside else clause


def _statistic(row: pd.Series) -> str:
    return row["metric"].split(" of ")[0].replace("iqm", "IQM")


def _seeds(n: int) -> str:
    return f"{int(n)} seed{'' if n == 1 else 's'}"


# Pairs


def of_pairs(study: Study, env: str) -> list[str]:
    """Sentences about pairs on the primary endpoint."""
    return _sentences(study.primary[study.primary["env"] == env], _Known.of(study, env), "primary")


def of_scores(study: Study, env: str) -> list[str]:
    rows = study.final_pairs[study.final_pairs["env"] == env]
    return _sentences(rows, _Known.of(study, env), "final_pairs")


def of_collapses(study: Study, env: str) -> list[str]:
    rows = study.collapse_tests[study.collapse_tests["env"] == env]
    if (reason := study.ways[env].undetermined) and len(rows):
        return [f"**Not determined**: {reason}."]
    return _sentences(rows, _Known.of(study, env), "collapse_tests")


@dataclass(frozen=True)
class _Known:
    """Results told beside a pair, by variant."""

    medians: Mapping[str, pd.Series]
    restricted: Mapping[str, pd.Series]
    finals: Mapping[str, pd.Series]
    shares: Mapping[str, pd.Series]
    equivalent: float = 0.05

    @classmethod
    def of(cls, study: Study, env: str) -> "_Known":
        frames = study.medians, study.restricted, study.final, study.collapse_shares
        return cls(*(_of(frame, env) for frame in frames), study.question.equivalent)


def _sentences(pairs: pd.DataFrame, known: _Known, name: str) -> list[str]:
    """Sentences about pairs, the clearest first. Pairs of which there is the same to say are named together."""
    together, alone = {}, []
    order = pd.DataFrame({"clear": ~pairs["conclusive"], "p": pairs["p"], "by": -(pairs["estimate"] - pairs["null"]).abs()})
    for _, pair in pairs.loc[order.sort_values(["clear", "p", "by"], kind="stable").index].iterrows():
        if same := _said_together(pair, known):
            together.setdefault(same, []).append(pair)
        else:
            alone.append(pair)
    lines = [of_pair(pair, known) for pair in alone[:MOST]]
    if len(alone) > MOST:
        lines.append(f"… and {len(alone) - MOST} more pairs, in the table `{name}`: {int(pairs['conclusive'].sum())} of all "
                    f"{len(pairs)} are clear.")  # fmt: skip
    for same, alike in together.items():
        names = sorted(f"{pair['a']} or {pair['b']}" for pair in alike)
        more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
        hopeless = alike[0]["conclusion"] == "undecidable"
        lines.append(f"{same}: {', '.join(names[:MOST])}{more}.{_smallest(alike) if hopeless else ''}")
    if alone:
        lines.append(_smallest(alone).strip())
    return [line for line in lines if line]


def _said_together(pair: pd.Series, known: _Known) -> str | None:
    """The sentence that several pairs share, said once before their names; None if the pair has a sentence of its own."""
    if pair["conclusion"] == "undecidable":
        return _undecidable(pair)
    fisher = pair["test"] == "fisher"
    if pair["conclusion"] == "none" or not (fisher or pair["endpoint"] == "time to threshold"):
        return None
    rows, of, what = (known.shares, "collapsed", "collapsed") if fisher else (known.medians, "reached", "reached the threshold")
    if any(rows[pair[side]][of] for side in "ab") or _lost(pair) or fisher and _else(pair, known):
        return None
    return f"**Inconclusive: no run of either {what}**"


def _undecidable(pair: pd.Series) -> str:
    """The sentence of a pair of which no result could have been clear, with so few seeds."""
    family, n = int(pair["family"]), int(min(pair["n_a"], pair["n_b"]))
    what = {"fisher": "run{} at risk", "signs": "pair{}", "ranks": "seed{}"}[pair["test"]].format("" if n == 1 else "s")
    needed = f"{pair['seeds_least']:.0f} {'at risk in' if pair['test'] == 'fisher' else 'seeds'} each would be needed"
    return f"**Not decidable with {n} {what} and {family} comparison{'' if family == 1 else 's'}** (at least {needed})"


def _smallest(pairs: list[pd.Series]) -> str:
    """The smallest p that there can be, whatever the runs do."""
    known = [pair for pair in pairs if not math.isnan(pair["smallest_p"])]
    if not known:
        return ""
    raw, adjusted = (
        " to ".join(dict.fromkeys((_p(min(pair[name] for pair in known)), _p(max(pair[name] for pair in known)))))
        for name in ("smallest_p", "smallest_p_adjusted")
    )
    return f" The smallest p that so many can give is {raw}, after the adjustment {adjusted}."


def _p(p: float) -> str:
    return text.p_value(p).removeprefix("p ").removeprefix("= ")


def of_pair(pair: pd.Series, known: _Known) -> str:
    """One row of compare.concluded: of Study.primary, final_pairs or collapse_tests."""
    kind = _KINDS["collapse" if pair["test"] == "fisher" else pair["endpoint"]]
    if math.isnan(pair["estimate"]):
        return f"**No comparison**: {pair['a']} or {pair['b']}? {kind.nothing(pair, known)}"
    first, second = pair["a"], pair["b"]
    estimate, lo, hi = pair["estimate"], pair["lo"], pair["hi"]
    ranks = pair["test"] == "ranks"
    if estimate < pair["null"]:  # the one with more of it comes first
        first, second = second, first
        estimate, lo, hi = (1 - estimate, 1 - hi, 1 - lo) if ranks else (-estimate, -hi, -lo)
    beside = kind.beside(pair, first, second, known) + (" runs at risk" if pair["test"] == "fisher" else "")
    if ranks:
        effect = f"P({kind.word}) {text.share(estimate)} {text.between(lo, hi, text.share)}"
    else:
        of = text.number if pair["test"] == "signs" else _signed_share
        name = "mean difference by seed" if pair["test"] == "signs" else "difference"
        effect = f"{name} {of(estimate)} {text.between(lo, hi, of)}"
    adjusted = f"{text.p_value(pair['p_adjusted'])} ({text.family(pair['p_method'])})"
    numbers = f"{beside}, {effect}, {adjusted}{kind.counts(pair, known)}"
    if kind.word == "sooner" and all(known.shares[name]["n_runs"] for name in (first, second)):
        numbers += f"; collapsed {_collapsed(pair, first, second, known)} at risk"
    numbers += "".join(f"; {lost}" for lost in _lost(pair))
    more = "".join(f" {line}" for line in kind.more(pair, known))
    if min(pair["n_a"], pair["n_b"]) < FEW_SEEDS:
        more += f" Fewer than {FEW_SEEDS} seeds: intervals of differences, means and medians are too narrow."
    question = kind.question.format(first, second)
    capital = f"{numbers[0].upper()}{numbers[1:]}"
    match pair["conclusion"]:
        case "clear":
            little = f" It is a small difference: {kind.equal(pair, known)}." if pair["equal"] else ""
            return f"**{kind.claim.format(first, second)}**: {numbers}.{little}{more}"
        case "equal":
            return f"**{first} and {second} are practically equal**, {kind.equal(pair, known)}: {numbers}.{more}"
        case "mixed":
            return f"**Mixed: {question}** {capital}. {kind.mixed.format(first, second)}{more}"
        case "absent":
            return f"**Inconclusive: {question}** {capital}. {_absent(pair)}{more}"
    return f"**Inconclusive: {question}** {capital}. {_why(pair, lo, hi)}{more}"


@dataclass(frozen=True)
class _Kind:
    """The wording of pairs of one sort. `{0}` is the one that has more of it."""

    word: str
    claim: str
    question: str
    mixed: str
    nothing: Callable[[pd.Series, _Known], str]
    beside: Callable[[pd.Series, str, str, _Known], str]
    equal: Callable[[pd.Series, _Known], str]
    counts: Callable[[pd.Series, _Known], str]
    more: Callable[[pd.Series, _Known], list[str]]


def _times(pair: pd.Series, first: str, second: str, known: _Known) -> str:
    medians = _medians(known.medians[first], known.medians[second])
    means = [known.restricted[name]["estimate"] for name in (first, second)]
    if math.isnan(sum(means)):
        return medians
    return f"{medians} (restricted mean {text.steps(means[0])} against {text.steps(means[1])})"


def _medians(a: pd.Series, b: pd.Series) -> str:
    if not math.isnan(a["estimate"] + b["estimate"]):
        return f"median {text.steps(a['estimate'])} against {text.steps(b['estimate'])} env steps"
    clauses = [
        f"{_share(row, 'reached')} got there"
        + ("" if math.isnan(row["estimate"]) else f" (median {text.steps(row['estimate'])} env steps)")
        for row in (a, b)
    ]
    return " against ".join(clauses)


def _finals(pair: pd.Series, first: str, second: str, known: _Known) -> str:
    return f"IQM {text.number(known.finals[first]['estimate'])} against {text.number(known.finals[second]['estimate'])}"


def _collapsed(pair: pd.Series, first: str, second: str, known: _Known) -> str:
    return " against ".join(_share(known.shares[name], "collapsed") for name in (first, second))


def _of_both(pair: pd.Series, known: _Known) -> str:
    """The numbers of runs of both groups."""
    a, b = (int(pair[f"runs_{side}"]) for side in "ab")
    seeds = _seeds(a) if a == b else f"{a} runs of {pair['a']} and {b} of {pair['b']}"
    if pair["test"] == "signs":
        seeds = f"{int(pair['n_a'])} pairs"
    return f", {seeds}"


def _equal_times(pair: pd.Series, known: _Known) -> str:
    ratio = text.between(pair["ratio_lo"], pair["ratio_hi"], "{:.2f}".format)
    return f"restricted means within {known.equivalent:.0%} of each other (ratio {ratio})"


def _equal_finals(pair: pd.Series, known: _Known) -> str:
    return (f"final scores within ±{text.number(pair['near'])}, {known.equivalent:.0%} of what a run's curve spans "
            f"(difference {text.between(pair['difference_lo'], pair['difference_hi'])})")  # fmt: skip


def _nothing(what: str) -> Callable[[pd.Series, _Known], str]:
    return lambda pair, known: f"There are no {what} to compare: {pair['warning']}."


def _none_at_risk(pair: pd.Series, known: _Known) -> str:
    return " ".join([f"Of the runs at risk {_collapsed(pair, pair['a'], pair['b'], known)} collapsed.", *_else(pair, known)])


def _else(pair: pd.Series, known: _Known) -> list[str]:
    """What else became of the runs of two groups, and for how long those at risk were watched, where that differs."""
    a, b = known.shares[pair["a"]], known.shares[pair["b"]]
    what = {"diverged": "diverged", "failed": "failed", "unfinished": "are unfinished", "stopped": "were stopped when solved",
            "falling": "are falling at the end", "undetermined": "are not determined"}  # fmt: skip
    sentences = []
    for name, became in what.items():
        counts = [f"{row[name]} of {row['runs']} runs of {row['variant']}" for row in (a, b) if row[name]]
        if counts:
            sentences.append(f"{' and '.join(counts)} {became}.")
    shorter, longer = sorted([a["watched"], b["watched"]])
    if longer > 1.25 * shorter:
        sentences.append(f"Runs at risk were watched for a median of {text.steps(a['watched'])} ({a['variant']}) against "
                    f"{text.steps(b['watched'])} env steps ({b['variant']}).")  # fmt: skip
    return sentences


_KINDS = {
    "time to threshold": _Kind(
        "sooner", "{} reached the threshold sooner than {}", "{} sooner than {}?",
        "{0} is sooner more often than not, but later on average.", _nothing("times"), _times, _equal_times, _of_both,
        lambda *_: [],
    ),
    "final score": _Kind(
        "higher", "{} scored higher in the end than {}", "{} higher in the end than {}?",
        "{0} scores higher more often than not, but lower on average.", _nothing("scores"), _finals, _equal_finals,
        _of_both, lambda *_: [],
    ),
    "collapse": _Kind(
        "collapsed", "{} collapsed more often than {}", "{} collapsed more often than {}?", "", _none_at_risk, _collapsed,
        lambda *_: "", lambda *_: "", _else,
    ),
}  # fmt: skip


def _share(row: pd.Series, of: str) -> str:
    return f"{int(row[of])} of {int(row['n_runs'])}"


def _signed_share(x: float) -> str:
    return text.share(x) if x >= 0 or math.isnan(x) else f"−{text.share(-x)}"


def _lost(pair: pd.Series) -> list[str]:
    """Runs that diverged, failed or have not ended, and how they were counted."""
    if pair["test"] == "fisher":
        return []
    ranks = pair["test"] == "ranks"
    how = {"diverged": "diverged and rank" if ranks else "diverged and count as the lowest score",
           "failed": "failed and rank" if ranks else "failed and are left out",
           "unknown": "were stopped or have not ended and are left out"}  # fmt: skip
    return [
        f"{int(pair[f'{what}_{side}'])} of {int(pair[f'runs_{side}'])} runs of {pair[side]} "
        + (f"{verb} last" if verb.endswith("rank") else verb)
        for side in "ab"
        for what, verb in how.items()
        if pair[f"{what}_{side}"]
    ]


def _absent(pair: pd.Series) -> str:
    shares = ", ".join(f"{pair[f'absent_{side}']:.0%} of {pair[side]}" for side in "ab" if pair[f"absent_{side}"])
    what = "the end of more than a tenth of a group's runs was not seen" if pair["test"] == "fisher" else (
        "more than a tenth of a group's runs are missing")  # fmt: skip
    return f"Nothing is clear while {what} ({shares})."


def _why(pair: pd.Series, lo: float, hi: float) -> str:
    if math.isnan(lo):
        return "Fewer than 3 seeds: no interval."
    no_effect = "½" if pair["null"] == 0.5 else "0"
    if lo <= pair["null"] <= hi:
        return f"The interval holds {no_effect}."
    return f"The interval excludes {no_effect}, but p is too large."
