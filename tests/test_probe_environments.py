"""Learning where the answer is known: each probe fails for a reason of its own."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe import PROBES, ContinuousProbe, Probe
from quick import quickly_compiled

from pgx.algorithm import Algorithm
from pgx.critics import ValueNetwork
from pgx.estimators import reward_to_go
from pgx.loop import Keys, Limits, chunk, init
from pgx.optimiser import Optimiser
from pgx.policies import Categorical, MLPPolicy
from pgx.updates.gradient import GradientStep

GAMMA = 0.5
UPDATES = 300

ALGORITHM = Algorithm(
    estimator=partial(reward_to_go, gamma=GAMMA),
    critic=ValueNetwork(optimiser=Optimiser("adam", 0.03), passes=1, minibatch_steps=None, width=8, depth=1, activation="tanh"),
    update=GradientStep(Optimiser("adam", 0.03), 0.0),
    gamma=GAMMA,
    whiten=False,
    bootstrap_truncated=False,
    discount_power=False,
)

ANSWERS = {
    # observation → V, observation → the action that pays
    "constant": ({1.0: 1.0}, {}),
    "observation": ({-1.0: -1.0, 1.0: 1.0}, {}),
    "delayed": ({0.0: GAMMA, 1.0: 1.0}, {}),
    "action": ({1.0: 1.0}, {1.0: 1}),
    "action_by_observation": ({-1.0: 1.0, 1.0: 1.0}, {-1.0: 0, 1.0: 1}),
}


@cache
def program():
    """One for all probes: most of the time goes into compiling."""

    def run(env, keys):
        policy = partial(MLPPolicy, width=8, depth=1, activation="tanh")
        state = init(ALGORITHM, policy, env.spec, jax.random.key(0))
        limits = Limits(jnp.array(UPDATES), jnp.array(10**6), jnp.array(jnp.inf))
        return chunk(state, ALGORITHM, env, keys, limits, jnp.array(10**6), num_episodes=32, max_updates=UPDATES)

    return quickly_compiled(run)


def chance_of_action_1(policy, obs: float) -> float:
    pi = policy(jnp.array([[obs]]))
    if isinstance(pi, Categorical):
        return float(jax.nn.softmax(pi.logits[:, 0])[1])
    return float(jax.scipy.stats.norm.cdf((pi.mean / jnp.exp(pi.log_std))[0, 0]))


@pytest.mark.parametrize("kind", [Probe, ContinuousProbe])
@pytest.mark.parametrize("name", PROBES)
def test_what_is_learned_is_what_is_known(name, kind):
    """V comes to the known value at every observation, and the policy to the action that pays."""
    state, rows, done, finite = program()(kind(name), Keys.of_seed(1))
    assert done == UPDATES and finite.all()
    values, actions = ANSWERS[name]
    for obs, expected in values.items():
        assert float(state.critic[0](jnp.array([obs]))) == pytest.approx(expected, abs=0.1)
    for obs, right in actions.items():
        assert abs(chance_of_action_1(state.policy, obs) - right) < 0.05
    if actions:
        assert np.mean(rows["return_mean"][:5]) < 0.5 < 0.9 < np.mean(rows["return_mean"][-20:])
