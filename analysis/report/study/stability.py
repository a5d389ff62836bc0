"""Reliability, collapses, and what became of every run."""

from functools import cached_property

import numpy as np
import pandas as pd

from analysis import align
from analysis.report.study.pairs import Pairs
from analysis.results import table
from analysis.statistics import compare, events, reliability
from analysis.statistics.events import Collapse

HEALTH = {
    "entropy": "entropy, nats",
    "kl": "KL of an update, nats",
    "action_share": "share of the most frequent action",
    "std_min": "least standard deviation of u",
    "saturated_share": "share of actions at their ends",
    "explained_variance": "explained variance of V",
    "grad_norm": "gradient norm",
}
"""The metrics of the health panel around a collapse, and their labels."""


class Stability(Pairs):
    """How steadily runs learn, and how they fail."""

    @cached_property
    def within(self) -> pd.DataFrame:
        return reliability.within_runs(self.measured, self.question.metric, self.question.reliability)

    @cached_property
    def reliability(self) -> pd.DataFrame:
        """DT, SRT, LRT, maximal drawdown (IQM over runs), DR and RR a variant, with intervals."""
        q, bases = self.question, {env: way.base for env, way in self.ways.items()}
        across = reliability.across_runs(
            self.on_grid(self.measured), self.measured, q.metric, bases, q.reliability, q.bootstrap
        )
        parts = [part for part in (reliability.over_runs(self.within, self.runs, q.bootstrap), across) if len(part)]
        return pd.concat(parts, ignore_index=True) if parts else table([])

    @cached_property
    def drawdowns(self) -> pd.DataFrame:
        """Drawdowns of the smoothed score: of an unsmoothed curve every second point is one."""
        return events.drawdowns(self.scored)

    @cached_property
    def collapses(self) -> pd.DataFrame:
        return events.collapses(self.measured, self.ways, self.question.collapse)

    @cached_property
    def dead(self) -> pd.DataFrame:
        return events.dead(self.curves("grad_norm", problem=False))

    @cached_property
    def events(self) -> pd.DataFrame:
        parts = [part for part in (self.drawdowns, self.collapses, self.dead) if len(part)]
        return pd.concat(parts, ignore_index=True) if parts else self.collapses

    @cached_property
    def outcomes(self) -> pd.DataFrame:
        return self._outcomes_of(self.collapses, self.question.collapse)

    def _outcomes_of(self, collapses: pd.DataFrame, spec: Collapse) -> pd.DataFrame:
        happened = [part for part in (collapses, self.dead) if len(part)]
        both = pd.concat(happened, ignore_index=True) if happened else collapses
        return events.outcomes(self.runs, self.measured, both, self.ways, spec)

    @cached_property
    def collapse_shares(self) -> pd.DataFrame:
        return events.collapse_shares(self.outcomes, self.ways, self.question.collapse, self.question.bootstrap.level)

    @cached_property
    def collapse_tests(self) -> pd.DataFrame:
        return self._concluded(self._asked(compare.collapse_tests(self.collapse_shares)))

    @cached_property
    def worst(self) -> pd.DataFrame:
        """Runs from the worst on: those that failed or diverged, then by final score, lowest first; those without one
        last. Of several environments the worst of each come first."""
        known = self.outcomes.merge(self.scores[["run_id", "value"]].rename(columns={"value": "final"}), on="run_id")
        known["error"] = known["run_id"].map(self.runs.set_index("run_id")["error"])
        lost = known["outcome"].isin(["failed", "diverged"])
        place = known["final"].mask(lost, -np.inf).groupby(known["env"]).rank(method="min", na_option="bottom")
        order = known.assign(place=place).sort_values(["place", "env", "run_id"], kind="stable")
        return order.drop(columns="place").reset_index(drop=True)

    def around_collapse(self, metric: str, points: int = 61) -> pd.DataFrame:
        """One metric on a grid of env steps relative to the first collapse of every run that had one."""
        curves = self.curves(metric, problem=False).dropna(subset="value")
        falls = self.collapses[self.collapses["kind"] != "falling"]
        start = falls.groupby("run_id")["start"].min().to_dict()
        some = align.relative_to(curves, start) if start else curves.iloc[:0]
        if some.empty:
            return some
        reach = 0.15 * max(self.horizons.values())
        return align.align(some, np.unique(np.round(np.linspace(-reach, reach, points)).astype(np.int64)))
