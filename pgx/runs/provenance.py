"""The provenance of a run: code, packages, machine, settings. run.json keeps it for every stretch of its updates."""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pgx import backend
from pgx.envs.checks import packages

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("jax", "jaxlib", "equinox", "optax", "gymnasium", "gymnax", "numpy", "orbax-checkpoint", "wandb")
CODE = ("*.py", "*.yaml", ":(exclude,glob)**/.hydra/**", ":(exclude,glob)**/multirun.yaml")
"""Of the repository: what a run could be made of, tracked or not, and none of what a run or a study leaves behind."""
HARMLESS = ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE", "JAX_LOGGING", "JAX_TRACEBACK", "JAX_LOG_")
"""Settings of jax's that begin so decide no bit, or are recorded as the device."""


def made_with(config: dict[str, Any], device: str) -> dict[str, Any]:
    """The provenance of this process, once the run's parts are built."""
    return repository() | {
        "own_code": own_code(config),
        "versions": versions(packages(config["env"])),
        "device": device,
        "matmul_precision": backend.PINNED["jax_default_matmul_precision"],
        "environment": environment(),
    }


@cache
def versions(more: tuple[str, ...] = ()) -> dict[str, str]:
    """Of the packages that every run is made with, and of those that its environment is made of."""
    return {name: metadata.version(name) for name in (*PACKAGES, *more)}


def stretches(before: dict[str, Any] | None, update: int, now: dict[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """(what every stretch of a run's updates was made with, what changes after `update`).

    `before` is its run.json until now; what was made after `update` is made again.
    """
    known = [] if before is None else before.get("made_with") or [{"from_update": 1} | _of_older_version(before, now)]
    kept = [stretch for stretch in known if stretch["from_update"] <= update]
    changes = _changes(kept[-1], now) if kept else []
    return (kept if kept and not changes else [*kept, {"from_update": update + 1} | now]), changes


def _of_older_version(summary: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The stretches of a run.json of an older version, which kept the newest only, and not all of it."""
    return {key: summary[key] for key in now if key in summary}


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What has changed, as `jax 0.7.0 → 0.7.1`, of the keys that both have."""
    changes = []
    for key in new.keys() & old.keys():
        pairs = {key: (old[key], new[key])}
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            pairs = {name: (old[key].get(name), new[key].get(name)) for name in old[key] | new[key]}
        changes += [f"{name} {_short(a)} → {_short(b)}" for name, (a, b) in pairs.items() if a != b]
    return sorted(changes)


def _short(x: Any) -> str:
    return x[:12] if isinstance(x, str) and len(x) in (16, 40) else "none" if x is None else str(x)


@cache  # of this process: what it has imported does not change
def repository(folder: Path = ROOT) -> dict[str, Any]:
    """The commit of the repository, and the sum of those files of its code that differ from it."""
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=all", "-z", "--", *CODE]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:  # no git on this machine
        done = None
    if done is None or done.returncode != 0:
        return {"git_commit": None, "git_dirty": None, "git_changes": None}
    lines = done.stdout.decode(errors="surrogateescape").split("\0")
    commit = next((line.split()[2] for line in lines if line.startswith("# branch.oid ")), None)
    changed = sorted(_paths(lines))
    return {
        "git_commit": None if commit == "(initial)" else commit,
        "git_dirty": bool(changed),
        "git_changes": _sum(folder / path for path in changed) if changed else None,
    }


def _paths(lines: Iterable[str]) -> Iterator[str]:
    """The paths that `git status --porcelain=v2 -z` names."""
    words_before = {"1": 8, "2": 9, "u": 10, "?": 1}
    lines = iter(lines)
    for line in lines:
        kind = line[:1]
        if kind in words_before:
            yield line.split(" ", words_before[kind])[-1]
        if kind == "2":  # renamed: its old name follows
            next(lines)


def own_code(config: dict[str, Any]) -> dict[str, str]:
    """Module → sum of its files, for code outside of this repository and of installed packages: what the configuration
    names, and what was imported from beside it. (Configuration files need no sum: run.json has what they said.)"""
    named = (sys.modules.get(name) for name in set(_modules(config)))
    places = tuple({f"{_place(module)}{os.sep}" for module in named if _is_own(module)})
    files: dict[str, set[Path]] = {}
    for name, module in list(sys.modules.items()) if places else ():
        if (getattr(module, "__file__", None) or "").startswith(places) and _is_own(module):
            files.setdefault(name.partition(".")[0], set()).add(Path(module.__file__))
    return {name: _sum(sorted(paths)) for name, paths in sorted(files.items())}


def _modules(config: dict[str, Any]) -> Iterator[str]:
    """The top-level modules that a configuration names: in a `_target_`, or before an environment's `:`."""
    for key, x in config.items():
        if isinstance(x, dict):
            yield from _modules(x)
        elif isinstance(x, str) and (key == "_target_" or (key == "id" and ":" in x)):
            yield x.partition(":")[0].partition(".")[0]


def _is_own(module: Any) -> bool:
    """Whether a module is a person's: none of this repository, of Python or of an installed package."""
    file = getattr(module, "__file__", None)
    if file is None:
        return False
    path = Path(file).resolve()
    return not any(path.is_relative_to(folder) for folder in _not_own()) and "site-packages" not in path.parts


@cache
def _not_own() -> list[Path]:
    return [ROOT, *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib"))]


def _place(module: Any) -> Path:
    """The folder from which a top-level module was imported."""
    file = Path(module.__file__)
    return file.parent.parent if file.name == "__init__.py" else file.parent


def environment() -> dict[str, str]:
    """The variables, as a person has set them, that jax and XLA read and that may decide bits."""
    variables = {name: x for name, x in os.environ.items() if name.startswith("JAX_") and not _is_ours(name)}
    flags = backend.persons_flags()
    return variables | ({"XLA_FLAGS": flags} if flags else {})


def _is_ours(name: str) -> bool:
    """Whether pgx sets this variable itself, so that a person's value does not matter."""
    return name.startswith(HARMLESS) or name.lower() in backend.PINNED


def _sum(paths: Iterable[Path]) -> str:
    """The sum of files, by name and content; a missing file has none."""
    contents = []
    for path in paths:
        try:
            contents.append((path.name, hashlib.sha256(path.read_bytes()).hexdigest()))
        except OSError:
            contents.append((path.name, None))
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]
