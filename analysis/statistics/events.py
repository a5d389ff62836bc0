"""What happens during a run: drawdown episodes, collapses, dead policies; what became of every run; and how many
collapsed, of those that had something to lose.

The `curves` here have a column more, as load.curves gives them: `episodes`, of which each value is the mean.

How often a policy that never changes is called collapsed, in runs of 4,000 episodes whose smoothed return is or comes to
the level (200 simulated runs each, by tests/analysis/test_properties.py): a mean of 50 cannot tell a fall from luck where
single returns are many times their mean.

    returns                                  1, 2, 5, 10 episodes an update     50     200
    500, or 0 in 5, 20 or 40 %                                          .00    .00     .00
    0 or 1000, evenly                                                   .00    .00     .00
    exponential (deviation = mean)                                  .00–.01    .00     .00
    lognormal (deviation = 1.3 × mean)                              .28–.34    .14     .00
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.align import runs_of
from analysis.results import row, table
from analysis.statistics.aggregates import proportion
from analysis.statistics.reliability import drawdown

COLUMNS = ("run_id", "kind", "start", "peak", "trough", "end", "depth", "recovered")
"""Steps are env steps: `start` the first one below, `peak` of the maximum before, `trough` of the minimum, `end` of the
recovery, or the last step if there was none. `depth` is in units of the metric."""
MORE = ("relative_depth", "duration", "peak_value", "trough_value")
"""`relative_depth` is depth / (peak − starting score), NaN if that is 0, and of a collapse depth / (peak − base);
`duration` from start to end, in env steps."""

KINDS = ("drawdown", "collapse", "catastrophic", "falling", "dead")
"""`catastrophic` is a collapse that the run ends before it is back from; `falling` what may become one: the run ends too
soon to tell."""

OUTCOMES = (
    "failed", "diverged", "unfinished", "not determined", "collapsed", "falling at the end", "dead", "never learned",
    "dipped", "learned",
)  # fmt: skip
"""A run has the first of these that is true of it; an `unfinished` one may still become anything."""

LOST = ("failed", "broken", "missing")
"""Statuses of the runs that have `failed`."""

TINY = 1e-9
"""Of the way up: what rounding may do to a curve that lies on a limit."""


@dataclass(frozen=True)
class Collapse:
    """The definition of a collapse; everything in shares of the way up (WayUp) and in episodes.

    `level`: what the smoothed return must have reached; `fall`: what it then stays below, a share of its running peak,
    for at least `lasting` episodes; `back`: the share of the peak that ends the collapse; `smoothing`: episodes of the
    trailing mean, in which an episode counts as the mean of its batch. So the size of a batch does not matter.
    """

    level: float = 0.8
    fall: float = 0.5
    back: float = 0.9
    smoothing: int = 50
    lasting: int = 100


@dataclass(frozen=True)
class WayUp:
    """The scale of returns from 0, what an untrained policy returns (`base`), to 1, the threshold.

    It does not change under a shift of all rewards or a change of their unit, and negative returns are no exception.
    """

    base: float
    threshold: float

    @property
    def undetermined(self) -> str:
        """Why there is no such scale; empty where there is one."""
        if np.isnan(self.threshold):
            return "no threshold (--threshold X sets one)"
        if np.isnan(self.base):
            return "no run has enough episodes on record to tell what an untrained policy returns (--base X sets that)"
        if self.threshold <= self.base:
            return (f"the threshold {self.threshold:g} is not above {self.base:g}, what an untrained policy returns "
                    "(--threshold X sets another)")  # fmt: skip
        return ""

    def __call__(self, y: np.ndarray) -> np.ndarray:
        """Returns → shares of the way up; NaN where there is no such scale."""
        return np.full(len(y), np.nan) if self.undetermined else (y - self.base) / (self.threshold - self.base)


def ways_up(
    curves: pd.DataFrame, thresholds: Mapping[str, float], spec: Collapse = Collapse(), base: float | None = None
) -> dict[str, WayUp]:
    """The scale of every environment in `thresholds`.

    The base, unless it is given, is the median over all runs of the mean of their first `spec.smoothing` episodes.
    """
    first: dict[str, list[float]] = {env: [] for env in thresholds}
    for run in runs_of(curves):
        smoothed = _Smoothed.of(run, spec)
        if len(smoothed.y):
            first.setdefault(run["env"].iloc[0], []).append(smoothed.y[0])
    of_all = {env: float(np.median(y)) if y else np.nan for env, y in first.items()}
    return {env: WayUp(of_all[env] if base is None else base, limit) for env, limit in thresholds.items()}


class _Smoothed(NamedTuple):
    """A run's trailing mean over `spec.smoothing` episodes, an entry for each episode from the first full window on."""

    t: np.ndarray
    """Env steps of the update in which the episode was."""
    y: np.ndarray

    @classmethod
    def of(cls, run: pd.DataFrame, spec: Collapse) -> "_Smoothed":
        known = run[np.isfinite(run["value"]) & (run["episodes"] > 0)]
        n = np.minimum(known["episodes"], spec.smoothing + spec.lasting)  # of a larger batch the rest changes nothing
        t, y = (np.repeat(known[name].to_numpy(float), n) for name in ("env_steps", "value"))
        windows = np.lib.stride_tricks.sliding_window_view(y, spec.smoothing) if len(y) >= spec.smoothing else y[:0, None]
        return cls(t[spec.smoothing - 1 :], windows.mean(-1))


