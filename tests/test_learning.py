"""The project's main claim: each of these variants learns CartPole-v1, with the defaults, on nearly every seed.

Slow (a minute or two): `make test-slow`, with ARGS=-s for the table. Each variant is compiled once for all its seeds.
"""

import math

import jax
import numpy as np
import pytest
from program import checked

from pgx import backend
from pgx.build import build, initial_state
from pgx.loop import JittedRunner, Keys, train

pytestmark = pytest.mark.slow

SEEDS = range(1000, 1020)
"""Fresh: nothing was tuned on them."""

BUDGETS = {"vanilla": 2_000_000, "reward_to_go": 1_000_000, "baseline": 1_000_000, "gae": 1_000_000}
"""Environment steps."""


def env_steps_to_solve(variant: str, budget: int) -> list[int | None]:
    """For each seed the environment steps after which the last 100 episodes returned ≥ 475 on average, or None."""
    config = checked(f"+variant={variant}", "stop_when_solved=true", f"num_env_steps={budget}")
    backend.prepare(config["xla_threads"])
    env, algorithm = build(config)
    sizes = {"num_episodes": config["episodes_per_update"], "max_updates": 1000}
    sizes |= {"diagnose_every": config["diagnose_every"]}
    found = []
    for seed in SEEDS:
        state, keys = initial_state(config | {"seed": seed}, env, algorithm)
        runner = JittedRunner(state, algorithm, env, keys, **sizes)
        runner.compile()  # once: all seeds share the program
        limits = {"num_updates": math.inf, "num_env_steps": budget, "solved_at": env.spec.reward_threshold}
        steps, recent = 0, -math.inf
        for chunk in train(runner, state, env_steps=0, pause_every=1000, **limits):
            assert chunk.not_finite is None, f"seed {seed}"
            steps += int(chunk.rows["env_steps"].sum())
            recent = chunk.rows["return_recent"][-1]
        found.append(steps if recent >= 475 else None)
    return found


def test_the_streams_of_the_seeds_differ():
    """Twenty times the same run would pass as well."""
    keys = [key for seed in SEEDS for key in Keys.of_seed(seed)]
    assert len({np.asarray(jax.random.key_data(key)).tobytes() for key in keys}) == len(Keys._fields) * len(SEEDS)


@pytest.mark.parametrize("variant", BUDGETS)
def test_a_variant_solves_cartpole_on_at_least_18_of_20_fresh_seeds(variant):
    """Within the budget that its documentation gives, with default settings; mean return ≥ 475 over 100 episodes."""
    steps = env_steps_to_solve(variant, BUDGETS[variant])
    solved = sorted(x for x in steps if x is not None)
    middle = f"median {np.median(solved):,.0f}, slowest {solved[-1]:,}" if solved else "-"
    print(f"\n| {variant} | {len(solved)} of {len(steps)} seeds within {BUDGETS[variant]:,} env steps | {middle} |")
    assert len(solved) >= 18, dict(zip(SEEDS, steps, strict=True))
