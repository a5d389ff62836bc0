"""Batches by steps: how many episodes the next batch has is known before it begins, and so its gradient is unbiased."""

import itertools
import shutil
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from estimands import KEY, POLICY, THETA, G, algorithm, state_for, usual
from jax.flatten_util import ravel_pytree
from mdp import TRAJECTORIES, TabularMDP, all_episodes, choose, counts, distribution, with_room
from program import checked, rows, train_here
from quick import quickly_compiled
from scipy import stats

from pgx import assemble, build, configuration
from pgx.batch import BySteps
from pgx.config import check_plain, options
from pgx.declared import Declared
from pgx.errors import ConfigError
from pgx.loop import Keys, Limits
from pgx.rollout import LANES, rollout
from pgx.runners import PackRunner, make_runner
from pgx.runs.record import run_hash
from pgx.sizes import most_episodes
from pgx.update import update

ROOM = LANES + 9
"""Episodes for which there is room: in two groups."""
LENGTH = np.array([len(tau.actions) for tau in TRAJECTORIES])
CHANCE = distribution(THETA)


def of_lengths(*lengths: int, room: int | None = None):
    """A batch of the first trajectories with these lengths, and perhaps room for more."""
    batch = choose(all_episodes(), jnp.array([int(np.flatnonzero(length == LENGTH)[0]) for length in lengths]))
    return batch if room is None else with_room(batch, room)


def test_as_many_episodes_as_have_so_many_steps_at_the_last_mean_length():
    """Rounded, and never fewer or more than may be; before there is a length, it is the time limit."""
    rule = BySteps(10, least=2, most=7)
    assert [int(rule.after(of_lengths(*lengths))) for lengths in [(4, 4), (4, 3), (2, 3, 3), (1, 2), (1, 1)]] == [2, 3, 4, 7, 7]
    assert int(rule.after(of_lengths(4, 3, room=9))) == 3, "of the episodes that were played"
    assert [int(rule.first(max_steps)) for max_steps in (1, 2, 3, 4, 500)] == [7, 5, 3, 2, 2]


# Unbiased


def gradient_of_each() -> np.ndarray:
    """What each trajectory alone would make of the policy."""
    state, every = state_for(algorithm(G)), all_episodes()

    def alone(i):
        new, _ = update(state, choose(every, i[None]), algorithm(G), KEY, jnp.array(False))
        return ravel_pytree(new.policy)[0] - ravel_pytree(state.policy)[0]

    return np.asarray(quickly_compiled(jax.vmap(alone))(jnp.arange(len(LENGTH))), np.float64)


def until_enough(steps: int, of_each: np.ndarray) -> np.ndarray:
    """The expectation of a batch's mean where the batch ends with the episode that has `steps` in it; by lengths, of which
    alone it depends when that is."""
    kinds = np.unique(LENGTH)
    chance = np.array([CHANCE[kind == LENGTH].sum() for kind in kinds])
    mean = np.array([CHANCE[kind == LENGTH] @ of_each[kind == LENGTH] for kind in kinds]) / chance[:, None]
    total = np.zeros(of_each.shape[1])
    for B in range(1, steps + 1):
        for batch in itertools.product(range(len(kinds)), repeat=B):
            if kinds[list(batch)].sum() >= steps > kinds[list(batch[:-1])].sum():
                total += chance[list(batch)].prod() * mean[list(batch)].mean(0)
    return total


def test_a_batch_that_ends_when_enough_steps_are_in_is_biased():
    """A batch of B trajectories has the true gradient as its expectation, whatever B, if B is given; B by what is in the
    batch gives short episodes too much weight."""
    exact, of_each = usual(), gradient_of_each()
    miss = lambda gradient: np.linalg.norm(gradient - exact) / np.linalg.norm(exact)
    assert miss(CHANCE @ of_each) < 1e-6
    assert [miss(until_enough(steps, of_each)) > 0.01 for steps in (3, 5, 7)] == [True] * 3


