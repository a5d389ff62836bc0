"""The origin of the runs: their commands and their code, and what is wrong with them."""

import json
import math
import re
import shlex
from pathlib import Path

import pandas as pd

from analysis import text
from analysis.hygiene import ranges
from analysis.load import RUNS, STATUSES
from analysis.report.sections.display import escaped
from analysis.report.study import Study


def headline(study: Study) -> str:
    """The subject of a report: folders, and what varies in them."""
    if len(study.sweeps) > 1:
        return text.listed(study.sweeps)
    folder = _sweep_folder(study.runs)
    # Hydra calls a sweep by the time of day, in a folder of the day
    name = "/".join(folder.parts[-2:]) if re.fullmatch(r"\d\d-\d\d-\d\d(-\d+)?", folder.name) else folder.name
    return f"{name}: {' × '.join(study.by)} on {text.listed(study.envs)}"


def title(study: Study) -> str:
    runs = study.runs
    return (f"# {escaped(f'Stability report: {headline(study)}')}\n\n{len(runs)} runs of "
            f"{escaped('; '.join(study.families))} on {text.listed(study.envs)}, seeds {ranges(runs['seed'])}.")  # fmt: skip


def _sweep_folder(runs: pd.DataFrame) -> Path:
    folder = Path(runs["folder"].iloc[0])
    return (folder.parent if len(runs) > 1 else folder).resolve()


def commands(study: Study, most: int = 5) -> str:
    """The commands that were typed, as Hydra has them beside the runs: one command a sweep if its runs are all of its
    combinations."""
    lines = []
    for _, runs in study.runs.groupby("sweep", sort=False):
        known = [_overrides(Path(folder)) for folder in runs["folder"]]
        known = [overrides for overrides in known if overrides]
        together = command_of(known)
        every = [together] if together else ["python -m pgx.run " + shlex.join(overrides) for overrides in known]
        lines += every[:most]
        if len(every) > most:
            lines.append(f"# … and {len(every) - most} more: .hydra/overrides.yaml in every run's folder")
    if not lines:
        return "The commands that made these runs are not recorded."
    return "Made by, and to be made again with the code above:\n\n```\n" + "\n".join(lines) + "\n```"


def _overrides(folder: Path) -> list[str]:
    """A run's command line; empty where it is not recorded, or not as plainly as Hydra does it."""
    try:
        lines = (folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    if not all(line.startswith("- ") and not line.startswith('- "') for line in lines):
        return []
    return [x[1:-1].replace("''", "'") if x[:1] == "'" else x for x in (line[2:] for line in lines)]


def command_of(known: list[list[str]]) -> str:
    """The multirun that makes exactly these; empty if there is none so simple."""
    values: dict[str, list[str]] = {}
    for overrides in known:
        for override in overrides:
            key, _, value = override.partition("=")
            values.setdefault(key, []).append(value)
    if not known or any(len(choices) != len(known) for choices in values.values()):
        return ""
    distinct = {key: list(dict.fromkeys(choices)) for key, choices in values.items()}
    varied = [choices for choices in distinct.values() if len(choices) > 1]
    plain = not any(re.search(r"[,\[{('\"]", x) for choices in varied for x in choices)
    if not plain or math.prod(map(len, varied)) != len(set(map(tuple, known))):
        return ""
    words = [f"{key}={_values(choices)}" for key, choices in distinct.items()]
    return f"python -m pgx.run {'-m ' if varied else ''}{shlex.join(words)}"


def _values(choices: list[str]) -> str:
    numbers = [int(x) for x in choices] if all(x.isdecimal() for x in choices) else []
    if len(numbers) > 3 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"range({numbers[0]},{numbers[-1] + 1})"
    return ",".join(choices)


def provenance(study: Study) -> pd.DataFrame:
    rows = []
    for sweep, runs in study.runs.groupby("sweep", sort=False):
        abouts = [about(folder) for folder in runs["folder"]]
        where = Path(runs["folder"].iloc[0]).parent if len(runs) > 1 else Path(runs["folder"].iloc[0])
        versions = sorted({f"{k} {v}" for about in abouts for k, v in (about.get("versions") or {}).items()})
        rows.append(
            {
                "": sweep,
                "folder": str(where),
                "runs": len(runs),
                "seeds": ranges(runs["seed"]),
                "code": ", ".join(
                    x[:10] + ("+ (with changes)" if x.endswith("+") else "")
                    for x in dict.fromkeys(x for path in _set(runs["git_sha"]) for x in path.split(" → "))
                ),
                "device": ", ".join(_set(runs["device"])),
                "executor": ", ".join(sorted({str(about.get("executor", "")) for about in abouts} - {""})),
                "packages": ", ".join(versions),
            }
        )
    return pd.DataFrame(
        [[name, *(row[name] for row in rows)] for name in rows[0] if name], columns=["", *(row[""] for row in rows)]
    )


def about(folder: str) -> dict:
    try:
        content = json.loads((Path(folder) / "run.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _set(column: pd.Series) -> list[str]:
    return sorted(set(column.dropna()) - {""}) or ["unknown"]


def differences_of_config(study: Study, most: int = 12) -> str:
    """Configuration values that differ, beside variant, environment, seed and budget."""
    groups = study.runs.assign(family=study.runs["variant"].map(study.family_of)).groupby("family")
    varied = list(study.runs.columns[len(RUNS) :])
    keys = [key for key in varied if (groups[key].nunique(dropna=False) > 1).any()]
    implied = [f"`{key}`" for key in varied if key not in keys]
    of_variant = f" What tells the groups apart: {', '.join(implied)}." if implied else ""
    if not keys:
        same = "Apart from variant, environment, seed and budget, all runs have the same configuration."
        return same + of_variant
    lines = []
    for key in keys[:most]:
        of_value = study.runs.assign(value=study.runs[key].map(_short)).groupby("value")["variant"]
        values = [f"`{value}` ({text.listed(sorted(set(variants)))})" for value, variants in of_value]
        lines.append(f"- `{key}`: {', '.join(values[:6])}{', …' if len(values) > 6 else ''}")
    if len(keys) > most:
        lines.append(f"- … and {len(keys) - most} more, in the table `runs`")
    return "The runs' configurations differ in:\n\n" + "\n".join(lines) + f"\n\n{of_variant}"


def _short(x: object) -> str:
    words = "not set" if x is None or x != x else str(x)
    return words if len(words) <= 48 else f"{words[:45]}…"


def readable_ledger(study: Study) -> pd.DataFrame:
    ledger = study.ledger
    statuses = [status for status in STATUSES if ledger[status].any()]
    reasons = ledger["reasons"].map(lambda said: said if len(said) <= 300 else f"{said[:297]}…")
    kept = ledger[["variant", "env", "runs", "seeds", *statuses]]
    return kept.assign(reasons=reasons) if reasons.any() else kept


def warnings(study: Study) -> str:
    """The warnings. They are computed after all else above the verdict, so that every problem is known."""
    _ = study.primary, study.outcomes
    if not study.warnings:
        return "Nothing speaks against using these runs: all are completed, and replicates differ in their seed alone."
    sentences = (line[:1].upper() + line[1:].rstrip(".") + "." for line in study.warnings)
    return "> **Warnings**\n>\n" + "\n".join(f"> - {escaped(line)}" for line in sentences)
