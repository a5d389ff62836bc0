"""The natural gradient where F can be written down, TRPO's promises, and every way to break them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_epochs import BONUS, POLICIES, algorithm, flat, played, state_for
from estimands import KEY, POLICY, THETA
from jax.flatten_util import ravel_pytree
from mdp import ACTIONS, ONE_HOT, STATES, TRAJECTORIES, Theta, all_episodes
from program import checked, refusal, rows, train_here
from quick import quickly_compiled

from pgx import diagnose
from pgx.advantages import weigh
from pgx.critics import NoCritic
from pgx.optimiser import Optimiser
from pgx.sweep.members import program
from pgx.update import update
from pgx.updates import natural
from pgx.updates.gradient import GradientStep
from pgx.updates.natural import TRPO, Natural

PLAIN = Optimiser("sgd", 1.0)
"""Parameters after minus parameters before are then the direction."""
DAMPING, DELTA = 0.05, 0.01


def step(damping: float = DAMPING, iterations: int = 30) -> Natural:
    return Natural(PLAIN, BONUS, damping, iterations)


def trpo(max_kl: float = DELTA, halvings: int = 10, damping: float = DAMPING, entropy_coefficient: float = 0.0) -> TRPO:
    return TRPO(PLAIN, entropy_coefficient, damping, 30, max_kl, halvings)


def updated(chosen, policy, episodes, **switches):
    """(parameters' change, row) of an update."""
    algorithm_ = algorithm(chosen, **switches)
    state = state_for(algorithm_, policy)
    one = quickly_compiled(lambda state: update(state, episodes, algorithm_, KEY, jnp.array(False)))
    new, row = one(state)
    return flat(new.policy) - flat(policy), row


def test_on_the_enumerated_process_it_is_the_inverse_of_fisher_times_the_gradient():
    """Every trajectory once: F by its definition, E ∇ log π ∇ log πᵀ over states and actions, and solved in float64."""
    episodes, theta = all_episodes(), Theta.of_vector(THETA)
    fisher, n = DAMPING * np.eye(len(THETA)), sum(len(tau.actions) for tau in TRAJECTORIES)
    for s in (s for tau in TRAJECTORIES for s in tau.states[:-1]):
        p = theta.probabilities(s)
        for a in range(ACTIONS):
            of_logits = np.eye(ACTIONS)[a] - p
            score = np.concatenate([np.outer(of_logits, ONE_HOT[s]).ravel(), of_logits])
            fisher += p[a] * np.outer(score, score) / n
    assert fisher.shape == (ACTIONS * (STATES + 1),) * 2
    gradient, _ = updated(GradientStep(PLAIN, BONUS), POLICY, episodes)
    expected = np.linalg.solve(fisher, gradient * len(TRAJECTORIES) / n)
    found, row = updated(step(), POLICY, episodes)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    cosine = found @ gradient / np.linalg.norm(found) / np.linalg.norm(gradient)
    assert 0 < cosine < 0.99, "another direction, and still uphill"
    assert np.isfinite(row["kl"])


def explicit(policy, obs) -> np.ndarray:
    """F + λI of a diagonal Gaussian, from the Jacobians of its parameters: 1/σ² of a mean, 2 of a log σ."""
    parameters, unravel = ravel_pytree(policy)

    def of(parameters, x):
        pi = unravel(parameters)(x[:, None])
        return jnp.concatenate([pi.mean[:, 0], pi.log_std[:, 0]])

    jacobians = np.asarray(jax.vmap(lambda x: jax.jacobian(of)(parameters, x))(obs), np.float64)
    pi = policy(obs.T)
    inside = np.concatenate([np.exp(-2 * np.asarray(pi.log_std, np.float64)), np.full(pi.log_std.shape, 2.0)]).T
    return np.einsum("nip,ni,niq->pq", jacobians, inside, jacobians) / len(obs) + DAMPING * np.eye(len(parameters))


def test_of_a_gaussian_it_is_the_inverse_of_its_fisher_matrix():
    policy, episodes = POLICIES["gaussian"], played("gaussian")
    gradient, _ = updated(GradientStep(PLAIN, BONUS), policy, episodes)
    obs = jnp.stack([episodes.obs[t, b] for t, b in np.argwhere(np.asarray(episodes.mask))])
    share = episodes.mask.shape[1] / len(obs)
    found, _ = updated(step(), policy, episodes)
    np.testing.assert_allclose(found, np.linalg.solve(explicit(policy, obs), gradient * share), rtol=2e-3, atol=1e-4)


# A trust region


def measured(policy, change, episodes) -> tuple[float, float]:
    """((1/n) Σ ρA after − before, KL) of this change, step by step."""
    chosen = algorithm(trpo())
    weight = weigh(state_for(chosen, policy).critic, episodes, chosen).weight
    parameters, unravel = ravel_pytree(policy)
    new = unravel(parameters + jnp.asarray(change, jnp.float32))
    gains, divergences = [], []
    for t, b in np.argwhere(np.asarray(episodes.mask)):
        old_pi, new_pi = policy(episodes.obs[t, b][:, None]), new(episodes.obs[t, b][:, None])
        action = episodes.action[t, b][..., None]
        ratio = float(jnp.exp(new_pi.log_prob(action) - old_pi.log_prob(action))[0])
        gains.append((ratio - 1) * float(weight[t, b]))
        divergences.append(float(old_pi.kl(new_pi)[0]))
    return np.mean(gains), np.mean(divergences)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_step_goes_as_far_as_it_may_and_no_further(policy):
    """Along x, with ½ xᵀ(F + λI)x = δ before any halving; the KL is at most δ, the surrogate gains, and one halving
    less would not do."""
    episodes = played(policy)
    direction, _ = updated(dataclasses.replace(step(), entropy_coefficient=0.0), POLICIES[policy], episodes)
    gradient, _ = updated(GradientStep(PLAIN, 0.0), POLICIES[policy], episodes)
    square = direction @ gradient * episodes.mask.shape[1] / float(episodes.mask.sum())
    for max_kl in (1e-4, 100.0):
        change, row = updated(trpo(max_kl), POLICIES[policy], episodes)
        gain, kl = measured(POLICIES[policy], change, episodes)
        assert gain > 0 and kl <= max_kl * 1.001 and float(row["kl"]) == pytest.approx(kl, rel=1e-2, abs=1e-7)
        length = np.sqrt(2 * max_kl / square) * 0.5 ** int(row["halvings"])
        np.testing.assert_allclose(change, length * direction, rtol=5e-3, atol=1e-5)
        if max_kl < 1:
            assert int(row["halvings"]) == 0 and kl > 0.3 * max_kl, "not a small step"
        elif policy == "gaussian":
            gain, kl = measured(POLICIES[policy], 2 * change, episodes)
            assert int(row["halvings"]) > 0 and (gain <= 0 or kl > max_kl)


def test_without_an_advantage_it_stays_where_it_is():
    """Nothing is divided by the length of a direction that is none."""
    episodes = played("categorical")
    nothing = dataclasses.replace(episodes, reward=jnp.zeros_like(episodes.reward))
    change, row = updated(trpo(), POLICY, nothing, critic=NoCritic())
    assert not change.any() and int(row["halvings"]) == 0 and float(row["kl"]) == 0


def test_where_no_length_will_do_it_stays_where_it_is(monkeypatch):
    monkeypatch.setattr(TRPO, "surrogate", lambda self, *_: (jnp.zeros(()), jnp.zeros(())))
    change, row = updated(trpo(halvings=3), POLICY, played("categorical"))
    assert not change.any() and int(row["halvings"]) == 4


# Mutants


def sums_for_means(monkeypatch):
    product = natural.fisher_product
    scaled = lambda policy, steps, v: product(policy, steps, v) * steps.steps.astype(jnp.float32)
    monkeypatch.setattr(natural, "fisher_product", scaled)


def of_the_actions_taken(monkeypatch):
    """The empirical Fisher matrix: scores of the actions that were taken, not of those that might have been."""

    def product(policy, steps, vector):
        block = jax.tree.map(lambda x: x.reshape(*x.shape[:-2], -1), steps.arrays)
        taken = steps.taken.reshape(-1)
        score = lambda policy: jnp.where(taken, policy(block.obs).log_prob(block.action), 0.0)
        _, along = jax.jvp(score, (policy,), (vector,))
        (back,) = jax.vjp(score, policy)[1](along)
        return ravel_pytree(back)[0] / steps.steps.astype(jnp.float32)

    monkeypatch.setattr(natural, "fisher_product", product)


def undamped(monkeypatch):
    product = natural.fisher_product
    less = lambda policy, steps, v: product(policy, steps, v) - DAMPING * ravel_pytree(v)[0]
    monkeypatch.setattr(natural, "fisher_product", less)


@pytest.mark.parametrize("mutant", [sums_for_means, of_the_actions_taken, undamped])
def test_another_matrix_is_another_direction(mutant, monkeypatch):
    right, _ = updated(step(), POLICIES["gaussian"], played("gaussian"))
    mutant(monkeypatch)
    wrong, _ = updated(step(), POLICIES["gaussian"], played("gaussian"))
    assert np.linalg.norm(right - wrong) > 0.05 * np.linalg.norm(right)


# Runs

SMALL = ("episodes_per_update=3", "diagnose_every=2", "checkpoint_every=2", "updates_per_chunk=3", "policy.width=8")


@pytest.mark.parametrize("variant", ["trpo", "natural"])
def test_a_run(variant, tmp_path):
    """A resumed one has the bits of one that was not interrupted, TRPO's KL is never above δ."""
    env = ("env=pendulum", "+env.params.max_steps_in_episode=20")
    words = (f"+variant={variant}", *SMALL, *env)
    train_here(*words, "num_updates=6", folder=tmp_path / "whole")
    for updates in (2, 6):
        train_here(*words, f"num_updates={updates}", folder=tmp_path / "resumed")
    tables = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "resumed")]
    assert tables[0] == tables[1]
    table = rows(tmp_path / "whole")
    assert all(float(row["kl"]) > 0 and bool(row["grad_variance"]) == (int(row["update"]) % 2 == 0) for row in table)
    if variant == "trpo":
        assert all(float(row["kl"]) <= 0.0100001 and 0 <= int(row["halvings"]) <= 10 for row in table)


