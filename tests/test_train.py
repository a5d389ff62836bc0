"""Which random numbers an update sees, and after which update a run ends."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probe import Probe
from scripted import Scripted

from pgx.algorithm import Algorithm
from pgx.critics import NoCritic
from pgx.envs.base import HostEnv
from pgx.estimators import reward_to_go
from pgx.loop import Budget, Keys, Limits, init, train
from pgx.optimiser import Optimiser
from pgx.policies import MLPPolicy
from pgx.rollout import HostRollout, rollout
from pgx.runners import make_runner
from pgx.updates.gradient import GradientStep

UPDATES = 6


def drawn(episodes):
    """One number that tells batches of actions apart."""
    place = jnp.arange(1, 1 + episodes.action.size, dtype=jnp.float32).reshape(episodes.action.shape)
    return (jnp.sin(place) * jnp.where(episodes.mask, 1.0 + episodes.action.astype(jnp.float32), 0.0)).sum()


class Told(GradientStep):
    """A gradient step that tells what it was given."""

    def learn(self, state, episodes, algorithm, key, diagnose):
        learned = super().learn(state, episodes, algorithm, key, diagnose)
        columns = learned.moved.columns | {"of_update": jax.random.uniform(key), "of_episodes": drawn(episodes)}
        return learned._replace(moved=learned.moved._replace(columns=columns))


# the policy never changes: what differs between two updates is the random numbers
STILL = Algorithm(
    partial(reward_to_go, gamma=1.0), NoCritic(), Told(Optimiser("sgd", 0.0), 0.0), 1.0,
    whiten=False, bootstrap_truncated=False, discount_power=False,
)  # fmt: skip


def start(env):
    make_policy = partial(MLPPolicy, width=2, depth=1, activation="tanh")
    return init(STILL, make_policy, env.spec, Keys.of_seed(3).init)


def run(env, *, max_updates: int, **limits: float):
    """The rows of a run of STILL."""
    keys, state = Keys.of_seed(3), start(env)
    episodes = env.num_lanes if isinstance(env, HostEnv) else 16
    runner = make_runner(state, STILL, env, keys, num_episodes=episodes, diagnose_every=10**6, max_updates=max_updates)
    chunks = list(train(runner, state, **limits))
    return {name: np.concatenate([chunk.rows[name] for chunk in chunks]) for name in chunks[0].rows}


@pytest.mark.parametrize("env", [Probe("delayed"), Scripted()], ids=["compiled", "host"])
def test_every_update_has_random_numbers_of_its_own(env):
    """For its episodes and for itself; those of two updates in a row would make the second a copy of the first."""
    rows = run(env, max_updates=4, num_updates=UPDATES)
    assert len(set(rows["of_episodes"])) == len(set(rows["of_update"])) == UPDATES
    keys, policy = Keys.of_seed(3), start(env).policy
    expected = [jax.random.uniform(jax.random.fold_in(keys.update, i)) for i in range(UPDATES)]
    np.testing.assert_array_equal(rows["of_update"], np.array(expected))
    play = (
        HostRollout(env, env.num_lanes) if isinstance(env, HostEnv) else eqx.filter_jit(partial(rollout, env, num_episodes=16))
    )
    expected = [drawn(play(policy, key=jax.random.fold_in(keys.train, i))) for i in range(UPDATES)]
    np.testing.assert_allclose(rows["of_episodes"], np.array(expected), rtol=1e-4)


def test_streams_are_apart_and_stay_what_they_are():
    """A new stream comes after the others, whose numbers old runs were made with."""
    assert Keys._fields == ("init", "train", "evaluate", "update")
    data = [tuple(np.asarray(jax.random.key_data(key))) for key in Keys.of_seed(7)]
    assert data == [(stream, 7) for stream in range(4)]


@pytest.mark.parametrize("max_updates", [2, 3, 50])
def test_a_run_ends_with_the_update_that_reaches_its_budget(max_updates):
    """Exactly reached is reached, within a chunk and between two: 16 episodes of one step an update, 48 steps."""
    assert len(run(Probe("constant"), max_updates=max_updates, num_env_steps=48)["env_steps"]) == 3
    assert len(run(Probe("constant"), max_updates=max_updates, num_env_steps=49)["env_steps"]) == 4
    # the mean of the last hundred episodes is 1 from the seventh update on
    assert len(run(Probe("constant"), max_updates=max_updates, solved_at=1.0, num_updates=20)["env_steps"]) == 7


def test_what_has_reached_its_budget_begins_no_chunk():
    """A run that is resumed when it has reached a limit exactly, or solved the environment exactly, has ended."""
    state = replace(start(Probe("constant")), update=jnp.int32(4))

    def chunk(recent: float = 0.0, **changed: float) -> Limits | None:
        limits = {"env_steps": 48, "num_updates": 5, "num_env_steps": 49, "solved_at": 2.0, "pause_every": 3} | changed
        return Budget(replace(state, recent_returns=jnp.full(100, recent)), **limits).limits(50)

    assert chunk() == Limits(1, 1, 2.0) and chunk(np.nan) is not None
    assert chunk(recent=2.0) is chunk(num_updates=4) is chunk(num_env_steps=48) is None
    assert chunk(num_updates=90).updates == 2  # up to update 6, a multiple of 3
