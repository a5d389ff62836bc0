"""Run folders → tidy tables. Bad data never raise here: what cannot be used is in the ledger, with the reason."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from analysis.read import KEYS, last_steps, read_metrics

STATUSES = ("completed", "interrupted", "running", "failed", "diverged", "broken", "missing")
"""What run.json says, and two more: `broken`, its files cannot be read; `missing`, a job was set up and left none."""

RUNS = {
    "run_id": "the folder below the sweep's (with the sweep's name in front where there are several): the key",
    "variant": "what was run, such as baseline, or `baseline (estimator=vanilla)` where a part of it was exchanged",
    "env": "its id, such as CartPole-v1",
    "seed": "missing where it is not known",
    "config_hash": "identifies what decides a run's results",
    "git_sha": "commit of the code that ran; `+` after it: with changes, or code from outside; a → b: went on with b",
    "stretches": "of updates, each made with other code, packages, device or settings than the one before",
    "status": "one of STATUSES",
    "env_steps": "environment steps reached",
    "budget": "environment steps asked for; NaN where the budget was in updates",
    "wall_seconds": "seconds",
    "error": "why it is not completed, and what is wrong with its files",
    "reward_threshold": "of the environment; NaN if it has none",
    "return_final": "mean return of the last 100 training episodes",
    "solved_at_env_steps": "first step where that mean, or the return of an evaluation if there were any, reached the "
    "threshold; NaN if never",
    "stopped_when_solved": "whether it ended because it had solved the environment",
    "device": "what it ran on",
    "sweep": "name of the folder that was given; the whole of what was given where names are the same",
    "folder": "the run's folder",
}
"""Columns of `runs` and their meaning; after them one for every config value that varies, by its dotted name."""

METRICS = ("run_id", "update", "env_steps", "metric", "value", "episodes")
"""`episodes` are those of the update; 0: not recorded."""
INCIDENTAL = (
    "num_updates", "stop_when_solved", "diagnose_every", "checkpoint_every", "checkpoints_kept", "updates_per_chunk",
    "evaluate_every", "evaluate_episodes", "evaluate_greedy",
)  # fmt: skip
"""Configuration values that make no other learner of a run."""
BATCH = ("episodes_per_update", "steps_per_update")
"""The two ways to say how large a batch is; a run has one of them, and the other is null."""
CURVES = ("run_id", "variant", "env", "seed", "env_steps", "value")


class InputError(ValueError):
    """An error in a request: the message is one line that says what there is."""


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


def warnings(runs: pd.DataFrame, by: Sequence[str] = ("variant",)) -> list[str]:
    """The warnings about these runs, to be read before any number: one sentence each. `by`: what they are grouped by."""
    sentences = []
    bad = runs.loc[runs["status"] != "completed", "status"].value_counts()
    if len(bad):
        counts = ", ".join(f"{bad[status]} {status}" for status in STATUSES if status in bad)
        sentences.append(f"{bad.sum()} of {len(runs)} runs are not completed: {counts}")
    if len(envs := sorted(runs["env"].unique())) > 1:
        sentences.append(f"several environments ({', '.join(envs)}): every statistic is of one of them unless it says `all`")
    apart = f"--by {','.join([*by, *replicate_keys(runs)[1:]])} keeps them apart"
    for (variant, env), group in runs.groupby(["variant", "env"]):
        name = f"{variant} on {env}"
        if group["seed"].nunique() < 2:
            sentences.append(f"{name}: one seed only, so nothing can be said about other seeds")
        if repeated := int(group.duplicated("config_hash").where(group["config_hash"] != "", False).sum()):
            sentences.append(f"{name}: {repeated} runs repeat another one's configuration and seed: not independent")
        if group["budget"].nunique() > 1:
            sentences.append(f"{name}: the budgets differ, from {group['budget'].min():,.0f} to {group['budget'].max():,.0f}")
        varied = [key for key in group.columns[len(RUNS) :] if group[key].nunique(dropna=False) > 1]
        if until := [key for key in varied if key in ("num_updates", "stop_when_solved")]:
            sentences.append(f"{name}: the runs differ in {', '.join(until)}, so they do not end at the same place")
        if varied := [key for key in varied if key not in INCIDENTAL]:
            sentences.append(f"{name}: the runs also differ in {', '.join(varied)}, so they are no replicates: {apart}")
    if len(shas := {sha for path in runs["git_sha"] for sha in path.split(" → ")} - {""}) > 1:
        sentences.append(f"the runs were made by {len(shas)} versions of the code")
    if mixed := int((runs["stretches"] > 1).sum()):
        of = f"{mixed} of {len(runs)} runs went on with other code, packages, device or settings than they began with"
        sentences.append(f"{of}: `made_with` in run.json says which")
    return sentences


def curves(tables: Tables, metric: str) -> pd.DataFrame:
    """One metric of every run (CURVES, then `episodes`): one row a (run, step), in the order of
    runs, then of env steps.

    Raises InputError if there is no such metric, naming those there are. A run without it has no rows here.
    """
    rows = tables.metrics[tables.metrics["metric"] == metric]
    if rows.empty:
        known = ", ".join(tables.metrics["metric"].cat.remove_unused_categories().cat.categories)
        raise InputError(f"no run has a metric '{metric}'; there are: {known or 'none at all'}")
    of_run = tables.runs.set_index("run_id").loc[rows["run_id"].cat.categories, ["variant", "env", "seed"]]
    described = of_run.iloc[rows["run_id"].cat.codes].reset_index(drop=True)
    rows = rows[["run_id", "env_steps", "value", "episodes"]].astype({"run_id": "str"}).reset_index(drop=True)
    return pd.concat([rows, described], axis=1)[[*CURVES, "episodes"]]


def grouped_by(tables: Tables, keys: Sequence[str]) -> Tables:
    """`variant` becomes the values of these columns of `runs`, as in `baseline, learning_rate 0.003`: the group of
    replicates.

    Raises InputError if there is no such column.
    """
    if unknown := [key for key in keys if key not in tables.runs]:
        varied = ", ".join(["variant", *tables.runs.columns[len(RUNS) :]])
        raise InputError(f"the runs have no column '{unknown[0]}'; what varies: {varied}")
    rows = tables.runs[list(keys)].itertuples(index=False, name=None)
    labels = [_label(dict(zip(keys, row, strict=True)), _short_names(keys)) for row in rows]
    return Tables(tables.runs.assign(variant=pd.Series(labels, dtype="str")), tables.metrics)


def replicate_keys(runs: pd.DataFrame) -> tuple[str, ...]:
    """The keys that make a group of replicates by default: the variant, and every configuration value that
    differs among its runs in one environment and sweep, but for those that only say how long a run is or what it
    writes down. A value that another one decides is not named beside it."""
    keys = ["variant"]
    varied = [key for key in runs.columns[len(RUNS) :] if key not in INCIDENTAL]
    for key in sorted(varied, key=lambda key: (key.count("."), key not in BATCH, key)):
        if (runs.groupby([*keys, "env", "sweep"], dropna=False)[key].nunique(dropna=False) > 1).any():
            keys.append(key)
    if not set(BATCH).isdisjoint(keys):  # where one of the two is null, the other says how large a batch is
        keys += [key for key in BATCH if key in varied and key not in keys]
    return tuple(keys)


def _label(values: dict[str, Any], names: list[str]) -> str:
    """`baseline, steps_per_update 2048`: of the two sizes of a batch, the one that it has."""
    pairs = zip(values.items(), names, strict=True)
    return ", ".join(f"{name} {_said(x)}".lstrip() for (key, x), name in pairs if key not in BATCH or not pd.isna(x))


def _short_names(keys: Sequence[str]) -> list[str]:
    """The names before values: the last part of its key, all of it where two end alike, nothing for the variant."""
    last = ["" if key in RUNS and key != "seed" else key.removesuffix("._target_").rsplit(".", 1)[-1] for key in keys]
    return [key if name and last.count(name) > 1 else name for key, name in zip(keys, last, strict=True)]


def _said(x: Any) -> str:
    if pd.isna(x):
        return "–"
    if isinstance(x, bool | np.bool_):
        return str(x).lower()
    text = f"{x:g}" if isinstance(x, float) else str(x)
    return text.removeprefix("pgx.").rsplit(".", 1)[-1] if text.startswith("pgx.") else text


# Run folders


def _load_one(sweep: Path, name: str, cache: str | Path | None) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """The runs of one sweep and their metrics; `name` goes in front of the run_ids if it is not empty."""
    folders = sorted(_run_folders(sweep), key=lambda folder: _natural(str(folder)))
    ids = [_run_id(folder.relative_to(sweep), sweep, name) for folder in folders]
    cached = Path(cache) / f"{_file_name(sweep)}.parquet" if cache else sweep / ".analysis" / "metrics.parquet"
    wide, notes = read_metrics(sweep, folders, cached)
    reached = last_steps(wide)
    records = [
        _record(folder, run_id, name or sweep.resolve().name, reached.get(i), notes.get(i))
        for i, (folder, run_id) in enumerate(zip(folders, ids, strict=True))
    ]
    return records, _long(wide, ids)


def _run_folders(sweep: Path) -> Iterator[Path]:
    """Folders with run.json, and Hydra's job folders without; there is nothing to be found below one of them.

    Symbolic links are followed; what can be reached in several ways is found once.
    """
    seen: set[str] = set()
    for path, subfolders, files in os.walk(sweep, followlinks=True):
        if (real := os.path.realpath(path)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        if "run.json" in files or "metrics.csv" in files or ".hydra" in subfolders:
            subfolders.clear()
            yield Path(path)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]


def _natural(text: str) -> list[Any]:
    """A key that sorts run 2 before run 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def _run_id(relative: Path, sweep: Path, name: str) -> str:
    inside = relative.as_posix()
    if inside == ".":  # the given folder is a run itself
        return name or sweep.resolve().name
    return f"{name}/{inside}" if name else inside


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The prefixes of run_ids: nothing for one sweep, otherwise names that tell them apart."""
    if len(folders) < 2:
        return [""] * len(folders)
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) == len(names):
        return names
    return [folder.as_posix() if names.count(name) > 1 else name for folder, name in zip(folders, names, strict=True)]


def _file_name(sweep: Path) -> str:
    return re.sub(r"\W+", "_", str(sweep.resolve())).strip("_")


def _record(folder: Path, run_id: str, sweep: str, reached: int | None, note: str | None) -> dict[str, Any]:
    """One row of `runs`, with the whole configuration under `config`."""
    summary, problem = _read_json(folder / "run.json")
    config = summary.get("config") if isinstance(summary.get("config"), dict) else {}
    status, asked = summary.get("status"), _hydra_overrides(folder)
    if problem:
        status = "missing" if problem.startswith("no ") else "broken"
    elif status not in STATUSES:
        status, problem = "broken", f"run.json: unknown status {status!r}"
    elif status == "running":
        problem = "no end recorded: still going, or killed"
    elif status == "completed" and reached is None:
        status = "broken"
    errors = [summary.get("error"), problem, note]
    stretches = [x for x in summary.get("made_with") or [] if isinstance(x, dict)] or [summary]
    return {
        "run_id": run_id,
        "variant": _text(summary.get("label")) or _text(summary.get("variant")) or asked.get("variant") or "?",
        "env": _text(summary.get("env")) or "?",
        "seed": _number(summary.get("seed", asked.get("seed"))),
        "config_hash": _text(summary.get("config_hash")),
        "git_sha": " → ".join(dict.fromkeys(map(_code, stretches))),
        "stretches": len(stretches),
        "status": status,
        "env_steps": reached if reached is not None else 0,
        "budget": _number(config.get("num_env_steps")),
        "wall_seconds": _number(summary.get("wall_seconds")),
        "error": "; ".join(str(error) for error in errors if error),
        "reward_threshold": _number(summary.get("reward_threshold")),
        "return_final": _number(summary.get("return_final")),
        "solved_at_env_steps": _number(summary.get("solved_at_env_steps")),
        "stopped_when_solved": status == "completed"
        and config.get("stop_when_solved") is True
        and summary.get("solved_at_env_steps") is not None,
        "device": _text(summary.get("device")),
        "sweep": sweep,
        "folder": str(folder),
        "config": _flat(config),
    }


def _code(made_with: dict[str, Any]) -> str:
    """The commit, and a `+` if it is not the whole of the code."""
    more = made_with.get("git_dirty") or made_with.get("own_code")
    return _text(made_with.get("git_commit")) + ("+" if more else "")


def _read_json(path: Path) -> tuple[dict[str, Any], str]:
    """The content of a JSON file, and what is wrong with it."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}, f"no {path.name}"
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{path.name} cannot be read: {' '.join(str(error).split())}"
    return (content, "") if isinstance(content, dict) else ({}, f"{path.name} holds no run")


