"""The question, and the method of every number."""

import numpy as np

from analysis import evaluations, text
from analysis.report.study import Study, question_json
from analysis.statistics.compare import FEW_SEEDS, LEAST_SEEDS, MOST_ABSENT

SMOOTHING = {
    "return_recent": "mean of the last 100 training episodes",
    "evaluation_return": "mean of an evaluation's episodes, which are the same for all runs of one seed",
}


def smoothing(metric: str) -> str:
    return SMOOTHING.get(metric, "none")


def primary_endpoint(study: Study) -> str:
    thresholds = [
        f"{study.threshold(env):g}{f' on {env}' if len(study.envs) > 1 else ''}"
        for env in study.envs
        if not np.isnan(study.threshold(env))
    ]
    q, horizon = study.question, ", ".join(f"{x:,}" for x in study.horizons.values()) or "no"
    if thresholds:
        what = (f"env steps until `{q.score}` ({smoothing(q.score)}) first reaches {text.listed(thresholds)}. A run "
                "that does not within the env steps that all runs have is censored there, not left out")  # fmt: skip
    else:
        what = f"`{q.score}` at {horizon} env steps, for want of a threshold"
    family = {"holm": "Holm's", "by": "Benjamini and Yekutieli's"}[q.adjust]
    return (f"**Question.** Which of these learns, how fast, and how stably?\n\n**Primary endpoint.** {what[0].upper()}"
            f"{what[1:]}. Variants are compared by P, the probability that a run of one does better than a run of the other; "
            f"a run that diverged or failed is the worst. A difference is called clear where the {q.bootstrap.level:.0%} "
            f"interval of P excludes ½ and p of the permutation test of P = ½, after {family} adjustment over all pairs, is at "
            f"most {q.alpha:g}; where each group has at least {LEAST_SEEDS} seeds, of which no more than {MOST_ABSENT:.0%} are "
            f"missing; and where the means do not say the opposite. Intervals are not adjusted for the number of pairs. "
            f"Practically equal: {FEW_SEEDS} seeds or more, and means that differ by no more than {q.equivalent:.0%}, of "
            "themselves (times) or of what a run's curve spans (scores), everywhere in their interval. How many seeds a "
            "difference needs is asked before the runs: `python -m analysis.power`. All else is secondary.")  # fmt: skip


def way_up(study: Study) -> list[str]:
    """The ends 0 and 1 of the scale of collapses, in every environment."""
    smoothing, given = study.question.collapse.smoothing, study.question.base is not None
    of = "as given" if given else f"the median over all runs of the mean of their first {smoothing} episodes"
    ways = [
        f"{env}: not determined, {way.undetermined}" if way.undetermined else
        f"{env}: from {text.number(way.base)} to {text.number(way.threshold)}"
        for env, way in study.ways.items() if env in study.envs
    ]  # fmt: skip
    return [f"**The way up** goes from what an untrained policy returns ({of}) to the threshold. {'; '.join(ways)}."]


def final_score(study: Study) -> str:
    """A paragraph about it."""
    if study.question.evaluated:
        return (f"**Final score.** The mean return of {evaluations.method(study.evaluated)}, from "
                f"{text.listed([f'`{file}`' for file in study.question.evaluated])}, as `python -m pgx.evaluate` wrote it. Curves, "
                "times and what follows from them are of training.")  # fmt: skip
    horizons = ", ".join(f"{n:,} env steps ({env})" for env, n in study.horizons.items()) or "no step"
    return (f"**Final score.** {final_score_of(study.question.score)} after the first update that reached {horizons}, as far as "
            "every completed run came. Where all runs have one budget that is their last update. No other number here is "
            "called final.")  # fmt: skip


def final_score_of(score: str) -> str:
    if score == "return_recent":
        return "The mean of the last 100 training episodes, which is `return_final` of run.json and of a sweep's table,"
    if score == "evaluation_return":
        return f"`{score}`, the {SMOOTHING[score]},"
    return f"`{score}`"


def method(study: Study) -> str:
    q, boot, fall = study.question, study.question.bootstrap, study.question.collapse
    lines = [
        "**Unit.** A run; never an episode. First every run is reduced to one number or one curve, then runs are resampled.",
        f"**Intervals.** {boot.level:.0%} percentile bootstrap over runs, {boot.n_boot:,} resamples, generator seeded "
        f"with {boot.rng_seed}: the same runs give the same numbers. With fewer than 10 seeds they are too narrow; "
        "with fewer than 3 there is none.",
        f"**Curves** are put on one grid of {q.points} points by their value at or before each point, never beyond their end.",
        final_score(study),
        *way_up(study),
        f"**Collapse.** After the mean of {fall.smoothing} episodes of `{q.metric}` reached {fall.level:.0%} of the way "
        f"up, it falls below {fall.fall:.0%} of its running peak on the way up and stays there for {fall.lasting} "
        f"episodes or more; for good, if it is not back at {fall.back:.0%} of the peak by the end. A run that ends "
        "below that share before these episodes are over is *falling at the end*. An episode counts as the mean of its "
        "batch, so a change of the number of episodes an update changes nothing here.",
        f"**Shares of collapses** are of the runs at risk: those that reached {fall.level:.0%} of the way up. Diverged "
        "and failed runs are counted beside them; a run that was stopped when it had solved the environment was at risk "
        "only while it was watched. No difference of shares is called clear where a group has fewer than "
        f"{LEAST_SEEDS} runs at risk, or where the end of more than {MOST_ABSENT:.0%} of a group was not seen.",
        f"**Reliability.** Of `{q.metric}`; α = {q.reliability.alpha:g}, window {q.reliability.window:,.0f} env steps. "
        "DT, SRT, LRT and the largest drawdown are divided by the range P95 − first value of the run's whole curve. "
        f"DR and RR are means over at most {q.points} points of the grid (the tables say how many; with another number "
        "DR comes out somewhat different), divided by the median of these ranges over runs. Two deviations from Chan et "
        "al.: their code divides each run by its own range before the RR of all, but a run that never rose has none, "
        "and is the one that RR is about; and RR is a level, so it is counted from what an untrained policy returns, as "
        "the way up is, or it would change with a constant added to all rewards.",
        "**Families.** Pairs on the primary endpoint are one family; those on final scores and on collapses are one each. "
        "Intervals are not adjusted for a family.",
        "**Tests.** P of ranks: all divisions of the runs into two groups, or random ones with the one that was observed "
        "(Brunner and Munzel's statistic, which allows for unequal variances). Differences by seed: signs. Collapses: "
        "Fisher's. The log-rank test of the curves makes no sentence: it is of another hypothesis.",
        "**Tables.** Every number is in `tables/*.parquet`, the results with method, n, resamples, seed, parameters "
        "and warnings.",
    ]
    return "\n".join(f"- {line}" for line in lines) + f"\n\n`{question_json(q)}`"
