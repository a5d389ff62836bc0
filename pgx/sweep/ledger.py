"""The ledger of a sweep, what became of its members: a table for people, ledger.csv for programs."""

import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgx.runs import record
from pgx.runs.files import write_atomically
from pgx.sweep import trials
from pgx.sweep.columns import aligned
from pgx.sweep.index import Index, Run, overrides_of

COLUMNS = ("member", "label", "overrides", "status", "env_steps", "return_final", "solved_at", "reason", "log", "trial")
FILE = "ledger.csv"
GOOD = ("completed", "running", "waiting")
"""Everything else makes the exit code 1."""


def read(index: Index, tuning: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """One row a member, from the index and the run folders; one a run, where there is no members.json. `tuning`: the
    trials that they belong to."""
    overrides = {name: entry.overrides for name, entry in index.entries.items()}
    if not index.there:
        overrides = {name: overrides_of(index.sweep / name) for name in index.runs}
    return [
        _row(index.sweep, name, x, index.runs[name]) | {"trial": trials.number_of(tuning, x)} for name, x in overrides.items()
    ]


def _row(sweep: Path, name: str, overrides: list[str], run: Run) -> dict[str, Any]:
    row = {"member": name, "overrides": " ".join(overrides), "status": "waiting"}
    summary, folder = run.summary, sweep / name
    if run.problem is not None:
        row |= {"status": "broken", "reason": run.problem}
    elif summary is not None:
        status, reason = summary["status"], summary["error"] or summary.get("warning")
        if status == "running":
            env_steps = record.last_env_steps(folder)
            if not record.at_work(folder):
                status, reason = "killed", "its process is gone"
        else:
            env_steps = summary.get("env_steps")
        row |= {"status": status, "env_steps": env_steps, "reason": reason and shortened(reason)}
        row |= {"label": summary.get("label", summary["variant"]), "return_final": summary["return_final"]}
        row |= {"solved_at": summary.get("solved_at_env_steps")}
        row["log"] = next((str(path) for path in folder.glob("*.log")), None) if status == "failed" else None
    return {column: row.get(column) for column in COLUMNS}


def shortened(reason: Any, most: int = 500) -> str:
    """A text cut to what a table can show."""
    text = " ".join(str(reason)[: 2 * most].split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def write(sweep: Path, rows: list[dict[str, Any]]) -> None:
    """ledger.csv, or a line that says why there is none: the table is what was asked for."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    try:
        write_atomically(sweep / FILE, text.getvalue())
    except OSError as error:
        print(f"pgx: {sweep / FILE} is not written: {error.strerror}", file=sys.stderr)


def table(rows: list[dict[str, Any]], most: int = 60) -> str:
    """The rows as text. Of more than `most`, those that went well are left out first."""
    shown = rows
    if len(rows) > most:
        shown = [row for row in rows if row["status"] != "completed"][:most]
    cells = [["member", "overrides", "status", "env steps", "return", "solved at", "reason"]]
    for row in shown:
        reason = row["reason"] and (row["reason"] + (f" ({row['log']})" if row["log"] else ""))
        numbers = [_number(row["env_steps"], ",d"), _number(row["return_final"], ".1f"), _number(row["solved_at"], ",d")]
        exchanged = (row["label"] or "").partition(" ")[2]  # of the variant's parts
        cells.append([row["member"], f"{row['overrides']} {exchanged}".strip(), row["status"], *numbers, reason or ""])
    more = f"\n… and {len(rows) - len(shown)} more, all in {FILE}" if len(shown) < len(rows) else ""
    return aligned(cells, right=(3, 4, 5)) + more


def counts(rows: list[dict[str, Any]]) -> str:
    """`8 members: 7 completed, 1 failed`."""
    statuses = [row["status"] for row in rows]
    parts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{len(rows)} member{'s' * (len(rows) != 1)}: {parts}"


def exit_code(rows: list[dict[str, Any]]) -> int:
    return int(any(row["status"] not in GOOD for row in rows))


def show(index: Index, reasons: Mapping[str, str] | None = None) -> int:
    """Write ledger.csv, print the table; the exit code. `reasons`: of members whose run.json does not say any."""
    tuning = trials.read(index.sweep)
    rows = read(index, tuning)
    for row in rows:
        row["reason"] = row["reason"] or shortened((reasons or {}).get(row["member"], ""))
    if shown := [row for row in rows if tuning is None or row["status"] != "completed"]:
        print(table(shown))
    if index.there:
        write(index.sweep, rows)
        print(f"{counts(rows)}; files in {index.sweep}")
    else:
        print(f"{counts(rows).replace('member', 'run', 1)}; {index.sweep} has no members.json: these are the runs below it")
    if tuning is not None:
        print(trials.summary(tuning, index.sweep))
    return exit_code(rows)


def _number(x: Any, form: str) -> str:
    return "" if x is None else format(x, form)