@pytest.mark.parametrize("name", options("update"))
def test_an_update_learns_the_same_from_a_batch_with_room_for_more(name):
    """Policy, V and every metric: the columns beside the episodes, full of what is to be looked at by nobody, are nothing."""
    config = checked("+variant=baseline", f"update={name}", "whiten=true", "entropy_coefficient=0.1", "gamma=0.9")
    _, chosen = build.build(config)
    state, _ = build.initial_state(config, TabularMDP(), chosen)
    batch = of_lengths(4, 1, 3, 2, 4)
    learn = quickly_compiled(lambda episodes: update(state, episodes, chosen, KEY, jnp.array(True)))
    for x, y in zip(*map(jax.tree.leaves, (learn(batch), learn(with_room(batch, 9)))), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)


def chains(number: int):
    """So many times two batches, the second of as many episodes as the first one's lengths ask for."""
    rule = BySteps(50, least=1, most=ROOM)
    play = partial(rollout, TabularMDP(), POLICY, num_episodes=ROOM)

    def two(key):
        first, second = jax.random.split(key)
        batch = play(first, count=rule.first(TabularMDP.spec.max_steps))
        return batch, play(second, count=rule.after(batch))

    return jax.device_get(quickly_compiled(jax.vmap(two))(jax.random.split(jax.random.key(1), number)))


def test_episodes_of_the_second_batch_are_independent_draws():
    """Of whatever length those of the first were, and whichever of them one looks at; the others are empty."""
    first, second = chains(1500)
    assert len(set(second.count)) > 5 and (first.count == 12).all() and (second.count > LANES).any()
    played = np.arange(second.mask.shape[2]) < second.count[:, None]
    assert (second.mask[:, 0] == played).all() and not second.reward[~second.mask].any()

    def p_value(chosen):
        batch, episode = np.nonzero(chosen)
        one_after_the_other = lambda x: np.moveaxis(x[batch, :, episode], 0, 1)
        over_time = {x: one_after_the_other(getattr(second, x)) for x in ("obs", "action", "mask")}
        some = SimpleNamespace(**over_time, last_obs=second.last_obs[batch, episode])
        *found, unknown = counts(some)
        assert unknown == 0
        return stats.chisquare(found, CHANCE * sum(found)).pvalue

    long = np.where(first.mask, 1, 0).sum((1, 2)) > 12 * (CHANCE @ LENGTH)
    last = np.arange(played.shape[1]) == second.count[:, None] - 1
    assert min(p_value(played), p_value(played & long[:, None]), p_value(played & ~long[:, None]), p_value(last)) > 1e-3
    steps = np.cumsum(second.mask.sum(1), 1)
    assert p_value(played & (steps <= 6)) < 1e-6, "those that are over when so many steps are in"
    # one mean a batch, as the gradient is
    of_batch = second.mask.sum((1, 2)) / second.count
    standard_error = of_batch.std() / np.sqrt(len(of_batch))
    assert abs(of_batch.mean() - CHANCE @ LENGTH) < 4 * standard_error


def test_groups_of_lanes_are_independent():
    """The first of one group and the first of the next, which copies would show."""
    batch = jax.device_get(
        quickly_compiled(jax.vmap(partial(rollout, TabularMDP(), POLICY, num_episodes=ROOM, count=jnp.array(ROOM))))(
            key=jax.random.split(jax.random.key(2), 2000)
        )
    )
    kind = batch.action[:, 0] * 4 + batch.mask.sum(1) - 1
    table = np.zeros((8, 8))
    np.add.at(table, (kind[:, 0], kind[:, LANES]), 1)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert len(np.unique(kind, axis=1).T) == batch.mask.shape[2]


# Runs

BY_STEPS = ("+variant=baseline", "+env.params.max_steps_in_episode=60", "steps_per_update=120", "updates_per_chunk=2")


def made(*overrides: str):
    config = checked(*BY_STEPS, *overrides)
    env, chosen = build.build(config)
    state, keys = build.initial_state(config, env, chosen)
    return config, env, chosen, state, keys


