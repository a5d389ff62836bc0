"""The configuration's rules, checked before anything heavy is imported and before a folder exists.

A value that breaks a rule gives one line: what is wrong, where, what is allowed, and a hint.
"""

import math
import re
from ast import literal_eval
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pgx import parts, sizes
from pgx.declared import CONF, Declared
from pgx.errors import ConfigError, short
from pgx.hints import hint_for
from pgx.identity import NEUTRAL, leaves
from pgx.rules import ANYTHING, TEXT, YES_OR_NO, Rule, list_of, number, of_key, of_setting, one_of, text, whole

_NETWORK = {"width": whole(1, 65536), "depth": whole(0, 100), "activation": one_of("relu", "tanh", "gelu", "silu", "elu")}
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
    "decay_steps": whole(1, or_null=True),
}

RULES: dict[str, Rule] = {
    "variant": TEXT,
    "seed": whole(0, 2**32 - 1),
    "gamma": number(0, 1),
    "episodes_per_update": whole(1, or_null=True),
    "steps_per_update": whole(1, or_null=True),
    "max_episodes_per_update": whole(1, or_null=True),
    "group_size": whole(2, or_null=True),
    "num_env_steps": whole(1, 2**53, or_null=True),
    "num_updates": whole(1, or_null=True),
    "stop_when_solved": YES_OR_NO,
    "whiten": YES_OR_NO,
    "aggregation": one_of("sum", "own_mean", "batch_mean"),
    "entropy_coefficient": number(0),
    "bootstrap_truncated": YES_OR_NO,
    "discount_power": YES_OR_NO,
    "scale_observations": YES_OR_NO,
    "reward_scale": number(0, above=True),
    "evaluate_every": whole(1, or_null=True),
    "evaluate_episodes": whole(1),
    "evaluate_greedy": YES_OR_NO,
    "diagnose_every": whole(1),
    "checkpoint_every": whole(1),
    "checkpoints_kept": whole(1),
    "updates_per_chunk": whole(1, 100_000),
    "xla_threads": whole(1, 1024),
    "*_target_": TEXT,
    "*_partial_": YES_OR_NO,
    "estimator.gamma": number(0, 1),
    "estimator.lam": number(0, 1),
    **{f"policy.{key}": rule for key, rule in _NETWORK.items()},
    "policy.std": number(0, above=True),
    "policy.log_std_floor": number(),
    "policy.state_dependent_std": YES_OR_NO,
    "policy.last_layer_scale": number(0, above=True),
    "policy.clipped_score": YES_OR_NO,
    **{f"critic.{key}": rule for key, rule in _NETWORK.items()},
    **{f"optimiser.{key}": rule for key, rule in _OPTIMISER.items()},
    **dict.fromkeys(("critic.passes", "update.epochs"), whole(1)),
    **dict.fromkeys(("critic.minibatch_steps", "update.minibatch_steps"), whole(1, or_null=True)),
    "critic.standardise_target": YES_OR_NO,
    "critic.clip": number(0, above=True, or_null=True),
    "critic.eps": number(0),
    "critic.failure": number(),
    **dict.fromkeys(("update.clip", "update.target_kl", "update.max_kl"), number(0, above=True)),
    **dict.fromkeys(("update.kl_coefficient", "update.damping"), number(0)),
    **dict.fromkeys(("update.iterations", "update.halvings"), whole(1)),
    **dict.fromkeys(("update.stop_at_kl", "update.adapt_to_kl"), number(0, above=True, or_null=True)),
    **{f"critic.optimiser.{key}": rule for key, rule in _OPTIMISER.items()},
    "env.id": TEXT,
    "env.reward_threshold": number(or_null=True),
    "env.params.max_steps_in_episode": whole(1),
    "env.params.*": number(),
    "env.bound": one_of("clip", "tanh", "none"),
    "env.num_lanes": whole(1, or_null=True),
    "env.max_steps": whole(1, or_null=True),
    "env.kwargs.*": ANYTHING,
    "env.backend": one_of("generalized", "positional", "spring", "mjx", or_null=True),
    "env.action_repeat": whole(1),
    "env.options.*": ANYTHING,
    "tracker.mode": one_of("offline", "online", "disabled", or_null=True),
    "tracker.project": text(128, or_null=True),
    "tracker.entity": text(or_null=True),
    "tracker.name": text(128, or_null=True),
    "tracker.group": text(128, or_null=True),
    "tracker.tags": list_of(text(64)),
    "tracker.notes": text(or_null=True),
    "tracker.checkpoint": YES_OR_NO,
    "tracker.patience": number(0),
}
"""Every key of pgx's own, and what is allowed beyond its type. A pattern may stand for several. The keys of a person's own
part are the settings of what its `_target_` names."""

