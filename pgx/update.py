"""One gradient step, for every variant and both kinds of environment.

    episodes → bootstrap, G → b → Ψ → A = Ψ − b → policy step → critic's fit → metrics
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from pgx import metrics
from pgx.blocks import Blocks, fold, segments, to_blocks
from pgx.critics import Critic
from pgx.estimators import reward_to_go
from pgx.losses import policy_loss
from pgx.optimiser import Optimiser
from pgx.rounding import differ, equal
from pgx.types import Episodes, Estimator, Metrics, Steps, TrainState


class Algorithm(eqx.Module):
    """What makes a variant, and the numbers it runs with. Floats are traced: changing one compiles nothing."""

    estimator: Estimator
    critic: Critic
    optimiser: Optimiser
    gamma: float | Float[Array, ""]
    entropy_coefficient: float | Float[Array, ""]
    """Adds c · (1/B) Σ_b Σ_t H(π(·|s_t)) to the objective. 0: off."""
    whiten: bool = eqx.field(static=True)
    """A ← (A − mean A) / sd A over the steps of the batch: itself a baseline, and biased by the batch."""
    bootstrap_truncated: bool = eqx.field(static=True)
    """At a time limit the return goes on with V(s_L) instead of ending."""
    discount_power: bool = eqx.field(static=True)
    """Weigh step t by γ^t, which the gradient of the discounted return has and usual code omits."""
    update: Callable[..., tuple[TrainState, Metrics]] = eqx.field(default_factory=lambda: jax.tree_util.Partial(update))
    """(state, episodes, algorithm, key, diagnose) → (state, metrics): `update` below, or a study's own way to learn."""


def update(
    state: TrainState, episodes: Episodes, algorithm: Algorithm, key: PRNGKeyArray, diagnose: Bool[Array, ""]
) -> tuple[TrainState, Metrics]:
    """advantage → policy step → critic's fit. `diagnose` adds the gradient's variance to the metrics."""
    bootstrap = jnp.zeros(episodes.terminated.shape)
    if algorithm.bootstrap_truncated:
        after = algorithm.critic.bootstrap(state.critic, episodes.last_obs)
        bootstrap = jnp.where(episodes.terminated, 0.0, jax.lax.stop_gradient(after))

    zeros = jnp.zeros_like(episodes.reward)
    returns = _each(reward_to_go, episodes, zeros, bootstrap, gamma=algorithm.gamma)
    baseline = algorithm.critic.baseline(state.critic, episodes, returns)
    psi = _each(algorithm.estimator, episodes, baseline, bootstrap)
    advantage = weights(psi - baseline, episodes.mask, algorithm)
    advantage = jnp.where(equal(psi, baseline, episodes.mask), 0.0, advantage)
    steps = to_blocks(Steps(episodes.obs, episodes.action, advantage, returns), episodes.mask)

    found, old, spread = _policy_gradient(state.policy, steps, episodes.mask, algorithm, diagnose)
    loss, entropy_of_episode, gradient = found
    policy, policy_opt_state = algorithm.optimiser.step(state.policy, gradient, state.policy_opt_state)
    critic, value_loss = algorithm.critic.fit(state.critic, steps, key)

    recent = jnp.concatenate([state.recent_returns, episodes.reward.sum(0)])[-len(state.recent_returns) :]
    new = TrainState(policy, policy_opt_state, critic, recent, state.update + 1)
    row = metrics.of_episodes(episodes) | old.columns(steps.arrays.action, steps.taken) | {
        "return_recent": recent.mean(),
        "policy_loss": loss,
        "value_loss": value_loss,
        "entropy": entropy_of_episode / episodes.length.mean(),
        "grad_norm": optax.global_norm(gradient),
        "explained_variance": algorithm.critic.explained_variance(returns, baseline, episodes.mask),
        "kl": _mean_kl(old, policy, steps),
    }
    quality = metrics.gradient_quality(row["grad_norm"], spread, episodes.mask.shape[1])
    row |= {name: jnp.where(diagnose, x, jnp.nan) for name, x in quality.items()}
    return new, row


