"""The contract of an environment. Two kinds, because some compile and some do not."""

import abc
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Shaped

from pgx.spaces import Space


class EnvSpec(NamedTuple):
    """What the rest of the program asks about an environment."""

    id: str
    obs_size: int
    """Observations are flat: no network here looks for anything in a picture."""
    actions: Space
    max_steps: int
    """The time limit T: an episode still running after T steps is truncated."""
    reward_threshold: float | None
    """Mean return that counts as solved, if the environment defines one."""


class JittedEnv(eqx.Module):
    """An environment written in JAX, one lane of it; callers vmap. Truncation is the caller's affair."""

    spec: eqx.AbstractVar[EnvSpec]
    differentiable: ClassVar[bool] = False
    """Whether an expected return may be differentiated through `step`: new state and reward are continuous in state and
    action, and have derivatives almost everywhere; whether the episode ends does not depend on them."""

    @abc.abstractmethod
    def reset(self, key: PRNGKeyArray) -> tuple[PyTree, Float[Array, " O"]]:
        """(state, observation)."""

    @abc.abstractmethod
    def step(
        self, key: PRNGKeyArray, state: PyTree, action: Shaped[Array, "*A"]
    ) -> tuple[PyTree, Float[Array, " O"], Float[Array, ""], Bool[Array, ""]]:
        """(state, observation, reward, terminated); after termination anything may follow."""

    def take(
        self, key: PRNGKeyArray, state: PyTree, action: Shaped[Array, "*A"]
    ) -> tuple[PyTree, Float[Array, " O"], Float[Array, ""], Bool[Array, ""]]:
        """`step`, for an action as a policy puts it out."""
        return self.step(key, state, self.spec.actions.to_env(action))

    def renderer(self) -> tuple[Callable[[PyTree], np.ndarray], float]:
        """(state → picture, rows of RGB; steps a second), for those that `pgx.play` does not find in Gymnasium."""
        raise NotImplementedError


class HostEnv(abc.ABC):
    """B lanes of an environment that runs in Python, stepped together."""

    spec: EnvSpec
    num_lanes: int

    @abc.abstractmethod
    def reset(self, seed: int) -> Float[np.ndarray, "B O"]:
        """Observations of fresh episodes in every lane."""

    @abc.abstractmethod
    def step(
        self, action: Shaped[np.ndarray, "B *A"]
    ) -> tuple[Float[np.ndarray, "B O"], Float[np.ndarray, " B"], Bool[np.ndarray, " B"], Bool[np.ndarray, " B"]]:
        """(observation, reward, terminated, truncated).

        In a lane that has ended, the next step begins a fresh episode whatever the action: the observation is its first,
        the reward counts for nothing, and both flags are False. With as many lanes as episodes that step is ignored.
        """