def test_the_state_before_a_batch_decides_how_many_episodes_it_has():
    """And nothing that is drawn in it."""
    config, env, chosen, state, keys = made()
    runner = build.runner(config, env, chosen, state, keys)
    found = [int(state.num_episodes)]
    for _ in range(3):
        chunk = runner(state, Limits(1))
        other = build.runner(config, env, chosen, state, Keys.of_seed(99))(state, Limits(1))
        assert chunk.rows["episodes"] == other.rows["episodes"] == int(state.num_episodes)
        assert chunk.rows["env_steps"] != other.rows["env_steps"]
        state = chunk.state
        found.append(int(state.num_episodes))
        assert found[-1] == np.clip(round(120 / chunk.rows["length_mean"].item()), 1, 8)
    assert found[0] == 2 and len(set(found)) > 1


@pytest.mark.parametrize("env", ["cartpole", "gymnasium_cartpole"])
def test_a_run_that_goes_on_makes_the_batches_of_one_that_was_never_interrupted(env, tmp_path):
    """Bit for bit: how many episodes come next is in the checkpoint. Killed between two checkpoints, it goes back to
    the older one."""
    limit = "+env.params.max_steps_in_episode=60" if env == "cartpole" else "env.max_steps=60"
    run = partial(
        train_here, BY_STEPS[0], f"env={env}", limit, *BY_STEPS[2:], "checkpoint_every=2", "optimiser.learning_rate=0.02"
    )
    run("num_updates=7", folder=tmp_path / "whole")
    run("num_updates=3", folder=tmp_path / "stopped")
    with pytest.raises(ConfigError, match="steps_per_update: 120 → 150"):
        run("num_updates=5", "steps_per_update=150", folder=tmp_path / "stopped")
    run("num_updates=5", folder=tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped/checkpoints/5")
    run("num_updates=7", folder=tmp_path / "stopped")
    whole, stopped = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped
    episodes = np.diff([int(row["episodes"]) for row in rows(tmp_path / "whole")])
    assert len(set(episodes)) > 2


def test_each_run_of_a_pack_has_batches_of_its_own():
    """Its bits depend neither on its companions nor on how many episodes theirs have; the first updates are those of the
    run alone but for rounding."""
    sizes = {"num_episodes": 8, "max_updates": 4}
    lanes = [
        build.lane(*made(f"seed={seed}", f"optimiser.learning_rate={rate}")[:4]) for seed, rate in enumerate((0.02, 0.1, 1e-3))
    ]
    bits = lambda chunk: [np.asarray(x).tobytes() for x in jax.tree.leaves((chunk.rows, chunk.state))]
    [alone] = PackRunner(lanes[:1], width=4, **sizes)([Limits(4)])
    together = PackRunner(lanes[::-1], width=4, **sizes)([Limits(2), Limits(4), Limits(4)])
    assert bits(together[2]) == bits(alone)
    assert together[1].rows["episodes"].tolist() != alone.rows["episodes"].tolist()
    single = make_runner(lanes[0].state, lanes[0].algorithm, lanes[0].env, lanes[0].keys, diagnose_every=1, **sizes)
    first = single(lanes[0].state, Limits(1))
    pack = PackRunner([lanes[0]._replace(diagnose_every=jnp.array(1))], width=4, **sizes)
    for name, x in pack([Limits(1)])[0].rows.items():
        np.testing.assert_allclose(x, first.rows[name], rtol=2e-3, err_msg=name)


def test_a_critic_that_needs_two_episodes_always_has_them():
    """Even where one is as long as the batch is to be."""
    config, env, chosen, state, keys = made("variant=leave_one_out", "steps_per_update=1", "max_episodes_per_update=2")
    chunk = build.runner(config, env, chosen, state, keys)(state, Limits(2))
    assert chunk.rows["episodes"].tolist() == [2, 2] and np.isfinite(chunk.rows["policy_loss"]).all()


# What is written

SIZES = ("episodes_per_update", "steps_per_update", "max_episodes_per_update")


def test_a_batch_is_made_by_episodes_or_by_steps():
    """Whichever is written, on the command line or in a file, is all there is to write."""
    size = lambda *words: tuple(checked("+variant=baseline", *words)[key] for key in SIZES)
    assert size() == (10, None, None)
    assert size("episodes_per_update=20") == size("episodes_per_update=20", "steps_per_update=null") == (20, None, None)
    assert size("steps_per_update=2048") == (None, 2048, None)
    assert size("steps_per_update=4k", "episodes_per_update=null") == (None, 4000, None)
    assert size("steps_per_update=2048", "max_episodes_per_update=50") == (None, 2048, 50)
    most = lambda *words: most_episodes(checked("+variant=leave_one_out", *words)).episodes
    assert most("steps_per_update=2048") == 128 and most("steps_per_update=8") == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("steps_per_update=2048 episodes_per_update=10", "steps_per_update: 2048 beside episodes_per_update=10.*leave one out"),
        ("episodes_per_update=null", "episodes_per_update: it is null, and so is steps_per_update"),
        ("max_episodes_per_update=9", "max_episodes_per_update: 9 without steps_per_update"),
        ("steps_per_update=0", "steps_per_update: 0 is not allowed.*≥ 1"),
        ("n_steps=2048", "n_steps: unknown key.*did you mean 'steps_per_update'"),
        (
            "variant=leave_one_out critic=leave_one_out episodes_per_update=1",
            "episodes_per_update: .*LeaveOneOut has no .* for 1",
        ),
        (
            "variant=leave_one_out critic=leave_one_out steps_per_update=99 max_episodes_per_update=1",
            "max_episodes_per_update: .*LeaveOneOut has no baseline for 1.*≥ 2",
        ),
        ("steps_per_update=64 env=gymnasium_cartpole env.num_lanes=5", "env.num_lanes: 5 lanes have only 4 episodes an update"),
    ],
)
def test_what_makes_no_batch_is_refused_in_a_line(words, says):
    with pytest.raises(ConfigError, match=says):
        checked("+variant=baseline", *words.split())


