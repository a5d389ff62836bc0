"""The question of a report."""

import dataclasses
import json
from dataclasses import dataclass

from analysis.statistics.aggregates import (
    Bootstrap,
)
from analysis.statistics.events import Collapse
from analysis.statistics.reliability import Reliability


@dataclass(frozen=True)
class Question:
    """The question of a report. `score` is what curves, threshold and final scores are of, `metric` the unsmoothed one that
    reliability and collapses are of; `threshold` None: the environment's own; `base`, what an untrained policy returns,
    None: measured, see events.ways_up; `by`: columns of `runs` whose values make a group of replicates, None: the
    variant and whatever else its runs differ in. `paired` None: by seed where that is shown to gain (compare.Comparison).
    `equivalent`, the smallest effect of interest: a share of the restricted mean for times, of what a run's curve spans for
    scores. `evaluated`: tables of `python -m pgx.evaluate` that final scores are taken from instead of from the curves. A
    picture shows at most `shown` groups."""

    score: str = "return_recent"
    metric: str = "return_mean"
    threshold: float | None = None
    base: float | None = None
    by: tuple[str, ...] | None = None
    adjust: str = "holm"
    alpha: float = 0.05
    paired: bool | None = None
    equivalent: float = 0.05
    points: int = 100
    evaluated: tuple[str, ...] = ()
    shown: int = 8
    bootstrap: Bootstrap = Bootstrap()
    reliability: Reliability = Reliability()
    collapse: Collapse = Collapse()

    @property
    def final(self) -> str:
        """The name of final scores."""
        return "final return of fresh episodes" if self.evaluated else f"final {self.score}"


def question_json(question: Question) -> str:
    return json.dumps(dataclasses.asdict(question), sort_keys=True, ensure_ascii=False)
