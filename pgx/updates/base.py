"""The contract of an update."""

import abc
from typing import NamedTuple

import equinox as eqx
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from pgx.advantages import weigh
from pgx.algorithm import Algorithm
from pgx.blocks import Blocks, to_blocks
from pgx.optimiser import OptimiserLike
from pgx.types import Episodes, Metrics, Steps, TrainState


class Moved(NamedTuple):
    """What an update says of itself; NaN where it does not apply."""

    loss: Float[Array, ""]
    entropy: Float[Array, ""]
    """H(π(·|s)) before the update, mean over steps."""
    grad_norm: Float[Array, ""]
    """Of the (first) gradient, before clipping."""
    batch_norm: Float[Array, ""]
    """‖ḡ‖ of the whole batch's gradient, whether or not it was followed; only where `diagnose` is True."""
    spread: Float[Array, ""]
    """Σ_k ‖g_k − ḡ‖² of that one over episodes, or groups of them; only where `diagnose` is True."""
    kl: Float[Array, ""]
    """KL(old ‖ new policy), mean over steps."""
    columns: Metrics
    """What the distributions of the actions say of themselves, and what else metrics.csv has of this update."""


class Learned(NamedTuple):
    """A batch's effect on policy and critic."""

    policy: PyTree
    policy_opt_state: optax.OptState
    critic: PyTree
    moved: Moved
    value_loss: Float[Array, ""]
    explained_variance: Float[Array, ""]


class Update(eqx.Module):
    """What is learned from a batch. Made by what conf/update/ names, with the first two fields added."""

    optimiser: eqx.AbstractVar[OptimiserLike]
    entropy_coefficient: eqx.AbstractVar[float | Float[Array, ""]]
    """c: c · (1/B) Σ_b Σ_t H(π(·|s_t)) is added to the objective."""

    def init(self, policy: PyTree) -> PyTree:
        """The update's own state before the first batch."""
        return self.optimiser.init(policy)

    @abc.abstractmethod
    def learn(
        self, state: TrainState, episodes: Episodes, algorithm: Algorithm, key: PRNGKeyArray, diagnose: Bool[Array, ""]
    ) -> Learned:
        """Of policy and critic, from B whole episodes; with `diagnose`, the gradient's spread as well."""


def packed(
    episodes: Episodes, weight: Float[Array, "T B"], returns: Float[Array, "T B"], baseline: Float[Array, "T B"]
) -> Blocks:
    """The `Steps` of these episodes, side by side."""
    steps = Steps(episodes.obs, episodes.action, weight, returns, baseline)
    return to_blocks(steps, episodes.mask, episodes.count)._replace(group_size=episodes.group_size)


class PolicyUpdate(Update):
    """What N weighted steps do to the policy. Weights, policy and critic come one after the other."""

    @abc.abstractmethod
    def __call__(
        self, policy: PyTree, state: PyTree, steps: Blocks, key: PRNGKeyArray, diagnose: Bool[Array, ""]
    ) -> tuple[PyTree, PyTree, Moved]:
        """(new policy, new state, what happened) from the batch's `Steps`, packed."""

    def learn(self, state, episodes, algorithm, key, diagnose):
        returns, baseline, weight = weigh(state.critic, episodes, algorithm)
        steps = packed(episodes, weight, returns, baseline)
        policy, opt_state, moved = self(state.policy, state.policy_opt_state, steps, key, diagnose)
        critic, value_loss = algorithm.critic.fit(state.critic, steps, key)
        explained = algorithm.critic.explained_variance(returns, baseline, episodes.mask)
        return Learned(policy, opt_state, critic, moved, value_loss, explained)
