"""b(s_t): what is subtracted from Ψ_t, and how it is learned. A critic sees a whole batch of episodes.

`baseline` comes before `fit`: an advantage made with a critic that has already been fitted to these very episodes is
biased. Values on padding are 0.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from pgx.blocks import Blocks, fold, from_blocks, to_blocks
from pgx.errors import ConfigError
from pgx.losses import value_loss
from pgx.networks import MLP
from pgx.optimiser import Optimiser
from pgx.rounding import explained_variance
from pgx.types import Episodes


class Critic(eqx.Module):
    """One that learns nothing and has no V(s) defines `baseline` alone."""

    def init(self, obs_size: int, key: PRNGKeyArray) -> PyTree:
        """What is learned: any pytree of arrays, or None."""
        return None

    def bootstrap(self, state: PyTree, obs: Float[Array, "B O"]) -> Float[Array, " B"]:
        """The return expected from here on."""
        raise ConfigError("bootstrap_truncated", "there is no V(s) to bootstrap with", hint="critic=value_network has one")

    @abc.abstractmethod
    def baseline(self, state: PyTree, episodes: Episodes, returns: Float[Array, "T B"]) -> Float[Array, "T B"]:
        """b of every step; `returns` is the reward-to-go."""

    def fit(self, state: PyTree, steps: Blocks, key: PRNGKeyArray) -> tuple[PyTree, Float[Array, ""]]:
        """(new state, loss or NaN) from the batch's `Steps`, packed."""
        return state, jnp.array(jnp.nan)

    def explained_variance(
        self, returns: Float[Array, "T B"], baseline: Float[Array, "T B"], mask: Bool[Array, "T B"]
    ) -> Float[Array, ""]:
        """1 − Var(G − b) / Var(G) over the steps of the batch; NaN where all G are equal."""
        return explained_variance(returns, baseline, mask)


class NoCritic(Critic):
    """b = 0."""

    def baseline(self, state, episodes, returns):
        return jnp.zeros_like(returns)

    def explained_variance(self, returns, baseline, mask):
        return jnp.array(jnp.nan)


class LeaveOneOut(Critic):
    """b = the mean return R(τ) of the other B − 1 episodes (Kool et al. 2019; RLOO): independent of
    this episode's actions, hence unbiased, and nothing to learn."""

    def baseline(self, state, episodes, returns):
        whole = returns[0]
        others = (whole.sum() - whole) / (whole.shape[0] - 1)
        return jnp.where(episodes.mask, others[None, :], 0.0)


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

    def baseline(self, state, episodes, returns):
        _, value = fold(lambda obs, _: ((), state[0](obs)), to_blocks(episodes.obs, episodes.mask))
        return from_blocks(value, episodes.mask)

    def fit(self, state, steps, key):
        network, opt_state = state

        def loss(network, block, position):
            weight = jnp.where(position < steps.steps, 1 / steps.steps, 0.0)
            return value_loss(network(block.obs), block.returns, weight)

        def of_block(block, position):
            return eqx.filter_value_and_grad(loss)(network, block, position), ()

        (total, gradient), _ = fold(of_block, steps)
        return self.optimiser.step(network, gradient, opt_state), total
