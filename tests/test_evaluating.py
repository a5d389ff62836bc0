"""Evaluation while training: a look at the policy that changes nothing of it, in episodes that are the same for all."""

import dataclasses
import math
from functools import partial

import equinox as eqx
import jax
import numpy as np
import pytest
from program import checked, rows, summary, train_here

import pgx
from pgx import build
from pgx.envs.base import HostEnv
from pgx.errors import ConfigError
from pgx.evaluating import COLUMNS, common_key
from pgx.loop import Keys, Limits, train
from pgx.rollout import HostRollout, rollout
from pgx.runners import HostRunner, PackRunner
from pgx.runs import record

# what is no number is the same in all tests, so that few programs are compiled
TINY = ("+variant=reward_to_go", "policy.width=4", "policy.depth=1", "episodes_per_update=3", "diagnose_every=4")
TINY += ("optimiser.learning_rate=0.1", "checkpoint_every=60", "env.reward_threshold=1")
UNSCALED = (*TINY, "+env.params.max_steps_in_episode=60", "evaluate_episodes=5")
COMPILED = (*UNSCALED, "scale_observations=true")
HOST = (*TINY, "scale_observations=true", "env=gymnasium_cartpole", "env.max_steps=60", "evaluate_episodes=5")
EVALUATED = "evaluate_every=3"
UPDATES = 8


def trained(*overrides: str, parts=None, **limits: float):
    """(the rows of a run by column, its last state)."""
    parts = pgx.assemble(checked(*overrides)) if parts is None else parts
    chunks = list(train(parts.runner, parts.state, **({"num_updates": UPDATES} | limits)))
    return {name: np.concatenate([chunk.rows[name] for chunk in chunks]) for name in chunks[0].rows}, chunks[-1].state


def same(found, expected) -> bool:
    """Every column of training's, every bit of the state."""
    bits = lambda x: [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(x)]
    rows = [{name: x for name, x in run[0].items() if name not in COLUMNS} for run in (found, expected)]
    return rows[0].keys() == rows[1].keys() and bits(rows[0]) == bits(rows[1]) and bits(found[1]) == bits(expected[1])


@pytest.fixture(scope="module")
def runs():
    """{door: (a run without evaluations, the same with them)}."""
    doors = {"compiled": COMPILED, "host": HOST}
    return {door: (trained(*words), trained(*words, EVALUATED)) for door, words in doors.items()}


@pytest.mark.parametrize("door", ["compiled", "host"])
def test_evaluation_changes_no_other_bit(runs, door):
    """Neither a number of training's (returns, env steps, statistics of observations), nor a parameter."""
    without, evaluated = runs[door]
    assert same(evaluated, without) and not set(COLUMNS) & set(without[0])
    for name in COLUMNS:
        assert (np.flatnonzero(np.isfinite(evaluated[0][name])) + 1).tolist() == [3, 6]
    one_parameter = eqx.tree_at(lambda state: state.policy.network.layers[0].bias, without[1], replace_fn=lambda x: x + 1e-7)
    assert not same((without[0], one_parameter), without), "this comparison finds whatever is changed"


@pytest.mark.parametrize("door", ["compiled", "host"])
def test_a_policy_is_evaluated_after_its_update_as_it_acts(runs, door):
    """With the statistics of its observations as they are then, in episodes of a stream that no training has seen."""
    (_, evaluated), words = runs[door], {"compiled": COMPILED, "host": HOST}[door]
    parts = pgx.assemble(checked(*words))
    before, state = (trained(parts=parts, num_updates=n)[1] for n in (2, 3))
    key = common_key(Keys.of_seed(0).evaluate)
    if door == "compiled":
        play = partial(eqx.filter_jit(rollout), parts.env, num_episodes=5)
    else:
        play = HostRollout(build.environment(parts.config["env"] | {"num_lanes": 5}), 5)
    returns = np.asarray(play(state.actor, key).reward.sum(0))
    found = [evaluated[0][name][2] for name in COLUMNS]
    np.testing.assert_allclose(found, [returns.mean(), returns.std()], rtol=1e-6)
    others = {"before": before.actor, "unscaled": state.policy}
    others = {name: play(policy, key) for name, policy in others.items()} | {"greedy": play_greedily(play, state.actor, key)}
    others["of training"] = play(state.actor, jax.random.fold_in(parts.keys.train, 3))
    wrong = {name: float(episodes.reward.sum(0).std()) for name, episodes in others.items()}
    assert all(abs(x - found[1]) > 1e-3 for x in wrong.values()), "these wrong versions would not be noticed"


def play_greedily(play, policy, key):
    if isinstance(play, HostRollout):
        return HostRollout(play.env, play.num_episodes, greedy=True)(policy, key)
    return play(policy, key, greedy=True)


