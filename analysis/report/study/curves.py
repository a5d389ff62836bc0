"""Curves, and their bands over env steps."""

import dataclasses
from functools import cached_property

import pandas as pd

from analysis import align
from analysis.load import CURVES, STATUSES, InputError, curves
from analysis.report.study.runs import Runs
from analysis.statistics.aggregates import (
    curve_bands,
    tolerance_bands,
)


class Curves(Runs):
    """One metric over env steps, as it is and on a grid."""

    def curves(self, metric: str, problem: bool = True) -> pd.DataFrame:
        """One metric's curves; empty if there is no such metric, which is then a problem unless told otherwise."""
        try:
            return curves(self.tables, metric)
        except InputError as error:
            if problem and str(error) not in self.problems:
                self.problems.append(str(error))
            text = {"run_id": "str", "variant": "str", "env": "str"}
            return pd.DataFrame(columns=[*CURVES, "episodes"]).astype(
                text | {"seed": "Int64", "env_steps": "int64", "value": "float64", "episodes": "int64"}
            )

    @cached_property
    def scored(self) -> pd.DataFrame:
        return self.curves(self.question.score)

    @cached_property
    def measured(self) -> pd.DataFrame:
        return self.curves(self.question.metric)

    @cached_property
    def horizons(self) -> dict[str, int]:
        """Env steps, by environment, that every completed run reached (or every run, where none is completed)."""
        ends = self.scored.groupby("run_id")["env_steps"].max()
        ends_of = {}
        for env, runs in self.runs.groupby("env"):
            for statuses in (["completed"], ["running", "interrupted"], list(STATUSES)):
                far = ends.reindex(runs.loc[runs["status"].isin(statuses), "run_id"]).dropna()
                if len(far):
                    ends_of[env] = int(far.min())
                    break
        return ends_of

    def on_grid(self, curves: pd.DataFrame, points: int | None = None, of: str = "") -> pd.DataFrame:
        """Curves of every environment on its own grid, up to its horizon. Where there is none it is a problem, or, of a
        further metric, a note."""
        parts = []
        for env, of_env in curves.groupby("env"):
            try:
                grid = align.grid(of_env, points or self.question.points, self.horizons.get(env))
            except InputError as error:
                (self.notes if of else self.problems).append(f"{env}: {of}{': ' * bool(of)}{error}")
                continue
            parts.append(align.align(of_env, grid))
        return pd.concat(parts, ignore_index=True) if parts else curves.iloc[:0]

    @cached_property
    def aligned(self) -> pd.DataFrame:
        return self.on_grid(self.scored)

    @cached_property
    def bands(self) -> pd.DataFrame:
        return curve_bands(self.aligned, self.question.score, spec=self.question.bootstrap)

    @cached_property
    def tolerance_bands(self) -> pd.DataFrame:
        return tolerance_bands(self.aligned, self.question.score)

    def bands_of(self, metric: str, points: int = 20) -> pd.DataFrame:
        """A further metric's IQM over env steps, with fewer resamples: it is looked at, not tested."""
        curves = self.curves(metric, problem=False).dropna(subset="value")
        spec = dataclasses.replace(self.question.bootstrap, n_boot=min(500, self.question.bootstrap.n_boot))
        return curve_bands(self.on_grid(curves, points, of=metric), metric, spec=spec)
