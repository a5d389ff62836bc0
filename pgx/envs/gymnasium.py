"""Any environment of Gymnasium, stepped on the host, vectorised by Gymnasium itself."""

from collections.abc import Callable
from functools import partial
from inspect import signature

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec as Declared
from gymnasium.envs.registration import load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers.vector import FlattenObservation
from jaxtyping import Shaped

from pgx.envs.base import EnvSpec, HostEnv
from pgx.envs.checks import tell_mujoco_where
from pgx.spaces import Box, Discrete, Space


class GymnasiumEnv(HostEnv):
    """`num_lanes` copies of the environment `id`, through its own vector entry point where it has one that begins
    episodes again as Gymnasium's do, a step after their ends, and takes the limit and `kwargs`; else stepped one by one.

    Observations are flattened as Gymnasium does it: a picture row by row, a Discrete, Tuple or Dict one-hot.
    `max_steps` and `reward_threshold` take precedence over what the environment declares. `bound` is that of continuous
    actions (see `spaces.Box`), which are vectors here, whatever their shape is there.
    """

    example = "CartPole-v1"

    def __init__(
        self,
        id: str,
        num_lanes: int,
        max_steps: int | None = None,
        reward_threshold: float | None = None,
        kwargs: dict | None = None,
        bound: str = "clip",
    ):
        tell_mujoco_where(id)
        declared = gymnasium.spec(id.rpartition(":")[2])  # whose module, of `module:Name-v0`, the checks have imported
        limit = max_steps or declared.max_episode_steps
        envs = _side_by_side(declared, num_lanes, (kwargs or {}) | {"max_episode_steps": limit})
        space = envs.single_observation_space
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            envs = FlattenObservation(envs)
        self.num_lanes = num_lanes
        self._envs, self._actions = envs, envs.single_action_space
        self.spec = EnvSpec(
            id=id,
            obs_size=envs.single_observation_space.shape[0],
            actions=actions(self._actions, bound),
            max_steps=limit,
            reward_threshold=declared.reward_threshold if reward_threshold is None else reward_threshold,
        )

    def reset(self, seed):
        return np.array(self._envs.reset(seed=seed)[0], np.float32)

    def step(self, action):
        obs, reward, terminated, truncated, _ = self._envs.step(as_declared(self._actions, action))
        return np.array(obs, np.float32), reward, terminated, truncated


class Lanes(SyncVectorEnv):
    """Copies of one environment, stepped one after the other. What they say in their infos nobody here asks for, and to
    gather it takes a tenth of the time of a step of MuJoCo's."""

    def _add_info(self, vector_infos, env_info, env_num):
        return vector_infos


def actions(space: gymnasium.Space, bound: str) -> Space:
    """Of an environment with these actions; the checks let no other pass."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return Discrete(int(space.n))
    low, high = (tuple(np.asarray(end, np.float64).ravel().tolist()) for end in (space.low, space.high))
    return Box(low, high, bound)


def as_declared(space: gymnasium.Space, action: Shaped[np.ndarray, "B *A"]) -> Shaped[np.ndarray, "..."]:
    """The actions of B lanes as `space` has them: where it begins to count, its shape and its type."""
    if isinstance(space, gymnasium.spaces.Discrete):
        return action + int(space.start)
    return action.reshape(len(action), *space.shape).astype(space.dtype, copy=False)


def _side_by_side(declared: Declared, num_lanes: int, kwargs: dict) -> VectorEnv:
    """Through its own vector entry point where that will do."""
    if _takes(declared.vector_entry_point, kwargs):
        envs = gymnasium.make_vec(declared, num_lanes, **kwargs)
        if envs.metadata.get("autoreset_mode") == AutoresetMode.NEXT_STEP:
            return envs
        envs.close()
    return Lanes([partial(gymnasium.make, declared, **kwargs)] * num_lanes, copy=False)


def _takes(entry_point: str | Callable | None, kwargs: dict) -> bool:
    """Whether a vector entry point can be called with what the environment itself is made with."""
    if entry_point is None:
        return False
    create = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
    try:
        signature(create).bind(num_envs=1, **kwargs)
    except TypeError:
        return False
    return True
