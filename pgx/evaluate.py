"""What is the trained policy worth? `python -m pgx.evaluate RUN_DIR` plays fresh episodes and prints their return.

The episodes come from a random stream of the run's seed that training does not touch: none of them was
trained on, and the same command gives the same number again. Nothing in the run's folder is written.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pgx.config import whole
from pgx.runs.restore import Arguments, read_as, read_run, short_errors, title, trained

COMPILED_LANES, HOST_LANES = 1000, 64
"""The most episodes side by side. More are played batch after batch, so that memory does not grow with N."""


def evaluate(
    folder: Path, config: dict[str, Any], *, episodes: int, greedy: bool = False, best: bool = False
) -> tuple[int, np.ndarray]:
    """(the checkpoint's update, undiscounted return of each episode). Raises what `trained` raises."""
    on_host = "num_lanes" in config["env"]
    batches = math.ceil(episodes / (HOST_LANES if on_host else COMPILED_LANES))
    lanes = math.ceil(episodes / batches)
    env, policy, key, update = trained(folder, config, best=best, num_lanes=lanes if on_host else None)

    import equinox as eqx
    import jax

    from pgx.rollout import HostRollout, rollout

    if on_host:
        play = HostRollout(env, lanes, greedy=greedy)
    else:
        play = partial(eqx.filter_jit(rollout), env, num_episodes=lanes, greedy=greedy)
    returns = [play(policy, jax.random.fold_in(key, batch)).reward.sum(0) for batch in range(batches)]
    # whole lanes are left out, whatever became of them: to drop the episodes that end last would be a bias
    return update, np.concatenate(returns).astype(np.float64)[:episodes]


def describe(returns: np.ndarray) -> str:
    """Mean ± sd (n−1) and range."""
    if len(returns) == 1:
        return f"return {returns[0]:.4g} in 1 fresh episode"
    spread = f"{returns.mean():.4g} ± {returns.std(ddof=1):.4g}"
    return f"return {spread} (mean ± sd of {len(returns):,} fresh episodes), {returns.min():g} to {returns.max():g}"


def main(arguments: Sequence[str] | None = None) -> None:
    with short_errors():
        parser = Arguments("evaluate", __doc__)
        parser.add_argument("--episodes", metavar="N", type=read_as(whole(1)), default=100, help="how many (default: 100)")
        parser.choose_policy()
        chosen, typed = parser.read(arguments)
        summary = read_run(chosen.folder, typed)
        update, returns = evaluate(
            chosen.folder, summary["config"], episodes=chosen.episodes, greedy=chosen.greedy, best=chosen.best
        )
        print(f"{title(summary, update, greedy=chosen.greedy)}: {describe(returns)}")


if __name__ == "__main__":
    main()
