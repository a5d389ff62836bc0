"""Curves of different runs on one grid of env steps, and one number out of a curve. Nothing is ever extrapolated."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.load import CURVES, InputError

SCORES = ("run_id", "variant", "env", "seed", "value")


def grid(curves: pd.DataFrame, points: int = 100, stop: float | None = None) -> np.ndarray:
    """Evenly spaced whole env steps, from where every run has started to `stop`.

    By default that is the last step of the run that got farthest: runs that ended before have NaN from there on. Where
    all runs had the same budget, the budget is the better `stop`. Raises InputError if there is nothing between.
    """
    ends = curves.groupby("run_id")["env_steps"].agg(["min", "max"])
    if not len(ends):
        raise InputError("no curves to align")
    first, last = ends["min"].max(), ends["max"].max() if stop is None else stop
    if not first <= last:
        raise InputError(f"no env steps between {first:,.0f}, where the last run starts, and {last:,.0f}")
    return np.unique(np.round(np.linspace(first, last, points)).astype(np.int64))


def align(curves: pd.DataFrame, steps: np.ndarray) -> pd.DataFrame:
    """Curves → curves with a row for every (run, step of the grid); NaN where a run has no value."""
    runs = runs_of(curves)
    if not runs:
        return curves[list(CURVES)]
    values = [interpolate(steps, run["env_steps"].to_numpy(), run["value"].to_numpy()) for run in runs]
    first = pd.concat([run.iloc[:1] for run in runs])
    frame = first.iloc[np.repeat(np.arange(len(runs)), len(steps))]
    frame = frame.assign(env_steps=np.tile(steps, len(runs)), value=np.concatenate(values))
    return frame[list(CURVES)].reset_index(drop=True)


def interpolate(at: np.ndarray, t: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The last y at or before other steps, t increasing; NaN before t[0] and after t[−1]. A NaN of y stays one."""
    at = np.asarray(at, float)
    if not len(t):
        return np.full(len(at), np.nan)
    before = np.clip(np.searchsorted(t, at, side="right") - 1, 0, None)
    return np.where((at >= t[0]) & (at <= t[-1]), y[before], np.nan).astype(float)


def runs_of(curves: pd.DataFrame) -> list[pd.DataFrame]:
    """One table a run, in the order in which they come, each by env steps."""

    def in_order(run: pd.DataFrame) -> pd.DataFrame:
        return run if run["env_steps"].is_monotonic_increasing else run.sort_values("env_steps", kind="stable")

    return [in_order(run) for _, run in curves.groupby("run_id", sort=False)]


def matrix(aligned: pd.DataFrame) -> np.ndarray:
    """[runs, points] of curves that are on one grid, in the order of the runs."""
    wide = aligned.pivot(index="run_id", columns="env_steps", values="value")
    return wide.loc[aligned["run_id"].drop_duplicates()].to_numpy()


def score_when(curves: pd.DataFrame, env_steps: float) -> pd.DataFrame:
    """Curves → scores: the value after the first update that reached so many env steps, which is also where a run of
    that budget ends; NaN where the run did not get there."""
    runs = curves.drop_duplicates("run_id")[list(SCORES[:-1])]
    there = curves[curves["env_steps"] >= env_steps].sort_values("env_steps", kind="stable").drop_duplicates("run_id")
    return runs.merge(there[["run_id", "value"]], on="run_id", how="left")


def area(curves: pd.DataFrame, until: float) -> pd.DataFrame:
    """Curves → scores: the mean of the curve over its env steps up to `until`, by the trapezium rule.

    In units of the metric: the area under the curve divided by its width. NaN where the run did not get there.
    """
    rows = []
    for run in runs_of(curves):
        known = run.dropna(subset="value")
        t, y = known["env_steps"].to_numpy(float), known["value"].to_numpy(float)
        end = np.interp(until, t, y) if len(t) and t[0] <= until <= t[-1] else np.nan
        t, y = np.append(t[t < until], until), np.append(y[t < until], end)
        mean = np.trapezoid(y, t) / (t[-1] - t[0]) if len(t) > 1 else end
        rows.append([*run.iloc[0][["run_id", "variant", "env", "seed"]], mean])
    types = {name: curves[name].dtype for name in SCORES[:-1]}
    return pd.DataFrame(rows, columns=list(SCORES)).astype(types | {"value": float})


def relative_to(curves: pd.DataFrame, origin: Mapping[str, float]) -> pd.DataFrame:
    """Curves of those runs alone that have an origin, at env steps counted from it."""
    some = curves[curves["run_id"].isin(origin.keys())]
    start = some["run_id"].map(origin).astype("int64")
    return some.assign(env_steps=some["env_steps"] - start).reset_index(drop=True)


def with_all(scores: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Scores with a row for every run of `runs`, NaN where there is none, so that what comes next counts them too."""
    there = scores.set_index("run_id")["value"]
    everyone = runs[["run_id", "variant", "env", "seed"]].reset_index(drop=True)
    return everyone.assign(value=there.reindex(everyone["run_id"]).to_numpy(float))
