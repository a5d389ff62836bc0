"""A compiled environment on the host, one step at a time, where somebody wants to see it."""

from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import numpy as np

from pgx.envs.base import JittedEnv
from pgx.spaces import Discrete

PICTURE = (320, 480)
"""Height and width of MuJoCo's pictures, in pixels."""


class Stage(gymnasium.Env):
    """One lane of a compiled environment that draws itself."""

    def __init__(self, env: JittedEnv):
        actions = env.spec.actions
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (env.spec.obs_size,))
        self.action_space = (
            gymnasium.spaces.Discrete(actions.n)
            if isinstance(actions, Discrete)
            else gymnasium.spaces.Box(-np.inf, np.inf, (actions.size,))
        )
        self._draw, steps_a_second = env.renderer()
        self.metadata = {"render_fps": steps_a_second}
        self._start, self._go_on, self._max_steps = jax.jit(env.reset), jax.jit(env.step), env.spec.max_steps

    def reset(self, *, seed=None, options=None):
        self._key = jax.random.key(seed)
        self._state, obs = self._start(self._key)
        self._steps = 0
        return np.asarray(obs), {}

    def step(self, action):
        self._steps += 1
        key = jax.random.fold_in(self._key, self._steps)
        self._state, obs, reward, terminated = self._go_on(key, self._state, action)
        return np.asarray(obs), float(reward), bool(terminated), self._steps == self._max_steps, {}

    def render(self):
        return self._draw(jax.device_get(self._state))


def drawn_by_mujoco(model: Any) -> Callable[..., np.ndarray]:
    """A function from a state of this model, `qpos=…, qvel=…` and others by their names, to its picture from the model's
    first camera."""
    import mujoco

    data, artist = mujoco.MjData(model), mujoco.Renderer(model, *PICTURE)

    def draw(**state: np.ndarray) -> np.ndarray:
        for name, x in state.items():
            getattr(data, name)[:] = x
        mujoco.mj_forward(model, data)
        artist.update_scene(data, camera=0 if model.ncam else -1)
        return artist.render()

    return draw
