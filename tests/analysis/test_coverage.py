"""How often intervals hold the truth, by simulation: sweeps of 5, 10 and 30 runs from distributions that are known.

`pytest -m slow -s tests/analysis/test_coverage.py` prints the tables. Nominal is 95 %.
"""

import numpy as np
import pandas as pd
import pytest
from run_folders import made_scores

from analysis.hygiene import FALSE_CLEAR
from analysis.power import seeds_for, shift_of
from analysis.results import row, table
from analysis.statistics.aggregates import Bootstrap, improvements, interval, iqm, mean, proportion
from analysis.statistics.compare import Comparison, collapse_tests, concluded, differences
from analysis.statistics.ranks import improvement_interval, improvement_p, probability_of_improvement
from analysis.statistics.survival import restricted_ratios

pytestmark = pytest.mark.slow

SWEEPS = 2000
DRAW = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "skewed": lambda rng, shape: rng.lognormal(size=shape),
    # eight of ten runs solve it, the others collapse
    "bimodal": lambda rng, shape: np.where(rng.random(shape) < 0.8, rng.normal(480, 10, shape), rng.normal(50, 20, shape)),
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


def normal(shift: float, spread: float = 1.0):
    return lambda rng, shape: (rng.normal(shift, 1, shape), rng.normal(0, spread, shape))


def halves(rng, shape):
    """One run of ten fails, against half of them."""
    good, bad = rng.normal(480, 10, (2, *shape)), rng.normal(50, 10, (2, *shape))
    failed = rng.random((2, *shape)) < np.array([0.1, 0.5])[:, None, None]
    return tuple(np.where(failed, bad, good))


def censored(never: tuple[float, float], later: float):
    """Minus the time to the threshold; −∞ for who never gets there."""

    def draw(rng, shape):
        times = rng.lognormal(0, 0.5, (2, *shape)) * np.exp(np.array([0, later]))[:, None, None]
        return tuple(np.where(rng.random((2, *shape)) < np.array(never)[:, None, None], -np.inf, -times))

    return draw


