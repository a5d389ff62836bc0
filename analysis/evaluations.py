"""Tables that `python -m pgx.evaluate SWEEP_DIR --output FILE` wrote: a run's return on fresh episodes of a checkpoint."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.load import InputError

COLUMNS = ("folder", "update", "return_mean", "episodes", "greedy", "best", "seed")


def read_evaluations(files: Iterable[str | Path]) -> pd.DataFrame:
    """The tables under each other, with the folders as they really are. Raises InputError if one is none."""
    return pd.concat([_read(Path(file)) for file in files], ignore_index=True)


def _read(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(file)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no CSV file"
        raise InputError(f"{file}: cannot be read ({why})") from None
    if missing := [name for name in COLUMNS if name not in frame]:
        wanted = "python -m pgx.evaluate SWEEP_DIR --output FILE"
        raise InputError(f"{file}: no column {', '.join(missing)}; wanted: what `{wanted}` writes")
    where = os.path.realpath(file.parent)
    return frame.assign(folder=[os.path.realpath(os.path.join(where, str(folder))) for folder in frame["folder"]])


def scores_of(evaluated: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Scores of those runs that were evaluated. Raises InputError if none was, or one twice."""
    folders = runs["folder"].map(os.path.realpath)
    known = evaluated[evaluated["folder"].isin(set(folders))]
    if not len(known):
        raise InputError("--final: none of these runs is in the table; a table and its runs are moved together")
    if len(twice := known[known["folder"].duplicated()]):
        raise InputError(f"--final: {twice['folder'].iloc[0]} was evaluated twice")
    values = known.set_index("folder")["return_mean"].reindex(folders)
    there = runs[["run_id", "variant", "env", "seed"]].assign(value=values.to_numpy(float))
    return there.dropna(subset="value").reset_index(drop=True)


def method(evaluated: pd.DataFrame) -> str:
    """A sentence about how the episodes were played."""
    seeds = evaluated["seed"]
    same = seeds.notna().all() and seeds.nunique() == 1
    how = [
        f"{_one_or_range(evaluated['episodes'])} fresh episodes a run",
        "with the most probable action" if evaluated["greedy"].all() else "with the policy's own noise",
        "of the best checkpoint" if evaluated["best"].all() else "of the newest checkpoint",
        f"the same for all runs (seed {seeds.iloc[0]:.0f})" if same else "each run's own",
    ]
    return ", ".join(how)


def _one_or_range(x: pd.Series) -> str:
    low, high = np.min(x), np.max(x)
    return f"{low:,.0f}" if low == high else f"{low:,.0f}–{high:,.0f}"
