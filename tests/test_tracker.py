"""The W&B mirror: it holds what the run folder holds, and nothing that befalls it can stop or change a run."""

import json
import logging
import os
import platform
import re
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest
import wandb_server
import yaml
from hydra.utils import instantiate
from program import ROOT, checked, train_here
from wandb.proto.wandb_internal_pb2 import Record

from pgx import play
from pgx.errors import ConfigError
from pgx.runs.tracker import WandbTracker, _Process
from pgx.runs.wandb_process import _records

PROGRAM = """
import logging, os, signal, subprocess, sys, time
from pathlib import Path
logging.basicConfig(format="%(message)s")
from pgx.runs.tracker import WandbTracker, _descendants

what, folder = sys.argv[1], Path(sys.argv[2])
if what == "missing":
    (folder / "wandb.py").write_text("raise ImportError('no wandb here')")
    os.environ["PYTHONPATH"] = str(folder)
tracker = WandbTracker("online" if what == "online" else "offline", "pgx", None, 3.0 if "STOP" in what else 50.0)
before = time.perf_counter()
tracker.start(folder=folder, id="x", name="a", group=None, job_type="baseline", tags=[], commit=None, config={"seed": 0})
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


def start(tracker, folder, **more):
    about = {"id": "abc123", "name": "a", "group": "sweep", "job_type": "baseline", "tags": ["CartPole-v1"], "commit": "c0ffee"}
    tracker.start(folder=folder, config={"seed": 7}, **about | more)


def rows(first, last):
    return [{"update": i, "env_steps": 10 * i, "return_mean": 0.5 * i, "value_loss": None} for i in range(first, last + 1)]


def parts(folder):
    """What W&B would upload, a list a part of the run, the earliest first."""
    paths = folder.glob("wandb/offline-run-*/*.wandb")
    found = [[Record.FromString(data) for data in _records(path.read_bytes())] for path in paths]
    return sorted(found, key=lambda part: [r.run.start_time.ToNanoseconds() for r in part if r.HasField("run")])


def records(folder):
    """… of a run in one part."""
    [part] = parts(folder)
    return part


def history(part):
    return [
        {"/".join([*item.nested_key] or [item.key]): json.loads(item.value_json) for item in record.history.item}
        for record in part
        if record.HasField("history")
    ]


def one(part, kind):
    return next(getattr(record, kind) for record in part if record.HasField(kind))


def test_everything_arrives(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (4, 4)).save(tmp_path / "curve.png")
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("- +variant=baseline\n- seed=7\n")
    tracker = WandbTracker("offline", "pgx", None, 60.0)
    start(tracker, tmp_path)
    tracker.log(rows(1, 300))
    tracker.image("learning_curve", tmp_path / "curve.png", 3000)
    tracker.finish({"return_final": 1.5, "solved_at_env_steps": None, "config": {"seed": 7}})

    found = records(tmp_path)
    logged = history(found)
    arrived, sent = ([(row["env_steps"], row["return_mean"]) for row in x] for x in (logged, rows(1, 300)))
    assert arrived == sent
    assert all("value_loss" not in row for row in logged), "not applicable is absent, not 0"
    assert "learning_curve/path" in logged[-1], "the picture is in the row of the last update"
    metrics = [record.metric for record in found if record.HasField("metric")]
    assert any(metric.step_metric == "env_steps" for metric in metrics)
    run, made = one(found, "run"), one(found, "environment")
    assert (run.run_id, run.run_group, run.job_type, list(run.tags)) == ("abc123", "sweep", "baseline", ["CartPole-v1"])
    assert any(item.key == "seed" and item.value_json == "7" for item in run.config.update)
    told = [item for record in found if record.HasField("summary") for item in record.summary.update]
    names = {item.key or item.nested_key[0] for item in told}
    assert "return_final" in names and "config" not in names
    # what W&B's own page says of where a run comes from
    assert run.git.commit == made.git.commit == "c0ffee" and not run.git.remote_url
    assert (made.program, list(made.args)) == ("-m pgx.run", ["+variant=baseline", "seed=7"])
    assert made.host == run.host != "" and platform.python_version() in made.python and made.executable == sys.executable


def test_a_run_that_goes_on_is_one_run_without_doubled_rows(tmp_path):
    """Each part has what no part before it has: after a kill the first may be ahead of the checkpoint. W&B's own
    averages counted a run that had been resumed twice, and `wandb sync` put its first rows under the last."""
    for last in (8, 5, 12):  # 8 updates, killed; again from a checkpoint at 5, killed; to the end
        tracker = WandbTracker("offline", "pgx", None, 60.0)
        start(tracker, tmp_path)
        tracker.log(rows(1, last))
        tracker.finish({})
    found = parts(tmp_path)
    assert [[row["_step"] for row in history(part)] for part in found] == [[*range(1, 9)], [], [*range(9, 13)]]
    assert [one(part, "run").run_id for part in found] == ["abc123"] * 3
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run", "wandb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "Would sync 3 run(s)" in done.stdout + done.stderr, "the line of the README finds all of it"


@pytest.mark.slow
def test_wandb_makes_one_run_of_its_parts_when_they_are_synced(tmp_path):
    """With W&B's own program and as much of a server as it asks for: every update once and in order, from two parts
    synced at once, and from one that is added later."""
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (4, 4)).save(tmp_path / "film.gif")
    with wandb_server.Server() as server:
        environment = os.environ | {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": "0" * 40}
        for last in (8, 5, 12, 20):
            tracker = WandbTracker("offline", "pgx", None, 60.0)
            start(tracker, tmp_path)
            tracker.log(rows(1, last))
            tracker.video("play", tmp_path / "film.gif", 10 * last)
            tracker.finish({"return_final": last})
            if last >= 12:
                command = [sys.executable, "-m", "wandb", "sync", "wandb"]
                done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=100)
                assert done.returncode == 0 and "Finished syncing" in done.stdout + done.stderr, done
    assert list(server.rows) == ["abc123"]
    found = server.rows["abc123"]
    assert [row["update"] for row in found if "update" in row] == list(range(1, 21))
    assert [row["_step"] for row in found] == sorted({row["_step"] for row in found})
    assert server.summaries["abc123"]["return_final"] == 20


def test_a_damaged_mirror_does_not_keep_a_run_from_going_on(tmp_path, caplog):
    """Its rows up to the damage count, and the next part has the others."""
    for last in (300, 310):
        tracker = WandbTracker("offline", "pgx", None, 60.0)
        start(tracker, tmp_path)
        tracker.log(rows(1, last))
        tracker.finish({})
        if last == 300:
            [path] = tmp_path.glob("wandb/offline-run-*/*.wandb")
            data = bytearray(path.read_bytes())
            data[len(data) // 2 : len(data) // 2 + 400] = b"\xff" * 400
            path.write_bytes(data)
    assert not caplog.records
    newest, limit, found = max(tmp_path.glob("wandb/offline-run-*/*.wandb")), time.monotonic() + 20, []
    while not (found and found[-1]["_step"] == 310) and time.monotonic() < limit:  # wandb-core may still be writing
        found = history([Record.FromString(data) for data in _records(newest.read_bytes())])
    assert 1 < found[0]["_step"] < 300 and found[-1]["_step"] == 310


def test_a_run_keeps_its_id_its_film_and_its_best_checkpoint(tmp_path, monkeypatch):
    """From run.json, whatever the environment says by then; with the times of its end in the summary."""
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("WANDB_RUN_ID", "somebody-elses")
    words = ("+variant=vanilla", "episodes_per_update=4", "+env.params.max_steps_in_episode=30", "tracker=wandb")
    for updates in (30, 32):
        more = (f"num_updates={updates}", "tracker.checkpoint=true", "tracker.patience=60")
        train_here(*words, *more, folder=tmp_path)
    about = json.loads((tmp_path / "run.json").read_text())
    film = object.__new__(play.Filmed)
    film.frames, film._steps_a_second, film._steps_a_frame = [image.new("RGB", (4, 4), x) for x in ("red", "blue")], 50, 2
    assert play.track(film, tmp_path, about)

    first, second, shown = parts(tmp_path)
    ids = {one(part, "run").run_id for part in (first, second, shown)}
    assert ids == {about["tracker_id"]} and re.fullmatch("[0-9a-f]{8}", about["tracker_id"])
    assert one(first, "run").display_name == "vanilla CartPole-v1 s0"
    assert [row["update"] for part in (first, second) for row in history(part)] == [*range(1, 33)]
    ends = [
        {item.key: json.loads(item.value_json) for record in part for item in record.summary.update if item.key}
        for part in (first, second)
    ]
    assert all(end["wall_seconds"] > 0 and end["finished"] for end in ends) and ends[1]["wall_seconds"] <= about["wall_seconds"]
    assert {entry.path for entry in one(second, "artifact").manifest.contents} >= {"manifest.json", "state/bytes/0"}
    [row] = history(shown)
    assert row["play/_type"] == "video-file" and row["env_steps"] == about["env_steps"]
    assert not play.track(film, tmp_path, about | {"tracker_id": "none-here"}), "a run that W&B does not have"
    assert not play.track(film, tmp_path, about | {"tracker_id": "../../elsewhere"})


@pytest.fixture
def asked(monkeypatch):
    """What is asked of W&B's process, in place of one."""
    requests = []
    process = SimpleNamespace(open=lambda run: 0, ask=requests.append)
    monkeypatch.setattr(_Process, "running", classmethod(lambda cls: process))
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    return requests