def drawdowns(curves: pd.DataFrame) -> pd.DataFrame:
    """Every maximal stretch with DD > 0 (kind `drawdown`); recovered when the peak is reached again; without NaN."""
    rows = []
    for run in runs_of(curves):
        known = run.dropna(subset="value")
        t, y = known["env_steps"].to_numpy(float), known["value"].to_numpy(float)
        for start, end in _streaks(drawdown(y) > 0):
            rows.append(_event(run["run_id"].iloc[0], "drawdown", t, y, start, end, origin=y[0]))
    return _events(rows)


def collapses(curves: pd.DataFrame, ways: Mapping[str, WayUp], spec: Collapse = Collapse()) -> pd.DataFrame:
    """Kinds `collapse`, `catastrophic` and `falling`; a run may have several. `ways` has the scale of each environment.

    After the smoothed return reached the level, it falls below a share of its running peak and stays there. `recovered`
    means back at the share `back` of that peak. Where there is no scale, or not enough episodes, there are no events:
    `outcomes` says of which runs that is so.
    """
    rows = []
    for run in runs_of(curves):
        way, smoothed = ways[run["env"].iloc[0]], _Smoothed.of(run, spec)
        x = way(smoothed.y)
        peak = np.maximum.accumulate(x)
        over = 0  # where the last collapse was over
        for start, end in _streaks((peak >= spec.level - TINY) & (x < spec.fall * peak - TINY)):
            if start < over or end - start < spec.lasting and end < len(x):
                continue
            again = np.flatnonzero(x[start:] >= spec.back * peak[start] - TINY)
            over = start + again[0] if len(again) else len(x)
            kind = "falling" if end - start < spec.lasting else "collapse" if len(again) else "catastrophic"
            rows.append(_event(run["run_id"].iloc[0], kind, *smoothed, start, over, origin=way.base))
    return _events(rows)


def _streaks(true: np.ndarray) -> np.ndarray:
    """Every maximal stretch [start, end) of true values."""
    return np.flatnonzero(np.diff(true, prepend=False, append=False)).reshape(-1, 2)


def dead(gradient_norms: pd.DataFrame, episodes: int = 100, tiny: float = 1e-6) -> pd.DataFrame:
    """Policies that have stopped moving: the gradient norm is ≤ `tiny` or not finite in every update of at least the
    last so many episodes (kind `dead`, from `start` to the end).

    A policy can also stop because it is perfect, so `outcomes` counts only those whose return is low. `peak`, `trough`
    and `depth` do not apply and are NaN.
    """
    rows = []
    for run in runs_of(gradient_norms):
        t, norm, n = (run[name].to_numpy(float) for name in ("env_steps", "value", "episodes"))
        moving = np.flatnonzero(np.isfinite(norm) & (norm > tiny))
        start = moving[-1] + 1 if len(moving) else 0
        if n[start:].sum() >= episodes:
            nothing = dict.fromkeys(("peak", "trough", "depth", *MORE), np.nan)
            event = {"run_id": run["run_id"].iloc[0], "kind": "dead", "start": t[start], "end": t[-1]}
            rows.append(nothing | event | {"duration": t[-1] - t[start], "recovered": False})
    return _events(rows)


