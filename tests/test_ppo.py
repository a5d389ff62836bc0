"""Updates by epochs: against loops in Python and the textbook's objective, against rlax, and every way to get them wrong."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rlax
from estimands import GAMMA, KEY, VALUE, G, V, linear_policy
from jax.flatten_util import ravel_pytree
from program import checked, rows, train_here
from quick import quickly_compiled

from pgx import assemble, build, diagnose
from pgx.algorithm import Algorithm
from pgx.blocks import Blocks, deal, shuffle, to_blocks
from pgx.critics import LeaveOneOut
from pgx.errors import ConfigError
from pgx.loop import Limits
from pgx.optimiser import Optimiser
from pgx.policies import MLPPolicy
from pgx.runners import PackRunner
from pgx.spaces import Box
from pgx.sweep.members import program
from pgx.types import Episodes, Steps, TrainState
from pgx.update import update
from pgx.updates import epochs
from pgx.updates.gradient import GradientStep
from pgx.updates.ppo import CISPO, PPO, PPOKL

RATE, CLIP, BONUS = 0.05, 0.1, 0.02
SGD = Optimiser("sgd", RATE)
LENGTHS = (5, 11, 1, 7)
"""24 steps in all."""
POLICIES = {
    "categorical": linear_policy(),
    "gaussian": MLPPolicy(
        3,
        Box((-1.0, -2.0), (1.0, 2.0), "clip"),
        width=1,
        depth=0,
        activation="tanh",
        last_layer_scale=1.0,
        key=jax.random.key(0),
    ),
}
CRITIC = dataclasses.replace(VALUE, passes=2, minibatch_steps=10, optimiser=Optimiser("sgd", 0.1))
OFF = {"shuffle": False, "whiten_minibatches": False, "recompute_advantages": False, "stop_at_kl": None}


def ppo(kind=PPO, optimiser=SGD, entropy_coefficient=BONUS, epochs=3, minibatch_steps=7, **more):
    own = {"kl_coefficient": 0.5, "target_kl": 0.01} if kind is PPOKL else {"clip": CLIP, "adapt_to_kl": None}
    settings = {"epochs": epochs, "minibatch_steps": minibatch_steps} | OFF | own | more
    return kind(optimiser, entropy_coefficient, **settings)


def algorithm(step, critic=CRITIC, **switches) -> Algorithm:
    off = {"whiten": False, "bootstrap_truncated": False, "discount_power": False}
    return Algorithm(G, critic, step, GAMMA, **(off | switches))


def state_for(algorithm: Algorithm, policy) -> TrainState:
    critic = (V, algorithm.critic.optimiser.init(V)) if algorithm.critic.has_value else None
    recent = jnp.full(100, jnp.nan, jnp.float32)
    return TrainState(policy, algorithm.update.init(policy), critic, recent, jnp.zeros((), jnp.int32))


def played(policy: str, lengths=LENGTHS, padded_to=13, garbage=9.0) -> Episodes:
    """Random steps; what stands on padding would be seen by anybody who looks."""
    rng = np.random.default_rng(0)
    mask = np.arange(padded_to)[:, None] < np.array(lengths)
    obs = np.where(mask[..., None], rng.normal(size=(*mask.shape, 3)), garbage)
    action = rng.integers(0, 2, mask.shape) if policy == "categorical" else rng.normal(size=(*mask.shape, 2))
    return Episodes(
        obs=jnp.asarray(obs, jnp.float32),
        action=jnp.asarray(action, jnp.int32 if policy == "categorical" else jnp.float32),
        reward=jnp.asarray(np.where(mask, rng.normal(size=mask.shape), 0.0), jnp.float32),
        mask=jnp.asarray(mask),
        terminated=jnp.ones(len(lengths), bool),
        last_obs=jnp.zeros((len(lengths), 3)),
    )


def updated(chosen: Algorithm, policy: str, diagnose: bool = False, episodes: Episodes | None = None, key=KEY):
    """(the state after an update, its row)"""
    episodes = played(policy) if episodes is None else episodes
    one = quickly_compiled(lambda state, diagnose: update(state, episodes, chosen, key, diagnose))
    return one(state_for(chosen, POLICIES[policy]), jnp.array(diagnose))


def flat(tree) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0], np.float64)


# Loops, and the objective as the papers write it


def objective(step, ratio, weight, old, new):
    """Of the steps of a minibatch, to be ascended."""
    if isinstance(step, PPOKL):
        return ratio * weight - 0.5 * old.kl(new)
    if isinstance(step, CISPO):
        return jax.lax.stop_gradient(jnp.minimum(ratio, 1 + CLIP)) * weight * jnp.log(ratio)
    return jnp.minimum(ratio * weight, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * weight)


def loss(step, obs, action, weight, share, start, policy):
    """(to be descended, ρ) of a minibatch."""
    old, new = start(obs), policy(obs)
    ratio = jnp.exp(new.log_prob(action) - old.log_prob(action))
    return -share * (objective(step, ratio, weight, old, new) + BONUS * new.entropy()).sum(), ratio


@cache
def by_hand(name: str):
    """(policy, V, row) of a case after an update, with a list of steps and a loop over minibatches."""
    step, policy = CASES[name]
    episodes, start = played(policy), POLICIES[policy]
    where = [(t, b) for b, length in enumerate(LENGTHS) for t in range(length)]
    n, B = len(where), len(LENGTHS)
    pick = lambda x: jnp.stack([x[t, b] for t, b in where])
    obs, action = pick(episodes.obs).T, jnp.moveaxis(pick(episodes.action), 0, -1)
    reward = np.asarray(episodes.reward, np.float64)
    returns = np.array([sum(GAMMA**k * r for k, r in enumerate(reward[t:, b])) for t, b in where])
    old, new, value = start(obs), start, V
    targets = _put(returns, where, reward)
    packed = to_blocks(Steps(episodes.obs, episodes.action, targets, targets, targets), episodes.mask)
    count = -(-n // (step.minibatch_steps or n))
    clipped, ratios, done, optimiser_state = 0, [], 0, step.optimiser.init(start)
    critic = (V, CRITIC.optimiser.init(V))
    for _ in range(step.epochs):
        if done == 0 or step.recompute_advantages:
            advantage = returns - np.asarray(value(obs))
        for i in range(count):
            mine = np.arange(i, n, count)
            weight = advantage[mine]
            if step.whiten_minibatches:
                weight = (weight - weight.mean()) / weight.std()
            weight = jnp.asarray(weight, jnp.float32)
            gain = partial(loss, step, obs[:, mine], action[..., mine], weight, n / len(mine) / B, start)
            gradient, ratio = jax.grad(gain, has_aux=True)(new)
            new, optimiser_state = step.optimiser.step(new, gradient, optimiser_state)
            ratios += list(np.asarray(ratio))
            clipped += int(((ratio > 1 + CLIP) & (weight > 0) | (ratio < 1 - CLIP) & (weight < 0)).sum())
        done += 1
        critic, _ = CRITIC.fit(critic, packed, KEY)
        value = critic[0]
        kl = float(old.kl(new(obs)).mean())
        if step.stop_at_kl is not None and kl > step.stop_at_kl:
            break
    return new, value, {"kl": kl, "epochs": done, "ratio_max": max(ratios), "clip_share": clipped / (n * done)}


def _put(values, where, like):
    found = np.zeros_like(like)
    for x, (t, b) in zip(values, where, strict=True):
        found[t, b] = x
    return jnp.asarray(found, jnp.float32)


CASES = {
    "ppo": (ppo(), "categorical"),
    "ppo, gaussian": (ppo(), "gaussian"),
    "whitened, to stop": (ppo(whiten_minibatches=True, stop_at_kl=0.2, epochs=9), "gaussian"),
    "recomputed": (ppo(recompute_advantages=True), "categorical"),
    "clipped norm": (ppo(optimiser=Optimiser("sgd", RATE, clip_norm=1.0)), "categorical"),
    "cispo": (ppo(CISPO), "gaussian"),
    "ppo_kl": (ppo(PPOKL), "categorical"),
}


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
    return updated(algorithm(GradientStep(ADAM, BONUS), whiten=True), policy, diagnose=True)


@pytest.mark.parametrize("kind, policy", [(PPO, "categorical"), (PPO, "gaussian"), (CISPO, "categorical"), (PPOKL, "gaussian")])
def test_one_epoch_of_one_minibatch_is_a_gradient_step(kind, policy):
    """Every ratio is exactly 1, nothing is clipped, and every number is that of `gradient`: V's, too."""
    one = ppo(kind, ADAM, epochs=1, minibatch_steps=None)
    (ours, row), (theirs, their_row) = updated(algorithm(one, whiten=True), policy, diagnose=True), one_gradient_step(policy)
    assert float(row["ratio_max"]) == 1.0 and float(row["clip_share"]) == 0.0 and int(row["epochs"]) == 1
    start = flat(POLICIES[policy])
    np.testing.assert_allclose(flat(ours.policy) - start, flat(theirs.policy) - start, rtol=2e-5, atol=1e-7)
    np.testing.assert_array_equal(flat(ours.critic), flat(theirs.critic))
    for name, x in their_row.items():
        np.testing.assert_allclose(row[name], x, rtol=2e-5, atol=1e-7, err_msg=name)


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
    of_deal(monkeypatch, lambda blocks, hands, i, size: deal(blocks, hands, i, size)._replace(steps=jnp.array(size)))


