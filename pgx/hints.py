"""Hints for a mistyped key: other programs' names for it, or the nearest spelling."""

from collections.abc import Iterable
from difflib import SequenceMatcher

_NEAR = 0.65
"""The least likeness of a suggestion, from 0 to 1: a far-fetched one misleads."""

_PARTS = {
    "optimizer": "optimiser", "optim": "optimiser", "opt": "optimiser",
    "lr": "learning_rate", "step_size": "learning_rate", "beta1": "b1", "beta2": "b2", "epsilon": "eps",
    "max_grad_norm": "clip_norm", "grad_clip": "clip_norm", "clip": "clip_norm", "scheduler": "schedule",
    "hidden_size": "width", "hidden_dim": "width", "num_layers": "depth", "layers": "depth",
    "lambda": "lam", "lambda_": "lam", "gae_lambda": "lam", "discount": "gamma",
    "environment": "env", "value": "critic", "vf": "critic", "actor": "policy",
    "num_envs": "num_lanes", "n_envs": "num_lanes", "max_episode_steps": "max_steps", "time_limit": "max_steps",
}  # fmt: skip
"""Other names for one part of a dotted key."""

_KEYS = {
    "learning_rate": "optimiser.learning_rate", "clip_norm": "optimiser.clip_norm", "lam": "estimator.lam",
    "batch_size": "episodes_per_update", "batch": "episodes_per_update", "num_episodes": "episodes_per_update",
    "n_steps": "steps_per_update", "batch_steps": "steps_per_update", "steps_per_batch": "steps_per_update",
    "steps_per_epoch": "steps_per_update", "rollout_length": "steps_per_update",
    "total_timesteps": "num_env_steps", "timesteps": "num_env_steps", "num_steps": "num_env_steps",
    "steps": "num_env_steps", "budget": "num_env_steps", "updates": "num_updates", "epochs": "num_updates",
    "num_iterations": "num_updates", "iterations": "num_updates",
    "ent_coef": "entropy_coefficient", "entropy": "entropy_coefficient", "entropy_coeff": "entropy_coefficient",
    "normalize": "whiten", "normalise": "whiten", "normalize_advantages": "whiten", "norm_adv": "whiten",
    "bootstrap": "bootstrap_truncated", "algo": "variant", "algorithm": "variant", "agent": "variant",
    "env_id": "env.id", "env_name": "env.id", "num_lanes": "env.num_lanes", "max_steps": "env.max_steps",
    "env_kwargs": "env.kwargs", "width": "policy.width", "depth": "policy.depth", "activation": "policy.activation",
    "network": "policy", "net_arch": "policy.width", "baseline": "critic", "wandb": "tracker", "logger": "tracker",
    "track": "tracker", "project": "tracker.project", "num_threads": "xla_threads", "threads": "xla_threads",
    "save_freq": "checkpoint_every", "output_dir": "hydra.run.dir", "log_dir": "hydra.run.dir", "out": "hydra.run.dir",
}  # fmt: skip
"""Other names for a whole key."""

_DEVICE = ("device", "gpu", "cuda", "cpu", "accelerator", "platform")


def hint_for(key: str, known: Iterable[str]) -> str | None:
    """The hint what to type instead, if `key` is near to one of the `known` keys."""
    if key.lower() in _DEVICE:
        return "JAX takes an accelerator if it finds one (docs/accelerators.md); the environment variable JAX_PLATFORMS=cpu keeps it off"
    near = _nearest(key, list(known))
    return near and f"did you mean {near!r}?"


def _nearest(key: str, known: list[str]) -> str | None:
    spelt = ".".join(_PARTS.get(part, part) for part in key.lower().replace("-", "_").split("."))
    if spelt in known or spelt in _KEYS:
        return _KEYS.get(spelt, spelt)
    best = max(known, key=lambda candidate: _likeness(spelt, candidate))
    return best if _likeness(spelt, best) >= _NEAR else None


def _likeness(key: str, candidate: str) -> float:
    """The likeness of two keys: of the last parts or of what comes before them, whichever is less: a common group alone
    is no likeness."""
    (group, _, name), (other_group, _, other) = key.rpartition("."), candidate.rpartition(".")
    likeness = SequenceMatcher(None, name, other).ratio()
    if group == other_group:
        return likeness
    if not group or other_group.startswith(f"{group}."):  # `critic.learning_rate`, of its optimiser
        return likeness - 0.1
    return min(likeness, SequenceMatcher(None, group, other_group).ratio())
