"""What is measured at every update: the columns of metrics.csv."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pgx.rounding import ROUNDING
from pgx.types import Episodes, Metrics

COLUMNS = {
    "update": "updates done, counting this one",
    "env_steps": "environment steps taken since the start of the run",
    "episodes": "episodes finished since the start of the run",
    "return_mean": "undiscounted return over the batch's episodes: mean",
    "return_std": "… standard deviation (n, not n − 1)",
    "return_min": "… minimum",
    "return_max": "… maximum",
    "return_recent": "mean return of the last 100 training episodes; empty until there are 100",
    "evaluation_return": "mean return of the policy after this update in `evaluate_episodes` episodes, the same at every "
    "evaluation; empty of updates that are not evaluated",
    "evaluation_std": "… standard deviation (n, not n − 1)",
    "length_mean": "steps an episode, mean over the batch",
    "policy_loss": "−(1/B) ΣΣ log π · A − c · entropy; means nothing by itself",
    "value_loss": "mean squared error of V in the last pass of its fit, in what the learner sees of returns (× reward_scale); "
    "empty without a value network",
    "entropy": "H(π(·|s)) in nats, mean over the batch's steps",
    "action_share": "share of the most frequent action over the batch's steps; 1: the policy does one thing only",
    "std_mean": "standard deviation of u, mean over the batch's steps and numbers; empty of discrete actions",
    "std_min": "… the least of them",
    "saturated_share": "share of the batch's action numbers at an end: cut off, or squashed to within a hundredth of it",
    "grad_norm": "Euclidean norm of the policy gradient, before clipping; of several gradient steps the first",
    "explained_variance": "1 − Var(G − b) / Var(G); empty without a critic or where Var(G) = 0",
    "kl": "KL(old ‖ new policy) in nats, mean over the batch's steps",
    "epochs": "passes through the batch that an update of several made, until `stop_at_kl`; empty of others",
    "clip_share": "share of the steps visited in them whose ratio π / π_old was clipped",
    "ratio_max": "the largest of these ratios",
    "halvings": "how often `trpo` halved its step; one more than it may: there was none. Empty of others",
    "grad_variance": "trace of the covariance of the per-episode gradients, every diagnose_every updates; of episodes in "
    "groups group_size times that of the groups' means, so that a B-th of it is the batch's in either case",
    "grad_snr": "(‖mean gradient‖² − grad_variance / B) / grad_variance: may be negative; empty where all gradients are equal",
}
"""Name and meaning, in the order of the file."""

NO_GRADIENT_QUALITY: Metrics = {"grad_variance": jnp.nan, "grad_snr": jnp.nan}


def of_episodes(episodes: Episodes) -> Metrics:
    """Returns and lengths of the batch; `env_steps` and `episodes` are this update's own."""
    returns, played = episodes.reward.sum(0), episodes.played
    return {
        "env_steps": episodes.length.sum(),
        "episodes": jnp.array(episodes.num_episodes),
        "return_mean": returns.mean(where=played),
        "return_std": returns.std(where=played),
        "return_min": returns.min(where=played, initial=jnp.inf),
        "return_max": returns.max(where=played, initial=-jnp.inf),
        "length_mean": episodes.length.mean(where=played),
    }


def gradient_quality(
    norm: Float[Array, ""], spread: Float[Array, ""], num_episodes: int | Int[Array, ""], group_size: int | None
) -> Metrics:
    """tr Σ = Σ_b ‖g_b − ḡ‖² / (B − 1), of which `spread` is the sum, and the signal-to-noise ratio of one episode's
    gradient. `norm` is that of the batch's gradient ḡ.

    ‖ḡ‖² − tr Σ / B is unbiased for ‖G‖² where the g_b are independent. Those of `leave_one_out` share their baselines: the
    expectation is (1 + 1/(B − 1)²) ‖G‖², 1.2 % too much at B = 10. Those of whitened weights share mean and spread, and
    have no G of a single episode; nor has the aggregation `batch_mean`, whose B / n is that of the batch. The ratio of two
    estimates is biased in any case, and less the more episodes there are.

    Episodes of a group of S depend on each other, by their start and by what they are compared with, and groups do not: then
    `spread` is over the K = B / S means of groups, tr Σ = S Σ_k ‖g_k − ḡ‖² / (K − 1), and ‖ḡ‖² − tr Σ / B unbiased. One
    group tells nothing: NaN.
    """
    B, size = jnp.asarray(num_episodes, norm.dtype), group_size or 1
    variance = size * spread / (B / size - 1)
    signal = norm**2 - variance / B
    apart = jnp.sqrt(variance) > ROUNDING * norm  # equal gradients have no ratio: rounding would be divided by rounding
    return {"grad_variance": variance, "grad_snr": jnp.where(apart, signal / variance, jnp.nan)}
