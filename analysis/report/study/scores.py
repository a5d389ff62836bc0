"""Final scores, and which groups the pictures show."""

from functools import cached_property

import numpy as np
import pandas as pd

from analysis import align
from analysis.evaluations import read_evaluations, scores_of
from analysis.report.study.curves import Curves
from analysis.results import table
from analysis.statistics import compare, reliability
from analysis.statistics.aggregates import (
    aggregate,
    improvements,
    profile,
    tolerance,
)


class Scores(Curves):
    """Every run's final score, and what follows from these."""

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Every run's score after the first update that reached the horizon of its environment, which is its last one
        where all have one budget; or, from tables of evaluations, its mean return there. NaN where it has none."""
        if self.question.evaluated:
            return align.with_all(scores_of(self.evaluated, self.runs), self.runs)
        parts = [align.score_when(self.scored[self.scored["env"] == env], at) for env, at in self.horizons.items()]
        there = pd.concat(parts, ignore_index=True) if parts else self.scored[list(align.SCORES)]
        return align.with_all(there, self.runs)

    @cached_property
    def evaluated(self) -> pd.DataFrame:
        return read_evaluations(self.question.evaluated)

    @cached_property
    def final(self) -> pd.DataFrame:
        return aggregate(self.scores, self.question.final, spec=self.question.bootstrap)

    @cached_property
    def areas(self) -> pd.DataFrame:
        """IQM of the mean of each curve up to the horizon."""
        parts = [align.area(self.scored[self.scored["env"] == env], at) for env, at in self.horizons.items()]
        there = pd.concat(parts, ignore_index=True) if parts else self.scored[list(align.SCORES)]
        name = f"area under {self.question.score}"
        return aggregate(align.with_all(there, self.runs), name, spec=self.question.bootstrap)

    @cached_property
    def tolerance(self) -> pd.DataFrame:
        return tolerance(self.scores, self.question.final)

    @cached_property
    def profile(self) -> pd.DataFrame:
        parts = []
        for _, scores in self.scores.groupby("env"):
            known = scores["value"].dropna()
            if len(known):
                taus = np.linspace(known.min(), known.max(), 81)
                parts.append(profile(scores, self.question.final, taus, self.question.bootstrap))
        return pd.concat(parts, ignore_index=True) if parts else table([], "tau")

    @cached_property
    def better(self) -> pd.DataFrame:
        """P(a's final score > b's): of a run that diverged or failed before the horizon it is the worst of all."""
        name = self.question.final
        return improvements(self._with_worst("diverged", "failed"), name, self.question.bootstrap, self.permutations)

    def _with_worst(self, *statuses: str) -> pd.DataFrame:
        """Final scores, −∞ where a run has none because of how it ended."""
        lost = self.scores["value"].isna() & self.scores["run_id"].map(self._status).isin(statuses)
        return self.scores.assign(value=self.scores["value"].mask(lost, -np.inf))

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Mean differences, in the units of the score; a run that failed has none, one that diverged has the lowest."""
        boot = self.question.bootstrap
        spec = compare.Comparison(
            paired=self.question.paired, level=boot.level, n_boot=boot.n_boot, rng_seed=boot.rng_seed,
            n_permutations=self.permutations,
        )  # fmt: skip
        name = self.question.final
        return self._asked(compare.differences(self._with_worst("diverged"), name, spec))

    @cached_property
    def correlations(self) -> pd.DataFrame:
        """Correlations between final scores of the same seed: what pairing has to work with."""
        name = self.question.final
        return self._asked(compare.correlations(self._with_worst("diverged"), name, self.question.bootstrap.level))

    @cached_property
    def effects(self) -> pd.DataFrame:
        return self._asked(compare.effect_sizes(self._with_worst("diverged"), self.question.final))

    @cached_property
    def spans(self) -> dict[str, float]:
        """The span of a run's curve, by environment: the median of P95 − the first score."""
        curves = self.scored.dropna(subset="value")
        of_runs = curves.groupby(["env", "run_id"])["value"].agg(lambda y: reliability.span(y.to_numpy()))
        return of_runs.groupby("env").median().to_dict()

    @cached_property
    def shown(self) -> list[str]:
        """The groups in the pictures: all, or of too many those with the best final scores (mean rank over envs)."""
        if len(self.variants) <= self.question.shown:
            return self.variants
        rank = self.final.groupby("env")["estimate"].rank(ascending=False, na_option="bottom")
        order = rank.groupby(self.final["variant"]).mean().sort_values(kind="stable")
        return sorted(order.index[: self.question.shown])

    def few(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that are of the groups in the pictures."""
        if len(self.shown) == len(self.variants):
            return frame
        names = ("a", "b") if "a" in frame else ("variant",)
        return frame[np.logical_and.reduce([frame[name].isin(self.shown) for name in names])]
