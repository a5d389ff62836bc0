"""A yardstick: REINFORCE with the reward-to-go as one would write it in JAX first. All episodes side by side for all 500
steps, the batch first in every array, one gradient over all of it, nothing measured."""

import time
from collections.abc import Callable
from typing import Any

UPDATES = 20


def plain(parts: Any, episodes: int) -> Callable[[], float]:
    """What gives env steps a second from the policy of `parts`, which does not move."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optax

    env, optimiser = parts.env, optax.adam(0.0)

    def rollout(policy, key):
        reset_key, key = jax.random.split(key)
        env_state, obs = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))

        def step(carry, key):
            env_state, obs, alive = carry
            action = jax.random.categorical(key, jax.vmap(policy)(obs))
            keys = jax.random.split(key, episodes)
            env_state, next_obs, reward, ended = jax.vmap(env.step)(keys, env_state, action)
            return (env_state, next_obs, alive & ~ended), (obs, action, jnp.where(alive, reward, 0.0), alive)

        start = env_state, obs, jnp.ones(episodes, bool)
        return jax.lax.scan(step, start, jax.random.split(key, env.spec.max_steps))[1]

    def loss(policy, obs, action, weight):
        log_probs = jax.nn.log_softmax(jax.vmap(jax.vmap(policy))(obs))
        return -(jnp.take_along_axis(log_probs, action[..., None], -1)[..., 0] * weight).sum() / episodes

    def update(carry, key):
        policy, opt_state = carry
        obs, action, reward, alive = rollout(policy, key)
        togo = jnp.cumsum(reward[::-1], 0)[::-1]
        gradient = jax.grad(loss)(policy, obs, action, jnp.where(alive, togo, 0.0))
        updates, opt_state = optimiser.update(gradient, opt_state)
        return (eqx.apply_updates(policy, updates), opt_state), alive.sum()

    policy = parts.state.policy.network
    run = jax.jit(lambda carry, key: jax.lax.scan(update, carry, jax.random.split(key, UPDATES)))
    arguments = (policy, optimiser.init(policy)), jax.random.key(0)
    jax.block_until_ready(run(*arguments))

    def measure() -> float:
        start = time.perf_counter()
        _, steps = jax.block_until_ready(run(*arguments))
        return int(steps.sum()) / (time.perf_counter() - start)

    return measure
