"""Environments of gymnax: written in JAX, so that a whole run is one compiled program."""

from dataclasses import fields, replace
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from pgx.envs.base import EnvSpec, JittedEnv
from pgx.envs.checks import GYMNAX, complete
from pgx.envs.imports import module_of
from pgx.errors import ConfigError
from pgx.spaces import Box, Discrete, Space

SMOOTH = ("Pendulum-v1", "Reacher-misc", "Swimmer-misc")
"""Those whose expected return may be differentiated (`JittedEnv.differentiable`). gymnax can hand derivatives on in others,
too: but MountainCarContinuous pays at a goal that also ends the episode, and PointRobot within a radius."""


class GymnaxEnv(JittedEnv):
    """A gymnax environment; its numeric parameters (gravity …) are traced.

    `bound` is that of continuous actions (see `spaces.Box`). Actions are bounded before they come here: gymnax's
    MountainCarContinuous charges for what it is given, its Reacher and Swimmer cut nothing off.
    """

    env: object = eqx.field(static=True)
    params: object
    spec: EnvSpec = eqx.field(static=True)

    def __init__(
        self,
        id: str,
        reward_threshold: float | None = None,
        params: dict[str, float] | None = None,
        bound: str = "clip",
    ):
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
            actions=_actions(self.env.action_space(self.params), bound),
            max_steps=int(self.params.max_steps_in_episode),
            reward_threshold=reward_threshold,
        )

    @property
    def differentiable(self) -> bool:
        return self.env.transition_gradients_enabled

    def reset(self, key):
        obs, state = self.env.reset_env(key, self.params)
        return state, _flat(obs)

    def step(self, key, state, action):
        # gymnax multiplies integers by floats and vectors by numbers, even where jax is told to refuse
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            obs, state, reward, terminated, _ = self.env.step_env(key, state, action, self.params)
        return state, _flat(obs), reward.astype(jnp.float32), terminated


def _actions(space, bound: str) -> Space:
    """Of gymnax's space; all of its boxes are vectors."""
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    return Box(*(tuple(np.broadcast_to(end, space.shape).tolist()) for end in (space.low, space.high)), bound)


def _flat(obs):
    return obs.reshape(-1).astype(jnp.float32)


@cache  # one object an environment: what is compiled for it serves the next run of the process, too
def _load(id: str):
    """The environment, without the two seconds that `import gymnax` takes."""
    module, name = GYMNAX[id]
    env = getattr(module_of("gymnax", f"environments.{module}"), name)()
    return env.with_transition_gradients() if id in SMOOTH else env  # which it otherwise keeps back
