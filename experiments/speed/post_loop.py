"""The loop that the first post describes, one step at a time in Python, against one run of pgx."""

import time

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.speed.common import Figure, at_the_limit, interleave, ratios, throughput

MINIBATCH = 4
ENV_STEPS = 3_000


@eqx.filter_jit
def choose(policy, obs, key):
    return jax.random.categorical(key, policy(obs))


@eqx.filter_jit
def learn(policy, obs, actions, weights, optimiser, optimiser_state):
    def loss(policy):
        log_probs = jax.nn.log_softmax(jax.vmap(policy)(obs))
        return -(jnp.take_along_axis(log_probs, actions[:, None], axis=1)[:, 0] * weights).mean()

    gradient = eqx.filter_grad(loss)(policy)
    updates, optimiser_state = optimiser.update(gradient, optimiser_state, eqx.filter(policy, eqx.is_array))
    return eqx.apply_updates(policy, updates), optimiser_state


def episode(env, policy, key):
    """Observations, actions and rewards of one episode."""
    obs, _ = env.reset()
    steps, over = [], False
    while not over:
        key, subkey = jax.random.split(key)
        action = np.array(choose(policy, obs, subkey))
        next_obs, reward, terminated, truncated, _ = env.step(action)
        steps.append((obs, action, reward))
        obs, over = next_obs, terminated or truncated
    return [np.array(column) for column in zip(*steps, strict=True)]


class Loop:
    """Episode after episode, and after each an optimiser step for every four consecutive steps of it."""

    def __init__(self):
        self.env = gymnasium.make("CartPole-v1")
        self.key, key = jax.random.split(jax.random.key(0))
        self.policy = eqx.nn.MLP(4, 2, width_size=32, depth=2, key=key)
        self.optimiser = optax.adamw(3e-4)
        self.optimiser_state = self.optimiser.init(eqx.filter(self.policy, eqx.is_array))

    def __call__(self) -> float:
        """Env steps a second over the next 3,000."""
        env_steps, start = 0, time.perf_counter()
        while env_steps < ENV_STEPS:
            self.key, key = jax.random.split(self.key)
            obs, actions, rewards = episode(self.env, self.policy, key)
            weights = np.full(len(rewards), rewards.sum(), np.float32)
            for i in range(0, len(rewards) - MINIBATCH + 1, MINIBATCH):  # what is left over is dropped
                batch = [jnp.array(x[i : i + MINIBATCH]) for x in (obs, actions, weights)]
                self.policy, self.optimiser_state = learn(self.policy, *batch, self.optimiser, self.optimiser_state)
            env_steps += len(rewards)
        jax.block_until_ready(self.policy)
        return env_steps / (time.perf_counter() - start)


def run(repeat: int, seconds: float) -> list[Figure]:
    parts = at_the_limit("+variant=reward_to_go")  # first: it sets jax's threads
    loop = Loop()
    loop()
    contenders = {
        "the post's loop": loop,
        "pgx, reward_to_go, 10 episodes": lambda: throughput(parts.runner, parts.state, 5).steps_per_second,
    }
    values = interleave(contenders, repeat)
    post, ours = values.values()
    return [
        *(Figure(name, "env steps/s", x) for name, x in values.items()),
        Figure("pgx / the post's loop", "×", ratios(ours, post)),
    ]
