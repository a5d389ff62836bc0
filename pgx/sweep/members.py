"""The members of a sweep: composed, checked, and matched with the run folders that are there already.

A member is known by its configuration and not by Hydra's job number: the same command on the same sweep folder, with
more seeds or in another order, finds its runs again. members.json keeps which folder is whose.
"""

import json
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import filter_overrides
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from pgx import record
from pgx.config import BUDGET, OPERATIONAL, check
from pgx.files import write_atomically

FILE = "members.json"


class Member(NamedTuple):
    number: int
    """Hydra's job number."""
    overrides: list[str]
    """As the sweeper gave them."""
    hydra_config: DictConfig
    """The whole composed configuration, Hydra's part as well."""
    config: dict[str, Any]
    """Checked."""
    folder: Path
    before: dict[str, Any] | None
    """run.json, if the run was started earlier."""

    @property
    def task_overrides(self) -> list[str]:
        """Those that are not Hydra's own."""
        return list(filter_overrides(self.overrides))

    @property
    def finished(self) -> bool:
        return self.before is not None and not record.goes_on(self.before, self.config)


def members(loader: ConfigLoader, config: DictConfig, numbered: Iterable[tuple[int, Sequence[str]]]) -> list[Member]:
    """Compose and check every member, given as (job number, overrides), and find its folder in the sweep's.

    Raises ConfigError, before anything is written, if a member's configuration is wrong or its folder is another's.
    """
    sweep = Path(str(config.hydra.sweep.dir))
    folders = read(sweep)
    found = []
    for number, overrides in numbered:
        composed = _compose(loader, config, overrides, number)
        checked = check(OmegaConf.masked_copy(composed, [key for key in composed if key != "hydra"]))
        name = _name(record.config_hash(checked, without=BUDGET), _subdir(composed), folders, sweep)
        with read_write(composed.hydra.sweep):
            composed.hydra.sweep.subdir = name
        before = record.earlier_run(sweep / name, checked)
        found.append(Member(number, list(overrides), composed, checked, sweep / name, before))
    return found


def write(found: Sequence[Member]) -> None:
    """Make the sweep's folder and note there whose the members' folders are."""
    sweep = found[0].folder.parent
    sweep.mkdir(parents=True, exist_ok=True)
    entries = read(sweep)
    for member in found:
        key = record.config_hash(member.config, without=BUDGET)
        entries[member.folder.name] = {"config_hash": key, "overrides": member.task_overrides}
    write_atomically(sweep / FILE, json.dumps(entries, indent=1) + "\n")


def read(sweep: Path) -> dict[str, dict[str, Any]]:
    """Folder name → hash of the configuration (but the budget), overrides."""
    path = sweep / FILE
    return json.loads(path.read_text()) if path.exists() else {}


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
    composed = loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    return composed


def _subdir(composed: DictConfig) -> str:
    HydraConfig.instance().cfg = composed  # ${hydra:…} may be in it
    return str(composed.hydra.sweep.subdir)


def _name(key: str, wanted: str, folders: dict[str, dict[str, Any]], sweep: Path) -> str:
    """The folder that this configuration has, else `wanted`, else a name like it that nobody has."""
    known = next((name for name, entry in folders.items() if entry["config_hash"] == key), None)
    if known is not None:
        return known
    name, suffix = wanted, 2
    while name in folders or (sweep / name / "run.json").exists():
        numbers = [int(name) for name in folders if name.isdecimal()]
        name = str(max(numbers) + 1) if wanted.isdecimal() and numbers else f"{wanted}-{suffix}"
        suffix += 1
    folders[name] = {"config_hash": key}
    return name