_FILLED_IN = {"estimator": (4, ()), "policy": (2, ("key",)), "update": (0, ("optimiser", "entropy_coefficient"))}
"""Settings that no configuration gives, for the program does: so many positional ones (with `_partial_`), and these."""

REQUIRED = {
    "env": ("_target_", "id", "reward_threshold"),
    "estimator": ("_target_",),
    "critic": ("_target_",),
    "policy": ("_target_",),
    "optimiser": ("_target_",),
    "update": ("_target_",),
    "tracker": ("_target_",),
}
"""Groups of which something has to be chosen, and what every choice says."""


def check(config: DictConfig, declared: Declared = Declared()) -> dict[str, Any]:
    """The configuration as plain data, every value of the type its rule says. Raises ConfigError."""
    if "variant" not in config or OmegaConf.is_missing(config, "variant"):
        raise ConfigError("variant", "none chosen", f"+variant={'|'.join(options('variant', declared))}")
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise _unreadable(config) or ConfigError("config", str(error).splitlines()[0]) from error
    return check_plain(plain, declared)


def check_plain(plain: dict[str, Any], declared: Declared) -> dict[str, Any]:
    """The same for plain data: what was typed and what was read from a run folder are checked alike."""
    for group, keys in REQUIRED.items():
        if not isinstance(plain.get(group), dict):
            raise ConfigError(group, "none chosen", f"{group}={'|'.join(options(group, declared))}")
        for key in keys:
            if key not in plain[group]:
                raise ConfigError(f"{group}.{key}", f"the chosen {group} does not say it")
    plain |= {key: x for key, x in NEUTRAL.items() if "." not in key and key not in plain}
    for key in RULES:
        if key.isidentifier() and key not in plain:
            raise ConfigError(key, "it is missing", RULES[key].allowed)
    declared.check(plain)
    signatures = {path: _check_settings(path, part) for path, part in _parts(plain)}
    for path, node, key in leaves(plain, empty=True):
        if f"{path}.*" in RULES and not isinstance(node[key], dict):
            raise ConfigError(path, f"{short(repr(node[key]))} is not allowed", f"names and values, {path}.NAME=…")
        rule = _rule(path, plain, signatures)
        if rule is None and node[key] == {} and any(pattern.startswith(f"{path}.") for pattern in RULES):
            continue
        if rule is None:
            raise unknown_key(path)
        try:
            node[key] = rule.read(node[key])
        except ValueError:
            hint = f"{path}='\"${{oc.decode:${{oc.env:NAME}}}}\"' reads a number" if _is_number(rule, node[key]) else None
            raise ConfigError(path, f"{short(repr(node[key]))} is not allowed", rule.allowed, hint) from None
    _check_together(plain)
    return plain


def _unreadable(config: DictConfig, prefix: str = "") -> ConfigError | None:
    """The error for the first key that has no value, or one that refers to what there is not."""
    for key in config:
        path = f"{prefix}{key}"
        try:
            if OmegaConf.is_missing(config, key):
                if path not in RULES and "." not in path:
                    return unknown_key(path)
                example = path == "env.id" and parts.declared(OmegaConf.select(config, "_target_", default=""), "example")
                hint = f"env.id={example}, for example" if example else f"{path}=…"
                return ConfigError(path, "not chosen yet", hint=hint)
            if isinstance(config[key], DictConfig) and (below := _unreadable(config[key], f"{path}.")):
                return below
        except OmegaConfBaseException as error:
            return ConfigError(path, str(error).splitlines()[0])
    return None


def _is_number(rule: Rule, value: Any) -> bool:
    """Whether it is text that would be allowed as a number."""
    try:
        rule.read(float(value) if isinstance(value, str) else value)
    except ValueError:
        return False
    return True


