"""How many seeds, before the runs: how often the report would call a difference clear, by simulation of its own test.

    python -m analysis.power --probability 0.75                  # seeds each, for 80 % power and one comparison
    python -m analysis.power --difference 1.2 --comparisons 3    # of final scores, in standard deviations
    python -m analysis.power --probability 0.75 --seeds 10       # the other way round: the power of 10 seeds each
    python -m analysis.power --seeds 10                          # or the smallest P that they find with that power

Two normal distributions of equal spread stand for the runs of two variants; P is the probability that a run of the better
one is better. Only the order counts, so times to the threshold may have any distribution that a monotone transformation
makes normal. The p that is needed is the one that Holm's adjustment asks of the smallest of all pairs.
"""

import argparse
import sys
from collections.abc import Callable
from functools import cache
from math import ceil, sqrt

import numpy as np
from scipy import stats

from analysis.statistics.compare import FAMILIES, LEAST_SEEDS, needed_p, seeds_least
from analysis.statistics.ranks import PERMUTATIONS, improvement_interval, improvement_p

MOST = 500
"""Seeds each; nobody runs more."""
SWEEPS = 400
"""Simulated; a power of 80 % is then known to ± 4 points."""


def shift_of(probability: float) -> float:
    """Standard deviations between two normal distributions, so that P(X > Y) is this.

    >>> round(shift_of(0.75), 3)
    0.954
    """
    return float(sqrt(2) * stats.norm.ppf(probability))


@cache
def power(
    probability: float, seeds: int, needed: float = 0.05, level: float = 0.95, sweeps: int = SWEEPS, rng_seed: int = 0
) -> float:
    """Share of sweeps of so many seeds a variant in which the report would call the difference clear: p is at most
    `needed`, the interval excludes ½, and the difference is the right way round."""
    if seeds < LEAST_SEEDS:
        return 0.0
    permutations = min(PERMUTATIONS, max(1000, ceil(20 / needed)))
    x, y = np.random.default_rng(rng_seed).normal(size=(2, sweeps, seeds))
    x = x + shift_of(probability)
    lo, _ = improvement_interval(x, y, level)
    clear = [low > 0.5 and improvement_p(a, b, permutations) <= needed for low, a, b in zip(lo, x, y, strict=True)]
    return float(np.mean(clear))


def seeds_for(probability: float, wanted: float = 0.8, needed: float = 0.05, sweeps: int = SWEEPS) -> float:
    """Seeds each with which the difference is clear in that share of sweeps, to a twentieth of it; ∞ beyond MOST."""
    enough = lambda n: power(probability, n, needed, sweeps=sweeps) >= wanted
    z = stats.norm.ppf(1 - needed / 2) + stats.norm.ppf(wanted)
    guess = ceil(z**2 / (6 * (probability - 0.5) ** 2))  # Noether's, of the Mann–Whitney test
    low, high = LEAST_SEEDS - 1, min(MOST, max(LEAST_SEEDS, guess))
    while not enough(high):
        if high == MOST:
            return np.inf
        low, high = high, min(MOST, ceil(1.4 * high))
    return float(_first(enough, low, high, lambda low, high: high - low <= max(1, high // 20)))


def probability_for(seeds: int, wanted: float = 0.8, needed: float = 0.05, sweeps: int = SWEEPS) -> float:
    """The smallest P, to .01, that so many seeds find with that power; NaN if they find none."""
    enough = lambda percent: power(percent / 100, seeds, needed, sweeps=sweeps) >= wanted
    return _first(enough, 50, 99, lambda low, high: high - low <= 1) / 100 if enough(99) else np.nan


def _first(enough: Callable[[int], bool], low: int, high: int, close: Callable[[int, int], bool]) -> int:
    """By bisection: the first number that is enough, where `low` is not and `high` is."""
    while not close(low, high):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    probability = options.probability
    if options.difference is not None:
        probability = float(stats.norm.cdf(options.difference / sqrt(2)))
    if probability is None and options.seeds is None:
        print("analysis.power: what is to be found? --probability 0.75, --difference 1.2 or --seeds 10 says", file=sys.stderr)
        return 2
    needed = needed_p(options.comparisons, options.alpha, options.adjust)
    least = seeds_least("ranks", options.comparisons, options.alpha, options.adjust)
    many = f"{options.comparisons} comparison{'' if options.comparisons == 1 else 's'}"
    rule = f"{many} at α = {options.alpha:g} (p ≤ {needed:.2g} for the first of them)"
    if options.seeds is not None and options.seeds < least:
        print(f"{options.seeds} seeds each decide nothing with {rule}: at least {least:.0f} are needed")
    elif options.seeds is None:
        n = seeds_for(probability, options.power, needed)
        answer = f"about {n:.0f}" if np.isfinite(n) else f"more than {MOST}"
        print(f"{answer} seeds each, to find {_effect(probability)} with {options.power:.0%} power; {rule}")
    elif probability is not None:
        result = power(probability, options.seeds, needed)
        print(f"{result:.0%} power: {options.seeds} seeds each, to find {_effect(probability)}; {rule}")
    else:
        result = probability_for(options.seeds, options.power, needed)
        answer = "nothing" if np.isnan(result) else _effect(result)
        print(f"{options.seeds} seeds each find {answer} with {options.power:.0%} power; {rule}")
    return 0


def _effect(probability: float) -> str:
    return f"P(improvement) = {probability:.2f} ({shift_of(probability):.2g} standard deviations)"


def _between(low: float, high: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        x = float(text)
        if not low < x < high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return x

    return number


def whole(text: str) -> int:
    if (n := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return n


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.power",
        description="How many seeds a difference needs, asked before the runs: by simulation of the test that "
        "analysis.report uses.",
    )
    add = parser.add_argument
    effect = parser.add_mutually_exclusive_group()
    effect.add_argument("--probability", type=_between(0.5, 1), metavar="P",
        help="that a run of the better variant is better: the effect to be found")  # fmt: skip
    effect.add_argument("--difference", type=_between(0, 10), metavar="D", help="the same in standard deviations")
    add("--seeds", type=whole, metavar="N", help="a variant: what they can find, instead of how many are needed")
    add("--power", type=_between(0, 1), default=0.8, metavar="SHARE", help="of sweeps (default: 0.8)")
    add("--comparisons", type=whole, default=1, metavar="K", help="pairs in the family (default: 1; 3 variants: 3)")
    add("--alpha", type=_between(0, 1), default=0.05, help="(default: 0.05)")
    add("--adjust", choices=list(FAMILIES), default="holm", help="as the report's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
