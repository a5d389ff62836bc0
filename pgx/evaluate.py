"""Evaluation of a trained policy: `python -m pgx.evaluate RUN_DIR` plays fresh episodes and prints their return.

The episodes come from a random stream of the run's seed that training does not touch: none of them was
trained on, and the same command gives the same number again. Nothing in the run's folder is written.
"""

from collections.abc import Sequence

import numpy as np

from pgx.config import whole
from pgx.evaluation import of_run
from pgx.runs.restore import Arguments, read_as, read_run, short_errors, title


def describe(returns: np.ndarray) -> str:
    """The line about some returns: mean ± sd (n−1) and range."""
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
        how = {"episodes": chosen.episodes, "greedy": chosen.greedy, "best": chosen.best}
        update, returns = of_run(chosen.folder, summary["config"], **how)
        print(f"{title(summary, update, greedy=chosen.greedy)}: {describe(returns)}")


if __name__ == "__main__":
    main()
