"""The size of a batch, as a configuration gives it: by episodes, always the same number, or by steps (`pgx.batch`)."""

import math
from typing import Any, NamedTuple

from pgx.errors import ConfigError

SHORT_EPISODE = 16
"""Steps. If nothing else is said, there is room for the episodes of a batch if they are no shorter on average."""


class Most(NamedTuple):
    """The most episodes of a batch, which there has to be room for, and the key that says it."""

    key: str
    episodes: int


def check(config: dict[str, Any], least: int, needs_groups: bool) -> None:
    """Raise ConfigError unless a batch is made either by episodes or by steps, of whole groups where there are any, and may
    have the `least` episodes, or the groups, that the critic needs, and one a lane."""
    episodes, steps, most = (config[f"{key}_per_update"] for key in ("episodes", "steps", "max_episodes"))
    if episodes is not None and steps is not None:
        hint = "leave one out, or write null for it where a file has it"
        raise ConfigError("steps_per_update", f"{steps} beside episodes_per_update={episodes}", "one of the two", hint)
    if episodes is None and steps is None:
        raise ConfigError("episodes_per_update", "it is null, and so is steps_per_update", "a size of the batch in one of them")
    if steps is None and most is not None:
        hint = "it limits batches that are made by steps"
        raise ConfigError("max_episodes_per_update", f"{most} without steps_per_update", "null", hint)
    key, most = most_episodes(config)
    critic = config["critic"]["_target_"]
    if needs_groups and config["group_size"] is None:
        raise ConfigError("group_size", f"{critic} compares the episodes of a group, and there are none", "a whole number ≥ 2")
    if most < least:
        raise ConfigError(key, f"{critic} has no baseline for {most}", f"a whole number ≥ {least}")
    lanes, size = config["env"].get("num_lanes") or 1, config["group_size"] or 1
    if most % size:
        hint = f"{key}={whole_groups(most, size)}, or another group_size"
        raise ConfigError("group_size", f"{key}={most} is no number of groups of {size}", f"what divides {key}", hint)
    if lanes > most // size:
        what = "episode" if size == 1 else "group"
        raise ConfigError("env.num_lanes", f"{lanes} lanes have only {most // size} {what}s an update", f"at most one a {what}")


def whole_groups(episodes: int, size: int) -> int:
    """So many episodes, or as few more as make whole groups."""
    return -(-episodes // size) * size


def most_episodes(config: dict[str, Any]) -> Most:
    steps = config["steps_per_update"]
    if steps is None:
        return Most("episodes_per_update", config["episodes_per_update"])
    given, room = config["max_episodes_per_update"], max(2, math.ceil(steps / SHORT_EPISODE))
    return Most("max_episodes_per_update", given or whole_groups(room, config["group_size"] or 1))


def batches(config: dict[str, Any]) -> list[Most]:
    """Of every kind of batch that a run plays."""
    evaluated = [] if config["evaluate_every"] is None else [Most("evaluate_episodes", config["evaluate_episodes"])]
    return [most_episodes(config), *evaluated]


def fewest_lanes(config: dict[str, Any], max_steps: int | None) -> int:
    """The fewest of a batch, or the fewest groups, if all go to the time limit: an environment on the host has so many lanes
    unless it says how many, and none of them is ever idle. Raises ConfigError if there is no limit."""
    size = config["group_size"] or 1
    if config["steps_per_update"] is None:
        return config["episodes_per_update"] // size
    if max_steps is None:
        raise ConfigError("env.num_lanes", "null, and the environment declares no time limit", "a whole number ≥ 1")
    return max(1, min(config["steps_per_update"] // max_steps, most_episodes(config).episodes) // size)