def test_what_the_command_line_does_not_say_the_environment_does(asked, monkeypatch, tmp_path):
    tracker = lambda *words: instantiate(checked("+variant=vanilla", "tracker=wandb", *words)["tracker"])
    start(tracker(), tmp_path)
    assert (asked[-1]["mode"], asked[-1]["project"], asked[-1]["name"], asked[-1]["group"]) == ("offline", "pgx", "a", "sweep")
    for name, x in {"MODE": "online", "PROJECT": "mine", "NAME": "n"}.items():
        monkeypatch.setenv(f"WANDB_{name}", x)
    start(tracker(), tmp_path)
    assert (asked[-1]["mode"], asked[-1]["project"], asked[-1]["name"]) == ("online", "mine", "n")
    said = {"mode": "offline", "project": "other", "entity": "us", "name": "a run", "group": "g", "notes": "why"}
    start(tracker(*(f"tracker.{key}='{x}'" for key, x in said.items()), "tracker.tags=[x,CartPole-v1]"), tmp_path)
    assert said.items() <= asked[-1].items() and asked[-1]["tags"] == ["CartPole-v1", "x"]
    count = len(asked)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    disabled = tracker()
    start(disabled, tmp_path)
    disabled.log(rows(1, 2))
    disabled.finish({})
    assert len(asked) == count, "nothing is started, and nothing waited for"


