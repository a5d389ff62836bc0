"""Fresh episodes of a policy, or of the run that trained it.

jax is imported when episodes are played, so that a wrong command line is answered at once.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from pgx.envs.checks import on_host
from pgx.runs.restore import trained

COMPILED_LANES, HOST_LANES = 1000, 64
"""The most episodes side by side. More are played batch after batch, so that memory does not grow with N."""


def with_lanes(env: dict[str, Any], episodes: int) -> tuple[dict[str, Any], int]:
    """(the environment's part of a configuration, for so many episodes; how many of them are played side by side)."""
    host = on_host(env)
    batches = math.ceil(episodes / (HOST_LANES if host else COMPILED_LANES))
    lanes = math.ceil(episodes / batches)
    return (env | {"num_lanes": lanes} if host else env), lanes


def of_run(
    folder: Path, config: dict[str, Any], *, episodes: int, greedy: bool = False, best: bool = False, seed: int | None = None
) -> tuple[int, np.ndarray]:
    """(the checkpoint's update, undiscounted return of each episode). `seed`: if not the run's. Raises what `trained`
    raises."""
    played, lanes = with_lanes(config["env"], episodes)
    env, policy, key, update = trained(folder, config, best=best, num_lanes=lanes if on_host(played) else None)
    if seed is not None:
        from pgx.loop import Keys

        key = Keys.of_seed(seed).evaluate
    return update, play(env, policy, key, episodes=episodes, lanes=lanes, greedy=greedy)


def play(env: Any, policy: Callable, key: Any, *, episodes: int, lanes: int, greedy: bool) -> np.ndarray:
    """The undiscounted return of each episode, `lanes` of them at a time."""
    import jax

    from pgx.envs.base import HostEnv
    from pgx.rollout import HostRollout, rollout

    if isinstance(env, HostEnv):
        batch = HostRollout(env, lanes, greedy=greedy)
    else:
        batch = partial(_compiled(rollout), env, num_episodes=lanes, greedy=greedy)
    batches = math.ceil(episodes / lanes)
    returns = [batch(policy, jax.random.fold_in(key, number)).reward.sum(0) for number in range(batches)]
    # whole lanes are left out, however they ended: to drop the episodes that end last would be a bias
    return np.concatenate(returns).astype(np.float64)[:episodes]


@cache  # the runs of a sweep share a program
def _compiled(function: Callable) -> Callable:
    import equinox as eqx

    return eqx.filter_jit(function)
