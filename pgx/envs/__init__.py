"""Environments: what can be asked of them before anything heavy is imported."""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pgx.errors import ConfigError

GYMNAX = {
    "CartPole-v1": ("classic_control.cartpole", "CartPole"),
    "Acrobot-v1": ("classic_control.acrobot", "Acrobot"),
    "MountainCar-v0": ("classic_control.mountain_car", "MountainCar"),
    "Catch-bsuite": ("bsuite.catch", "Catch"),
}
"""id → where gymnax keeps it."""

_PACKAGES = {"ALE": "ale-py", "Box2D": "gymnasium[box2d]", "box2d": "gymnasium[box2d]", "mujoco": "gymnasium[mujoco]"}


def on_host(env: dict[str, Any]) -> bool:
    """Whether the environment runs in Python; the others compile."""
    return env["_target_"] == "pgx.envs.gymnasium.GymnasiumEnv"


def check(env: dict[str, Any]) -> float | None:
    """Raise ConfigError unless the environment exists, can be made and has discrete actions; its reward threshold."""
    if env["_target_"] == "pgx.envs.gymnax.GymnaxEnv":
        if env["id"] not in GYMNAX:
            hint = "other environments run on the host: env=gymnasium env.id=…"
            raise ConfigError("env.id", f"no compiled environment {env['id']!r}", known=GYMNAX, value=env["id"], hint=hint)
        known = _gymnax_parameters(env["id"])
        for name in env["params"]:
            if name not in known:
                raise ConfigError(f"env.params.{name}", "unknown key", known=known, value=name)
    elif on_host(env):
        declared = _check_gymnasium(env["id"], env["max_steps"], env["kwargs"])
        return declared.reward_threshold if env["reward_threshold"] is None else env["reward_threshold"]
    return env["reward_threshold"]


@cache
def _gymnax_parameters(id: str) -> list[str]:
    """The fields of its EnvParams, read from gymnax's source: importing it would import jax."""
    root, (module, _) = find_spec("gymnax").submodule_search_locations[0], GYMNAX[id]
    source = Path(root, "environments", *module.split(".")).with_suffix(".py").read_text()
    params = next(x for x in ast.parse(source).body if isinstance(x, ast.ClassDef) and x.name == "EnvParams")
    return [field.target.id for field in params.body if isinstance(field, ast.AnnAssign)]


def _check_gymnasium(id: str, max_steps: int | None, kwargs: dict[str, Any]):
    import gymnasium

    try:
        env = gymnasium.make(id, **kwargs)  # of `module:Name-v0` it imports the module, which registers the environment
        declared = gymnasium.spec(id.rpartition(":")[2])
    except ModuleNotFoundError as error:
        cannot = ConfigError("env.id", f"{id} cannot be made: {error}")  # it is the one before the colon that is missing
        raise (_missing(id, error.name) if error.name else cannot) from error
    except gymnasium.error.NamespaceNotFound as error:
        raise _missing(id, id.split("/")[0]) from error
    except gymnasium.error.DependencyNotInstalled as error:
        module = getattr(error.__cause__, "name", None)
        raise _missing(id, module) if module else ConfigError("env.id", f"{id} cannot be made", hint=str(error)) from error
    except Exception as error:  # an environment's own constructor may raise anything
        if isinstance(error, gymnasium.error.Error) and id not in gymnasium.registry and ":" not in id:
            raise ConfigError("env.id", f"no Gymnasium environment {id!r}", known=gymnasium.registry, value=id) from error
        raise ConfigError("env.id", f"{id} cannot be made: {error}") from error
    space = env.action_space
    env.close()
    if not isinstance(space, gymnasium.spaces.Discrete):
        raise ConfigError("env.id", f"{id} has the actions {space}", "discrete actions: the policy is categorical")
    if (max_steps or declared.max_episode_steps) is None:
        raise ConfigError("env.max_steps", f"{id} declares no time limit", "a whole number ≥ 1")
    return declared


def _missing(id: str, module: str) -> ConfigError:
    return ConfigError("env.id", f"{id} needs a package that is not installed", hint=f"pip install '{_PACKAGES.get(module, module)}'")
