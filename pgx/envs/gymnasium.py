"""Any discrete-action environment of Gymnasium, stepped on the host, vectorised by Gymnasium itself."""

import gymnasium
import numpy as np
from gymnasium.wrappers.vector import FlattenObservation

from pgx.config import ConfigError
from pgx.envs.base import EnvSpec, HostEnv

_PACKAGES = {"ale_py": "ale-py", "Box2D": "gymnasium[box2d]", "mujoco": "gymnasium[mujoco]"}


class GymnasiumEnv(HostEnv):
    """`num_lanes` copies of the environment `id`, with its own vector entry point where it has one.

    Observations that are not a Box (Discrete, Tuple, Dict) are flattened, one-hot, as Gymnasium does it.
    `max_steps` and `reward_threshold` stand in where the environment declares none.
    """

    def __init__(
        self,
        id: str,
        num_lanes: int,
        max_steps: int | None = None,
        reward_threshold: float | None = None,
        kwargs: dict | None = None,
    ):
        declared = find(id)
        limit = max_steps or declared.max_episode_steps
        if limit is None:
            raise ConfigError("env.max_steps", f"{id} declares no time limit", "a whole number ≥ 1", "set env.max_steps")
        try:
            envs = gymnasium.make_vec(id, num_lanes, max_episode_steps=limit, **(kwargs or {}))
        except gymnasium.error.DependencyNotInstalled as error:
            raise ConfigError("env.id", f"{id} needs a package that is not installed", hint=str(error)) from error
        except ModuleNotFoundError as error:
            hint = f"pip install '{_PACKAGES.get(error.name, error.name)}'"
            raise ConfigError("env.id", f"{id} needs the package {error.name}", hint=hint) from error
        space = envs.single_action_space
        if not isinstance(space, gymnasium.spaces.Discrete):
            raise ConfigError("env.id", f"{id} has actions {space}", "discrete actions (the policy is categorical)")
        if not isinstance(envs.single_observation_space, gymnasium.spaces.Box):
            envs = FlattenObservation(envs)
        self._envs, self._first_action = envs, int(space.start)
        self.spec = EnvSpec(
            id=id,
            obs_shape=envs.single_observation_space.shape,
            num_actions=int(space.n),
            max_steps=limit,
            reward_threshold=declared.reward_threshold if reward_threshold is None else reward_threshold,
        )

    def reset(self, seed):
        return np.asarray(self._envs.reset(seed=seed % 2**31)[0], np.float32)

    def step(self, action):
        obs, reward, terminated, truncated, _ = self._envs.step(action + self._first_action)
        return np.asarray(obs, np.float32), reward, terminated, truncated


def find(id: str) -> gymnasium.envs.registration.EnvSpec:
    """The environment's declaration."""
    try:
        return gymnasium.spec(id)
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        known = sorted(gymnasium.registry)
        raise ConfigError("env.id", f"no Gymnasium environment {id!r}", known=known, value=id) from error
