"""The study of the posts' collapse: the fast form is the posts' programs, and every defect is what the README says.

Everything is built from the study's own configuration, through the seams that a reader would use.
"""

import csv
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from mdp import (
    TRAJECTORIES,
    all_episodes,
    choose,
    discounted,
    distribution,
    gradient_of_expectation,
    gradient_step_by_step,
    linear_policy,
)
from program import ROOT, XLA_CACHE, checked, environment

from experiments.published_collapse import literal
from experiments.published_collapse.literal import POST_1, POST_2
from pgx.build import build, initial_state
from pgx.errors import ConfigError
from pgx.rollout import rollout
from pgx.types import Episodes, TrainState
from pgx.update import update

STUDY = "hydra.searchpath=[file://{}experiments/published_collapse/conf]"
EPISODES = 120
GAMMA = 0.8
LONG = ("+env.params.theta_threshold_radians=0.8",)  # a pole may lean further: episodes of 40 to 160 steps


@pytest.fixture(autouse=True, scope="module")
def cache():
    """Nearly all the time of these tests goes into compiling."""
    jax.config.update("jax_compilation_cache_dir", str(XLA_CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def study(*overrides: str):
    """(config, environment, algorithm) of the study."""
    config = checked(STUDY.format(f"{ROOT}/"), *overrides)
    return config, *build(config)


# (overrides of the fast form, the literal program)
SAME = {
    "post 1": ("+variant=published_1", POST_1),
    "post 1, long episodes": (("+variant=published_1", *LONG), POST_1),
    "post 2, V fitted to psi": ("+variant=published_2", POST_2),
    "post 2, V fitted to the reward": (
        "+variant=published_2 update.value_target=reward",
        POST_2._replace(value_target="reward"),
    ),
    "post 2, long episodes": (("+variant=published_2", *LONG), POST_2),
    "post 2, no broadcast": ("+variant=published_2 update.broadcast=false", POST_2._replace(broadcast=False)),
    "post 2, no drop_last": ("+variant=published_2 update.drop_last=false", POST_2._replace(drop_last=False)),
    "no drop_last": ("+variant=published_1 update.drop_last=false", POST_1._replace(drop_last=False)),
    "window 1": ("+variant=published_1 update.window=1", POST_1._replace(minibatch=1)),
    "window 16": ("+variant=published_1 update.window=16", POST_1._replace(minibatch=16)),
    "true return": (
        "+variant=published_1 estimator=vanilla update.returns=episode",
        POST_1._replace(weight="return"),
    ),
    "true reward-to-go, no broadcast": (
        "+variant=published_1 estimator=reward_to_go update.returns=episode update.broadcast=false",
        POST_1._replace(weight="reward_to_go", broadcast=False),
    ),
    "frozen": ("+variant=published_1 update.optimiser_steps=frozen", POST_1._replace(optimiser_steps="frozen")),
    "one step an episode": (
        "+variant=published_1 update.optimiser_steps=batch",
        POST_1._replace(optimiser_steps="batch"),
    ),
    "sums, no broadcast": (
        "+variant=published_1 update.average=false update.broadcast=false",
        POST_1._replace(average=False, broadcast=False),
    ),
    "weight decay": (
        "+variant=published_1 optimiser.weight_decay=0.01",
        POST_1._replace(optimiser=optax.adamw(3e-4, weight_decay=1e-2)),
    ),
    "SGD": (
        "+variant=published_1 optimiser=sgd optimiser.momentum=0.0 optimiser.learning_rate=0.01",
        POST_1._replace(optimiser=optax.sgd(1e-2)),
    ),
    "entropy bonus": ("+variant=published_1 entropy_coefficient=0.1", POST_1._replace(entropy_coefficient=0.1)),
}


QUICK = ("post 1", "post 2, V fitted to psi", "post 2, V fitted to the reward")


def compiled(function, *arguments):
    """Optimised by nobody: it is called a hundred times at most."""
    program = eqx.filter_jit(function).lower(*arguments)
    return program.compile(compiler_options={"xla_backend_optimization_level": 0})


@pytest.mark.parametrize("name", [x if x in QUICK else pytest.param(x, marks=pytest.mark.slow) for x in SAME])
def test_fast_equals_literal(name):
    """Update by update, from the same parameters and on the same episodes: parameters agree to 2e-6, where one
    optimiser step of 3e-4 moves them by about 3e-4. (Seen: 2e-7. Over the forty optimiser steps of a long episode, in
    which Adam magnifies a weight Ψ − V of almost nothing and its rounding with it, 2e-6.)"""
    overrides, program = SAME[name]
    config, env, algorithm = study(*(overrides.split() if isinstance(overrides, str) else overrides))
    state, keys = initial_state(config, env, algorithm)
    critic_of = lambda state: None if state.critic is None else state.critic[0]
    play = compiled(partial(rollout, env, num_episodes=1), state.policy, keys.train)
    learn = compiled(update, state, play(state.policy, keys.train), algorithm, keys.update, jnp.array(False))
    learner = literal.start(state.policy, critic_of(state), program)
    moved = 0.0
    for number in range(EPISODES):
        episodes = play(state.policy, jax.random.fold_in(keys.train, number))
        before = state.policy
        state, _ = learn(state, episodes, algorithm, keys.update, jnp.array(False))
        learner = literal.learn(learner, of(episodes), program)
        apart = distance((state.policy, critic_of(state)), (learner.policy, learner.critic))
        assert apart < (1e-5 if "long" in name else 2e-6), f"episode {number}"
        moved = max(moved, distance(before, state.policy))
        # from the same numbers again; the optimisers' moments are never handed over
        learner = learner._replace(policy=state.policy, critic=critic_of(state))
    assert moved > 2e-4  # one step of AdamW moves every parameter by up to 3e-4


def distance(ours, theirs) -> float:
    """The largest difference of a parameter."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    return max(float(jnp.abs(x - y).max()) for x, y in pairs)


def of(episodes: Episodes) -> literal.Episode:
    """The one episode, without padding."""
    length = int(episodes.length[0])
    return literal.Episode(*(np.asarray(x)[:length, 0] for x in (episodes.obs, episodes.action, episodes.reward)))


def test_all_defects_off_is_the_harness():
    """The study's code and the core's agree where they mean the same, so that what an intervention shows is its own."""
    for chosen in ("estimator=vanilla", "critic=value_network entropy_coefficient=0.1"):
        same = "episodes_per_update=3", "optimiser=adam", "optimiser.learning_rate=0.003", *chosen.split()
        _, env, ours = study("+variant=corrected", *same)
        config, _, core = study("+variant=reward_to_go", *same)
        state, keys = initial_state(config, env, core)
        episodes = compiled(partial(rollout, env, num_episodes=3), state.policy, keys.train)(state.policy, keys.train)
        (new, row), (expected, expected_row) = (
            compiled(update, *arguments)(*arguments)
            for each in (ours, core)
            for arguments in [(state, episodes, each, keys.update, jnp.array(False))]
        )
        assert distance((new.policy, new.critic), (expected.policy, expected.critic)) < 1e-6
        for name in row.keys() - {"grad_variance", "grad_snr"}:
            np.testing.assert_allclose(row[name], expected_row[name], rtol=2e-4, atol=1e-6, err_msg=name)


def test_broadcast_does_nothing_where_every_reward_is_one():
    """mean_ij l_i r_j = mean_i l_i at r = 1: to the bit."""
    _, env, broadcast = study("+variant=published_1")
    config, _, fixed = study("+variant=published_1", "update.broadcast=false")
    state, keys = initial_state(config, env, fixed)
    episodes = compiled(partial(rollout, env, num_episodes=1), state.policy, keys.train)(state.policy, keys.train)
    arguments = [(state, episodes, each, keys.update, jnp.array(False)) for each in (broadcast, fixed)]
    new = [compiled(update, *each)(*each)[0].policy for each in arguments]
    assert eqx.tree_equal(*new) and distance(state.policy, new[0]) > 0


# What each form estimates, on a process small enough to enumerate: E Σ_t ∇ log π(a_t|s_t) c(τ, t) for a coefficient c
# in closed form. Windows of 2 steps; the episodes have 1 to 4.


def n_of(tau, t) -> int:
    """Steps in the minibatch of step t; the last one may have 1."""
    return 2 if t < full(tau) else 1


def full(tau) -> int:
    return len(tau.rewards) // 2 * 2


def window(tau, t) -> tuple[float, ...]:
    return tau.rewards[t // 2 * 2 :][:2]


def to_go(rewards) -> list[float]:
    return [discounted(rewards[k:], GAMMA) for k in range(len(rewards))]


POST, RIGHT = "+variant=published_1", "+variant=corrected"
SLICED = f"{POST} estimator=reward_to_go gamma={GAMMA}"
DEFECTS = {
    "post 1": (POST, lambda tau, t: (t < full(tau)) * np.mean(window(tau, t)) / 2),
    "post 1, no broadcast": (f"{POST} update.broadcast=false", lambda tau, t: (t < full(tau)) * tau.rewards[t] / 2),
    "post 1, no drop_last": (f"{POST} update.drop_last=false", lambda tau, t: np.mean(window(tau, t)) / n_of(tau, t)),
    "post 1, sums of all": (
        f"{POST} update.drop_last=false update.average=false",
        lambda tau, t: np.mean(window(tau, t)),
    ),
    "post 2 without V": (SLICED, lambda tau, t: (t < full(tau)) * np.mean(to_go(window(tau, t))) / 2),
    "post 2 without V, no broadcast": (
        f"{SLICED} update.broadcast=false",
        lambda tau, t: (t < full(tau)) * to_go(window(tau, t))[t % 2] / 2,
    ),
    "correct": (f"{RIGHT} gamma={GAMMA}", lambda tau, t: to_go(tau.rewards)[t]),
    "correct, R(τ)": (f"{RIGHT} estimator=vanilla", lambda tau, t: sum(tau.rewards)),
    "correct, step reward": (f"{RIGHT} estimator=step_reward", lambda tau, t: tau.rewards[t]),
    "correct, Ψ of a window": (
        f"{RIGHT} update.returns=window gamma={GAMMA}",
        lambda tau, t: to_go(window(tau, t))[t % 2],
    ),
    "correct, drop_last": (f"{RIGHT} update.drop_last=true", lambda tau, t: (t < full(tau)) * sum(tau.rewards[t:])),
    "correct, mean over own steps": (
        f"{RIGHT} update.window=4 update.average=true",
        lambda tau, t: sum(tau.rewards[t:]) / len(tau.rewards),
    ),
    "correct, broadcast over the episode": (
        f"{RIGHT} update.window=4 update.broadcast=true gamma={GAMMA}",
        lambda tau, t: np.mean(to_go(tau.rewards)),
    ),
}
POLICY = linear_policy()
THETA = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(POLICY)])


def expected_gradient(overrides: str, episodes: Episodes) -> np.ndarray:
    """E of the ascended gradient: the update of every trajectory, weighted by its probability."""
    sgd = "optimiser=sgd optimiser.momentum=0.0 optimiser.learning_rate=1.0 update.optimiser_steps=batch"
    window = "" if "update.window" in overrides else "update.window=2"
    _, _, algorithm = study(*overrides.split(), *sgd.split(), *window.split())

    def of_episode(i):
        new, _ = update(fresh(algorithm), choose(episodes, i[None]), algorithm, KEY, jnp.array(False))
        return ravel_pytree(jax.tree.map(jnp.subtract, new.policy, POLICY))[0]

    each = jax.jit(jax.vmap(of_episode), compiler_options={"xla_backend_optimization_level": 0})
    return distribution(THETA) @ np.asarray(each(jnp.arange(len(TRAJECTORIES))), np.float64)


KEY = jax.random.key(0)
"""Nothing of the study's draws from it."""


def fresh(algorithm) -> TrainState:
    recent, update = jnp.full(100, jnp.nan, jnp.float32), jnp.zeros((), jnp.int32)
    return TrainState(POLICY, algorithm.update.init(POLICY), None, recent, update)


@pytest.mark.parametrize("name", DEFECTS)
def test_expected_gradient(name):
    """Against central differences of exact expectations, which know of neither scores nor minibatches."""
    overrides, coefficient = DEFECTS[name]
    exact = gradient_step_by_step(coefficient, THETA)
    gradient = expected_gradient(overrides, all_episodes())
    assert np.linalg.norm(gradient - exact) < 1e-5 * np.linalg.norm(exact)


def test_what_post_1_learns_from_a_reward_of_one():
    """Every used step has the same weight, so what is left is which steps are used, and what an average divides by:
    drop_last reinforces what completes its window; without it a mean reinforces what ends early; a sum, nothing."""
    episodes = all_episodes()
    episodes = eqx.tree_at(lambda e: e.reward, episodes, episodes.mask.astype(jnp.float32))
    longer = gradient_of_expectation(lambda tau: len(tau.rewards), THETA)
    published = expected_gradient(POST, episodes)
    kept = expected_gradient(f"{POST} update.drop_last=false", episodes)
    summed = expected_gradient(f"{POST} update.drop_last=false update.average=false", episodes)
    assert published @ longer > 0.1 * np.linalg.norm(published) * np.linalg.norm(longer)
    assert kept @ longer < -0.1 * np.linalg.norm(kept) * np.linalg.norm(longer)
    assert np.linalg.norm(summed) < 1e-6


@pytest.mark.parametrize("steps", ["minibatch", "frozen"])
def test_a_stale_gradient_pulls_back(steps):
    """One state, two steps, a reward of one, an optimiser step after each. The second action came from π and meets
    π', which the first has made: E ∇ log π' = π − π' at the logits. Frozen, the expectation of both is 0."""
    rate = 0.5
    overrides = f"{POST} update.window=1 update.optimiser_steps={steps} optimiser=sgd optimiser.momentum=0.0"
    _, _, algorithm = study(*overrides.split(), f"optimiser.learning_rate={rate}")
    pairs = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    ones = jnp.ones((2, 4), jnp.float32)
    episodes = Episodes(  # all observations are 0: the logits are the bias
        obs=jnp.zeros((2, 4, 3)), action=jnp.asarray(pairs.T, jnp.int32), reward=ones, mask=ones > 0,
        terminated=jnp.ones(4, bool), last_obs=jnp.zeros((4, 3)),
    )  # fmt: skip
    bias = np.asarray(POLICY.network.layers[0].bias, np.float64)
    softmax = lambda x: np.exp(x) / np.exp(x).sum()
    pi = softmax(bias)

    def moved(i):
        new, _ = update(fresh(algorithm), choose(episodes, i[None]), algorithm, KEY, jnp.array(False))
        return new.policy.network.layers[0].bias - POLICY.network.layers[0].bias

    chance = pi[pairs[:, 0]] * pi[pairs[:, 1]]
    expected = chance @ np.asarray(jax.vmap(moved)(jnp.arange(4)), np.float64)
    after = [softmax(bias + rate * (np.eye(2)[a] - pi)) for a in range(2)]
    exact = rate * sum(pi[a] * (pi - after[a]) for a in range(2)) if steps == "minibatch" else np.zeros(2)
    np.testing.assert_allclose(expected, exact, atol=1e-6)
    assert steps == "frozen" or np.abs(exact).max() > 1e-3


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("update.window=0", "update.window: 0 is not allowed; allowed: a whole number ≥ 1"),
        ("update.drop_last=2", "update.drop_last: 2 is not allowed"),
        ("update.optimiser_steps=one", "update.optimiser_steps: 'one' is not allowed; allowed: minibatch | frozen |"),
    ],
)
def test_a_mistake_is_named(override, says):
    with pytest.raises(ConfigError) as wrong:
        study(POST, override)
    assert str(wrong.value).startswith(says)


