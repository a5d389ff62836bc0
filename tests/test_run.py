"""What a run leaves behind is what every figure and every claim is made from: these tests ask the run folder the
questions that a sceptical reader would."""

import os
import re
import subprocess

import numpy as np
import pytest
from program import checked, finish, rows, start, summary, train_here

from pgx.evaluating import COLUMNS as EVALUATION
from pgx.metrics import COLUMNS
from pgx.runs.checkpoint import Checkpoints

COMMAND = ("+variant=baseline", "num_updates=30", "diagnose_every=5", "updates_per_chunk=20")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same command twice, another seed, other chunks: {name: (folder, finished process)}."""
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
    of_others = ("std_mean", "std_min", "saturated_share", "epochs", "clip_share", "ratio_max", "halvings", *EVALUATION)
    assert all(row[name] == "" for row in table for name in of_others)
    at_times = ("grad_variance", "grad_snr", "return_recent", *of_others)
    assert all(cell != "" for row in table for name, cell in row.items() if name not in at_times)
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


# What a script reads


def test_stdout_is_one_line_with_result_and_folder(runs):
    """Scripts read it; and whoever redirects stderr to a file does not want a progress bar in it."""
    folder, done = runs["first"]
    final = summary(folder)["return_final"]
    form = rf"baseline on CartPole-v1, seed 0: return {final:.1f} over the last 100 episodes, "
    form += r"not solved in [\d,]+ env steps; [\d.]+ s; files in first\n"
    assert re.fullmatch(form, done.stdout), done.stdout
    assert done.stderr == ""
