"""Running pgx as a person does, for the tests: as a process, or composed in this one."""

import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from pgx import configuration
from pgx.config import CONF
from pgx.errors import ConfigError
from pgx.gate import Gate, one_line_errors

ROOT = Path(__file__).resolve().parent.parent
XLA_CACHE = Path(tempfile.gettempdir()) / f"pgx-tests-xla-{os.getuid()}"
"""Shared by all tests and sessions: most of a short run is compiling."""


def environment(**more: str) -> dict[str, str]:
    """For a pgx process: this tree's pgx, and none of the person's own settings."""
    unset = ("HYDRA_FULL_ERROR", "PYTHONDONTWRITEBYTECODE", "PJRT_NPROC", "XLA_FLAGS")
    own = {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))), "JAX_COMPILATION_CACHE_DIR": str(XLA_CACHE)}
    return {key: x for key, x in os.environ.items() if key not in unset} | own | {"JAX_PLATFORMS": "cpu"} | more


def start(*overrides: str, cwd: Path, **more: str) -> subprocess.Popen:
    """`python -m pgx.run …` in its own process."""
    command = [sys.executable, "-m", "pgx.run", *overrides, "tracker=none"]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(**more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen, timeout: float = 200) -> subprocess.CompletedProcess:
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def pgx(*overrides: str, cwd: Path, **more: str) -> subprocess.CompletedProcess:
    return finish(start(*overrides, cwd=cwd, **more))


def run_module(name: str, *words: object, cwd: Path, **more: str) -> subprocess.CompletedProcess:
    """`python -m pgx.NAME WORDS` in its own process."""
    command = [sys.executable, "-m", f"pgx.{name}", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


@contextlib.contextmanager
def composed(*overrides: str) -> Iterator[Any]:
    """Hydra's whole configuration for these overrides, as its callbacks get it."""
    overrides = ("tracker=none", *overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield compose("config", list(overrides), return_hydra_config=True)


def checked(*overrides: str) -> dict[str, Any]:
    """The configuration as the program gets it."""
    return configuration("tracker=none", *overrides)


def gate(*overrides: str) -> None:
    """What stands before a run. Ends the program, or lets the run begin."""
    with one_line_errors(), composed(*overrides) as config:
        Gate().on_run_start(config)


def refusal(*overrides: str) -> str:
    """The one line that the checks refuse this configuration with."""
    with pytest.raises(ConfigError) as error:
        checked(*overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def train_here(*overrides: str, folder: Path) -> dict[str, Any]:
    """A run in this process, without the two seconds that starting one takes; its summary."""
    from pgx.run import run

    return run(checked(*overrides), folder)


def rows(folder: Path) -> list[dict[str, str]]:
    """metrics.csv as text: an empty cell is not a zero."""
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def summary(folder: Path) -> dict[str, Any]:
    """run.json, which must be JSON as everybody reads it: no NaN."""
    return json.loads((folder / "run.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} in run.json"))


def stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of every file of every member of a sweep."""
    files = [path for path in folder.glob("[!.]*/**/*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def results(folder: Path) -> dict[tuple[str, int], list[Any]]:
    """The deterministic files of every member by its overrides: metrics, and the newest checkpoint's numbers."""
    found = {}
    for entry in (path for path in folder.iterdir() if (path / "run.json").exists()):
        newest = max((path for path in (entry / "checkpoints").iterdir() if path.name.isdecimal()), key=lambda p: int(p.name))
        member = summary(entry)
        key = (member["variant"], member["seed"])
        found[key] = [(entry / "metrics.csv").read_bytes(), newest.name, (newest / "state/bytes/0").read_bytes()]
    return found


def ledger(folder: Path) -> list[dict[str, str]]:
    """ledger.csv as text."""
    with open(folder / "ledger.csv", newline="") as file:
        return list(csv.DictReader(file))


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(x) for x in listed.split()]
