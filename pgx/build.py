"""From a checked configuration to the parts of a run."""

from typing import Any

import jax
import jax.numpy as jnp
from hydra.utils import instantiate
from jaxtyping import PyTree

from pgx.envs.base import HostEnv, JittedEnv
from pgx.train import Keys, init
from pgx.types import TrainState
from pgx.update import Algorithm


def build(config: dict[str, Any]) -> tuple[JittedEnv | HostEnv, Algorithm]:
    """The environment and the algorithm. Their floats are arrays: inputs of the compiled program, so that
    runs that differ only in numbers share it. What is not a float (sizes, names, switches) is compiled in."""
    env = traced(instantiate(config["env"]))
    estimator = instantiate(config["estimator"])
    algorithm = Algorithm(
        estimator=jax.tree_util.Partial(estimator.func, **estimator.keywords),
        critic=instantiate(config["critic"]),
        optimiser=instantiate(config["optimiser"]),
        gamma=config["gamma"],
        entropy_coefficient=config["entropy_coefficient"],
        whiten=config["whiten"],
        bootstrap_truncated=config["bootstrap_truncated"],
        discount_power=config["discount_power"],
    )
    return env, traced(algorithm)


def initial_state(config: dict[str, Any], env: JittedEnv | HostEnv, algorithm: Algorithm) -> tuple[TrainState, Keys]:
    """The state before the first update, and the run's random streams."""

    def make(seed, algorithm):
        keys = Keys.of_seed(seed)
        return init(algorithm, config["policy"], env.spec, keys.init), keys

    # one program instead of thirty, and not worth optimising: it runs once
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(make, compiler_options=options)(jnp.array(config["seed"], jnp.uint32), algorithm)


def traced(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32) if isinstance(x, float) else x, tree)
