"""Memory: what a program takes beside what its device has, compared before anything is allocated.

A batch of whole episodes has every observation of every step in memory at once. What that takes is asked of the compiled
program itself: XLA has laid out all its buffers. A device that has less would end the run with a page of text; a machine
that has less, without a word.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pgx.errors import ConfigError

FLOAT = 4
"""Bytes."""
MOST_STEPS = 2**30
"""Of a batch: positions of steps, and as many that are out of reach, have 32 bits (`blocks`)."""


processes = 1
"""That are at work on this device together, in a sweep: a worker is told so by `sweep.pool`."""


class Batch(NamedTuple):
    """The episodes that are in memory together."""

    key: str
    """Of the configuration, which says how many they are."""
    episodes: int
    max_steps: int
    lanes: int = 1
    """Runs of a pack that go through an operation together on one device."""


def check_size(batch: Batch) -> None:
    """Raise ConfigError if no program can tell the steps of a batch apart."""
    if batch.max_steps * batch.episodes > MOST_STEPS:
        hint = f"at most {MOST_STEPS // batch.max_steps:,} episodes"
        raise ConfigError(batch.key, f"{_what(batch)} are more than {MOST_STEPS:,} steps", hint=hint)


def check_host(batch: Batch, obs_size: int) -> None:
    """Raise ConfigError if the observations of a batch that is played on the host are more than there is: as it grows, and
    sorted by episodes. What it takes to learn from them is known later."""
    of_episode = 2 * FLOAT * batch.max_steps * obs_size
    needed, there = of_episode * batch.episodes, available()
    if needed > there:
        what = f"{_what(batch)} × {obs_size:,} numbers take {_size(needed)} twice over, {_free(there)}"
        raise ConfigError(batch.key, what, hint=f"no more than {there // of_episode:,.0f} episodes have room")


def check_program(batch: Batch, program: object) -> None:
    """Raise ConfigError if a compiled program takes more than there is. Its inputs are there already."""
    found, there = program.memory_analysis(), available()
    needed = found.temp_size_in_bytes + found.output_size_in_bytes if found is not None else 0  # a device that does not say
    if needed <= there:
        return
    what = f"{_what(batch)} take {_size(needed)}, {_free(there)}"
    if batch.lanes > 1 and (lanes := _fitting(batch.lanes, needed, there)) > 0:
        raise ConfigError("hydra.launcher.width", what, hint=f"{lanes:,} lanes fit")
    of_lane = " in one lane" if batch.lanes > 1 else ""
    episodes = _fitting(batch.lanes * batch.episodes, needed, there)
    hint = f"{episodes:,} episodes fit{of_lane}" if episodes else f"not even one episode fits{of_lane}"
    raise ConfigError(batch.key, what, hint=hint)


def _what(batch: Batch) -> str:
    lanes = f" × {batch.lanes:,} lanes" if batch.lanes > 1 else ""
    return f"{batch.max_steps:,} steps × {batch.episodes:,} episodes{lanes}"


def _fitting(number: int, needed: int, there: float) -> int:
    """How many of so many fit, in two digits: memory grows with them, but for a little that is always there."""
    most = math.floor(0.98 * number * there / needed)
    unit = 10 ** max(0, len(str(most)) - 2)
    return most // unit * unit


def _free(there: float) -> str:
    return f"{_size(there)} are free" + (f" for each of {processes} processes" if processes > 1 else "")


def _size(size: float) -> str:
    unit, name = (1e9, "GB") if size >= 1e8 else (1e6, "MB")
    return f"{size / unit:,.{0 if size >= 10 * unit else 1}f} {name}"


class Room(NamedTuple):
    """Bytes."""

    free: float
    whole: float


def available() -> float:
    """Bytes that programs may still take on their device: of an accelerator's memory as jax was given it, or of the
    machine's, within what the process's control group is allowed; no more than a part of the whole where `processes` are
    at work. Infinite of a device that does not say."""
    import jax

    device = jax.local_devices()[0]
    rooms = [_machine(), *_groups()] if device.platform == "cpu" else _of_accelerator(device.memory_stats() or {})
    return min((min(room.free, room.whole / processes) for room in rooms), default=math.inf)


def _of_accelerator(told: dict[str, int]) -> list[Room]:
    limit = told.get("bytes_limit")
    return [] if limit is None else [Room(limit - told.get("bytes_in_use", 0), limit)]


def _machine() -> Room:
    try:
        lines = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    except OSError:  # not Linux
        return Room(math.inf, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    size = {words[0]: 1024 * int(words[1]) for words in lines}
    return Room(size["MemAvailable:"], size["MemTotal:"])


def _groups(process: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> Iterator[Room]:
    """Those of each control group of this process that has a limit, the ones around it included. A cache of files is
    free."""
    for line in process.read_text().splitlines() if process.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top, *names = (root / "memory", *_FILES[1]) if controllers else (root, *_FILES[2])
        here = Path(path.lstrip("/"))
        for folder in (top / here, *(top / above for above in here.parents)):
            with contextlib.suppress(OSError):  # not within this container, or the root, which has no limit
                yield from _group(folder, *names)


_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
"""By version: the limit, what is used, and the cache of files in memory.stat."""


def _group(folder: Path, limit: str, usage: str, cached: str) -> list[Room]:
    most, used = (folder / limit).read_text().strip(), int((folder / usage).read_text())
    told = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return [] if most == "max" else [Room(int(most) - used + int(told.get(cached, 0)), int(most))]
