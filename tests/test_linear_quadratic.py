"""Gaussian policies on a linear-quadratic problem, where score, Fisher matrix and every gradient are known in closed form:
by the score function of every variant, and through the dynamics."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimands import LAM, SEVERAL_STEPS, VALUE, algorithm
from lq import (
    POLICY,
    D,
    Grid,
    LinearQuadratic,
    Mutant,
    S,
    episodes,
    expected_rewards,
    fisher,
    gradient,
    gradient_step_by_step,
    grid,
    moments,
)
from quick import quickly_compiled

from pgx.critics import LeaveOneOut
from pgx.diagnosis import pathwise
from pgx.diagnosis.decomposition import actions, continuations, decompose, scores, visited
from pgx.diagnosis.quality import gradient_of_each
from pgx.estimators import lambda_return, reward_to_go, vanilla
from pgx.networks import MLP
from pgx.policies import Gaussian
from pgx.types import TrainState
from pgx.update import update

GAMMA, STEPS = 0.8, 2
V = jax.tree.unflatten(
    jax.tree.structure(MLP(S, "scalar", width=1, depth=0, activation="tanh", key=jax.random.key(1))),
    [jnp.array([[0.6, -0.8]]), jnp.array([-1.5])],
)
"""Linear, so that what it adds is a polynomial, too."""


def expected_value(mean: np.ndarray) -> float:
    weight, bias = (np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(V))
    return float(weight @ mean + bias[0])


# What theory says of T steps


def from_step(policies, t, *, bootstrap: bool = False) -> float:
    """E[G_t]."""
    T = len(policies)
    after = GAMMA ** (T - t) * expected_value(moments(policies)[T][0]) if bootstrap else 0.0
    return float(GAMMA ** np.arange(T - t) @ expected_rewards(policies)[t:]) + after


def mixed(policies, t) -> float:
    """E of the λ-return: (1 − λ) Σ_n λ^{n−1} of the n-step returns, the whole one with the rest of the weight."""
    T, rewards = len(policies), expected_rewards(policies)
    means = [mean for mean, _ in moments(policies)]
    n_step = lambda n: float(GAMMA ** np.arange(n) @ rewards[t : t + n])
    few = [n_step(n) + GAMMA**n * expected_value(means[t + n]) for n in range(1, T - t)]
    return sum((1 - LAM) * LAM**n * g for n, g in enumerate(few)) + LAM ** (T - t - 1) * n_step(T - t)


def true(steps: int, *, bootstrap: bool = False) -> np.ndarray:
    """∇J."""
    return gradient(partial(from_step, t=0, bootstrap=bootstrap), steps)


def usual(steps: int, *, bootstrap: bool = False) -> np.ndarray:
    """What is ascended without γ^t."""
    return gradient_step_by_step(partial(from_step, bootstrap=bootstrap), steps)


G, R = partial(reward_to_go, gamma=GAMMA), partial(vanilla, gamma=GAMMA)
G_LAMBDA = partial(lambda_return, gamma=GAMMA, lam=LAM)
VARIANTS = {
    "vanilla": (algorithm(R), true(STEPS)),
    "reward_to_go": (algorithm(G), usual(STEPS)),
    "reward_to_go, γ^t": (algorithm(G, discount_power=True), true(STEPS)),
    "baseline": (algorithm(G, VALUE), usual(STEPS)),
    "baseline, V in several steps": (algorithm(G, SEVERAL_STEPS), usual(STEPS)),
    "baseline, bootstrap": (algorithm(G, VALUE, bootstrap_truncated=True), usual(STEPS, bootstrap=True)),
    "gae": (algorithm(G_LAMBDA, VALUE), gradient_step_by_step(mixed, STEPS)),
}
VARIANTS = {name: (dataclasses.replace(learner, gamma=GAMMA), wanted) for name, (learner, wanted) in VARIANTS.items()}


def expected_step(learner, grid: Grid, batches: np.ndarray, policy=POLICY) -> np.ndarray:
    """Parameters after an update minus those before, in expectation over every batch of so many episodes."""
    played = episodes(grid)
    learns = learner.critic.has_value
    state = TrainState(
        policy=policy,
        policy_opt_state=learner.update.init(policy),
        critic=(V, learner.critic.optimiser.init(V)) if learns else None,
        recent_returns=jnp.full(100, jnp.nan, jnp.float32),
        update=jnp.zeros((), jnp.int32),
    )

    def step(batch):
        few = jax.tree.map(lambda x: x[:, batch], (played.obs, played.action, played.reward, played.mask))
        few = dataclasses.replace(played, **dict(zip(("obs", "action", "reward", "mask"), few, strict=True)),
                                  terminated=played.terminated[batch], last_obs=played.last_obs[batch])  # fmt: skip
        new, _ = update(state, few, learner, jax.random.key(0), jnp.array(False))
        return jnp.concatenate([(x - y).ravel() for x, y in zip(*map(jax.tree.leaves, (new.policy, policy)), strict=True)])

    found = quickly_compiled(lambda batches: jax.lax.map(step, batches, batch_size=729))(batches)
    return grid.weight[batches].prod(1) @ np.asarray(found, np.float64)


ALL = grid(STEPS, nodes=3)
SINGLY = np.arange(len(ALL.weight))[:, None]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_ascends_the_gradient_that_is_known(name):
    learner, wanted = VARIANTS[name]
    assert abs(wanted[-D:]).min() > 0.05 * abs(wanted).max(), "σ counts as well"
    np.testing.assert_allclose(expected_step(learner, ALL, SINGLY), wanted, rtol=2e-4, atol=2e-4 * abs(wanted).max())


def test_leave_one_out_ascends_it_too():
    """Over every pair of episodes; the environment has no noise here, or there would be too many."""
    few = grid(STEPS, nodes=3, random=False)
    n = len(few.weight)
    pairs = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2)
    wanted = expected_step(algorithm(R), few, np.arange(n)[:, None])
    np.testing.assert_allclose(
        expected_step(algorithm(R, LeaveOneOut()), few, pairs), wanted, rtol=5e-4, atol=5e-4 * abs(wanted).max()
    )


def test_the_score_has_no_mean_and_the_fisher_matrix_as_its_covariance():
    played, ones = episodes(ALL), jnp.ones((1, STEPS, len(ALL.weight)))
    score = np.asarray(quickly_compiled(gradient_of_each)(POLICY, played, ones)[0], np.float64)
    np.testing.assert_allclose(ALL.weight @ score, 0, atol=1e-5)
    wanted = fisher(STEPS)
    np.testing.assert_allclose(np.einsum("n,np,nq->pq", ALL.weight, score, score), wanted, atol=1e-4 * wanted.max())


# Published mistakes


def of_one_dimension(pi):
    return type("OfOne", (Gaussian,), {"log_prob": lambda self, u: self._log_density(u)[0]})(pi.mean, pi.log_std, pi.actions)


def of_their_mean(pi):
    return type("OfMean", (Gaussian,), {"log_prob": lambda self, u: self._log_density(u).mean(0)})(
        pi.mean, pi.log_std, pi.actions
    )


def std_without_gradient(pi):
    return Gaussian(pi.mean, jax.lax.stop_gradient(pi.log_std), pi.actions)


def std_for_its_logarithm(pi):
    """log σ left out of the density: σ grows without an end."""
    log_prob = lambda self, u: (self._log_density(u) + self.log_std).sum(0)
    return type("NoLogStd", (Gaussian,), {"log_prob": log_prob})(pi.mean, pi.log_std, pi.actions)


def scored_where_it_was_cut_off(pi):
    """The action as an environment would have cut it off at ±1, scored as if the policy had put that out."""
    log_prob = lambda self, u: self._log_density(jnp.clip(u, -1.0, 1.0)).sum(0)
    return type("Cut", (Gaussian,), {"log_prob": log_prob})(pi.mean, pi.log_std, pi.actions)


def scored_where_it_was_squashed(pi):
    """The Jacobian of tanh counted twice: once by the environment that squashes, once by a density of what was squashed."""
    log_prob = lambda self, u: self._log_density(jnp.tanh(u)).sum(0)
    return type("Squashed", (Gaussian,), {"log_prob": log_prob})(pi.mean, pi.log_std, pi.actions)


MISTAKES = [of_one_dimension, of_their_mean, std_without_gradient, std_for_its_logarithm]
MISTAKES += [scored_where_it_was_cut_off, scored_where_it_was_squashed]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mutant_is_rejected(mistake):
    learner, wanted = VARIANTS["reward_to_go"]
    found = expected_step(learner, ALL, SINGLY, Mutant(POLICY, mistake))
    assert abs(found - wanted).max() > 0.05 * abs(wanted).max()


# Through the dynamics


LONG = 3
CASES = {
    "γ": ({}, usual(LONG)),
    "γ^t": ({"discount_power": True}, true(LONG)),
    "γ, V at the limit": ({"after_limit": V}, usual(LONG, bootstrap=True)),
    "γ^t, V at the limit": ({"discount_power": True, "after_limit": V}, true(LONG, bootstrap=True)),
}


def along(nodes: Grid, policy=POLICY, **switches) -> np.ndarray:
    """The expected pathwise gradient, over every noise."""
    env = LinearQuadratic(nodes.noise.shape[1])
    given = {"gamma": GAMMA, "discount_power": False, "after_limit": None} | switches

    def of_episode(z, w, noise):
        env_state, obs = env.start(z, w)
        keys = jax.random.split(jax.random.key(0), len(noise))
        found = jax.grad(pathwise.objective)(policy, env, env_state, obs, noise, keys, *given.values())
        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(found)])

    found = quickly_compiled(jax.vmap(of_episode))(*(jnp.asarray(x, jnp.float32) for x in nodes[:3]))
    return nodes.weight @ np.asarray(found, np.float64)


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_through_the_dynamics_is_the_same(name):
    """Two nodes are exact to degree 3: it has one power of noise less in every number than the score function."""
    switches, wanted = CASES[name]
    found = along(grid(LONG, nodes=2), **switches)
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4 * abs(wanted).max())


@pytest.mark.parametrize("name", ["γ", "γ^t, V at the limit"])
def test_it_is_not_the_gradient_of_anything_else(name):
    """The cases differ, so that one taken for another shows; so does a σ that the noise is not multiplied with."""
    switches, wanted = CASES[name]
    for other, (_, not_wanted) in CASES.items():
        assert other == name or abs(not_wanted - wanted).max() > 0.02 * abs(wanted).max()
    found = along(grid(LONG, nodes=2), Mutant(POLICY, std_without_gradient), **switches)
    assert abs(found - wanted).max() > 0.05 * abs(wanted).max()


def test_many_drawn_episodes_agree_with_it():
    """As `pgx.diagnose` asks for them; and each alone is far less noisy than by the score function."""
    found = quickly_compiled(
        lambda key: pathwise.gradients(LinearQuadratic(LONG), POLICY, key, 4000, gamma=GAMMA, discount_power=False)
    )(jax.random.key(1))
    wanted = CASES["γ"][1]
    error = found.std(0) / np.sqrt(len(found))
    assert (abs(found.mean(0) - wanted) < 4.5 * error).all() and error.max() < 0.05 * abs(wanted).max()


# The parts of the variance, of a policy whose actions cannot all be taken


def test_the_variance_is_divided_as_it_is():
    """By the law of total variance over every noise: state, then action, then all the rest."""
    nodes = grid(STEPS, nodes=5, random=False)
    played = episodes(nodes)
    n = 5**D
    one_step = jnp.broadcast_to(jnp.eye(STEPS)[:, :, None], (STEPS, STEPS, len(nodes.weight)))
    by_step = np.asarray(quickly_compiled(gradient_of_each)(POLICY, played, one_step), np.float64)
    rewards = np.asarray(played.reward, np.float64)
    to_go = [rewards[0] + GAMMA * rewards[1], rewards[1]]
    # noise of the first step along one axis, that of the second along the other
    weight = nodes.weight.reshape(n, n)
    of_noise = weight.sum(1)
    x = [(s * g[:, None]).reshape(n, n, -1) for s, g in zip(by_step, to_go, strict=True)]
    square = lambda v: (v**2).sum(-1)
    # step 0: one state; its action decides all but the second step's noise. Step 1: as many states as first actions
    of_action = np.einsum("j,ijp->ip", of_noise, x[0])
    of_state = [of_noise @ of_action, np.einsum("j,ijp->ip", of_noise, x[1])]
    mean = (of_state[0] + of_noise @ of_state[1]) / 2
    wanted = {
        "variance_state": (square(of_state[0] - mean) + of_noise @ square(of_state[1] - mean)) / 2,
        "variance_action": (of_noise @ square(of_action - of_state[0])
                            + np.einsum("i,j,ij->", of_noise, of_noise, square(x[1] - of_state[1][:, None]))) / 2,
        "variance_return": np.einsum("i,j,ij->", of_noise, of_noise, square(x[0] - of_action[:, None])) / 2,
    }  # fmt: skip

    class Still(LinearQuadratic):
        def reset(self, key):
            return self.start(jnp.zeros(()), jnp.zeros(self.spec.max_steps))

    M, repeats, draws = 20, 1000, 8

    @quickly_compiled
    def parts(key):
        of_states, of_actions, of_returns = jax.random.split(key, 3)
        env = Still(STEPS)
        states = visited(env, POLICY, of_states, M * repeats, 20_000)
        done = actions(POLICY, states.obs, of_actions, draws)
        found = continuations(env, POLICY, states, done.taken, GAMMA, of_returns, 2)
        given = scores(POLICY, states.obs, done.taken), None, found.total, jnp.zeros(M * repeats)
        return jax.vmap(decompose)(*jax.tree.map(lambda x: x.reshape(repeats, M, *x.shape[1:]), given))

    for name, found in parts(jax.random.key(0)).items():
        error = float(found.std() / np.sqrt(repeats))
        assert abs(float(found.mean()) - wanted[name]) < 4 * error < 0.4 * wanted[name], name
