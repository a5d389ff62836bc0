"""The W&B mirror: it holds what the run folder holds, and nothing that befalls it can stop or change a run."""

import json
import logging
import os
import subprocess
import sys
import textwrap
import time

import pytest

from pgx.tracker import WandbTracker, _Process

PROGRAM = """
import logging, os, signal, subprocess, sys, time
from pathlib import Path
logging.basicConfig(format="%(message)s")
from pgx.tracker import WandbTracker, _descendants

what, folder = sys.argv[1], Path(sys.argv[2])
if what == "missing":
    (folder / "wandb.py").write_text("raise ImportError('no wandb here')")
    os.environ["PYTHONPATH"] = str(folder)
tracker = WandbTracker("online" if what == "online" else "offline", "pgx", None, 3.0 if "STOP" in what else 50.0)
before = time.perf_counter()
tracker.start(folder=folder, name="a", group=None, job_type="baseline", tags=["CartPole-v1"], config={"seed": 0})
tracker.log([{"update": 1, "env_steps": 10, "return_mean": 5.0}])
assert time.perf_counter() - before < 0.5, "a tracker's methods must not wait"
if "SIG" in what:
    victim, number = what.split()
    while not list(folder.glob("wandb/*/*.wandb")):
        time.sleep(0.1)
    time.sleep(1)
    process = tracker._process._child.pid
    os.kill({"core": _descendants(process)[0], "process": process}[victim], getattr(signal, number))
    time.sleep(0.5)
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


@pytest.mark.parametrize("what", ["missing", "online", "core SIGKILL", "core SIGSTOP", "process SIGKILL", "process SIGSTOP", "nothing"])
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


def test_a_tracker_that_gave_up_asks_for_nothing(tmp_path, monkeypatch, caplog):
    """A run of a million rows must not fill the memory of a mirror that is gone."""
    (tmp_path / "wandb.py").write_text("raise ImportError('no wandb here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(_Process, "_running", None)
    tracker = WandbTracker("offline", "pgx", None, 10.0)
    with caplog.at_level(logging.WARNING, "pgx"):
        start(tracker, tmp_path)
        assert tracker._over.wait(10)
        for _ in range(100):
            tracker.log([{"env_steps": 1}])
        tracker.finish({})
    assert tracker._process._requests.empty()
    assert len(caplog.records) == 1


def test_runs_of_one_process_share_a_process_for_wandb(tmp_path):
    """Its second of imports is paid once a sweep and not once a member; and a member that fails harms no other."""
    trackers = [WandbTracker("offline", "pgx", None, 60.0) for _ in range(3)]
    for i, tracker in enumerate(trackers):
        (tmp_path / str(i)).mkdir()
        start(tracker, tmp_path / str(i))
    assert len({id(tracker._process) for tracker in trackers}) == 1
    trackers[1].image("curve", tmp_path / "missing.png")
    for i, tracker in enumerate(trackers):
        tracker.log([{"env_steps": 1, "return_mean": float(i)}])
        tracker.finish({})
    for i in (0, 2):
        values, limit = [], time.monotonic() + 10  # once in a while wandb is not done when it says so
        while not values and time.monotonic() < limit:
            values = [
                float(item.value_json)
                for record in records(tmp_path / str(i))
                if record.HasField("history")
                for item in record.history.item
                if "return_mean" in (item.key, *item.nested_key)
            ]
        assert values == [i]


def test_a_killed_run_leaves_a_whole_mirror(tmp_path):
    """SIGKILL of the run is noticed by the other process, which closes what was sent."""
    program = """
import sys, time
from pathlib import Path
from pgx.tracker import WandbTracker
tracker = WandbTracker("offline", "pgx", None, 60.0)
tracker.start(folder=Path(sys.argv[1]), name="a", group=None, job_type="x", tags=[], config={})
tracker.log([{"env_steps": i} for i in range(50)])
time.sleep(0.5)
print("sent", flush=True)
time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    process.stdout.readline()
    process.kill()
    process.wait()
    for _ in range(300):
        if list(tmp_path.glob("wandb/*/*.wandb")) and sum(r.HasField("exit") for r in records(tmp_path)):
            break
        time.sleep(0.1)
    found = records(tmp_path)
    assert sum(record.HasField("history") for record in found) == 50
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [1]


def test_nothing_is_left_among_the_temporary_files(tmp_path):
    """Of wandb's own, a run left two folders."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    requests = [
        {"do": "start", "project": "pgx", "mode": "offline", "dir": str(tmp_path)},
        {"do": "log", "rows": [{"env_steps": 1}]},
        {"do": "finish", "summary": {}, "exit_code": 0},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pgx.wandb_process"],
        input="".join(json.dumps({"run": 0, **request}) + "\n" for request in requests),
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
        check=True,
    )
    assert json.loads(done.stdout) == {"run": 0, "error": None}
    assert list(tmp_path.glob("wandb/*/*.wandb")) and not list(temporary.iterdir())
