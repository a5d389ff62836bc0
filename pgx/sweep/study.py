"""Optuna's study of a tuning in its file: asked and told, so that a kill at any moment changes none of its trials."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from pgx.errors import ConfigError, one_line
from pgx.sweep.index import locks

FILE, LOCK, NAME = "optuna.log", ".optuna.lock", "pgx"
SAMPLERS = {"tpe": TPESampler, "random": RandomSampler}


class Alone:
    """In the place of Optuna's own lock of its file, which would survive a kill: whoever writes has locked the study."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


@contextlib.contextmanager
def opened(sweep: Path, settings: Mapping[str, Any]) -> Iterator[optuna.Study]:
    """The study in a sweep's folder, new or resumed, for this process alone.

    Raises ConfigError if another command is at work on it, or if it was begun with other settings.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    with open(sweep / LOCK, "a") as file:
        if not locks(file):
            raise ConfigError("hydra.sweep.dir", f"another command is tuning in {sweep}")
        _cut_torn_line(sweep / FILE)
        if (study := _loaded(sweep)) is None:
            study = optuna.create_study(study_name=NAME, storage=_storage(sweep), direction="maximize", sampler=RandomSampler())
        _refuse_others(study, settings, sweep)
        if "settings" not in study.user_attrs:
            study.set_user_attr("settings", dict(settings))
        yield study


def rehearsed(sweep: Path, settings: Mapping[str, Any]) -> optuna.Study:
    """A copy of the study in memory, to see what it would do; it may not have been begun."""
    study = optuna.create_study(direction="maximize")
    if (sweep / FILE).exists() and (written := _loaded(sweep)) is not None:
        _refuse_others(written, settings, sweep)
        study.add_trials(written.trials)
    return study


def _storage(sweep: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(sweep / FILE), lock_obj=Alone()))


def _loaded(sweep: Path) -> optuna.Study | None:
    """The study in its file, if it was begun."""
    try:
        storage = _storage(sweep)
        if not storage.get_all_studies():
            return None
        return optuna.load_study(study_name=NAME, storage=storage, sampler=RandomSampler())
    except (OSError, ValueError, LookupError, TypeError) as error:
        problem = f"{sweep / FILE} cannot be read: {one_line(error)}"
        raise ConfigError("hydra.sweep.dir", problem, hint="the runs are whole; choose another folder") from error


def _cut_torn_line(file: Path) -> None:
    """Take away half a line that a machine wrote when it went down: what comes after it could not be read."""
    with contextlib.suppress(FileNotFoundError), open(file, "r+b") as log:
        text = log.read()
        if not text.endswith(b"\n"):
            log.truncate(text.rfind(b"\n") + 1)


def _refuse_others(study: optuna.Study, settings: Mapping[str, Any], sweep: Path) -> None:
    before = study.user_attrs.get("settings", settings)
    for key in (*settings, *before):
        if before.get(key) != settings.get(key):
            problem = f"{before.get(key)} → {settings.get(key)}: {sweep} holds the trials of another tuning"
            raise ConfigError(key, problem, hint="choose another folder")


def ask(study: optuna.Study, distributions: Mapping[str, BaseDistribution], sampler: str, seed: int) -> int:
    """Add a trial; its number. It depends on the trials before it and on the seed only: not on what this process has asked
    so far. It is written down in one line, whole or not at all."""
    number = len(study.trials)
    seed_of_trial = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    rehearsal = optuna.create_study(direction="maximize", sampler=SAMPLERS[sampler](seed=seed_of_trial))
    rehearsal.add_trials(study.trials)
    rehearsal.ask(dict(distributions))
    asked = rehearsal.trials[-1]
    study.add_trial(
        create_trial(
            state=TrialState.RUNNING, params=asked.params, distributions=asked.distributions, system_attrs=asked.system_attrs
        )
    )
    return number


def finished(study: optuna.Study, number: int) -> bool:
    return study.trials[number].state.is_finished()


def report(study: optuna.Study, number: int, value: float, step: int) -> None:
    if step not in study.trials[number].intermediate_values:  # told before a kill
        _at_work(study, number).report(value, step)


def should_prune(study: optuna.Study, number: int, step: int, first: int) -> bool:
    """Whether a trial is below the median at this step: of the completed ones before its batch, which begins with `first`.
    Not of those in it: which of them have ended by now depends on when somebody was killed."""
    so_far = {key: value for key, value in study.trials[number].intermediate_values.items() if key <= step}
    if step not in so_far:
        return False
    rehearsal = optuna.create_study(direction="maximize", pruner=MedianPruner(), sampler=RandomSampler())
    rehearsal.add_trials(study.trials[:first])
    rehearsal.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values=so_far))
    return bool(_at_work(rehearsal, first).should_prune())


def note(study: optuna.Study, number: int, **attributes: Any) -> None:
    """Attributes of a trial at work, for people and for trials.json."""
    for key, x in attributes.items():
        _at_work(study, number).set_user_attr(key, x)


def take_over(study: optuna.Study, number: int, earlier: FrozenTrial) -> None:
    """End a trial as an earlier one of the same parameters has ended: it has the same runs."""
    for step, value in earlier.intermediate_values.items():
        report(study, number, value, step)
    note(study, number, **earlier.user_attrs)
    value = earlier.value if earlier.state == TrialState.COMPLETE else None
    study.tell(number, value, state=earlier.state)


def _at_work(study: optuna.Study, number: int) -> Trial:
    return Trial(study, study.trials[number]._trial_id)
