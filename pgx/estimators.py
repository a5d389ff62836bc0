"""Ψ_t: what multiplies ∇ log π(a_t|s_t). One function an estimator, each of one episode.

    ∇J ≈ 1/B Σ_b Σ_t ∇ log π(a_t|s_t) · (Ψ_t − b(s_t))

Every function takes (reward [T], value [T], mask [T], bootstrap []) and returns Ψ [T]; what it returns
where `mask` is False is never used. An episode of L steps fills a prefix of the T. `bootstrap` stands
for the return after the last step: V(s_L) where an episode was cut off by a time limit and
`bootstrap_truncated` is on, otherwise 0. Numbers such as gamma are keyword arguments, set in YAML.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def vanilla(
    reward: Float[Array, " T"],
    value: Float[Array, " T"],
    mask: Bool[Array, " T"],
    bootstrap: Float[Array, ""],
    *,
    gamma: float | Float[Array, ""],
) -> Float[Array, " T"]:
    """R(τ) = Σ_t γ^t r_t, the same number at every step (REINFORCE; Williams 1992, section 4)."""
    return_ = reward_to_go(reward, value, mask, bootstrap, gamma=gamma)[0]
    return jnp.full_like(reward, return_)


vanilla.discounted_from_start = True  # its γ^t are what `discount_power` would multiply by once more


def reward_to_go(
    reward: Float[Array, " T"],
    value: Float[Array, " T"],
    mask: Bool[Array, " T"],
    bootstrap: Float[Array, ""],
    *,
    gamma: float | Float[Array, ""],
) -> Float[Array, " T"]:
    """G_t = Σ_{k≥t} γ^{k−t} r_k (GPOMDP; Baxter & Bartlett 2001; Sutton & Barto 2018, eq. 3.9).

    For γ < 1 its expected gradient is that of the usual code, which omits γ^t: see `discount_power`.
    """
    return _backward(reward, mask, bootstrap, discount=gamma)


def lambda_return(
    reward: Float[Array, " T"],
    value: Float[Array, " T"],
    mask: Bool[Array, " T"],
    bootstrap: Float[Array, ""],
    *,
    gamma: float | Float[Array, ""],
    lam: float | Float[Array, ""],
) -> Float[Array, " T"]:
    """G^λ_t = r_t + γ [(1−λ) V(s_{t+1}) + λ G^λ_{t+1}] (Sutton & Barto 2018, section 12.1).

    Minus V(s_t) this is the generalised advantage estimate (Schulman et al. 2016, eq. 16).
    λ = 1 is the reward-to-go, λ = 0 the one-step target.
    """
    next_value = jnp.append(value[1:], bootstrap)
    next_value = jnp.where(jnp.append(mask[1:], False), next_value, bootstrap)
    return _backward(reward + gamma * (1 - lam) * next_value, mask, bootstrap, discount=gamma * lam)


def _backward(
    x: Float[Array, " T"], mask: Bool[Array, " T"], last: Float[Array, ""], *, discount: float | Float[Array, ""]
) -> Float[Array, " T"]:
    """y_t = x_t + discount · y_{t+1} with y_L = last; padding carries `last` through untouched."""

    def step(y, xs):
        x, taken = xs
        y = jnp.where(taken, x + discount * y, y)
        return y, y

    # unroll: the loop's overhead, not its arithmetic, is what costs on a CPU; 8 takes XLA 0.6 s longer and gains nothing
    return jax.lax.scan(step, last, (x, mask), reverse=True, unroll=4)[1]
