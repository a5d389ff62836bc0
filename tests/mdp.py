"""A decision process small enough to enumerate: every trajectory, its probability, and so every expectation, exactly.

Three states and an end. Episodes end after 1, 2, 3 or 4 steps or are cut off after 4; the start and one transition are
random. What is exact here uses neither pgx nor the likelihood-ratio trick that pgx is tested on: the gradient of an
expectation is a central difference of the expectation itself, in float64.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from pgx.envs.base import EnvSpec, JittedEnv
from pgx.policies import MLPPolicy
from pgx.spaces import Discrete
from pgx.types import Episodes

STATES, ACTIONS, STEPS, END = 3, 2, 4, 3

START = np.array([0.6, 0.4, 0.0])
NEXT = np.zeros((STATES, ACTIONS, STATES + 1))
NEXT[0, 0, 1] = NEXT[0, 1, 2] = NEXT[1, 1, 0] = NEXT[2, 0, END] = NEXT[2, 1, 1] = 1.0
NEXT[1, 0, [2, END]] = 0.7, 0.3
REWARD = np.array([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.7]])
ONE_HOT = np.eye(STATES + 1, STATES)  # the end is all zeros


class TabularMDP(JittedEnv):
    """The same tables as an environment of pgx."""

    spec: EnvSpec = EnvSpec("Tabular-v0", STATES, Discrete(ACTIONS), STEPS, None)

    def reset(self, key):
        state = jax.random.choice(key, STATES, p=jnp.asarray(START, jnp.float32))
        return state, jax.nn.one_hot(state, STATES)

    def step(self, key, state, action):
        new = jax.random.choice(key, STATES + 1, p=jnp.asarray(NEXT, jnp.float32)[state, action])
        reward = jnp.asarray(REWARD, jnp.float32)[state, action]
        return new, jax.nn.one_hot(new, STATES), reward, new == END


class Trajectory(NamedTuple):
    states: tuple[int, ...]
    """One more than there are actions."""
    actions: tuple[int, ...]
    rewards: tuple[float, ...]
    chance: float
    """The environment's part of the probability."""

    @property
    def terminated(self) -> bool:
        return self.states[-1] == END


def _grow(states, actions, rewards, chance) -> Iterator[Trajectory]:
    s = states[-1]
    if s == END or len(actions) == STEPS:
        yield Trajectory(states, actions, rewards, chance)
        return
    for a in range(ACTIONS):
        for s_next in np.flatnonzero(NEXT[s, a]):
            more = (*states, int(s_next)), (*actions, a), (*rewards, REWARD[s, a])
            yield from _grow(*more, chance * NEXT[s, a, s_next])


TRAJECTORIES = [tau for s in np.flatnonzero(START) for tau in _grow((int(s),), (), (), START[s])]


class Theta(NamedTuple):
    """Parameters of the softmax policy that is linear in the one-hot observation."""

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def of_vector(cls, vector: np.ndarray) -> "Theta":
        return cls(vector[: ACTIONS * STATES].reshape(ACTIONS, STATES), vector[ACTIONS * STATES :])

    def probabilities(self, s: int) -> np.ndarray:
        logits = self.weight[:, s] + self.bias
        exponential = np.exp(logits - logits.max())
        return exponential / exponential.sum()


def probability(tau: Trajectory, policies: list[Theta]) -> float:
    """P(τ) when step t follows policies[t]."""
    each = [pi.probabilities(s)[a] for pi, s, a in zip(policies, tau.states, tau.actions, strict=False)]
    return tau.chance * float(np.prod(each))


def distribution(theta: np.ndarray) -> np.ndarray:
    """P(τ) of every trajectory."""
    return np.array([probability(tau, [Theta.of_vector(theta)] * STEPS) for tau in TRAJECTORIES])


