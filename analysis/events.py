"""What happens during a run: drawdown episodes, collapses, dead policies; and what became of every run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis.align import runs_of, smooth
from analysis.reliability import drawdown
from analysis.results import row, table

COLUMNS = ("run_id", "kind", "start", "peak", "trough", "end", "depth", "recovered")
"""Steps are env steps: `start` the first one below, `peak` of the maximum before, `trough` of the minimum, `end` of the
recovery, or the last step if there was none. `depth` is in units of the metric."""
MORE = ("relative_depth", "duration", "peak_value", "trough_value")
"""`relative_depth` is depth / (peak − starting score), NaN if that is 0; `duration` from start to end, in env steps."""

OUTCOMES = ("failed", "diverged", "unfinished", "collapsed", "dead", "never learned", "dipped", "learned")
"""A run has the first of these that is true of it; an `unfinished` one may still become anything."""

Threshold = float | Mapping[str, float]
"""One for all runs, or one a run_id: `dict(zip(runs.run_id, runs.reward_threshold))`."""


@dataclass(frozen=True)
class Collapse:
    """When a fall counts as a collapse. Shares are of the way up from the run's `base`: 0 for returns that start at or
    above it (so that `fall` is the share of the peak itself), otherwise the first return, as with −500 … 0.

    `level`: what the smoothed return must have reached, a share of the threshold; `fall`: what it then falls below, a
    share of its running peak, for at least `points` points; `back`: what ends the collapse; `smoothing`: points of the
    trailing mean; 1 takes the curve as it is.
    """

    level: float = 0.8
    fall: float = 0.5
    points: int = 3
    back: float = 0.9
    smoothing: int = 5


def drawdowns(curves: pd.DataFrame) -> pd.DataFrame:
    """Every maximal stretch with DD > 0 (kind `drawdown`); recovered when the peak is reached again; without NaN."""
    rows = []
    for run in runs_of(curves):
        t, y = _known(run)
        below = drawdown(y) > 0
        edges = np.flatnonzero(np.diff(below, prepend=False, append=False))
        for start, end in zip(edges[::2], edges[1::2], strict=True):  # [start, end) is below
            rows.append(_event(run["run_id"].iloc[0], "drawdown", t, y, start, end))
    return _events(rows)


def collapses(curves: pd.DataFrame, threshold: Threshold, spec: Collapse = Collapse()) -> pd.DataFrame:
    """Kind `collapse`, or `catastrophic` where the run ends before it is back; a run may have several.

    After the smoothed return reached the level, it falls below a share of its running peak and stays there. `recovered`
    means back at the share `back` of the peak. A threshold that is NaN gives no events.
    """
    rows = []
    for run in runs_of(smooth(curves, spec.smoothing)):
        t, y = _known(run)
        if not len(y):
            continue
        base = min(0.0, y[0])
        peak = np.maximum.accumulate(y)
        reached = peak >= base + spec.level * (_of(threshold, run["run_id"].iloc[0]) - base)
        down = reached & (y < base + spec.fall * (peak - base))
        i = 0
        while (start := _first_streak(down, i, spec.points)) is not None:
            back = base + spec.back * (peak[start] - base)
            again = np.flatnonzero(y[start:] >= back)
            end = start + again[0] if len(again) else len(y)
            kind = "collapse" if len(again) else "catastrophic"
            rows.append(_event(run["run_id"].iloc[0], kind, t, y, start, end))
            i = end
    return _events(rows)


def _first_streak(true: np.ndarray, start: int, length: int) -> int | None:
    """Index, from `start` on, where the first run of `length` true values in a row begins."""
    count = 0
    for i in range(start, len(true)):
        count = count + 1 if true[i] else 0
        if count == length:
            return i - length + 1
    return None


def dead(gradient_norms: pd.DataFrame, points: int = 10, tiny: float = 1e-6) -> pd.DataFrame:
    """Policies that have stopped moving: the gradient norm is ≤ `tiny` or not finite at every one of the last points,
    at least `points` of them (kind `dead`, from `start` to the end).

    A policy can also stop because it is perfect, so `outcomes` counts only those whose return is low. `peak`, `trough`
    and `depth` do not apply and are NaN.
    """
    rows = []
    for run in runs_of(gradient_norms):
        t, norm = run["env_steps"].to_numpy(float), run["value"].to_numpy(float)
        moving = np.flatnonzero(np.isfinite(norm) & (norm > tiny))
        start = moving[-1] + 1 if len(moving) else 0
        if len(t) - start >= points:
            nothing = dict.fromkeys(("peak", "trough", "depth", *MORE), np.nan)
            event = {"run_id": run["run_id"].iloc[0], "kind": "dead", "start": t[start], "end": t[-1]}
            rows.append(nothing | event | {"duration": t[-1] - t[start], "recovered": False})
    return _events(rows)


def outcomes(
    runs: pd.DataFrame, curves: pd.DataFrame, events: pd.DataFrame, threshold: Threshold, spec: Collapse = Collapse()
) -> pd.DataFrame:
    """One row a run, none left out: run_id, variant, env, seed, outcome (OUTCOMES), final, collapses, folder.

    `events` are those of `collapses` and `dead`; `final` is the last smoothed return. `never learned`: the smoothed
    return never reached the level; `dipped`: it collapsed and came back.
    """
    last = {run["run_id"].iloc[0]: run for run in runs_of(smooth(curves, spec.smoothing))}
    kinds_of = events.groupby("run_id")["kind"].agg(list).to_dict()
    rows = []
    for run in runs.itertuples():
        y = _known(last[run.run_id])[1] if run.run_id in last else np.array([])
        kinds = kinds_of.get(run.run_id, [])
        base = min(0.0, y[0]) if len(y) else np.nan
        level = base + spec.level * (_of(threshold, run.run_id) - base)
        true_of_it = {
            "failed": run.status in ("failed", "broken", "missing"),
            "diverged": run.status == "diverged",
            "unfinished": run.status in ("running", "interrupted"),
            "collapsed": "catastrophic" in kinds,
            "dead": "dead" in kinds and not (len(y) and y[-1] >= level),
            "never learned": not (len(y) and y.max() >= level),
            "dipped": "collapse" in kinds,
            "learned": True,
        }
        rows.append(
            {
                "run_id": run.run_id, "variant": run.variant, "env": run.env, "seed": run.seed,
                "outcome": next(outcome for outcome in OUTCOMES if true_of_it[outcome]),
                "final": y[-1] if len(y) else np.nan,
                "collapses": kinds.count("collapse") + kinds.count("catastrophic"), "folder": run.folder,
            }
        )
    columns = ["run_id", "variant", "env", "seed", "outcome", "final", "collapses", "folder"]
    return pd.DataFrame(rows, columns=columns).astype({"seed": runs["seed"].dtype})


def collapse_shares(outcomes: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Share of a variant's runs that collapsed at least once, for good or not (extra column collapsed: how many).

    Of the runs that left a curve; Wilson's interval (Wilson 1927).
    """
    rows = []
    for (variant, env), group in outcomes.groupby(["variant", "env"]):
        seen = group[group["final"].notna()]
        n, k = len(seen), int((seen["collapses"] > 0).sum())
        share, lo, hi = np.nan, np.nan, np.nan
        if n:
            share, ends = k / n, stats.binomtest(k, n).proportion_ci(level, method="wilson")
            lo, hi = max(0.0, ends.low), min(1.0, ends.high)
        missing = len(group) - n
        doubts = [f"{missing} of {len(group)} runs have no curve" if missing else "", "" if n else "no curves"]
        rows.append(
            row(
                "variant",
                variant,
                env,
                "share of runs that collapsed",
                share,
                lo,
                hi,
                level=level,
                method="Wilson",
                n_runs=n,
                warning=doubts,
                collapsed=k,
            )
        )
    return table(rows, "collapsed")