@cache  # a sweep asks for the same keys again and again
def _pgx_rule(path: str) -> Rule | None:
    return next((rule for pattern, rule in RULES.items() if fnmatchcase(path, pattern)), None)


def _rule(path: str, plain: dict[str, Any], signatures: dict[str, parts.Signature | None]) -> Rule | None:
    """Of a key by the innermost part that it belongs to."""
    owners = [part for part in signatures if path.startswith(f"{part}.")]
    if not owners:
        return _pgx_rule(path)
    owner = max(owners, key=len)
    key, _, below = path.removeprefix(f"{owner}.").partition(".")
    of_pgx = _is_pgx(_at(plain, owner)["_target_"])
    if (of_pgx or key in _OF_HYDRA) and (known := _pgx_rule(path)) is not None:
        return known
    setting = signatures[owner].settings.get(key) if signatures[owner] is not None else None
    if setting is None:
        return None if of_pgx else ANYTHING
    return of_key(setting.annotation) if below else of_setting(setting.annotation, setting.default)


_OF_HYDRA = ("_target_", "_partial_")


def _is_pgx(target: str) -> bool:
    return target.startswith("pgx.")


def _at(node: dict[str, Any], path: str) -> Any:
    for key in path.split("."):
        node = node[key]
    return node


def _parts(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, what is chosen there) of every part, and of the parts that these have."""
    for key, x in node.items():
        if isinstance(x, dict):
            if "_target_" in x:
                yield f"{prefix}{key}", x
            yield from _parts(x, f"{prefix}{key}.")


def _check_settings(path: str, part: dict[str, Any]) -> parts.Signature | None:
    """What a part can be told; None if its source does not say. Raises ConfigError if it is told anything else, or not all."""
    signature = parts.signature(part["_target_"], f"{path}._target_")
    if signature is None:
        return None
    group = path.rpartition(".")[2]
    count, names = _FILLED_IN.get(group, (0, ()))
    positional = [name for name, setting in signature.settings.items() if setting.positional]
    given = {*names, *(positional[:count] if part.get("_partial_") else ())}
    settings = {name: x for name, x in signature.settings.items() if name not in given}
    for key in part:
        if key not in (*_OF_HYDRA, *settings) and (key in given or not signature.is_open):
            known = [f"{path}.{name}" for name in settings]
            hint = hint_for(f"{path}.{key}", known) if known else None
            raise ConfigError(f"{path}.{key}", f"the chosen {group} has no such key", ", ".join(known), hint)
    for name, setting in settings.items():
        if setting.required and name not in part:
            rule = of_setting(setting.annotation, setting.default)
            raise ConfigError(f"{path}.{name}", "it is missing", None if rule is ANYTHING else rule.allowed)
    return signature


def options(group: str, declared: Declared = Declared()) -> list[str]:
    """The files of a config group."""
    return declared.options(group)


def _check_together(config: dict[str, Any]) -> None:
    """What no single key can say."""
    if config["num_env_steps"] is None and config["num_updates"] is None:
        raise ConfigError("num_env_steps", "num_env_steps and num_updates are both null", "a budget in at least one")
    estimator, critic = config["estimator"]["_target_"], config["critic"]["_target_"]
    if config["bootstrap_truncated"] and not parts.defines(critic, "bootstrap", beside="pgx.critics.Critic"):
        raise ConfigError("bootstrap_truncated", "there is no V(s) to bootstrap with", hint="critic=value_network has one")
    if config["discount_power"] and config["gamma"] < 1 and parts.declared(estimator, "discounted_from_start"):
        raise ConfigError("discount_power", "R(τ) has the factor γ^t already", hint="use it with estimator=reward_to_go")
    sizes.check(config, parts.declared(critic, "least_episodes", 1), parts.declared(critic, "needs_groups", False))
    every, saved = config["evaluate_every"], config["checkpoint_every"]
    if every is not None and saved % every and every % saved:
        problem = f"{every} beside checkpoint_every={saved}: hardly any checkpoint would be of a policy that is evaluated"
        near = min((n for n in range(1, saved + 1) if saved % n == 0), key=lambda n: abs(n - every))
        raise ConfigError("evaluate_every", problem, "what divides it, or a multiple", hint=f"evaluate_every={near}")
    if config["update"].get("recompute_advantages") and not parts.defines(critic, "fit", beside="pgx.critics.Critic"):
        raise ConfigError("update.recompute_advantages", f"{critic} learns nothing: there is nothing to recompute")
    factors = {"γ^t": config["discount_power"], "of the aggregation": config["aggregation"] != "sum"}
    for name in (name for name, on in factors.items() if on and config["update"].get("whiten_minibatches")):
        raise ConfigError("update.whiten_minibatches", f"would whiten the factors {name}, too", hint="use whiten")
    for where, part in _parts(config):
        if part.get("schedule", "constant") == "constant" or part.get("decay_steps") is not None:
            continue
        if parts.derives(part["_target_"], "pgx.optimiser.Optimiser"):
            raise ConfigError(f"{where}.decay_steps", f"schedule {part['schedule']} needs it", "a whole number ≥ 1")
    from pgx.envs import checks  # imports gymnasium where the environment needs it

    env = checks.check(config["env"])
    if config["scale_observations"] and env.symbols is not None:
        problem = f"{config['env']['id']} observes {env.symbols}: its numbers are names, and have no mean"
        raise ConfigError("scale_observations", problem, hint="scale_observations=false")
    _check_gaussian(config["policy"], config["env"], env.continuous)
    _check_failure(config, env.reward_threshold)
    if config["env"].get("num_lanes", 1) is None:
        config["env"]["num_lanes"] = sizes.fewest_lanes(config, env.max_steps)
    if config["stop_when_solved"] and env.reward_threshold is None:
        raise ConfigError("stop_when_solved", f"{config['env']['id']} has no reward threshold", hint="set env.reward_threshold")


def _check_gaussian(policy: dict[str, Any], env: dict[str, Any], continuous: bool | None) -> None:
    """What a policy is told of its standard deviations and scores, against the environment's actions."""
    keys = parts.declared(policy["_target_"], "of_real_numbers", ())
    settings = parts.signature(policy["_target_"]).settings if keys else {}
    for key in keys:
        if continuous is False and policy.get(key, default := literal_eval(settings[key].default)) != default:
            raise ConfigError(f"policy.{key}", f"{env['id']} has discrete actions: nothing would heed it", hint="leave it out")
    if "clipped_score" in keys and policy.get("clipped_score") and env.get("bound", "clip") != "clip":
        hint = "env.bound=clip, or policy.clipped_score=false"
        raise ConfigError("policy.clipped_score", f"with env.bound={env['bound']} no action is cut off", hint=hint)
    if "std" in keys and "std" in policy and math.log(policy["std"]) <= policy.get("log_std_floor", -math.inf):
        floor = math.exp(policy["log_std_floor"])
        raise ConfigError("policy.std", f"{policy['std']:g} is below the floor, e^log_std_floor = {floor:.3g}")


