"""Continuous actions through the whole of a run: what holds for categorical policies holds for Gaussian ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from program import checked, rows, train_here

from pgx import build
from pgx.loop import Limits
from pgx.policies import ClippedGaussian, Gaussian
from pgx.runners import PackRunner, signature

PENDULUM = ("env=pendulum", "+env.params.max_steps_in_episode=20", "diagnose_every=4")
VARIANTS = ("vanilla", "reward_to_go", "baseline", "gae", "leave_one_out")


def parts(*overrides: str):
    config = checked("episodes_per_update=3", *PENDULUM, *overrides)
    env, algorithm = build.build(config)
    return config, env, algorithm, *build.initial_state(config, env, algorithm)


def bits(chunk) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves((chunk.rows, chunk.state))]


def test_a_run_compiles_for_the_state_that_it_begins_with():
    """It compiles for a skeleton: were the types of a fresh state others, a notebook would compile the program once more."""
    config, env, algorithm, state, _ = parts("+variant=ppo")
    assert signature(state) == signature(build.skeleton(config, env, algorithm))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_a_gaussian_unchanged(variant):
    """Means and standard deviations both move, under every bound, and nothing is said of the share of an action."""
    config, env, algorithm, state, keys = parts(f"+variant={variant}", "env.bound=tanh")
    chunk = build.runner(config, env, algorithm, state, keys)(state, Limits(2))
    row, before, after = chunk.rows, state.policy, chunk.state.policy
    assert "action_share" not in row and (row["std_mean"][0], row["std_min"][0]) == (pytest.approx(1), pytest.approx(1))
    assert 0 <= row["saturated_share"][0] < 0.05  # |u| ≥ 2.65 of a standard normal: 0.8 %
    assert np.isfinite([row[name] for name in ("entropy", "kl", "grad_norm")]).all() and (row["kl"] > 0).all()
    assert before.rho.item() != after.rho.item(), "without a gradient the standard deviation would stay"
    assert (before.network.layers[-1].weight != after.network.layers[-1].weight).any()


def test_chunks_after_the_first_compile_nothing():
    """… however many episodes their batches have."""
    config, env, algorithm, state, keys = parts("+variant=gae", "steps_per_update=60", "episodes_per_update=null")
    runner = build.runner(config, env, algorithm, state, keys)
    state = runner(state, Limits(2)).state
    compiled = []
    listen = lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        assert len(runner(state, Limits(3)).rows["env_steps"]) == 3 and not compiled
        jax.jit(lambda x: x + 1.25)(1.0)
        assert compiled, "this counter counts"
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_a_lane_of_a_pack_has_the_bits_that_it_has_in_a_pack_of_its_own():
    """… with running statistics of its own, too."""
    lanes = []
    for seed in (3, 0, 1):
        config, env, algorithm, state, _ = parts("+variant=gae", "scale_observations=true", f"seed={seed}")
        lanes.append(build.lane(config, env, algorithm, state))
    pack = lambda *lanes: PackRunner(lanes, width=8, num_episodes=3, max_updates=6)
    alone = bits(pack(lanes[0])([Limits(6)])[0])
    assert bits(pack(lanes[1], lanes[0], lanes[2])([Limits(6), Limits(6), Limits(2)])[1]) == alone


def test_the_clipped_score_is_an_option_of_the_policy(tmp_path):
    """CAPG plays the same actions with the same numbers, and learns from another score."""
    first = []
    for clipped in ("false", "true"):
        overrides = (*PENDULUM, "+variant=reward_to_go", f"policy.clipped_score={clipped}", "num_updates=1")
        train_here(*overrides, folder=tmp_path / clipped)
        first += rows(tmp_path / clipped)
    _, _, _, state, _ = parts("+variant=reward_to_go", "policy.clipped_score=true")
    obs = jnp.zeros((3, 1))
    assert type(state.policy(obs)) is ClippedGaussian
    assert type(parts("+variant=reward_to_go")[3].policy(obs)) is Gaussian
    assert first[0]["return_mean"] == first[1]["return_mean"] and first[0]["grad_norm"] != first[1]["grad_norm"]
