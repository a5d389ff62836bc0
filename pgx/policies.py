"""π(·|s): a network that looks at observations, and the distribution of actions that its outputs are parameters of.

A policy is any pytree with `policy(obs, matmul) -> Distribution`, made by `make(obs_size, actions, key=key)`, and all
that the rest of the program knows of actions is what a Distribution says of them. Steps come last everywhere: on a CPU
the long axis must be the contiguous one.
"""

import abc
import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from pgx.networks import MLP
from pgx.spaces import Box, Discrete, Space


class Distribution(eqx.Module):
    """The distributions of N actions, side by side; an action is [*A], and N of them are [*A, N]."""

    reparameterised: ClassVar[bool] = False
    """Whether `sample` is a differentiable function of the parameters, the noise held."""

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

    def scores(self) -> dict[str, "Distribution"]:
        """The same actions with every log density whose score is unbiased, by name; "" is the plain one."""
        return {"": self}

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


class Gaussian(Distribution):
    """A independent normal numbers: raw u, which the environment bounds (see `spaces.Box`).

    With `tanh` the score, the ratio and the divergence stay the Gaussian's, as the Jacobian of tanh has no parameters
    (brax stores actions before tanh for the same reason); the entropy is that of u, not of the action.
    """

    reparameterised = True
    mean: Float[Array, "A *N"]
    log_std: Float[Array, "A *N"]
    actions: Box = eqx.field(static=True)

    def noise(self, key, times):
        return jax.random.normal(key, (times * self.mean.size,)).reshape(times, *self.mean.shape)

    def sample(self, noise: Float[Array, "A N"]) -> Float[Array, "A N"]:
        return self.mean + jnp.exp(self.log_std) * noise

    def mode(self) -> Float[Array, "A N"]:
        return self.mean

    def log_prob(self, action: Float[Array, "A N"]) -> Float[Array, " N"]:
        """Σ_i −½ ((u_i − μ_i) / σ_i)² − log σ_i − ½ log 2π."""
        return self._log_density(action).sum(0)

    def entropy(self) -> Float[Array, " N"]:
        """Σ_i log σ_i + ½ log 2πe: of u, whatever the environment makes of it."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(0)

    def kl(self, new: "Gaussian") -> Float[Array, " N"]:
        """Σ_i log σ'_i − log σ_i + (σ_i² + (μ_i − μ'_i)²) / 2σ'_i² − ½."""
        ratio = jnp.exp(2 * (self.log_std - new.log_std))
        distance = ((self.mean - new.mean) * jnp.exp(-new.log_std)) ** 2
        return (new.log_std - self.log_std + 0.5 * (ratio + distance - 1)).sum(0)

    def scores(self):
        """Where anything is cut off, it may be scored as such."""
        found = {"": Gaussian(self.mean, self.log_std, self.actions)}
        if self.actions.bound == "clip" and any(map(math.isfinite, self.actions.low + self.actions.high)):
            found["clipped score"] = ClippedGaussian(self.mean, self.log_std, self.actions)
        return found

    def columns(self, action, taken):
        """Mean and least standard deviation, and the share of numbers that the bound cuts off or squashes flat."""
        std = jnp.exp(self.log_std)
        taken = jnp.broadcast_to(taken, std.shape)
        columns = {"std_mean": std.mean(where=taken), "std_min": std.min(where=taken, initial=jnp.inf)}
        if self.actions.bound == "none":
            return columns
        low, high = (jnp.expand_dims(edge, range(1, std.ndim)) for edge in self.actions.edges)
        if self.actions.bound == "tanh":
            low, high = low * FLAT, high * FLAT
        return columns | {"saturated_share": ((action <= low) | (action >= high)).mean(where=taken)}

    def _log_density(self, action: Float[Array, "A N"]) -> Float[Array, "A N"]:
        z = (action - self.mean) * jnp.exp(-self.log_std)
        return -0.5 * z**2 - self.log_std - 0.5 * math.log(2 * math.pi)


FLAT = math.atanh(0.99)
"""From this |u| on tanh is within a hundredth of its end: what u is makes no difference any more."""


