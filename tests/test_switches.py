"""Every part of the configuration reaches the program."""

import itertools
import math
from functools import partial

import equinox as eqx
import jax.numpy as jnp
import pytest
from program import checked, rows, train_here

from pgx.build import build, skeleton
from pgx.config import options
from pgx.loop import Keys, Limits, chunk

QUICK = (("gae", "catch"), ("leave_one_out", "acrobot"), ("vanilla", "mountain_car"))


@pytest.mark.parametrize(
    ("variant", "env"),
    [
        pytest.param(variant, env, marks=() if (variant, env) in QUICK else pytest.mark.slow)
        for variant, env in itertools.product(options("variant"), ("cartpole", "acrobot", "mountain_car", "catch"))
    ],
)
def test_every_variant_runs_on_every_compiled_environment(variant, env, tmp_path):
    """A combination that nobody tried is one that a student tries first."""
    small = ("+env.params.max_steps_in_episode=15", "episodes_per_update=3", "num_updates=1")
    done = train_here(f"+variant={variant}", f"env={env}", *small, folder=tmp_path)
    assert done["status"] == "completed" and done["updates"] == 1 and done["episodes"] == 3
    assert math.isfinite(float(rows(tmp_path)[0]["grad_norm"]))


@pytest.mark.parametrize(
    "env",
    [
        "env=gymnasium_cartpole",
        "env=gymnasium_cartpole env.num_lanes=1",
        "env=gymnasium_acrobot env.max_steps=20",
        "env=gymnasium env.id=FrozenLake-v1 +env.kwargs.is_slippery=false",  # discrete observations
        "env=gymnasium env.id=CliffWalking-v1 env.max_steps=10",  # declares no limit of its own
    ],
)
def test_environments_of_gymnasium_run_on_the_host(env, tmp_path):
    done = train_here("+variant=baseline", *env.split(), "episodes_per_update=2", "num_updates=2", folder=tmp_path)
    assert done["status"] == "completed" and done["updates"] == 2 and done["episodes"] == 4


# Short episodes, most of them cut off: then every switch has something to change
SMALL = ("+env.params.max_steps_in_episode=12", "gamma=0.9", "episodes_per_update=4", "num_updates=3")
SMALL += ("diagnose_every=1",)


@pytest.fixture(scope="module")
def without_switches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    train_here("+variant=baseline", *SMALL, folder=folder)
    return (folder / "metrics.csv").read_bytes()


NUMBERS = (
    "gamma=0.5",
    "entropy_coefficient=0.1",
    "optimiser.learning_rate=0.01",
    "optimiser.b1=0.5",
    "critic.optimiser.learning_rate=0.1",
    "+env.params.gravity=20.0",
)
"""Inputs of the same compiled program."""

PROGRAMS = (
    "whiten=true",
    "discount_power=true",
    "bootstrap_truncated=true",
    "estimator=lambda_return",
    "critic=none",
    "policy.width=8",
    "policy.depth=1",
    "policy.depth=0",
    "policy.activation=tanh",
    "policy.activation=gelu",
    "policy.activation=silu",
    "policy.activation=elu",
    "critic.width=8",
    "critic.activation=tanh",
    "optimiser@critic.optimiser=sgd",
    "optimiser=adamw optimiser.weight_decay=0.1",
    "optimiser=sgd",
    "optimiser=sgd optimiser.nesterov=true",
    "optimiser=rmsprop",
    "optimiser.clip_norm=0.001 optimiser.eps=0.1",  # Adam alone does not feel a rescaled gradient
    "optimiser.schedule=linear optimiser.decay_steps=4",
    "optimiser.schedule=cosine optimiser.decay_steps=4",
)
"""Each makes a program of its own, which takes five seconds to compile."""


@pytest.mark.parametrize("switch", [*NUMBERS, *(pytest.param(switch, marks=pytest.mark.slow) for switch in PROGRAMS)])
def test_a_switch_changes_the_run(switch, without_switches, tmp_path):
    """A switch that is accepted and does nothing is worse than none: an ablation of it finds `no effect`."""
    overrides = [x for x in SMALL if not (x.startswith("gamma") and switch.startswith("gamma"))]
    train_here("+variant=baseline", *overrides, *switch.split(), folder=tmp_path)
    metrics = (tmp_path / "metrics.csv").read_bytes()
    assert len(metrics.splitlines()) == 4 and metrics != without_switches


def program_of(*overrides: str) -> str:
    """What XLA is given to compile for this configuration."""
    config = checked("+variant=baseline", *SMALL, *overrides)
    env, algorithm = build(config)
    limits = Limits(jnp.array(1), jnp.array(1), jnp.array(1.0))
    arguments = (skeleton(config, env, algorithm), algorithm, env, Keys.of_seed(config["seed"]), limits, jnp.array(1))
    return eqx.filter_jit(partial(chunk, num_episodes=2, max_updates=1)).lower(*arguments).as_text()


def test_a_switch_changes_the_program():
    """The same of the switches that are compiled in, without compiling: no two of them give the same program."""
    programs = {switch: program_of(*switch.split()) for switch in ("seed=1", *PROGRAMS)}
    assert program_of() == program_of("seed=2") == programs["seed=1"]
    same = [pair for pair in itertools.combinations(programs, 2) if programs[pair[0]] == programs[pair[1]]]
    assert not same


def test_a_schedule_ends_at_zero(tmp_path):
    """linear over 2 updates: the third and later ones move nothing (the KL divergence of a step says so)."""
    schedule = ("optimiser.schedule=linear", "optimiser.decay_steps=2")
    train_here("+variant=reward_to_go", *schedule, "num_updates=4", folder=tmp_path)
    kl = [float(row["kl"]) for row in rows(tmp_path)]
    assert kl[0] > 0 and kl[1] > 0 and kl[2] == kl[3] == 0
