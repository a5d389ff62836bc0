"""Episodes in groups: the same start and nothing else in common, through both doors, in runs, packs and batches by steps."""

import dataclasses
import shutil
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mdp import counts, distribution
from program import checked, rows, train_here
from quick import quickly_compiled
from scipy import stats
from test_host_rollout import POLICY as TABULAR
from test_host_rollout import THETA, TablesOnTheHost

from pgx import build, diagnose
from pgx.config import check_plain
from pgx.declared import Declared
from pgx.envs.base import EnvSpec, HostEnv, JittedEnv
from pgx.envs.gymnasium import GymnasiumEnv
from pgx.errors import ConfigError
from pgx.loop import Limits
from pgx.policies import MLPPolicy
from pgx.rollout import AXES, HostRollout, rollout
from pgx.runners import PackRunner
from pgx.runs.record import run_hash
from pgx.sizes import most_episodes
from pgx.spaces import Discrete
from pgx.types import Episodes

G = 4
T = 40
"""Long enough that no two episodes take the same actions by chance."""


class Drifts(JittedEnv):
    """It begins anywhere, and every step adds noise to where it is."""

    spec: EnvSpec = EnvSpec("Drifts-v0", 2, Discrete(2), T, None)

    def reset(self, key):
        start = jax.random.normal(key, (2,))
        return start, start

    def step(self, key, state, action):
        new = state + jax.random.normal(key, (2,))
        return new, new, jnp.zeros(()), jnp.array(False)


class DriftsOnTheHost(HostEnv):
    """The same, in two lanes."""

    spec, num_lanes = Drifts.spec, 2

    def reset(self, seed):
        self.random, self.t = np.random.default_rng(seed), 0
        self.state = self.random.normal(size=(2, 2)).astype(np.float32)
        return self.state

    def step(self, action):
        self.t += 1
        self.state = self.state + self.random.normal(size=(2, 2)).astype(np.float32)
        return self.state, np.zeros(2), np.zeros(2, bool), np.full(2, self.t == T)


POLICY = MLPPolicy(2, Discrete(2), width=1, depth=0, activation="tanh", key=jax.random.key(0))


