"""A package of a person's own, as docs/own_parts.md describes it: written to a folder by the tests."""

from pathlib import Path

PARTS = '''
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from pgx.critics import Critic
from pgx.envs.base import EnvSpec, HostEnv, JittedEnv
from pgx.estimators import reward_to_go
from pgx.policies import Categorical
from pgx.spaces import Discrete
from pgx.updates.gradient import GradientStep


def scaled(reward, value, mask, bootstrap, *, gamma: float, scale: float = 1.0, kind: str = "sum"):
    return scale * reward_to_go(reward, value, mask, bootstrap, gamma=gamma)


class Linear(Critic):
    """V(s) = w · s + c, moved towards the mean return."""

    rate: float

    def init(self, obs_size, key):
        return jnp.zeros(obs_size), jnp.zeros(())

    def bootstrap(self, state, obs):
        return obs @ state[0] + state[1]

    def baseline(self, state, episodes, returns):
        return jnp.where(episodes.mask, episodes.obs @ state[0] + state[1], 0.0)

    def fit(self, state, steps, key):
        mean = jnp.where(steps.taken, steps.arrays.returns, 0.0).sum() / steps.steps.astype(float)
        return (state[0], state[1] + self.rate * (mean - state[1])), (mean - state[1]) ** 2


class Shallow(eqx.Module):
    layers: list

    def __init__(self, obs_size, actions, *, widths: list[int], key):
        sizes = [obs_size, *widths, actions.n]
        keys = jax.random.split(key, len(sizes) - 1)
        self.layers = [eqx.nn.Linear(a, b, key=k) for a, b, k in zip(sizes, sizes[1:], keys)]

    def __call__(self, obs, matmul=jnp.matmul):
        for layer in self.layers[:-1]:
            obs = jnp.tanh(matmul(layer.weight, obs) + layer.bias[:, None])
        return Categorical(matmul(self.layers[-1].weight, obs) + self.layers[-1].bias[:, None])


class Clipped(GradientStep):
    most: float

    def __call__(self, policy, state, steps, key, diagnose):
        weight = jnp.clip(steps.arrays.weight, -self.most, self.most)
        return super().__call__(policy, state, steps._replace(arrays=steps.arrays._replace(weight=weight)), key, diagnose)


class Plain(eqx.Module):
    """An optimiser that owes nothing to optax."""

    rate: float

    def init(self, model):
        return ()

    def step(self, model, gradient, state):
        return jax.tree.map(lambda x, g: x - self.rate * g if eqx.is_inexact_array(x) else x, model, gradient), state


class Corridor(JittedEnv):
    """Right leads on and pays, left ends the episode."""

    pay: float
    spec: EnvSpec = eqx.field(static=True)

    def __init__(self, id: str, length: int, pay: float = 1.0, reward_threshold: float | None = None):
        self.pay = pay
        self.spec = EnvSpec(id, 2, Discrete(2), length, reward_threshold)

    def reset(self, key):
        return jnp.zeros(()), jnp.zeros(2)

    def step(self, key, state, action):
        state = state + 1.0
        return state, jnp.stack([state, jnp.ones(())]), jnp.where(action == 1, self.pay, 0.0), action == 0


class Hallway(HostEnv):
    """The same in Python."""

    def __init__(self, id: str, num_lanes: int, length: int, reward_threshold: float | None = None):
        self.num_lanes = num_lanes
        self.spec = EnvSpec(id, 2, Discrete(2), length, reward_threshold)

    def reset(self, seed):
        self.time, self.over = np.zeros(self.num_lanes, int), np.zeros(self.num_lanes, bool)
        return self._obs()

    def step(self, action):
        fresh = self.over
        self.time = np.where(fresh, 0, self.time + 1)
        terminated = (action == 0) & ~fresh
        truncated = (self.time >= self.spec.max_steps) & ~terminated
        self.over = terminated | truncated
        return self._obs(), np.where(fresh, 0.0, action).astype(np.float32), terminated, truncated

    def _obs(self):
        return np.stack([self.time, np.ones(self.num_lanes)], 1).astype(np.float32)
'''

VARIANT = """# @package _global_
defaults:
  - override /estimator: scaled
  - override /critic: linear
  - override /policy: shallow
  - override /update: clipped
  - override /optimiser: lion

variant: mine
"""

ENV = """# @package _global_
# It says what its observations and rewards need, beside what it is.
env:
  _target_: PACKAGE.parts.Corridor
  id: Corridor
  length: 6
  pay: 1.0
  reward_threshold: null

scale_observations: true
reward_scale: 0.25
"""

YAML = {
    "estimator/scaled": "_target_: PACKAGE.parts.scaled\n_partial_: true\ngamma: ${gamma}\nscale: 0.5\nkind: sum\n",
    "critic/linear": "_target_: PACKAGE.parts.Linear\nrate: 0.1\n",
    "policy/shallow": "_target_: PACKAGE.parts.Shallow\n_partial_: true\nwidths: [4]\n",
    "update/clipped": "_target_: PACKAGE.parts.Clipped\nmost: 5.0\n",
    "optimiser/lion": "_target_: optax.lion\nlearning_rate: 0.001\n",
    "optimiser/plain": "_target_: PACKAGE.parts.Plain\nrate: 0.01\n",
    "env/corridor": ENV,
    "env/hallway": "_target_: PACKAGE.parts.Hallway\nid: Hallway\nnum_lanes: 2\nlength: 6\nreward_threshold: null\n",
    "variant/mine": VARIANT,
}


def write(folder: Path, package: str = "mylab") -> Path:
    """The package in this folder; its folder of the configuration."""
    files = {"__init__.py": "", "parts.py": PARTS} | {f"conf/{name}.yaml": text for name, text in YAML.items()}
    for name, text in files.items():
        path = folder / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("PACKAGE", package))
    return folder / package / "conf"