def a_step_dropped(monkeypatch):
    def mutant(blocks, hands, i, size):
        hand = deal(blocks, hands, i, size)
        return hand._replace(steps=hand.steps - 1)

    of_deal(monkeypatch, mutant)


def a_minibatch_repeated(monkeypatch):
    of_deal(monkeypatch, lambda blocks, hands, i, size: deal(blocks, hands, i * 0, size))


def the_last_minibatch_dropped(monkeypatch):
    of_deal(monkeypatch, lambda blocks, hands, i, size: deal(blocks, hands + 1, i, size))


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


# The objective of single steps


def test_what_a_step_weighs_is_the_gradient_of_rlaxs_loss():
    """d/d(log π) of −min(ρA, clip(ρ)A), on both sides of both edges, for both signs of A; theirs is a mean."""
    ratio = jnp.array([0.2, 0.89, 0.91, 1.0, 1.09, 1.11, 3.0] * 3)
    advantage = jnp.repeat(jnp.array([2.0, -3.0, 0.0]), 7)
    loss = lambda log_ratio: rlax.clipped_surrogate_pg_loss(jnp.exp(log_ratio), advantage, CLIP)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = -jax.grad(loss)(jnp.log(ratio)) * len(ratio)
    np.testing.assert_allclose(ppo().weight(ratio, advantage), theirs, rtol=1e-5)
    np.testing.assert_allclose(ppo(CISPO).weight(ratio, advantage), np.minimum(ratio, 1 + CLIP) * advantage, rtol=1e-6)


