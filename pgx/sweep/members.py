"""The members of a sweep: composed, checked, and matched with the run folders that are there already.

A member is known by its configuration and not by Hydra's job number: the same command on the same sweep folder, with
more seeds or in another order, finds its runs again.
"""

import contextlib
import os
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import filter_overrides
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from pgx.config import check
from pgx.declared import on_search_path
from pgx.errors import ConfigError
from pgx.identity import BUDGET, OPERATIONAL
from pgx.runs import record
from pgx.sweep import index


class Member(NamedTuple):
    number: int
    """Hydra's job number."""
    overrides: list[str]
    """As given by the sweeper."""
    hydra_config: DictConfig
    """The whole composed configuration, Hydra's part as well."""
    config: dict[str, Any]
    """Checked."""
    sweep: Path
    """The sweep's folder."""
    name: str
    """The path of its own folder, below the sweep's: what hydra.sweep.subdir says, unless that is another member's."""
    before: dict[str, Any] | None = None
    """run.json, if the run was started earlier."""
    broken: str | None = None
    """Why the run that is there cannot be resumed."""

    @property
    def folder(self) -> Path:
        return self.sweep / self.name

    @property
    def task_overrides(self) -> list[str]:
        """The overrides that are not Hydra's own."""
        return list(filter_overrides(self.overrides))

    @property
    def key(self) -> str:
        """The hash of its configuration, but for the budget."""
        return record.run_hash(self.config)

    @property
    def finished(self) -> bool:
        return self.before is not None and not record.needs_more(self.before, self.config)


def composed(loader: ConfigLoader, config: DictConfig, numbered: Iterable[tuple[int, Sequence[str]]]) -> list[Member]:
    """Compose and check every member, given as (job number, overrides).

    Raises ConfigError if a member's configuration is wrong, or the folder that it wants.
    """
    sweep = Path(str(config.hydra.sweep.dir))
    members = []
    for number, overrides in numbered:
        whole = _compose(loader, config, overrides, number)
        task = OmegaConf.masked_copy(whole, [key for key in whole if key != "hydra"])
        checked = check(task, on_search_path(whole.hydra))
        members.append(Member(number, list(overrides), whole, checked, sweep, _wanted(whole, sweep)))
    return members


def distinct(members: Sequence[Member], asked: dict[str, dict[str, Any]]) -> None:
    """Raise ConfigError if two members are one run, but cannot both be as they are asked for. `asked`: key → config of
    those that the command has asked for so far; these are added."""
    for member in members:
        one, other = asked.setdefault(member.key, member.config), member.config
        for key in (*BUDGET, *OPERATIONAL):
            if one[key] != other[key]:
                values = " and ".join(str(x["_target_"] if isinstance(x, dict) else x) for x in (one[key], other[key]))
                what = f"{values} for members that are alike in all else, and so one run"
                hint = "the larger budget's run has the smaller one's rows" if key in BUDGET else "it changes no result"
                raise ConfigError(key, what, "one value in a sweep", hint)


def placed(members: Sequence[Member], *, write: bool = True) -> list[Member]:
    """The members in their folders, which are written down, unless not to `write`.

    Raises ConfigError, before anything is written, if the run in a member's folder had a larger budget.
    """
    with index.locked(members[0].sweep) if write else contextlib.nullcontext():
        entries = index.Index(members[0].sweep)
        names = [entries.choose(member.key, member.name, member.task_overrides) for member in members]
        there = [at(member, name) for member, name in zip(members, names, strict=True)]
        if write:
            entries.write()
    entries.tell()
    return there


def at(member: Member, name: str) -> Member:
    """The member in the folder of this name, with what is there."""
    hydra = member.hydra_config.hydra
    with read_write(hydra.sweep):
        hydra.sweep.subdir = name
    there = member._replace(name=name)
    run = index.look(there.folder)
    if run.problem is not None:
        return there._replace(broken=run.problem)
    there = there._replace(before=record.earlier_run(there.folder, there.config))
    if there.finished or there.folder.resolve().is_relative_to(there.sweep.resolve()):
        return there
    return there._replace(broken="its folder is a link that leads out of the sweep's")


def program(config: dict[str, Any]) -> Hashable:
    """What two members must share to share a compiled program: everything but floats, which are its inputs, and the
    whole numbers that are inputs, too."""
    inputs = ("seed", "diagnose_every", *BUDGET, *(key for key in OPERATIONAL if key != "updates_per_chunk"))
    # the one float that is a part of the program: of what an environment says of itself
    return _shape({key: x for key, x in config.items() if key not in inputs}), config["env"]["reward_threshold"]


def _shape(node: Any) -> Hashable:
    if isinstance(node, dict):
        return tuple((key, _shape(x)) for key, x in sorted(node.items()))
    return float if isinstance(node, float) else repr(node)


def _compose(loader: ConfigLoader, config: DictConfig, overrides: Sequence[str], number: int) -> DictConfig:
    whole = loader.load_sweep_config(config, list(overrides))
    with open_dict(whole):
        whole.hydra.job.id = whole.hydra.job.num = number
    return whole


def _wanted(whole: DictConfig, sweep: Path) -> str:
    """The folder that hydra.sweep.subdir asks for, as a path below the sweep's. Raises ConfigError if it cannot be had."""
    HydraConfig.instance().cfg = whole  # ${hydra:…} may be in it
    if str(whole.hydra.sweep.dir) != str(sweep):
        raise ConfigError(
            "hydra.sweep.dir", f"{whole.hydra.sweep.dir} for one member, {sweep} for the sweep",
            "one folder", "hydra.sweep.subdir may differ from member to member",
        )  # fmt: skip
    asked = str(whole.hydra.sweep.subdir)
    name = os.path.normpath(asked)
    if os.path.isabs(name) or not index.is_name(name):
        raise ConfigError("hydra.sweep.subdir", f"{asked!r} is not allowed", "a folder below hydra.sweep.dir, not a hidden one")
    if any(len(os.fsencode(part)) > 255 for part in name.split("/")) or len(os.fsencode((sweep / name).absolute())) > 3900:
        what = f"{asked[:40]}… is too long for a folder's name, {len(os.fsencode(asked))} bytes"
        raise ConfigError("hydra.sweep.subdir", what, "255 bytes", "${hydra.job.num} is short")
    return name