def in_common(episodes: Episodes, size: int) -> dict[str, bool]:
    """Whether starts are those of groups of this size, and whether any episodes of a group share anything else."""
    B = episodes.mask.shape[1] if episodes.count is None else int(episodes.count)
    by_group = lambda x: np.asarray(x)[:B].reshape(B // size, size, -1)
    shared = lambda x: bool((by_group(x)[:, 1:] == by_group(x)[:, :1]).all(2).any())
    start = by_group(episodes.obs[0])
    return {
        "start": bool((start == start[:, :1]).all()) and len(np.unique(start[:, 0], axis=0)) == B // size,
        "actions": shared(np.asarray(episodes.action).T),
        "what follows": shared(episodes.last_obs),
    }


def copied(episodes: Episodes) -> Episodes:
    """With the first of every group in the place of all."""
    index = np.arange(episodes.mask.shape[1]) // G * G
    fields = [field.name for field in dataclasses.fields(Episodes)][: len(AXES)]
    first = {name: jnp.take(getattr(episodes, name), index, axis) for name, axis in zip(fields, AXES, strict=True)}
    return dataclasses.replace(episodes, **first)


@pytest.mark.parametrize("B, count", [(12, None), (40, 28)], ids=["together", "a few after the other"])
def test_episodes_of_a_group_share_their_start_and_nothing_else(B, count):
    """Groups begin in different states; actions and transitions have noise of their own everywhere. Episodes that begin
    where they will, groups of another size, and copies of one episode are told apart."""

    def play(size):
        one = partial(rollout, Drifts(), POLICY, num_episodes=B, count=count and jnp.array(count), group_size=size)
        return quickly_compiled(one)(key=jax.random.key(1))

    episodes = play(G)
    assert episodes.group_size == G and episodes.mask.shape[1] % G == 0
    assert in_common(episodes, G) == {"start": True, "actions": False, "what follows": False}
    assert in_common(copied(episodes), G)["actions"]
    assert count or not any(in_common(play(size), G)["start"] for size in (None, 2))


@pytest.mark.parametrize("count", [None, 8, 12])
def test_on_the_host_a_group_begins_with_the_same_seed(count):
    """Three groups in two lanes, or as many as are wanted; actions are their own. What the environment draws comes from
    that seed as well, so where it does not depend on the actions it is shared."""
    draw = HostRollout(DriftsOnTheHost(), 12, group_size=G)
    episodes = draw(POLICY, jax.random.key(1), count)
    assert in_common(episodes, G) == {"start": True, "actions": False, "what follows": True}
    assert episodes.mask.shape == (T, 12) and (episodes.length == np.where(np.arange(12) < (count or 12), T, 0)).all()
    again = draw(POLICY, jax.random.key(1), count)
    jax.tree.map(np.testing.assert_array_equal, episodes, again)
    assert not (np.asarray(draw(POLICY, jax.random.key(2), count).obs[0]) == np.asarray(episodes.obs[0]))[: 2 * G].any()
    other = HostRollout(DriftsOnTheHost(), 12, group_size=6)(POLICY, jax.random.key(1))
    assert in_common(other, 6)["start"] and not in_common(other, G)["start"]


class Unseeded(DriftsOnTheHost):
    """It pays no heed to the seed."""

    def reset(self, seed):
        return super().reset(None)


def test_an_environment_that_does_not_heed_its_seed_makes_no_groups():
    """Episodes that begin anywhere would pass for a group, and nobody would see it."""
    with pytest.raises(RuntimeError, match="Drifts-v0 begins elsewhere with the same seed"):
        HostRollout(Unseeded(), 4, group_size=2)(POLICY, jax.random.key(0))


def test_environments_of_gymnasium_begin_again_as_they_began():
    """Also where one random stream is for all lanes."""
    env = GymnasiumEnv("CartPole-v1", 2)
    policy = MLPPolicy(4, env.spec.actions, width=1, depth=0, activation="tanh", key=jax.random.key(0))
    episodes = HostRollout(env, 12, group_size=3)(policy, jax.random.key(0))
    assert in_common(episodes, 3)["start"]
    assert len({tuple(x) for x in np.asarray(episodes.action).T}) > 6


def test_episodes_of_groups_on_the_host_have_the_right_probabilities():
    """Chi-square of whole trajectories, of the last member of every group: independent of each other, as the groups are."""
    draw = HostRollout(TablesOnTheHost(), 12, group_size=G)
    batches = [jax.device_get(draw(TABULAR, jax.random.key(seed))) for seed in range(300)]
    last = {x: np.concatenate([getattr(b, x)[:, G - 1 :: G] for b in batches], 1) for x in ("obs", "action", "mask")}
    last_obs = np.concatenate([batch.last_obs[G - 1 :: G] for batch in batches])
    *found, unknown = counts(SimpleNamespace(**last, last_obs=last_obs))
    assert unknown == 0 and sum(found) == 900
    assert stats.chisquare(found, distribution(THETA) * 900).pvalue > 1e-3


# Runs

TINY = ("+variant=grpo", "group_size=2", "steps_per_update=100", "updates_per_chunk=2", "tracker=none")


@pytest.mark.parametrize("env", ["cartpole", "gymnasium_cartpole"])
def test_a_run_in_groups_that_goes_on_is_one_that_was_never_interrupted(env, tmp_path):
    """Bit for bit, in batches of whole groups, whose number changes."""
    limit = "+env.params.max_steps_in_episode=40" if env == "cartpole" else "env.max_steps=40"
    run = partial(train_here, *TINY, f"env={env}", limit, "checkpoint_every=2", "optimiser.learning_rate=0.02")
    run("num_updates=6", folder=tmp_path / "whole")
    run("num_updates=3", folder=tmp_path / "stopped")
    with pytest.raises(ConfigError, match="group_size: 2 → 3"):
        run("num_updates=6", "group_size=3", folder=tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped/checkpoints/3")
    run("num_updates=6", folder=tmp_path / "stopped")
    whole, stopped = ((tmp_path / name / "metrics.csv").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped
    episodes = np.diff([0, *(int(row["episodes"]) for row in rows(tmp_path / "whole"))])
    assert len(set(episodes)) > 1 and not (episodes % 2).any()


def test_each_run_of_a_pack_has_groups_of_its_own():
    """Its bits do not depend on its companions, and its first update is that of the run alone but for rounding."""
    sizes = {"num_episodes": 8, "max_updates": 3}
    lanes = []
    for seed in range(3):
        config = checked(*TINY, "+env.params.max_steps_in_episode=40", f"seed={seed}", "diagnose_every=1")
        env, chosen = build.build(config)
        state, keys = build.initial_state(config, env, chosen)
        lanes.append(build.lane(config, env, chosen, state))
    single = build.runner(config, env, chosen, state, keys)(state, Limits(1))
    bits = lambda chunk: [np.asarray(x).tobytes() for x in jax.tree.leaves((chunk.rows, chunk.state))]
    [alone] = PackRunner(lanes[:1], width=4, **sizes)([Limits(3)])
    together = PackRunner(lanes[::-1], width=4, **sizes)([Limits(1), Limits(3), Limits(3)])
    assert bits(together[2]) == bits(alone)
    for name, x in together[0].rows.items():
        np.testing.assert_allclose(x, single.rows[name], rtol=2e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("words", "most", "lanes"),
    [
        ("group_size=5 env.num_lanes=null", 10, 2),
        ("group_size=10", 10, 1),
        ("group_size=6 episodes_per_update=12 env.num_lanes=1", 12, 1),
        ("group_size=6 steps_per_update=2048", 132, 1),
        ("group_size=6 steps_per_update=2048 env.max_steps=100", 132, 3),
    ],
)
def test_a_batch_is_of_whole_groups_and_a_lane_on_the_host_plays_one_of_them(words, most, lanes):
    config = checked("+variant=vanilla", "env=gymnasium_cartpole", *words.split())
    assert (most_episodes(config).episodes, config["env"]["num_lanes"]) == (most, lanes)
    env, chosen = build.build(config)
    rule = chosen.batch
    if rule is not None:
        sizes = [int(rule._of_length(jnp.array(length, jnp.float32))) for length in (1.0, 17.0, 99.0, 500.0)]
        assert sizes == [132, 120, 18, 6]


def test_a_run_of_before_there_were_groups_is_the_same_run():
    config = checked("+variant=leave_one_out")
    older = {key: x for key, x in config.items() if key not in ("group_size", "aggregation")}
    assert check_plain(older | {}, Declared()) == config and run_hash(older) == run_hash(config)
    others = [checked("+variant=leave_one_out", x) for x in ("group_size=5", "aggregation=own_mean", "aggregation=batch_mean")]
    assert len({run_hash(config), *map(run_hash, others)}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("env", ["cartpole", "gymnasium_cartpole"])
def test_own_of_a_run_in_groups_is_diagnosed_in_whole_groups(env, tmp_path, capsys):
    """All other rows are of independent episodes, as they are for every run."""
    train_here(*TINY, f"env={env}", "num_updates=2", folder=tmp_path / "run")
    options = "--episodes 20 --batches 3,6 --updates 2 --checkpoints 1 --states 2 --continuations 2".split()
    diagnose.main([str(tmp_path / "run"), *options])
    found = [row for row in diagnose.read(tmp_path / "run") if row["quantity"] == "variance"]
    sizes = lambda of: {(row["batch_size"], row["n"]) for row in found if row["of"] == of}
    assert sizes("own") == {("4", "5"), ("6", "3")} and sizes("vanilla") == {("3", "6"), ("6", "3")}
