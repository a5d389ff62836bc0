"""b(s_t): what is subtracted from Ψ_t. A critic sees a whole batch of episodes.

`learn` returns the values *from before* its own step: an advantage made with a critic that has already
fitted these very episodes is biased. Values on padding are 0.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from pgx.blocks import fold, from_blocks, to_blocks
from pgx.losses import value_loss
from pgx.networks import MLP
from pgx.optimiser import Optimiser
from pgx.types import Episodes


class Critic(eqx.Module):
    @abc.abstractmethod
    def init(self, obs_size: int, key: PRNGKeyArray) -> PyTree:
        """What is learned: any pytree of arrays, or None."""

    @abc.abstractmethod
    def bootstrap(self, state: PyTree, obs: Float[Array, "B O"]) -> Float[Array, " B"]:
        """The return expected from here on."""

    @abc.abstractmethod
    def learn(
        self, state: PyTree, episodes: Episodes, target: Float[Array, "T B"]
    ) -> tuple[PyTree, Float[Array, "T B"], Float[Array, ""]]:
        """(new state, b of every step by the old state, loss or NaN); `target` is the reward-to-go."""


    def explained_variance(
        self, target: Float[Array, "T B"], value: Float[Array, "T B"], mask: Bool[Array, "T B"]
    ) -> Float[Array, ""]:
        """1 − Var(G − b) / Var(G) over the steps of the batch; NaN where Var(G) = 0."""
        variance = target.var(where=mask)
        return jnp.where(variance > 0, 1 - (target - value).var(where=mask) / variance, jnp.nan)


class NoCritic(Critic):
    """b = 0."""

    def init(self, obs_size, key):
        return None

    def bootstrap(self, state, obs):
        return jnp.zeros(obs.shape[0])

    def learn(self, state, episodes, target):
        return state, jnp.zeros_like(target), jnp.array(jnp.nan)

    def explained_variance(self, target, value, mask):
        return jnp.array(jnp.nan)


class LeaveOneOut(Critic):
    """b = the mean return R(τ) of the other B − 1 episodes (Kool et al. 2019; RLOO): independent of
    this episode's actions, hence unbiased, and nothing to learn."""

    def init(self, obs_size, key):
        return None

    def bootstrap(self, state, obs):
        return jnp.zeros(obs.shape[0])

    def learn(self, state, episodes, target):
        returns = target[0]
        others = (returns.sum() - returns) / (returns.shape[0] - 1)
        return state, jnp.where(episodes.mask, others[None, :], 0.0), jnp.array(jnp.nan)


class ValueNetwork(Critic):
    """b = V(s), fitted to the reward-to-go by mean squared error over the steps of the batch,
    one gradient step an update."""

    optimiser: Optimiser
    width: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)

    def init(self, obs_size, key):
        network = MLP(obs_size, "scalar", width=self.width, depth=self.depth, activation=self.activation, key=key)
        return network, self.optimiser.init(network)

    def bootstrap(self, state, obs):
        return state[0](obs.T)

    def learn(self, state, episodes, target):
        network, opt_state = state
        blocks = to_blocks((episodes.obs, target), episodes.mask)

        def loss(network, block, weight):
            obs, target = block
            value = network(obs)
            return value_loss(value, target, weight), value

        def block_gradient(block, position):
            weight = jnp.where(position < blocks.steps, 1 / blocks.steps, 0.0)
            (summed, value), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(network, block, weight)
            return (summed, gradient), value

        (total, gradient), value = fold(block_gradient, blocks)
        return self.optimiser.step(network, gradient, opt_state), from_blocks(value, episodes.mask), total
