"""What each form of the gradient estimates, at frozen policies of runs as published: Monte Carlo beside the closed forms.

At a checkpoint, K episodes a form, all forms on the same ones: g_k, the gradient that one episode alone would give, with
mean ḡ and tr Σ = Σ ‖g_k − ḡ‖² / (K − 1). Unbiased: ‖G‖² = ‖ḡ‖² − tr Σ / K, SNR = ‖G‖² / tr Σ. The cosine is with the
policy gradient of the return from other and more episodes, and both lengths in it are the unbiased ones.
"""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.flatten_util import ravel_pytree

import pgx
from analysis.results import row, table
from experiments.published_collapse.interventions import POST, RIGHT, TO_GO
from pgx.build import build, initial_state
from pgx.rollout import rollout
from pgx.runs.checkpoint import Checkpoints
from pgx.update import update

FORMS = {
    "as published": POST,
    "no drop_last": f"{POST} update.drop_last=false",
    "no drop_last, sums": f"{POST} update.drop_last=false update.average=false",
    "window 1": f"{POST} update.window=1",
    "window 2": f"{POST} update.window=2",
    "window 8": f"{POST} update.window=8",
    "window 32": f"{POST} update.window=32",
    "reward-to-go in the window": f"{POST} {TO_GO}",
    "… broadcast fixed": f"{POST} {TO_GO} update.broadcast=false",
    "true return, windows": f"{POST} estimator=vanilla update.returns=episode",
    "true reward-to-go, windows": f"{POST} estimator=reward_to_go update.returns=episode update.broadcast=false",
    "correct: reward-to-go": RIGHT,
    "correct: return": f"{RIGHT} estimator=vanilla",
    "step reward": f"{RIGHT} estimator=step_reward",
    "Ψ of a window": f"{RIGHT} update.returns=window",
    "drop_last": f"{RIGHT} update.drop_last=true",
    "broadcast over the episode": f"{RIGHT} update.window=500 update.broadcast=true",
    "mean over own steps": f"{RIGHT} update.window=500 update.average=true",
}
"""Weights of the steps of an episode; how many optimiser steps are made of them is another matter."""
REFERENCE = "correct: reward-to-go"
WALKS = {"T/4 steps": POST, "T/4 steps, frozen": f"{POST} update.optimiser_steps=frozen"}
"""What an episode's learning does to the parameters, from the checkpoint's own moments of AdamW."""
BLOCK = 50
"""Episodes that are played together."""


def configuration(overrides: str) -> dict[str, Any]:
    return pgx.configuration(*overrides.split(), config_dir=Path(__file__).parent / "conf")


