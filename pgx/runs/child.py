"""Processes beside the run, for Python that would take turns with it for the interpreter's lock."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pgx


def start(module: str, **environment: str) -> subprocess.Popen[str]:
    """`python -m module`, with lines of text on stdin and stdout; variables that are set already take precedence over
    `environment`.

    Ctrl-C does not reach it: that is for the run, which then finishes what it has begun.
    """
    package = str(Path(pgx.__file__).parents[1])
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment | os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )


def answers() -> TextIO:
    """The stream for the child's answers, asked for before anything else: what a library prints is no answer.

    From here on the child ends when nobody is left to ask for anything: Slurm's signals go to all processes of a job.
    """
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return stdout
