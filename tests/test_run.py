"""What a run leaves behind is what every figure and every claim is made from: these tests ask the run folder the
questions that a sceptical reader would."""

import errno
import io
import itertools
import logging
import math
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from hydra.types import RunMode
from omegaconf import read_write
from PIL import Image
from program import checked, composed, environment, finish, pgx, rows, start, summary, train_here

from pgx import run
from pgx.build import build, skeleton
from pgx.config import options
from pgx.errors import RunFailed
from pgx.loop import Keys, Limits, chunk
from pgx.metrics import COLUMNS
from pgx.progress import beside_the_bar
from pgx.run import _progress_bar, _shown
from pgx.runs import curve, record
from pgx.runs.checkpoint import Checkpoints
from pgx.runs.curve import NAME, Artist, draw
from pgx.runs.record import History

COMMAND = ("+variant=baseline", "num_updates=30", "diagnose_every=5", "updates_per_chunk=20")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same command twice, another seed, other chunks, another variant: {name: (folder, finished process)}."""
    root = tmp_path_factory.mktemp("runs")
    more = {
        "first": (),
        "again": (),
        "seed": ("seed=1", "env.reward_threshold=25"),
        "chunks": ("updates_per_chunk=7", "checkpoint_every=4", "checkpoints_kept=2"),
    }
    done, names = {}, list(more)
    for pair in (names[:2], names[2:]):
        started = [start(*COMMAND, *more[name], f"hydra.run.dir={name}", cwd=root) for name in pair]
        done |= {name: (root / name, finish(process)) for name, process in zip(pair, started, strict=True)}
    assert all(process.returncode == 0 for _, process in done.values()), done["first"][1].stderr
    return done


@pytest.fixture(scope="module")
def folder(runs):
    return runs["first"][0]


# metrics.csv


def test_one_row_an_update_with_exactly_the_documented_columns(folder):
    """Whoever reads the file relies on COLUMNS, and on row k being update k."""
    table = rows(folder)
    assert list(table[0]) == list(COLUMNS)
    assert [row["update"] for row in table] == [str(k) for k in range(1, 31)]


def test_the_same_command_gives_the_same_bytes(runs):
    """Without this no result can be checked by running it again. It also keeps timings out of the file."""
    first = (runs["first"][0] / "metrics.csv").read_bytes()
    assert (runs["again"][0] / "metrics.csv").read_bytes() == first
    other = (runs["seed"][0] / "metrics.csv").read_bytes()
    assert len(other.splitlines()) == 31 and not set(other.splitlines()[1:]) & set(first.splitlines()[1:])


def test_chunks_and_checkpoints_do_not_change_a_byte(runs):
    """They are about convenience: a run that somebody watches more closely must not be another run."""
    (first, _), (other, _) = runs["first"], runs["chunks"]
    assert (other / "metrics.csv").read_bytes() == (first / "metrics.csv").read_bytes()
    assert summary(other)["config_hash"] == summary(first)["config_hash"]


def test_env_steps_and_episodes_are_running_totals(folder):
    """The horizontal axis of every comparison: Σ length_mean · episodes, whole numbers."""
    steps = 0
    for k, row in enumerate(rows(folder), 1):
        steps += round(float(row["length_mean"]) * 10)
        assert (row["env_steps"], row["episodes"]) == (str(steps), str(10 * k))


def test_what_does_not_apply_is_empty(folder, tmp_path):
    """A zero would be averaged, and a zero explained variance means something."""
    table = rows(folder)
    for row in table:
        diagnosed = int(row["update"]) % 5 == 0
        assert (row["grad_variance"] != "") == (row["grad_snr"] != "") == diagnosed
        assert (row["return_recent"] != "") == (int(row["update"]) >= 10)  # 100 episodes
    empty_at_times = ("grad_variance", "grad_snr", "return_recent")
    assert all(cell != "" for row in table for name, cell in row.items() if name not in empty_at_times)
    train_here("+variant=vanilla", "num_updates=2", folder=tmp_path)
    for row in rows(tmp_path):
        assert row["value_loss"] == row["explained_variance"] == ""


def test_cells_are_the_float32_numbers_of_the_program(folder):
    """Shortest text that reads back as the same float32: no digit is lost, and none is invented."""
    for row in rows(folder):
        for cell in row.values():
            assert cell == "" or cell == (str(int(cell)) if cell.isdecimal() else str(np.float32(cell)))


# When a run ends


@pytest.mark.parametrize(
    "budget",
    [
        "num_env_steps=700",
        "num_env_steps=700 num_updates=500",
        "num_env_steps=1e9 num_updates=3",
        "num_env_steps=null num_updates=3",
    ],
)
def test_a_run_ends_with_the_first_update_that_reaches_a_budget(budget, tmp_path):
    """Variants are compared at equal budgets; a run that stops early or late is compared with itself at another."""
    train_here("+variant=reward_to_go", *budget.split(), "updates_per_chunk=2", folder=tmp_path)
    steps = [int(row["env_steps"]) for row in rows(tmp_path)]
    if "700" in budget:
        assert steps[-2] < 700 <= steps[-1]
    else:
        assert len(steps) == 3
    assert summary(tmp_path)["env_steps"] == steps[-1] and summary(tmp_path)["updates"] == len(steps)


@pytest.mark.parametrize("env", ["cartpole", "gymnasium_cartpole"])
def test_stop_when_solved_ends_at_the_update_that_solves(env, tmp_path):
    """On both kinds of environment, and not at the end of the chunk: the number of steps to solve is a result."""
    override = ("+variant=reward_to_go", f"env={env}", "env.reward_threshold=18", "stop_when_solved=true")
    done = train_here(*override, "num_updates=200", folder=tmp_path)
    recent = [float(row["return_recent"] or "nan") for row in rows(tmp_path)]
    assert recent[-1] >= 18 and not any(x >= 18 for x in recent[:-1]) and len(recent) < 200
    assert done["solved_at_env_steps"] == done["env_steps"] == int(rows(tmp_path)[-1]["env_steps"])


# run.json and the other files


def test_run_json_says_what_ran_with_what_and_how_it_ended(folder):
    """Enough to find this run, to trust it and to repeat it."""
    found, table = summary(folder), rows(folder)
    expected = {"status": "completed", "variant": "baseline", "env": "CartPole-v1", "seed": 0, "executor": "single"}
    expected |= {"updates": 30, "episodes": 300, "env_steps": int(table[-1]["env_steps"]), "error": None}
    expected |= {"reward_threshold": 475.0, "solved_at_env_steps": None}
    assert {key: found[key] for key in expected} == expected
    assert found["config"] == checked(*COMMAND)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=os.path.dirname(__file__), capture_output=True, text=True)
    if head.returncode == 0:
        assert re.fullmatch("[0-9a-f]{40}", found["git_commit"]) and type(found["git_dirty"]) is bool
    assert found["versions"]["jax"] == __import__("jax").__version__ and found["device"]
    assert re.fullmatch("[0-9a-f]{16}", found["config_hash"])
    assert found["started"] <= found["finished"] and 0 < found["wall_seconds"] < 100


def test_the_headline_numbers_are_those_of_the_table(runs):
    """return_final is the mean of the last 100 training episodes, return_best its largest value on the way, and
    solved the first time that it reached the threshold: from the rows, without trusting the program's own sums."""
    folder, _ = runs["seed"]
    table, found = rows(folder), summary(folder)
    last_ten = [float(row["return_mean"]) for row in table[-10:]]
    assert found["return_final"] == pytest.approx(sum(last_ten) / 10, rel=1e-6)
    recent = {int(row["env_steps"]): float(row["return_recent"]) for row in table if row["return_recent"]}
    assert found["return_best"] == max(recent.values())
    solved = [steps for steps, x in recent.items() if x >= 25]
    assert found["solved_at_env_steps"] == solved[0] and len(solved) > 1