def measure(run: Path, update: int, episodes: int, reference: int, walks: int) -> pd.DataFrame:
    """Results rows of one checkpoint: a row a form and measure."""
    config = configuration(POST)
    env, algorithm = build(config)
    state, keys = initial_state(config, env, algorithm)
    with Checkpoints(run / "checkpoints") as checkpoints:
        state = checkpoints.at(update, state)
    key = keys.evaluate
    algorithms = {name: build(configuration(overrides))[1] for name, overrides in FORMS.items()}
    play = eqx.filter_jit(lambda policy, key: rollout(env, policy, key, BLOCK))

    def block(chosen):
        """Of a block of episodes: (Σ g, Σ ‖g‖²) of every form, and the mean return."""
        gradients = eqx.filter_jit(lambda policy, episodes: _sums(policy, episodes, chosen))
        return lambda number: gradients(state.policy, play(state.policy, jax.random.fold_in(key, number)))

    of_all, of_reference = block(list(algorithms.values())), block([algorithms[REFERENCE]])
    blocks = [jax.device_get(of_all(i)) for i in range(episodes // BLOCK)]
    others = [jax.device_get(of_reference(10**6 + i)) for i in range(reference // BLOCK)]
    returns = np.mean([x[2] for x in blocks])
    rows = []
    truth = _Gradient.of([(x[0][0], x[1][0]) for x in others])
    for i, name in enumerate(algorithms):
        rows += _rows(name, [(x[0][i], x[1][i]) for x in blocks], truth)
    for name, overrides in WALKS.items():
        moved, kl = _walk(env, state, build(configuration(overrides))[1], key, walks)
        pairs = [(d, (d**2).sum()) for d in moved.astype(np.float64)]
        rows += _rows(name, pairs, truth, size=1)
        rows.append(_row(name, "KL of one episode's learning", kl.mean(), kl.std(ddof=1) / np.sqrt(len(kl)), len(kl)))
    return table(rows).assign(checkpoint=f"seed {run.name}, {update:,} episodes: return {returns:.0f}", mean_return=returns)


def _sums(policy, episodes, algorithms):
    """Σ_k g_k and Σ_k ‖g_k‖² over the episodes of a block, a row a form; the forms share the forward pass."""
    weights = []
    for algorithm in algorithms:
        _, share, psi, _ = algorithm.update.weights(episodes, algorithm.estimator)
        weights.append(share * psi)
    parameters, unravel = ravel_pytree(policy)  # an MLP: arrays and a function

    def score(obs, action):
        log_prob = lambda theta: unravel(theta)(obs[:, None]).log_prob(action[None])[0]
        return jax.grad(log_prob)(parameters)

    def of_episode(episode):
        obs, action, weight = episode  # weight [T, F]
        return weight.T @ jax.vmap(score)(obs, action)  # one product of matrices for all forms

    by_episode = (jnp.moveaxis(x, 1, 0) for x in (episodes.obs, episodes.action, jnp.stack(weights, -1)))
    each = jax.lax.map(of_episode, tuple(by_episode))  # [B, F, P]
    return each.sum(0), (each**2).sum((0, 2)), episodes.reward.sum(0).mean()


def _walk(env, state, algorithm, key, episodes):
    """(θ after − θ before [K, P], KL [K]) of learning from each of K episodes, always from the same state."""

    @eqx.filter_jit
    def one(state, number):
        key_ = jax.random.fold_in(key, number)
        episode = rollout(env, state.policy, key_, 1)
        new, row = update(state, episode, algorithm, key_, jnp.array(False))
        return ravel_pytree(jax.tree.map(jnp.subtract, new.policy, state.policy))[0], row["kl"]

    points = [jax.device_get(one(state, jnp.array(2 * 10**6 + i))) for i in range(episodes)]
    return np.array([d for d, _ in points]), np.array([kl for _, kl in points])


class _Gradient:
    """Mean, unbiased squared length and tr Σ from sums over blocks."""

    def __init__(self, total: np.ndarray, squares: float, n: int):
        self.mean = total / n
        raw = (self.mean**2).sum()
        self.trace = (squares - n * raw) / (n - 1)
        self.squared = raw - self.trace / n
        self.snr = self.squared / self.trace if self.trace > 0 else np.nan

    @classmethod
    def of(cls, pairs: list, size: int = BLOCK) -> "_Gradient":
        totals, squares = (np.array([x[i] for x in pairs], np.float64) for i in (0, 1))
        return cls(totals.sum(0), squares.sum(), size * len(pairs))

    def cosine(self, other: "_Gradient") -> float:
        """NaN where this sample cannot tell the gradient from 0."""
        product = self.squared * other.squared
        return self.mean @ other.mean / np.sqrt(product) if self.squared > 0 < other.squared else np.nan


def _rows(name: str, pairs: list, truth: _Gradient, size: int = BLOCK) -> list[dict]:
    """SNR and cosine with their standard errors by the jackknife over 20 groups of blocks."""
    groups = np.array_split(np.arange(len(pairs)), min(20, len(pairs)))
    whole = _Gradient.of(pairs, size)
    without = [_Gradient.of([pairs[i] for i in range(len(pairs)) if i not in set(out)], size) for out in groups]
    n = size * len(pairs)

    def error(values):
        values = np.asarray(values, float)
        return np.sqrt((len(values) - 1) / len(values) * ((values - values.mean()) ** 2).sum())

    plain = whole.mean @ truth.mean / np.sqrt((whole.mean**2).sum() * (truth.mean**2).sum()) if whole.trace > 0 else np.nan
    clear = whole.snr > 2 * error([x.snr for x in without])
    cosine, spread = (whole.cosine(truth), error([x.cosine(truth) for x in without])) if clear else (np.nan, np.nan)
    return [
        _row(name, "SNR", whole.snr, error([x.snr for x in without]), n),
        _row(name, "‖G‖", np.sqrt(max(whole.squared, 0.0)), np.nan, n),
        _row(name, "tr Σ", whole.trace, np.nan, n),
        _row(
            name,
            "cosine with the policy gradient",
            cosine,
            spread,
            n,
            "" if clear else "the gradient is not told from 0",
        ),
        _row(name, "cosine of the means, as they are", plain, np.nan, n),
    ]


def _row(name: str, metric: str, estimate: float, error: float, n: int, warning: str = "") -> dict:
    interval = (estimate - 1.96 * error, estimate + 1.96 * error)
    method = f"± 1.96 standard errors, jackknife over groups of {n} episodes" if error == error else f"{n} episodes"
    return row("form", name, "CartPole-v1", metric, estimate, *interval, level=0.95 if error == error else np.nan,
               method=method, n_runs=1, warning=warning)  # fmt: skip
