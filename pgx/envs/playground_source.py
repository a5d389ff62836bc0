"""What MuJoCo Playground has, read from its source: importing it would import jax.

Its tasks are in three suites. Each has a configuration of its own: numbers, switches and lists, in groups.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pgx import parts
from pgx.errors import ConfigError
from pgx.rules import ANYTHING, TEXT, YES_OR_NO, Rule, list_of, number, whole

INSTALL = "pip install 'playground==0.2.0' 'mujoco==3.17.0' 'mujoco-mjx==3.17.0'"
IMPLEMENTATION = {"impl": "jax"}
"""Of MJX's two. The other is NVIDIA's Warp, which does not give the same numbers twice."""
_OF_WARP = ("impl", "naconmax", "naccdmax", "njmax", "vision", "vision_config")
"""What only Warp reads: the sizes of its buffers, and its pictures."""
_SUITES = ("dm_control_suite", "locomotion", "manipulation")
_RULES = {
    "ctrl_dt": number(0, above=True),
    "sim_dt": number(0, above=True),
    "episode_length": whole(1),
    "action_repeat": whole(1),
}
_KINDS = {bool: YES_OR_NO, int: Rule("a whole number", whole(-(2**31)).read), float: number(), str: TEXT}


def check(id: str, options: dict[str, Any]) -> dict[str, Any]:
    """Dotted key → value of `options`, each of its type. Raises ConfigError unless the task exists, can be made and has
    them."""
    if not _installed():
        raise ConfigError("env", "MuJoCo Playground is not installed", hint=INSTALL)
    if id not in suites():
        hint = ", ".join(name for name, suite in suites().items() if suite == _SUITES[0])
        raise ConfigError("env.id", f"MuJoCo Playground has no task {id!r}", known=suites(), value=id, hint=hint)
    if suites()[id] != _SUITES[0]:
        _check_robots(id)
    chosen = {key: _read(id, key, value) for key, value in flat(options)}
    action, step = (chosen.get(key, defaults(id)[key]) for key in ("ctrl_dt", "sim_dt"))
    if abs(action / step - max(1, round(action / step))) > 1e-3:
        problem = f"{action:g}, with sim_dt={step:g}: an action holds for {action / step:.4g} steps of the simulation"
        raise ConfigError("env.options.ctrl_dt", problem, "a multiple of sim_dt")
    return chosen


@cache
def suites() -> dict[str, str]:
    """Task → its suite."""
    return {key.value: suite for suite in _SUITES for key in _assigned(f"{suite}/__init__.py", "_envs").keys}


@cache
def defaults(id: str) -> dict[str, Any]:
    """Dotted key → value of the task's own configuration; None where it is not simply written down."""
    suite = suites()[id]
    table = _assigned(f"{suite}/__init__.py", "_cfgs")
    function = next(ast.unparse(value) for key, value in zip(table.keys, table.values, strict=True) if key.value == id)
    return dict(_settings(parts.find(f"mujoco_playground._src.{suite}.{function}")))


def flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every value."""
    for key, x in options.items():
        if isinstance(x, dict):
            yield from flat(x, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", x


def _read(id: str, key: str, value: Any) -> Any:
    where, known = f"env.options.{key}", defaults(id)
    if key.partition(".")[0] in _OF_WARP:
        raise ConfigError(where, "cannot be set: it is for NVIDIA's Warp, and MJX runs on jax here")
    if key not in known:
        settable = [name for name in known if name.partition(".")[0] not in _OF_WARP]
        raise ConfigError(where, f"{id} has no such option", ", ".join(settable), known=settable, value=key)
    rule = _RULES.get(key, _like(known[key]))
    try:
        return rule.read(value)
    except ValueError:
        raise ConfigError(where, f"{value!r} is not allowed", rule.allowed) from None


def _like(value: Any) -> Rule:
    """What is of the same kind."""
    if isinstance(value, list | tuple):
        return list_of(_like(value[0])) if value else ANYTHING
    return _KINDS.get(type(value), ANYTHING)


def _check_robots(id: str) -> None:
    """Playground itself would download the repository, unasked."""
    folder = Path(_root(), "external_deps", "mujoco_menagerie")
    if not folder.is_dir():
        commit = _assigned("mjx_env.py", "MENAGERIE_COMMIT_SHA").value
        hint = f"git clone https://github.com/google-deepmind/mujoco_menagerie {folder} && git -C {folder} checkout {commit}"
        raise ConfigError("env.id", f"{id} needs the robots of mujoco_menagerie, which are not there", hint=hint)


def _settings(source: parts.Source, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Those of a `config_dict.create(…)`, the first in a function's body; groups of them may be functions of their own."""
    calls = (x for x in ast.walk(source.node) if isinstance(x, ast.Call) and ast.unparse(x.func) == "config_dict.create")
    for keyword in next(calls).keywords:
        key, value = f"{prefix}{keyword.arg}", keyword.value
        if not isinstance(value, ast.Call):
            yield key, _literal(value)
        elif ast.unparse(value.func) == "config_dict.create":
            yield from _settings(source._replace(node=value), f"{key}.")
        elif (function := parts.find(f"{source.module}.{ast.unparse(value.func)}")) is not None:
            yield from _settings(function, f"{key}.")


def _literal(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except ValueError:
        return None


def _installed() -> bool:
    """With MJX, which is looked for without importing mujoco."""
    mujoco = find_spec("mujoco")
    places = mujoco.submodule_search_locations if mujoco else []
    return find_spec("mujoco_playground") is not None and any(Path(place, "mjx").is_dir() for place in places)


def _root() -> str:
    return find_spec("mujoco_playground").submodule_search_locations[0]


def _assigned(file: str, name: str) -> ast.expr:
    """The value of a name at the top of one of Playground's files."""
    tree = ast.parse(Path(_root(), "_src", file).read_text(encoding="utf-8"))
    return next(x.value for x in tree.body if isinstance(x, ast.Assign) and ast.unparse(x.targets[0]) == name)
