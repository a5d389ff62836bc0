"""Environments of gymnax: written in JAX, so that a whole run is one compiled program."""

import importlib
import importlib.util
import sys
import types
from dataclasses import fields, replace
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp

from pgx.envs.base import EnvSpec, JittedEnv
from pgx.envs.checks import GYMNAX, complete
from pgx.errors import ConfigError
from pgx.spaces import Discrete


class GymnaxEnv(JittedEnv):
    """A discrete-action gymnax environment; its numeric parameters (gravity …) are traced."""

    env: object = eqx.field(static=True)
    params: object
    spec: EnvSpec = eqx.field(static=True)

    def __init__(self, id: str, reward_threshold: float | None = None, params: dict[str, float] | None = None):
        self.env = _load(id)
        # the time limit is a shape, the rest are numbers
        try:
            self.params = replace(self.env.default_params, **complete(id, params or {}))
        except TypeError:
            known = [field.name for field in fields(self.env.default_params)]
            unknown = next(name for name in params if name not in known)
            raise ConfigError(f"env.params.{unknown}", "unknown key", known=known, value=unknown) from None
        self.spec = EnvSpec(
            id=id,
            obs_size=jax.eval_shape(lambda: self.env.reset_env(jax.random.key(0), self.params))[0].size,
            actions=Discrete(int(self.env.action_space(self.params).n)),
            max_steps=int(self.params.max_steps_in_episode),
            reward_threshold=reward_threshold,
        )

    def reset(self, key):
        obs, state = self.env.reset_env(key, self.params)
        return state, _flat(obs)

    def step(self, key, state, action):
        with jax.numpy_dtype_promotion("standard"):  # gymnax multiplies integers by floats, even where jax is told to refuse
            obs, state, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        return state, _flat(obs), reward.astype(jnp.float32), terminated


def _flat(obs):
    return obs.reshape(-1).astype(jnp.float32)


@cache  # one object an environment: what is compiled for it serves the next run of the process, too
def _load(id: str):
    """The environment, without the two seconds that `import gymnax` takes.

    gymnax's package file imports all its environments and with them matplotlib, pandas and seaborn.
    Empty stand-ins for the two packages let Python find the one module wanted; they are taken away
    again, so a later `import gymnax` gets the real thing.
    """
    module, name = GYMNAX[id]
    root = importlib.util.find_spec("gymnax").submodule_search_locations[0]
    stand_ins = [package for package in ("gymnax", "gymnax.environments") if package not in sys.modules]
    try:
        for package in stand_ins:
            stand_in = types.ModuleType(package)
            stand_in.__path__ = [root + package.removeprefix("gymnax").replace(".", "/")]
            sys.modules[package] = stand_in
        found = importlib.import_module(f"gymnax.environments.{module}")
    finally:
        for package in stand_ins:
            sys.modules.pop(package, None)
    return getattr(found, name)()