def test_a_sweep_agent_of_wandb_names_its_runs_itself(monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "chosen")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    tracker = WandbTracker()
    assert tracker.new_id() != "chosen" and tracker.new_id() != tracker.new_id()
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    assert tracker.new_id() == "chosen"


WRONG = [
    "mode=onlin",
    "mode=1",
    "project=[1]",
    "name=''",
    "tags=a",
    "tags=[1]",
    "patience=long",
    "patience=-1",
    "checkpoint=yes",
]


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_setting_of_the_tracker_is_refused_by_name(words):
    with pytest.raises(ConfigError, match=rf"tracker\.{words.split('=')[0]}: .*allowed"):
        checked("+variant=vanilla", "tracker=wandb", f"tracker.{words}")


def test_the_example_of_a_sweep_of_wandbs_own_is_one_that_an_agent_can_run():
    """With W&B's own code for the words after the program's name."""
    from wandb.sdk.launch.sweeps import utils

    sweep = yaml.safe_load((ROOT / "experiments" / "wandb_sweep.yaml").read_text())
    chosen = {}
    for name, parameter in sweep["parameters"].items():
        x = parameter.get("value", parameter.get("values", [parameter.get("max")])[-1])
        chosen[name] = {"value": x}
    words = utils.create_sweep_command_args({"args": chosen})["args_no_hyphens"]
    command = [word for part in sweep["command"] for word in (words if part == "${args_no_hyphens}" else [part])]
    assert command[:4] == ["${env}", "python", "-m", "${program}"] and sweep["program"] == "pgx.run"
    config = checked("tracker=wandb", *command[4:])
    assert config["variant"] == "reward_to_go" and config["optimiser"]["learning_rate"] == 0.1 and config["whiten"] is True
    assert config["tracker"]["mode"] == "online" and sweep["project"] == "pgx"
    assert sweep["metric"]["name"] == "return_final_iqm"


@pytest.mark.parametrize(
    "what", ["missing", "online", "core SIGKILL", "core SIGSTOP", "process SIGKILL", "process SIGSTOP", "nothing"]
)
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
    assert all(line.startswith("W&B: ") and "the run continues" in line for line in warnings)
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
            tracker.log([{"update": 1, "env_steps": 1}])
        tracker.finish({})
    assert tracker._process._requests.empty()
    assert len(caplog.records) == 1


def test_runs_of_one_process_share_a_process_for_wandb(tmp_path):
    """Its second of imports is paid once a sweep and not once a member; and a member that fails harms no other."""
    trackers = [WandbTracker("offline", "pgx", None, 60.0) for _ in range(3)]
    for i, tracker in enumerate(trackers):
        (tmp_path / str(i)).mkdir()
        start(tracker, tmp_path / str(i), id=f"run-{i}")
    assert len({id(tracker._process) for tracker in trackers}) == 1
    trackers[1].image("curve", tmp_path / "missing.png", 0)
    for i, tracker in enumerate(trackers):
        tracker.log([{"update": 1, "env_steps": 1, "return_mean": float(i)}])
        tracker.finish({})
    for i in (0, 2):
        values, limit = [], time.monotonic() + 10  # once in a while wandb is not done when it says so
        while not values and time.monotonic() < limit:
            values = [row["return_mean"] for row in history(records(tmp_path / str(i)))]
        assert values == [i]


def test_a_killed_run_leaves_a_whole_mirror(tmp_path):
    """SIGKILL of the run is noticed by the other process, which closes what was sent."""
    program = """
import sys, time
from pathlib import Path
from pgx.runs.tracker import WandbTracker
tracker = WandbTracker("offline", "pgx", None, 60.0)
tracker.start(folder=Path(sys.argv[1]), id="x", name="a", group=None, job_type="x", tags=[], commit=None, config={})
tracker.log([{"update": i, "env_steps": i} for i in range(1, 51)])
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
        {"do": "start", "project": "pgx", "mode": "offline", "dir": str(tmp_path), "id": "x", "commit": None},
        {"do": "log", "rows": [{"update": 1, "env_steps": 1}]},
        {"do": "finish", "summary": {}, "exit_code": 0},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pgx.runs.wandb_process"],
        input="".join(json.dumps({"run": 0, **request}) + "\n" for request in requests),
        capture_output=True,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
        check=True,
    )
    assert json.loads(done.stdout) == {"run": 0, "error": None}
    assert list(tmp_path.glob("wandb/*/*.wandb")) and not list(temporary.iterdir())
