"""Two doors to one Episodes: environments that compile, and environments on the host."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from pgx.envs.base import HostEnv, JittedEnv
from pgx.lanes import largest
from pgx.networks import matmul_in_loop
from pgx.types import Episodes


def sample(logits: Float[Array, "A B"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
    """a ~ softmax(logits) by inversion: one uniform number an action, drawn ahead of time.

    NaN logits give action 0 without a word: non-finite parameters are detected at every update.
    """
    cumulative = jnp.cumsum(jax.nn.softmax(logits, axis=0), axis=0)
    return (uniform[None, :] >= cumulative[:-1]).sum(0, dtype=jnp.int32)


def mode(logits: Float[Array, "A B"], uniform: Float[Array, " B"]) -> Int[Array, " B"]:
    """The most probable action, for evaluation."""
    return logits.argmax(0).astype(jnp.int32)


def rollout(
    env: JittedEnv,
    policy: Callable,
    key: PRNGKeyArray,
    num_episodes: int,
    choose: Callable = sample,
    going: bool | Bool[Array, ""] = True,
) -> Episodes:
    """`num_episodes` whole episodes side by side, in a loop that ends with the longest of them.

    Under vmap that is the longest of all lanes. A lane that is not `going` has episodes of no steps.
    `policy(obs, matmul)` gives the logits [A, B], and may multiply by `matmul`: see `matmul_in_loop`.
    """
    T, B = env.spec.max_steps, num_episodes
    keys = jax.random.split(key, 2 + B)
    step_key, action_key, reset_keys = keys[0], keys[1], keys[2:]
    env_state, obs = jax.vmap(env.reset, out_axes=(0, -1))(reset_keys)
    # all at once: a call of the generator inside the loop costs more than the numbers
    uniform = jax.random.uniform(action_key, (T * B,)).reshape(T, B)
    record = (obs.T, jnp.zeros(B, jnp.int32), jnp.zeros(B), jnp.zeros(B, bool))
    buffers = jax.tree.map(lambda x: jnp.zeros((T, *x.shape), x.dtype), record)

    def running(carry):
        t, _, _, alive, _, _ = carry
        return (t < T) & largest(alive.any())

    def step(carry):
        t, env_state, obs, alive, terminated, buffers = carry
        action = choose(policy(obs, matmul_in_loop), jax.lax.dynamic_index_in_dim(uniform, t, keepdims=False))
        keys = jax.random.split(jax.random.fold_in(step_key, t), B)
        env_state, next_obs, reward, ended = jax.vmap(env.step, out_axes=(0, -1, 0, 0))(keys, env_state, action)
        taken = (obs.T, action, jnp.where(alive, reward, 0.0), alive)
        buffers = jax.tree.map(lambda xs, x: jax.lax.dynamic_update_index_in_dim(xs, x, t, 0), buffers, taken)
        next_obs = jnp.where(alive[None], next_obs, obs)
        return t + 1, env_state, next_obs, alive & ~ended, terminated | (alive & ended), buffers

    start = (0, env_state, obs, jnp.full(B, going), jnp.zeros(B, bool), buffers)
    _, _, obs, _, terminated, buffers = jax.lax.while_loop(running, step, start)
    return Episodes(*buffers, terminated=terminated, last_obs=obs.T)


@partial(jax.jit, static_argnames=("structure", "choose"))
def _act(structure, choose, leaves, obs, uniform):
    return choose(jax.tree.unflatten(structure, leaves)(obs.T), uniform)


@partial(jax.jit, static_argnames="shape")
def _random_numbers(key, shape):
    reset_key, action_key = jax.random.split(key)
    return jax.random.bits(reset_key, dtype=jnp.uint32), jax.random.uniform(action_key, shape)


class HostRollout:
    """The other door: the environment steps on the host, the policy is one compiled call a step.

    With fewer lanes than episodes, a lane that is done begins the next one, until all have begun. All that begin are
    played to their ends, so that short ones are not preferred, and lanes wait less for the longest.
    """

    def __init__(self, env: HostEnv, num_episodes: int, choose: Callable = sample):
        self.env, self.num_episodes, self.choose = env, num_episodes, choose

    def __call__(self, policy: Callable, key: PRNGKeyArray) -> Episodes:
        """Padded to the time limit, so that no length of episode compiles anything.

        Raises RuntimeError if an episode goes on beyond its limit where another has to begin.
        """
        T, B, lanes = self.env.spec.max_steps, self.num_episodes, self.env.num_lanes
        most = -(-B // lanes) * (T + 1) - 1  # to begin again takes a step
        seed, uniform = jax.device_get(_random_numbers(key, (most, lanes)))
        obs = self.env.reset(int(seed))
        seen = np.zeros((most, *obs.shape), np.float32)
        actions, rewards = np.zeros((most, lanes), np.int32), np.zeros((most, lanes), np.float32)
        terminated, last_obs = np.zeros(B, bool), np.zeros((B, *obs.shape[1:]), np.float32)
        lane, start, length = np.zeros((3, B), int)  # of each episode
        episode, since = np.arange(lanes), np.zeros(lanes, int)  # what each lane plays
        leaves, structure = jax.tree.flatten(policy)  # once, and not at every step
        for n in range(most):
            seen[n] = obs
            actions[n] = action = np.asarray(_act(structure, self.choose, leaves, obs, uniform[n]))
            obs, rewards[n], ended, cut = self.env.step(action)
            over = (ended | cut | (n + 1 - since == T)) & (episode < B)
            if over.any():
                done = episode[over]
                lane[done], start[done], length[done] = np.flatnonzero(over), since[over], n + 1 - since[over]
                terminated[done], last_obs[done] = ended[over], obs[over]
                if length.all():
                    break
                episode[over], since[over] = episode.max() + 1 + np.arange(len(done)), n + 2
                if (over & (episode < B) & ~(ended | cut)).any():
                    raise RuntimeError(f"{self.env.spec.id} goes on after its limit of {T} steps")
        step = np.arange(T)[:, None]
        mask = step < length
        played = np.where(mask, start + step, 0), lane
        arrays = seen[played], actions[played], np.where(mask, rewards[played], 0), mask, terminated, last_obs
        return Episodes(*jax.device_put(arrays))
