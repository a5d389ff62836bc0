"""The two posts' programs, slowly: one episode, one minibatch, one optimiser step after the other, in Python.

It shares nothing with published.py but the networks it is given, and is its oracle. What the posts compute by accident
is here what NumPy's rules make of it, (n,1) × (n,) included; `Program` says what a person would have changed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax


class Episode(NamedTuple):
    """What one episode of n steps leaves behind, as NumPy arrays."""

    obs: np.ndarray  # [n, O]
    action: np.ndarray  # [n]
    reward: np.ndarray  # [n]


class Learner(NamedTuple):
    policy: eqx.Module
    policy_state: optax.OptState
    critic: eqx.Module | None
    critic_state: optax.OptState | None


class Program(NamedTuple):
    """Post 1 as published; `POST_2` has the second's changes. Every field may be varied."""

    optimiser: optax.GradientTransformation = optax.adamw(3e-4)
    critic_optimiser: optax.GradientTransformation = optax.adamw(3e-4)
    weight: str = "step_reward"  # | window_reward_to_go | return | reward_to_go
    value_target: str = "psi"  # | reward
    gamma: float = 1.0
    minibatch: int = 4
    drop_last: bool = True
    broadcast: bool = True
    average: bool = True
    optimiser_steps: str = "minibatch"  # | frozen | batch
    entropy_coefficient: float = 0.0


POST_1 = Program()
POST_2 = Program(weight="window_reward_to_go", gamma=0.99)


def learn(learner: Learner, episode: Episode, program: Program) -> Learner:
    """The learner after one episode."""
    acted, sums = learner.policy, []
    whole = {
        "return": np.full(len(episode.reward), reward_to_go(episode.reward, program.gamma)[0]),
        "reward_to_go": reward_to_go(episode.reward, program.gamma),
    }
    for part in slices(len(episode.reward), program.minibatch, program.drop_last):
        obs, action, reward = (jnp.asarray(column[part]) for column in episode)
        if program.weight == "step_reward":
            psi = reward
        elif program.weight == "window_reward_to_go":
            psi = jnp.asarray(reward_to_go(episode.reward[part], program.gamma))
        else:
            psi = jnp.asarray(whole[program.weight][part])
        if program.optimiser_steps == "batch":
            sums.append(policy_gradient(acted, obs, action, psi, learner.critic, program))
            continue
        actor = acted if program.optimiser_steps == "frozen" else learner.policy
        gradient = policy_gradient(actor, obs, action, psi, learner.critic, program)
        learner = policy_step(learner, gradient, program)
        if learner.critic is not None:
            target = psi if program.value_target == "psi" else reward
            learner = critic_step(learner, obs, target, program)
    if sums:  # V would need the same; no intervention asks for it
        assert learner.critic is None
        learner = policy_step(learner, jax.tree.map(lambda *g: sum(g), *sums), program)
    return learner


def slices(steps: int, size: int, drop_last: bool) -> Iterator[slice]:
    """Consecutive steps, `size` at a time, in order; the last and smaller slice only if it is not dropped."""
    for first in range(0, steps, size):
        if first + size <= steps or not drop_last:
            yield slice(first, first + size)


def reward_to_go(reward: np.ndarray, gamma: float) -> np.ndarray:
    """[n] → [n], backwards."""
    total, series = np.float32(0), np.zeros(len(reward), np.float32)
    for t in reversed(range(len(reward))):
        total = np.float32(reward[t] + np.float32(gamma) * total)
        series[t] = total
    return series


@eqx.filter_jit
def policy_gradient(policy, obs, action, psi, critic, program):
    def objective(policy):
        log_probs = jax.nn.log_softmax(jax.vmap(policy.network)(obs))  # [n, A]
        chosen = jnp.take_along_axis(log_probs, action[:, None], axis=1)  # [n, 1], not [n]
        advantage = psi if critic is None else psi - jax.vmap(critic)(obs)[:, None]  # [n], or [n,n] from [n] − [n,1]
        if not program.broadcast:
            chosen = chosen[:, 0]
            advantage = psi if critic is None else psi - jax.vmap(critic)(obs)
        entropy = -(jnp.exp(log_probs) * log_probs).sum(1)
        over = jnp.mean if program.average else jnp.sum
        return -over(chosen * advantage) - program.entropy_coefficient * over(entropy)

    with jax.numpy_rank_promotion("allow"):  # the tests forbid what the posts do
        return eqx.filter_grad(objective)(policy)


@eqx.filter_jit
def critic_gradient(critic, obs, target, program):
    def squared_error(critic):
        value = jax.vmap(critic)(obs)
        if program.broadcast:
            value = value[:, None]  # a network with one output gives [n, 1]: minus [n] that is [n, n]
        return ((value - target) ** 2).mean()

    with jax.numpy_rank_promotion("allow"):
        return eqx.filter_grad(squared_error)(critic)


def policy_step(learner: Learner, gradient, program: Program) -> Learner:
    policy, state = step(learner.policy, gradient, learner.policy_state, program.optimiser)
    return learner._replace(policy=policy, policy_state=state)


def critic_step(learner: Learner, obs, target, program: Program) -> Learner:
    gradient = critic_gradient(learner.critic, obs, target, program)
    critic, state = step(learner.critic, gradient, learner.critic_state, program.critic_optimiser)
    return learner._replace(critic=critic, critic_state=state)


@eqx.filter_jit
def step(model, gradient, state, optimiser):
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimiser.update(gradient, state, eqx.filter(model, eqx.is_array))
    return eqx.apply_updates(model, updates), state


def start(policy: eqx.Module, critic: eqx.Module | None, program: Program) -> Learner:
    """A learner that has seen nothing yet."""
    policy_state = program.optimiser.init(eqx.filter(policy, eqx.is_array))
    critic_state = None if critic is None else program.critic_optimiser.init(eqx.filter(critic, eqx.is_array))
    return Learner(policy, policy_state, critic, critic_state)
