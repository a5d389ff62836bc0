"""What a person has declared on this machine, so that a run folder is data and no more.

A configuration decides by name what is called (`_target_`) and imported (`module:Name-v0`, an id of Gymnasium's). It may
be typed, or come from the run.json of a folder that somebody sent; the rule is the same. Names are good if they stand

- in a YAML file of conf/, or of a folder of the configuration that is named on *this* command line (`--config-dir`,
  `hydra.searchpath`) or in the variable PGX_CONFIG_DIR (several folders as in PATH), which puts it on the search path of
  every command;
- for modules also after `--import`, in PGX_IMPORT (several with commas), or in an id that was typed.

A folder names its own places, too (.hydra/hydra.yaml): they are repeated to the person, and never used.

What a folder that one evaluates, plays, diagnoses or resumes still decides:
- The arguments of what is declared, within the configuration's rules. To declare functools.partial, or another
  function that calls what it is given, gives this away.
- env.kwargs, which go to the environment's constructor: if that reads a file by its name, a folder can name the file.
- Where `resume` mirrors the run (tracker.*), and `play` its film: to which project and entity of W&B, with the person's
  own key. `play` does so offline, unless WANDB_MODE says otherwise; evaluate and diagnose make no tracker.
- Nothing of Hydra's own, no interpolation that reads this machine (`${oc.env:…}`), no path: what is written stays in the
  folder, and is not written through links.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pgx.errors import ConfigError

CONF = (Path(__file__).parent / "conf").resolve()
"""The settings: a link to conf/ of the repository, a folder where the package is installed."""
FOLDERS, MODULES = "PGX_CONFIG_DIR", "PGX_IMPORT"


class Undeclared(ConfigError):
    """A name that no person has declared here."""


class Declared(NamedTuple):
    """What this command line declares, beside conf/ and the two variables."""

    folders: tuple[Path, ...] = ()
    """Folders of the configuration."""
    modules: tuple[str, ...] | None = None
    """Those that an id may import. None: any, for a person has typed the id."""

    @property
    def all_folders(self) -> list[Path]:
        return list(dict.fromkeys([CONF, *declared_folders(), *self.folders]))

    def options(self, group: str) -> list[str]:
        """The files of a config group."""
        return sorted({path.stem for folder in self.all_folders for path in (folder / group).glob("*.yaml")})

    def has_option(self, group: str, option: str) -> bool:
        return any((folder / group / f"{option}.yaml").is_file() for folder in self.all_folders)

    def has_group(self, name: str) -> bool:
        return any((folder / name).is_dir() for folder in self.all_folders)

    def check(self, config: dict[str, Any]) -> None:
        """Raise ConfigError if a name in this configuration, at any depth, is not declared."""
        for path, key, x in _words_of_hydra(config):
            if key == "_target_":
                self._check_target(path, x)
            elif key != "_partial_":  # _args_, _recursive_, _convert_ and others to come
                raise ConfigError(path, "unknown key", "_target_, _partial_")
            elif type(x) is not bool:
                raise ConfigError(path, f"{x!r} is not allowed", "true or false")
        for path, x in _leaves(config):
            if isinstance(x, str) and "${" in x:
                raise ConfigError(path, f"{x!r} is not allowed", "a text without ${…}")
        for path, module in self.undeclared_modules(config):
            raise Undeclared(path, f"it imports {module!r}, which is not declared", hint="--import declares it")

    def knows_targets(self, config: dict[str, Any]) -> bool:
        return all(x in self._targets(_group(path)) for path, key, x in _words_of_hydra(config) if key == "_target_")

    def undeclared_modules(self, config: dict[str, Any]) -> list[tuple[str, str]]:
        """(path, module) of every id in this configuration that imports a module nobody has declared."""
        if self.modules is None:
            return []
        of_files = set().union(*(_scan(folder).modules for folder in self.all_folders))
        known = {*self.modules, *os.environ.get(MODULES, "").replace(" ", "").split(","), *of_files} - {""}
        return [
            (path, module)
            for path, module in _modules(config)
            if not any(module == name or module.startswith(f"{name}.") for name in known)
        ]

    def _check_target(self, path: str, target: Any) -> None:
        if not isinstance(target, str):
            raise ConfigError(path, f"{target!r} is not allowed", "a name")
        if target in self._targets(_group(path)):
            return
        _scan.cache_clear()  # its file may be new
        if target not in self._targets(_group(path)):
            allowed = set().union(*(_scan(folder).targets.get(_group(path), ()) for folder in self.all_folders))
            hint = "a part of one's own is declared by a YAML file in a folder that --config-dir names"
            raise Undeclared(path, f"{target!r} is not declared", ", ".join(sorted(allowed)) or None, hint)

    def _targets(self, group: str) -> set[str]:
        """The targets that may stand in this group. pgx's own parts stay in theirs; a person's may stand anywhere."""
        own, *others = (_scan(folder).targets for folder in self.all_folders)
        pgx = {name: targets for name, targets in own.items() if name}  # not those of conf/config.yaml: they are Hydra's
        return pgx.get(group, set().union(*pgx.values())).union(*(targets for other in others for targets in other.values()))


def declared_folders() -> list[Path]:
    """The folders of PGX_CONFIG_DIR. Raises ConfigError if one is not there."""
    folders = [Path(name).absolute() for name in os.environ.get(FOLDERS, "").split(os.pathsep) if name]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(FOLDERS, f"there is no folder {folder}")
    return folders


def on_search_path(hydra: Any, modules: tuple[str, ...] | None = None) -> Declared:
    """What Hydra's search path declares, from Hydra's part of a composed configuration."""
    sources = ((source.path, source.schema) for source in hydra.runtime.config_sources if source.provider != "hydra")
    folders = (folder_of(f"{schema}://{path}") for path, schema in sources)
    return Declared(tuple(Path(hydra.runtime.cwd, folder) for folder in folders if folder is not None), modules)


def folder_of(source: str) -> Path | None:
    """The folder of an entry of the search path, if there is one: `file://DIR`, `DIR`, `pkg://PACKAGE`."""
    scheme, _, rest = source.rpartition("://")
    if scheme == "pkg":
        with contextlib.suppress(ImportError, AttributeError, TypeError):  # no package: Hydra says so
            return Path(find_spec(rest.replace("/", ".")).submodule_search_locations[0])
        return None
    return Path(rest) if scheme in ("", "file") else None


class _Scan(NamedTuple):
    targets: dict[str, set[str]]
    """Config group → every `_target_` in its files."""
    modules: set[str]
    """The modules that ids in its files import."""


_TARGET = re.compile(r"""\b_target_["']?\s*:\s*["']?([\w.]+)""")
_ID = re.compile(r"""\bid["']?\s*:\s*["']?([\w.]+):\w""")
_COMMENT = re.compile(r"(?:^|(?<=\s))#.*", re.MULTILINE)
_RESULTS = {"run.json", "members.json", "multirun.yaml"}
"""Files of runs and sweeps: what lies beside or below them is data, also where such a folder holds them."""


@cache
def _scan(folder: Path) -> _Scan:
    """What the YAML files of a folder declare, read as text: a millisecond for conf/."""
    targets: dict[str, set[str]] = {}
    modules: set[str] = set()
    for path, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        if _RESULTS & set(files):
            subfolders.clear()
            continue
        for file in (Path(path, name) for name in files if name.endswith(".yaml")):
            try:
                text = _COMMENT.sub("", file.read_text(encoding="utf-8", errors="replace"))
            except OSError:
                continue  # Hydra says so if it is chosen
            group = file.parent.name if file.parent != folder else ""
            targets.setdefault(group, set()).update(_TARGET.findall(text))
            modules.update(_ID.findall(text))
    return _Scan(targets, modules)


def _group(path: str) -> str:
    """The config group that fills the place of this `_target_`: `optimiser` for critic.optimiser._target_."""
    return path.split(".")[-2] if "." in path else ""


def _nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path with a dot after it, dictionary) of every dictionary, those in lists too."""
    if isinstance(node, dict):
        yield path, node
        for key, x in node.items():
            yield from _nodes(x, f"{path}{key}.")
    elif isinstance(node, list):
        for x in node:
            yield from _nodes(x, path)


def _leaves(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(path, value) of everything that is no dictionary; a list's values one by one."""
    for path, node in _nodes(config):
        for key, x in node.items():
            for value in _flat(x):
                yield f"{path}{key}", value


def _flat(x: Any) -> Iterable[Any]:
    if isinstance(x, list):
        return [value for inner in x for value in _flat(inner)]
    return [] if isinstance(x, dict) else [x]


def _words_of_hydra(config: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """(path, key, value) of every key that says what is called, and how."""
    return [
        (f"{path}{key}", key, x) for path, node in _nodes(config) for key, x in node.items() if re.fullmatch(r"_\w*_", str(key))
    ]


def _modules(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(path, module) of every id, and of every text for an environment that looks like one."""
    for path, x in _leaves(config):
        if isinstance(x, str) and path.split(".")[-1] == "id" and ":" in x:
            yield path, x.split(":")[0]
        elif isinstance(x, str) and path.startswith("env.") and (match := re.match(r"([A-Za-z_][\w.]*):\w", x)):
            yield path, match[1]
