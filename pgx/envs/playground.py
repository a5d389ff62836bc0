"""MuJoCo Playground's tasks: MuJoCo's physics in JAX (MJX), so that a whole run is one compiled program."""

import json
from collections.abc import Mapping
from functools import cache, partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from pgx.envs.base import EnvSpec, JittedEnv
from pgx.envs.imports import module_of, without_warp
from pgx.envs.physics import as_others_write, held, strongly_typed
from pgx.envs.playground_source import IMPLEMENTATION, INSTALL, check, suites
from pgx.envs.quiet import mujoco_to_log
from pgx.errors import ConfigError, one_line
from pgx.spaces import Box


class PlaygroundEnv(JittedEnv):
    """A task of MuJoCo Playground, without Brax and without Warp.

    `options` are the task's own configuration. `max_steps` takes precedence over its `episode_length`, which is counted in
    steps without `action_repeat`. Rewards of a repeated action are added until the episode ends. Actions are from −1 to 1
    in every task. Of observations that are dictionaries the policy is given `state`, as Playground's own policies are, and
    not what is privileged.
    """

    example: ClassVar[str] = "CheetahRun"
    packages: ClassVar[tuple[str, ...]] = ("playground", "mujoco", "mujoco-mjx")

    task: object = eqx.field(static=True)
    repeat: int = eqx.field(static=True)
    spec: EnvSpec = eqx.field(static=True)

    def __init__(
        self,
        id: str,
        max_steps: int | None = None,
        reward_threshold: float | None = None,
        options: dict | None = None,
        bound: str = "clip",
    ):
        self.task, config = _load(id, json.dumps(check(id, options or {}), sort_keys=True))
        self.repeat = int(config.action_repeat)
        self.spec = EnvSpec(
            id=id,
            obs_size=jax.eval_shape(lambda: self.reset(jax.random.key(0)))[1].size,
            actions=Box((-1.0,) * self.task.action_size, (1.0,) * self.task.action_size, bound),
            max_steps=max_steps or -(-int(config.episode_length) // self.repeat),
            reward_threshold=reward_threshold,
        )

    def reset(self, key):
        with as_others_write():
            state = _reset(self.task, key)
        return state, _seen(state)

    def step(self, key, state, action):
        with as_others_write():
            state, _, reward, ended = _step(self.task, self.repeat, state, action)
        return state, _seen(state), reward, ended

    def renderer(self):
        from pgx.envs.stage import drawn_by_mujoco

        draw, names = drawn_by_mujoco(self.task.mj_model), ("qpos", "qvel", "mocap_pos", "mocap_quat", "xfrc_applied")
        picture = lambda state: draw(**{name: getattr(state.data, name) for name in names})
        return picture, 1 / (self.repeat * self.task.dt)


# Both are traced once a task, wherever they are called: that takes seconds.


@partial(jax.jit, static_argnums=0, inline=True)
def _reset(task, key):
    return strongly_typed(task.reset(key))


@partial(jax.jit, static_argnums=(0, 1), inline=True)
def _step(task, repeat, state, action):
    def once(state):
        state = strongly_typed(task.step(state, action))
        return state, None, state.reward, state.done > 0

    return held(once, state, repeat)


def _seen(state):
    obs = state.obs["state"] if isinstance(state.obs, Mapping) else state.obs
    return obs.reshape(-1).astype(jnp.float32)


def _complete_mujoco() -> None:
    """Playground compares versions as texts: 3.17 is less than 3.3 for it, and had another name for this."""
    import mujoco

    mujoco_to_log()
    if not hasattr(mujoco.MjSpec, "find_body"):
        mujoco.MjSpec.find_body = mujoco.MjSpec.body


@cache  # one object a task: what is compiled for it serves the next run of the process, too
def _load(id: str, options: str):
    """(the task, its configuration)."""
    suite = suites()[id]
    try:
        with without_warp():
            tasks = module_of("mujoco_playground", f"_src.{suite}")
            _complete_mujoco()
            config = tasks.get_default_config(id)
            config.update_from_flattened_dict(IMPLEMENTATION | json.loads(options))
            task = tasks.load(id, config)
    except ImportError as error:
        raise ConfigError("env.id", f"{id} cannot be made: {one_line(error)}", hint=INSTALL) from error
    except Exception as error:  # a task's own constructor may raise anything
        raise ConfigError("env.id", f"{id} cannot be made: {one_line(error)}") from error
    return task, config
