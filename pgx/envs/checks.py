"""Environments: what can be asked of them before anything heavy is imported."""

import ast
import math
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from pgx import parts
from pgx.envs import brax_source, playground_source
from pgx.envs.quiet import mujoco_to_log
from pgx.errors import ConfigError, one_line

GYMNAX = {
    "CartPole-v1": ("classic_control.cartpole", "CartPole"),
    "Acrobot-v1": ("classic_control.acrobot", "Acrobot"),
    "MountainCar-v0": ("classic_control.mountain_car", "MountainCar"),
    "Catch-bsuite": ("bsuite.catch", "Catch"),
    "Pendulum-v1": ("classic_control.pendulum", "Pendulum"),
    "MountainCarContinuous-v0": ("classic_control.continuous_mountain_car", "ContinuousMountainCar"),
    "Reacher-misc": ("misc.reacher", "Reacher"),
    "Swimmer-misc": ("misc.swimmer", "Swimmer"),
    "PointRobot-misc": ("misc.point_robot", "PointRobot"),
}
"""id → where gymnax keeps it."""

CONTINUOUS = ("Pendulum-v1", "MountainCarContinuous-v0", "Reacher-misc", "Swimmer-misc", "PointRobot-misc")
"""Those of them whose actions are a box."""


class Known(NamedTuple):
    """What is known of an environment before it is made."""

    reward_threshold: float | None
    continuous: bool | None = None
    """Whether its actions are real numbers; None of an environment of one's own."""
    symbols: str | None = None
    """The part of its observations that are no numbers but names of them, one-hot; None where there is none."""
    max_steps: int | None = None
    """The time limit, of one of Gymnasium's."""


_PACKAGES = {
    "mujoco": "gymnasium[mujoco]' 'mujoco==3.17.0",
    "ALE": "ale-py",
    "Box2D": "gymnasium[box2d]",
    "box2d": "gymnasium[box2d]",
}

_DERIVED = {
    "CartPole-v1": {
        "total_mass": (("masscart", "masspole"), lambda cart, pole: cart + pole),
        "polemass_length": (("masspole", "length"), lambda pole, length: pole * length),
    },
}
"""Parameters that gymnax's equations read in the place of others: what they are made of, and how."""


def on_host(env: dict[str, Any]) -> bool:
    """Whether the environment runs in Python; the others compile."""
    return parts.derives(env["_target_"], "pgx.envs.base.HostEnv")


def check(env: dict[str, Any]) -> Known:
    """Raise ConfigError unless the environment exists, can be made and has spaces that we know.

    Parameters that follow from those that are given are filled in.
    """
    target = env["_target_"]
    if on_host(env) and "num_lanes" not in env:
        hint = "an environment on the host is made with a number of lanes"
        raise ConfigError("env.num_lanes", "the chosen env does not say it", hint=hint)
    if not on_host(env) and not parts.derives(target, "pgx.envs.base.JittedEnv"):
        allowed = "what derives from HostEnv or JittedEnv (pgx.envs.base)"
        raise ConfigError("env._target_", f"{target} is no environment", allowed)
    if parts.derives(target, "pgx.envs.gymnax.GymnaxEnv"):
        if env["id"] not in GYMNAX:
            hint = "other environments run on the host: env=gymnasium env.id=…"
            raise ConfigError("env.id", f"no compiled environment {env['id']!r}", known=GYMNAX, value=env["id"], hint=hint)
        _check_params(env["id"], env["params"])
        env["params"] = complete(env["id"], env["params"])
        continuous = env["id"] in CONTINUOUS
        _check_bound(env, finite=True if continuous else None)
        return Known(env["reward_threshold"], continuous)
    if parts.derives(target, "pgx.envs.playground.PlaygroundEnv"):
        playground_source.check(env["id"], env["options"])
        return Known(env["reward_threshold"], continuous=True)
    if parts.derives(target, "pgx.envs.gymnasium.GymnasiumEnv"):
        declared, finite, symbols = _check_gymnasium(env["id"], env["max_steps"], env["kwargs"])
        _check_bound(env, finite)
        threshold = declared.reward_threshold if env["reward_threshold"] is None else env["reward_threshold"]
        limit = env["max_steps"] or declared.max_episode_steps
        return Known(threshold, finite is not None, symbols, limit)
    if parts.derives(target, "pgx.envs.brax.BraxEnv"):
        brax_source.check(env)
        return Known(env["reward_threshold"], continuous=True)
    return Known(env["reward_threshold"])


