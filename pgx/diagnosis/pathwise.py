"""The gradient of the expected return through the dynamics: a reference that no score function has a part in.

An action is a function of the policy's parameters and of noise, u = mean + std · noise for a Gaussian. Where reward and next
state are differentiable (`JittedEnv.differentiable`), the return of an episode with its noise held is one, too, and the
mean of its gradient over episodes is the gradient of the expected return. It is free of bias as the score function's is,
has nothing in common with it but the policy and the environment, and is often far less noisy. Not always: over many
steps the derivatives of chaotic dynamics explode, and then it is the worse of the two. Its own signal to noise ratio
tells.

Under `env.bound=clip` an action that is cut off has the derivative 0: right, as a little more or less of it changes
nothing. All else is the learner's own problem: γ, the scaled rewards, V(s_L) at a time limit if it bootstraps. Without
γ^t in its weights (`discount_power`) an update ascends Σ_t ∂E[G_t]/∂θ_t, θ_t being the parameters as step t uses them; so
does this: what a state hands back to the one before it is multiplied by γ, and no reward is.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PRNGKeyArray, PyTree

from pgx.envs.base import JittedEnv
from pgx.rollout import act


def possible(env: JittedEnv | None, policy: Callable, obs: Float[Array, "O N"]) -> bool:
    """Whether the environment and the policy's actions can be differentiated."""
    return env is not None and env.differentiable and jax.eval_shape(policy, obs).reparameterised


def gradients(
    env: JittedEnv,
    policy: Callable,
    key: PRNGKeyArray,
    num_episodes: int,
    *,
    gamma: float | Float[Array, ""],
    discount_power: bool,
    after_limit: Callable[[Float[Array, "O N"]], Float[Array, " N"]] | None = None,
) -> Float[Array, "N P"]:
    """Of N fresh episodes; `after_limit` is V, which bootstraps a return that the time limit cuts off."""
    of_reset, of_noise, of_steps = jax.random.split(key, 3)
    env_state, obs = jax.vmap(env.reset)(jax.random.split(of_reset, num_episodes))
    noise = jax.eval_shape(policy, obs.T).noise(of_noise, env.spec.max_steps)
    keys = jax.vmap(lambda key: jax.random.split(key, env.spec.max_steps))(jax.random.split(of_steps, num_episodes))

    def of_episode(env_state, obs, noise, keys):
        given = (env, env_state, obs, noise, keys, gamma, discount_power, after_limit)
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(jax.grad(objective)(policy, *given))])

    return jax.vmap(of_episode)(env_state, obs, jnp.moveaxis(noise, -1, 0), keys)


def objective(
    policy: Callable,
    env: JittedEnv,
    env_state: PyTree,
    obs: Float[Array, " O"],
    noise: Float[Array, "T ..."],
    keys: Key[Array, " T"],
    gamma: float | Float[Array, ""],
    discount_power: bool,
    after_limit: Callable | None,
) -> Float[Array, ""]:
    """A number of one episode whose derivative is what an update ascends; without γ it is the return."""

    @jax.checkpoint
    def step(carry, given):
        env_state, obs, last_obs, going, weight, total = carry
        noise, key = given
        action = act(policy, obs[:, None], noise[..., None], greedy=False)[0]
        *new, reward, ended = env.take(key, env_state, action)
        total = total + jnp.where(going, weight * reward, 0.0)
        if discount_power:
            weight = weight * gamma
        else:
            new = jax.tree.map(lambda x: fade(x, gamma), new)
        last_obs = jnp.where(going, new[1], last_obs)
        going = going & ~ended
        # after the end, the last step is taken again and again: there at least it has a derivative
        env_state, obs = jax.tree.map(lambda x, old: jnp.where(going, x, old), new, [env_state, obs])
        return (env_state, obs, last_obs, going, weight, total), None

    start = (env_state, obs, obs, jnp.array(True), jnp.ones(()), jnp.zeros(()))
    (_, _, last_obs, going, weight, total), _ = jax.lax.scan(step, start, (noise, keys))
    if after_limit is None:
        return total
    return total + jnp.where(going, weight * after_limit(last_obs[:, None])[0], 0.0)


def fade(x: Array, gamma: float | Float[Array, ""]) -> Array:
    """x, whose derivative counts γ times."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    fixed = jax.lax.stop_gradient(x)
    return fixed + gamma * (x - fixed)
