"""Several gradient steps for one batch, each step of the environment weighed by what its probability has become since.

    ρ = π(a|s) / π_old(a|s)      θ ← θ + optimiser(n/m · 1/B Σ_minibatch w(ρ, A) ∇ log π(a|s) + c ∇H)

An epoch goes once through the n steps of the batch's B episodes, with a gradient step for every minibatch of m of them,
and then fits V. The sum over a minibatch is multiplied by n/m: whatever its size, its expectation is the gradient that
the whole batch gives at this policy, and one epoch of one minibatch is the update `gradient`.

A method says w, and what holds it back: see ppo.py.
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from pgx.advantages import weigh, whitened
from pgx.blocks import Blocks, deal, fold, shuffled, to_blocks
from pgx.lanes import largest
from pgx.losses import policy_loss
from pgx.optimiser import OptimiserLike
from pgx.policies import Distribution
from pgx.updates.base import Learned, Moved, Update, packed
from pgx.updates.gradient import mean_kl, of_policy, quality


class State(NamedTuple):
    """What an update by epochs keeps."""

    optimiser: PyTree
    factor: Float[Array, ""]
    """What the KL of the updates so far has made of the number that adapts to it; 1 at first."""


class Old(NamedTuple):
    """Steps, and the policy that took them."""

    obs: Float[Array, "O *N"]
    action: Shaped[Array, "..."]
    weight: Float[Array, " *N"]
    pi: Distribution


class Told(NamedTuple):
    """What gradient steps say of themselves."""

    loss: Float[Array, ""]
    """Of the first of them, as the next."""
    grad_norm: Float[Array, ""]
    clipped: Float[Array, ""]
    """How often a step of the environment weighed other than ρA."""
    ratio_max: Float[Array, ""]


class Progress(NamedTuple):
    """What one epoch hands to the next."""

    epochs: Int[Array, ""]
    """Done."""
    policy: PyTree
    opt_state: PyTree
    critic: PyTree
    value_loss: Float[Array, ""]
    weight: Float[Array, "blocks N"]
    kl: Float[Array, ""]
    told: Told


class Epochs(Update):
    """An update by epochs. A method of one's own defines `weight`, and `penalty` and `adapted` where it has them."""

    optimiser: OptimiserLike
    entropy_coefficient: float | Float[Array, ""]
    epochs: int = eqx.field(static=True)
    """The most; V is fitted after each."""
    minibatch_steps: int | None = eqx.field(static=True)
    """The most environment steps behind one gradient step; None: all of the batch."""
    shuffle: bool = eqx.field(static=True)
    """Shuffle the steps before every epoch. Otherwise they are dealt to the minibatches, the same way at each."""
    whiten_minibatches: bool = eqx.field(static=True)
    """Weights to mean 0 and standard deviation 1 within each minibatch."""
    recompute_advantages: bool = eqx.field(static=True)
    """Weigh the steps anew before every epoch but the first, by V as it is then: fitted to these very episodes."""
    stop_at_kl: float | Float[Array, ""] | None
    """No further epoch once KL(old ‖ new policy) is more."""

    @abc.abstractmethod
    def weight(self, ratio: Float[Array, " N"], advantage: Float[Array, " N"]) -> Float[Array, " N"]:
        """w(ρ, A): what multiplies ∇ log π."""

    def penalty(self, old: Distribution, new: Distribution, factor: Float[Array, ""]) -> Float[Array, " N"] | None:
        """What is taken from the objective at each step; None: nothing."""
        return None

    def rate(self, factor: Float[Array, ""]) -> Float[Array, ""] | None:
        """What multiplies the optimiser's step; None: nothing."""
        return None

    def adapted(self, factor: Float[Array, ""], kl: Float[Array, ""]) -> Float[Array, ""]:
        """The factor after an update that has moved the policy so far."""
        return factor

    def init(self, policy):
        return State(self.optimiser.init(policy), jnp.ones(()))

    def learn(self, state, episodes, algorithm, key, diagnose):
        returns, baseline, weight = weigh(state.critic, episodes, algorithm)
        steps = packed(episodes, weight, returns, baseline)
        entropy, pi = _before(state.policy, steps)
        factor = state.policy_opt_state.factor

        def epoch(before: Progress) -> Progress:
            of_epoch = jax.random.fold_in(key, before.epochs)
            old = steps._replace(arrays=Old(steps.arrays.obs, steps.arrays.action, before.weight, pi))
            policy, opt_state, told = self._pass(before, old, factor, of_epoch)
            critic, value_loss = algorithm.critic.fit(before.critic, steps, of_epoch)
            weight, kl = before.weight, before.kl
            if self.recompute_advantages:
                weight = to_blocks(weigh(critic, episodes, algorithm).weight, episodes.mask, episodes.count).arrays
            if self.stop_at_kl is not None:
                kl = mean_kl(pi, policy, steps)
            after = Progress(before.epochs + 1, policy, opt_state, critic, value_loss, weight, kl, told)
            return jax.tree.map(lambda new, old: jnp.where(going(before), new, old), after, before)

        def going(progress: Progress) -> Bool[Array, ""]:
            more = progress.epochs < self.epochs
            return more if self.stop_at_kl is None else more & ~(progress.kl > self.stop_at_kl)

        nothing, nan = jnp.zeros(()), jnp.array(jnp.nan)
        start = Progress(
            epochs=jnp.array(0),
            policy=state.policy,
            opt_state=state.policy_opt_state.optimiser,
            critic=state.critic,
            value_loss=nan,
            weight=steps.arrays.weight,
            kl=nothing,
            told=Told(nan, nan, nothing, nothing),
        )
        end = jax.lax.while_loop(lambda progress: largest(going(progress)), epoch, start)

        kl = mean_kl(pi, end.policy, steps) if self.stop_at_kl is None else end.kl
        norm, spread = quality(of_policy(state.policy, self.entropy_coefficient), steps, diagnose)
        visits = (steps.steps * end.epochs).astype(jnp.float32)
        moved = Moved(
            loss=end.told.loss,
            entropy=entropy / steps.steps.astype(jnp.float32),
            grad_norm=end.told.grad_norm,
            batch_norm=norm,
            spread=spread,
            kl=kl,
            columns=pi.columns(steps.arrays.action, steps.taken)
            | {"epochs": end.epochs, "clip_share": end.told.clipped / visits, "ratio_max": end.told.ratio_max},
        )
        explained = algorithm.critic.explained_variance(returns, baseline, episodes.mask)
        opt_state = State(end.opt_state, self.adapted(factor, kl))
        return Learned(end.policy, opt_state, end.critic, moved, end.value_loss, explained)

    def _pass(self, before: Progress, old: Blocks, factor: Float[Array, ""], key: PRNGKeyArray) -> tuple[PyTree, PyTree, Told]:
        """(policy, state of the optimiser, what was told so far) after a gradient step for every minibatch."""
        order = shuffled(old.steps, key) if self.shuffle else None
        size = min(self.minibatch_steps or old.arrays.weight.size, old.arrays.weight.size)
        minibatches = -(-old.steps // size)

        def one_step(i, carry):
            policy, opt_state, told = carry
            minibatch = deal(old, minibatches, i, size, order)
            share = (1 / old.num_episodes) * (old.steps / minibatch.steps)
            (loss, clipped, gradient), ratio = self._gradient(policy, minibatch, share, factor)
            stepped, opt_state = self.optimiser.step(policy, gradient, opt_state)
            if (rate := self.rate(factor)) is not None:
                stepped = jax.tree.map(lambda new, old: old + rate * (new - old), stepped, policy)
            first = (before.epochs == 0) & (i == 0)
            told = Told(
                jnp.where(first, loss, told.loss),
                jnp.where(first, optax.global_norm(gradient), told.grad_norm),
                told.clipped + clipped,
                jnp.maximum(told.ratio_max, ratio.max()),
            )
            # in a pack the others may have more
            return jax.tree.map(lambda new, old: jnp.where(i < minibatches, new, old), (stepped, opt_state, told), carry)

        return jax.lax.fori_loop(0, largest(minibatches), one_step, (before.policy, before.opt_state, before.told))

    def _gradient(self, policy: PyTree, minibatch: Blocks, share: Float[Array, ""], factor: Float[Array, ""]):
        """((loss, how many are clipped, gradient), ρ of every step) of a minibatch."""
        if self.whiten_minibatches:
            weight = whitened(minibatch.arrays.weight, minibatch.taken)
            minibatch = minibatch._replace(arrays=minibatch.arrays._replace(weight=weight))

        def of_block(block, position):
            taken = position < minibatch.steps
            (loss, (clipped, ratio)), gradient = loss_and_gradient(policy, block, jnp.where(taken, share, 0.0), factor)
            return (loss, clipped.sum(where=taken, dtype=jnp.float32), gradient), jnp.where(taken, ratio, 0.0)

        loss_and_gradient = eqx.filter_value_and_grad(self._loss, has_aux=True)
        return fold(of_block, minibatch)

    def _loss(self, policy: PyTree, block: Old, share: Float[Array, " N"], factor: Float[Array, ""]):
        """(loss, (which weigh other than ρA, ρ)) of a block."""
        pi = policy(block.obs)
        log_prob = pi.log_prob(block.action)
        ratio = jnp.exp(jax.lax.stop_gradient(log_prob) - block.pi.log_prob(block.action))
        weight = self.weight(ratio, block.weight)
        loss = policy_loss(log_prob, share * weight) - self.entropy_coefficient * (share * pi.entropy()).sum()
        if (penalty := self.penalty(block.pi, pi, factor)) is not None:
            loss = loss + (share * penalty).sum()
        return loss, (weight != ratio * block.weight, ratio)


def _before(policy: PyTree, steps: Blocks) -> tuple[Float[Array, ""], Distribution]:
    """(Σ H(π(·|s)), π(·|s) of every step, packed as the steps are)."""

    def of_block(obs, position):
        pi = policy(obs)
        return jnp.where(position < steps.steps, pi.entropy(), 0.0).sum(), pi

    return fold(of_block, steps._replace(arrays=steps.arrays.obs))