def _check_bound(env: dict[str, Any], finite: bool | None) -> None:
    """`finite`: whether both ends of every action are; None if there is nothing to bound."""
    bound = env.get("bound", "clip")
    if finite is None and bound != "clip":
        raise ConfigError("env.bound", f"{env['id']} has discrete actions: there is nothing to bound", hint="leave it out")
    if finite is False and bound == "tanh":
        raise ConfigError("env.bound", f"tanh needs finite ends, which the actions of {env['id']} do not have", "clip | none")


def parameters(id: str) -> list[str]:
    """What can be set of a gymnax environment, and makes a difference."""
    sources = {part for made_of, _ in _DERIVED.get(id, {}).values() for part in made_of}
    fields, read = _gymnax_source(id)
    return [name for name, default in fields.items() if default is not None and (name in read or name in sources)]


def complete(id: str, params: dict[str, float]) -> dict[str, float]:
    """`params`, and what follows from them: gymnax keeps sums and products of parameters as parameters of their own."""
    fields = _gymnax_source(id)[0]
    completed = dict(params)
    for name, (made_of, formula) in _DERIVED.get(id, {}).items():
        if name not in params and any(part in params for part in made_of):
            completed[name] = formula(*(params.get(part, fields[part]) for part in made_of))
    return completed


def _check_params(id: str, params: dict[str, float]) -> None:
    known, fields = parameters(id), _gymnax_source(id)[0]
    for name in params:
        where = f"env.params.{name}"
        if name in fields and name not in known:
            why = "it is no number" if fields[name] is None else "the environment reads it nowhere"
            raise ConfigError(where, f"cannot be set: {why}", ", ".join(known))
        if name not in known:
            raise ConfigError(where, "unknown key", known=known, value=name)
    for name, (made_of, formula) in _DERIVED.get(id, {}).items():
        unheard = [part for part in made_of if part in params and part not in _gymnax_source(id)[1]]
        value = formula(*(params.get(part, fields[part]) for part in made_of))
        if name in params and unheard and not math.isclose(params[name], value, rel_tol=1e-6):
            problem = f"would do nothing: {name} is {params[name]:g}, and with it {value:g}"
            raise ConfigError(f"env.params.{unheard[0]}", problem, hint="leave one of them out")


@cache
def _gymnax_source(id: str) -> tuple[dict[str, float | None], set[str]]:
    """(name → default of the fields of its EnvParams, None if that is no number; names that its dynamics read).

    From gymnax's source: importing it would import jax.
    """
    root, (module, _) = find_spec("gymnax").submodule_search_locations[0], GYMNAX[id]
    tree = ast.parse(Path(root, "environments", *module.split(".")).with_suffix(".py").read_text())
    params = next(x for x in tree.body if isinstance(x, ast.ClassDef) and x.name == "EnvParams")
    fields = {field.target.id: _default(field) for field in params.body if isinstance(field, ast.AnnAssign)}
    functions = [x for x in ast.walk(tree) if isinstance(x, ast.FunctionDef) and not x.name.endswith("_space")]
    attributes = [x for function in functions for x in ast.walk(function) if isinstance(x, ast.Attribute)]
    read = {x.attr for x in attributes if isinstance(x.value, ast.Name) and x.value.id == "params"}
    return fields, read | {"max_steps_in_episode"}  # which is ours to read


def _default(field: ast.AnnAssign) -> float | None:
    """NaN where it is not simply written down."""
    if not (isinstance(field.annotation, ast.Name) and field.annotation.id in ("float", "int")):
        return None
    return field.value.value if isinstance(field.value, ast.Constant) else math.nan


