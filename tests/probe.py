"""Probe environments: so small that what must be learned is known, each asking for one ability more than the last.

An episode has one or two steps. One of two observations is drawn with equal chance for each step, and the
reward depends on the step, on which of the two it is, and on the action.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pgx.envs.base import EnvSpec, JittedEnv
from pgx.spaces import Box, Discrete


class Tables(NamedTuple):
    observation: list[list[float]]
    """[step][which]"""
    reward: list[list[list[float]]]
    """[step][which][action]"""


_NOTHING = [[0.0, 0.0], [0.0, 0.0]]

PROBES = {
    # V learns a constant
    "constant": Tables([[1.0, 1.0]], [[[1.0, 1.0], [1.0, 1.0]]]),
    # V learns to look: the reward is the observation
    "observation": Tables([[-1.0, 1.0]], [[[-1.0, -1.0], [1.0, 1.0]]]),
    # V learns to wait: 1 at the second step, so γ at the first
    "delayed": Tables([[0.0, 0.0], [1.0, 1.0]], [_NOTHING, [[1.0, 1.0], [1.0, 1.0]]]),
    # the policy learns which action pays
    "action": Tables([[1.0, 1.0]], [[[-1.0, 1.0], [-1.0, 1.0]]]),
    # the policy learns to look: action 1 pays where the observation is 1, action 0 where it is −1
    "action_by_observation": Tables([[-1.0, 1.0]], [[[1.0, -1.0], [-1.0, 1.0]]]),
}


class Probe(JittedEnv):
    """One of PROBES. The tables are traced, so that all of them share one compiled program."""

    observation: Float[Array, "T 2"]
    reward: Float[Array, "T 2 2"]
    length: Int[Array, ""]
    spec: EnvSpec = EnvSpec("Probe-v0", 1, Discrete(2), 2, None)

    def __init__(self, name: str):
        tables = PROBES[name]
        unused = self.spec.max_steps - len(tables.reward)
        self.observation = jnp.array(tables.observation + [[0.0, 0.0]] * unused)
        self.reward = jnp.array(tables.reward + [_NOTHING] * unused)
        self.length = jnp.array(len(tables.reward))

    def reset(self, key):
        return self._at(jnp.array(0), key)

    def step(self, key, state, action):
        t, which = state
        state, obs = self._at(t + 1, key)
        return state, obs, self.reward[t, which, action], t + 1 == self.length

    def _at(self, t, key):
        which = jax.random.bernoulli(key).astype(jnp.int32)
        return (t, which), self.observation[t, which][None]


class ContinuousProbe(Probe):
    """The same, where a real number is the action: above 0 it is action 1, and else action 0."""

    spec: EnvSpec = EnvSpec("ContinuousProbe-v0", 1, Box((-1.0,), (1.0,)), 2, None)

    def step(self, key, state, action):
        return super().step(key, state, (action[0] > 0).astype(jnp.int32))
