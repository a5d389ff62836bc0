"""Bias and noise of the estimators that compare episodes of one start, exactly: every batch of four trajectories of the
process of tests/mdp.py, with its probability. `python -m experiments.group_estimators` prints the table of README.md.
"""

import itertools
import math
from collections import Counter
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pgx.advantages import weigh
from pgx.algorithm import Algorithm
from pgx.critics import Critic, GroupMean, GroupStandardised, LeaveOneOut, MaxRL, NoCritic
from pgx.estimators import vanilla
from pgx.optimiser import Optimiser
from pgx.types import Episodes
from pgx.updates.gradient import GradientStep
from tests.mdp import ACTIONS, ONE_HOT, START, STEPS, TRAJECTORIES, Theta, all_episodes, distribution

SIZE = 4
POLICIES = 50
FROM = np.array([tau.states[0] for tau in TRAJECTORIES])
RETURN = np.array([sum(tau.rewards) for tau in TRAJECTORIES])


class Method(NamedTuple):
    """What a batch of four episodes is weighed by."""

    critic: Critic
    aggregation: str = "sum"
    whiten: bool = False
    one_start: bool = True
    """They are a group; otherwise each begins where it will."""


GRPO = GroupStandardised(1e-4)
METHODS = {
    "`vanilla`": Method(NoCritic(), one_start=False),
    "`leave_one_out`": Method(LeaveOneOut(), one_start=False),
    "`leave_one_out group_size=4`": Method(LeaveOneOut()),
    "`dr_grpo`": Method(GroupMean()),
    "`grpo aggregation=sum`": Method(GRPO),
    "`dr_grpo aggregation=own_mean`": Method(GroupMean(), "own_mean"),
    "`dr_grpo aggregation=batch_mean`": Method(GroupMean(), "batch_mean"),
    "`grpo`": Method(GRPO, "own_mean"),
    "`grpo aggregation=batch_mean`": Method(GRPO, "batch_mean"),
    "`reinforce_plus_plus`": Method(NoCritic(), whiten=True, one_start=False),
    "`maxrl critic.failure=-1.5`": Method(MaxRL(float(RETURN.min()))),
}


class Batches(NamedTuple):
    index: np.ndarray
    """Into TRAJECTORIES; each order of the same four once, for no method looks at the order."""
    orders: np.ndarray
    """How many there are of each."""

    def chance(self, of_trajectory: np.ndarray, one_start: bool) -> np.ndarray:
        each = of_trajectory[self.index].prod(1) * self.orders
        return each / START[FROM[self.index[:, 0]]] ** (SIZE - 1) if one_start else each


def batches(one_start: bool) -> Batches:
    """Every batch of four, from one start or from any."""
    among = [np.flatnonzero(FROM == s) for s in np.flatnonzero(START)] if one_start else [np.arange(len(FROM))]
    index = [batch for some in among for batch in itertools.combinations_with_replacement(some, SIZE)]
    orders = [math.factorial(SIZE) / math.prod(math.factorial(n) for n in Counter(batch).values()) for batch in index]
    return Batches(np.array(index), np.array(orders))


def weights(method: Method, index: np.ndarray) -> np.ndarray:
    """[batches, SIZE, STEPS]: what multiplies ∇ log π. It does not depend on the policy."""
    off = {"whiten": method.whiten, "bootstrap_truncated": False, "discount_power": False}
    switches = off | {"group_size": SIZE, "aggregation": method.aggregation}
    step = GradientStep(Optimiser("sgd", 1.0), 0.0)  # of which nothing is asked
    chosen = Algorithm(partial(vanilla, gamma=1.0), method.critic, step, 1.0, **switches)
    every = all_episodes()

    def of_batch(index):
        along_time = (x[:, index] for x in (every.obs, every.action, every.reward, every.mask))
        few = Episodes(*along_time, every.terminated[index], every.last_obs[index], group_size=SIZE)
        return weigh(None, few, chosen).weight.T

    return np.asarray(jax.jit(jax.vmap(of_batch))(jnp.asarray(index)), np.float64)


def scores(theta: np.ndarray) -> np.ndarray:
    """[trajectories, STEPS, P]: ∇ log π(a_t|s_t)."""
    found, policy = np.zeros((len(TRAJECTORIES), STEPS, len(theta))), Theta.of_vector(theta)
    for i, tau in enumerate(TRAJECTORIES):
        for t, (s, a) in enumerate(zip(tau.states, tau.actions, strict=False)):
            of_logits = np.eye(ACTIONS)[a] - policy.probabilities(s)
            found[i, t] = np.concatenate([np.outer(of_logits, ONE_HOT[s]).ravel(), of_logits])
    return found


class Found(NamedTuple):
    angle: float
    """Between E[g] and ∇J, in degrees."""
    length: float
    """‖E[g]‖ / ‖∇J‖."""
    noise: float
    """tr Cov g / ‖E[g]‖²."""


def measure(method: Method, some: Batches, weight: np.ndarray, theta: np.ndarray) -> Found:
    of_trajectory, score = distribution(theta), scores(theta)
    true = (of_trajectory * RETURN) @ score.sum(1)
    gradient = np.einsum("nbt,nbtp->np", weight, score[some.index]) / SIZE
    chance = some.chance(of_trajectory, method.one_start)
    mean = chance @ gradient
    square = mean @ mean
    cosine = mean @ true / np.sqrt(square * (true @ true))
    noise = chance @ ((gradient - mean) ** 2).sum(1) / square
    return Found(np.degrees(np.arccos(np.clip(cosine, -1, 1))), np.sqrt(square / (true @ true)), noise)


def table() -> str:
    """Medians over the policies, and the largest angle."""
    policies = np.random.default_rng(0).normal(size=(POLICIES, ACTIONS * ONE_HOT.shape[1] + ACTIONS))
    drawn = {one_start: batches(one_start) for one_start in (True, False)}
    lines = ["| a batch of four episodes | angle (largest) | length | noise |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        some = drawn[method.one_start]
        weight = weights(method, some.index)
        each = np.array([measure(method, some, weight, theta) for theta in policies])
        angle, length, noise = np.median(each, 0)
        lines.append(f"| {name} | {angle:.1f}° ({each[:, 0].max():.1f}°) | {length:.2f} | {noise:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
