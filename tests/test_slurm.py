"""A sweep on a cluster: two nodes, tasks that are killed or put back into the queue, and the bits of a sweep at home.

`make test-slurm` starts the cluster.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from program import environment, finish, pgx, results, stamps, start, summary

pytestmark = pytest.mark.slurm

SWEEP = (
    "-m", "+variant=reward_to_go,baseline", "env=pendulum", "scale_observations=true", "seed=0,1", "num_updates=300",
    "episodes_per_update=4", "+env.params.max_steps_in_episode=60",
    "checkpoint_every=7", "updates_per_chunk=5", "hydra.sweep.dir=s",
)  # fmt: skip
SLURM = (*SWEEP, "hydra/launcher=slurm", "hydra.launcher.members_per_task=2")
"""Two tasks: one a variant, since these share no program."""


def run(*command, **more):
    return subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout


def until(condition, seconds=180):
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, run("squeue") + run("scontrol", "show", "job")
        time.sleep(0.1)
    return found


def states():
    """Slurm's state of every task that it knows of, by its number in the last array."""
    lines = run("squeue", "--noheader", "--array", "--states=all", "--format=%F %K %T %N %i").split("\n")
    tasks = [line.split() for line in lines if line]
    last = max(int(array) for array, *_ in tasks)
    return {int(task): (state[0], name) for array, task, *state, name in tasks if int(array) == last}


def under_way(folder, task):
    """Whether the members of that task have recorded something."""
    members = (0, 1) if task == 0 else (2, 3)
    return any(
        (folder / f"s/{i}/metrics.csv").exists() and (folder / f"s/{i}/metrics.csv").stat().st_size > 2000 for i in members
    )


def kill(task):
    """As when the node's memory is full: every Python process of the task."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"SLURM_ARRAY_TASK_ID={task}\0".encode() in (entry / "environ").read_bytes():
                if "python" in (entry / "exe").readlink().name:
                    os.kill(int(entry.name), signal.SIGKILL)


def status(folder):
    command = [sys.executable, "-m", "pgx.sweep", "status", "s"]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)


@pytest.fixture(scope="module")
def at_home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    done = pgx(*SWEEP, cwd=folder)
    assert done.returncode == 0, done.stderr
    return results(folder / "s")


def test_a_task_is_killed_in_the_middle_and_the_same_command_completes_the_sweep(at_home, tmp_path):
    process = start(*SLURM, cwd=tmp_path)
    until(lambda: under_way(tmp_path, 0) and under_way(tmp_path, 1))
    assert set(run("squeue", "--noheader", "--format=%N").split()) == {"n1", "n2"}
    kill(task=1)
    done = finish(process)
    assert done.returncode == 1 and "submitted as" in done.stdout
    told = status(tmp_path)
    assert told.returncode == 1 and "2 completed" in told.stdout and "killed" in told.stdout
    before = stamps(tmp_path / "s")
    again = pgx(*SLURM, cwd=tmp_path)
    assert again.returncode == 0, again.stderr + again.stdout
    assert results(tmp_path / "s") == at_home
    after = stamps(tmp_path / "s")
    assert {path: x for path, x in after.items() if path.parts[0] in "01"} == {
        path: x for path, x in before.items() if path.parts[0] in "01"
    }, "the task that was not killed had done its part"


def test_detached_tasks_are_preempted_requeued_and_resume(at_home, tmp_path):
    """SIGUSR2 is what Slurm sends before a task's time is up: submitit answers by putting the task back into the
    queue. `scontrol requeue` does so itself, as preemption does, and sends SIGTERM."""
    begun = time.monotonic()
    done = pgx(*SLURM, "hydra.launcher.detach=true", cwd=tmp_path)
    assert done.returncode == 0 and "submitted as" in done.stdout and time.monotonic() - begun < 30
    assert "4 members" in status(tmp_path).stdout
    until(lambda: under_way(tmp_path, 0) and under_way(tmp_path, 1))
    (_, warned), (_, preempted) = states()[0], states()[1]
    run("scancel", "--signal=USR2", warned)
    run("scontrol", "requeue", preempted)
    until(lambda: "4 completed" in status(tmp_path).stdout)
    for name in (warned, preempted):
        assert "Restarts=1" in run("scontrol", "show", "job", name)
    assert results(tmp_path / "s") == at_home
    before = stamps(tmp_path / "s")
    until(lambda: not run("squeue", "--noheader").strip())
    run("scontrol", "requeue", warned)  # all of its runs are complete
    until(lambda: states()[0][0] == "PENDING")
    until(lambda: not run("squeue", "--noheader").strip())
    assert stamps(tmp_path / "s") == before and states()[0][0] == "COMPLETED"
    nothing = pgx(*SLURM, "hydra.launcher.detach=true", cwd=tmp_path)
    assert nothing.returncode == 0 and "nothing was submitted" in nothing.stdout
    assert summary(tmp_path / "s/0")["executor"] == "map"


def test_a_tuning_on_the_cluster_has_the_trials_of_one_at_home(tmp_path):
    """Groups of seeds are tasks; those that go on after a rung are resumed on whatever node is free."""
    words = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.seeds=2", "hydra.sweeper.rungs=[0.5]")
    words += ("+variant=reward_to_go", "num_updates=6", "optimiser.learning_rate=tag(log,interval(1e-3,1e-1))")
    for name, more in (("home", ()), ("s", ("hydra/launcher=slurm",))):
        done = pgx(*words, f"hydra.sweep.dir={name}", *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    home, cluster = (json.loads((tmp_path / name / "trials.json").read_text())["trials"] for name in ("home", "s"))
    assert home == cluster and [x["status"] for x in home] == ["completed"] * 2