def test_a_greedy_evaluation_takes_the_most_probable_actions(runs):
    config = checked(*UNSCALED, "evaluate_every=4", "evaluate_greedy=true")
    env, policy = build.environment(config["env"]), runs["compiled"][0][1].policy
    found = eqx.filter_jit(build.evaluation(config))(env, key := Keys.of_seed(0).evaluate, policy)
    episodes = eqx.filter_jit(rollout)(env, policy, common_key(key), 5, greedy=True)
    assert found[0] == episodes.reward.sum(0).mean()


@pytest.mark.parametrize("door", ["compiled", "host"])
def test_all_evaluations_play_the_same_episodes_and_so_do_all_variants_of_a_seed(door):
    """A policy that does not change returns the same to the last bit, whatever its variant; another seed's does not."""
    still = ("optimiser.learning_rate=1e-30", "scale_observations=false", "evaluate_every=1")
    words = (*{"compiled": UNSCALED, "host": HOST}[door], *still)
    found, _ = trained(*words, num_updates=4)
    assert len(set(found["evaluation_return"])) == 1 and len(set(found["return_mean"])) > 1
    if door == "compiled":
        vanilla = [word.replace("reward_to_go", "vanilla") for word in words]
        assert trained(*vanilla, num_updates=2)[0]["evaluation_return"][1] == found["evaluation_return"][0]
        other, _ = trained(*words, "seed=1", num_updates=1)
        assert other["evaluation_std"][0] != found["evaluation_std"][0]


def test_wherever_chunks_end_evaluations_come_after_the_same_updates(runs):
    """In the middle of a chunk, at its end, in one of a single update."""
    _, expected = runs["compiled"]
    for pause_every in (1, 3, 5):
        found = trained(*COMPILED, EVALUATED, pause_every=pause_every)
        assert same(found, expected)
        for name in COLUMNS:
            np.testing.assert_array_equal(found[0][name], expected[0][name])


def lane(*overrides: str):
    config = checked(*COMPILED, *overrides)
    env, algorithm = build.build(config)
    state, _ = build.initial_state(config, env, algorithm)
    return build.lane(config, env, algorithm, state)


def test_a_lane_of_a_pack_is_evaluated_as_if_it_were_alone():
    """Whatever its companions do: one ends, one is at another update, and one is evaluated at other times."""
    pack = lambda *lanes: PackRunner(lanes, width=4, num_episodes=3, max_updates=UPDATES)
    without, one = lane("seed=3"), lane("seed=3", EVALUATED)
    later = lane("seed=4", EVALUATED)
    later = later._replace(state=dataclasses.replace(later.state, update=jax.numpy.int32(100)))
    unlike = one._replace(evaluation=eqx.tree_at(lambda x: x.every, one.evaluation, jax.numpy.int32(5)))
    plain, alone = (pack(x)([Limits(UPDATES)])[0] for x in (without, one))
    limits = [Limits(UPDATES), Limits(7), Limits(UPDATES), Limits(UPDATES, evaluation_return=0.0)]
    beside, other, third, solved = pack(one, later, unlike, later)(limits)
    assert same((alone.rows, alone.state), (plain.rows, plain.state))
    assert same((beside.rows, beside.state), (plain.rows, plain.state))
    assert same((third.rows, third.state), (plain.rows, plain.state))
    for name in COLUMNS:
        np.testing.assert_array_equal(beside.rows[name], alone.rows[name])
    updates = [np.flatnonzero(np.isfinite(x.rows["evaluation_return"])) for x in (beside, other, third)]
    assert [(x + 1).tolist() for x in updates] == [[3, 6], [2, 5], [5]]  # 102 and 105 of the one that is at 100
    assert len(solved.rows["env_steps"]) == 2, "it ends with its first evaluation, which reaches the threshold"


def test_what_diverges_keeps_the_evaluation_before():
    """The update that was not finite is no row, and must not empty the last one."""
    found, state = trained(*COMPILED, "optimiser.learning_rate=1e30", "evaluate_every=1")
    assert 0 < int(state.update) < UPDATES and np.isfinite(found["evaluation_return"]).all()


@pytest.mark.parametrize("door", ["compiled", "host"])
def test_a_run_ends_with_the_first_evaluation_that_reaches_the_threshold(runs, door):
    """Not with a mean of training's, which is about other policies."""
    words, (_, (expected, _)) = {"compiled": COMPILED, "host": HOST}[door], runs[door]
    third, sixth = expected["evaluation_return"][[2, 5]]
    ends = {min(third, sixth): 3, max(third, sixth): 3 if third >= sixth else 6, max(third, sixth) + 1: UPDATES}
    parts = pgx.assemble(checked(*words, EVALUATED, "stop_when_solved=true"))
    for threshold, updates in ends.items():
        found, _ = trained(parts=parts, evaluated_at=float(threshold))
        assert len(found["env_steps"]) == updates
    limits = build.limits(parts.config, parts.env)
    assert limits["evaluated_at"] == parts.env.spec.reward_threshold and "solved_at" not in limits