@pytest.mark.parametrize("variant", ["published_1", "published_2", "corrected"])
def test_a_reader_can_run_it(variant, tmp_path):
    """The README's command at tiny scale, from the top of the repository."""
    summary = tiny_run(tmp_path, f"+variant={variant}", "num_updates=20")
    assert (summary["variant"], summary["status"], summary["updates"]) == (variant, "completed", 20)


def test_an_interrupted_study_goes_on(tmp_path):
    """`pgx.resume` asks for the study's configuration, which no folder decides; the rows are those of one run."""
    once, twice = tmp_path / "once", tmp_path / "twice"
    tiny_run(once, "+variant=published_2", "num_updates=30")
    tiny_run(twice, "+variant=published_2", "num_updates=20")
    resume = "-m", "pgx.resume", str(twice), "num_updates=30"
    refused = python(*resume)
    assert refused.returncode == 2 and "--config-dir" in refused.stderr
    more = python(*resume, "--config-dir", str(ROOT / "experiments/published_collapse/conf"))
    assert more.returncode == 0, more.stderr
    assert (twice / "metrics.csv").read_bytes() == (once / "metrics.csv").read_bytes()


def tiny_run(folder: Path, *overrides: str) -> dict:
    sizes = "checkpoint_every=10", "updates_per_chunk=10", "tracker=none"
    done = python("-m", "pgx.run", STUDY.format(""), *overrides, *sizes, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "run.json").read_text())