@pytest.mark.slow
def test_a_run_on_the_host_can_be_diagnosed(tmp_path, capsys):
    train_here("+variant=trpo", *SMALL, "env=gymnasium_cartpole", "env.max_steps=20", "num_updates=2", folder=tmp_path)
    diagnose.main([str(tmp_path), *"--episodes 24 --batches 2,4 --updates 2 --checkpoints 1".split()])
    assert "1 checkpoints measured" in capsys.readouterr().out


def test_lanes_search_each_for_themselves():
    """Under vmap: other lengths of the search, each lane as if it were alone."""
    batches = [played("gaussian", (2, 1, 3, 1)), played("gaussian")]
    steps = [trpo(max_kl=jnp.array(x)) for x in (1e-4, 100.0)]

    def one(episodes, chosen):
        algorithm_ = algorithm(chosen)
        return update(state_for(algorithm_, POLICIES["gaussian"]), episodes, algorithm_, KEY, jnp.array(False))

    stack = lambda *trees: jax.tree.map(lambda *xs: jnp.stack(xs), *trees)
    together, table = quickly_compiled(jax.vmap(one))(stack(*batches), stack(*steps))
    alone = quickly_compiled(one)
    for i, (episodes, chosen) in enumerate(zip(batches, steps, strict=True)):
        new, row = alone(episodes, chosen)
        ours = np.concatenate([np.ravel(x[i]) for x in jax.tree.leaves(together.policy)])
        np.testing.assert_allclose(ours, flat(new.policy), rtol=1e-3, atol=1e-4)
        assert int(table["halvings"][i]) == int(row["halvings"])
    assert len(set(map(int, table["halvings"]))) == 2


def test_numbers_share_a_program():
    words = ("+variant=trpo", *SMALL)
    base, other = (program(checked(*words, *more)) for more in ((), ("update.max_kl=0.1", "update.damping=0")))
    assert base == other != program(checked(*words, "update.iterations=5"))


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("update.max_kl=0", "update.max_kl: 0 is not allowed; allowed: a number > 0"),
        ("update.damping=-1", "update.damping: -1 is not allowed; allowed: a number ≥ 0"),
        ("update.iterations=0", "update.iterations: 0 is not allowed; allowed: a whole number ≥ 1"),
        ("update.halvings=1.5", "update.halvings: 1.5 is not allowed; allowed: a whole number ≥ 1"),
        ("update.clip=1", "update.clip: the chosen update has no such key; update=cispo|ppo has it"),
    ],
)
def test_a_mistake_is_one_line(wrong, says):
    assert says in refusal("+variant=trpo", *wrong.split())