PAIRS = {
    "one σ apart": normal(1),
    "two σ apart": normal(2),
    "five times as wide": normal(0, 5),
    "halves": halves,
    "censored": censored((0.2, 0.5), 0.3),
    "capped": lambda rng, shape: (np.minimum(500, rng.normal(510, 30, shape)), np.minimum(500, rng.normal(490, 30, shape))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_probability_of_improvement_covers(name: str):
    """Rather too wide than too narrow, from 3 runs on, and never a point."""
    rng, draw = np.random.default_rng(1), PAIRS[name]
    truth = probability_of_improvement(*draw(rng, (1, 20_000)))[0]
    for n in (3, 5, 10, 20, 30):
        lo, hi = improvement_interval(*draw(rng, (SWEEPS, n)))
        held = np.mean((lo <= truth) & (truth <= hi))
        print(f"\nP(improvement) = {truth:.2f}, {name}, n = {n}: {held:.3f}", end="")
        assert held >= 0.93 and (hi > lo).all(), n


# A claim where there is nothing to claim, through what the report uses

EQUAL = {"scores": lambda rng, n: rng.lognormal(size=(2, n)), "half never get there": lambda rng, n: np.where(
    rng.random((2, n)) < 0.5, -np.inf, -rng.lognormal(size=(2, n)))}  # fmt: skip
SEVERAL = 300


def limit(sweeps: int, share: float = 0.05) -> float:
    """And noise: 3 standard errors."""
    return share + 3 * np.sqrt(share * (1 - share) / sweeps)


def by_rank(x: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    rows = improvements(made_scores({"a": x, "b": y}), "r", n_permutations=1000)
    n = dict(n_a=len(x), n_b=len(y), absent_a=0.0, absent_b=0.0)
    return rows[rows["a"] == "a"].assign(test="ranks", null=0.5, against=False, equal=False, **n)


@pytest.mark.parametrize("name", EQUAL)
@pytest.mark.parametrize("n", [5, 10, 30])
def test_false_claims_by_rank(name: str, n: int):
    """Two equal variants: of times to the threshold or of final scores."""
    rng = np.random.default_rng(2)
    clear = [concluded(by_rank(*EQUAL[name](rng, n)))["conclusive"].item() for _ in range(SEVERAL)]
    print(f"\n{name}, n = {n}: {np.mean(clear):.3f} clear")
    assert np.mean(clear) <= limit(SEVERAL)


@pytest.mark.parametrize("n", [5, 10, 30])
def test_false_claims_where_pairs_are_made_if_that_gains(n: int):
    """Whether seeds are correlated is read off the same scores."""
    rng, clear, spec = np.random.default_rng(3), [], Comparison(paired=None, n_boot=10, n_permutations=1000)
    for x, y in EQUAL["scores"](rng, n * SEVERAL).reshape(2, SEVERAL, n).swapaxes(0, 1):
        rows = by_rank(x, y)
        effect = differences(made_scores({"a": x, "b": y}), "r", spec).iloc[0]
        if effect["paired"]:
            rows = rows.assign(test="signs", null=0.0, **{name: effect[name] for name in ("estimate", "lo", "hi", "p")})
        clear.append(concluded(rows)["conclusive"].item())
    print(f"\nn = {n}: {np.mean(clear):.3f} clear")
    assert np.mean(clear) <= limit(SEVERAL)


@pytest.mark.parametrize("n", [5, 10, 30])
def test_false_claims_of_shares(n: int):
    """A third of the runs collapses in both."""
    rng, clear = np.random.default_rng(4), []
    for counts in rng.binomial(n, 1 / 3, (SEVERAL, 2)):
        rows = [row("variant", name, "e", "share", *proportion(int(k), n), n_runs=n, collapsed=int(k), missing=0.0)
                for name, k in zip("ab", counts, strict=True)]  # fmt: skip
        clear.append(concluded(collapse_tests(table(rows)))["conclusive"].item())
    print(f"\nn = {n}: {np.mean(clear):.3f} clear")
    assert np.mean(clear) <= limit(SEVERAL)


@pytest.mark.parametrize("n", [10, 30])
def test_false_claims_of_equality(n: int):
    """Restricted means that differ by just as much as is of interest, 5 %: called equal in at most 5 % of sweeps."""
    rng, equal = np.random.default_rng(5), []
    for _ in range(SEVERAL):
        x, y = rng.lognormal(0, 0.05, (2, n)) * np.array([[1.05], [1.0]])
        times = pd.DataFrame({"variant": ["a"] * n + ["b"] * n, "env": "e", "time": np.concatenate([x, y]), "reached": True,
                              "cut_short": False})  # fmt: skip
        found = restricted_ratios(times, 9.0, Bootstrap(n_boot=400)).iloc[0]
        equal.append(found["lo"] >= 1 / 1.05 and found["hi"] <= 1.05)
    print(f"\nn = {n}: {np.mean(equal):.3f} called equal")
    assert np.mean(equal) <= limit(SEVERAL)


def test_looking_again():
    """Two equal variants, looked at with 10, 20, 30, 40 and 50 seeds: how often one is called better at some look."""
    rng, sweeps = np.random.default_rng(0), 400
    x, y = rng.lognormal(size=(2, sweeps, 50))
    clear = np.zeros((sweeps, 5), bool)
    for look in range(5):
        n = 10 * (look + 1)
        lo, hi = improvement_interval(x[:, :n], y[:, :n])
        for i in np.flatnonzero((lo > 0.5) | (hi < 0.5)):
            clear[i, look] = improvement_p(x[i, :n], y[i, :n], 1000) <= 0.05
    for looks, found in enumerate(np.maximum.accumulate(clear, axis=1).mean(0), start=1):
        print(f"\n{looks} looks: {found:.3f}", end="")
        assert abs(found - FALSE_CLEAR[looks]) <= 3 * np.sqrt(FALSE_CLEAR[looks] / sweeps)


@pytest.mark.parametrize("probability", [0.7, 0.85])
def test_the_seeds_that_are_told_give_the_power_that_was_asked_for(probability: float):
    n = int(seeds_for(probability, 0.8, sweeps=200))
    rng = np.random.default_rng(7)  # other draws than those by which n was found
    clear = [concluded(by_rank(rng.normal(shift_of(probability), 1, n), rng.normal(size=n)))["conclusive"].item()
             for _ in range(200)]  # fmt: skip
    print(f"\nP = {probability}: {n} seeds, power {np.mean(clear):.3f}")
    assert abs(np.mean(clear) - 0.8) < 0.1
