"""Hygiene, against what makes a result look better than it is: values that were chosen on the seeds that are reported,
and looking again until it is clear. The second stage, a confirmation on fresh seeds, and the memory of what was looked
at."""

import contextlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.load import replicate_keys

LOOKS = Path(".analysis") / "looks.json"
"""Below a sweep: the seeds that each report of it saw, in order; {"looks": [{"variant on env": [0, 1, …]}, …]}."""

FALSE_CLEAR = {1: 0.03, 2: 0.05, 3: 0.08, 4: 0.10, 5: 0.11}
"""Looks → how often two equal variants are called clear at one of them, where every look has as many new seeds as the
first (10 seeds, α = .05, simulated: tests/analysis/test_coverage.py)."""


def ranges(numbers: Iterable[int]) -> str:
    """
    >>> ranges([3, 0, 1, 2, 7])
    '0–3, 7'
    """
    known = sorted({int(x) for x in numbers if not pd.isna(x)})
    parts: list[list[int]] = []
    for x in known:
        if parts and x == parts[-1][-1] + 1:
            parts[-1].append(x)
        else:
            parts.append([x])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts) or "unknown"


# Chosen on the same seeds


def _sweeper(folder: Path) -> dict[str, str]:
    """Settings of Hydra's sweeper that started a run, those of one line; empty if they are not recorded."""
    try:
        text = (folder / ".hydra" / "hydra.yaml").read_text()
    except (OSError, UnicodeDecodeError):
        return {}
    match = re.search(r"^( *)sweeper:\n((?:\1 +.*\n)*)", text, flags=re.MULTILINE)
    return dict(re.findall(rf"^{match[1]}  (\w+): *(\S+)", match[2], flags=re.MULTILINE)) if match else {}


def sweeper_of(folder: Path) -> str:
    """The class of Hydra's sweeper that started a run; empty if that is not recorded."""
    return _sweeper(folder).get("_target_", "")


def confirming(runs: pd.DataFrame) -> pd.Series:
    """Whether each run is one of a tuning's second stage: its values were chosen, but on other seeds."""
    return runs["folder"].map(lambda folder: _sweeper(Path(folder)).get("confirming") == "true").astype(bool)


def tuned(runs: pd.DataFrame) -> pd.Series:
    """The sweeper that chose each run (any but Hydra's basic one, which only lists): its name, or nothing."""
    sweepers = pd.Series([sweeper_of(Path(folder)) for folder in runs["folder"]], index=runs.index, dtype="str")
    listed = sweepers.str.endswith(".BasicSweeper") | confirming(runs)
    return sweepers.where(~listed, "").str.rsplit(".", n=1).str[-1]