class Remembering(HostEnv):
    """Two lanes that count the episodes that were ever begun in them, and show it."""

    def __init__(self, spec):
        self.spec, self.num_lanes, self.begun = spec, 2, 0

    def reset(self, seed):
        self.t, self.begun = 0, self.begun + 1
        return self._obs()

    def _obs(self):
        return np.full((2, self.spec.obs_size), 0.1 * self.begun, np.float32)

    def step(self, action):
        self.t += 1
        return self._obs(), 1.0 * action, np.full(2, self.t == 5), np.zeros(2, bool)


def test_evaluation_on_the_host_has_an_environment_of_its_own():
    """One that keeps something from episode to episode would otherwise show training that there were evaluations."""
    config = checked(*TINY, "env=gymnasium_cartpole", "env.max_steps=5", "episodes_per_update=2", "evaluate_every=1")
    parts = pgx.assemble(config)
    assert isinstance(parts.runner, HostRunner)
    assert parts.runner._evaluate.env is not parts.env and parts.runner._evaluate.env.num_lanes == 10

    def run(evaluation, shared=False):
        env = Remembering(parts.env.spec)
        other = env if shared else Remembering(parts.env.spec)
        sizes = {"num_episodes": 2, "diagnose_every": 100, "evaluation": evaluation}
        runner = HostRunner(parts.state, parts.algorithm, env, parts.keys, **sizes, evaluation_env=other)
        return trained(parts=parts._replace(runner=runner), num_updates=3)

    two = dataclasses.replace(build.evaluation(config), episodes=2)
    assert same(run(two), run(None)) and not same(run(two, shared=True), run(None))


# In a run's folder


def test_a_run_that_goes_on_is_evaluated_as_if_it_had_never_stopped(tmp_path):
    """metrics.csv to the byte; and what it says of itself: the best, the last, when it was solved."""
    words = (*COMPILED, EVALUATED, "checkpoint_every=6", "checkpoints_kept=1")
    whole, twice = tmp_path / "whole", tmp_path / "twice"
    train_here(*words, "num_updates=14", folder=whole)
    for updates in (7, 14):
        told = train_here(*words, f"num_updates={updates}", folder=twice)
    assert (twice / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    table = rows(whole)
    returns = {int(row["update"]): float(row["evaluation_return"]) for row in table if row["evaluation_return"]}
    assert list(returns) == [3, 6, 9, 12]
    assert told["return_best"] == max(returns.values()) and told["evaluation_final"] == returns[12]
    assert str(told["solved_at_env_steps"]) == table[2]["env_steps"]
    assert record.objective(summary(twice)) == returns[12] != told["return_final_iqm"]
    assert f"{returns[12]:.1f} in the last evaluation" in record.last_line(told, twice)
    # the newest, of update 14, and the best of those that were evaluated
    kept = sorted(int(path.name) for path in (whole / "checkpoints").iterdir() if path.name.isdecimal())
    assert kept == [max((6, 12), key=lambda update: (returns[update], -update)), 14]
    again = train_here(*words, "num_updates=20", "stop_when_solved=false", folder=twice)
    assert again["updates"] == 20


def test_a_solved_run_has_ended_however_large_its_budget(tmp_path):
    words = (*COMPILED, EVALUATED, "checkpoint_every=3", "stop_when_solved=true")
    for updates in (5, 14):
        told = train_here(*words, f"num_updates={updates}", folder=tmp_path)
        assert (told["updates"], told["status"]) == (3, "completed")


def test_a_run_that_ends_before_its_first_evaluation_says_so(tmp_path):
    """Its objective is that of a run that has none, and no sweep should be searched by that."""
    told = train_here(*COMPILED, "evaluate_every=60", "num_updates=2", folder=tmp_path)
    assert told["warning"] == "no policy was evaluated: there were only 2 updates" and told["evaluation_final"] is None
    assert record.objective(told) == -math.inf


@pytest.mark.parametrize(("every", "near"), [(40, 30), (7, 6), (90, 60)])
def test_evaluations_and_checkpoints_must_meet(every, near):
    """Else hardly any checkpoint is of a policy that was evaluated, and the best one is the best of a few."""
    with pytest.raises(ConfigError, match=f"checkpoint_every=60.*evaluate_every={near}"):
        checked(*COMPILED, f"evaluate_every={every}")
    assert [checked(*COMPILED, f"evaluate_every={n}")["evaluate_every"] for n in (20, 60, 180)] == [20, 60, 180]
