"""Run folders → tidy tables. Bad data never raise here: what cannot be used is in the ledger, with the reason."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

STATUSES = ("completed", "interrupted", "running", "failed", "diverged", "broken", "missing")
"""What run.json says, and two more: `broken`, its files cannot be read; `missing`, a job was set up and left none."""

RUNS = {
    "run_id": "the folder below the sweep's (with the sweep's name in front where there are several): the key",
    "variant": "", "env": "", "seed": "",
    "config_hash": "identifies what decides a run's results",
    "git_sha": "commit of the code that ran; `+` after it: with changes",
    "status": "one of STATUSES",
    "env_steps": "environment steps reached",
    "budget": "environment steps asked for; NaN where the budget was in updates",
    "wall_seconds": "seconds",
    "error": "why it is not completed, and what is wrong with its files",
    "reward_threshold": "of the environment; NaN if it has none",
    "return_final": "mean return of the last 100 training episodes",
    "solved_at_env_steps": "first step where that mean reached the threshold; NaN if never",
    "device": "",
    "sweep": "name of the folder that was given",
    "folder": "the run's folder",
}  # fmt: skip
"""Columns of `runs` and their meaning; after them one for every config value that varies, by its dotted name."""

METRICS = ("run_id", "update", "env_steps", "phase", "metric", "value", "n_samples")
PHASES = ("train", "eval", "diagnose")
CURVES = ("run_id", "variant", "env", "seed", "env_steps", "value")

_KEYS = ("update", "env_steps")
_CACHE_VERSION = 1
_RECENT = 100  # episodes behind `return_recent`


class InputError(ValueError):
    """What was asked for is not there; the message is one line that says what is."""


@dataclass(frozen=True)
class Tables:
    """`runs` has one row a run (RUNS), `metrics` one row a measurement (METRICS)."""

    runs: pd.DataFrame
    metrics: pd.DataFrame


def load(*sweeps: str | Path, cache: str | Path | None = None) -> Tables:
    """Every run below the given folders.

    A run is a folder with run.json; a Hydra job's folder without one is listed as missing. What metrics.csv holds is
    kept in a Parquet file in SWEEP/.analysis (or in `cache`) until the size or the time of any metrics.csv changes;
    where that cannot be written, nothing is kept. Raises InputError if a folder does not exist or none holds a run.
    """
    folders = [Path(sweep) for sweep in sweeps]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}")
    names = _distinct_names(folders)
    parts = [_load_one(folder, name, cache) for folder, name in zip(folders, names, strict=True)]
    records = [record for records, _ in parts for record in records]
    if not records:
        where = ", ".join(map(str, folders)) or "no folder was given"
        raise InputError(f"{where}: no runs (a run is a folder with run.json in it)")
    return Tables(_runs(records), _concat([metrics for _, metrics in parts]))


def ledger(runs: pd.DataFrame) -> pd.DataFrame:
    """How many runs of each status a (variant, env) has, and why those that are not completed are not.

    Columns: variant, env, runs, seeds (distinct), one a status, reasons.
    """
    groups = runs.groupby(["variant", "env"], dropna=False, sort=True)
    counts = runs.groupby(["variant", "env", "status"], dropna=False).size().unstack(fill_value=0)
    return pd.DataFrame(
        {"runs": groups.size(), "seeds": groups["seed"].nunique()}
        | {status: counts.get(status, 0) for status in STATUSES}
        | {"reasons": groups["error"].agg(lambda errors: " | ".join(sorted({x for x in errors if x})))}
    ).reset_index()


def warnings(runs: pd.DataFrame) -> list[str]:
    """What a reader of any number about these runs has to know first: one sentence each."""
    raise NotImplementedError


def curves(tables: Tables, metric: str, phase: str = "train") -> pd.DataFrame:
    """One metric of every run (CURVES): one row a (run, step), in the order of runs, then of env steps.

    Raises InputError if there is no such metric, naming those there are.
    """
    raise NotImplementedError


def grouped_by(tables: Tables, keys: Sequence[str]) -> Tables:
    """`variant` becomes the values of these columns of `runs`, as in `baseline, 0.003`: the group of replicates.

    Raises InputError if there is no such column.
    """
    raise NotImplementedError
