"""A linear-quadratic problem of a few steps, and a policy that is linear and Gaussian: every expectation, exactly.

Rewards are quadratic in state and action, dynamics linear, so the expected return is a recursion of first and second
moments; its gradient is a central difference of that, in float64. And all that an estimator multiplies is a polynomial in
the noise: Gauss and Hermite's rule, a few nodes a number, gives its expectation without an error.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from mdp import finite_difference

from pgx.envs.base import EnvSpec, JittedEnv
from pgx.policies import MLPPolicy
from pgx.spaces import Box
from pgx.types import Episodes

S = D = 2
"""Numbers of a state, and of an action."""
A = np.array([[0.9, 0.3], [-0.2, 0.8]])
B = np.array([[0.5, -0.2], [0.3, 0.9]])
Q, R = np.array([[1.0, 0.2], [0.2, 0.6]]), np.array([[0.4, 0.1], [0.1, 0.3]])
START, SPREAD, DISTURBANCE = np.array([0.7, -0.4]), np.array([0.5, 0.3]), np.array([0.3, -0.4])
"""x₀ = START + SPREAD z, x' = A x + B u + DISTURBANCE w; a disturbance after the last step would change nothing."""
FLOOR = -3.0


class LinearQuadratic(JittedEnv):
    """−x·Q x − u·R u a step. A state holds all the disturbances to come."""

    spec: EnvSpec
    differentiable: ClassVar[bool] = True

    def __init__(self, steps: int):
        self.spec = EnvSpec("LQ-v0", S, Box((-np.inf,) * D, (np.inf,) * D, "none"), steps, None)

    def reset(self, key):
        z, *w = jax.random.normal(key, (self.spec.max_steps,))
        return self.start(z, jnp.stack([*w, jnp.zeros(())]))

    def start(self, z, w):
        x = jnp.asarray(START, jnp.float32) + jnp.asarray(SPREAD, jnp.float32) * z
        return (x, w), x

    def step(self, key, state, action):
        x, w = state
        a, b, q, r, disturbance = (jnp.asarray(m, jnp.float32) for m in (A, B, Q, R, DISTURBANCE))
        new = a @ x + b @ action + disturbance * w[0]
        return (new, jnp.roll(w, -1)), new, -(x @ q @ x) - (action @ r @ action), jnp.array(False)


class Theta(NamedTuple):
    """Parameters of u = K x + b + σ ε, in the order of the policy's."""

    gain: np.ndarray
    bias: np.ndarray
    rho: np.ndarray

    @classmethod
    def of_vector(cls, vector: np.ndarray) -> "Theta":
        return cls(vector[: D * S].reshape(D, S), vector[D * S : D * S + D], vector[D * S + D :])

    @property
    def std(self) -> np.ndarray:
        return np.exp(FLOOR + np.log1p(np.exp(self.rho - FLOOR)))


def linear_gaussian() -> MLPPolicy:
    make = MLPPolicy(S, LinearQuadratic(1).spec.actions, width=1, depth=0, activation="tanh",
                     log_std_floor=FLOOR, key=jax.random.key(0))  # fmt: skip
    gain, bias, rho = [[-0.5, 0.3], [0.2, -0.6]], [0.3, -0.2], [-0.4, 0.2]
    return jax.tree.unflatten(jax.tree.structure(make), [jnp.array(x, jnp.float32) for x in (gain, bias, rho)])


POLICY = linear_gaussian()
THETA = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(POLICY)])


# The exact thing, by moments


