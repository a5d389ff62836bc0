"""V of the policy at a checkpoint, fitted to episodes that are used for nothing else."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from pgx.advantages import each_episode
from pgx.blocks import fold, from_blocks, to_blocks
from pgx.critics import Critic
from pgx.estimators import reward_to_go
from pgx.rounding import differ
from pgx.types import Episodes

Value = Callable[[Float[Array, "O N"]], Float[Array, " N"]]
"""V(s)."""

RANDOM_FEATURES = 64
RIDGE = 1e-3


class RidgeValue(eqx.Module):
    """V(s) = c · φ(s) with φ the standardised observation and random tanh units of it."""

    centre: Float[Array, " O"]
    scale: Float[Array, " O"]
    weight: Float[Array, "F O"]
    bias: Float[Array, " F"]
    coefficient: Float[Array, " D"]

    def features(self, obs: Float[Array, "O N"]) -> Float[Array, "D N"]:
        z = (obs - self.centre[:, None]) / self.scale[:, None]
        return jnp.concatenate([jnp.ones((1, z.shape[1])), z, jnp.tanh(self.weight @ z + self.bias[:, None])])

    def __call__(self, obs: Float[Array, "O N"]) -> Float[Array, " N"]:
        return self.coefficient @ self.features(obs)


def fit_value(episodes: Episodes, gamma: float | Float[Array, ""], key: PRNGKeyArray) -> RidgeValue:
    """V of the policy that played these episodes: ridge regression of G on φ(s), in closed form. A network would need
    hundreds of gradient steps, a number to choose, and would be another V at every checkpoint."""
    zeros = jnp.zeros_like(episodes.reward)
    target = each_episode(reward_to_go, episodes, zeros, jnp.zeros(zeros.shape[1]), gamma=gamma)
    taken = jnp.broadcast_to(episodes.mask[..., None], episodes.obs.shape)
    centre, scale = episodes.obs.mean((0, 1), where=taken), episodes.obs.std((0, 1), where=taken)
    scale = jnp.where(differ(episodes.obs, taken, (0, 1)), scale, 1.0)
    of_weight, of_bias = jax.random.split(key)
    O, F = episodes.obs.shape[-1], RANDOM_FEATURES
    weight = jax.random.normal(of_weight, (F, O)) / jnp.sqrt(O)
    bias = jax.random.normal(of_bias, (F,))
    empty = RidgeValue(centre, scale, weight, bias, jnp.zeros(1 + O + F))

    blocks = to_blocks((episodes.obs, target), episodes.mask)

    def of_block(block, position):
        obs, target = block
        share = jnp.where(position < blocks.steps, 1 / blocks.steps, 0.0)
        features = empty.features(obs)
        weighted = features * share[None]
        return (weighted @ features.T, weighted @ target), ()

    (square, product), _ = fold(of_block, blocks)
    ridge = RIDGE * jnp.eye(len(product)).at[0, 0].set(0.0)  # the mean of G is not shrunk
    coefficient = jnp.linalg.solve(square + ridge, product)
    return eqx.tree_at(lambda v: v.coefficient, empty, coefficient)


def values_of(value: Value, episodes: Episodes) -> tuple[Float[Array, "T N"], Float[Array, " N"]]:
    """V of every step, 0 on padding, and V(s_L)."""
    _, found = fold(lambda obs, _: ((), value(obs)), to_blocks(episodes.obs, episodes.mask))
    return from_blocks(found, episodes.mask), value(episodes.last_obs.T)


def own_value(critic: Critic, state: PyTree) -> Value | None:
    """The V of a run, if it has one."""
    return (lambda obs: critic.bootstrap(state, obs.T)) if critic.has_value else None