def test_a_ratio_that_overflows_leaves_a_number_where_it_is_clipped():
    weight = ppo().weight(jnp.array([jnp.inf, 0.0, jnp.inf]), jnp.array([1.0, -1.0, -1.0]))
    np.testing.assert_array_equal(weight, [0.0, 0.0, -np.inf])


# A shuffle


def with_replacement(blocks, key):
    """Steps drawn, some twice and some never."""
    order = jax.random.randint(key, blocks.taken.shape, 0, blocks.steps)
    return blocks._replace(arrays=blocks.arrays.ravel()[order.ravel()].reshape(order.shape))


def with_padding(blocks, key):
    """A permutation of the buffer."""
    return blocks._replace(arrays=jax.random.permutation(key, blocks.arrays.ravel()).reshape(blocks.arrays.shape))


@pytest.mark.parametrize("right, mix", [(True, shuffle), (False, with_replacement), (False, with_padding)])
def test_a_shuffle_has_every_step_once_and_no_padding(right, mix):
    """And is another one for another key, the same for the same; no order is preferred."""
    n = 60
    steps = np.where(np.arange(80) < n, np.arange(1, 81), 0).reshape(2, 40)
    blocks = Blocks(jnp.asarray(steps), jnp.array(n), jnp.array([20, 40]))
    keys = jax.random.split(KEY, 200)
    many = np.asarray(jax.vmap(lambda key: mix(blocks, key).arrays)(keys)).reshape(200, -1)[:, :n]
    each_once = all(sorted(row) == list(range(1, n + 1)) for row in many)
    assert each_once == right
    if right:
        assert len({tuple(row) for row in many}) == 200
        assert np.abs(many.mean(0) - (n + 1) / 2).max() < 5 * n / np.sqrt(12 * 200)
        np.testing.assert_array_equal(mix(blocks, keys[0]).arrays.ravel()[:n], many[0])


