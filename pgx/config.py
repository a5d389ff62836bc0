"""The configuration's rules, checked before anything heavy is imported and before a folder exists.

A value that breaks a rule gives one line: what is wrong, where, what is allowed, and a hint.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pgx.errors import ConfigError

CONF = Path(__file__).resolve().parent.parent / "conf"


class Rule(NamedTuple):
    """`read` returns the value as the program wants it, or raises ValueError."""

    allowed: str
    read: Callable[[Any], Any]


def whole(low: int, high: int | None = None, *, or_null: bool = False) -> Rule:
    def read(x):
        if or_null and x is None:
            return None
        if isinstance(x, float) and x.is_integer():
            x = int(x)  # 1e6 on the command line is a float
        if type(x) is not int or x < low or (high is not None and x > high):
            raise ValueError
        return x

    span = f"a whole number ≥ {low}" if high is None else f"a whole number from {low} to {high}"
    return Rule(span + (" or null" if or_null else ""), read)


def number(low: float = -math.inf, high: float = math.inf, *, above: bool = False, or_null: bool = False) -> Rule:
    def read(x):
        if or_null and x is None:
            return None
        if type(x) not in (int, float) or not (low < x if above else low <= x) or not x <= high or math.isinf(x):
            raise ValueError
        return float(x)

    if high < math.inf:
        span = f"a number in [{low:g}, {high:g}]"
    elif low > -math.inf:
        span = f"a number {'>' if above else '≥'} {low:g}"
    else:
        span = "a number"
    return Rule(span + (" or null" if or_null else ""), read)


def one_of(*choices: str) -> Rule:
    def read(x):
        if x not in choices:
            raise ValueError
        return x

    return Rule(" | ".join(choices), read)


def _yes_or_no(x):
    if type(x) is not bool:
        raise ValueError
    return x


def _text(x):
    if type(x) is not str or not x:
        raise ValueError
    return x


YES_OR_NO = Rule("true or false", _yes_or_no)
TEXT = Rule("a name", _text)
ANYTHING = Rule("anything", lambda x: x)
_NETWORK = {"width": whole(1), "depth": whole(0), "activation": one_of("relu", "tanh", "gelu", "silu", "elu")}
_OPTIMISER = {
    "method": one_of("adam", "adamw", "sgd", "rmsprop"),
    "learning_rate": number(0, above=True),
    "b1": number(0, 1),
    "b2": number(0, 1),
    "eps": number(0, above=True),
    "weight_decay": number(0),
    "momentum": number(0, 1),
    "nesterov": YES_OR_NO,
    "decay": number(0, 1),
    "clip_norm": number(0, above=True, or_null=True),
    "schedule": one_of("constant", "linear", "cosine"),
    "decay_updates": whole(1, or_null=True),
}

RULES: dict[str, Rule] = {
    "variant": TEXT,
    "seed": whole(0, 2**32 - 1),
    "gamma": number(0, 1),
    "episodes_per_update": whole(1),
    "num_env_steps": whole(1, or_null=True),
    "num_updates": whole(1, or_null=True),
    "stop_when_solved": YES_OR_NO,
    "whiten": YES_OR_NO,
    "entropy_coefficient": number(0),
    "bootstrap_truncated": YES_OR_NO,
    "discount_power": YES_OR_NO,
    "diagnose_every": whole(1),
    "checkpoint_every": whole(1),
    "checkpoints_kept": whole(1),
    "updates_per_chunk": whole(1),
    "xla_threads": whole(1),
    "*_target_": TEXT,
    "*_partial_": YES_OR_NO,
    "estimator.gamma": number(0, 1),
    "estimator.lam": number(0, 1),
    **{f"policy.{key}": rule for key, rule in _NETWORK.items()},
    **{f"critic.{key}": rule for key, rule in _NETWORK.items()},
    **{f"optimiser.{key}": rule for key, rule in _OPTIMISER.items()},
    **{f"critic.optimiser.{key}": rule for key, rule in _OPTIMISER.items()},
    "env.id": TEXT,
    "env.reward_threshold": number(or_null=True),
    "env.params.max_steps_in_episode": whole(1),
    "env.params.*": number(),
    "env.num_lanes": whole(1),
    "env.max_steps": whole(1, or_null=True),
    "env.kwargs.*": ANYTHING,
    "tracker.*": ANYTHING,
    "update.*": ANYTHING,  # Hydra refuses unknown names; a study's own update checks its values when it is made
}
"""Every key there is. A pattern may stand for several."""

OPERATIONAL = ("tracker", "checkpoint_every", "checkpoints_kept", "updates_per_chunk")
"""Keys that do not change a run's results. They are not part of its identity."""

