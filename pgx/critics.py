"""b(s_t): what is subtracted from Ψ_t, and how it is learned. A critic sees a whole batch of episodes.

`baseline` comes before `fit`: an advantage made with a critic that has already been fitted to these very episodes is
biased. Values on padding are 0.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from pgx.blocks import Blocks, deal, fold, from_blocks, to_blocks
from pgx.errors import ConfigError
from pgx.lanes import largest
from pgx.losses import clipped_value_loss, value_loss
from pgx.networks import MLP, Linear
from pgx.optimiser import OptimiserLike
from pgx.rounding import differ, explained_variance
from pgx.scaling import Moments
from pgx.types import Episodes


class Critic(eqx.Module):
    """One that learns nothing and has no V(s) defines `baseline` alone; to have one is to define `bootstrap`."""

    least_episodes: ClassVar[int] = 1
    """The smallest batch there is a baseline for."""
    needs_groups: ClassVar[bool] = False
    """It compares the episodes of a group, and asks for a `group_size`."""
    measured_from: ClassVar[str | None] = None
    """The setting that says which return counts as nothing, if there is one: the environment must have larger ones."""

    def init(self, obs_size: int, key: PRNGKeyArray) -> PyTree:
        """What is learned: any pytree of arrays, or None."""
        return None

    def bootstrap(self, state: PyTree, obs: Float[Array, "B O"]) -> Float[Array, " B"]:
        """The return expected from here on."""
        raise ConfigError("bootstrap_truncated", "there is no V(s) to bootstrap with", hint="critic=value_network has one")

    @property
    def has_value(self) -> bool:
        """Whether there is a V(s)."""
        return type(self).bootstrap is not Critic.bootstrap

    @abc.abstractmethod
    def baseline(self, state: PyTree, episodes: Episodes, returns: Float[Array, "T B"]) -> Float[Array, "T B"]:
        """b of every step; `returns` is the reward-to-go."""

    def divisor(self, episodes: Episodes, returns: Float[Array, "T B"]) -> Float[Array, " B"] | None:
        """What A = Ψ − b of each episode is divided by; None: nothing. This is no baseline: a number that depends on the
        episode's own actions, or on where it began, changes the expected gradient, and each critic says to what."""
        return None

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
    """b = the mean return R(τ) of the other B − 1 episodes, or of the others of the group (Kool et al. 2019; RLOO):
    independent of this episode's actions, hence unbiased, and nothing to learn."""

    least_episodes: ClassVar[int] = 2

    def baseline(self, state, episodes, returns):
        whole = returns[0]
        if (size := episodes.group_size) is not None:
            b = whole + (_group_mean(episodes, returns) - whole) * (size / (size - 1))
            return jnp.where(episodes.mask, b[None], 0.0)
        others = (whole.sum(where=episodes.played) - whole) / jnp.asarray(episodes.num_episodes - 1, whole.dtype)
        return jnp.where(episodes.mask, others[None, :], 0.0)


class GroupMean(Critic):
    """b = the mean return R(τ) of the episode's group, its own among them (Dr. GRPO; Liu et al. 2025).

    With Ψ = R(τ) the expected gradient is (G − 1)/G times the true one: R_i − μ is that much of what `LeaveOneOut` makes.
    """

    needs_groups: ClassVar[bool] = True

    def baseline(self, state, episodes, returns):
        return jnp.where(episodes.mask, _group_mean(episodes, returns)[None], 0.0)


class GroupStandardised(GroupMean):
    """A = (R − μ)/(σ + ε) within the group (GRPO; Shao et al. 2024), σ with G − 1 as its published programs have it.

    Biased, for σ depends on the episode's own actions as well: starts whose returns differ little count for more than
    they have in J. A group of equal returns has A = 0.
    """

    eps: float | Float[Array, ""]
    """ε, in what the learner sees of returns."""

    def divisor(self, episodes, returns):
        group = _by_group(episodes, returns)
        spread = jnp.where(differ(group, axis=1), group.std(1, ddof=1) + self.eps, jnp.inf)
        return _of_each(spread, episodes)


class MaxRL(GroupMean):
    """A = (R − μ)/(μ − r) within the group, r the return of a failure (MaxRL; Tajwar et al. 2026).

    Where R is r or more by one, with a chance of success p from this start, it ascends −Σ_{k<G} (1 − p)^k / k, the beginning
    of the series of log p: starts at which little succeeds count for more. A group of failures only, μ ≤ r, has A = 0.
    """

    measured_from: ClassVar[str | None] = "failure"
    failure: float | Float[Array, ""]
    """r, in what the learner sees of returns."""

    def divisor(self, episodes, returns):
        above = _by_group(episodes, returns).mean(1) - self.failure
        return _of_each(jnp.where(above > 0, above, jnp.inf), episodes)


def _by_group(episodes: Episodes, returns: Float[Array, "T B"]) -> Float[Array, "K G"]:
    """R(τ)."""
    return returns[0].reshape(-1, episodes.group_size)


def _of_each(of_group: Float[Array, " K"], episodes: Episodes) -> Float[Array, " B"]:
    return jnp.repeat(of_group, episodes.group_size)


def _group_mean(episodes: Episodes, returns: Float[Array, "T B"]) -> Float[Array, " B"]:
    """The mean of R(τ) over the episode's group; R(τ) itself where all are equal, for a difference would be rounding."""
    group = _by_group(episodes, returns)
    mean = jnp.where(differ(group, axis=1)[:, None], group.mean(1, keepdims=True), group)
    return mean.ravel()


