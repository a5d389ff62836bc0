"""All tables of a report."""

import dataclasses
import os
import shlex
from functools import cached_property
from pathlib import Path

import pandas as pd

from analysis.hygiene import second_stage, second_stage_of_trials, seed_hygiene
from analysis.load import warnings
from analysis.report.study.frozen import Frozen
from analysis.results import table
from analysis.statistics import events, reliability, survival

EVALUATION = "evaluation_return"
"""Where it was measured, it decided when a run is solved."""


class Study(Frozen):
    """The tables of one or several sweeps; every property is one (see `named`)."""

    @cached_property
    def warnings(self) -> list[str]:
        """Sentences to be read before any number, problems included."""
        sentences = [*self.problems, *self.notes, *warnings(self.runs, self.by), *self._seed_hygiene(), *self._diagnosis[1]]
        if len(self.runs) == 1:
            sentences.append("one run only: nothing can be compared, and no interval can be given")
        if not self.runs["status"].isin(["completed", "running", "interrupted"]).any():
            sentences.append("all runs failed: there is nothing to measure")
        if dirty := int(self.runs["git_sha"].str.contains("+", regex=False).sum()):
            sentences.append(
                f"{dirty} runs were made by code with uncommitted changes or from outside: the commit does not say what ran"
            )
        seeds = self.runs.groupby(["variant", "env"])["seed"].nunique()
        if len(few := seeds[seeds.between(2, 9)]):
            count = f"{few.min()}" if few.min() == few.max() else f"{few.min()}–{few.max()}"
            sentences.append(f"{count} seeds in {len(few)} of {len(seeds)} groups: with fewer than 10 intervals are too narrow")
        if self.question.score != EVALUATION:
            evaluated = self.runs["run_id"].isin(self.curves(EVALUATION, problem=False)["run_id"])
            if stopped := int((self.runs["stopped_when_solved"] & evaluated).sum()):
                what = f"{stopped} runs were stopped by an evaluation that reached the threshold"
                sentences.append(f"{what}: --score {EVALUATION} goes by these, {self.question.score} may not be there yet")
        ends = self.scored.groupby("run_id")["env_steps"].max()
        done = self.runs[self.runs["status"] == "completed"].set_index("run_id")
        for env, horizon in self.horizons.items():
            far = ends.reindex(done.index[done["env"] == env]).max()
            if far > 1.1 * horizon:
                sentences.append(f"{env}: completed runs end between {horizon:,.0f} and {far:,.0f} env steps; final scores "
                            f"are those at {horizon:,.0f}")  # fmt: skip
        gone = self.outcomes["diverged"] | self.outcomes["failed"]
        unknown = self.outcomes[~gone & (self.outcomes["undetermined"] != "")]
        for (env, why), rows in unknown.groupby(["env", "undetermined"]):
            of = (self.runs["env"] == env).sum()
            sentences.append(f"{env}: collapses are not determined for {len(rows)} of {of} runs: {why}")
        for env, of_env in self.times.groupby("env"):
            if late := int(of_env["late"].iloc[0]):
                sentences.append(f"{env}: the runs were not all followed as long: times are cut at "
                            f"{of_env['horizon'].iloc[0]:,.0f} env steps, which all have, and {late} runs that reached "
                            "the threshold later count as not there")  # fmt: skip
        if len(self.shown) < len(self.variants):
            sentences.append(f"{len(self.variants)} groups: the pictures show the {len(self.shown)} with the best final scores")
        if len(self.sweeps) > 1 and (same := self._same_twice()):
            sentences.append(f"{same} runs have the same configuration and seed in two sweeps: if the code is the same too, "
                        "so are their numbers")  # fmt: skip
        return list(dict.fromkeys(sentences))

    def _seed_hygiene(self) -> list[str]:
        """Warnings about seeds on which values were chosen, with the commands of the second stage."""
        sentences = []
        for _, runs in self.loaded.groupby("sweep", sort=False):
            sentences += seed_hygiene(runs)
            where = os.path.commonpath(list(runs["folder"]))
            if commands := second_stage_of_trials(Path(where)) or second_stage(runs, self._merits, f"{where}-confirmed"):
                report = shlex.join(["python", "-m", "analysis.report", f"{where}-confirmed", "--chosen-on", where])
                sentences.append(f"second stage, the best values on fresh seeds: `{' && '.join([*commands, report])}`")
        return sentences

    @property
    def _merits(self) -> pd.DataFrame:
        """One number a run, the higher the better: minus its time to the threshold, or its final score where no run of
        the environment got there."""
        by_time = self.times.groupby("env")["reached"].transform("any")
        times = self.times[by_time]
        return pd.concat([times.assign(value=-times["time"]), self.scores[~self.scores["env"].isin(set(times["env"]))]])

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

    def named(self) -> dict[str, pd.DataFrame]:
        """Every table by the name of its file."""
        names = """runs ledger scores final areas tolerance profile bands tolerance_bands better differences effects
            correlations final_pairs times survival medians restricted restricted_ratios log_rank sooner primary
            within reliability events outcomes collapse_shares collapse_tests worst sensitivity estimators noise
            noise_of_forms references parts_of_variance policies post_update"""
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
