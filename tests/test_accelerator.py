"""An accelerator's own path, on a CPU that is taken for one: the same numbers, in as many operations for ten episodes as
for a thousand. No figure here is a time: that takes a device."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from operations import operations
from program import checked
from quick import quickly_compiled

from pgx import build
from pgx.diagnosis import decomposition, quality
from pgx.loop import Limits, chunk
from pgx.policies import Categorical
from pgx.runners import lanes_at_once
from pgx.types import Episodes
from pgx.update import update

T = 40
LENGTHS = (T, 3, 20, 7, 1)
"""In a batch one of each again and again: so ten episodes and a thousand have the same mean length."""
FEW, MANY = 10, 1000
KINDS = {
    "baseline": ("+variant=baseline", "whiten=true", "critic.minibatch_steps={some}"),
    "ppo": ("+variant=ppo", "env=pendulum", "update.minibatch_steps={some}", "critic.minibatch_steps={some}"),
}
"""One of gradient steps, one of epochs. Minibatches grow with the batch: of a fixed size there would be more of them, and
each is a gradient step."""


@pytest.fixture
def accelerator(monkeypatch):
    """Calls a function as an accelerator would have it traced."""

    def call(f, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: "gpu")
            return f(*arguments)

    return call


def assembled(kind: str, num_episodes: int, *more: str) -> build.Parts:
    words = [word.format(some=num_episodes * T // 4) for word in KINDS[kind]]
    config = checked(*words, f"episodes_per_update={num_episodes}", *more)
    env, algorithm = build.build(config)
    state, keys = build.initial_state(config, env, algorithm)
    return build.Parts(config, env, algorithm, state, keys, None)


def played(parts: build.Parts, num_episodes: int, seed: int = 0, *, empty: int = 0) -> Episodes:
    """Random numbers in the place of episodes, of which as many columns are `empty` in the end; garbage on padding."""
    random, B = np.random.default_rng(seed), num_episodes + empty
    pi = jax.eval_shape(parts.state.actor, jnp.zeros((parts.env.spec.obs_size, B)))
    some = random.integers(0, 2, (T, B)) if isinstance(pi, Categorical) else random.normal(size=(T, B, 1))
    lengths = np.append(np.tile(LENGTHS, num_episodes // len(LENGTHS)), np.zeros(empty, int))
    mask = np.arange(T)[:, None] < lengths
    numbers = {
        "obs": random.normal(size=(T, B, parts.env.spec.obs_size)),
        "action": some,
        "reward": np.where(mask, random.normal(size=(T, B)), 0),
        "mask": mask,
        "terminated": random.integers(0, 2, B) == 1,
        "last_obs": random.normal(size=(B, parts.env.spec.obs_size)),
    }
    short = {np.dtype("float64"): jnp.float32, np.dtype("int64"): jnp.int32}
    arrays = {name: jnp.asarray(x, short.get(x.dtype)) for name, x in numbers.items()}
    return Episodes(**arrays, count=jnp.array(num_episodes) if empty else None)


def learn(parts: build.Parts):
    """(state, episodes, key) → (state, a row of metrics), the gradient's spread among it."""
    return lambda state, episodes, key: update(state, episodes, parts.algorithm, key, jnp.array(True))


def test_an_update_of_a_thousand_episodes_has_as_many_operations_as_one_of_ten(accelerator):
    """A loop over episodes shows: it is what a CPU does."""

    def counted(num_episodes: int) -> int:
        parts = assembled("baseline", num_episodes)
        return operations(learn(parts), parts.state, played(parts, num_episodes), jax.random.key(0))

    few, many = (accelerator(counted, n) for n in (FEW, MANY))
    assert few == many > 500
    assert counted(MANY) > 10 * counted(FEW)


def test_so_has_a_whole_chunk_of_ppo_in_batches_by_steps(accelerator):
    """With the rollout, scaled observations, and columns that stay empty; what is lowered for CUDA is as long, too."""
    short = ("+env.params.max_steps_in_episode=20", "scale_observations=true", "diagnose_every=1")

    def counted(num_episodes: int) -> tuple[int, int]:
        by_steps = (f"steps_per_update={num_episodes * 20}", f"max_episodes_per_update={num_episodes * 3 // 2}")
        parts = assembled("ppo", num_episodes, *short, "episodes_per_update=null", *by_steps)
        limits = Limits(1, 10**9, np.float32(np.inf), np.float32(np.inf))
        sizes = {"num_episodes": num_episodes * 3 // 2, "max_updates": 1}
        one = lambda state: chunk(state, parts.algorithm, parts.env, parts.keys, limits, jnp.array(1), **sizes)
        for_cuda = jax.jit(one).trace(parts.state).lower(lowering_platforms=("cuda",)).as_text()
        assert "precision = [HIGHEST, HIGHEST]" in for_cuda and "DEFAULT" not in for_cuda  # no product in TF32
        return operations(one, parts.state), for_cuda.count("stablehlo.")

    assert accelerator(counted, FEW) == accelerator(counted, MANY)


def test_so_has_a_pack_of_many_lanes(accelerator):
    assert accelerator(lanes_at_once, 1024) == 1024 and lanes_at_once(1024) == 8
    parts = assembled("baseline", FEW)

    def counted(lanes: int) -> int:
        episodes = jax.tree.map(lambda x: jnp.stack([x] * lanes), played(parts, FEW))
        side_by_side = jax.vmap(learn(parts), in_axes=(None, 0, None))
        return operations(side_by_side, parts.state, episodes, jax.random.key(0))

    assert accelerator(counted, 2) == accelerator(counted, 200)


@pytest.mark.parametrize("kind", KINDS)
def test_both_paths_learn_the_same(kind, accelerator):
    """Lanes of a pack on an accelerator, and each of these runs alone on a CPU."""
    parts = assembled(kind, FEW)
    episodes = [played(parts, FEW, seed, empty=5) for seed in range(3)]
    alone = [quickly_compiled(learn(parts))(parts.state, x, jax.random.key(1)) for x in episodes]
    stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *episodes)
    in_lanes = quickly_compiled(jax.vmap(learn(parts), in_axes=(None, 0, None)))
    new, row = accelerator(in_lanes, parts.state, stacked, jax.random.key(1))
    for i, (one, its_row) in enumerate(alone):
        assert float(its_row["grad_variance"]) > 0
        for name, x in its_row.items():
            np.testing.assert_allclose(row[name][i], x, rtol=2e-4, atol=1e-5, err_msg=name)
        close = partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5)
        leaves = jax.tree.leaves(eqx.filter((new.actor, new.critic), eqx.is_inexact_array))
        for ours, theirs in zip(
            leaves, jax.tree.leaves(eqx.filter((one.actor, one.critic), eqx.is_inexact_array)), strict=True
        ):
            close(ours[i], theirs)


def test_diagnosis_goes_through_no_state_and_no_batch_alone(accelerator):
    """And finds the same."""
    parts = assembled("baseline", FEW)
    small, large = (played(parts, n) for n in (FEW, 2 * FEW))
    weights = lambda episodes: quality._own_weights(episodes, parts.state.critic, parts.algorithm, 5)
    scores = lambda episodes: decomposition.scores(parts.state.policy, episodes.obs[0], episodes.action[:3].T)
    for f in (weights, scores):
        assert accelerator(operations, f, small) == accelerator(operations, f, large)
        assert operations(f, small) < operations(f, large)
        found, there = (quickly_compiled(lambda x, f=f: f(x)) for _ in range(2))
        np.testing.assert_allclose(accelerator(found, large), there(large), rtol=1e-4, atol=1e-5)
