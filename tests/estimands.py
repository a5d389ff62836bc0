"""An algorithm with a linear policy and a linear V, and what theory says its gradient estimates, in terms of the process
of `mdp` alone.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from mdp import (
    ONE_HOT,
    TRAJECTORIES,
    Theta,
    Trajectory,
    discounted,
    distribution,
    finite_difference,
    gradient_of_expectation,
    gradient_step_by_step,
    linear_policy,
)

from pgx.algorithm import Algorithm
from pgx.critics import NoCritic, ValueNetwork
from pgx.estimators import lambda_return, reward_to_go, vanilla
from pgx.networks import MLP
from pgx.optimiser import Optimiser
from pgx.policies import MLPPolicy
from pgx.types import TrainState
from pgx.updates.gradient import GradientStep

GAMMA, LAM, BONUS = 0.8, 0.6, 0.3

KEY = jax.random.key(0)
ONE_STEP = Optimiser("sgd", 1.0)
"""Parameters after minus parameters before are then the gradient ascended."""
VALUE = ValueNetwork(optimiser=Optimiser("sgd", 0.5), passes=1, minibatch_steps=None, width=1, depth=0, activation="tanh")
SEVERAL_STEPS = dataclasses.replace(VALUE, passes=3, minibatch_steps=2)


def linear(out: int | str, seed: int) -> MLP:
    return MLP(3, out, width=1, depth=0, activation="tanh", key=jax.random.key(seed))


POLICY = linear_policy()
V = jax.tree.unflatten(jax.tree.structure(linear("scalar", 1)), [jnp.array([[0.6, 1.0, -0.4]]), jnp.array([0.1])])
"""About as large as the returns, or mistakes with it would be small, and closer to them than 0 is."""
THETA = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(POLICY)])


def algorithm(estimator, critic=NoCritic(), gamma: float = GAMMA, **switches) -> Algorithm:
    off = {"whiten": False, "bootstrap_truncated": False, "discount_power": False}
    step = GradientStep(ONE_STEP, switches.pop("entropy_coefficient", 0.0))
    return Algorithm(estimator, critic, step, gamma, **(off | switches))


def state_for(algorithm: Algorithm, policy: MLPPolicy = POLICY, critic: MLP = V) -> TrainState:
    learns = isinstance(algorithm.critic, ValueNetwork)
    return TrainState(
        policy=policy,
        policy_opt_state=algorithm.update.init(policy),
        critic=(critic, algorithm.critic.optimiser.init(critic)) if learns else None,
        recent_returns=jnp.full(100, jnp.nan, jnp.float32),
        update=jnp.zeros((), jnp.int32),
    )


G, R = partial(reward_to_go, gamma=GAMMA), partial(vanilla, gamma=GAMMA)
G_LAMBDA = partial(lambda_return, gamma=GAMMA, lam=LAM)


# What theory says. None of it knows of pgx.


def value_of(s: int) -> float:
    weight, bias = (np.asarray(x, np.float64) for x in jax.tree.leaves(V))
    return float(weight.ravel() @ ONE_HOT[s] + bias.ravel()[0])


def bonus(tau: Trajectory, on: bool) -> float:
    """V(s_L) at a time limit."""
    return 0.0 if tau.terminated or not on else value_of(tau.states[-1])


def full_return(tau: Trajectory, gamma: float = GAMMA, bootstrap: bool = False) -> float:
    return discounted((*tau.rewards, bonus(tau, bootstrap)), gamma)


def return_from(tau: Trajectory, t: int, bootstrap: bool = False) -> float:
    return discounted((*tau.rewards[t:], bonus(tau, bootstrap)), GAMMA)


def n_step_average(tau: Trajectory, t: int, bootstrap: bool = False) -> float:
    """(1 − λ) Σ_n λ^{n−1} G_t^{(n)}, with the whole return getting the rest of the weight."""
    left = len(tau.rewards) - t
    steps = [discounted((*tau.rewards[t : t + n], value_of(tau.states[t + n])), GAMMA) for n in range(1, left)]
    last = return_from(tau, t, bootstrap)
    return sum((1 - LAM) * LAM**n * g for n, g in enumerate(steps)) + LAM ** (left - 1) * last


def true_gradient(**of_return) -> np.ndarray:
    """∇J."""
    return gradient_of_expectation(partial(full_return, **of_return), THETA)


def usual(**of_return) -> np.ndarray:
    """Σ_t ∂/∂θ_t E[G_t] = Σ_t γ^{−t} ∂J/∂θ_t: what code estimates that omits γ^t."""
    return gradient_step_by_step(partial(return_from, **of_return), THETA)


def entropy_at(theta: Theta, tau: Trajectory) -> float:
    each = [theta.probabilities(s) for s in tau.states[:-1]]
    return float(-sum((p * np.log(p)).sum() for p in each))


def entropy_gradient() -> np.ndarray:
    """∇ E[Σ_t H(π(·|s_t))] with the states' distribution held: an update never looks at where more entropy leads."""
    chance = distribution(THETA)
    return finite_difference(lambda x: float(chance @ [entropy_at(Theta.of_vector(x), t) for t in TRAJECTORIES]), THETA)
