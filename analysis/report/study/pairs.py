"""The primary endpoint and final scores, a row a pair of groups, with what may be concluded."""

from functools import cached_property

import numpy as np
import pandas as pd

from analysis.report.study.times import Times, by_rank
from analysis.statistics import compare


class Pairs(Times):
    """Two groups beside each other."""

    @cached_property
    def primary(self) -> pd.DataFrame:
        """One row a pair: P(a is better) in time to threshold, or in final scores where there is no threshold.

        Extra columns: endpoint, and those of compare.concluded, over all rows as one family.
        """
        no_time = [env for env in self.envs if env not in set(self.times["env"])]
        by_score = self._by_score()
        parts = [self._by_time(), by_score[by_score["env"].isin(no_time)]]
        parts = [part for part in parts if len(part)] or parts[:1]
        return self._concluded(pd.concat(parts, ignore_index=True))

    @cached_property
    def final_pairs(self) -> pd.DataFrame:
        """One row a pair, as in `primary`: who scored higher in the end. Where the two are paired by seed it is the mean
        difference that is tested (test `signs`), otherwise the ranks."""
        rows, effect = self._by_score(), self.differences
        paired = effect["paired"].to_numpy()
        for name in ("metric", "estimate", "lo", "hi", "method", "n_runs", "p", "params_json", "warning"):
            rows[name] = rows[name].mask(paired, effect[name])
        rows = rows.assign(
            test=rows["test"].mask(paired, "signs"), null=rows["null"].mask(paired, 0.0),
            against=rows["against"] & ~paired, n_a=rows["n_a"].mask(paired, effect["n_runs"]),
            n_b=rows["n_b"].mask(paired, effect["n_runs"]),
        )  # fmt: skip
        return self._concluded(rows)

    def _by_time(self) -> pd.DataFrame:
        """A row a pair, for `concluded`: P(a is sooner)."""
        rows, ratios = _same_pairs(self.sooner, self.restricted_ratios)
        medians, near = self.medians.set_index(["variant", "env"])["estimate"].to_dict(), 1 + self.question.equivalent
        half = [not np.isnan(medians[a, env] + medians[b, env])
                for a, b, env in zip(rows["a"], rows["b"], rows["env"], strict=True)]  # fmt: skip
        rows = rows.assign(
            test="ranks", null=0.5, ratio=ratios["estimate"], ratio_lo=ratios["lo"], ratio_hi=ratios["hi"],
            against=(rows["estimate"] - 0.5) * (ratios["estimate"] - 1) > 0,
            equal=(ratios["lo"] >= 1 / near) & (ratios["hi"] <= near) & np.array(half, bool),
            endpoint="time to threshold",
        )  # fmt: skip
        return self._counted(rows, by_rank(self.times))

    def _by_score(self) -> pd.DataFrame:
        """A row a pair, for `concluded`: P(a's final score is higher)."""
        ranks, effect = _same_pairs(self.better, self.differences)
        near = self.question.equivalent * effect["env"].map(self.spans).astype(float)
        rows = ranks.assign(
            test="ranks", null=0.5, difference=effect["estimate"], difference_lo=effect["lo"],
            difference_hi=effect["hi"], near=near, against=(ranks["estimate"] - 0.5) * effect["estimate"] < 0,
            equal=(effect["lo"] >= -near) & (effect["hi"] <= near), endpoint="final score",
        )  # fmt: skip
        return self._counted(rows, self._with_worst("diverged", "failed"))

    def _counted(self, pairs: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
        """Pairs with the runs of both groups that were compared, the share of those that are missing, and what became
        of both."""
        status, value = scores["run_id"].map(self._status), scores["value"]
        worst = np.isneginf(value)
        of_run = pd.DataFrame(
            {"variant": scores["variant"], "env": scores["env"], "n": value.notna(), "runs": 1,
             "diverged": worst & (status == "diverged"), "failed": worst & (status == "failed"), "unknown": value.isna()}
        )  # fmt: skip
        groups = of_run.groupby(["variant", "env"]).sum()
        counts = {}
        for side in "ab":
            of = groups.loc[pd.MultiIndex.from_frame(pairs[[side, "env"]])].reset_index(drop=True)
            counts |= {f"n_{side}": of["n"], f"absent_{side}": (of["failed"] + of["unknown"]) / of["runs"]}
            counts |= {f"{what}_{side}": of[what] for what in ("runs", "diverged", "failed", "unknown")}
        pairs = pairs.assign(**counts)
        lost = sum(pairs[f"{what}_{side}"] for what in ("diverged", "failed", "unknown") for side in "ab")
        none = lost == pairs["runs_a"] + pairs["runs_b"]  # that all are equally lost is no result
        numbers = {name: pairs[name].mask(none) for name in ("estimate", "lo", "hi", "p")}
        return pairs.assign(**numbers, warning=pairs["warning"].mask(none, "all runs failed, diverged or were stopped"))

    def _concluded(self, pairs: pd.DataFrame) -> pd.DataFrame:
        q = self.question
        return compare.concluded(pairs, q.alpha, q.adjust, self.permutations)


def _same_pairs(rows: pd.DataFrame, wanted: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(those of `rows`, which have every pair both ways, that are in `wanted`; `wanted`), in the same order."""
    keys = ["a", "b", "env"]
    return wanted[keys].merge(rows, on=keys)[rows.columns], wanted