def outcomes(
    runs: pd.DataFrame,
    curves: pd.DataFrame,
    events: pd.DataFrame,
    ways: Mapping[str, WayUp],
    spec: Collapse = Collapse(),
) -> pd.DataFrame:
    """One row a run, none left out: run_id, variant, env, seed, outcome (OUTCOMES), then what else is known of it.

    `last` is the last smoothed return; `reached_at` the env step at which the run reached the level and was at risk
    of a collapse from then on, NaN if it never did; `watched` for how many env steps it was, until its first collapse
    or its end; `collapses` how many it had, `catastrophic` whether it is not back from the last, `falling` whether it
    may be in one; `diverged`, `failed`, `unfinished` and `stopped` (it had solved the environment, and was to stop
    then) why nothing more could be seen; `undetermined` why nothing can be said about collapses, empty if it can.
    """
    curve_of = {run["run_id"].iloc[0]: run for run in runs_of(curves)}
    counted = set(curves.loc[curves["episodes"] > 0, "run_id"])
    of_run = dict(list(events.groupby("run_id")))
    rows = []
    for run in runs.itertuples():
        smoothed = _Smoothed.of(curve_of.get(run.run_id, curves.iloc[:0]), spec)
        its = of_run.get(run.run_id, events.iloc[:0])
        no_curve = "no episodes were recorded" if run.run_id not in counted else f"fewer than {spec.smoothing} episodes"
        rows.append(_outcome(run, smoothed, its, ways[run.env], spec, no_curve))
    first = ["run_id", "variant", "env", "seed", "outcome", "last", "reached_at", "watched", "collapses"]
    flags = ["catastrophic", "falling", "diverged", "failed", "unfinished", "stopped"]
    frame = pd.DataFrame(rows, columns=[*first, *flags, "undetermined", "folder"])
    return frame.astype({"seed": runs["seed"].dtype, "undetermined": "str"} | dict.fromkeys(flags, "bool"))


def _outcome(run: Any, smoothed: _Smoothed, events: pd.DataFrame, way: WayUp, spec: Collapse, no_curve: str) -> dict[str, Any]:
    """The row of one run; `no_curve` is why its smoothed curve is empty, if it is."""
    t, y = smoothed
    falls = events.loc[events["kind"].isin(["collapse", "catastrophic"]), "start"]
    kinds = set(events["kind"])
    x = way(y)
    above = np.flatnonzero(x >= spec.level - TINY)
    reached_at = t[above[0]] if len(above) else np.nan
    known = {
        "failed": run.status in LOST,
        "diverged": run.status == "diverged",
        "unfinished": run.status in ("running", "interrupted"),
        "undetermined": way.undetermined or ("" if len(y) else no_curve),
        "catastrophic": "catastrophic" in kinds,
        "falling": "falling" in kinds,
    }
    applies = {
        "failed": known["failed"],
        "diverged": known["diverged"],
        "unfinished": known["unfinished"],
        "not determined": known["undetermined"] != "",
        "collapsed": known["catastrophic"],
        "falling at the end": known["falling"],
        "dead": "dead" in kinds and len(x) > 0 and x[-1] < spec.level - TINY,
        "never learned": not len(above),
        "dipped": len(falls) > 0,
        "learned": True,
    }
    return {
        "run_id": run.run_id, "variant": run.variant, "env": run.env, "seed": run.seed,
        "outcome": next(outcome for outcome in OUTCOMES if applies[outcome]),
        "last": y[-1] if len(y) else np.nan, "reached_at": reached_at,
        "watched": min([*falls, *t[-1:]]) - reached_at if len(above) else np.nan,
        "collapses": len(falls), "stopped": run.stopped_when_solved is True, "folder": run.folder,
    } | known  # fmt: skip