def _check_failure(config: dict[str, Any], threshold: float | None) -> None:
    """What a critic measures returns from must be less than what counts as solved."""
    name = parts.declared(config["critic"]["_target_"], "measured_from")
    if name is None or threshold is None:
        return
    failure, solved = config["critic"][name], threshold * config["reward_scale"]
    if solved <= failure:
        problem = f"{failure:g} is no failure on {config['env']['id']}, where {solved:g} counts as solved"
        raise ConfigError(f"critic.{name}", problem, f"less than {solved:g}", "take the least return there is × reward_scale")


def _known_keys(declared: Declared) -> list[str]:
    """All that can be chosen or set, whatever else is chosen."""
    groups = (str(path.relative_to(CONF)) for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
    own = (key for group in REQUIRED for key in _keys_of_group(group, declared))
    return list(dict.fromkeys([*groups, *(pattern for pattern in RULES if "*" not in pattern), *own]))


def _keys_of_group(group: str, declared: Declared) -> dict[str, list[str]]:
    """Dotted key → the options whose files have it."""
    found: dict[str, list[str]] = {}
    for option in options(group, declared) if group in REQUIRED else ():
        for key in sorted(_keys_of(group, option, declared)):
            found.setdefault(f"{group}.{key}", []).append(option)
    return found


def unknown_key(key: str, declared: Declared = Declared()) -> ConfigError:
    """The error for a key that the configuration does not have."""
    group, _, name = key.partition(".")
    if key in _FREE or key.startswith(tuple(f"{free}." for free in _FREE)):
        if key in _FREE:
            return ConfigError(key, "is set key by key", hint=f"+{key}.NAME=…")
        return ConfigError(key, "not set yet", hint="put a + before it")
    in_files = _keys_of_group(group, declared)
    if key in RULES or key in in_files:
        having = in_files.get(f"{group}.{name.split('.')[0]}", [])
        return ConfigError(key, f"the chosen {group} has no such key", hint=having and f"{group}={'|'.join(having)} has it")
    of_rules = [known for known in RULES if known.startswith(f"{group}.") and known.count(".") == 1 and "*" not in known]
    allowed = dict.fromkeys([*of_rules, *in_files])
    return ConfigError(key, "unknown key", ", ".join(allowed), hint_for(key, _known_keys(declared)))


def hint_for_option(name: str) -> str:
    """For `--seed 3`."""
    return hint_for(name, _known_keys(Declared())) or ""


def _keys_of(group: str, option: str, declared: Declared = Declared()) -> set[str]:
    """The keys at the top of what an option's file chooses, and those that its defaults put there."""
    content = _content(group, option, declared)
    keys = {*content.own}
    for entry in content.defaults:
        name, _, place = (next(iter(entry)) if isinstance(entry, dict) else str(entry)).partition("@")
        if isinstance(entry, dict):
            keys.add(place.removeprefix(f"{group}."))
        elif name in declared.options(group):  # it builds on another option
            keys |= _keys_of(group, name, declared)
    return {key for key in keys if key and not key.startswith("_")}


class _Content(NamedTuple):
    """Of an option's YAML file, uninterpreted."""

    own: dict[str, Any] = {}
    """What it chooses for its group."""
    beside: dict[str, Any] = {}
    """… and what it sets for the whole configuration: a file that begins with `# @package _global_` may, and then has its
    group's own keys below the group's name."""
    defaults: list[Any] = []


_GLOBAL = re.compile(r"\A(?:\s*#.*\n)*?\s*#\s*@package\s+_global_\s*$", re.MULTILINE)


def _content(group: str, option: str, declared: Declared) -> _Content:
    """Nothing where it cannot be read, which Hydra says if it is chosen."""
    files = (folder / group / f"{option}.yaml" for folder in declared.all_folders)
    file = next(file for file in files if file.is_file())
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        is_global = _GLOBAL.match(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        return _Content()
    if not isinstance(content, dict):
        return _Content()
    defaults = content.pop("defaults", None) or []
    own = content.pop(group, None) or {} if is_global else content
    return _Content(own, content if is_global else {}, defaults)


def other_keys() -> str:
    """For --help: what each option of a group can be told, a line each, and the parameters of environments."""
    from pgx.envs.checks import GYMNAX, parameters

    lines = []
    for group in sorted(REQUIRED):
        for option in options(group):
            keys = ", ".join(sorted(_keys_of(group, option)))
            beside = _content(group, option, Declared()).beside
            sets = f"; sets {' '.join(f'{key}={x}' for key, x in beside.items())}" if beside else ""
            lines += [f"{group}={option}: {keys}{sets}"] if keys or sets else []
    lines.append("")
    lines += [f"+env.params.KEY=… of {id}: {', '.join(parameters(id))}" for id in GYMNAX]
    return "\n".join(lines)


OmegaConf.register_new_resolver("pgx.other_keys", other_keys, replace=True)
OmegaConf.register_new_resolver("pgx.unless", lambda given, default: default if given is None else None, replace=True)

_FREE = ("env.params", "env.kwargs", "env.options")
"""Dictionaries that a `+` adds to."""


def check_overrides(overrides: Iterable[str], declared: Declared = Declared()) -> None:
    """`+key=…` adds what the schema does not have: only groups and free-form dictionaries may be added to.
    `~key` takes away what the program asks for."""
    for override in overrides:
        key = override.lstrip("+~").split("=")[0].split("@")[0]
        if override.startswith("~"):
            raise ConfigError(key, "cannot be removed")
        free = key in _FREE or key.startswith(tuple(f"{free}." for free in _FREE)) or declared.has_group(key)
        if override.startswith("++") and key in RULES and "." not in key:
            raise ConfigError(key, "is there already", hint="leave the ++ out")
        if override.startswith("+") and not free:
            raise unknown_key(key, declared)
