"""Run folders and tables made up for the tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import METRICS, RUNS, Tables

HEADER = "update,env_steps,episodes,return_mean,return_recent,value_loss"


def lines(returns: list[float], steps: int = 100, value_loss: str = "") -> list[str]:
    """metrics.csv of an update a return, without the line ends; `return_recent` starts at the third."""
    recent = [str(float(np.mean(returns[: i + 1]))) if i > 1 else "" for i in range(len(returns))]
    rows = [f"{i + 1},{(i + 1) * steps},{(i + 1) * 10},{y},{recent[i]},{value_loss}" for i, y in enumerate(returns)]
    return [HEADER, *rows]


def write_run(folder: Path, returns: list[float] | None = None, config: dict | None = None, **summary: Any) -> Path:
    """A run folder as pgx leaves it; `returns` None: without metrics.csv."""
    folder.mkdir(parents=True)
    about = {
        "status": "completed",
        "variant": "baseline",
        "env": "CartPole-v1",
        "seed": 0,
        "config_hash": str(folder),
        "git_commit": "abc",
        "git_dirty": False,
        "wall_seconds": 1.5,
        "error": None,
        "reward_threshold": 475.0,
        "return_final": 9.0,
        "solved_at_env_steps": None,
        "device": "cpu",
    } | summary
    same = {"variant": about["variant"], "seed": about["seed"], "num_env_steps": 1000, "gamma": 1.0}
    about["config"] = same | {"env": {"id": about["env"]}} | (config or {})
    (folder / "run.json").write_text(json.dumps(about))
    if returns is not None:
        (folder / "metrics.csv").write_text("\n".join(lines(returns)) + "\n")
    return folder


def made_curves(runs: dict[str, list[float]], steps: int = 1000, start: int = 1000, episodes: int = 10) -> pd.DataFrame:
    """A curve for each "variant/seed", a point every so many env steps and episodes."""
    parts = []
    for name, y in runs.items():
        variant, seed = name.split("/")
        t = start + steps * np.arange(len(y))
        same = {"run_id": name, "variant": variant, "env": "CartPole-v1", "seed": int(seed)}
        parts.append(pd.DataFrame(same | {"env_steps": t, "value": np.array(y, float), "episodes": episodes}))
    return pd.concat(parts, ignore_index=True)


def made_runs(rows: pd.DataFrame | list[dict[str, Any]]) -> pd.DataFrame:
    """`runs` of which only some columns matter."""
    made = pd.DataFrame(rows).reindex(columns=list(RUNS))
    return made.fillna({"folder": "f", "stopped_when_solved": False})


def made_scores(groups: dict[str, list[float]], env: str = "CartPole-v1") -> pd.DataFrame:
    """A score for each seed 0, 1, … of each variant."""
    rows = [
        {"run_id": f"{variant}/{env}/{seed}", "variant": variant, "env": env, "seed": seed, "value": float(x)}
        for variant, values in groups.items()
        for seed, x in enumerate(values)
    ]
    return pd.DataFrame(rows)


def made_tables(runs: list[dict[str, Any]], threshold: float | None = 475.0) -> Tables:
    """Tables of runs given by variant, seed and `curve`, env step → score; further keys are columns of `runs`."""
    rows, metrics = [], []
    for run in runs:
        curve = run["curve"]
        run_id = f"{run['variant']}/{run['seed']}"
        same = {"env": "e", "status": "completed", "config_hash": run_id, "git_sha": "abc", "error": "", "device": "cpu"}
        end = max(curve, default=0)
        about = {"run_id": run_id, "env_steps": end, "budget": float(end), "wall_seconds": 1.0, "sweep": "s", "folder": "",
                 "reward_threshold": np.nan if threshold is None else threshold, "return_final": np.nan,
                 "solved_at_env_steps": np.nan}  # fmt: skip
        rows.append(same | about | {key: x for key, x in run.items() if key != "curve"})
        for metric in ("return_recent", "return_mean"):
            metrics += [(run_id, i + 1, step, metric, y, 10) for i, (step, y) in enumerate(curve.items())]
    frame = pd.DataFrame(rows, columns=list(RUNS)).astype({"seed": "Int64", "env_steps": "int64"})
    long = pd.DataFrame(metrics, columns=list(METRICS))
    return Tables(frame, long.astype(dict.fromkeys(("run_id", "metric"), "category")))
