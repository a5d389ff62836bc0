"""The project's main claim: each of these variants learns CartPole-v1, with the defaults, on nearly every seed.

Slow (a minute or two): `make test-slow`, with ARGS=-s for the table. Each variant is compiled once for all its seeds.
"""

import math

import jax
import numpy as np
import pytest

import pgx
from pgx.build import limits
from pgx.loop import Keys, train

pytestmark = pytest.mark.slow

SEEDS = range(1000, 1020)
"""Fresh: nothing was tuned on them."""

BUDGETS = {"vanilla": 2_000_000, "reward_to_go": 1_000_000, "baseline": 1_000_000, "gae": 1_000_000}
"""Environment steps."""


def env_steps_to_solve(variant: str, budget: int) -> list[int | None]:
    """For each seed the environment steps after which the last 100 episodes returned ≥ 475 on average, or None."""
    config = pgx.configuration(variant, stop_when_solved=True, num_env_steps=budget, updates_per_chunk=1000)
    found = []
    for seed in SEEDS:
        parts = pgx.assemble(config | {"seed": seed})  # all seeds share the program
        steps, recent = 0, -math.inf
        for chunk in train(parts.runner, parts.state, **limits(parts.config, parts.env)):
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