class ClippedGaussian(Gaussian):
    """The same actions under `env.bound=clip`, scored as what the environment is given (CAPG; Fujita & Maeda 2018,
    section 3): where u was cut off at an end, all that is known of it is that it lay beyond, and log P(u ≤ low) or
    log P(u ≥ high) takes the place of its log density. Its score is the expectation of the Gaussian's given the clipped
    action: as unbiased, and never of greater variance.
    """

    def log_prob(self, action: Float[Array, "A N"]) -> Float[Array, " N"]:
        low, high = (edge[:, None] for edge in self.actions.edges)
        std = jnp.exp(self.log_std)
        # an end that is infinite is never reached; 0 in its place keeps the gradient of what is not chosen finite
        finite_low, finite_high = jnp.where(jnp.isfinite(low), low, 0.0), jnp.where(jnp.isfinite(high), high, 0.0)
        below = jax.scipy.special.log_ndtr((finite_low - self.mean) / std)
        above = jax.scipy.special.log_ndtr((self.mean - finite_high) / std)
        inside = self._log_density(action)
        return jnp.where(action <= low, below, jnp.where(action >= high, above, inside)).sum(0)


class MLPPolicy(eqx.Module):
    """A multilayer perceptron, with the distribution that the environment's actions ask for."""

    network: MLP
    rho: Float[Array, " A"] | None
    """What the standard deviations are made of, where they are free; None of a Categorical, or where the network puts
    them out."""
    actions: Space = eqx.field(static=True)
    log_std_floor: float = eqx.field(static=True)
    clipped_score: bool = eqx.field(static=True)
    of_real_numbers: ClassVar = ("std", "log_std_floor", "state_dependent_std", "last_layer_scale", "clipped_score")
    """Settings that discrete actions have no use for: to set one with them is refused."""

    def __init__(
        self,
        obs_size: int,
        actions: Space,
        *,
        width: int,
        depth: int,
        activation: str,
        std: float = 1.0,
        log_std_floor: float = -5.0,
        state_dependent_std: bool = False,
        last_layer_scale: float = 0.01,
        clipped_score: bool = False,
        key: PRNGKeyArray,
    ):
        """The numbers from `std` on are a Gaussian's: its initial standard deviation in u, the floor of log σ, whether σ
        is a free vector or put out by the network, by what the last layer is made smaller at first, and whether
        clipped actions are scored as such (`ClippedGaussian`)."""
        self.actions, self.log_std_floor, self.clipped_score = actions, log_std_floor, clipped_score
        self.rho = None
        make = partial(MLP, obs_size, width=width, depth=depth, activation=activation, key=key)
        if isinstance(actions, Discrete):
            self.network = make(actions.n)
            return
        # softplus⁻¹, so that σ is `std` at first
        excess = math.log(std) - log_std_floor
        rho = log_std_floor + excess + math.log(-math.expm1(-excess))
        network = make((2 if state_dependent_std else 1) * actions.size)
        last = jax.tree.map(lambda x: last_layer_scale * x, network.layers[-1])
        if state_dependent_std:
            last = eqx.tree_at(lambda layer: layer.bias, last, last.bias.at[actions.size :].add(rho))
        else:
            self.rho = jnp.full(actions.size, rho, jnp.float32)
        self.network = eqx.tree_at(lambda network: network.layers[-1], network, last)

    def __call__(self, obs: Float[Array, "O N"], matmul: Callable = jnp.matmul) -> Distribution:
        """π(·|s) of N observations. A rollout passes a `matmul` for its loop of small steps: `networks.matmul_in_loop`."""
        out = self.network(obs, matmul)
        if isinstance(self.actions, Discrete):
            return Categorical(out)
        size = self.actions.size
        rho = out[size:] if self.rho is None else jnp.broadcast_to(self.rho[:, None], out.shape)
        # log σ = floor + softplus(ρ − floor): never below the floor, and never without a gradient that leads up again
        log_std = self.log_std_floor + jax.nn.softplus(rho - self.log_std_floor)
        family = ClippedGaussian if self.clipped_score else Gaussian
        return family(out[:size], log_std, self.actions)

    def hidden(self, obs: Float[Array, " O"]) -> list[Float[Array, " H"]]:
        """The output of every hidden layer, for `pgx.diagnose`."""
        return self.network.hidden(obs)