# What adapts to the KL


def test_a_learning_rate_that_adapts_multiplies_the_step():
    """Divided by 1.5 after a KL of more than 2d, multiplied after less than d/2, and as it is in between."""
    step = ppo(adapt_to_kl=0.01, epochs=1, minibatch_steps=None, entropy_coefficient=0.0)
    plain, _ = updated(algorithm(dataclasses.replace(step, adapt_to_kl=None)), "categorical")
    chosen = algorithm(step)
    state = state_for(chosen, POLICIES["categorical"])
    halved = dataclasses.replace(state, policy_opt_state=state.policy_opt_state._replace(factor=jnp.array(0.5)))
    new, _ = quickly_compiled(lambda state: update(state, played("categorical"), chosen, KEY, jnp.array(False)))(halved)
    start = flat(state.policy)
    np.testing.assert_allclose(flat(new.policy) - start, 0.5 * (flat(plain.policy) - start), rtol=1e-3, atol=1e-6)
    one = jnp.ones(())
    for kl, factor in {0.0: 1.5, 0.0049: 1.5, 0.0051: 1.0, 0.0199: 1.0, 0.0201: 1 / 1.5, np.nan: 1.0}.items():
        assert float(step.adapted(one, jnp.array(kl, jnp.float32))) == pytest.approx(factor)
    assert float(step.adapted(jnp.array(10.0), jnp.array(0.0))) == 10 and float(step.adapted(one / 100, one)) == pytest.approx(
        0.01
    )


def test_the_penalty_doubles_and_halves():
    step = ppo(PPOKL)
    for kl, factor in {0.0: 0.5, 0.0066: 0.5, 0.0067: 1.0, 0.0149: 1.0, 0.0151: 2.0}.items():
        assert float(step.adapted(jnp.ones(()), jnp.array(kl, jnp.float32))) == factor


# In company


def test_lanes_that_stop_sooner_do_not_hold_the_others_up():
    """Under vmap: other numbers of epochs and of minibatches, each lane as if it were alone."""
    batches = [played("categorical", lengths) for lengths in (LENGTHS, (2, 1, 3, 1))]
    steps = [ppo(stop_at_kl=jnp.array(x), epochs=4) for x in (10.0, 1e-4)]

    def one(episodes, step):
        chosen = algorithm(step)
        return update(state_for(chosen, POLICIES["categorical"]), episodes, chosen, KEY, jnp.array(False))

    stack = lambda *trees: jax.tree.map(lambda *xs: jnp.stack(xs), *trees)
    together, rows = quickly_compiled(jax.vmap(one))(stack(*batches), stack(*steps))
    alone = quickly_compiled(one)
    for i, (episodes, step) in enumerate(zip(batches, steps, strict=True)):
        new, row = alone(episodes, step)
        for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(new), strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=1e-4, atol=1e-6)
        assert int(rows["epochs"][i]) == int(row["epochs"])
    assert len(set(map(int, rows["epochs"]))) == 2


def test_padding_is_never_looked_at():
    (ours, _), (theirs, _) = (
        updated(algorithm(ppo()), "categorical", episodes=played("categorical", garbage=x)) for x in (9.0, np.nan)
    )
    np.testing.assert_array_equal(flat(ours.policy), flat(theirs.policy))


def test_a_critic_that_learns_nothing_will_do():
    _, row = updated(algorithm(ppo(), LeaveOneOut()), "categorical")
    assert np.isnan(row["value_loss"]) and np.isfinite(row["policy_loss"]) and float(row["kl"]) > 0


# A run

SWITCHES = "epochs=3 minibatch_steps=16 clip=0.1 shuffle=true whiten_minibatches=true recompute_advantages=true stop_at_kl=0.5"
RUN = (
    "+variant=ppo",
    "episodes_per_update=3",
    "diagnose_every=2",
    "checkpoint_every=2",
    "updates_per_chunk=3",
    "policy.width=8",
)
RUN += (*(f"update.{switch}" for switch in SWITCHES.split()), "update.adapt_to_kl=0.01", "critic.clip=0.5")
ENVS = {
    "compiled": ("env=pendulum", "+env.params.max_steps_in_episode=20"),
    "host": ("env=gymnasium_cartpole", "env.max_steps=20"),
}


