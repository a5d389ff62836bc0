"""Tuning: trials of several seeds each, chosen by Optuna and run by the launcher as members of an ordinary sweep.

A trial is a group of members that differ in their seed only. Its value is the interquartile mean of their objectives; if
one of them fails or diverges, so does the trial. Trials of a batch run at the same time, first to every rung, a share of
the budget, where some are pruned; the others are resumed from there. Whatever is interrupted, the same command goes on:
finished trials are in the study, unfinished ones begin where their runs are.
"""

import contextlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from hydra_plugins.pgx_launcher import PgxLauncher
from pgx.declared import Declared
from pgx.errors import ConfigError
from pgx.gate import config_errors, quoted
from pgx.identity import identity
from pgx.runs import record
from pgx.sweep import study as studies
from pgx.sweep import trials
from pgx.sweep.index import look
from pgx.sweep.space import Space, space_of, words_of

BUDGETS = ("num_env_steps", "num_updates")
STATUS = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def tune(config: DictConfig, settings: dict[str, Any], overrides: Sequence[Override], launcher: PgxLauncher) -> None:
    """The command: all trials, then the best one on fresh seeds. Raises ConfigError before anything runs, if at all."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _check(settings)
    space, sweep = space_of(overrides), Path(config.hydra.sweep.dir)
    first, *_ = [member.config for member in launcher.checked([words_of(space, corner) for corner in space.corners])]
    space.fixed.pop("seed", None)
    seeds = seeds_of("seeds", settings["seeds"], first["seed"])
    fresh = seeds_of("confirm", settings["confirm"], max(seeds) + 1)
    if again := sorted(set(seeds) & set(fresh)):
        raise ConfigError("hydra.sweeper.confirm", f"seeds {again} are among those of the trials", "fresh ones")
    if fresh and settings["confirm_default"]:
        launcher.checked([list(space.fixed.values())])
    if settings["rungs"] and not any(first[key] for key in BUDGETS):
        raise ConfigError("hydra.sweeper.rungs", "there is no budget to have a share of", "num_env_steps, num_updates")
    if config.hydra.launcher.detach:
        raise ConfigError("hydra.launcher.detach", "the next trials depend on these, and have to wait for them", "false")
    begun_with = _begun_with(settings, seeds, first, space)
    if dry := config.hydra.launcher.dry_run:
        place = contextlib.nullcontext(studies.rehearsed(sweep, begun_with))
    else:
        place = studies.opened(sweep, begun_with)
    with place as study:
        tuning = Tuning(study, space, sweep, settings, launcher, seeds, {key: first[key] for key in BUDGETS})
        if not dry:
            tuning.confirm_command = _with_fresh_seeds(config)
            OmegaConf.save(config, sweep / "multirun.yaml")
        tuning.run()
        if fresh:
            tuning.confirm(fresh, beside_default=settings["confirm_default"])
        if dry:
            raise SystemExit(0)


def seeds_of(key: str, asked: Any, first: int) -> list[int]:
    """So many seeds from the first one on, or those that are listed."""
    least = 1 if key == "seeds" else 0
    seeds = list(range(first, first + asked)) if type(asked) is int and asked >= least else asked
    good = isinstance(seeds, list) and len(seeds) >= least and all(type(x) is int and 0 <= x < 2**32 for x in seeds)
    if not good or len(set(seeds)) < len(seeds):
        raise ConfigError(f"hydra.sweeper.{key}", f"{asked} is not allowed", "how many, or a list as in [3,4,5]")
    return seeds


def _check(settings: Mapping[str, Any]) -> None:
    for key in ("n_trials", "batch"):
        if settings[key] < 1:
            raise ConfigError(f"hydra.sweeper.{key}", f"{settings[key]} is not allowed", "a whole number ≥ 1")
    if settings["sampler"] not in studies.SAMPLERS:
        allowed = " | ".join(studies.SAMPLERS)
        raise ConfigError("hydra.sweeper.sampler", f"{settings['sampler']!r} is not allowed", allowed)
    if not settings["sampler_seed"] >= 0:
        raise ConfigError("hydra.sweeper.sampler_seed", f"{settings['sampler_seed']} is not allowed", "a whole number ≥ 0")
    if settings["direction"] != "maximize":
        what = f"{settings['direction']!r} is not allowed: a trial's value is its return"
        raise ConfigError("hydra.sweeper.direction", what, "maximize")
    rungs = settings["rungs"]
    if not all(0 < x < 1 for x in rungs) or any(b <= a for a, b in zip(rungs, rungs[1:], strict=False)):
        raise ConfigError("hydra.sweeper.rungs", f"{rungs} is not allowed", "rising shares of the budget, as in [0.25,0.5]")


def _begun_with(settings: Mapping[str, Any], seeds: list[int], first: dict[str, Any], space: Space) -> dict[str, Any]:
    """All that decides what the trials are, by dotted keys. `first`: the configuration of one of them."""
    kept = {f"hydra.sweeper.{key}": settings[key] for key in ("batch", "rungs", "sampler", "sampler_seed")}
    of_run = {key: x for key, x in identity(first).items() if key != "seed"}
    return kept | {"hydra.sweeper.seeds": seeds} | of_run | {key.lstrip("+"): text for key, text in space.asked.items()}


def _with_fresh_seeds(config: DictConfig) -> list[str]:
    """The words after `python -m pgx.run` of the command that runs the best trial on fresh seeds: the same one, which has
    nothing else left to do."""
    words = [*config.hydra.overrides.task, *config.hydra.overrides.hydra]
    kept = [x for x in words if not x.startswith(("hydra.mode=", "hydra.sweep.dir=", "hydra.sweeper.confirm="))]
    folder = str(config.hydra.sweep.dir)
    word = folder if re.fullmatch(r"[\w./-]+", folder) else quoted(folder)
    return ["-m", *kept, f"hydra.sweep.dir={word}", "hydra.sweeper.confirm=20"]


class Tuning:
    """A study, and the runs of its trials."""

    confirm_command: list[str] | None = None
    """The words of the one that runs the best trial on fresh seeds. None: nothing is written, for this is a dry run."""

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        sweep: Path,
        settings: Mapping[str, Any],
        launcher: PgxLauncher,
        seeds: list[int],
        budgets: dict[str, int | None],
    ):
        self._study, self._space, self._sweep, self._settings, self._launcher = study, space, sweep, settings, launcher
        self._seeds = seeds
        self._budgets = {key: budget for key, budget in budgets.items() if budget is not None}
        self._confirmed: dict[str, Any] | None = None

    def run(self) -> None:
        """Batch after batch."""
        n_trials, batch = self._settings["n_trials"], self._settings["batch"]
        for first in range(0, n_trials, batch):
            numbers = range(first, min(first + batch, n_trials))
            for _ in range(len(self._study.trials), numbers.stop):
                studies.ask(self._study, self._space.distributions, self._settings["sampler"], self._settings["sampler_seed"])
            if waiting := self._unfinished(numbers):
                print(f"trials {first}–{numbers[-1]} of {n_trials}, {len(self._seeds)} seeds each", flush=True)
                self._write()
                self._batch(waiting, first)
        self._write()

    def _batch(self, numbers: list[int], first: int) -> None:
        """End these trials. What earlier batches have run is not run again."""
        for number in numbers:
            self._refuse_or_take_over(number, self._study.trials[:first])
        for share in (*self._settings["rungs"], 1.0):
            self._advance(self._unfinished(numbers), share)
            if share < 1:
                self._prune(self._unfinished(numbers), self._step(share), first)
            self._write()

    def _unfinished(self, numbers: Sequence[int]) -> list[int]:
        return [number for number in numbers if not studies.finished(self._study, number)]

    def _refuse_or_take_over(self, number: int, earlier: Sequence[FrozenTrial]) -> None:
        """End a trial whose configuration is not allowed, or which is an earlier one once more."""
        trial = self._study.trials[number]
        twin = next((x for x in earlier if x.params == trial.params), None)
        if twin is not None:
            studies.take_over(self._study, number, twin)
            return
        try:
            with config_errors(Declared):
                self._launcher.checked([words_of(self._space, trial.params, seed=self._seeds[0])])
        except ConfigError as error:  # of these values together: each of them was looked at before
            self._fail(number, str(error))

    def _advance(self, numbers: Sequence[int], share: float) -> None:
        """Run trials to this share of the budget, and tell how they are there. Who has been there is not asked to go back."""
        step, at_end = self._step(share), share == 1
        numbers = [x for x in numbers if at_end or self._study.trials[x].user_attrs.get("reached", 0) < step]
        if not numbers:
            return
        budget = {} if at_end else {key: self._part(key, share) for key in self._budgets}
        of_trials = [words_of(self._space, self._study.trials[x].params, **budget) for x in numbers]
        self._launcher.begin(self._sweep)
        for number, of_trial in zip(numbers, self._launch(of_trials, self._seeds, numbers[0] * len(self._seeds)), strict=True):
            reasons = [
                f"seed {seed}: {why}" for seed, x in zip(self._seeds, of_trial, strict=True) if (why := _wrong(x, at_end))
            ]
            if reasons:
                self._fail(number, "; ".join(reasons))
            else:
                self._tell(number, [record.objective(x) for x in of_trial], None if at_end else step)

    def _tell(self, number: int, of_seeds: list[float], rung: int | None) -> None:
        """Tell the study of a trial's runs, at a rung, where it may be too early to say anything, or at their end."""
        value = trials.interquartile_mean(of_seeds)
        if all(map(math.isfinite, of_seeds)):
            studies.note(self._study, number, values=of_seeds)
            if rung is not None:
                studies.report(self._study, number, value, rung)
        if rung is None:
            self._study.tell(number, value)
        else:
            studies.note(self._study, number, reached=rung)

    def _launch(self, of_trials: Sequence[list[str]], seeds: Sequence[int], first: int) -> list[list[dict[str, Any] | None]]:
        """Run every trial on every seed; run.json of the members, a list a trial."""
        jobs = [[*words, f"seed={seed}"] for words in of_trials for seed in seeds]
        summaries = [_summary(returned) for returned in self._launcher.launch(jobs, first)]
        return [summaries[i : i + len(seeds)] for i in range(0, len(summaries), len(seeds))]

    def _prune(self, numbers: Sequence[int], step: int, first: int) -> None:
        for number in numbers:
            if studies.should_prune(self._study, number, step, first):
                self._study.tell(number, state=TrialState.PRUNED)

    def _fail(self, number: int, reason: str) -> None:
        studies.note(self._study, number, reason=reason)
        self._study.tell(number, state=TrialState.FAIL)

    def _part(self, key: str, share: float) -> int:
        return math.ceil(self._budgets[key] * share)

    def _step(self, share: float) -> int:
        """Where a rung is, in the unit of the budget."""
        return self._part(next(iter(self._budgets)), share) if self._budgets else 0

    def confirm(self, seeds: list[int], *, beside_default: bool) -> None:
        """Run the best trial, and the configuration that nothing was chosen in, on fresh seeds in a folder of their own."""
        best = trials.best(self._rows())
        if best is None:
            return
        groups = {"best": best["overrides"]} | ({"default": list(self._space.fixed.values())} if beside_default else {})
        self._launcher.begin(trials.confirmation(self._sweep), "hydra.sweeper.confirming=true")
        summaries = self._launch(list(groups.values()), seeds, 0)
        results = {name: _estimate(of_group) for name, of_group in zip(groups, summaries, strict=True)}
        self._confirmed = {"seeds": seeds, "trial": best["trial"], "groups": results}
        self._write()

    def _rows(self) -> list[dict[str, Any]]:
        return [self._row(trial) for trial in self._study.trials]

    def _row(self, trial: FrozenTrial) -> dict[str, Any]:
        of_seeds = trial.user_attrs.get("values")
        return {
            "trial": trial.number,
            "status": STATUS.get(trial.state, "running"),
            "value": trial.value,
            "chosen": [
                f"{key.lstrip('+')}={format(x, '.4g') if isinstance(x, float) else x}" for key, x in trial.params.items()
            ],
            "overrides": words_of(self._space, trial.params),
            "of_seeds": of_seeds and dict(zip(map(str, self._seeds), of_seeds, strict=True)),
            "reason": trial.user_attrs.get("reason"),
        }

    def _write(self) -> None:
        if self.confirm_command is None:
            return
        before = trials.read(self._sweep) or {}
        self._confirmed = self._confirmed or before.get("confirmed")
        content = {"seeds": self._seeds, "confirm": self.confirm_command, "confirmed": self._confirmed, "trials": self._rows()}
        trials.write(self._sweep, content)


def _summary(returned: JobReturn) -> dict[str, Any] | None:
    """run.json of a member that has ended. Raises RunFailed if it has not: the same command goes on with it."""
    returned.return_value  # noqa: B018
    sweep = returned.hydra_cfg.hydra.sweep
    return look(Path(sweep.dir) / sweep.subdir).summary


def _wrong(summary: dict[str, Any] | None, at_end: bool) -> str | None:
    """Why a member has no value; at a rung it may be too early for one."""
    if summary is None:
        return "its folder is broken"
    if summary["status"] != "completed":
        return f"{summary['status']} ({summary['error']})"
    if at_end and not math.isfinite(record.objective(summary)):
        return summary.get("warning") or "it never finished an episode"
    return None


def _estimate(summaries: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """The interquartile mean over runs, with its interval; those without a value count as the worst."""
    values = [record.objective(x) for x in summaries]
    value = trials.interquartile_mean(values)
    without = sum(not math.isfinite(x) for x in values)
    interval = trials.interval(values)
    return {"value": value if math.isfinite(value) else None, "interval": interval, "without": without}