def _hydra_overrides(folder: Path) -> dict[str, str]:
    """`key=value` of the command line: all that is known about a job that left no run.json."""
    try:
        text = (folder / ".hydra" / "overrides.yaml").read_text()
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(re.findall(r"^- '?\+*([\w.@]+)=([^'\n]*)'?$", text, flags=re.MULTILINE))


def _text(x: Any) -> str:
    return x if isinstance(x, str) else ""


def _number(x: Any) -> float:
    try:
        return float(x)
    except (TypeError, ValueError):
        return np.nan


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} → {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for key, x in config.items():
        flat |= _flat(x, f"{prefix}{key}.") if isinstance(x, dict) and x else {f"{prefix}{key}": x}
    return flat


def _runs(records: list[dict[str, Any]]) -> pd.DataFrame:
    """Records → `runs`, with those config values that vary."""
    configs = [record.pop("config") for record in records]
    runs = pd.DataFrame(records, columns=list(RUNS))
    seed = runs["seed"].where(runs["seed"] == runs["seed"].round())
    text = ("run_id", "variant", "env", "config_hash", "git_sha", "status", "error", "device", "sweep", "folder")
    runs = runs.assign(seed=seed).astype({name: "str" for name in text} | {"seed": "Int64", "env_steps": "int64"})
    known = [config for config in configs if config]
    for key in sorted({key for config in known for key in config} - {"variant", "seed", "env.id", "num_env_steps"}):
        if key.startswith("tracker") or len({json.dumps(config.get(key), default=str) for config in known}) < 2:
            continue
        values = pd.Series([config.get(key) for config in configs])
        numbers = ("floating", "integer", "mixed-integer-float", "boolean")
        plain = pd.api.types.infer_dtype(values, skipna=True) in numbers
        runs[key] = values if plain else values.map(_as_text)
    return runs


def _as_text(x: Any) -> str | None:
    if isinstance(x, str):
        return x
    return None if x is None or x != x else json.dumps(x)


def _long(wide: pa.Table, run_ids: list[str]) -> pd.DataFrame:
    """A column a metric → a row a measurement; cells that do not apply have no row."""
    run, update, steps = (wide[name].to_numpy() for name in ("run", *KEYS))
    update, steps = update.astype(np.int32), steps.astype(np.int64)
    n = np.zeros(len(run), np.int32)  # 0: not recorded
    if "episodes" in wide.column_names:
        total = np.nan_to_num(wide["episodes"].to_numpy()).astype(np.int32)
        n = np.where(np.diff(run, prepend=-1) != 0, total, np.diff(total, prepend=0)).astype(np.int32)
    names = [name for name in wide.column_names if name not in ("run", *KEYS)]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
    for code, name in enumerate(names):
        column = wide[name]
        there = slice(None) if column.null_count == 0 else column.is_valid().to_numpy()
        value = column.to_numpy()[there]
        parts = (run[there], update[there], steps[there], np.full(len(value), code, np.int16), value, n[there])
        for column_name, part in zip(columns, parts, strict=True):
            columns[column_name].append(part)
    types = {"run_id": np.int32, "update": np.int32, "env_steps": np.int64, "metric": np.int16, "episodes": np.int32}
    joined = {
        name: np.concatenate(parts) if parts else np.array([], types.get(name, np.float64)) for name, parts in columns.items()
    }
    joined["run_id"] = pd.Categorical.from_codes(joined["run_id"], pd.Index(run_ids, dtype="str"))
    joined["metric"] = pd.Categorical.from_codes(joined["metric"], pd.Index(names, dtype="str"))
    return pd.DataFrame(joined, columns=list(METRICS), copy=False)


def _concat(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables of several sweeps under each other; pandas would make text of categories that differ."""
    if len(parts) == 1:
        return parts[0]
    for name in ("run_id", "metric"):
        union = pd.api.types.union_categoricals([part[name] for part in parts]).categories
        parts = [part.assign(**{name: part[name].cat.set_categories(union)}) for part in parts]
    return pd.concat(parts, ignore_index=True)
