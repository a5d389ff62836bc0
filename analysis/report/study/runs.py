"""The runs of a study, and the groups of replicates that they are."""

from functools import cached_property

import pandas as pd

from analysis.load import InputError, Tables, grouped_by, ledger, replicate_keys
from analysis.report.study.question import Question
from analysis.statistics import compare


class Runs:
    """The runs of one or several sweeps, grouped."""

    def __init__(self, tables: Tables, question: Question = Question()):
        self.question, self.problems = question, []
        self.notes: list[str] = []  # warnings that do not come from the tables
        if question.adjust not in compare.FAMILIES:
            raise InputError(f"there is no adjustment '{question.adjust}'; there are: {', '.join(compare.FAMILIES)}")
        self.sweeps = list(tables.runs["sweep"].unique())  # as they were given
        self.by = question.by or _replicate_keys(tables.runs)
        plain = grouped_by(tables, self.by) if self.by != ("variant",) else tables
        self.tables = plain
        if len(self.sweeps) > 1 and "sweep" not in self.by:
            self.tables = grouped_by(tables, [*self.by, "sweep"])
        self.runs, self.loaded = self.tables.runs, tables.runs
        self.family_of = dict(zip(self.runs["variant"], plain.runs["variant"], strict=True))  # group → the same, any sweep
        self.families = sorted(set(plain.runs["variant"]))
        self.envs = sorted(set(self.runs["env"]) - {"?"}) or sorted(set(self.runs["env"]))
        self.variants = sorted(set(self.runs["variant"]))

    @cached_property
    def ledger(self) -> pd.DataFrame:
        return ledger(self.runs)

    @property
    def _status(self) -> pd.Series:
        return self.runs.set_index("run_id")["status"]

    @property
    def permutations(self) -> int:
        """The number of permutations: so many that a p, adjusted over all pairs, can be far below α."""
        groups = self.runs.groupby("env")["variant"].nunique()
        return compare.PERMUTATIONS * max(1, round((groups * (groups - 1) / 2).sum() / 100))

    def _asked(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """The pairs that are asked for: of several sweeps only a group against itself in another, where there are such."""
        same = pairs["a"].map(self.family_of) == pairs["b"].map(self.family_of)
        return pairs[same].reset_index(drop=True) if len(self.sweeps) > 1 and same.any() else pairs

    def _same_twice(self) -> int:
        known = self.runs[self.runs["config_hash"] != ""].drop_duplicates(["config_hash", "sweep"])
        return int(known.duplicated("config_hash").sum())


MOST_GROUPS = 30


def _replicate_keys(runs: pd.DataFrame) -> tuple[str, ...]:
    """`load.replicate_keys`. Raises InputError, with the commands that there are, if they make hardly any replicates."""
    keys = replicate_keys(runs)
    groups = runs.groupby(list(keys), dropna=False).ngroups
    if groups > MOST_GROUPS and len(keys) > 1:
        raise InputError(f"the runs of a variant differ in {', '.join(keys[1:])}, which makes {groups} groups: say "
                         f"--by {','.join(keys)} to compare them all, or --by variant to pool them")  # fmt: skip
    return keys
