"""The W&B mirror: it holds what the run folder holds, and nothing that befalls it can stop or change a run."""

import json
import logging
import os
import subprocess
import sys
import textwrap

import pytest

from pgx.tracker import WandbTracker

PROGRAM = """
import logging, os, signal, subprocess, sys, time
from pathlib import Path
logging.basicConfig(format="%(message)s")
from pgx.tracker import WandbTracker

what, folder = sys.argv[1], Path(sys.argv[2])
if what == "missing":
    sys.modules["wandb"] = None
tracker = WandbTracker("online" if what == "online" else "offline", "pgx", None, 3.0)
before = time.perf_counter()
tracker.start(folder=folder, name="a", group=None, job_type="baseline", tags=["CartPole-v1"], config={"seed": 0})
tracker.log([{"update": 1, "env_steps": 10, "return_mean": 5.0}])
assert time.perf_counter() - before < 0.5, "a tracker's methods must not wait"
if what in ("SIGKILL", "SIGSTOP"):
    core = []
    while not core:
        table = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,comm="], capture_output=True, text=True).stdout
        rows = [line.split(None, 2) for line in table.splitlines()]
        core = [int(pid) for pid, parent, name in rows if int(parent) == os.getpid() and "wandb" in name]
        time.sleep(0.1)
    time.sleep(1)
    os.kill(core[0], getattr(signal, what))
    tracker.log([{"update": 2, "env_steps": 20, "return_mean": 6.0}])
tracker.finish({"status": "completed"})
print("the run is over")
"""


def start(tracker, folder):
    tracker.start(folder=folder, name="a", group="sweep", job_type="baseline", tags=["CartPole-v1"], config={"seed": 7})


def records(folder):
    """What W&B would upload."""
    from wandb.proto import wandb_internal_pb2

    [path] = folder.glob("wandb/offline-run-*/*.wandb")
    found = []
    for data in leveldb_log(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        found.append(record)
    return found


def leveldb_log(data):
    """LevelDB's log format after 7 bytes of W&B's own: blocks of 32 kB, of (crc, length, kind, bytes)."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # too little left in the block for a header
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_everything_arrives(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (4, 4)).save(tmp_path / "curve.png")
    tracker = WandbTracker("offline", "pgx", None, 60.0)
    start(tracker, tmp_path)
    rows = [{"update": i, "env_steps": 10 * i, "return_mean": 0.5 * i, "value_loss": None} for i in range(1, 301)]
    tracker.log(rows)
    tracker.image("learning_curve", tmp_path / "curve.png")
    tracker.finish({"return_final": 1.5, "solved_at_env_steps": None})

    found = records(tmp_path)
    history = [
        {"/".join([*item.nested_key] or [item.key]): json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.HasField("history")
    ]
    logged = [row for row in history if "return_mean" in row]
    assert [(row["env_steps"], row["return_mean"]) for row in logged] == [(r["env_steps"], r["return_mean"]) for r in rows]
    assert all("value_loss" not in row for row in logged), "not applicable is absent, not 0"
    assert any("learning_curve" in str(row) for row in history)
    metrics = [record.metric for record in found if record.HasField("metric")]
    assert any(metric.step_metric == "env_steps" for metric in metrics)
    [run] = [record.run for record in found if record.HasField("run")][:1]
    assert (run.run_group, run.job_type, list(run.tags)) == ("sweep", "baseline", ["CartPole-v1"])
    assert any(item.key == "seed" and item.value_json == "7" for item in run.config.update)
    summary = [item for record in found if record.HasField("summary") for item in record.summary.update]
    assert any("return_final" in (item.key, *item.nested_key) for item in summary)


@pytest.mark.parametrize("what", ["missing", "online", "SIGKILL", "SIGSTOP", "nothing"])
def test_whatever_happens_the_run_goes_on(what, tmp_path):
    """One warning at the most, no traceback, exit code 0, soon; and no secret in the folder."""
    environment = {name: x for name, x in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    if what != "online":
        environment["WANDB_API_KEY"] = "sekret" + "0" * 34
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), what, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the run is over\n"
    warnings = done.stderr.splitlines()
    assert len(warnings) == (0 if what == "nothing" else 1), done.stderr
    assert all(line.startswith("W&B: ") and "the run goes on" in line for line in warnings)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sekret" not in path.read_bytes(), path


def test_a_tracker_that_gave_up_keeps_nothing(tmp_path, monkeypatch, caplog):
    """A run of a million rows must not fill the memory of a mirror that is gone."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    tracker = WandbTracker("offline", "pgx", None, 10.0)
    with caplog.at_level(logging.WARNING, "pgx"):
        start(tracker, tmp_path)
        while not tracker._given_up.is_set():
            pass
        for _ in range(100):
            tracker.log([{"env_steps": 1}])
        assert tracker._work.empty()
        tracker.finish({})
    assert len(caplog.records) == 1