class ValueNetwork(Critic):
    """b = V(s), fitted to the reward-to-go by mean squared error, in minibatches of the batch's steps."""

    optimiser: OptimiserLike
    passes: int = eqx.field(static=True)
    """How often a fit goes through all steps."""
    minibatch_steps: int | None = eqx.field(static=True)
    """The most environment steps behind one gradient step; None: all of the batch."""
    width: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)
    activation: str = eqx.field(static=True)
    standardise_target: bool = eqx.field(static=True, default=False)
    """The network learns (G − mean) / sd, by the running moments of G over all batches, which are a third part of the
    state and no parameter; what V is asked for is in the returns' own unit.

    The moments take a batch in between its baseline and its fit, so that no fit is in a unit that is not there yet: one
    of raw returns would leave Adam with squares that it takes thousands of steps to forget. The last layer is rescaled
    with them, so that V itself stays what it was and only a fit moves it (PopArt; van Hasselt et al. 2016); but for the
    first batch, before which V has learned nothing worth keeping. The optimiser's own state stays in the old unit, as it
    does there. All batches count alike (there: the later ones more), so that the unit settles."""
    clip: float | Float[Array, ""] | None = None
    """ε, in the unit that the network learns: no error counts for less than if V had moved by ε at most since before the
    fit. None: each counts for what it is."""

    def init(self, obs_size, key):
        network = MLP(obs_size, "scalar", width=self.width, depth=self.depth, activation=self.activation, key=key)
        learner = (network, self.optimiser.init(network))
        return (*learner, Moments.fresh(1)) if self.standardise_target else learner

    def bootstrap(self, state, obs):
        return self._value(state, obs.T)

    def baseline(self, state, episodes, returns):
        blocks = to_blocks(episodes.obs, episodes.mask, episodes.count)
        _, value = fold(lambda obs, _: ((), self._value(state, obs)), blocks)
        return from_blocks(value, episodes.mask)

    def _value(self, state: PyTree, obs: Float[Array, "O N"]) -> Float[Array, " N"]:
        network, _, *target = state
        value = network(obs)
        return target[0].mean[0] + target[0].std[0] * value if target else value

    def fit(self, state, steps, key):
        """Draws nothing: the steps are dealt to the minibatches. The loss is that of the last pass, in the returns' unit."""
        if not self.standardise_target:
            return self._fit(state, steps)
        network, opt_state, before = state
        returns = steps.arrays.returns
        target = before.after(returns[..., None], steps.taken)
        standardised = lambda x: (x - target.mean[0]) / target.std[0]
        learner = (_in_another_unit(network, before, target), opt_state)
        arrays = steps.arrays._replace(returns=standardised(returns), baseline=standardised(steps.arrays.baseline))
        learner, loss = self._fit(learner, steps._replace(arrays=arrays))
        return (*learner, target), loss * target.std[0] ** 2

    def _fit(self, learner: PyTree, steps: Blocks) -> tuple[PyTree, Float[Array, ""]]:
        """(network and optimiser state, loss)."""
        taken, arrays = steps.steps, steps.arrays
        pairs = steps._replace(arrays=(arrays.obs, arrays.returns, None if self.clip is None else arrays.baseline))
        size = min(self.minibatch_steps or arrays.returns.size, arrays.returns.size)
        minibatches = -(-taken // size)

        def one_step(i, carry):
            before, loss = carry
            minibatch = deal(pairs, minibatches, i, size)
            error, gradient = _value_gradient(before[0], minibatch, self.clip)
            after = self.optimiser.step(before[0], gradient, before[1])
            going = i < minibatches  # in a pack the others may have more
            after = jax.tree.map(lambda new, old: jnp.where(going, new, old), after, before)
            return after, loss + jnp.where(going, error * (minibatch.steps / taken), 0.0)

        def one_pass(_, carry):
            return jax.lax.fori_loop(0, largest(minibatches), one_step, (carry[0], jnp.zeros(())))

        return jax.lax.fori_loop(0, self.passes, one_pass, (learner, jnp.zeros(())))


def _in_another_unit(network: MLP, old: Moments, new: Moments) -> MLP:
    """A network of standardised values, with its last layer such that it says the same by `new` as it said by `old`;
    unchanged where `old` has seen nothing."""
    learned = old.count > 0
    factor = jnp.where(learned, old.std[0] / new.std[0], 1.0)
    shift = jnp.where(learned, (old.mean[0] - new.mean[0]) / new.std[0], 0.0)
    last = network.layers[-1]
    rescaled = Linear(last.weight * factor, last.bias * factor + shift)
    return eqx.tree_at(lambda network: network.layers[-1], network, rescaled)


def _value_gradient(network: MLP, blocks: Blocks, clip: float | Float[Array, ""] | None) -> tuple[Float[Array, ""], MLP]:
    """(mean squared error, its gradient) over the steps of blocks of (obs, G, V before the fit; None without `clip`)."""

    def loss(network, block, position):
        obs, returns, before = block
        share = jnp.where(position < blocks.steps, 1 / blocks.steps, 0.0)
        if clip is None:
            return value_loss(network(obs), returns, share)
        return clipped_value_loss(network(obs), before, returns, share, clip)

    found, _ = fold(lambda *block: (eqx.filter_value_and_grad(loss)(network, *block), ()), blocks)
    return found
