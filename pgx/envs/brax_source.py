"""brax's tasks, as its source tells of them: importing it would import jax."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pgx import parts
from pgx.errors import ConfigError, short
from pgx.rules import Rule, list_of, number, of_setting, whole

BACKENDS = ("generalized", "positional", "spring", "mjx")
INSTALL = "pip install 'brax==0.14.2' 'mujoco==3.17.0' 'mujoco-mjx==3.17.0'"
"""The extra `brax`, from wherever one is."""

BROKEN = {"swimmer": "brax 0.14.2 computes a fluid's forces by jp.clip(a_min=…), which this jax does not have any more"}
"""Tasks that do not work, and why."""
WITHOUT_PHYSICS = ("fast",)
"""Tasks that brax has for its own tests. What their constructors take makes observations that are no vectors."""


def check(env: dict[str, Any]) -> None:
    """Raise ConfigError unless brax is there and has this task, which takes these options."""
    if find_spec("brax") is None:
        raise ConfigError("env", "brax is not installed", hint=INSTALL)
    id, options = env["id"], env.get("options") or {}
    if id in BROKEN:
        raise ConfigError("env.id", f"{id} does not work: {BROKEN[id]}", ", ".join(working()))
    if id not in tasks():
        raise ConfigError("env.id", f"no task of brax {short(repr(id))}", known=working(), value=id)
    if id in WITHOUT_PHYSICS and env.get("backend") is not None:
        raise ConfigError("env.backend", f"{id} has no physics: nothing would heed it", "null")
    if env.get("max_steps", 1) is None:
        raise ConfigError("env.max_steps", "brax declares no time limit", "a whole number ≥ 1")
    known = settings(id)
    for name, value in options.items():
        where = f"env.options.{name}"
        if name not in known:
            raise ConfigError(where, f"nothing in {id} heeds it", known=known, value=name)
        try:
            options[name] = known[name].read(value)
        except ValueError:
            raise ConfigError(where, f"{short(repr(value))} is not allowed", known[name].allowed) from None


def working() -> list[str]:
    return [id for id in tasks() if id not in BROKEN]


@cache
def tasks() -> dict[str, str]:
    """id → its class."""
    root = find_spec("brax").submodule_search_locations[0]
    body = ast.parse(Path(root, "envs", "__init__.py").read_text(encoding="utf-8")).body
    registered = next(x.value for x in body if isinstance(x, ast.Assign) and ast.unparse(x.targets[0]) == "_envs")
    pairs = zip(registered.keys, registered.values, strict=True)
    return {key.value: f"brax.envs.{ast.unparse(name)}" for key, name in pairs}


@cache
def settings(id: str) -> dict[str, Rule]:
    """What a task's constructor takes and its dynamics heed: some settings are there for the sake of Gymnasium's names."""
    if id in WITHOUT_PHYSICS:
        return {}
    task = parts.find(tasks()[id]).node
    methods = [x for x in task.body if isinstance(x, ast.FunctionDef) and x.name != "__init__"]
    read = {x.attr for method in methods for x in ast.walk(method) if isinstance(x, ast.Attribute)}
    of_task = parts.signature(tasks()[id]).settings
    return {name: _rule(x) for name, x in of_task.items() if f"_{name}" in read and name != "backend"} | {"n_frames": whole(1)}


def _rule(setting: parts.Setting) -> Rule:
    if isinstance(setting.default, ast.Tuple):  # an interval
        return Rule("two numbers, [low,high]", _two_numbers)
    return of_setting(setting.annotation, setting.default)


def _two_numbers(x: Any) -> list[float]:
    low, high = list_of(number()).read(x)
    return [low, high]
