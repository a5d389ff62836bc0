"""From run folders to one row a run and one row an intervention: what became of it, in the words of the stability report.

A point of a curve is the mean of 100 consecutive episodes, whatever the number of episodes an update.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import align, load
from analysis.load import InputError, curves
from analysis.results import row, table
from analysis.statistics import reliability
from analysis.statistics.aggregates import Bootstrap, aggregate, proportion
from analysis.statistics.events import Collapse, WayUp, collapses

POINT = 100
"""Episodes."""
THRESHOLD = 475.0
WAYS = {"CartPole-v1": WayUp(0.0, THRESHOLD)}
"""Up from 0, not from what an untrained policy returns (22): a run that has fallen to half is at half of its best."""
COLLAPSE = Collapse(smoothing=POINT, lasting=3 * POINT)
"""≥ 380, then below half of the running peak for 300 episodes."""
FALL = replace(COLLAPSE, level=100 / THRESHOLD)
"""The same of a run that has learned something: ≥ 100. Short runs seldom see 380."""
DEAD_RETURN, DEAD_SHARE = 15.0, 0.99
HEALTH = {
    "return_mean": "return",
    "entropy": "entropy, nats",
    "kl": "KL(before ‖ after) of an episode's learning, nats",
    "action_share": "share of the most frequent action",
}

SHARES = {
    "reached": "share of runs that reached 380",
    "collapsed": "share of runs that collapsed after 380",
    "learned": "share of runs that reached 100",
    "fell": "share of runs that fell below half after 100",
    "dead": "share of runs dead at the end",
}
SCORES = {"best": "best return", "final": "final return", "drawdown": "largest drawdown", "kl": "KL an episode"}


def points(folder: Path, until: dict[str, float] | None = None) -> pd.DataFrame:
    """A row a (run, point): run_id, variant, env, seed, episodes, env_steps and the means of HEALTH.

    `until` cuts every run at so many `episodes` and `env_steps`: as if it had had that budget.
    """
    tables = load(folder)
    if not (tables.runs["status"] == "completed").all():
        raise InputError(f"{folder}: {(tables.runs['status'] != 'completed').sum()} runs are not completed")
    size = _episodes_an_update(folder)
    parts = []
    for metric in HEALTH:
        curve = curves(tables, metric)
        curve["point"] = curve.groupby("run_id", sort=False).cumcount() // (POINT // size)
        keys = ["run_id", "variant", "env", "seed", "point"]
        part = curve.groupby(keys, sort=False).agg(env_steps=("env_steps", "max"), value=("value", "mean"), n=("value", "size"))
        parts.append(part.rename(columns={"value": metric}))
    frame = parts[0].join([part[[metric]] for metric, part in zip(list(HEALTH)[1:], parts[1:], strict=True)])
    frame = frame[frame["n"] == POINT // size].drop(columns="n").reset_index()
    frame["episodes"] = (frame.pop("point") + 1) * POINT
    for column, most in (until or {}).items():
        frame = frame[frame[column] <= most]
    return frame.reset_index(drop=True)


def _episodes_an_update(folder: Path) -> int:
    first = next(folder.glob("*/run.json"))
    return json.loads(first.read_text())["config"]["episodes_per_update"]


def curve(frame: pd.DataFrame, metric: str, against: str = "env_steps") -> pd.DataFrame:
    """One column of `points` as the curves that analysis works on."""
    about = frame[["run_id", "variant", "env", "seed"]]
    return about.assign(env_steps=frame[against], value=frame[metric], episodes=POINT)


def falls_of(frame: pd.DataFrame, spec: Collapse) -> pd.DataFrame:
    """Falls that lasted as long as `spec` asks for; their steps are episodes."""
    falls = collapses(curve(frame, "return_mean", "episodes"), WAYS, spec)
    return falls[falls["kind"] != "falling"]


def of_runs(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a run: what it reached, what it lost, whether it died, whether it came back."""
    collapse, fall = falls_of(frame, COLLAPSE), falls_of(frame, FALL)
    rows = []
    for run in align.runs_of(frame):
        name = run["run_id"].iloc[0]
        y = run["return_mean"].to_numpy()
        dead = (y < DEAD_RETURN) & (run["action_share"].to_numpy() > DEAD_SHARE)
        died = bool(dead[-1])
        above = np.flatnonzero(y >= DEAD_RETURN)
        its, its_falls = collapse[collapse["run_id"] == name], fall[fall["run_id"] == name]
        rows.append(
            {
                "seed": run["seed"].iloc[0], "episodes": run["episodes"].iloc[-1], "env_steps": run["env_steps"].iloc[-1],
                "best": y.max(), "final": y[-1], "drawdown": reliability.drawdown(y).max(),
                "reached": y.max() >= COLLAPSE.level * THRESHOLD,
                "collapses": len(its), "came_back": int(its["recovered"].sum()),
                "first_collapse": its["start"].min(), "learned": y.max() >= 100, "falls": len(its_falls),
                "fell_and_came_back": int(its_falls["recovered"].sum()), "first_fall": its_falls["start"].min(),
                "dead": died, "dead_since": run["episodes"].iloc[above[-1] + 1 if len(above) else 0] if died else np.nan,
                "dead_and_back": bool(dead.any() and not died), "entropy": run["entropy"].iloc[-1], "kl": run["kl"].mean(),
            }
        )  # fmt: skip
    runs = pd.DataFrame(rows)
    return runs.assign(collapsed=runs["collapses"] > 0, fell=runs["falls"] > 0)


def of_interventions(runs: pd.DataFrame) -> pd.DataFrame:
    """Runs of all interventions (columns part, intervention) → results rows: shares with Wilson's interval, IQMs with
    a bootstrap over runs."""
    parts = []
    for (part, name), group in runs.groupby(["part", "intervention"], sort=False):
        common = group.assign(variant=name, env="CartPole-v1", run_id=group["seed"].astype(str))
        for column, metric in SHARES.items():
            count, n = int(group[column].sum()), len(group)
            share = row("variant", name, "CartPole-v1", metric, *proportion(count, n), level=0.95, method="Wilson", n_runs=n,
                        part=part, count=count)  # fmt: skip
            parts.append(table([share]))
        for column, metric in SCORES.items():
            results = aggregate(common.assign(value=common[column].astype(float)), metric, spec=Bootstrap())
            parts.append(results.assign(part=part))
    return pd.concat(parts, ignore_index=True)
