"""What became of a sweep's members: a table for people, ledger.csv for programs."""

import csv
import io
from pathlib import Path
from typing import Any

from pgx import record
from pgx.files import write_atomically
from pgx.sweep import members

COLUMNS = ("member", "overrides", "status", "env_steps", "return_final", "solved_at", "reason", "log")
FILE = "ledger.csv"
GOOD = ("completed", "running", "waiting")
"""Everything else makes the exit code 1."""


def read(sweep: Path) -> list[dict[str, Any]]:
    """One row a member, from members.json and the run folders."""
    entries = members.read(sweep)
    return [_row(sweep / name, entry) for name, entry in sorted(entries.items(), key=lambda item: _order(item[0]))]


def _order(name: str) -> tuple:
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def _row(folder: Path, entry: dict[str, Any]) -> dict[str, Any]:
    row = {"member": folder.name, "overrides": " ".join(entry["overrides"]), "status": "waiting"}
    summary = record.read_summary(folder)
    if summary is not None:
        status, reason = summary["status"], summary["error"] or summary.get("warning")
        if status == "running":
            env_steps = record.last_env_steps(folder)
            if not record.at_work(folder):
                status, reason = "killed", "its process is gone"
        else:
            env_steps = summary.get("env_steps")
        row |= {"status": status, "env_steps": env_steps, "reason": reason}
        row |= {"return_final": summary["return_final"], "solved_at": summary.get("solved_at_env_steps")}
        row["log"] = next((str(path) for path in folder.glob("*.log")), None) if status == "failed" else None
    return {column: row.get(column) for column in COLUMNS}


def write(sweep: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(sweep / FILE, text.getvalue())


def table(rows: list[dict[str, Any]], most: int = 60) -> str:
    """The rows as text. Of more than `most`, those that went well are left out first."""
    shown = rows
    if len(rows) > most:
        shown = [row for row in rows if row["status"] != "completed"][:most]
    cells = [["member", "overrides", "status", "env steps", "return", "solved at", "reason"]]
    for row in shown:
        reason = row["reason"] and (row["reason"] + (f" ({row['log']})" if row["log"] else ""))
        numbers = [_number(row["env_steps"], ",d"), _number(row["return_final"], ".1f"), _number(row["solved_at"], ",d")]
        cells.append([row["member"], row["overrides"], row["status"], *numbers, reason or ""])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = (3, 4, 5)
    lines = [
        "  ".join(cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    if len(shown) < len(rows):
        lines.append(f"… and {len(rows) - len(shown)} more, all in {FILE}")
    return "\n".join(line.rstrip() for line in lines)


def counts(rows: list[dict[str, Any]]) -> str:
    """`8 members: 7 completed, 1 failed`."""
    statuses = [row["status"] for row in rows]
    parts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{len(rows)} member{'s' * (len(rows) != 1)}: {parts}"


def exit_code(rows: list[dict[str, Any]]) -> int:
    return int(any(row["status"] not in GOOD for row in rows))


def show(sweep: Path) -> int:
    """Write ledger.csv, print the table; the exit code."""
    rows = read(sweep)
    write(sweep, rows)
    print(table(rows))
    print(f"{counts(rows)}; files in {sweep}")
    return exit_code(rows)


def _number(x: Any, form: str) -> str:
    return "" if x is None else format(x, form)
