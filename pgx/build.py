"""From a checked configuration to the parts of a run."""

import json
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from hydra.utils import get_object
from jaxtyping import PyTree

from pgx import memory
from pgx.algorithm import Algorithm
from pgx.batch import BySteps
from pgx.envs.base import EnvSpec, HostEnv, JittedEnv
from pgx.errors import ConfigError
from pgx.evaluating import Evaluation
from pgx.loop import Keys, init
from pgx.optimiser import Transformation, is_transformation
from pgx.runners import HostRunner, JittedRunner, Lane, PackRunner, make_runner
from pgx.runs.tracker import Tracker
from pgx.sizes import batches, most_episodes, whole_groups
from pgx.types import TrainState


def build(config: dict[str, Any]) -> tuple[JittedEnv | HostEnv, Algorithm]:
    """The environment and the algorithm. Their floats are arrays: inputs of the compiled program, so that
    runs that differ only in numbers share it. What is not a float (sizes, names, switches) is compiled in."""
    env, critic = environment(config["env"]), _part(config["critic"])
    algorithm = Algorithm(
        estimator=_part(config["estimator"]),
        critic=critic,
        update=_part(config["update"] | {key: config[key] for key in ("optimiser", "entropy_coefficient")}),
        gamma=config["gamma"],
        whiten=config["whiten"],
        bootstrap_truncated=config["bootstrap_truncated"],
        discount_power=config["discount_power"],
        scale_observations=config["scale_observations"],
        reward_scale=config["reward_scale"],
        batch=_batch(config, getattr(critic, "least_episodes", 1)),
        group_size=config["group_size"],
        aggregation=config["aggregation"],
    )
    for name in ("estimator", "critic", "update"):
        _require_pytree(name, getattr(algorithm, name))
    return env, traced(algorithm)


def _batch(config: dict[str, Any], least: int) -> BySteps | None:
    steps, size = config["steps_per_update"], config["group_size"] or 1
    return None if steps is None else BySteps(steps, whole_groups(least, size), most_episodes(config).episodes, size)


def environment(config: dict[str, Any]) -> JittedEnv | HostEnv:
    """The environment that a configuration names."""
    return traced(_part(config))


def check_sizes(config: dict[str, Any], env: JittedEnv | HostEnv) -> None:
    """Raise ConfigError if a batch that a run plays is too large for any program, or for this machine where it is made on
    the host. Whether a program has room is known when it is compiled."""
    for most in batches(config):
        batch = memory.Batch(*most, env.spec.max_steps)
        memory.check_size(batch)
        if isinstance(env, HostEnv):
            memory.check_host(batch, env.spec.obs_size)


class Parts(NamedTuple):
    """The parts that a configuration names, put together: `runner(state)` is the first chunk, `pgx.loop.train` all of them."""

    config: dict[str, Any]
    env: JittedEnv | HostEnv
    algorithm: Algorithm
    state: TrainState
    """Before the first update."""
    keys: Keys
    runner: JittedRunner | HostRunner


def assemble(config: dict[str, Any]) -> Parts:
    """The parts of a run, from a checked configuration. Call `backend.prepare` first: it starts jax."""
    env, algorithm = build(config)
    check_sizes(config, env)
    state, keys = initial_state(config, env, algorithm)
    return Parts(config, env, algorithm, state, keys, runner(config, env, algorithm, state, keys))


def runner(
    config: dict[str, Any], env: JittedEnv | HostEnv, algorithm: Algorithm, state: TrainState, keys: Keys
) -> JittedRunner | HostRunner:
    """The runner of a run. Of `state` only the shapes matter."""
    how, found = {"diagnose_every": config["diagnose_every"]}, evaluation(config)
    if found is not None and isinstance(env, HostEnv):
        how["evaluation_env"] = environment(config["env"] | {"num_lanes": found.episodes})
    return make_runner(state, algorithm, env, keys, **_sizes(config), **how, evaluation=found)


def evaluation(config: dict[str, Any]) -> Evaluation | None:
    """When and how the policy is evaluated while it trains; None: never."""
    every, how = config["evaluate_every"], (config["evaluate_episodes"], config["evaluate_greedy"])
    return None if every is None else Evaluation(jax.device_put(np.int32(every)), *how)


def lane(config: dict[str, Any], env: JittedEnv, algorithm: Algorithm, state: TrainState) -> Lane:
    """The lane of a pack that a run takes."""
    diagnose_every = jax.device_put(np.int32(config["diagnose_every"]))
    return Lane(state, algorithm, env, Keys.of_seed(config["seed"]), diagnose_every, evaluation(config))