def grids(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Hyperparameter → the runs of a variant, environment and sweep that have several values of it."""
    varied: dict[str, list[pd.DataFrame]] = {}
    for _, group in runs.groupby(["sweep", "variant", "env"]):
        for key in replicate_keys(group)[1:]:
            if group[key].nunique(dropna=False) > 1:
                varied.setdefault(key, []).append(group)
    return {key: pd.concat(groups) for key, groups in varied.items()}


def seed_hygiene(runs: pd.DataFrame) -> list[str]:
    """Seeds on which values were chosen, by a sweeper or by a reader of a grid, show too good a result.

    `runs` are as loaded: `variant` is the variant, not a group.
    """
    warnings, sweepers = [], tuned(runs)
    chosen, others = runs[sweepers != ""], runs[sweepers == ""]
    if len(chosen):
        names = ", ".join(sorted(set(sweepers) - {""}))
        warnings.append(f"seed hygiene: {len(chosen)} runs were chosen by a sweeper that tunes ({names}), on seeds "
                    f"{ranges(chosen['seed'])}: their scores are the best of many, so report on fresh seeds")  # fmt: skip
        if again := sorted(set(others["seed"].dropna()) & set(chosen["seed"].dropna())):
            warnings.append(f"seed hygiene: seeds {ranges(again)} of the other runs are among those that were tuned on")
    plain = grids(others[~confirming(others)])
    if plain:
        values = ", ".join(f"{group[key].nunique(dropna=False)} values of {key}" for key, group in plain.items())
        seeds = ranges(pd.concat(plain.values())["seed"])
        warnings.append(f"seed hygiene: the same seeds ({seeds}) were run with {values}: the best of them is the best of many, "
                    "and looks better than it is, so report it on fresh seeds")  # fmt: skip
    return warnings


def second_stage(runs: pd.DataFrame, scores: pd.DataFrame, output: str, least: int = 10) -> list[str]:
    """The commands that run the best values of every tuned variant again on fresh seeds, and report those.

    `scores`: one a run, the higher the better; NaN counts as the worst. The best setting has the best mean of them. The
    command is the one that its first run was started with.
    """
    several = {id_ for group in grids(runs[~confirming(runs)]).values() for id_ in group["run_id"]}
    several |= set(runs.loc[tuned(runs) != "", "run_id"])
    runs = runs[runs["run_id"].isin(several)]
    if runs.empty or runs["seed"].isna().all():
        return []
    value = runs["run_id"].map(scores.set_index("run_id")["value"]).replace(-np.inf, np.nan)
    runs = runs.assign(value=value.fillna(value.min() if value.notna().any() else 0.0))
    start, n = int(runs["seed"].max()) + 1, max(least, runs["seed"].nunique())
    commands = []
    for _, group in runs.groupby(["variant", "env"]):
        settings = group[list(replicate_keys(group))].map(str).agg("\0".join, axis=1)
        best = group[settings == group.groupby(settings)["value"].mean().idxmax()].iloc[0]
        if asked := overrides(Path(best["folder"])):
            kept = [x for x in asked if not re.match(r"\+*(seed|hydra\b.*?)=", x)]
            commands.append(shlex.join(["python", "-m", "pgx.run", "-m", *kept, f"seed=range({start},{start + n})",
                                    f"hydra.sweep.dir={output}"]))  # fmt: skip
    return commands


def second_stage_of_trials(sweep: Path) -> list[str]:
    """The same, of a sweep that was tuned: the best one is the one with the best value of its trials, as its command said."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        words = json.loads((sweep / "trials.json").read_bytes())["confirm"]
        return [shlex.join(["python", "-m", "pgx.run", *words])]
    return []


def overrides(folder: Path) -> list[str]:
    """The overrides that a run was started with, as Hydra wrote them down."""
    try:
        text = (folder / ".hydra" / "overrides.yaml").read_text()
    except (OSError, UnicodeDecodeError):
        return []
    lines = [line[2:] for line in text.splitlines() if line.startswith("- ")]
    return [line[1:-1].replace("''", "'") if line[:1] == line[-1:] == "'" else line for line in lines]


def confirmed(runs: pd.DataFrame, stage_one: pd.DataFrame, name: str) -> tuple[str, bool]:
    """(the sentence about runs whose values were chosen on other runs, whether their seeds are fresh)."""
    again = sorted(set(runs["seed"].dropna()) & set(stage_one["seed"].dropna()))
    if again:
        return (f"seed hygiene: seeds {ranges(again)} are among those of {name}, on which the values were chosen: a "
                "confirmation needs fresh ones"), False  # fmt: skip
    return (f"the values were chosen on seeds {ranges(stage_one['seed'])} ({name}), and are reported on fresh ones: "
            f"{ranges(runs['seed'])}"), True  # fmt: skip


# Looking again


def look_again(sweep: Path, runs: pd.DataFrame) -> list[str]:
    """The warnings if this sweep was reported before with fewer seeds. This look is remembered."""
    ended = runs[~runs["status"].isin(["running", "missing"])].dropna(subset="seed")
    now = {f"{variant} on {env}": sorted({int(x) for x in group["seed"]})
           for (variant, env), group in ended.groupby(["variant", "env"])}  # fmt: skip
    before, notes = _remembered(sweep / LOOKS)
    earlier = [look for look in before if any(set(look[key]) < set(now[key]) for key in look.keys() & now.keys())]
    if earlier:
        looks = len(earlier) + 1
        counts = sorted({len(seeds) for look in earlier for seeds in look.values()})
        notes.append(
            f"looking again: {sweep} was reported before, with {ranges(counts)} seeds a group, and more were added: this is "
            f"look {looks}. Of two equal variants one is then called better at some look {_false_clear(looks)} of the time, "
            f"and {FALSE_CLEAR[1]:.0%} at a single one: decide on the number of seeds before the first look (python -m "
            "analysis.power), or confirm on fresh ones"
        )
    if now and now not in before:
        notes += _remember(sweep / LOOKS, [*before, now])
    return notes


def _false_clear(looks: int) -> str:
    known = max(n for n in FALSE_CLEAR if n <= looks)
    return f"{'about' if known == looks else 'more than'} {FALSE_CLEAR[known]:.0%}"


def _remembered(path: Path) -> tuple[list[dict[str, list[int]]], list[str]]:
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except (OSError, ValueError, RecursionError) as error:
        return [], [f"{path} cannot be read, so earlier reports are not known: {' '.join(str(error).split())[:200]}"]
    looks = content.get("looks") if isinstance(content, dict) else None
    if not (isinstance(looks, list) and all(_is_look(look) for look in looks)):
        return [], [f"{path} is no list of looks, so earlier reports are not known"]
    return looks, []


def _is_look(look: object) -> bool:
    return isinstance(look, dict) and all(
        isinstance(seeds, list) and all(type(seed) is int for seed in seeds) for seeds in look.values()
    )


def _remember(path: Path, looks: Sequence[dict[str, list[int]]]) -> list[str]:
    try:
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps({"looks": looks}, sort_keys=True, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        return [f"{path} cannot be written ({error.strerror}): a later report will not know of this one"]
    return []
