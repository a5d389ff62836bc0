"""How often intervals hold the truth, by simulation: sweeps of 5, 10 and 30 runs from distributions that are known.

`pytest -m slow -s tests/analysis/test_coverage.py` prints the tables. Nominal is 95 %.
"""

import numpy as np
import pytest
from run_folders import made_scores
from scipy import stats

from analysis.aggregates import Bootstrap, improvement_along, interval, iqm, mean
from analysis.compare import Comparison, differences

pytestmark = pytest.mark.slow

SWEEPS = 2000
DRAW = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "skewed": lambda rng, shape: rng.lognormal(size=shape),
    # eight of ten runs solve it, the others collapse
    "bimodal": lambda rng, shape: np.where(
        rng.random(shape) < 0.8, rng.normal(480, 10, shape), rng.normal(50, 20, shape)
    ),
}
EXPECTED = {3: (0.60, 0.86), 5: (0.75, 0.95), 10: (0.87, 0.97), 30: (0.91, 0.97)}
"""Per number of runs; the mean of a skewed or bimodal distribution is the hard case."""


def coverage(draw, statistic, n: int) -> float:
    """Share of sweeps of n runs whose interval holds the statistic of the whole distribution.

    Every column is a sweep. They share the resampling's indices, which the draws know nothing about.
    """
    rng = np.random.default_rng(0)
    truth = statistic(draw(rng, 2_000_000), axis=0)
    lo, hi = interval([draw(rng, (n, SWEEPS))], statistic, Bootstrap(n_boot=1000))
    return float(((lo <= truth) & (truth <= hi)).mean())


def test_intervals_cover():
    print("\n| distribution | statistic | " + " | ".join(f"n = {n}" for n in EXPECTED) + " |")
    print("|---|---|" + "---|" * len(EXPECTED))
    wrong = []
    for name, draw in DRAW.items():
        for statistic in (iqm, mean):
            held = {n: coverage(draw, statistic, n) for n in EXPECTED}
            print(f"| {name} | {statistic.__name__} | " + " | ".join(f"{x:.3f}" for x in held.values()) + " |")
            wrong += [(name, statistic.__name__, n, x) for n, x in held.items() if not _plausible(name, n, x)]
    assert not wrong


def _plausible(name: str, n: int, held: float) -> bool:
    low, high = EXPECTED[n]
    return (low if name == "normal" else low - 0.2) <= held <= high + 0.02


@pytest.mark.parametrize("n", [5, 10, 30])
def test_probability_of_improvement_covers(n: int):
    """P(X > Y) of two normal distributions a standard deviation apart is Φ(1/√2) = .76."""
    rng = np.random.default_rng(1)
    truth = stats.norm.cdf(1 / np.sqrt(2))
    samples = ([rng.normal(1, 1, n), rng.normal(size=n)] for _ in range(500))
    ends = [interval(pair, improvement_along, Bootstrap(n_boot=500)) for pair in samples]
    held = np.mean([lo <= truth <= hi for lo, hi in ends])
    print(f"\nprobability of improvement, n = {n}: {held:.3f}")
    assert (0.80 if n == 5 else 0.88) <= held <= 0.99


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("n", [5, 10, 30])
def test_false_positive_rate(name: str, n: int):
    """The same distribution twice: p ≤ .05 in at most 5 % of sweeps, and noise (3 standard errors)."""
    rng, sweeps = np.random.default_rng(2), 500
    spec = Comparison(n_boot=5, n_permutations=499)
    draws = DRAW[name](rng, (sweeps, 2, n))
    p = np.array([differences(made_scores({"a": x, "b": y}), "r", spec)["p"].item() for x, y in draws])
    print(f"\n{name}, n = {n}: {(p <= 0.05).mean():.3f} of p ≤ .05")
    assert (p <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / sweeps)