def weights(
    advantage: Float[Array, "T B"], mask: Bool[Array, "T B"], algorithm: Algorithm
) -> Float[Array, "T B"]:
    """What multiplies ∇ log π: the advantage, 0 on padding, changed by whichever switches are on."""
    if algorithm.whiten:
        deviation = advantage - advantage.mean(where=mask)
        advantage = jnp.where(differ(advantage, mask), deviation / (advantage.std(where=mask) + 1e-8), 0.0)
    if algorithm.discount_power:
        advantage = advantage * algorithm.gamma ** jnp.arange(mask.shape[0], dtype=advantage.dtype)[:, None]
    return jnp.where(mask, advantage, 0.0)


def _each(estimator, episodes: Episodes, value, bootstrap, **numbers) -> Float[Array, "T B"]:
    """`estimator` on every episode."""
    over_episodes = jax.vmap(lambda *episode: estimator(*episode, **numbers), in_axes=(1, 1, 1, 0), out_axes=1)
    return over_episodes(episodes.reward, value, episodes.mask, bootstrap)


def _block_loss(policy, block: Steps, share, entropy_coefficient):
    """Loss of a block of N steps; `share` is 1/B on steps that were taken and 0 on padding."""
    pi = policy(block.obs)
    mean_entropy = (share * pi.entropy()).sum()
    loss = policy_loss(pi.log_prob(block.action), share * block.advantage) - entropy_coefficient * mean_entropy
    return loss, (mean_entropy, pi)


def _policy_gradient(policy, blocks, mask, algorithm, diagnose):
    """((loss, entropy, gradient), π(·|s) of every step, Σ_b ‖g_b − ḡ‖²): sums over steps, means over episodes. g_b is
    the gradient that episode b alone would give, and ḡ their mean; without `diagnose` the sum is 0.

    The same loop goes through the batch and then, to diagnose, through each of its episodes: one of its own for them
    would take as long to compile again.
    """
    num_episodes = mask.shape[1]
    # segment 0 is the batch, segment 1 + b is episode b
    first, last = (jnp.append(x, of_each) for x, of_each in zip((0, blocks.steps), segments(mask), strict=True))
    share = jnp.append(1 / num_episodes, jnp.ones(num_episodes))
    value_and_gradient = eqx.filter_value_and_grad(_block_loss, has_aux=True)
    of_steps = jax.jit(lambda block, share: value_and_gradient(policy, block, share, algorithm.entropy_coefficient))

    def of_segment(k, pi):
        def of_block(block, position):
            inside = (first[k] <= position) & (position < last[k])
            (loss, (entropy, pi)), gradient = of_steps(block, jnp.where(inside, share[k], 0.0))
            return (loss, entropy, gradient), pi

        return fold(of_block, blocks, (first[k], last[k]), pi)

    def one_more(k, carry):
        batch, pi, spread = carry
        found, pi = of_segment(k, pi)  # of an episode: what they were
        found, _ = ravel_pytree(found)
        batch = jnp.where(k == 0, found, batch)
        off = (found - batch)[2:]  # after the loss and the entropy
        return batch, pi, spread + (off**2).sum()

    shapes = jax.eval_shape(of_segment, 0, None)
    nothing, pi = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    nothing, unravel = ravel_pytree(nothing)
    count = jnp.where(diagnose, 1 + num_episodes, 1)
    batch, pi, spread = jax.lax.fori_loop(0, count, one_more, (nothing, pi, jnp.zeros(())))
    return unravel(batch), pi, spread


def _mean_kl(old, policy, blocks) -> Float[Array, ""]:
    """KL(old ‖ new) a step, over the steps of this batch."""

    def of_block(block, position):
        obs, old = block
        return jnp.where(position < blocks.steps, old.kl(policy(obs)), 0.0).sum(), ()

    return fold(of_block, Blocks((blocks.arrays.obs, old), blocks.steps))[0] / blocks.steps.astype(jnp.float32)
