"""The console command: one name for all programs, and what the shell completes."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from program import environment

from pgx import cli

ROOT = Path(__file__).parents[1]


def pgx(*words: str, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "import sys; from pgx.cli import main; sys.argv[0] = 'pgx'; sys.exit(main())", *words]
    return subprocess.run(command, cwd=ROOT, env=environment() | more, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", [module for module, _ in cli.COMMANDS.values()])
def test_every_command_is_a_program_that_is_there(module):
    assert callable(importlib.import_module(module).main)


def test_a_wrong_command_is_one_line_and_help_names_them_all():
    ended = pgx("trian")
    assert ended.returncode == 2 and ended.stdout == "" and len(ended.stderr.splitlines()) == 1
    assert all(name in ended.stderr and f"pgx {name}" in pgx("--help").stdout for name in cli.COMMANDS)


def test_the_words_after_the_command_are_its_own():
    """A mistake is answered as by `python -m pgx.run`."""
    ended = pgx("run", "+variant=basline")
    assert ended.returncode == 2 and "did you mean 'baseline'?" in ended.stderr


def completions(line: str) -> list[str]:
    return pgx("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line))).stdout.split()


def test_the_shell_completes_commands_groups_and_keys():
    assert completions("pgx re") == ["resume", "report"]
    assert {"env=acrobot", "env=cartpole"} <= set(completions("pgx run env="))
    assert completions("pgx run +variant=van") == ["+variant=vanilla"]
    assert "optimiser.learning_rate=" in " ".join(completions("pgx run optimiser.learn"))
    assert completions("pgx evaluate out") == []


def test_what_the_shell_is_told_to_do():
    """The function that Hydra installs is for the name `pgx`."""
    script = pgx("-sc", "install=bash").stdout
    assert script.rstrip().endswith("hydra_bash_completion pgx")
