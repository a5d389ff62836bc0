"""Which folder of a sweep is whose: members.json.

It is an index. The run folders are the truth, and what they say of themselves puts it right: lost, damaged or wrong, it
is rebuilt from them. Folders are chosen and written down under a lock, so that two commands may share a sweep.
"""

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pgx.errors import ConfigError, one_line
from pgx.identity import BUDGET
from pgx.runs import record
from pgx.runs.files import write_atomically

FILE, LOCK = "members.json", ".lock"
PATIENCE = 60.0
"""Seconds that a command waits for another one, which chooses its folders."""


class Entry(NamedTuple):
    key: str
    """Hash of the configuration, but for the budget."""
    overrides: list[str]


class Run(NamedTuple):
    """The run in a folder, as its files say."""

    summary: dict[str, Any] | None
    """run.json; None if no run was started."""
    problem: str | None = None
    """Why run.json cannot be used."""

    @property
    def key(self) -> str | None:
        return None if self.summary is None else record.run_hash(self.summary["config"])


class Index:
    """The members of the sweep in this folder: `entries` (name → Entry), where a name is the path of a member's folder
    below the sweep's; `runs` (name → Run), those of the members and whatever else lies there; `there`, whether there is a
    members.json; `remarks`, what was wrong with it."""

    def __init__(self, sweep: Path):
        self.sweep, self.there, self.remarks = sweep, True, []
        self.written = self.entries = self._read()
        names = {*self.entries, *_runs_below(sweep)}
        self.runs = {name: look(sweep / name) for name in sorted(names, key=order)}
        self.entries = self._put_right()
        self._names = {entry.key: name for name, entry in self.entries.items()}

    def _read(self) -> dict[str, Entry]:
        """The entries of members.json, as far as they make sense."""
        try:
            content = json.loads((self.sweep / FILE).read_bytes())
            entries = {name: entry for name, x in content.items() if is_name(name) and (entry := _entry(x))}
        except FileNotFoundError:
            self.there = False
            return {}
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            self.remarks.append(f"it cannot be read ({one_line(error)})")
            return {}
        if left_out := sorted(content.keys() - entries.keys()):
            self.remarks.append(f"what it says of {', '.join(map(repr, left_out))} names no folder of this sweep")
        return entries

    def _put_right(self) -> dict[str, Entry]:
        entries = dict(self.entries)
        folders: dict[str, list[str]] = {}
        for name, run in self.runs.items():
            if run.summary is not None and (name in entries or run.summary["group"] is not None):  # else it is no member
                folders.setdefault(run.key, []).append(name)
        changed = []
        for key, names in folders.items():
            # the one that the index names, or that is complete; a copy of it is none of the members
            names.sort(key=lambda name: (name not in entries or entries[name].key != key, not self._is_complete(name)))
            for copy in names[1:]:
                entries.pop(copy, None)
                self.remarks.append(f"{copy} repeats {names[0]}, and is left out")
            if names[0] not in entries or entries[names[0]].key != key:
                changed.append(names[0])
                entries[names[0]] = Entry(key, overrides_of(self.sweep / names[0]))
        # of two entries with one configuration the one that has the run is right
        owners = {entry.key: name for name, entry in reversed(entries.items())}
        owners |= {key: names[0] for key, names in folders.items()}
        kept = {name: entry for name, entry in entries.items() if owners[entry.key] == name}
        if changed:
            self.remarks.append(f"{', '.join(changed)} {'is' if len(changed) == 1 else 'are'} taken from the run folders")
        return {name: kept[name] for name in sorted(kept, key=order)}

    def _is_complete(self, name: str) -> bool:
        return self.runs[name].summary["status"] == "completed"

    def choose(self, key: str, wanted: str, overrides: list[str]) -> str:
        """The name of the member with this configuration: the one it has, else `wanted`, else one like it."""
        if key not in self._names:
            name = wanted if self._may_have(wanted, key, overrides) else self._like(wanted)
            self._names[key] = name
        elif set(overrides) == set(self.entries[self._names[key]].overrides):  # in whatever order
            return self._names[key]
        self.entries[self._names[key]] = Entry(key, overrides)  # the newest words: the budget may have grown
        return self._names[key]

    def _may_have(self, name: str, key: str, overrides: list[str]) -> bool:
        if not _is_taken(self.sweep / name):  # it may be reserved; but as nothing was started, the same command may have it
            return name not in self.entries or self.entries[name].overrides == overrides
        if name in self.entries or not (self.sweep / name).is_dir():
            return False
        # what cannot be read may well be the run that is asked for: better none than twice
        return look(self.sweep / name).key in (key, None)

    def _like(self, wanted: str) -> str:
        number = 2
        if wanted.isdecimal():
            number = 1 + max(int(name) for name in (wanted, *self.entries, *self.runs) if name.isdecimal())
        name = str(number) if wanted.isdecimal() else f"{wanted}-{number}"
        while name in self.entries or _is_taken(self.sweep / name):
            number += 1
            name = str(number) if wanted.isdecimal() else f"{wanted}-{number}"
        return name

    def write(self) -> None:
        """Write members.json, unless it says this already."""
        self._refuse_folders_in_folders()
        if self.entries != self.written:
            text = json.dumps(
                {name: {"config_hash": entry.key, "overrides": entry.overrides} for name, entry in self.entries.items()},
                indent=1,
            )
            write_atomically(self.sweep / FILE, text + "\n")
            self.written = dict(self.entries)

    def _refuse_folders_in_folders(self) -> None:
        for name in self.entries:
            for above in Path(name).parents:
                if str(above) in self.entries:
                    raise ConfigError("hydra.sweep.subdir", f"{name} lies in the folder of another member, {above}")

    def tell(self) -> None:
        """Print what was wrong with the file."""
        if self.remarks:
            was = "was not right" if self.there else "was missing"
            print(f"pgx: {self.sweep / FILE} {was}: {'; '.join(self.remarks)}", file=sys.stderr)


