"""Measurements of `python -m pgx.diagnose` at frozen checkpoints."""

import dataclasses
from functools import cached_property

import pandas as pd

from analysis.report.study.stability import Stability
from analysis.statistics import diagnosis


class Frozen(Stability):
    """Estimators, and policies, at checkpoints."""

    @cached_property
    def _diagnosis(self) -> tuple[pd.DataFrame, list[str]]:
        return diagnosis.load_diagnosis(self.runs)

    @property
    def diagnosis(self) -> pd.DataFrame:
        return self._diagnosis[0]

    @cached_property
    def estimators(self) -> pd.DataFrame:
        """Gradient estimators; looked at, not tested, and so with fewer resamples."""
        spec = dataclasses.replace(self.question.bootstrap, n_boot=min(500, self.question.bootstrap.n_boot))
        return diagnosis.estimators(self.diagnosis, self.runs, spec)

    @cached_property
    def noise(self) -> pd.DataFrame:
        return diagnosis.noise_against(self.diagnosis, self.runs, spec=self.question.bootstrap)

    @cached_property
    def noise_of_forms(self) -> pd.DataFrame:
        """Of `baseline, …` against `baseline`."""
        return diagnosis.noise_against(self.diagnosis, self.runs, None, self.question.bootstrap)

    @cached_property
    def references(self) -> pd.DataFrame:
        return diagnosis.references(self.diagnosis, self.runs, self.question.bootstrap)

    @cached_property
    def parts_of_variance(self) -> pd.DataFrame:
        return diagnosis.parts_of_variance(self.diagnosis, self.runs, self.question.bootstrap)

    @cached_property
    def policies(self) -> pd.DataFrame:
        return diagnosis.policies(self.diagnosis, self.runs, self.question.bootstrap, self.question.reliability)

    @cached_property
    def post_update(self) -> pd.DataFrame:
        return diagnosis.post_update(self.diagnosis, self.runs)
