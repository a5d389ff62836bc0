"""Commands that are refused because of a run folder, in this process: one line, and nothing made or changed."""

import importlib
import sys
from pathlib import Path

import pytest

from pgx import diagnose, play

TINY = ("+variant=baseline", "+env.params.max_steps_in_episode=20", "episodes_per_update=4", "num_updates=2")


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    return {
        path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*") if "__pycache__" not in path.parts
    }


def refused(command, *arguments: object, cwd: Path, capsys) -> str:
    """The one line; nothing was made, and nothing changed."""
    before = snapshot(cwd)
    with pytest.raises(SystemExit) as refusal:
        command([str(argument) for argument in arguments]) if callable(command) else command.main([*map(str, arguments)])
    out, text = capsys.readouterr()
    assert refusal.value.code == 2 and not out
    assert text.startswith("pgx: ") and text.count("\n") == 1
    assert snapshot(cwd) == before
    assert "evil" not in sys.modules
    return text


evaluate = importlib.import_module("pgx.evaluate")  # pgx.evaluate is the function
COMMANDS = (evaluate, play, diagnose)