def finite_difference(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """∇f by central differences."""
    return np.array([(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(len(x))])


def gradient_of_expectation(score: Callable[[Trajectory], float], theta: np.ndarray) -> np.ndarray:
    """∇_θ E[score(τ)]."""
    return finite_difference(lambda x: float(distribution(x) @ [score(tau) for tau in TRAJECTORIES]), theta)


def gradient_step_by_step(score: Callable[[Trajectory, int], float], theta: np.ndarray) -> np.ndarray:
    """Σ_t ∂/∂θ_t E[score(τ, t)]: what changes when the policy changes at step t and nowhere else.

    That is the estimand of any Ψ: E Σ_t ∇ log π(a_t|s_t) Ψ_t = Σ_t ∂/∂θ_t E[Ψ_t]. With Ψ_t = R(τ) it is ∇J.
    """

    def of_step(t):
        scores = [score(tau, t) if t < len(tau.actions) else 0.0 for tau in TRAJECTORIES]
        fixed = [Theta.of_vector(theta)] * STEPS

        def expectation(x):
            policies = [*fixed[:t], Theta.of_vector(x), *fixed[t + 1 :]]
            return sum(probability(tau, policies) * score for tau, score in zip(TRAJECTORIES, scores, strict=True))

        return finite_difference(expectation, theta)

    return sum(of_step(t) for t in range(STEPS))


def discounted(rewards: tuple[float, ...], gamma: float) -> float:
    """Σ_k γ^k r_k."""
    return sum(gamma**k * r for k, r in enumerate(rewards))


def all_episodes(garbage: float = 0.0) -> Episodes:
    """Every trajectory once, in the order of TRAJECTORIES.

    On padding, observation and action are not zero, so that whoever looks at them comes out wrong;
    `garbage` is put where the reward must be 0.
    """
    n = len(TRAJECTORIES)
    obs = np.tile(ONE_HOT[1], (STEPS, n, 1)) * 3
    action, reward, mask = np.ones((STEPS, n), np.int32), np.full((STEPS, n), garbage), np.zeros((STEPS, n), bool)
    for i, tau in enumerate(TRAJECTORIES):
        length = len(tau.actions)
        obs[:length, i] = ONE_HOT[list(tau.states[:-1])]
        action[:length, i], reward[:length, i], mask[:length, i] = tau.actions, tau.rewards, True
    return Episodes(
        obs=jnp.asarray(obs.astype(np.float32)),
        action=jnp.asarray(action),
        reward=jnp.asarray(reward.astype(np.float32)),
        mask=jnp.asarray(mask),
        terminated=jnp.asarray([tau.terminated for tau in TRAJECTORIES]),
        last_obs=jnp.asarray(np.array([ONE_HOT[tau.states[-1]] for tau in TRAJECTORIES], np.float32)),
    )


def linear_policy(seed: int = 0) -> MLPPolicy:
    """The softmax policy that is linear in the observation, which Theta has the parameters of."""
    return MLPPolicy(STATES, Discrete(ACTIONS), width=1, depth=0, activation="tanh", key=jax.random.key(seed))


def choose(episodes: Episodes, index: Int[Array, " B"]) -> Episodes:
    """The batch of these episodes."""
    over_time = [x[:, index] for x in (episodes.obs, episodes.action, episodes.reward, episodes.mask)]
    return Episodes(*over_time, terminated=episodes.terminated[index], last_obs=episodes.last_obs[index])


def with_room(episodes: Episodes, room: int) -> Episodes:
    """The same episodes where there is room for so many: nothing that stands in the other columns is to be looked at."""
    count = episodes.mask.shape[1]
    beside = lambda x, axis, fill: jnp.concatenate(
        [x, jnp.full((*x.shape[:axis], room - count, *x.shape[axis + 1 :]), fill, x.dtype)], axis
    )
    return Episodes(
        obs=beside(episodes.obs, 1, 3.0),
        action=beside(episodes.action, 1, 1),
        reward=beside(episodes.reward, 1, 0.0),
        mask=beside(episodes.mask, 1, False),
        terminated=beside(episodes.terminated, 0, False),
        last_obs=beside(episodes.last_obs, 0, 3.0),
        count=jnp.array(count, jnp.int32),
    )


PAIRS = np.stack(np.meshgrid(*[np.arange(len(TRAJECTORIES))] * 2, indexing="ij"), -1).reshape(-1, 2)
"""Every batch of B = 2, as indices into TRAJECTORIES."""


def counts(episodes: Episodes) -> np.ndarray:
    """How often each of TRAJECTORIES occurred."""
    length = episodes.mask.sum(0)
    seen = {}
    last = np.where(episodes.last_obs.any(-1), episodes.last_obs.argmax(-1), END)
    for b in range(len(length)):
        states = (*episodes.obs[: length[b], b].argmax(-1).tolist(), int(last[b]))
        key = states, tuple(episodes.action[: length[b], b].tolist())
        seen[key] = seen.get(key, 0) + 1
    return np.array([seen.pop((tau.states, tau.actions), 0) for tau in TRAJECTORIES] + [sum(seen.values())])