BUDGET = ("num_env_steps", "num_updates", "stop_when_solved")
"""Keys that only say when a run ends: an interrupted run may be continued with a larger budget."""


def check(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain data, every value of the type its rule says. Raises ConfigError."""
    if "variant" not in config or OmegaConf.is_missing(config, "variant"):
        raise ConfigError("variant", "none chosen", f"+variant={'|'.join(options('variant'))}")
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(getattr(error, "full_key", None) or "config", str(error).splitlines()[0]) from error
    for path, node, key in _leaves(plain):
        rule = _rule(path)
        if rule is None:
            raise unknown_key(path)
        try:
            node[key] = rule.read(node[key])
        except ValueError:
            raise ConfigError(path, f"{node[key]!r} is not allowed", rule.allowed) from None
    _check_together(plain)
    return plain


@cache  # a sweep asks for the same keys again and again
def _rule(path: str) -> Rule | None:
    return next((rule for pattern, rule in RULES.items() if fnmatchcase(path, pattern)), None)


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted key → value of everything that decides a run's results."""
    return {path: node[key] for path, node, key in _leaves(config) if path.split(".")[0] not in OPERATIONAL}


def options(group: str) -> list[str]:
    """The files of a config group."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def _check_together(config: dict[str, Any]) -> None:
    """What no single key can say."""
    if config["num_env_steps"] is None and config["num_updates"] is None:
        raise ConfigError("num_env_steps", "num_env_steps and num_updates are both null", "a budget in at least one")
    if config["bootstrap_truncated"] and config["critic"]["_target_"] != "pgx.critics.ValueNetwork":
        raise ConfigError("bootstrap_truncated", "there is no V(s) to bootstrap with", hint="critic=value_network has one")
    if config["discount_power"] and config["estimator"]["_target_"] == "pgx.estimators.vanilla" and config["gamma"] < 1:
        raise ConfigError("discount_power", "R(τ) has the factor γ^t already", hint="use it with estimator=reward_to_go")
    if config["critic"]["_target_"] == "pgx.critics.LeaveOneOut" and config["episodes_per_update"] < 2:
        raise ConfigError("episodes_per_update", "leave-one-out has no other episode", "a whole number ≥ 2")
    lanes, episodes = config["env"].get("num_lanes", 1), config["episodes_per_update"]
    if lanes > episodes:
        raise ConfigError("env.num_lanes", f"{lanes} lanes have only {episodes} episodes an update", "at most one an episode")
    for where, optimiser in (("optimiser", config["optimiser"]), ("critic.optimiser", config["critic"].get("optimiser"))):
        if optimiser and optimiser["schedule"] != "constant" and optimiser["decay_updates"] is None:
            raise ConfigError(f"{where}.decay_updates", f"schedule {optimiser['schedule']} needs it", "a whole number ≥ 1")
    from pgx.envs import check as check_env  # imports gymnasium where the environment needs it

    threshold = check_env(config["env"])
    if config["stop_when_solved"] and threshold is None:
        raise ConfigError("stop_when_solved", f"{config['env']['id']} has no reward threshold", hint="set env.reward_threshold")


def _leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict, str]]:
    """(dotted path, the dict that holds it, its key) of every value."""
    for key in list(node):
        if isinstance(node[key], dict):
            yield from _leaves(node[key], f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", node, key


def _known_keys() -> list[str]:
    return [pattern for pattern in RULES if "*" not in pattern]


def unknown_key(key: str) -> ConfigError:
    if key in _known_keys():
        return ConfigError(key, f"the chosen {key.split('.')[0]} has no such key")
    return ConfigError(key, "unknown key", known=_known_keys(), value=key)


def check_overrides(overrides: Iterable[str]) -> None:
    """`+key=…` adds what the schema does not have: only groups and free-form dictionaries may be added to.
    `~key` takes away what the program asks for."""
    for override in overrides:
        key = override.lstrip("+~").split("=")[0].split("@")[0]
        if override.startswith("~"):
            raise ConfigError(key, "cannot be removed")
        free = key.startswith(("env.params.", "env.kwargs.")) or (CONF / key).is_dir()
        if override.startswith("+") and not free:
            raise unknown_key(key)