def pack_runner(config: dict[str, Any], lanes: Sequence[Lane], *, width: int) -> PackRunner:
    """The runner of a pack; `config` is that of any of its runs."""
    return PackRunner(lanes, width=width, **_sizes(config))


def _sizes(config: dict[str, Any]) -> dict[str, int]:
    return {"num_episodes": most_episodes(config).episodes, "max_updates": config["updates_per_chunk"]}


def limits(config: dict[str, Any], env: JittedEnv | HostEnv) -> dict[str, float]:
    """The limits of a run: arguments of `pgx.loop.train`."""
    ends = {"num_updates": config["num_updates"] or math.inf, "num_env_steps": config["num_env_steps"] or math.inf}
    if config["stop_when_solved"]:
        ends["solved_at" if config["evaluate_every"] is None else "evaluated_at"] = env.spec.reward_threshold
    return ends


def tracker(config: dict[str, Any]) -> Tracker:
    return _part(config["tracker"])


class Function(eqx.Module):
    """A function with settings: floats are inputs of the compiled program, what is not a float is compiled in."""

    function: Callable = eqx.field(static=True)
    numbers: dict[str, float]
    constants: str = eqx.field(static=True)
    """As JSON, which can be compared."""

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        return self.function(*arguments, **self.numbers, **json.loads(self.constants), **more)


def _part(config: dict[str, Any]) -> Any:
    """The part that `config` names, made with its settings, among which there may be parts, too. A function that the
    program calls (`_partial_`), or that makes a transformation of optax's, becomes a pytree, so that its numbers can be
    traced."""
    make = get_object(config["_target_"])
    settings = {key: _made(x) for key, x in config.items() if key not in ("_target_", "_partial_")}
    if config.get("_partial_"):
        return _function(make, settings)
    part = make(**settings)
    return Transformation(_function(make, settings)) if is_transformation(part) else part


def _made(x: Any) -> Any:
    if isinstance(x, dict):
        return _part(x) if "_target_" in x else {key: _made(y) for key, y in x.items()}
    return [_made(y) for y in x] if isinstance(x, list) else x


def _function(function: Callable, settings: dict[str, Any]) -> Function:
    numbers = {key: x for key, x in settings.items() if isinstance(x, float)}
    return Function(function, numbers, json.dumps({key: x for key, x in settings.items() if key not in numbers}))


def _require_pytree(where: str, part: Any) -> None:
    """Raise ConfigError unless a part is made of arrays and numbers, which compiled programs take."""
    for leaf in jax.tree.leaves(part):
        if not eqx.is_array_like(leaf):
            hint = "derive it from equinox.Module, with equinox.field(static=True) for what is no number"
            raise ConfigError(where, f"{type(leaf).__name__} in it is no array and no number", hint=hint)


_ONCE = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}
"""For small programs that run once: not worth optimising. The last two halve their compilation; in the training loop
they would save a third of it, and make every step slower."""


@cache
def _init(policy: str, spec: EnvSpec) -> Callable[..., TrainState]:
    """`init` for the policy of this configuration, given as JSON."""
    make = _part(json.loads(policy))

    def make_policy(*arguments: Any, **more: Any) -> PyTree:
        made = make(*arguments, **more)
        _require_pytree("policy", made)
        return made

    return jax.jit(partial(init, make_policy=make_policy, spec=spec), compiler_options=_ONCE)


def initial_state(config: dict[str, Any], env: JittedEnv | HostEnv, algorithm: Algorithm) -> tuple[TrainState, Keys]:
    """The state before the first update, and the run's random streams."""
    keys = Keys.of_seed(config["seed"])
    return _init(json.dumps(config["policy"]), env.spec)(algorithm, key=keys.init), keys


def skeleton(config: dict[str, Any], env: JittedEnv | HostEnv, algorithm: Algorithm) -> TrainState:
    """A state of the right shapes, all zeros: enough to compile for, or to restore into, and nothing to compute."""
    key = jax.eval_shape(lambda: Keys.of_seed(0).init)
    shapes = jax.eval_shape(_init(json.dumps(config["policy"]), env.spec), algorithm, key=key)
    return jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))  # jnp.zeros: a program a shape


def traced(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.device_put(np.float32(x)) if isinstance(x, float) else x, tree)
