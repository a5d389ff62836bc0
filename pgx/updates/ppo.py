"""Proximal policy optimisation and what differs from it in a line: what a step weighs, once its probability has changed."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from pgx.updates.epochs import Epochs

LEAST, MOST = 0.01, 10.0
"""What a learning rate that adapts may be multiplied by: as rsl_rl has it, 1e-5 … 1e-2 around 1e-3."""


class PPO(Epochs):
    """max Σ min(ρA, clip(ρ, 1 ± ε) A) (Schulman et al. 2017, section 3): nothing is gained beyond 1 ± ε."""

    clip: float | Float[Array, ""]
    """ε."""
    adapt_to_kl: float | Float[Array, ""] | None
    """d: after an update with a KL of more than 2d the learning rate is divided by 1.5, after less than d/2 multiplied."""

    def weight(self, ratio, advantage):
        """ρA, and 0 where ρ has gone beyond 1 ± ε to the side that A asks for."""
        beyond = jnp.where(advantage > 0, ratio > 1 + self.clip, ratio < 1 - self.clip)
        return jnp.where(beyond, 0.0, ratio * advantage)

    def rate(self, factor):
        return None if self.adapt_to_kl is None else factor

    def adapted(self, factor, kl):
        if self.adapt_to_kl is None:
            return factor
        return jnp.clip(nudged(factor, self.adapt_to_kl / kl, beyond=2, by=1.5), LEAST, MOST)


class CISPO(PPO):
    """max Σ min(ρ, 1 + ε) A log π, the weight held constant (MiniMax 2025, arXiv 2506.13585): clipped steps keep a
    gradient."""

    def weight(self, ratio, advantage):
        return jnp.minimum(ratio, 1 + self.clip) * advantage


class PPOKL(Epochs):
    """max Σ ρA − β KL(old ‖ new) (Schulman et al. 2017, section 4): β doubles after an update with a KL of more than
    1.5d, and is halved after less than d/1.5."""

    kl_coefficient: float | Float[Array, ""]
    """β at first."""
    target_kl: float | Float[Array, ""]
    """d."""

    def weight(self, ratio, advantage):
        return ratio * advantage

    def penalty(self, old, new, factor):
        return self.kl_coefficient * factor * old.kl(new)

    def adapted(self, factor, kl):
        return nudged(factor, kl / self.target_kl, beyond=1.5, by=2)


def nudged(factor: Float[Array, ""], excess: Float[Array, ""], *, beyond: float, by: float) -> Float[Array, ""]:
    """Multiplied where `excess` is more than `beyond`, divided where it is less than 1 / `beyond`."""
    return factor * jnp.where(excess > beyond, by, jnp.where(excess < 1 / beyond, 1 / by, 1.0))