def python(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=200)


def test_the_whole_study_at_tiny_scale(tmp_path):
    """One command from the runs to the tables and pictures; what has not been run is left out and named."""
    runs, results = tmp_path / "runs", tmp_path / "results"
    study = "-m", "experiments.published_collapse", "--folder", str(runs), "--results", str(results), "--seeds", "3"
    sizes = "num_updates=300", "checkpoint_every=100", "updates_per_chunk=100", "hydra.launcher.processes=1"
    done = python(*study, "--only", "published", "--overrides", *sizes)
    assert done.returncode == 0, done.stderr
    done = python(*study, "--only", "report")
    assert done.returncode == 0, done.stderr
    assert "left out: " in done.stdout and "window_16: no such folder" in done.stdout
    with open(results / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["part"], row["seed"]) for row in rows] == [
        (part, seed) for part in ("published", "interventions") for seed in "012"
    ]
    assert {row["episodes"] for row in rows} == {"300"}
    for name in ("published", "interventions", "beside"):
        assert (results / f"{name}.png").stat().st_size > 10_000

    from experiments.published_collapse.estimator import FORMS, measure

    found = measure(runs / "published" / "as_published" / "0", 200, episodes=100, reference=100, walks=3)
    snr = found[found["metric"] == "SNR"].set_index("variant")
    assert set(FORMS) < set(snr.index) and np.isfinite(snr["estimate"]).all()
    # Ψ = G_t in both, of which one counts an episode's last steps and a mean over four: nearly one direction
    same = found[found["metric"] == "cosine of the means, as they are"].set_index("variant")["estimate"]
    assert same["correct: reward-to-go"] == pytest.approx(same["drop_last"], abs=0.1)


def test_pytorch_is_asked_for_or_learns(tmp_path):
    """An extra of this study alone: without it, one line says what to do."""
    from experiments.published_collapse.pytorch import NEEDED, train

    try:
        import torch  # noqa: F401
    except ImportError:
        with pytest.raises(SystemExit, match="PyTorch is needed"):
            train(tmp_path / "run", 0, False, 100, 1000)
        assert "pip install" in NEEDED
    else:
        train(tmp_path / "run", 0, False, 3, 1000)
        assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 4


def test_every_part_has_a_colour_in_the_forest_plot():
    """Or hours of runs end in a KeyError."""
    from experiments.published_collapse.interventions import PARTS
    from experiments.published_collapse.report import COLOURS

    assert {*PARTS, "torch"} - {"published"} <= set(COLOURS)