def moments(policies: Sequence[Theta]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(mean, covariance) of x_0 … x_T when step t follows policies[t]."""
    found = [(START, np.outer(SPREAD, SPREAD))]
    for t, pi in enumerate(policies):
        mean, covariance = found[-1]
        closed = A + B @ pi.gain
        noise = np.outer(DISTURBANCE, DISTURBANCE) * (t + 1 < len(policies))
        found.append((
            closed @ mean + B @ pi.bias,
            closed @ covariance @ closed.T + B @ np.diag(pi.std**2) @ B.T + noise,
        ))  # fmt: skip
    return found


def expected_rewards(policies: Sequence[Theta]) -> np.ndarray:
    found = []
    for pi, (mean, covariance) in zip(policies, moments(policies), strict=False):
        u, of_u = pi.gain @ mean + pi.bias, pi.gain @ covariance @ pi.gain.T + np.diag(pi.std**2)
        found.append(-(mean @ Q @ mean + np.trace(Q @ covariance)) - (u @ R @ u + np.trace(R @ of_u)))
    return np.array(found)


Expectation = Callable[[Sequence[Theta]], float]


def gradient(expectation: Expectation, steps: int) -> np.ndarray:
    """When every step follows the same policy."""
    return finite_difference(lambda x: expectation([Theta.of_vector(x)] * steps), THETA)


def gradient_step_by_step(expectation: Callable[[Sequence[Theta], int], float], steps: int) -> np.ndarray:
    """Σ_t ∂/∂θ_t of the expectation of step t: what changes when the policy changes there and nowhere else."""

    def of_step(t):
        fixed = [Theta.of_vector(THETA)] * steps
        return finite_difference(lambda x: expectation([*fixed[:t], Theta.of_vector(x), *fixed[t + 1 :]], t), THETA)

    return sum(of_step(t) for t in range(steps))


def fisher(steps: int) -> np.ndarray:
    """Σ_t E[∇ log π ∇ log πᵀ]."""
    pi, P = Theta.of_vector(THETA), len(THETA)
    found = np.zeros((P, P))
    slope = 1 - np.exp(FLOOR) / pi.std  # d log σ / dρ = sigmoid(ρ − floor)
    for mean, covariance in moments([pi] * steps)[:-1]:
        seen = np.append(mean, 1.0)
        second = np.outer(seen, seen)
        second[:S, :S] += covariance
        for d in range(D):
            at = [*range(d * S, (d + 1) * S), D * S + d]
            found[np.ix_(at, at)] += second / pi.std[d] ** 2
            found[D * S + D + d, D * S + D + d] += 2 * slope[d] ** 2
    return found


# All of the noise


class Grid(NamedTuple):
    """Every value that the noise of an episode takes, and the weight of each."""

    z: np.ndarray
    w: np.ndarray
    """[N, T], 0 at the end."""
    noise: np.ndarray
    """[N, T, D]"""
    weight: np.ndarray


def grid(steps: int, nodes: int, *, random: bool = True) -> Grid:
    """Nodes of each number are exact to degree 2 · nodes − 1 in it. `random`: whether the environment is."""
    x, weight = np.polynomial.hermite_e.hermegauss(nodes)
    x, weight = np.round(x, 14), weight / weight.sum()
    of_env, of_policy = steps * random, steps * D  # z and all w but the last
    axes = np.meshgrid(*[np.arange(nodes)] * (of_env + of_policy), indexing="ij")
    index = np.stack([axis.ravel() for axis in axes], 1)
    values = x[index]
    env = values[:, :of_env] if random else np.zeros((len(index), steps))
    w = np.concatenate([env[:, 1:], np.zeros((len(index), 1))], 1)
    return Grid(env[:, 0], w, values[:, of_env:].reshape(-1, steps, D), weight[index].prod(1))


def episodes(grid: Grid) -> Episodes:
    """Played in float64, without pgx."""
    pi, T = Theta.of_vector(THETA), grid.noise.shape[1]
    x = START + np.outer(grid.z, SPREAD)
    obs, actions, rewards = [], [], []
    for t in range(T):
        u = x @ pi.gain.T + pi.bias + pi.std * grid.noise[:, t]
        obs.append(x)
        actions.append(u)
        rewards.append(-np.einsum("ni,ij,nj->n", x, Q, x) - np.einsum("ni,ij,nj->n", u, R, u))
        x = x @ A.T + u @ B.T + np.outer(grid.w[:, t], DISTURBANCE)
    obs, actions, rewards, last = (jnp.asarray(np.array(v), jnp.float32) for v in (obs, actions, rewards, x))
    ended = jnp.zeros(len(x), bool)
    return Episodes(obs, actions, rewards, jnp.ones(rewards.shape, bool), terminated=ended, last_obs=last)


class Mutant(eqx.Module):
    """The policy, with a mistake in its distribution."""

    policy: MLPPolicy
    mistake: Callable = eqx.field(static=True)

    def __call__(self, obs, matmul=jnp.matmul):
        return self.mistake(self.policy(obs, matmul))
