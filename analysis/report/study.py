"""Every table of a report, each computed when it is first asked for. What cannot be computed is an empty table, and the
reason is among the problems: a report of bad data is a report that says so."""

import dataclasses
import json
import os
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import align
from analysis.hygiene import second_stage, seed_hygiene
from analysis.load import CURVES, STATUSES, InputError, Tables, curves, grouped_by, ledger, replicate_keys, warnings
from analysis.results import table
from analysis.statistics import compare, diagnosis, events, reliability, survival
from analysis.statistics.aggregates import (
    Bootstrap,
    aggregate,
    curve_bands,
    improvements,
    profile,
    tolerance,
    tolerance_bands,
)
from analysis.statistics.events import Collapse, WayUp
from analysis.statistics.reliability import Reliability

HEALTH = {
    "entropy": "entropy, nats",
    "kl": "KL of an update, nats",
    "action_share": "share of the most frequent action",
    "explained_variance": "explained variance of V",
    "grad_norm": "gradient norm",
}
"""What the health panel shows around a collapse, and its label."""


@dataclass(frozen=True)
class Question:
    """What a report asks. `score` is what curves, threshold and final scores are of, `metric` the unsmoothed one that
    reliability and collapses are of; `threshold` None: the environment's own; `base`, what an untrained policy returns,
    None: measured, see events.ways_up; `by`: columns of `runs` whose values make a group of replicates, None: the
    variant and whatever else its runs differ in. `paired` None: by seed where that is shown to gain (compare.Comparison).
    `equivalent`, the smallest effect of interest: a share of the restricted mean for times, of what a run's curve spans for
    scores. A picture shows at most `shown` groups."""

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
    shown: int = 8
    bootstrap: Bootstrap = Bootstrap()
    reliability: Reliability = Reliability()
    collapse: Collapse = Collapse()


