"""Evaluation while training: what the policy returns after every so many updates, in episodes that are always the same.

They are common random episodes: the same first states, the same noise of the environment and of the actions at every
evaluation, and for every variant of one seed. Two policies are compared by what they do, and not by their luck. None of
it counts as training: no step, no statistic and no random number of training's depends on whether a run is evaluated.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from pgx.envs.base import JittedEnv
from pgx.lanes import largest
from pgx.rollout import rollout

COLUMNS = ("evaluation_return", "evaluation_std")
"""Of metrics.csv; empty after updates that are not evaluated."""
_STREAM = 0xE7A1
"""Folded into the run's stream for evaluation. `pgx.evaluate` takes the first few: what these episodes have chosen can be
judged by others."""


def common_key(stream: PRNGKeyArray) -> PRNGKeyArray:
    """Of the episodes of every evaluation; `stream` is the run's for evaluation."""
    return jax.random.fold_in(stream, _STREAM)


def summary(rewards: Float[Array, "T B"]) -> Float[Array, "2"]:
    """COLUMNS of these episodes: mean and standard deviation (n, not n − 1) of their undiscounted returns."""
    returns = rewards.sum(0)
    return jnp.stack([returns.mean(), returns.std()])


class Evaluation(eqx.Module):
    """When a policy is evaluated, and how."""

    every: Int[Array, ""]
    """Updates."""
    episodes: int = eqx.field(static=True)
    greedy: bool = eqx.field(static=True)
    """Always the most probable action, instead of sampling."""

    def next_after(self, update: Int[Array, ""]) -> Int[Array, ""]:
        """The update after which the next one is due."""
        return (update // self.every + 1) * self.every

    def __call__(
        self, env: JittedEnv, stream: PRNGKeyArray, policy: Callable, due: bool | Bool[Array, ""] = True
    ) -> Float[Array, "2"]:
        """COLUMNS of the episodes of `policy`; NaN, and nothing is played, where it is not `due`. Under vmap the lanes that
        are not due wait for those that are."""

        def play():
            episodes = rollout(env, policy, common_key(stream), self.episodes, self.greedy, going=due)
            return jnp.where(due, summary(episodes.reward), jnp.nan)

        return jax.lax.cond(largest(jnp.asarray(due)), play, lambda: jnp.full(len(COLUMNS), jnp.nan))