def test_room_that_memory_does_not_have_is_refused_by_its_own_key():
    with pytest.raises(ConfigError, match=r"max_episodes_per_update: 500 steps × 1,000,000,000 episodes"):
        assemble("baseline", "tracker=none", steps_per_update=2048, max_episodes_per_update=10**9)


@pytest.mark.parametrize(
    ("words", "lanes"),
    [
        ("episodes_per_update=6", 6),
        ("episodes_per_update=6 env.num_lanes=null", 6),
        ("episodes_per_update=6 env.num_lanes=4", 4),
        ("steps_per_update=2048", 4),
        ("steps_per_update=2048 env.max_steps=100", 20),
        ("steps_per_update=100", 1),
        ("steps_per_update=2048 env.num_lanes=9", 9),
    ],
)
def test_lanes_on_the_host_are_the_fewest_episodes_of_a_batch_unless_told_otherwise(words, lanes):
    """No lane then ever waits while the others play: a batch by steps has more episodes the shorter they are."""
    assert checked("+variant=baseline", "env=gymnasium_cartpole", *words.split())["env"]["num_lanes"] == lanes


def test_a_file_chooses_how_batches_are_made(tmp_path):
    """Of a variant, which may be one of several in a sweep, or of an experiment."""
    for group, keys in {"variant/long": "steps_per_update: 900", "experiment/few": "episodes_per_update: 3"}.items():
        file = tmp_path / f"{group}.yaml"
        file.parent.mkdir()
        defaults = "defaults:\n  - baseline\n  - _self_\nvariant: long\n" if "variant" in group else ""
        file.write_text(f"# @package _global_\n{defaults}{keys}\n")
    size = lambda *words: tuple(configuration(*words, "tracker=none", config_dir=tmp_path)[key] for key in SIZES)
    assert size("+variant=long") == (None, 900, None)
    assert size("+variant=baseline", "+experiment=few") == (3, None, None)
    assert size("+variant=long", "steps_per_update=null", "episodes_per_update=4") == (4, None, None)
    with pytest.raises(ConfigError, match="900 beside episodes_per_update=4"):
        size("+variant=long", "episodes_per_update=4")


def test_a_run_of_before_there_were_batches_by_steps_is_the_same_run():
    """Its run.json does not say how: it is read all the same, and found again by a sweep."""
    config = checked("+variant=baseline")
    older = {key: x for key, x in config.items() if key not in SIZES[1:]}
    assert run_hash(older) == run_hash(config) != run_hash(checked("+variant=baseline", "steps_per_update=2048"))
    assert check_plain(older, Declared()) == config
