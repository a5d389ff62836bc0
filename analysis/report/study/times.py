"""Times to the threshold."""

from functools import cached_property

import numpy as np
import pandas as pd

from analysis.report.study.scores import Scores
from analysis.results import table
from analysis.statistics import events, survival
from analysis.statistics.aggregates import (
    improvements,
)
from analysis.statistics.events import WayUp


class Times(Scores):
    """When every run first reached the threshold, or a part of the way up to it."""

    def threshold(self, env: str) -> float:
        if self.question.threshold is not None:
            return self.question.threshold
        known = self.runs.loc[self.runs["env"] == env, "reward_threshold"].dropna()
        return float(known.iloc[0]) if len(known) else np.nan

    @cached_property
    def ways(self) -> dict[str, WayUp]:
        """The way up, from an untrained policy's return to the threshold, by environment."""
        thresholds = {env: self.threshold(env) for env in sorted(set(self.runs["env"]))}
        return events.ways_up(self.measured, thresholds, self.question.collapse, self.question.base)

    @cached_property
    def times(self) -> pd.DataFrame:
        """Times to the threshold, in the environments that have one."""
        return self.times_to(1.0)

    def times_to(self, part: float) -> pd.DataFrame:
        """Times to that part of the way up."""
        parts = []
        for env in self.envs:
            way, runs = self.ways[env], self.runs[self.runs["env"] == env]
            curves = self.scored[self.scored["env"] == env]
            if np.isnan(way.threshold) or curves.empty or part != 1 and way.undetermined:
                continue
            times = survival.times_to_threshold(
                curves, runs, way.threshold if part == 1 else way.base + part * (way.threshold - way.base)
            )
            horizon = survival.common_horizon(times, runs)
            late = int((times["reached"] & (times["time"] > horizon)).sum())
            parts.append(survival.at_horizon(times, runs, horizon).assign(horizon=horizon, late=late))
        if not parts:
            types = {"time": "float64", "reached": "bool", "cut_short": "bool", "horizon": "float64", "late": "int64"}
            return pd.DataFrame(columns=[*survival.TIMES, "horizon", "late"]).astype(types)
        return pd.concat(parts, ignore_index=True)

    @cached_property
    def survival(self) -> pd.DataFrame:
        return survival.kaplan_meier(self.times, self.question.bootstrap.level)

    @cached_property
    def medians(self) -> pd.DataFrame:
        return survival.median_times(self.times, self.question.bootstrap.level)

    @cached_property
    def restricted(self) -> pd.DataFrame:
        parts = [
            survival.restricted_means(times, times["horizon"].iloc[0], self.question.bootstrap)
            for _, times in self.times.groupby("env")
        ]
        return pd.concat(parts, ignore_index=True) if parts else table([])

    @cached_property
    def restricted_ratios(self) -> pd.DataFrame:
        parts = [
            survival.restricted_ratios(times, times["horizon"].iloc[0], self.question.bootstrap)
            for _, times in self.times.groupby("env")
        ]
        return self._asked(pd.concat(parts, ignore_index=True)) if parts else table([], "a", "b")

    @cached_property
    def log_rank(self) -> pd.DataFrame:
        """The log-rank test of the survival curves. It is of another hypothesis than P, and makes no sentence."""
        return self._asked(survival.log_rank(self.times))

    def sooner_of(self, times: pd.DataFrame, n_permutations: int) -> pd.DataFrame:
        """P(a got there before b): whoever did not by the horizon comes last, and two who did not are level.

        Times are cut at the horizon that all runs have, so no two runs are compared that were not followed as long. A run
        that was stopped before it for another reason than its own failing has no time.
        """
        return improvements(by_rank(times), "time to threshold", self.question.bootstrap, n_permutations)

    @cached_property
    def sooner(self) -> pd.DataFrame:
        return self.sooner_of(self.times, self.permutations)


def by_rank(times: pd.DataFrame) -> pd.DataFrame:
    """Times as scores: the sooner the higher, −∞ for whoever never gets there, NaN where that is not known."""
    never = np.where(times["cut_short"], np.nan, -np.inf)
    return times.assign(value=np.where(times["reached"], -times["time"], never))
