"""How much of a policy's network is in use: its hidden units."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pgx.types import Episodes


def dead_units(activation: Float[Array, "n H"]) -> Float[Array, ""]:
    """The share of units whose output is the same in every state: nothing that they see changes anything."""
    return (jnp.ptp(activation, axis=0) <= 1e-6).mean()


def effective_rank(activation: Float[Array, "n H"]) -> Float[Array, ""]:
    """exp(H(σ / Σσ)), σ the singular values (Roy & Vetterli 2007): 1 … H; NaN where all is 0."""
    s = jnp.linalg.svd(activation, compute_uv=False)
    p = s / s.sum()
    return jnp.exp(-jax.scipy.special.xlogy(p, p).sum())


def some_states(episodes: Episodes, n: int) -> Float[Array, "n O"]:
    """n of the observations, evenly from all steps that were taken."""
    rank = jnp.cumsum(episodes.mask.reshape(-1))
    wanted = 1 + jnp.floor(jnp.arange(n, dtype=jnp.float32) * (rank[-1] / n)).astype(rank.dtype)
    return episodes.obs.reshape(-1, episodes.obs.shape[-1])[jnp.searchsorted(rank, wanted)]
