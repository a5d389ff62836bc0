"""The data that flows through a run, and the letters used everywhere.

S runs (lanes of a sweep), B episodes, T time steps, N steps of any episodes, A numbers a policy puts out, O observation.
Features come first and steps last, but for Episodes.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from pgx.scaling import Scaled, Scaling


class Episodes(eqx.Module):
    """B whole episodes, time first, padded to T steps.

    Time comes first because a rollout writes one time step of all episodes at once.
    """

    obs: Float[Array, "T B O"]
    action: Shaped[Array, "T B *A"]
    """As the policy gave it; what the environment makes of it is the environment's affair."""
    reward: Float[Array, "T B"]
    """0 where `mask` is False."""
    mask: Bool[Array, "T B"]
    """True on the steps that were taken: a prefix of each episode's column."""
    terminated: Bool[Array, " B"]
    """The environment ended the episode. False: a time limit cut it off (truncation)."""
    last_obs: Float[Array, "B O"]
    """s_L, what was seen after the last action; only bootstrapping looks at it."""
    count: Int[Array, ""] | None = None
    """How many of the B columns are episodes: the first so many, the others are empty. None: all of them."""
    group_size: int | None = eqx.field(static=True, default=None)
    """So many episodes side by side begin in the same state, and are compared with each other; None: they have nothing in
    common."""

    @property
    def num_episodes(self) -> int | Int[Array, ""]:
        """What a mean over episodes divides by; it is known when the program is compiled, unless there is a `count`."""
        return self.mask.shape[1] if self.count is None else self.count

    @property
    def played(self) -> Bool[Array, " B"] | None:
        """Which columns are episodes, for the `where` of a mean over them; None: all."""
        return None if self.count is None else jnp.arange(self.mask.shape[1]) < self.count

    @property
    def length(self) -> Int[Array, " B"]:
        """Steps in each episode."""
        return self.mask.sum(0)

    def seen(self, scaling: Scaling | None, reward_scale: float | Float[Array, ""]) -> "Episodes":
        """What the learner sees of them: observations as the policy saw them when it acted, rewards times `reward_scale`."""
        # a product alone would be contracted with whatever is added to it: times 1 must not change a bit
        reward = jnp.where(reward_scale == 1, self.reward, self.reward * reward_scale)
        view = dataclasses.replace(self, reward=reward)
        if scaling is None:
            return view
        return dataclasses.replace(view, obs=scaling(self.obs, axis=-1), last_obs=scaling(self.last_obs, axis=-1))


class Steps(NamedTuple):
    """What an update learns from: steps of any episodes, side by side, packed once (`blocks.to_blocks`)."""

    obs: Float[Array, "O *N"]
    action: Shaped[Array, "..."]
    weight: Float[Array, " *N"]
    """What multiplies ∇ log π."""
    returns: Float[Array, " *N"]
    """The reward-to-go, to which V is fitted."""
    baseline: Float[Array, " *N"]
    """b, of the critic before it is fitted to these steps."""


Estimator = Callable[[Float[Array, " T"], Float[Array, " T"], Bool[Array, " T"], Float[Array, ""]], Float[Array, " T"]]
"""Ψ of one episode from (reward, value, mask, bootstrap); callers vmap over episodes."""


class TrainState(eqx.Module):
    """All that a run carries from one update to the next. It holds no random key: keys come from
    (seed, update), so a resumed run needs none."""

    policy: PyTree
    policy_opt_state: optax.OptState
    critic: PyTree
    """What the critic learns (network and optimiser state); None where there is nothing to learn."""
    recent_returns: Float[Array, "100"]
    """Undiscounted returns of the last 100 training episodes, newest last; NaN until there are 100."""
    update: Int[Array, ""]
    """Updates done."""
    scaling: Scaling | None = None
    """Of the environment's observations, by those of all batches before this one; None: they are seen as they are."""
    num_episodes: Int[Array, ""] | None = None
    """Of the next batch, where batches are made by steps (`pgx.batch`); None: it is always the same."""

    @property
    def actor(self) -> PyTree:
        """What plays the environment: the policy, behind the scaling if there is one."""
        return self.policy if self.scaling is None else Scaled(self.policy, self.scaling)


Metrics = dict[str, Float[Array, ""] | Int[Array, ""]]
"""One row of metrics.csv (columns: `pgx.metrics.COLUMNS`); NaN where not applicable."""