class Study:
    """The tables of one or several sweeps; every property is one (see `named`)."""

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

    # What there is

    @cached_property
    def ledger(self) -> pd.DataFrame:
        return ledger(self.runs)

    @cached_property
    def warnings(self) -> list[str]:
        """What has to be known before any number, problems included."""
        said = [*self.problems, *self.notes, *warnings(self.runs, self.by), *self._seed_hygiene(), *self._diagnosis[1]]
        if len(self.runs) == 1:
            said.append("one run only: nothing can be compared, and no interval can be given")
        if not self.runs["status"].isin(["completed", "running", "interrupted"]).any():
            said.append("all runs failed: there is nothing to measure")
        if dirty := int(self.runs["git_sha"].str.contains("+", regex=False).sum()):
            said.append(
                f"{dirty} runs were made by code with uncommitted changes or from outside: the commit does not say what ran"
            )
        seeds = self.runs.groupby(["variant", "env"])["seed"].nunique()
        if len(few := seeds[seeds.between(2, 9)]):
            count = f"{few.min()}" if few.min() == few.max() else f"{few.min()}–{few.max()}"
            said.append(f"{count} seeds in {len(few)} of {len(seeds)} groups: with fewer than 10 intervals are too narrow")
        ends = self.scored.groupby("run_id")["env_steps"].max()
        done = self.runs[self.runs["status"] == "completed"].set_index("run_id")
        for env, horizon in self.horizons.items():
            far = ends.reindex(done.index[done["env"] == env]).max()
            if far > 1.1 * horizon:
                said.append(f"{env}: completed runs end between {horizon:,.0f} and {far:,.0f} env steps; final scores "
                            f"are those at {horizon:,.0f}")  # fmt: skip
        gone = self.outcomes["diverged"] | self.outcomes["failed"]
        unknown = self.outcomes[~gone & (self.outcomes["undetermined"] != "")]
        for (env, why), rows in unknown.groupby(["env", "undetermined"]):
            of = (self.runs["env"] == env).sum()
            said.append(f"{env}: collapses are not determined for {len(rows)} of {of} runs: {why}")
        for env, of_env in self.times.groupby("env"):
            if late := int(of_env["late"].iloc[0]):
                said.append(f"{env}: the runs were not all followed as long: times are cut at "
                            f"{of_env['horizon'].iloc[0]:,.0f} env steps, which all have, and {late} runs that reached "
                            "the threshold later count as not there")  # fmt: skip
        if len(self.shown) < len(self.variants):
            said.append(f"{len(self.variants)} groups: the pictures show the {len(self.shown)} with the best final scores")
        if len(self.sweeps) > 1 and (same := self._same_twice()):
            said.append(f"{same} runs have the same configuration and seed in two sweeps: if the code is the same too, "
                        "so are their numbers")  # fmt: skip
        return list(dict.fromkeys(said))

    def _seed_hygiene(self) -> list[str]:
        """With the commands of the second stage, where values were chosen."""
        said = []
        for _, runs in self.loaded.groupby("sweep", sort=False):
            said += seed_hygiene(runs)
            where = os.path.commonpath(list(runs["folder"]))
            if commands := second_stage(runs, self._merits, f"{where}-confirmed"):
                report = shlex.join(["python", "-m", "analysis.report", f"{where}-confirmed", "--chosen-on", where])
                said.append(f"second stage, the best values on fresh seeds: `{' && '.join([*commands, report])}`")
        return said

    @property
    def _merits(self) -> pd.DataFrame:
        """One number a run, the higher the better: minus its time to the threshold, or its final score where no run of
        the environment got there."""
        by_time = self.times.groupby("env")["reached"].transform("any")
        times = self.times[by_time]
        return pd.concat([times.assign(value=-times["time"]), self.scores[~self.scores["env"].isin(set(times["env"]))]])

    def _same_twice(self) -> int:
        known = self.runs[self.runs["config_hash"] != ""].drop_duplicates(["config_hash", "sweep"])
        return int(known.duplicated("config_hash").sum())

    # Curves

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
        found = {}
        for env, runs in self.runs.groupby("env"):
            for statuses in (["completed"], ["running", "interrupted"], list(STATUSES)):
                far = ends.reindex(runs.loc[runs["status"].isin(statuses), "run_id"]).dropna()
                if len(far):
                    found[env] = int(far.min())
                    break
        return found

    def on_grid(self, curves: pd.DataFrame, points: int | None = None) -> pd.DataFrame:
        """Curves of every environment on its own grid, up to its horizon."""
        parts = []
        for env, of_env in curves.groupby("env"):
            try:
                grid = align.grid(of_env, points or self.question.points, self.horizons.get(env))
            except InputError as error:
                self.problems.append(f"{env}: {error}")
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
        return curve_bands(self.on_grid(curves, points), metric, spec=spec)

    # Final scores

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Every run's score after the first update that reached the horizon of its environment, which is its last one
        where all have one budget; NaN where it has none."""
        parts = [align.score_when(self.scored[self.scored["env"] == env], at) for env, at in self.horizons.items()]
        there = pd.concat(parts, ignore_index=True) if parts else self.scored[list(align.SCORES)]
        return align.with_all(there, self.runs)

    @cached_property
    def final(self) -> pd.DataFrame:
        return aggregate(self.scores, f"final {self.question.score}", spec=self.question.bootstrap)

    @cached_property
    def areas(self) -> pd.DataFrame:
        """IQM of the mean of each curve up to the horizon."""
        parts = [align.area(self.scored[self.scored["env"] == env], at) for env, at in self.horizons.items()]
        there = pd.concat(parts, ignore_index=True) if parts else self.scored[list(align.SCORES)]
        name = f"area under {self.question.score}"
        return aggregate(align.with_all(there, self.runs), name, spec=self.question.bootstrap)

    @cached_property
    def tolerance(self) -> pd.DataFrame:
        return tolerance(self.scores, f"final {self.question.score}")

    @cached_property
    def profile(self) -> pd.DataFrame:
        parts = []
        for _, scores in self.scores.groupby("env"):
            known = scores["value"].dropna()
            if len(known):
                taus = np.linspace(known.min(), known.max(), 81)
                parts.append(profile(scores, f"final {self.question.score}", taus, self.question.bootstrap))
        return pd.concat(parts, ignore_index=True) if parts else table([], "tau")

    @cached_property
    def better(self) -> pd.DataFrame:
        """P(a's final score > b's): of a run that diverged or failed before the horizon it is the worst of all."""
        name = f"final {self.question.score}"
        return improvements(self._with_worst("diverged", "failed"), name, self.question.bootstrap, self.permutations)

    def _with_worst(self, *statuses: str) -> pd.DataFrame:
        """Final scores, −∞ where a run has none because of how it ended."""
        lost = self.scores["value"].isna() & self.scores["run_id"].map(self._status).isin(statuses)
        return self.scores.assign(value=self.scores["value"].mask(lost, -np.inf))

    @property
    def _status(self) -> pd.Series:
        return self.runs.set_index("run_id")["status"]

    @property
    def permutations(self) -> int:
        """So many that a p that is adjusted over all pairs can be far below α."""
        groups = self.runs.groupby("env")["variant"].nunique()
        return compare.PERMUTATIONS * max(1, round((groups * (groups - 1) / 2).sum() / 100))

    @cached_property
    def differences(self) -> pd.DataFrame:
        """In the units of the score; a run that failed has none, one that diverged has the lowest."""
        boot = self.question.bootstrap
        spec = compare.Comparison(
            paired=self.question.paired, level=boot.level, n_boot=boot.n_boot, rng_seed=boot.rng_seed,
            n_permutations=self.permutations,
        )  # fmt: skip
        name = f"final {self.question.score}"
        return self._asked(compare.differences(self._with_worst("diverged"), name, spec))

    @cached_property
    def correlations(self) -> pd.DataFrame:
        """Between final scores of the same seed: what pairing has to work with."""
        name = f"final {self.question.score}"
        return self._asked(compare.correlations(self._with_worst("diverged"), name, self.question.bootstrap.level))

    @cached_property
    def effects(self) -> pd.DataFrame:
        return self._asked(compare.effect_sizes(self._with_worst("diverged"), f"final {self.question.score}"))

    @cached_property
    def spans(self) -> dict[str, float]:
        """What the curve of a run spans, by environment: the median of P95 − the first score."""
        curves = self.scored.dropna(subset="value")
        of_runs = curves.groupby(["env", "run_id"])["value"].agg(lambda y: reliability.span(y.to_numpy()))
        return of_runs.groupby("env").median().to_dict()

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
        """With the runs of both groups that were compared, the share of those that are missing, and what became of both."""
        status, value = scores["run_id"].map(self._status), scores["value"]
        worst = np.isneginf(value)
        of_run = pd.DataFrame(
            {"variant": scores["variant"], "env": scores["env"], "n": value.notna(), "runs": 1,
             "diverged": worst & (status == "diverged"), "failed": worst & (status == "failed"), "unknown": value.isna()}
        )  # fmt: skip
        groups = of_run.groupby(["variant", "env"]).sum()
        found = {}
        for side in "ab":
            of = groups.loc[pd.MultiIndex.from_frame(pairs[[side, "env"]])].reset_index(drop=True)
            found |= {f"n_{side}": of["n"], f"absent_{side}": (of["failed"] + of["unknown"]) / of["runs"]}
            found |= {f"{what}_{side}": of[what] for what in ("runs", "diverged", "failed", "unknown")}
        pairs = pairs.assign(**found)
        lost = sum(pairs[f"{what}_{side}"] for what in ("diverged", "failed", "unknown") for side in "ab")
        none = lost == pairs["runs_a"] + pairs["runs_b"]  # that all are equally lost is no result
        numbers = {name: pairs[name].mask(none) for name in ("estimate", "lo", "hi", "p")}
        return pairs.assign(**numbers, warning=pairs["warning"].mask(none, "all runs failed, diverged or were stopped"))

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

    def _concluded(self, pairs: pd.DataFrame) -> pd.DataFrame:
        q = self.question
        return compare.concluded(pairs, q.alpha, q.adjust, self.permutations)

    def _asked(self, pairs: pd.DataFrame) -> pd.DataFrame:
        """Of several sweeps only a group against itself in another sweep, where there are such; otherwise all pairs."""
        same = pairs["a"].map(self.family_of) == pairs["b"].map(self.family_of)
        return pairs[same].reset_index(drop=True) if len(self.sweeps) > 1 and same.any() else pairs

    # Time to threshold

    def threshold(self, env: str) -> float:
        if self.question.threshold is not None:
            return self.question.threshold
        known = self.runs.loc[self.runs["env"] == env, "reward_threshold"].dropna()
        return float(known.iloc[0]) if len(known) else np.nan

    @cached_property
    def ways(self) -> dict[str, WayUp]:
        """From an untrained policy's return to the threshold, by environment."""
        thresholds = {env: self.threshold(env) for env in sorted(set(self.runs["env"]))}
        return events.ways_up(self.measured, thresholds, self.question.collapse, self.question.base)

    @cached_property
    def times(self) -> pd.DataFrame:
        """Of the environments that have a threshold."""
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
        """Of the survival curves, beside them in the tables. It is of another hypothesis than P, and makes no sentence."""
        return self._asked(survival.log_rank(self.times))

    def sooner_of(self, times: pd.DataFrame, n_permutations: int) -> pd.DataFrame:
        """P(a got there before b): whoever did not by the horizon comes last, and two who did not are level.

        Times are cut at the horizon that all runs have, so no two runs are compared that were not followed as long. A run
        that was stopped before it for another reason than its own failing has no time.
        """
        return improvements(_by_rank(times), "time to threshold", self.question.bootstrap, n_permutations)

    @cached_property
    def sooner(self) -> pd.DataFrame:
        return self.sooner_of(self.times, self.permutations)

    # What the pictures show

    @cached_property
    def shown(self) -> list[str]:
        """The groups in the pictures: all, or of too many those with the best final scores (mean rank over envs)."""
        if len(self.variants) <= self.question.shown:
            return self.variants
        rank = self.final.groupby("env")["estimate"].rank(ascending=False, na_option="bottom")
        order = rank.groupby(self.final["variant"]).mean().sort_values(kind="stable")
        return sorted(order.index[: self.question.shown])

    def few(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of those groups."""
        if len(self.shown) == len(self.variants):
            return frame
        names = ("a", "b") if "a" in frame else ("variant",)
        return frame[np.logical_and.reduce([frame[name].isin(self.shown) for name in names])]

    # The primary endpoint

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
        return self._counted(rows, _by_rank(self.times))

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

    # Reliability and events

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
        """Of the smoothed score: of an unsmoothed curve every second point is one."""
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

    # At frozen checkpoints, where `python -m pgx.diagnose` has been

    @cached_property
    def _diagnosis(self) -> tuple[pd.DataFrame, list[str]]:
        return diagnosis.load_diagnosis(self.runs)

    @property
    def diagnosis(self) -> pd.DataFrame:
        return self._diagnosis[0]

    @cached_property
    def estimators(self) -> pd.DataFrame:
        """Looked at, not tested: fewer resamples."""
        spec = dataclasses.replace(self.question.bootstrap, n_boot=min(500, self.question.bootstrap.n_boot))
        return diagnosis.estimators(self.diagnosis, self.runs, spec)

    @cached_property
    def noise(self) -> pd.DataFrame:
        return diagnosis.noise_against(self.diagnosis, self.runs, spec=self.question.bootstrap)

    @cached_property
    def parts_of_variance(self) -> pd.DataFrame:
        return diagnosis.parts_of_variance(self.diagnosis, self.runs, self.question.bootstrap)

    @cached_property
    def policies(self) -> pd.DataFrame:
        return diagnosis.policies(self.diagnosis, self.runs, self.question.bootstrap, self.question.reliability)

    @cached_property
    def post_update(self) -> pd.DataFrame:
        return diagnosis.post_update(self.diagnosis, self.runs)

    # What if a choice had been another one

    @cached_property
    def sensitivity(self) -> pd.DataFrame:
        """The main numbers under other choices: columns choice, setting, then those of results."""
        q, parts = self.question, []
        for part in (0.8, 0.9, 1.0):
            setting, times = f"{part:.0%} of the way up", self.times if part == 1 else self.times_to(part)
            parts.append(("threshold", setting, survival.median_times(times, q.bootstrap.level)))
            parts.append(("threshold", setting, self._asked(self.sooner if part == 1 else self.sooner_of(times, 0))))
        for fall in (0.3, 0.5, 0.7):
            spec = dataclasses.replace(q.collapse, fall=fall)
            became = self._outcomes_of(events.collapses(self.measured, self.ways, spec), spec)
            shares = events.collapse_shares(became, self.ways, spec, q.bootstrap.level)
            parts.append(("collapse", f"below {fall:.0%} of the peak", shares))
        for factor in (0.5, 1, 2):
            spec = dataclasses.replace(q.reliability, window=q.reliability.window * factor)
            within = self.within if factor == 1 else reliability.within_runs(self.measured, q.metric, spec)
            only = within[within["metric"].str.startswith("DT ")]
            parts.append(("window", f"{spec.window:,.0f} env steps", reliability.over_runs(only, self.runs, q.bootstrap)))
        parts = [rows.assign(choice=choice, setting=setting) for choice, setting, rows in parts if len(rows)]
        return pd.concat(parts, ignore_index=True) if parts else table([], "choice", "setting")

    # All of it

    def named(self) -> dict[str, pd.DataFrame]:
        """Every table by the name of its file."""
        names = """runs ledger scores final areas tolerance profile bands tolerance_bands better differences effects
            correlations final_pairs times survival medians restricted restricted_ratios log_rank sooner primary
            within reliability events outcomes collapse_shares collapse_tests worst sensitivity estimators noise
            parts_of_variance policies post_update"""
        return {"runs": self.runs} | {name: getattr(self, name) for name in names.split()[1:]}

    def save(self, folder: Path) -> None:
        """Every table as Parquet, and all results rows under each other in results.parquet."""
        folder.mkdir(parents=True, exist_ok=True)
        results = []
        for name, frame in self.named().items():
            frame.to_parquet(folder / f"{name}.parquet", index=False)
            if "params_json" in frame and len(frame) and name != "sensitivity":
                results.append(frame.assign(table=name))
        if results:
            pd.concat(results, ignore_index=True).to_parquet(folder / "results.parquet", index=False)


MOST_GROUPS = 30


def _replicate_keys(runs: pd.DataFrame) -> tuple[str, ...]:
    """`load.replicate_keys`. Raises InputError, with the commands that there are, if they make hardly any replicates."""
    keys = replicate_keys(runs)
    groups = runs.groupby(list(keys), dropna=False).ngroups
    if groups > MOST_GROUPS and len(keys) > 1:
        raise InputError(f"the runs of a variant differ in {', '.join(keys[1:])}, which makes {groups} groups: say "
                         f"--by {','.join(keys)} to compare them all, or --by variant to pool them")  # fmt: skip
    return keys


def _by_rank(times: pd.DataFrame) -> pd.DataFrame:
    """Times as scores: the sooner the higher, −∞ for whoever never gets there, NaN where that is not known."""
    never = np.where(times["cut_short"], np.nan, -np.inf)
    return times.assign(value=np.where(times["reached"], -times["time"], never))


def _same_pairs(rows: pd.DataFrame, wanted: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of `rows`, which have every pair both ways, those of `wanted`, in its order."""
    keys = ["a", "b", "env"]
    return wanted[keys].merge(rows, on=keys)[rows.columns], wanted


def question_json(question: Question) -> str:
    return json.dumps(dataclasses.asdict(question), sort_keys=True, ensure_ascii=False)
