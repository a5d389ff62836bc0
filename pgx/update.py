"""From a batch of episodes to the next state and a row of metrics: the same for every variant and environment.

episodes → what the learner sees of them → returns, b → Ψ → A = Ψ − b → update of the policy → critic's fit →
statistics of the observations → metrics
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from pgx import metrics
from pgx.algorithm import Algorithm
from pgx.types import Episodes, Metrics, TrainState


def update(
    state: TrainState, episodes: Episodes, algorithm: Algorithm, key: PRNGKeyArray, diagnose: Bool[Array, ""]
) -> tuple[TrainState, Metrics]:
    """Learn from a batch, and keep the books. `diagnose` adds the gradient's variance to the metrics."""
    seen = episodes.seen(state.scaling, algorithm.reward_scale)
    learned = algorithm.update.learn(state, seen, algorithm, key, diagnose)
    moved = learned.moved
    returns = jnp.concatenate([state.recent_returns, episodes.reward.sum(0)])
    recent = jax.lax.dynamic_slice_in_dim(returns, episodes.num_episodes, len(state.recent_returns))
    scaling = None if state.scaling is None else state.scaling.after(episodes.obs, episodes.mask, episodes.count)
    following = None if algorithm.batch is None else algorithm.batch.after(episodes)
    new = TrainState(learned.policy, learned.policy_opt_state, learned.critic, recent, state.update + 1, scaling, following)
    row = metrics.of_episodes(episodes) | moved.columns | {
        "return_recent": recent.mean(),
        "policy_loss": moved.loss,
        "value_loss": learned.value_loss,
        "entropy": moved.entropy,
        "grad_norm": moved.grad_norm,
        "explained_variance": learned.explained_variance,
        "kl": moved.kl,
    }  # fmt: skip
    quality = metrics.gradient_quality(moved.batch_norm, moved.spread, episodes.num_episodes, episodes.group_size)
    return new, row | {name: jnp.where(diagnose, x, jnp.nan) for name, x in quality.items()}
