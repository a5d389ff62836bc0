"""π(·|s): a network that looks at observations, and the distribution of actions that its outputs are parameters of.

A policy is any pytree with `policy(obs, matmul) -> Distribution`, made by `make(obs_size, actions, key=key)`, and all
that the rest of the program knows of actions is what a Distribution says of them. Steps come last everywhere: on a CPU
the long axis must be the contiguous one.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from pgx.networks import MLP
from pgx.spaces import Space


class Distribution(eqx.Module):
    """The distributions of N actions, side by side; an action is [*A], and N of them are [*A, N]."""

    @abc.abstractmethod
    def noise(self, key: PRNGKeyArray, times: int) -> Float[Array, "times *A N"]:
        """Random numbers for `times` calls of `sample`, all at once: in a loop a call of the generator costs more than
        the numbers. Only the shapes of the parameters count here."""

    @abc.abstractmethod
    def sample(self, noise: Float[Array, "*A N"]) -> Shaped[Array, "*A N"]:
        """Actions, drawn with the noise of one time."""

    @abc.abstractmethod
    def mode(self) -> Shaped[Array, "*A N"]:
        """The most probable actions."""

    @abc.abstractmethod
    def log_prob(self, action: Shaped[Array, "*A N"]) -> Float[Array, " N"]:
        """log π(a|s), in nats."""

    @abc.abstractmethod
    def entropy(self) -> Float[Array, " N"]:
        """H(π(·|s)), in nats."""

    @abc.abstractmethod
    def kl(self, new: "Distribution") -> Float[Array, " N"]:
        """KL(self ‖ new), in nats and in closed form."""

    def support(self) -> Shaped[Array, "K *A"] | None:
        """Every action there is; None where there are too many to take each."""
        return None

    def columns(self, action: Shaped[Array, "..."], taken: Bool[Array, "*N"]) -> dict[str, Float[Array, ""]]:
        """What metrics.csv says of these distributions and the actions drawn from them, over the steps `taken`."""
        return {}


class Categorical(Distribution):
    """softmax(logits) over the actions 0 … A − 1."""

    logits: Float[Array, "A *N"]

    def noise(self, key, times):
        N = self.logits.shape[1]
        return jax.random.uniform(key, (times * N,)).reshape(times, N)

    def sample(self, noise: Float[Array, " N"]) -> Int[Array, " N"]:
        """By inversion: one uniform number an action. NaN logits give action 0 without a word: non-finite parameters
        are detected at every update."""
        cumulative = jnp.cumsum(jax.nn.softmax(self.logits, axis=0), axis=0)
        return (noise[None, :] >= cumulative[:-1]).sum(0, dtype=jnp.int32)

    def mode(self) -> Int[Array, " N"]:
        return self.logits.argmax(0).astype(jnp.int32)

    def log_prob(self, action: Int[Array, " N"]) -> Float[Array, " N"]:
        """By a one-hot product: the gradient of a gather is a scatter, which is slow on a CPU."""
        return (self._log_probs * jax.nn.one_hot(action, self.logits.shape[0], axis=0)).sum(0)

    def entropy(self) -> Float[Array, " N"]:
        """−Σ_a π log π."""
        return -(jnp.exp(self._log_probs) * self._log_probs).sum(0)

    def kl(self, new: "Categorical") -> Float[Array, " N"]:
        """Σ_a π (log π − log new)."""
        return (jnp.exp(self._log_probs) * (self._log_probs - new._log_probs)).sum(0)

    def support(self) -> Int[Array, " A"]:
        return jnp.arange(self.logits.shape[0])

    def columns(self, action, taken):
        """The share of the most frequent action."""
        count = jax.vmap(lambda a: (taken & (action == a)).sum())(self.support())
        return {"action_share": count.max() / taken.sum()}

    @property
    def _log_probs(self) -> Float[Array, "A *N"]:
        return jax.nn.log_softmax(self.logits, axis=0)


class MLPPolicy(eqx.Module):
    """A multilayer perceptron with the distribution that the environment's actions ask for."""

    network: MLP

    def __init__(self, obs_size: int, actions: Space, *, width: int, depth: int, activation: str, key: PRNGKeyArray):
        self.network = MLP(obs_size, actions.n, width=width, depth=depth, activation=activation, key=key)

    def __call__(self, obs: Float[Array, "O N"], matmul: Callable = jnp.matmul) -> Distribution:
        """π(·|s) of N observations. A rollout passes a `matmul` for its loop of small steps: `networks.matmul_in_loop`."""
        return Categorical(self.network(obs, matmul))

    def hidden(self, obs: Float[Array, " O"]) -> list[Float[Array, " H"]]:
        """The output of every hidden layer, for `pgx.diagnose`."""
        return self.network.hidden(obs)
