"""The identity of a run: every key that decides its results, with its value. Runs of one identity are one run."""

from collections.abc import Iterator
from typing import Any

OPERATIONAL = ("tracker", "checkpoint_every", "checkpoints_kept", "updates_per_chunk")
"""Keys that do not change a run's results. They are no part of its identity."""

BUDGET = ("num_env_steps", "num_updates", "stop_when_solved")
"""Keys that only say when a run ends: an interrupted run may be continued with a larger budget."""

NEUTRAL = {
    "steps_per_update": None,
    "max_episodes_per_update": None,
    "group_size": None,
    "aggregation": "sum",
    "evaluate_every": None,
    "evaluate_episodes": 10,
    "evaluate_greedy": False,
    "scale_observations": False,
    "reward_scale": 1.0,
    "critic.standardise_target": False,
    "env.bound": "clip",
    "policy.std": 1.0,
    "policy.log_std_floor": -5.0,
    "policy.state_dependent_std": False,
    "policy.last_layer_scale": 0.01,
    "policy.clipped_score": False,
}
"""Keys that a run of an earlier version does not have → the value with which they change nothing of what it did. With it
they are no part of an identity, so that such a run can be resumed. A new key belongs here, unless that value is None."""

COUNTED_WHEN_NONE = (
    "num_env_steps", "num_updates", "max_steps", "reward_threshold", "clip_norm", "decay_steps", "minibatch_steps",
)  # fmt: skip
"""Last words of keys that are part of an identity also where they are None, as they have always been. No key is to be
added: any other is left out while it is None."""


def identity(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted key → value of everything that decides a run's results."""
    return {
        path: node[key]
        for path, node, key in leaves(config)
        if path.split(".")[0] not in OPERATIONAL
        and (node[key] is not None or key in COUNTED_WHEN_NONE)
        and not (path in NEUTRAL and node[key] == NEUTRAL[path])
    }


def leaves(node: dict[str, Any], prefix: str = "", *, empty: bool = False) -> Iterator[tuple[str, dict, str]]:
    """(dotted path, the dict that holds it, its key) of every value; an `empty` dict may be one."""
    for key in list(node):
        if isinstance(node[key], dict) and (node[key] or not empty):
            yield from leaves(node[key], f"{prefix}{key}.", empty=empty)
        else:
            yield f"{prefix}{key}", node, key
