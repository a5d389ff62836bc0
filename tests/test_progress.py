"""What a person sees of a run in a terminal."""

import os
import pty
import re
import select
import subprocess
import sys
import termios
from types import SimpleNamespace

import numpy as np
from program import environment

from pgx.progress import beside_the_bar
from pgx.run import _progress_bar, _status_line
from pgx.runs.record import History


def test_a_terminal_shows_a_live_bar(tmp_path):
    """Update, speed and return while it runs: a run that goes nowhere should be stopped after seconds."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    overrides = ("+variant=baseline", "num_updates=30", "updates_per_chunk=5", "tracker=none")
    command = [sys.executable, "-m", "pgx.run", *overrides, "hydra.run.dir=r"]
    pipes = {"stdout": subprocess.PIPE, "stderr": theirs, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), **pipes)
    os.close(theirs)
    shown = b""
    try:
        while select.select([ours], [], [], 100)[0]:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # Linux's way to say that the other end is closed
                break
        out, _ = process.communicate(timeout=10)
    finally:
        process.kill()
        os.close(ours)
    text = shown.decode()
    assert process.returncode == 0 and out.startswith("baseline on CartPole-v1, seed 0: return "), text
    assert re.search(r"baseline +\d+% .*return \d+\.\d, [\d.kM]+ steps/s, update 5", text), text
    assert "update 30" in text


def shown_by_now(screen) -> str:
    """All that was written to a terminal: what is written at once may be read in pieces."""
    text = b""
    while select.select([screen], [], [], 0.1)[0]:
        text += screen.read(4096)
    return text.decode()


def test_a_progress_bar_of_80_columns_has_a_bar(monkeypatch):
    """There were one to three cells of it; and the first seconds, while XLA compiles, it stood at 0 % without a word."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with open(theirs, "w") as terminal, open(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stderr", terminal)
        for label in ("baseline", "reward_to_go", "baseline (estimator=vanilla)"):
            config = {"num_env_steps": 1_000_000, "num_updates": None}
            history = History([{"env_steps": 500_000, "return_recent": 475.12}] * 1_234, 475.0)
            recording = SimpleNamespace(config=config, history=history, summary={"label": label})
            with _status_line(f"{label}: compiling …"):
                assert screen.read(4096).decode().strip("\r") == f"{label}: compiling …"
            with _progress_bar(recording) as show:
                show(SimpleNamespace(rows={"env_steps": np.array([300_000])}, seconds=0.25))
                line = shown_by_now(screen).split("\r")[-1]
            shown_by_now(screen)
            bar = line.split("|")[1]
            assert len(line) <= 80 and 12 <= len(bar) <= 32, line
            assert "return 475.1" in line or "vanilla" in label
    assert beside_the_bar(("return 475.1", "1.2M steps/s", "update 1,234"), 60) == "return 475.1, 1.2M steps/s, update 1,234"