@pytest.mark.parametrize("env", ["compiled", pytest.param("host", marks=pytest.mark.slow)])
def test_a_resumed_run_has_the_bits_of_one_that_was_not_interrupted(env, tmp_path, capsys):
    """With every switch on: the optimiser's state, the learning rate's factor and the random order go on where they were.
    And `pgx.diagnose` measures its checkpoints."""
    train_here(*RUN, *ENVS[env], "num_updates=6", folder=tmp_path / "whole")
    for updates in (2, 5, 6):
        train_here(*RUN, *ENVS[env], f"num_updates={updates}", folder=tmp_path / "resumed")
    tables = [(tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "resumed")]
    assert tables[0] == tables[1]
    for row in rows(tmp_path / "whole"):
        assert 1 <= int(row["epochs"]) <= 3 and float(row["ratio_max"]) > 1 and 0 <= float(row["clip_share"]) < 1
        assert bool(row["grad_variance"]) == (int(row["update"]) % 2 == 0)
    small = "--episodes 24 --batches 2,4 --updates 2 --states 6 --continuations 2 --checkpoints 1".split()
    if env == "host":
        diagnose.main([str(tmp_path / "whole"), *small])
        assert "1 checkpoints measured" in capsys.readouterr().out


@pytest.mark.slow
def test_the_first_update_in_a_pack_is_that_of_the_run_alone():
    config = checked(*RUN, *ENVS["compiled"])
    parts = assemble(config)
    lane = build.lane(config, parts.env, parts.algorithm, parts.state)
    alone = parts.runner(parts.state, Limits(1))
    together = PackRunner([lane, lane], width=2, num_episodes=3, max_updates=3)([Limits(1), Limits(1)])
    for chunk in together:
        for name, x in alone.rows.items():
            np.testing.assert_allclose(chunk.rows[name], x, rtol=2e-3, atol=1e-5, err_msg=name)


def test_numbers_of_an_update_share_a_program():
    """What is no number does not."""
    base, other, longer = (
        program(checked(*RUN, *more))
        for more in (
            (),
            ("update.clip=0.3", "update.stop_at_kl=0.1", "update.adapt_to_kl=1", "critic.clip=1"),
            ("update.epochs=4",),
        )
    )
    assert base == other != longer


@pytest.mark.parametrize(
    "wrong, says",
    [
        ("update.clip=0", "update.clip: 0 is not allowed; allowed: a number > 0"),
        ("update.epochs=0", "update.epochs: 0 is not allowed; allowed: a whole number ≥ 1"),
        ("update.minibatch_steps=0.5", "update.minibatch_steps: 0.5 is not allowed"),
        ("update.stop_at_kl=0", "update.stop_at_kl: 0 is not allowed; allowed: a number > 0 or null"),
        ("update.adapt_to_kl=-1", "update.adapt_to_kl: -1 is not allowed"),
        ("update.shuffle=1", "update.shuffle: 1 is not allowed; allowed: true or false"),
        ("update.shufle=true", "did you mean 'update.shuffle'?"),
        ("update.kl_coefficient=1", "update.kl_coefficient: the chosen update has no such key; update=ppo_kl has it"),
        ("update=ppo_kl update.target_kl=0", "update.target_kl: 0 is not allowed; allowed: a number > 0"),
        ("update=ppo_kl update.kl_coefficient=-1", "update.kl_coefficient: -1 is not allowed; allowed: a number ≥ 0"),
        ("critic.clip=0", "critic.clip: 0 is not allowed; allowed: a number > 0 or null"),
        ("critic=none update.recompute_advantages=true", "update.recompute_advantages: pgx.critics.NoCritic learns nothing"),
        ("update.whiten_minibatches=true discount_power=true", "update.whiten_minibatches: would whiten the factors γ^t, too"),
    ],
)
def test_a_mistake_is_one_line(wrong, says):
    with pytest.raises(ConfigError) as error:
        checked("+variant=ppo", *wrong.split())
    assert says in str(error.value) and "\n" not in str(error.value)