def test_timing_csv_has_a_line_a_chunk(folder):
    """Speed is reported from here; a compile of seconds counted as training would halve it."""
    lines = [line.split(",") for line in (folder / "timing.csv").read_text().splitlines()]
    assert lines[0] == ["update", "env_steps", "seconds", "env_steps_per_second", "compile_seconds"]
    assert [line[0] for line in lines[1:]] == ["20", "30"]
    steps = {row["update"]: row["env_steps"] for row in rows(folder)}
    before = 0
    for update, env_steps, seconds, rate, _ in lines[1:]:
        assert env_steps == steps[update]
        assert float(rate) == pytest.approx((int(env_steps) - before) / float(seconds), rel=1e-4)
        before = int(env_steps)
    assert float(lines[1][4]) > 0 and lines[2][4] == ""


def test_the_learning_curve_is_a_picture_with_something_on_it(folder):
    with Image.open(folder / "learning_curve.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[0] > 300 and pixels.shape[1] > 500
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_a_learning_curve_has_nothing_of_the_one_before(folder, tmp_path):
    """One figure serves all runs of a process."""
    long = [{k: float(x) if x else None for k, x in row.items()} for row in rows(folder)]
    for name, some in (("first.png", long), ("other.png", long[: len(long) // 2]), ("again.png", long)):
        draw(some, "a run", 475.0, tmp_path / name)
    first, other, again = ((tmp_path / name).read_bytes() for name in ("first.png", "other.png", "again.png"))
    assert first == again != other


@pytest.mark.parametrize("scale", [1.0, -500.0, -123456.0])
def test_the_labels_of_a_learning_curve_are_not_cut(tmp_path, scale):
    """Of Acrobot's returns, −500 … 0, half of the axis label was beyond the edge."""
    names = ("return_mean", "return_min", "return_max", "return_recent")
    draw([{"env_steps": 1000.0 * i} | dict.fromkeys(names, scale * i) for i in (1, 2)], "a run", None, tmp_path / NAME)
    with Image.open(tmp_path / NAME) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels[:, :3].min() == 255 and pixels[:, 3:45].min() < 100


def test_a_persons_settings_of_matplotlib_do_not_change_the_picture(folder, tmp_path, monkeypatch):
    """`!python -m pgx.run` in a notebook inherits a backend that matplotlib may not even know here; then no curve was
    drawn. And pictures are said to be the same bytes everywhere."""
    pictures = []
    (tmp_path / "home").mkdir()
    (tmp_path / "home/matplotlibrc").write_text(
        "savefig.bbox: tight\nsavefig.dpi: 50\nfont.size: 20\nfigure.autolayout: True\n"
    )
    for name, settings in {
        "plain": {},
        "theirs": {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MPLCONFIGDIR": str(tmp_path / "home")},
    }.items():
        (tmp_path / name).mkdir()
        shutil.copy(folder / "metrics.csv", tmp_path / name)
        with monkeypatch.context() as patch:
            for variable, x in settings.items():
                patch.setenv(variable, x)
            artist = Artist()
            artist.ask(tmp_path / name, "title", None)
            assert artist.wait(tmp_path / name) is None
        pictures.append((tmp_path / name / NAME).read_bytes())
    assert pictures[0] == pictures[1]


def test_a_run_does_not_need_its_picture(tmp_path, caplog, monkeypatch):
    """The process that draws dies: the run says so and ends well, and the next one has a picture again."""
    small = ("+variant=vanilla", "num_updates=2", "env=catch")
    dead = Artist()
    dead._child.kill()
    dead._child.wait()
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Artist, "running", lambda: dead)
        assert train_here(*small, folder=tmp_path / "a")["status"] == "completed"
    assert "learning_curve.png is not drawn: the process that draws has ended" in caplog.text
    monkeypatch.setattr(Artist, "_running", dead)
    train_here(*small, folder=tmp_path / "b")
    assert not (tmp_path / "a" / NAME).exists() and (tmp_path / "b" / NAME).exists()


def test_what_cannot_be_drawn_harms_no_other_picture(folder, tmp_path):
    """And an answer that nobody waited for is not taken for another's."""
    artist = Artist.running()
    artist.ask(tmp_path, "a run without a table", None)
    assert "FileNotFoundError" in artist.wait(tmp_path)
    artist.ask(tmp_path, "a run that failed meanwhile", None)
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "metrics.csv", tmp_path / "other")
    artist.ask(tmp_path / "other", "another", 475.0)
    assert artist.wait(tmp_path / "other") is None and (tmp_path / "other" / NAME).stat().st_size > 1000


def test_the_newest_checkpoints_and_the_best_are_kept(runs):
    """The newest to go on from, the best because policy gradients forget."""
    folder, _ = runs["chunks"]  # every 4 updates, 2 kept
    steps = Checkpoints(folder / "checkpoints").steps()
    recent = {int(row["update"]): float(row["return_recent"] or "-inf") for row in rows(folder)}
    best = max([*range(4, 30, 4), 30], key=recent.get)
    assert steps == sorted({28, 30, best})


def test_hydra_leaves_the_command_in_the_folder(folder):
    """Repeating a run takes its overrides and nothing else."""
    assert (folder / ".hydra/overrides.yaml").read_text().splitlines() == [f"- {x}" for x in (*COMMAND, "tracker=none")]


# What a person sees


def test_stdout_is_one_line_with_result_and_folder(runs):
    """Scripts read it; and whoever redirects stderr to a file does not want a progress bar in it."""
    folder, done = runs["first"]
    final = summary(folder)["return_final"]
    form = rf"baseline on CartPole-v1, seed 0: return {final:.1f} over the last 100 episodes, "
    form += r"not solved in [\d,]+ env steps; [\d.]+ s; files in first\n"
    assert re.fullmatch(form, done.stdout), done.stdout
    assert done.stderr == ""


def test_a_terminal_shows_a_live_bar(tmp_path):
    """Update, speed and return while it runs: a run that goes nowhere should be stopped after seconds."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-m", "pgx.run", *COMMAND, "tracker=none", "updates_per_chunk=5", "hydra.run.dir=r"]
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


# Every part of the configuration reaches the program


QUICK = (("gae", "catch"), ("leave_one_out", "acrobot"), ("vanilla", "mountain_car"))


@pytest.mark.parametrize(
    ("variant", "env"),
    [
        pytest.param(variant, env, marks=() if (variant, env) in QUICK else pytest.mark.slow)
        for variant, env in itertools.product(options("variant"), ("cartpole", "acrobot", "mountain_car", "catch"))
    ],
)
def test_every_variant_runs_on_every_compiled_environment(variant, env, tmp_path):
    """A combination that nobody tried is one that a student tries first."""
    small = ("+env.params.max_steps_in_episode=15", "episodes_per_update=3", "num_updates=1")
    done = train_here(f"+variant={variant}", f"env={env}", *small, folder=tmp_path)
    assert done["status"] == "completed" and done["updates"] == 1 and done["episodes"] == 3
    assert math.isfinite(float(rows(tmp_path)[0]["grad_norm"]))


@pytest.mark.parametrize(
    "env",
    [
        "env=gymnasium_cartpole",
        "env=gymnasium_cartpole env.num_lanes=1",
        "env=gymnasium_acrobot env.max_steps=20",
        "env=gymnasium env.id=FrozenLake-v1 +env.kwargs.is_slippery=false",  # discrete observations
        "env=gymnasium env.id=CliffWalking-v1 env.max_steps=10",  # declares no limit of its own
    ],
)
def test_environments_of_gymnasium_run_on_the_host(env, tmp_path):
    done = train_here("+variant=baseline", *env.split(), "episodes_per_update=2", "num_updates=2", folder=tmp_path)
    assert done["status"] == "completed" and done["updates"] == 2 and done["episodes"] == 4


# Short episodes, most of them cut off: then every switch has something to change
SMALL = ("+env.params.max_steps_in_episode=12", "gamma=0.9", "episodes_per_update=4", "num_updates=3")
SMALL += ("diagnose_every=1",)


@pytest.fixture(scope="module")
def without_switches(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    train_here("+variant=baseline", *SMALL, folder=folder)
    return (folder / "metrics.csv").read_bytes()


NUMBERS = (
    "gamma=0.5",
    "entropy_coefficient=0.1",
    "optimiser.learning_rate=0.01",
    "optimiser.b1=0.5",
    "critic.optimiser.learning_rate=0.1",
    "+env.params.gravity=20.0",
)
"""Inputs of the same compiled program."""

PROGRAMS = (
    "whiten=true",
    "discount_power=true",
    "bootstrap_truncated=true",
    "estimator=lambda_return",
    "critic=none",
    "policy.width=8",
    "policy.depth=1",
    "policy.depth=0",
    "policy.activation=tanh",
    "policy.activation=gelu",
    "policy.activation=silu",
    "policy.activation=elu",
    "critic.width=8",
    "critic.activation=tanh",
    "optimiser@critic.optimiser=sgd",
    "optimiser=adamw optimiser.weight_decay=0.1",
    "optimiser=sgd",
    "optimiser=sgd optimiser.nesterov=true",
    "optimiser=rmsprop",
    "optimiser.clip_norm=0.001 optimiser.eps=0.1",  # Adam alone does not feel a rescaled gradient
    "optimiser.schedule=linear optimiser.decay_steps=4",
    "optimiser.schedule=cosine optimiser.decay_steps=4",
)
"""Each makes a program of its own, which takes five seconds to compile."""


@pytest.mark.parametrize("switch", [*NUMBERS, *(pytest.param(switch, marks=pytest.mark.slow) for switch in PROGRAMS)])
def test_a_switch_changes_the_run(switch, without_switches, tmp_path):
    """A switch that is accepted and does nothing is worse than none: an ablation of it finds `no effect`."""
    overrides = [x for x in SMALL if not (x.startswith("gamma") and switch.startswith("gamma"))]
    train_here("+variant=baseline", *overrides, *switch.split(), folder=tmp_path)
    metrics = (tmp_path / "metrics.csv").read_bytes()
    assert len(metrics.splitlines()) == 4 and metrics != without_switches


def program_of(*overrides: str) -> str:
    """What XLA is given to compile for this configuration."""
    config = checked("+variant=baseline", *SMALL, *overrides)
    env, algorithm = build(config)
    limits = Limits(jnp.array(1), jnp.array(1), jnp.array(1.0))
    arguments = (skeleton(config, env, algorithm), algorithm, env, Keys.of_seed(config["seed"]), limits, jnp.array(1))
    return eqx.filter_jit(partial(chunk, num_episodes=2, max_updates=1)).lower(*arguments).as_text()


def test_a_switch_changes_the_program():
    """The same of the switches that are compiled in, without compiling: no two of them give the same program."""
    programs = {switch: program_of(*switch.split()) for switch in ("seed=1", *PROGRAMS)}
    assert program_of() == program_of("seed=2") == programs["seed=1"]
    same = [pair for pair in itertools.combinations(programs, 2) if programs[pair[0]] == programs[pair[1]]]
    assert not same


def test_a_schedule_ends_at_zero(tmp_path):
    """linear over 2 updates: the third and later ones move nothing (the KL divergence of a step says so)."""
    schedule = ("optimiser.schedule=linear", "optimiser.decay_steps=2")
    train_here("+variant=reward_to_go", *schedule, "num_updates=4", folder=tmp_path)
    kl = [float(row["kl"]) for row in rows(tmp_path)]
    assert kl[0] > 0 and kl[1] > 0 and kl[2] == kl[3] == 0


# Divergence: a dead run must not look alive (NaN logits sample action 0 without a word)

BLOWS_UP = ("+variant=baseline", "num_updates=60")
BLOWS_UP += ("optimiser@critic.optimiser=sgd", "critic.optimiser.learning_rate=1000.0", "critic.minibatch_steps=null")


def test_a_run_that_diverges_says_so_and_keeps_what_was_finite(tmp_path):
    """The whole program: which quantity, at which update, exit code 1, and a folder that can be looked into."""
    done = pgx(*BLOWS_UP, "hydra.run.dir=r", cwd=tmp_path)
    found, table = summary(tmp_path / "r"), rows(tmp_path / "r")
    assert done.returncode == 1 and found["status"] == "diverged"
    watched = "policy_loss|value_loss|grad_norm|parameters"
    assert re.fullmatch(rf"({watched}) is not finite at update {len(table) + 1}", found["error"])
    assert found["error"] in done.stdout and "files in r" in done.stdout and "Traceback" not in done.stderr
    assert len(table) >= 1 and all(math.isfinite(float(cell)) for row in table for cell in row.values() if cell)
    assert found["updates"] == len(table) and (tmp_path / "r/learning_curve.png").stat().st_size > 1000
    # once more: it would diverge again, bit for bit
    again = pgx(*BLOWS_UP, "hydra.run.dir=r", cwd=tmp_path)
    assert again.returncode == 1 and "already finished" in again.stdout


def test_the_last_finite_state_is_kept_wherever_the_chunk_began(tmp_path):
    """What a chunk leaves after a divergence is of no use; the state before it must be had whatever the chunks."""
    found = {}
    for size in (1, 7, 60):
        folder = tmp_path / str(size)
        done = train_here(*BLOWS_UP, f"updates_per_chunk={size}", folder=folder)
        newest = Checkpoints(folder / "checkpoints").steps()[-1]
        assert newest == done["updates"] == len(rows(folder))
        told = [done[key] for key in ("return_final", "return_final_iqm", "error")]
        found[size] = [(folder / "metrics.csv").read_bytes(), *told]
    assert found[1] == found[7] == found[60]


def test_a_run_that_diverges_at_once_is_recorded_as_well(tmp_path):
    """No row, no checkpoint, no return: and still a status, a picture and valid JSON (NaN is not)."""
    done = train_here("+variant=reward_to_go", "optimiser=sgd", "optimiser.learning_rate=3e38", folder=tmp_path)
    assert done["status"] == "diverged" and done["error"].endswith("at update 1")
    found = summary(tmp_path)
    assert found["updates"] == 0 and found["return_final"] is None and found["solved_at_env_steps"] is None
    assert (tmp_path / "learning_curve.png").exists()


def test_observations_that_are_not_numbers_end_a_run_on_the_host(tmp_path):
    """Environments on the host are other people's code, and a policy fed NaN goes on choosing action 0."""
    override = ("env=gymnasium", "env.id=faulty_envs:Nan-v0", "num_updates=20", "episodes_per_update=2")
    done = train_here("+variant=reward_to_go", *override, folder=tmp_path)
    assert done["status"] == "diverged" and done["error"].endswith("is not finite at update 5")
    assert len(rows(tmp_path)) == 4 and Checkpoints(tmp_path / "checkpoints").steps() == [4]


# A fault inside


def test_a_fault_is_one_line_with_a_log_and_can_be_mended(tmp_path):
    """A crash after hours must keep what was recorded, say where its traceback is, and let the run go on."""
    fault = tmp_path / "fault"
    command = ("+variant=reward_to_go", "env=gymnasium", "env.id=faulty_envs:Faulty-v0")
    command += ("num_updates=8", "checkpoint_every=2", "episodes_per_update=2")
    fault.touch()
    broken = pgx(*command, "hydra.run.dir=r", cwd=tmp_path, PGX_TEST_FAULT=str(fault))
    assert broken.returncode == 1 and broken.stdout == ""
    line = "pgx: ZeroDivisionError: the pole fell off the cart; the traceback is in "
    assert broken.stderr.startswith(line) and broken.stderr.count("\n") == 1
    log = broken.stderr.removeprefix(line).strip()
    assert "Traceback" in Path(log).read_text()
    found = summary(tmp_path / "r")
    assert found["status"] == "failed" and found["error"] == "ZeroDivisionError: the pole fell off the cart"
    kept = rows(tmp_path / "r")
    assert len(kept) == 4
    fault.unlink()
    mended = pgx(*command, "hydra.run.dir=r", cwd=tmp_path, PGX_TEST_FAULT=str(fault))
    assert mended.returncode == 0 and summary(tmp_path / "r")["status"] == "completed"
    assert rows(tmp_path / "r")[:4] == kept and len(rows(tmp_path / "r")) == 8


FAULTY = ("+variant=reward_to_go", "env=gymnasium", "num_updates=8", "checkpoint_every=2", "episodes_per_update=2")


@pytest.mark.parametrize(("env", "error"), [("Exit", "SystemExit: 3"), ("Long", "ValueError: too much too much ")])
def test_what_an_environment_may_raise_as_well(env, error, tmp_path, monkeypatch):
    """sys.exit left `running` for ever; a message of 90,000 characters stood in the table, the ledger and on the screen."""
    monkeypatch.setenv("PGX_TEST_FAULT", str(tmp_path))
    with pytest.raises((SystemExit, ValueError)):
        train_here(*FAULTY, f"env.id=faulty_envs:{env}-v0", folder=tmp_path)
    found = summary(tmp_path)
    assert found["status"] == "failed" and found["error"].startswith(error) and len(found["error"]) <= 501
    monkeypatch.delenv("PGX_TEST_FAULT")
    train_here(*FAULTY, f"env.id=faulty_envs:{env}-v0", folder=tmp_path)
    assert summary(tmp_path)["status"] == "completed" and len(rows(tmp_path)) == 8


def test_an_artist_that_hangs_is_not_waited_for(tmp_path, caplog, monkeypatch):
    """A stopped process holds up nobody for ever, and the run has ended well."""
    stopped = Artist()
    os.kill(stopped._child.pid, signal.SIGSTOP)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(curve, "PATIENCE", 0.2)
        meanwhile.setattr(Artist, "running", lambda: stopped)
        assert train_here("+variant=vanilla", "num_updates=2", "env=catch", folder=tmp_path)["status"] == "completed"
    assert "learning_curve.png is not drawn: no answer for 0.2 s" in caplog.text
    assert stopped._child.wait(10) == -signal.SIGKILL and summary(tmp_path)["status"] == "completed"


@pytest.mark.parametrize("where", ["the table", "the log as well"])
def test_a_full_disk_is_told_in_a_line_and_recorded(where, tmp_path, monkeypatch, capsys):
    """It was a flood of tracebacks, a run.json that said `running`, and a last line that promised a traceback in vain."""
    full = OSError(errno.ENOSPC, "No space left on device")

    def append(self, rows):
        raise full

    monkeypatch.setattr(record.Table, "append", append)
    write, first = record.write_atomically, []

    def no_room(path, content):
        if (path.parent / record.ROOM).exists() and first:
            raise full
        first.append(path)
        write(path, content)

    log = tmp_path / "run.log"
    if where == "the table":
        monkeypatch.setattr(run, "_logged", lambda *_: log)
    with composed("+variant=vanilla") as config, read_write(config.hydra):
        config.hydra.runtime.output_dir, config.hydra.job.name, config.hydra.mode = str(tmp_path), "run", RunMode.RUN
    monkeypatch.setattr(run.HydraConfig, "get", lambda: config.hydra)
    with pytest.raises(RunFailed) as failed, run.job():
        monkeypatch.setattr(record, "write_atomically", no_room)
        train_here("+variant=vanilla", "num_updates=2", "env=catch", folder=tmp_path)
    promise = f"; the traceback is in {log}" if where == "the table" else ""
    assert str(failed.value) == f"OSError: [Errno 28] No space left on device{promise}"
    found = summary(tmp_path)
    assert found["status"] == "failed" and "No space left" in found["error"]


def test_a_second_ctrl_c_is_an_interruption_and_not_a_fault(tmp_path, monkeypatch):
    """Status `running` of a run that is not would keep people from resuming it."""
    import pgx.loop

    def twice(*_, **__):
        signal.raise_signal(signal.SIGINT)  # noted
        signal.raise_signal(signal.SIGINT)
        yield

    before = signal.getsignal(signal.SIGINT)  # a shell's background job has it ignored
    monkeypatch.setattr(pgx.loop, "train", twice)
    with pytest.raises(KeyboardInterrupt):
        train_here("+variant=vanilla", "num_updates=1", folder=tmp_path)
    assert summary(tmp_path)["status"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is before


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
            with _shown(f"{label}: compiling …"):
                assert screen.read(4096).decode().strip("\r") == f"{label}: compiling …"
            with _progress_bar(recording) as show:
                show(SimpleNamespace(rows={"env_steps": np.array([300_000])}, seconds=0.25))
                line = shown_by_now(screen).split("\r")[-1]
            shown_by_now(screen)
            bar = line.split("|")[1]
            assert len(line) <= 80 and 12 <= len(bar) <= 32, line
            assert "return 475.1" in line or "vanilla" in label
    assert beside_the_bar(("return 475.1", "1.2M steps/s", "update 1,234"), 60) == "return 475.1, 1.2M steps/s, update 1,234"


def test_a_log_that_cannot_be_written_and_orbax_threads_print_nothing(monkeypatch, capsys):
    """A full disk was 90 to 530 lines of tracebacks."""
    from pgx.streams import no_tracebacks_beside

    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    no_tracebacks_beside()

    def fails():
        raise OSError(errno.ENOSPC, "No space left on device")

    theirs = type("_SignalingThread", (threading.Thread,), {"__module__": "orbax.checkpoint._src.futures.future"})
    for kind in (theirs, threading.Thread):
        thread = kind(target=fails)
        thread.start()
        thread.join()
        assert ("No space left" in capsys.readouterr().err) == (kind is threading.Thread)
    stream = io.StringIO()
    stream.write = lambda _: fails()
    logging.StreamHandler(stream).emit(logging.makeLogRecord({"msg": "a line"}))
    assert capsys.readouterr().err == ""
