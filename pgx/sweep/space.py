"""The search space of a tuning, in Hydra's own syntax of overrides: `tag(log,interval(1e-4,1e-1))`, `int(interval(1,9))`,
`range(1,5)`, `choice(a,b)` or `a,b`, `glob(*)`, for values and for groups."""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from hydra.core.override_parser.types import Override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pgx.errors import ConfigError
from pgx.identity import BUDGET, OPERATIONAL

OF_AN_ENVIRONMENT = ("env.bound", "env.num_lanes")
"""What may be chosen there: anything else makes another task, whose returns are others."""


class Space(NamedTuple):
    fixed: dict[str, str]
    """Key of an override, with its `+` → the override, which all members share."""
    asked: dict[str, str]
    """Key → what was typed."""
    distributions: dict[str, BaseDistribution]
    """Key → what a trial chooses from. Choices are the words of overrides."""

    @property
    def corners(self) -> list[dict[str, float | int | str]]:
        """Trials that have every choice, and every interval's ends and a value between them."""
        values = {key: _probes(x) for key, x in self.distributions.items()}
        first = {key: probes[0] for key, probes in values.items()}
        return [first, *(first | {key: x} for key, probes in values.items() for x in probes[1:])]


def space_of(overrides: Sequence[Override]) -> Space:
    """Raises ConfigError for what cannot be chosen, or not by Optuna."""
    space = Space({}, {}, {})
    for override in overrides:
        key = override.get_key_element()
        for before in (space.fixed, space.asked):  # the last word counts, as in Hydra
            before.pop(key, None)
        space.distributions.pop(key, None)
        if override.is_sweep_override():
            _refuse(override.key_or_group)
            space.asked[key] = override.input_line.partition("=")[2]
            space.distributions[key] = _distribution(override)
        else:
            space.fixed[key] = override.input_line
    if not space.distributions:
        raise ConfigError("hydra/sweeper", "there is nothing to choose", "key=interval(…), range(…), choice(…)")
    return space


def words_of(space: Space, chosen: dict[str, float | int | str], **values: object) -> list[str]:
    """The overrides of a trial, with some values more."""
    words = {key: word for key, word in space.fixed.items() if key not in values}
    words |= {key: f"{key}={x}" for key, x in chosen.items()}
    return list((words | {key: f"{key}={x}" for key, x in values.items()}).values())


def _refuse(key: str) -> None:
    """Raise ConfigError for keys whose values no trial can be compared by."""
    if key == "seed":
        raise ConfigError(key, "is not chosen: every trial has the same ones", "hydra.sweeper.seeds=5, or =[3,4,5]")
    if key in (*BUDGET, *OPERATIONAL) or key.startswith("tracker."):
        raise ConfigError(key, "is not chosen: it makes no other learner", "one value")
    if key.startswith("evaluate_") or (key.split(".")[0] == "env" and key not in OF_AN_ENVIRONMENT):
        raise ConfigError(key, "is not chosen: returns of different tasks cannot be compared", "one value")


def _distribution(override: Override) -> BaseDistribution:
    key, text, value = override.key_or_group, override.input_line.partition("=")[2], override.value()
    tags, log = getattr(value, "tags", set()), "log" in getattr(value, "tags", set())
    if getattr(value, "shuffle", False):
        raise ConfigError(key, f"{text} is not allowed: the sampler decides the order", "without shuffle(…)")
    if tags - {"log"}:
        raise ConfigError(key, f"{', '.join(sorted(tags - {'log'}))} is no tag of a search space", "log")
    if override.is_interval_sweep():
        return _numbers(key, text, value.start, value.end, None, log)
    options = list(override.sweep_iterator() if override.is_range_sweep() else override.sweep_string_iterator())
    if not options:
        raise ConfigError(key, f"{text} is empty")
    if override.is_range_sweep():
        start, step = Decimal(str(value.start)), Decimal(str(value.step))
        kind = int if all(isinstance(x, int) for x in options) else float
        ends = sorted((kind(start), kind(start + (len(options) - 1) * step)))
        return _numbers(key, text, *ends, kind(abs(step)), log)
    if log:
        raise ConfigError(key, f"{text} is not allowed: choices have no order", "tag(log,interval(…)), tag(log,range(…))")
    return CategoricalDistribution(list(dict.fromkeys(options)))


def _numbers(key: str, text: str, low: float, high: float, step: float | None, log: bool) -> BaseDistribution:
    """Whole numbers, if both ends are such; `int(interval(…))` is Hydra's way to say so."""
    whole = isinstance(low, int) and isinstance(high, int)
    if not low <= high:
        raise ConfigError(key, f"{text} is empty: {low} > {high}")
    if log and low <= 0:
        raise ConfigError(key, f"{text} has no logarithm at {low}", "numbers > 0")
    if log and not (step is None or (whole and step == 1)):
        raise ConfigError(key, f"{text}: a logarithmic range has no step", "tag(log,interval(…)), int(…) for whole numbers")
    if whole:
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(float(low), float(high), log=log, step=None if log else step)


def _probes(distribution: BaseDistribution) -> list[float | int | str]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low, high = distribution.low, distribution.high
    if isinstance(distribution, IntDistribution) or distribution.step is not None:
        return [low, high]
    return [low, low + 0.38 * (high - low), high]