def _of(threshold: Threshold, run_id: str) -> float:
    return threshold[run_id] if isinstance(threshold, Mapping) else threshold


def _known(run: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Env steps and values where there is a value."""
    known = run.dropna(subset="value")
    return known["env_steps"].to_numpy(float), known["value"].to_numpy(float)


def _event(run_id: str, kind: str, t: np.ndarray, y: np.ndarray, start: int, end: int) -> dict[str, Any]:
    """The stretch [start, end); `end` is past the last point if there was no recovery."""
    peak = int(np.argmax(y[:start]))
    trough = start + int(np.argmin(y[start:end]))
    ends_at = t[min(end, len(t) - 1)]
    depth, climb = y[peak] - y[trough], y[peak] - y[0]
    return {
        "run_id": run_id, "kind": kind, "start": t[start], "peak": t[peak], "trough": t[trough], "end": ends_at,
        "depth": depth, "recovered": end < len(t), "relative_depth": depth / climb if climb > 0 else np.nan,
        "duration": ends_at - t[start], "peak_value": y[peak], "trough_value": y[trough],
    }


def _events(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *MORE])
    numbers = [name for name in frame if name not in ("run_id", "kind", "recovered")]
    return frame.astype(dict.fromkeys(numbers, "float64") | {"run_id": "str", "kind": "str", "recovered": "bool"})