def _check_gymnasium(id: str, max_steps: int | None, kwargs: dict[str, Any]) -> tuple[Any, bool | None, str | None]:
    """(what Gymnasium declares of it; whether its actions have finite ends, None of discrete ones; see Known.symbols)."""
    import gymnasium

    try:
        tell_mujoco_where(id)
        env = gymnasium.make(id, **kwargs)  # of `module:Name-v0` it imports the module, which registers the environment
        declared = gymnasium.spec(id.rpartition(":")[2])
    except ModuleNotFoundError as error:
        if error.name:
            raise _missing(id, error.name) from error
        # it is the one before the colon that is missing
        raise ConfigError("env.id", f"{id} cannot be made: {one_line(error)}") from error
    except gymnasium.error.NamespaceNotFound as error:
        raise _missing(id, id.split("/")[0]) from error
    except gymnasium.error.DependencyNotInstalled as error:
        module = getattr(error.__cause__, "name", None)
        raise _missing(id, module) if module else ConfigError("env.id", f"{id} cannot be made", hint=str(error)) from error
    except Exception as error:  # an environment's own constructor may raise anything
        if isinstance(error, gymnasium.error.Error) and id not in gymnasium.registry and ":" not in id:
            names = {known.rpartition("-v")[0] or known: known for known in gymnasium.registry}
            near = get_close_matches(id.rpartition("-v")[0] or id, names, n=1)  # all versions are alike
            hint = near and f"did you mean {names[near[0]]!r}?"
            raise ConfigError("env.id", f"no Gymnasium environment {id!r}", hint=hint) from error
        raise ConfigError("env.id", f"{id} cannot be made: {one_line(error)}") from error
    actions, observations = env.action_space, env.observation_space
    env.close()
    finite = _ends_are_finite(id, actions)
    if not getattr(observations, "is_np_flattenable", False):
        raise ConfigError("env.id", f"{id} has the observations {observations}", "what flattens to a vector of one size")
    if (max_steps or declared.max_episode_steps) is None:
        raise ConfigError("env.max_steps", f"{id} declares no time limit", "a whole number ≥ 1")
    symbols = [str(part).splitlines()[0] for part in _leaves(observations) if not isinstance(part, gymnasium.spaces.Box)]
    return declared, finite, next(iter(symbols), None)


def _leaves(space: Any) -> Iterator[Any]:
    """Of a Tuple or a Dict, at any depth; of any other space itself."""
    inside = getattr(space, "spaces", None)
    if inside is None:
        yield space
        return
    for part in inside.values() if hasattr(inside, "values") else inside:
        yield from _leaves(part)


def tell_mujoco_where(id: str) -> None:
    """… to put its warnings, if the environment is one of MuJoCo's."""
    if _of_mujoco(id) and find_spec("mujoco"):
        mujoco_to_log()


def packages(env: dict[str, Any]) -> tuple[str, ...]:
    """The distributions, beside those of every run, whose versions decide what this environment does."""
    of_gymnasium = parts.derives(env["_target_"], "pgx.envs.gymnasium.GymnasiumEnv")
    return ("mujoco",) if of_gymnasium and _of_mujoco(env["id"]) else parts.declared(env["_target_"], "packages", ())


def _of_mujoco(id: str) -> bool:
    import gymnasium

    declared = gymnasium.registry.get(id)
    return declared is not None and "mujoco" in str(declared.entry_point)


def _ends_are_finite(id: str, actions: Any) -> bool | None:
    """Of a box of real numbers; None of discrete actions. Raises ConfigError of any other."""
    import gymnasium
    import numpy as np

    if isinstance(actions, gymnasium.spaces.Discrete):
        return None
    if not isinstance(actions, gymnasium.spaces.Box) or actions.dtype.kind != "f" or not math.prod(actions.shape):
        raise ConfigError(
            "env.id", f"{id} has the actions {str(actions).splitlines()[0]}", "Discrete, or a Box of real numbers"
        )
    return bool(np.isfinite(actions.low).all() and np.isfinite(actions.high).all())


def _missing(id: str, module: str) -> ConfigError:
    return ConfigError(
        "env.id", f"{id} needs a package that is not installed", hint=f"pip install '{_PACKAGES.get(module, module)}'"
    )
