"""The console command `pgx`: every program of the project under one name, with tab completion for `pgx run`.

eval "$(pgx -sc install=bash)"
"""

import importlib
import os
import sys

COMMANDS = {
    "run": ("pgx.run", "train: one run, or with -m a sweep"),
    "resume": ("pgx.resume", "continue an interrupted run"),
    "status": ("pgx.sweep.__main__", "the table of a sweep's members"),
    "evaluate": ("pgx.evaluate", "fresh episodes from a checkpoint"),
    "play": ("pgx.play", "an animated picture of a policy"),
    "diagnose": ("pgx.diagnose", "gradients and policies at a sweep's checkpoints"),
    "report": ("analysis.report.command", "the stability report of one or several sweeps"),
}
"""Name → (module, what it does)."""

_COMPLETION = ("-sc", "--shell-completion", "--shell_completion")


def main() -> int | None:
    """Call the command that the first word names. Exit code 2 and one line if there is no such command."""
    words = sys.argv[1:]
    if words and words[0] in _COMPLETION:
        return _complete()
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if words[0] not in COMMANDS:
        print(f"pgx: there is no command {words[0]!r}; allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module, _ = COMMANDS[words[0]]
    sys.argv = [sys.argv[0], *(words if words[0] == "status" else words[1:])]  # pgx.sweep has a command of that name
    return importlib.import_module(module).main()


def _usage() -> str:
    lines = (f"  pgx {name:10} {what}" for name, (_, what) in COMMANDS.items())
    return "\n".join(
        ["Does this policy gradient really learn, and how stably?", "", *lines, "", "pgx COMMAND --help says more"]
    )


def _complete() -> int | None:
    """Answer the shell, which asks for completions of COMP_LINE: of a command's name here, of settings in Hydra."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if len(words) > 2 or (len(words) == 2 and line.endswith(" ")):
        if words[1] != "run":
            return 0  # the others take folders, which the shell completes
        os.environ["COMP_LINE"] = line.replace(" run ", " ", 1)
    elif line:
        print(" ".join(name for name in COMMANDS if name.startswith(words[1] if len(words) == 2 else "")))
        return 0
    return importlib.import_module("pgx.run").main()


if __name__ == "__main__":
    sys.exit(main())
