"""Does one variant differ from another, by how much, and how sure is that?"""

from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """`paired`: by seed, only where randomness is really shared."""

    statistic: str = "iqm"
    paired: bool = False
    level: float = 0.95
    n_boot: int = 2000
    n_permutations: int = 9999
    rng_seed: int = 0


def differences(scores: pd.DataFrame, metric: str, spec: Comparison = Comparison()) -> pd.DataFrame:
    """A row for every pair of variants and env (scope `comparison`, extra columns a, b, p): a's minus b's."""
    raise NotImplementedError


def adjust(results: pd.DataFrame, method: str = "holm") -> pd.DataFrame:
    """The same with a column p_adjusted over the whole family: `holm`, or `by` for Benjamini–Yekutieli."""
    raise NotImplementedError


def effect_sizes(scores: pd.DataFrame, metric: str, spec: Comparison = Comparison()) -> pd.DataFrame:
    """Hedges' g and Cliff's δ of every pair (scope `comparison`, extra columns a, b)."""
    raise NotImplementedError


def seeds_needed(scores: pd.DataFrame, metric: str, power: float = 0.8, alpha: float = 0.05) -> pd.DataFrame:
    """Seeds a variant with which a difference as large as this one would be found (scope `comparison`)."""
    raise NotImplementedError
