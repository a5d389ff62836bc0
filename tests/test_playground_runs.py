"""Runs on MuJoCo Playground's tasks: what every run can, these can. The program is compiled once for all of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bits import metrics, saved
from PIL import Image
from program import checked, refusal, rows, run_module, summary, train_here

import pgx
from pgx import build
from pgx.loop import Limits
from pgx.runners import PackRunner

UPDATES = 4
TASK = ("+variant=ppo", "env=playground", "env.id=CartpoleBalance", "env.max_steps=12")
TINY = (*TASK, "episodes_per_update=3", "policy.width=4", "critic.width=4", "update.epochs=1", "diagnose_every=3")
RUN = (*TINY, f"num_updates={UPDATES}", "checkpoint_every=2", "evaluate_every=2", "evaluate_episodes=3")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("playground") / "r"
    assert train_here(*RUN, folder=folder)["status"] == "completed"
    return folder


def test_a_run_is_evaluated_and_sees_scaled_observations(run):
    """An upright pole earns about 1 a step. All that ends an episode here is its limit."""
    table = rows(run)
    assert [row["update"] for row in table if row["evaluation_return"]] == ["2", "4"]
    assert all(5 < float(row["return_min"]) and float(row["return_max"]) <= 12 for row in table)
    assert {row["length_mean"] for row in table} == {"12.0"}
    policy = pgx.Run(run).policy()
    assert isinstance(policy, pgx.scaling.Scaled) and summary(run)["config"]["scale_observations"]


def test_a_run_says_which_physics_it_is_made_with(run):
    versions = summary(run)["made_with"][0]["versions"]
    assert (versions["mujoco"], versions["mujoco-mjx"], versions["playground"]) == ("3.17.0", "3.17.0", "0.2.0")


def test_a_seed_makes_the_same_table_twice_and_another_seed_another(run, tmp_path):
    train_here(*RUN, folder=tmp_path / "again")
    train_here(*RUN, "seed=1", folder=tmp_path / "other")
    assert metrics(tmp_path / "again") == metrics(run) != metrics(tmp_path / "other")


def test_a_killed_run_ends_as_if_it_had_not_been(run, tmp_path):
    """Killed after its third row, when the checkpoint of the second was the last."""
    folder = shutil.copytree(run, tmp_path / "killed")
    shutil.rmtree(folder / "checkpoints" / "4")
    lines = metrics(folder).splitlines(keepends=True)
    (folder / "metrics.csv").write_bytes(b"".join(lines[:4]) + b"4,1")  # torn
    (folder / "run.json").write_text(json.dumps(summary(folder) | {"status": "running", "finished": None}))
    assert train_here(*RUN, folder=folder)["status"] == "completed"
    assert metrics(folder) == metrics(run) and saved(folder) == saved(run)


@pytest.mark.slow
def test_runs_side_by_side_are_those_alone():
    """Statistically the same is all that is promised; the first update differs by rounding only."""
    lanes, alone = [], []
    for seed in (0, 1):
        config = checked(*TINY, f"seed={seed}")
        parts = pgx.assemble(config)
        lanes.append(build.lane(config, parts.env, parts.algorithm, parts.state))
        alone.append(parts.runner(parts.state, Limits(1)))
    runner = PackRunner(lanes, width=2, num_episodes=3, max_updates=config["updates_per_chunk"])
    for found, expected in zip(runner([Limits(1)] * 2), alone, strict=True):
        for name, x in expected.rows.items():
            np.testing.assert_allclose(found.rows[name], x, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_it_is_drawn_or_says_what_that_would_take(run, tmp_path):
    """By MuJoCo, without a display: the pole and the cart move before a background that stands still."""
    film = tmp_path / "film.webp"
    done = run_module("play", run, "--out", film, cwd=tmp_path)
    if done.returncode:
        assert done.returncode == 2 and "MUJOCO_GL=egl needs libEGL" in done.stderr
        return
    assert "in 12 steps (0.1 s)" in done.stdout and not done.stderr
    with Image.open(film) as pictures:
        assert pictures.size == (480, 320) and pictures.n_frames == 4  # 100 steps a second
        first = np.asarray(pictures.convert("RGB")).astype(int)
        pictures.seek(3)
        moved = (abs(np.asarray(pictures.convert("RGB")) - first).max(-1) > 30).mean()
    assert 0.0005 < moved < 0.3


@pytest.mark.slow
def test_a_pole_is_kept_upright(tmp_path):
    """On a seed that nothing was chosen by. Untrained, it earns 400; 855 is what CleanRL's PPO has after 1M env steps."""
    train_here("+experiment=cartpole_balance", "num_env_steps=400000", "seed=7", folder=tmp_path / "r")
    table = rows(tmp_path / "r")
    assert float(table[0]["return_mean"]) < 600 and float(table[-1]["return_recent"]) > 855


@pytest.mark.slow
@pytest.mark.parametrize("id", ["CheetahRun", "WalkerWalk"])
def test_what_is_for_a_gpu_makes_an_update(id, tmp_path):
    """Of two short episodes, on a CPU."""
    small = ("env.max_steps=5", "episodes_per_update=2", "num_updates=1")
    done = train_here("+experiment=dm_control", f"env.id={id}", *small, folder=tmp_path / "r")
    assert done["status"] == "completed" and done["env_steps"] == 10
    assert done["config"]["scale_observations"] and done["config"]["update"]["minibatch_steps"] == 8192


def test_what_tanh_and_none_do_to_actions_is_for_every_task_to_say():
    """Their ends are −1 and 1."""
    assert checked(*TASK, "env.bound=tanh")["env"]["bound"] == "tanh"
    assert "env.bound: 'wrap' is not allowed" in refusal(*TASK, "env.bound=wrap")
