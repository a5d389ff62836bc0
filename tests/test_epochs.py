"""What updates by epochs are made of, what adapts, in company, and as runs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from by_epochs import CLIP, LENGTHS, POLICIES, algorithm, flat, played, ppo, state_for, updated
from estimands import KEY
from program import checked, refusal, rows, train_here
from quick import quickly_compiled

from pgx import assemble, build, diagnose
from pgx.blocks import shuffled
from pgx.critics import LeaveOneOut
from pgx.loop import Limits
from pgx.runners import PackRunner
from pgx.sweep.members import program
from pgx.update import update
from pgx.updates.ppo import CISPO, PPOKL

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


def with_replacement(n, key):
    """Steps drawn, some twice and some never."""
    return lambda index: jax.random.randint(key, index.shape, 0, n)


def with_padding(n, key):
    """A permutation of the buffer."""
    return lambda index: jax.random.permutation(key, 80)[index]


def wrong_after_n(n, key):
    """A permutation of more than there are, cut off."""
    return lambda index: jnp.minimum(shuffled(jnp.array(64), key)(index), n - 1)


@pytest.mark.parametrize(
    "right, mix", [(True, shuffled), (False, with_replacement), (False, with_padding), (False, wrong_after_n)]
)
def test_a_shuffle_has_every_step_once_and_no_padding(right, mix):
    """And is another one for another key, the same for the same; no order is preferred."""
    n = 60
    keys = jax.random.split(KEY, 200)
    many = np.asarray(jax.vmap(lambda key: mix(jnp.array(n), key)(jnp.arange(80)))(keys))[:, :n]
    each_once = all(sorted(row) == list(range(n)) for row in many)
    assert each_once == right
    if right:
        assert len({tuple(row) for row in many}) == 200
        assert np.abs(many.mean(0) - (n - 1) / 2).max() < 5 * n / np.sqrt(12 * 200)
        after = many[:, 1:][many[:, :-1] == 7]  # whose next is anything but itself, as often
        assert np.abs(after.mean() - (n * (n - 1) / 2 - 7) / (n - 1)) < 5 * n / np.sqrt(12 * len(after))
        np.testing.assert_array_equal(mix(jnp.array(n), keys[0])(jnp.arange(80))[:n], many[0])


def test_a_shuffle_of_any_number_of_steps_is_one_of_theirs():
    """Of none it is something, so that a lane without steps holds nobody up."""
    for n in (1, 2, 3, 4, 5, 16, 17, 320, 1025):
        assert sorted(map(int, shuffled(jnp.array(n), KEY)(jnp.arange(n)))) == list(range(n))
    assert int(shuffled(jnp.array(0), KEY)(jnp.arange(3))[0]) == 0


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


def test_the_first_ratio_is_one_with_scaled_observations(tmp_path):
    """The statistics that the policy acted with are those that it is trained with, at every update of a run."""
    one = ("update.epochs=1", "update.minibatch_steps=null", "scale_observations=true", "num_updates=4", *ENVS["compiled"])
    train_here("+variant=ppo", "episodes_per_update=3", "policy.width=8", *one, folder=tmp_path)
    found = [(float(row["ratio_max"]), float(row["clip_share"])) for row in rows(tmp_path)]
    assert found == [(1.0, 0.0)] * 4


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
    assert says in refusal("+variant=ppo", *wrong.split())