COUNTS = ("runs", "collapsed", "catastrophic", "falling", "diverged", "failed", "unfinished", "stopped", "undetermined")
"""Of the runs of a variant, how many; `collapsed`, `catastrophic`, `falling` and `stopped` are of those at risk."""


def collapse_shares(
    outcomes: pd.DataFrame, ways: Mapping[str, WayUp], spec: Collapse = Collapse(), level: float = 0.95
) -> pd.DataFrame:
    """Share of the runs at risk, those that reached the level, that collapsed at least once, for good or not.

    Extra columns: COUNTS; `missing`, the share of all runs whose end was not seen though they had not collapsed: they
    diverged, failed, were stopped, are unfinished or undetermined; `watched`, the median env steps for which a run was
    at risk. Wilson's interval (Wilson 1927).
    """
    rows = []
    for (variant, env), group in outcomes.groupby(["variant", "env"]):
        at_risk = group[group["reached_at"].notna()]
        collapsed = at_risk["collapses"] > 0
        counts = {"runs": len(group), "collapsed": int(collapsed.sum())}
        counts |= {name: int(at_risk[name].sum()) for name in ("catastrophic", "falling", "stopped")}
        counts |= {name: int(group[name].sum()) for name in ("diverged", "failed", "unfinished")}
        gone = group["diverged"] | group["failed"]
        undetermined = group["undetermined"] != ""
        if not ways[env].undetermined:  # a run that is gone has its own column, and left nothing to determine
            undetermined &= ~gone
        unknown = group.loc[undetermined, "undetermined"]
        counts["undetermined"] = len(unknown)
        unseen = gone | group["unfinished"] | group["stopped"] | (group["undetermined"] != "")
        share, lo, hi = proportion(counts["collapsed"], len(at_risk), level)
        rows.append(
            row("variant", variant, env, "share of runs at risk that collapsed", share, lo, hi, level=level,
                method=f"Wilson; at risk: {spec.level:.0%} of the way up was reached", n_runs=len(at_risk),
                params=[spec, ways[env]], warning=_doubts(counts, len(at_risk), unknown, spec), **counts,
                missing=float((unseen & (group["collapses"] == 0)).mean()), watched=at_risk["watched"].median())
        )  # fmt: skip
    return table(rows, *COUNTS, "missing", "watched")


def _doubts(counts: Mapping[str, int], at_risk: int, unknown: pd.Series, spec: Collapse) -> list[str]:
    """The warnings about a share of collapses."""
    doubts = [f"not determined for {n} of {counts['runs']} runs: {why}" for why, n in unknown.value_counts().items()]
    if not at_risk and not len(unknown):
        doubts.append(f"no run reached {spec.level:.0%} of the way up: none was at risk")
    what = {
        "diverged": "diverged", "failed": "failed", "unfinished": "are not finished",
        "stopped": "were stopped when they had solved it, and watched no longer",
        "falling": "are falling at the end, too late to tell whether they collapse",
    }  # fmt: skip
    return doubts + [f"{counts[name]} of {counts['runs']} runs {text}" for name, text in what.items() if counts[name]]


def _event(run_id: str, kind: str, t: np.ndarray, y: np.ndarray, start: int, end: int, *, origin: float) -> dict[str, Any]:
    """The stretch [start, end); `end` is past the last point if there was no recovery."""
    peak = int(np.argmax(y[:start]))
    trough = start + int(np.argmin(y[start:end]))
    ends_at = t[min(end, len(t) - 1)]
    depth, climb = y[peak] - y[trough], y[peak] - origin
    return {
        "run_id": run_id, "kind": kind, "start": t[start], "peak": t[peak], "trough": t[trough], "end": ends_at,
        "depth": depth, "recovered": end < len(t), "relative_depth": depth / climb if climb > 0 else np.nan,
        "duration": ends_at - t[start], "peak_value": y[peak], "trough_value": y[trough],
    }  # fmt: skip


def _events(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *MORE])
    numbers = [name for name in frame if name not in ("run_id", "kind", "recovered")]
    return frame.astype(dict.fromkeys(numbers, "float64") | {"run_id": "str", "kind": "str", "recovered": "bool"})
