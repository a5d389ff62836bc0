"""Updates by epochs against loops in Python and the textbook's objective, and every way to get them wrong."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from by_epochs import BONUS, CASES, POLICIES, algorithm, by_hand, flat, played, ppo, updated
from estimands import KEY

from pgx.blocks import deal, to_blocks
from pgx.optimiser import Optimiser
from pgx.types import Episodes, Steps
from pgx.updates import epochs
from pgx.updates.gradient import GradientStep
from pgx.updates.ppo import CISPO, PPO, PPOKL


@pytest.mark.parametrize("name", CASES)
def test_an_update_is_what_loops_make_of_it(name):
    """Policy, V and columns, after several minibatches of several epochs."""
    step, policy = CASES[name]
    new, value, told = by_hand(name)
    found, row = updated(algorithm(step), policy)
    start = flat(POLICIES[policy])
    np.testing.assert_allclose(flat(found.policy) - start, flat(new) - start, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(flat(found.critic[0]), flat(value), rtol=1e-4, atol=1e-5)
    assert float(row["kl"]) == pytest.approx(told["kl"], rel=1e-3) and int(row["epochs"]) == told["epochs"]
    assert float(row["ratio_max"]) == pytest.approx(told["ratio_max"], rel=1e-4)
    if type(step) is PPO:
        assert float(row["clip_share"]) == pytest.approx(told["clip_share"], abs=1e-6)
        assert told["clip_share"] > 0.05 or step.stop_at_kl or step.optimiser.clip_norm
    assert step.stop_at_kl is None or 1 < told["epochs"] < step.epochs


# One epoch of one minibatch


ADAM = Optimiser("adam", 0.01)


@cache
def one_gradient_step(policy: str):
    return updated(algorithm(GradientStep(ADAM, BONUS), whiten=True), policy, diagnose=True, episodes=over_blocks(policy))


def over_blocks(policy: str) -> Episodes:
    """644 steps, in three blocks."""
    return played(policy, (300, 10, 334), padded_to=340)


@pytest.mark.parametrize("kind, policy", [(PPO, "categorical"), (PPO, "gaussian"), (CISPO, "categorical"), (PPOKL, "gaussian")])
def test_one_epoch_of_one_minibatch_is_a_gradient_step(kind, policy):
    """Every ratio is exactly 1, nothing is clipped, and every number is that of `gradient`: V's, too."""
    one = algorithm(ppo(kind, ADAM, epochs=1, minibatch_steps=None), whiten=True)
    ours, row = updated(one, policy, diagnose=True, episodes=over_blocks(policy))
    theirs, their_row = one_gradient_step(policy)
    assert float(row["ratio_max"]) == 1.0 and float(row["clip_share"]) == 0.0 and int(row["epochs"]) == 1
    start = flat(POLICIES[policy])
    np.testing.assert_allclose(flat(ours.policy) - start, flat(theirs.policy) - start, rtol=2e-5, atol=1e-7)
    np.testing.assert_array_equal(flat(ours.critic), flat(theirs.critic))
    for name, x in their_row.items():
        np.testing.assert_allclose(row[name], x, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_minibatch_may_be_larger_than_a_block():
    """Two of 322 steps have the gradient of the batch between them, at a policy that stands still."""
    still = lambda size: algorithm(ppo(optimiser=Still("sgd", 0.0), epochs=1, minibatch_steps=size))
    sums = [
        updated(still(size), "gaussian", episodes=over_blocks("gaussian"))[0].policy_opt_state.optimiser for size in (322, None)
    ]
    (halves, two), (whole, one) = sums
    assert (int(two), int(one)) == (2, 1)
    np.testing.assert_allclose(flat(halves) / 2, flat(whole), rtol=1e-4, atol=1e-3)


class Still(Optimiser):
    """Keeps the policy where it is, and adds up the gradients."""

    def init(self, model):
        return jax.tree.map(jnp.zeros_like, model), jnp.zeros(())

    def step(self, model, gradient, state):
        return model, (jax.tree.map(jnp.add, state[0], gradient), state[1] + 1)


@pytest.mark.parametrize("shuffled", [False, True])
def test_minibatches_have_the_gradient_of_the_batch(shuffled):
    """On average over an epoch, at a policy that stands still: 24 steps in minibatches of 6."""
    still = ppo(optimiser=Still("sgd", 0.0), epochs=2, minibatch_steps=6, shuffle=shuffled)
    found, row = updated(algorithm(still), "categorical")
    total, count = found.policy_opt_state.optimiser
    assert int(count) == 8
    whole, whole_row = updated(algorithm(ppo(optimiser=Still("sgd", 0.0), epochs=1, minibatch_steps=None)), "categorical")
    np.testing.assert_allclose(flat(total) / 8, flat(whole.policy_opt_state.optimiser[0]), rtol=1e-4, atol=1e-6)
    assert abs(float(row["grad_norm"]) - float(whole_row["grad_norm"])) > 0.01  # of the first minibatch


# Mutants: published mistakes. The loops reject each.


def of_deal(monkeypatch, mutant):
    monkeypatch.setattr(epochs, "deal", mutant)


def padding_among_the_steps(monkeypatch):
    of_deal(monkeypatch, lambda blocks, hands, i, size, _: deal(blocks, hands, i, size)._replace(steps=jnp.array(size)))


def a_step_dropped(monkeypatch):
    def mutant(blocks, hands, i, size, _):
        hand = deal(blocks, hands, i, size)
        return hand._replace(steps=hand.steps - 1)

    of_deal(monkeypatch, mutant)


def a_minibatch_repeated(monkeypatch):
    of_deal(monkeypatch, lambda blocks, hands, i, size, _: deal(blocks, hands, i * 0, size))


def the_last_minibatch_dropped(monkeypatch):
    of_deal(monkeypatch, lambda blocks, hands, i, size, _: deal(blocks, hands + 1, i, size))


def clipped_by_element(monkeypatch):
    monkeypatch.setattr("pgx.optimiser.optax.clip_by_global_norm", optax.clip)


def value_after_its_fit(monkeypatch):
    """A from V as it is after being fitted to these very episodes."""
    weigh = epochs.weigh

    def mutant(critic, episodes, algorithm):
        found = weigh(critic, episodes, algorithm)
        steps = to_blocks(Steps(episodes.obs, episodes.action, found.weight, found.returns, found.baseline), episodes.mask)
        return weigh(algorithm.critic.fit(critic, steps, KEY)[0], episodes, algorithm)

    monkeypatch.setattr(epochs, "weigh", mutant)


def clipped_whatever_the_sign(monkeypatch):
    """No gradient beyond 1 ± ε, not even back."""
    wrong = lambda self, ratio, weight: jnp.where(jnp.abs(ratio - 1) > self.clip, 0.0, ratio * weight)
    monkeypatch.setattr(PPO, "weight", wrong)


def the_larger_objective(monkeypatch):
    """max where it should be min."""

    def wrong(self, ratio, weight):
        outside = jnp.where(weight > 0, ratio < 1 - self.clip, ratio > 1 + self.clip)
        return jnp.where(outside, 0.0, ratio * weight)

    monkeypatch.setattr(PPO, "weight", wrong)


def ratio_left_out(monkeypatch):
    monkeypatch.setattr(PPO, "weight", lambda self, ratio, weight: weight)


def whitened_with_the_padding(monkeypatch):
    whitened = epochs.whitened
    monkeypatch.setattr(epochs, "whitened", lambda weight, taken: whitened(weight, jnp.ones_like(taken)))


MUTANTS = [
    ("ppo", padding_among_the_steps),
    ("ppo", a_step_dropped),
    ("ppo", a_minibatch_repeated),
    ("ppo", the_last_minibatch_dropped),
    ("clipped norm", clipped_by_element),
    ("ppo", value_after_its_fit),
    ("ppo", clipped_whatever_the_sign),
    ("ppo", the_larger_objective),
    ("ppo", ratio_left_out),
    ("whitened, to stop", whitened_with_the_padding),
]


@pytest.mark.parametrize("name, mutant", MUTANTS, ids=[mutant.__name__ for _, mutant in MUTANTS])
def test_a_mutant_is_rejected(name, mutant, monkeypatch):
    """A check that a known mistake passes would be no check."""
    step, policy = CASES[name]
    new, _, _ = by_hand(name)
    mutant(monkeypatch)
    found, _ = updated(algorithm(step), policy)
    way = flat(new) - flat(POLICIES[policy])
    assert np.linalg.norm(flat(found.policy) - flat(new)) > 0.01 * np.linalg.norm(way)


def test_a_switch_that_is_off_is_seen():
    """Each changes the result: a switch that did nothing would pass for one that is right."""
    start, _ = updated(algorithm(ppo()), "categorical")
    for switch in ("shuffle", "whiten_minibatches", "recompute_advantages"):
        found, _ = updated(algorithm(ppo(**{switch: True})), "categorical")
        assert np.linalg.norm(flat(found.policy) - flat(start.policy)) > 1e-3, switch