def is_name(name: str) -> bool:
    """Whether a name may be a member's: a folder below the sweep's, and none of its hidden ones."""
    return name == os.path.normpath(name) and not any(not part or part[0] == "." for part in name.split("/"))


def order(name: str) -> tuple:
    """For sorting names: numbers as numbers."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in name.split("/"))


def look(folder: Path) -> Run:
    """The run in a folder, with nothing taken on trust."""
    try:
        summary = record.read_summary(folder)
        if summary is None:
            return Run(None)
        record.check_form(summary)
        wrong = [key for key in ("group", "error", "seed", "return_final", "width") if key not in summary]
        wrong += [key for key in BUDGET if key not in summary["config"]]
        wrong += [] if summary["config_hash"] == record.config_hash(summary["config"]) else ["config_hash"]
        owners = set(_owners_of_checkpoints(folder))
        wrong += [] if not owners or record.run_hash(summary["config"]) in owners else ["its checkpoints are another run's"]
    except Exception as error:  # whatever somebody has made of it
        return Run(None, f"run.json cannot be read: {one_line(error)}")
    return Run(None, f"run.json is damaged ({', '.join(wrong)})") if wrong else Run(summary)


def _owners_of_checkpoints(folder: Path) -> Iterator[str]:
    """Hashes of the runs that the checkpoints in a run folder say they are of; read without Orbax, which needs jax."""
    for file in folder.glob("checkpoints/*/meta/metadata"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # damaged, or of an older version
            yield json.loads(file.read_bytes())["origin"]["run"]


def _entry(content: Any) -> Entry | None:
    if not isinstance(content, dict):
        return None
    key, overrides = content.get("config_hash"), content.get("overrides")
    right = isinstance(key, str) and isinstance(overrides, list) and all(isinstance(x, str) for x in overrides)
    return Entry(key, overrides) if right else None


def overrides_of(folder: Path) -> list[str]:
    """The overrides that Hydra has noted for the run."""
    from omegaconf import OmegaConf

    with contextlib.suppress(Exception):  # they are for people only
        return [str(x) for x in OmegaConf.to_container(OmegaConf.load(folder / ".hydra/overrides.yaml"))]
    return []


def _runs_below(folder: Path, prefix: str = "") -> Iterator[str]:
    """The run folders in a sweep's. Not those of a sweep inside of it, and nothing hidden."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            path, name = Path(entry.path), prefix + entry.name
            if entry.name.startswith(".") or not entry.is_dir():
                continue
            if (path / "run.json").exists():
                yield name
            elif not entry.is_symlink() and not (path / FILE).exists():
                yield from _runs_below(path, f"{name}/")


def _is_taken(folder: Path) -> bool:
    return (folder / "run.json").exists() or (folder.exists() and not folder.is_dir())


@contextlib.contextmanager
def locked(sweep: Path) -> Iterator[None]:
    """Within this, no other command chooses folders here."""
    sweep.mkdir(parents=True, exist_ok=True)
    with open(sweep / LOCK, "a") as file:
        until = time.monotonic() + PATIENCE
        while not locks(file):
            if time.monotonic() > until:
                what = f"another command has been choosing its members in {sweep} for {PATIENCE:.0f} s"
                raise ConfigError("hydra.sweep.dir", what)
            time.sleep(0.05)
        yield


def locks(file: Any) -> bool:
    """Lock an open file, for this process alone; False if another one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        what = f"this file system has no locks ({error.strerror}): start one command at a time"
        print(f"pgx: {Path(file.name).parent}: {what}", file=sys.stderr)
    return True
