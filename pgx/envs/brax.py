"""Tasks of brax: physics that compiles."""

import json
from functools import cache
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp

from pgx.envs.base import EnvSpec, JittedEnv
from pgx.envs.brax_source import WITHOUT_PHYSICS
from pgx.envs.imports import without_warp
from pgx.envs.physics import as_others_write, held, strongly_typed
from pgx.envs.quiet import mujoco_to_log
from pgx.errors import ConfigError
from pgx.spaces import Box


class BraxEnv(JittedEnv):
    """The task `id` on one of brax's four kinds of physics; by default the one that the task itself takes.

    Every episode starts afresh: brax's own wrapper goes back to the first state that a lane ever had. Each action is kept
    for `action_repeat` steps, whose rewards are added; `max_steps` counts actions. `options` go to the task's
    constructor. Actions are in ±1, whatever the actuators' ranges are, to which the tasks scale them.
    """

    example: ClassVar[str] = "halfcheetah"
    packages: ClassVar[tuple[str, ...]] = ("brax", "mujoco", "mujoco-mjx")

    task: "Task" = eqx.field(static=True)
    action_repeat: int = eqx.field(static=True)
    spec: EnvSpec = eqx.field(static=True)

    def __init__(
        self,
        id: str,
        backend: str | None = None,
        max_steps: int = 1000,
        action_repeat: int = 1,
        reward_threshold: float | None = None,
        bound: str = "clip",
        options: dict[str, Any] | None = None,
    ):
        given = {} if backend is None else {"backend": backend}
        self.task, self.action_repeat = _load(id, json.dumps(given | (options or {}))), action_repeat
        size = self.task.env.action_size
        self.spec = EnvSpec(
            id=id,
            obs_size=jax.eval_shape(self.task.reset, jax.random.key(0))[1].size,
            actions=Box((-1.0,) * size, (1.0,) * size, bound),
            max_steps=max_steps,
            reward_threshold=reward_threshold,
        )

    def reset(self, key):
        return self.task.reset(key)

    def step(self, key, state, action):
        return held(lambda state: self.task.step(state, action), state, self.action_repeat)

    def renderer(self):
        from pgx.envs.stage import drawn_by_mujoco

        if self.spec.id in WITHOUT_PHYSICS:
            raise ConfigError("env.id", f"{self.spec.id} cannot be drawn: it has no physics", hint="pgx.evaluate needs none")
        draw = drawn_by_mujoco(self.task.env.sys.mj_model)
        picture = lambda state: draw(qpos=state.q, qvel=state.qd)
        return picture, 1 / float(self.task.env.dt * self.action_repeat)


class Task:
    """A task of brax as two functions, which are traced once however often a program calls them. What goes from step to
    step is the physics: all else in a state of brax's is made anew by every step."""

    def __init__(self, id: str, arguments: dict[str, Any]):
        with without_warp():
            from brax import envs

            mujoco_to_log()
            self.env = envs.get_environment(id, **arguments)
        self._state = envs.State
        self.reset, self.step = jax.jit(self._reset, inline=True), jax.jit(self._step, inline=True)

    def _reset(self, key):
        with as_others_write():
            state = self.env.reset(key)
        return strongly_typed((state.pipeline_state, state.obs))

    def _step(self, physics, action):
        nothing = jnp.zeros(())
        with as_others_write():
            state = self.env.step(self._state(physics, None, nothing, nothing), action)
        physics, obs, reward = strongly_typed((state.pipeline_state, state.obs, jnp.asarray(state.reward)))
        return physics, obs, reward, jnp.asarray(state.done) > 0.5


@cache  # one object a task: what is compiled for it serves the next run of the process, too
def _load(id: str, arguments: str) -> Task:
    return Task(id, json.loads(arguments))
