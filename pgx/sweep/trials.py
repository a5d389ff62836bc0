"""What became of the trials of a tuning: SWEEP_DIR/trials.json, written anew whenever something happens, for the table, for
the ledger and for reports. The study itself is Optuna's file; this one is read without Optuna."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pgx.identity import BUDGET
from pgx.runs.files import write_atomically
from pgx.sweep.columns import aligned

FILE = "trials.json"
MOST = 60
"""Trials that a table shows."""


def confirmation(sweep: Path) -> Path:
    """The folder of the runs on fresh seeds."""
    return Path(f"{sweep}-confirmed")


def write(sweep: Path, content: Mapping[str, Any]) -> None:
    write_atomically(sweep / FILE, json.dumps(content, indent=1) + "\n")


def read(sweep: Path) -> dict[str, Any] | None:
    """The file's content; None where nothing was tuned, or the file is damaged: the next command writes it again."""
    try:
        content = json.loads((sweep / FILE).read_bytes())
        summary(content, sweep), number_of(content, [])  # which have what they need, or do not
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return content


def number_of(tuning: Mapping[str, Any] | None, overrides: Sequence[str]) -> int | None:
    """The trial that a member with these overrides belongs to, whatever part of the budget it was given."""
    trials = tuning["trials"] if tuning else ()
    return next((x["trial"] for x in trials if _but_for_budgets(x["overrides"]) <= set(overrides)), None)


def _but_for_budgets(overrides: Sequence[str]) -> set[str]:
    return {x for x in overrides if x.partition("=")[0] not in BUDGET}


def best(trials: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The completed trial of the highest value, the first of equals."""
    return max((x for x in trials if x["status"] == "completed"), key=lambda x: x["value"], default=None)


def interquartile_mean(values: Sequence[float]) -> float:
    """⌊n/4⌋ of the values are cut off at either end, as in a report."""
    cut = len(values) // 4
    middle = sorted(values)[cut : len(values) - cut]
    return math.fsum(middle) / len(middle)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the interquartile mean, as a report has it: percentile bootstrap over runs. None for fewer than
    3, and where a run has no value."""
    import numpy as np
    from scipy import stats

    if len(values) < 3 or not np.isfinite(values).all():
        return None
    done = stats.bootstrap(
        (np.array(values),), lambda x, axis: stats.trim_mean(x, 0.25, axis=axis), n_resamples=2000, method="percentile",
        vectorized=True, axis=0, rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(done.confidence_interval.low), float(done.confidence_interval.high)


def summary(tuning: Mapping[str, Any], sweep: Path) -> str:
    """The table of the trials, of many those with the highest values, and a last line that says which one is the best, its
    value, and where the files are."""
    lines = [["trial", "chosen", "status", "value", "reason"]]
    ranked = sorted(tuning["trials"], key=lambda x: -math.inf if x["value"] is None else x["value"], reverse=True)
    for x in sorted(ranked[:MOST], key=lambda x: x["trial"]):
        value = "" if x["value"] is None else f"{x['value']:.1f}"
        lines.append([str(x["trial"]), " ".join(x["chosen"]), x["status"], value, x["reason"] or ""])
    more = f"… and {len(ranked) - MOST} more, all in {FILE}\n" if len(ranked) > MOST else ""
    return f"{aligned(lines, right=(0, 3))}\n{more}{_last_line(tuning, sweep)}"


def _last_line(tuning: Mapping[str, Any], sweep: Path) -> str:
    winner, seeds = best(tuning["trials"]), tuning["seeds"]
    if winner is None:
        return f"no trial is completed; files in {sweep}"
    said = f"best: trial {winner['trial']}, {' '.join(winner['chosen'])}: {winner['value']:.1f}, the interquartile mean over "
    said += f"the {len(seeds)} seeds that it was chosen on"
    confirmed = tuning["confirmed"]
    if confirmed is None or confirmed["trial"] != winner["trial"]:
        return (
            f"{said}; on fresh ones: the same command with hydra.sweep.dir={sweep} hydra.sweeper.confirm=20; files in {sweep}"
        )
    parts = [f"{name} {_estimate(x)}" for name, x in confirmed["groups"].items()]
    return f"{said}; on {len(confirmed['seeds'])} fresh ones {', '.join(parts)}; files in {confirmation(sweep)}"


def _estimate(group: Mapping[str, Any]) -> str:
    """`452.1 [430.2, 470.1]`."""
    text = "–" if group["value"] is None else f"{group['value']:.1f}"
    text += f" [{group['interval'][0]:.1f}, {group['interval'][1]:.1f}]" if group["interval"] else ""
    return text + (f" ({group['without']} of them did not complete)" if group["without"] else "")
