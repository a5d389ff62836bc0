"""Sweeps: a member is the same run as alone, whatever happens to its companions or to the program, and nothing that
is there is done again."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf
from program import checked, children, environment, finish, ledger, pgx, results, rows, stamps, start, summary, train_here

from pgx.config import CONF
from pgx.sweep import pool
from pgx.sweep.compose import fast_loader
from pgx.sweep.members import Member, program

MEMBERS = ("+variant=reward_to_go,baseline", "seed=0,1,2,3")
SHORT = ("num_updates=60", "checkpoint_every=7", "updates_per_chunk=5", "episodes_per_update=4")


def sweep(*overrides, cwd, **more):
    return pgx("-m", *overrides, "hydra.sweep.dir=s", cwd=cwd, **more)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep that nothing happened to."""
    root = tmp_path_factory.mktemp("whole")
    done = sweep(*MEMBERS, *SHORT, cwd=root)
    assert done.returncode == 0, done.stderr
    return root / "s", done


@pytest.mark.parametrize(
    "overrides",
    [
        ["+variant=baseline", "seed=3"],
        ["+variant=baseline", "seed=3", "optimiser.learning_rate=1e-2", "critic.optimiser.clip_norm=2"],
        ["gamma=0.9", "+variant=gae", "optimiser=sgd", "optimiser.momentum=0.5", "estimator.lam=0.5"],
        ["+variant=vanilla", "seed=1", "+env.params.gravity=4.9", "env.params.gravity=5", "policy={width: 4}"],
        ["+variant=baseline", "optimiser@critic.optimiser=sgd", "hydra.job.name=other", "hydra.sweep.subdir=${seed}", "seed=7"],
        ["+variant=vanilla", "optimiser.learning_rate=${gamma}", "env.id='Acrobot-v1'", "num_updates=null"],
    ],
)
def test_a_member_is_composed_as_hydra_composes_it(overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        options = ["hydra.sweep.dir=s", "hydra.job.config.override_dirname.exclude_keys=[seed]"]
        sweep = loader.load_configuration("config", options, RunMode.MULTIRUN)
        compose = fast_loader(loader).load_sweep_config
        for seed in (1, 2):  # the second is a copy
            more = [*overrides, f"seed={seed}"]
            assert OmegaConf.to_yaml(compose(sweep, more)) == OmegaConf.to_yaml(loader.load_sweep_config(sweep, more))
        with pytest.raises(ConfigCompositionException, match="Could not override 'sede'"):
            compose(sweep, [*overrides, "sede=1"])


def test_a_member_is_the_same_run_alone(whole, tmp_path):
    """Otherwise nobody could look closer at the one seed that went wrong."""
    folder, _ = whole
    for variant, seed in (("baseline", 2), ("reward_to_go", 3)):
        alone = tmp_path / f"{variant}-{seed}"
        train_here(f"+variant={variant}", f"seed={seed}", *SHORT, folder=alone)
        [metrics, name, state] = results(folder)[variant, seed]
        assert (alone / "metrics.csv").read_bytes() == metrics
        assert (alone / "checkpoints" / name / "state/bytes/0").read_bytes() == state


def test_a_member_has_all_that_a_run_has(whole):
    folder, _ = whole
    for entry in (path for path in folder.iterdir() if path.is_dir()):
        names = {path.name for path in entry.iterdir()}
        assert {"metrics.csv", "timing.csv", "run.json", "learning_curve.png", "checkpoints", ".hydra", "run.log"} <= names
        found = summary(entry)
        assert (found["status"], found["executor"], found["group"]) == ("completed", "map", "s")
        overrides = (entry / ".hydra/overrides.yaml").read_text()
        assert f"+variant={found['variant']}\n" in overrides and f"seed={found['seed']}\n" in overrides


def test_the_ledger_is_shown_and_kept(whole):
    folder, done = whole
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["member", "overrides", "status"]
    assert lines[-1] == "8 members: 8 completed; files in s"
    assert len(lines) == 10
    for row in ledger(folder):
        found = summary(folder / row["member"])
        assert (row["status"], int(row["env_steps"])) == ("completed", found["env_steps"])
        assert float(row["return_final"]) == found["return_final"]


def test_once_more_nothing_is_touched_and_more_seeds_are_only_added(whole, tmp_path):
    """Members are known by their configuration: not by their number, nor by the order of the command."""
    folder = tmp_path / "s"
    subprocess.run(["cp", "-a", whole[0], folder], check=True)
    before = stamps(folder)
    again = sweep("seed=3,0,1,2", "+variant=baseline,reward_to_go", *SHORT, cwd=tmp_path)
    assert again.returncode == 0 and stamps(folder) == before
    plan = sweep("seed=0,4", "+variant=baseline", *SHORT, "hydra.launcher.dry_run=true", cwd=tmp_path)
    assert plan.returncode == 0 and stamps(folder) == before
    assert "1 of 2 to run" in plan.stdout and "to go" in plan.stdout
    more = sweep("seed=0,4", "+variant=baseline", *SHORT, cwd=tmp_path)
    assert more.returncode == 0 and "9 members: 9 completed" in more.stdout
    after = stamps(folder)
    assert {path: after[path] for path in before} == before
    assert {path.parts[0] for path in after.keys() - before.keys()} == {"8"}
    assert (summary(folder / "8")["variant"], summary(folder / "8")["seed"]) == ("baseline", 4)


def test_a_larger_budget_goes_on(whole, tmp_path):
    folder = tmp_path / "s"
    subprocess.run(["cp", "-a", whole[0], folder], check=True)
    short = rows(folder / "0")
    done = sweep("+variant=reward_to_go", "seed=0,1", *SHORT, "num_updates=64", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(rows(folder / "0")) == 64 and rows(folder / "0")[:60] == short


@pytest.mark.parametrize("wrong", ["seed=0,abc", "optimiser.learning_rate=1e-3,-1", "env=cartpole,cartpol"])
def test_a_wrong_member_is_refused_before_anything_runs(wrong, tmp_path):
    done = sweep("+variant=baseline", wrong, *SHORT, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("pgx: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_fails_harms_no_other(tmp_path):
    """One that raises, one that diverges, one that is well: exit code 1, every reason in the ledger."""
    fault = tmp_path / "fault"
    fault.touch()
    command = ("+variant=reward_to_go", "env=gymnasium", "env.id=faulty_envs:Faulty-v0,faulty_envs:Nan-v0,CartPole-v1")
    budget = ("num_updates=8", "episodes_per_update=2", "checkpoint_every=2")
    done = sweep(*command, *budget, cwd=tmp_path, PGX_TEST_FAULT=str(fault))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "3 members: 1 failed, 1 diverged, 1 completed" in done.stdout
    failed, diverged, well = ledger(tmp_path / "s")
    assert failed["reason"] == "ZeroDivisionError: the pole fell off the cart"
    assert "Traceback" in (tmp_path / failed["log"]).read_text()
    assert "is not finite at update" in diverged["reason"]
    train_here(*command[:2], "env.id=CartPole-v1", *budget, folder=tmp_path / "alone")
    assert (tmp_path / "s/2/metrics.csv").read_bytes() == (tmp_path / "alone/metrics.csv").read_bytes()
    status = [sys.executable, "-m", "pgx.sweep", "status", "s"]
    told = subprocess.run(status, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert told.returncode == 1 and told.stdout.splitlines()[-1] in done.stdout
    fault.unlink()  # mended: only what is missing
    stamp = stamps(tmp_path / "s")
    mended = sweep(*command, *budget, cwd=tmp_path, PGX_TEST_FAULT=str(fault))
    assert mended.returncode == 1 and "1 diverged, 2 completed" in mended.stdout.replace(
        "2 completed, 1 diverged", "1 diverged, 2 completed"
    )
    assert {p: x for p, x in stamps(tmp_path / "s").items() if p.parts[0] != "0"} == {
        p: x for p, x in stamp.items() if p.parts[0] != "0"
    }


def test_killed_ten_times_a_sweep_ends_as_if_nothing_had_happened(whole, tmp_path):
    """The program with SIGKILL, SIGTERM and SIGINT, and single workers with SIGKILL, as for want of memory."""
    dice = random.Random(int.from_bytes(os.urandom(4)))
    ways = ["parent SIGKILL"] * 4 + ["parent SIGTERM", "parent SIGINT"] * 2 + ["worker SIGKILL"] * 2
    dice.shuffle(ways)
    folder = tmp_path / "s"

    def recorded():
        return sum(path.stat().st_size for path in folder.glob("*/metrics.csv"))

    for way in ways:
        process = start("-m", *MEMBERS, *SHORT, "hydra.sweep.dir=s", cwd=tmp_path)
        size, limit = recorded() + dice.randrange(0, 12_000), time.monotonic() + 60
        while recorded() < size and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(dice.random() * 0.2)
        who, number = way.split()
        if process.poll() is None:
            pids = [process.pid] if who == "parent" else children(process.pid)
            os.kill(dice.choice(pids), getattr(signal, number))
            if who == "worker":
                time.sleep(1)
                process.kill()
        finish(process)
        time.sleep(0.3)  # until the kernel has told the workers
    done = sweep(*MEMBERS, *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr + done.stdout
    assert results(folder) == results(whole[0])


def test_a_killed_worker_is_in_the_ledger_and_its_companions_end(tmp_path):
    """As when the machine runs out of memory."""
    process = start("-m", *MEMBERS, *SHORT, "num_updates=400", "hydra.sweep.dir=s", cwd=tmp_path)
    while not (found := [path for path in tmp_path.glob("s/*/metrics.csv") if path.stat().st_size > 1000]):
        time.sleep(0.05)
        assert process.poll() is None
    holder = subprocess.run(["fuser", found[0].parent / ".lock"], capture_output=True, text=True).stdout.split()
    victims = [int(x) for x in holder] or [max(children(process.pid))]
    os.kill(victims[0], signal.SIGKILL)
    done = finish(process)
    assert done.returncode == 1
    assert "8 members: " in done.stdout and "7 completed" in done.stdout
    [dead] = [row for row in ledger(tmp_path / "s") if row["status"] != "completed"]
    assert dead["status"] == "failed" and "was killed by SIGKILL" in dead["reason"]


def test_what_hangs_is_ended_and_what_ends_its_program_is_contained(tmp_path):
    """One signal is heard: a member that does not save in time is killed. One that calls sys.exit ends no worker."""
    (tmp_path / "fault").touch()
    env = ("env=gymnasium", "env.id=faulty_envs:Exit-v0,faulty_envs:Hang-v0", "episodes_per_update=2", "updates_per_chunk=1")
    more = ("hydra.launcher.processes=1", "hydra.launcher.patience=0.5", "hydra.sweep.dir=s")
    process = start("-m", "+variant=vanilla", *env, *more, cwd=tmp_path, PGX_TEST_FAULT=str(tmp_path / "fault"))
    until(lambda: (tmp_path / "s/1/metrics.csv").exists() and len(rows(tmp_path / "s/1")) > 0, process)
    time.sleep(0.5)
    process.terminate()
    done = finish(process, timeout=30)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "Traceback" not in done.stderr and "SIGTERM: the members at work save and end" in done.stderr
    ends, hangs = ledger(tmp_path / "s")
    assert ends["status"] == "failed" and ends["reason"].startswith("SystemExit: 3")
    assert (hangs["status"], hangs["reason"]) == ("failed", "its process did not stop within 0.5 s, and was killed")


def test_ctrl_c_while_workers_start_is_quiet(tmp_path):
    """It reaches all of them; each would say where it was."""
    command = [sys.executable, "-m", "pgx.run", "-m", "+variant=vanilla", "seed=0,1", "tracker=none", "hydra.sweep.dir=s"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    process = subprocess.Popen([*command, "hydra.launcher.processes=2"], cwd=tmp_path, env=environment(), **pipes)
    until(lambda: len(children(process.pid)) >= 3, process)  # two workers, and who keeps multiprocessing's books
    os.killpg(process.pid, signal.SIGINT)
    done = finish(process)
    assert done.returncode == 130 and "Traceback" not in done.stderr and done.stderr.count("\n") <= 1, done.stderr


def until(condition, process):
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None and time.monotonic() < limit, finish(process)
        time.sleep(0.02)


@pytest.mark.slow
def test_two_commands_at_once_in_one_folder(whole, tmp_path):
    """Each completes its members; an equal member is run by one of them."""
    first = start("-m", *MEMBERS[:1], "seed=0,1,2", *SHORT, "hydra.sweep.dir=s", cwd=tmp_path)
    second = start("-m", *MEMBERS[:1], "seed=3,2", *SHORT, "hydra.sweep.dir=s", cwd=tmp_path)
    done = [finish(first), finish(second)]
    assert all("Traceback" not in x.stderr and x.returncode in (0, 1) for x in done), done
    again = sweep(*MEMBERS, *SHORT, cwd=tmp_path)
    assert again.returncode == 0 and "8 members: 8 completed" in again.stdout
    assert results(tmp_path / "s") == results(whole[0])


def test_nothing_compiles_twice(tmp_path):
    """The second member of a group is traced inputs only: other seed, other learning rate, γ, λ, clip norm, gravity."""
    import jax

    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    base = ("+variant=gae", "num_updates=2", "episodes_per_update=3", "updates_per_chunk=2", "optimiser.clip_norm=1.0")
    gravity = "+env.params.gravity={}"
    train_here(*base, gravity.format("9.8"), folder=tmp_path / "first")
    assert compiled
    compiled.clear()
    numbers = (
        "seed=5",
        "optimiser.learning_rate=0.1",
        "gamma=0.5",
        "estimator.lam=0.3",
        "optimiser.clip_norm=2.0",
        "entropy_coefficient=0.1",
    )
    train_here(*base, *numbers, gravity.format("4.9"), folder=tmp_path / "second")
    assert compiled == []
    train_here(*base, gravity.format("9.8"), "episodes_per_update=4", folder=tmp_path / "third")
    assert compiled, "this counter counts"


def test_a_worker_waits_for_what_another_one_compiles(monkeypatch):
    """Two that compile the same at once take longer than one that compiles and one that then finds it in the cache. Each is
    told how many are at work, whose memory is shared."""

    class Worker(pool._Worker):
        def __init__(self, _):
            self.connection, self.there = multiprocessing.Pipe()
            self.process = SimpleNamespace(is_alive=lambda: True)
            self.at_work, self.program = set(), None

        def give(self, batch, processes):
            self.at_work, self.program = {member.number for member in batch.members}, batch.program
            assert processes == 2

    def batch(number):
        config = {"xla_threads": 1, "env": {"reward_threshold": None}}
        return pool.Batch((Member(number, [], OmegaConf.create(), config, Path(), str(number)),), "map", 1)

    monkeypatch.setattr(pool, "_Worker", Worker)
    workers = pool.Pool(Callbacks(), 2)
    first, second = workers._workers
    reports = workers.run([batch(0), batch(1)])
    for at_work in (set(), {1}):
        first.there.send(pool.Progress(0, 0.1, 100))
        next(reports)
        assert (first.at_work, second.at_work) == ({0}, at_work)


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("seed=1", True),
        ("gamma=0.5", True),
        ("optimiser.learning_rate=0.1", True),
        ("critic.optimiser.learning_rate=0.1", True),
        ("entropy_coefficient=0.2", True),
        ("num_updates=3", True),
        ("diagnose_every=3", True),
        ("optimiser.clip_norm=1.0", False),  # was null
        ("episodes_per_update=3", False),
        ("policy.width=8", False),
        ("whiten=true", False),
        ("env=acrobot", False),
        ("critic=none", False),
        ("updates_per_chunk=3", False),
    ],
)
def test_groups_are_those_that_share_a_program(override, same, tmp_path):
    """The launcher groups by configuration, before jax is there; jax must agree."""
    from pgx import runners
    from pgx.build import build, skeleton
    from pgx.loop import Keys

    def signature(*overrides):
        config = checked("+variant=baseline", *overrides)
        env, algorithm = build(config)
        state = skeleton(config, env, algorithm)
        sizes = {"num_episodes": config["episodes_per_update"], "max_updates": config["updates_per_chunk"]}
        arguments = (state, algorithm, env, Keys.of_seed(config["seed"]).train)
        return program(config), (runners.signature(arguments), *sizes.values())

    (ours, theirs), (our_other, their_other) = signature(), signature(override)
    assert (theirs == their_other) == same
    assert same or ours != our_other, "two programs in one group would compile in the middle of it"
    assert not same or ours == our_other


def test_status_of_no_sweep(tmp_path):
    for name, said in (("x", "there is no folder x"), (".", "holds no sweep and no run")):
        command = [sys.executable, "-m", "pgx.sweep", "status", name]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_members_are_run_by_another_launchers_tasks(whole, tmp_path):
    """In processes of hydra-submitit-launcher's here; a cluster is in test_slurm."""
    command = ("+variant=baseline", "seed=0,1", *SHORT, "+hydra/launcher@hydra.launcher.inner=submitit_local")
    command = (*command[:-1], "hydra.sweep.subdir=${variant}/${seed}", command[-1])
    done = sweep(*command, "hydra.launcher.members_per_task=1", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "submitted as" in done.stdout and "2 members: 2 completed" in done.stdout
    expected = {key: x for key, x in results(whole[0]).items() if key in {("baseline", 0), ("baseline", 1)}}
    assert results(tmp_path / "s/baseline") == expected
    before = stamps(tmp_path / "s")
    again = sweep(*command, "hydra.launcher.detach=true", cwd=tmp_path)
    assert again.returncode == 0 and "nothing was submitted" in again.stdout and stamps(tmp_path / "s") == before
    failing = ("+variant=vanilla", "env=gymnasium", "env.id=faulty_envs:Faulty-v0", "num_updates=8")
    failed = sweep(*failing, *command[-1:], cwd=tmp_path, PGX_TEST_FAULT=str(tmp_path))
    assert failed.returncode == 1 and "the pole fell off the cart" in failed.stdout


@pytest.mark.parametrize("wrong", ["detach=true", "members_per_task=0", "width=0", "executor=vmp"])
def test_a_wrong_launcher_is_refused(wrong, tmp_path):
    done = sweep("+variant=baseline", f"hydra.launcher.{wrong}", *SHORT, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"pgx: hydra.launcher.{wrong.split('=')[0]}: ")
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_without_slurm_nothing_is_written(tmp_path):
    bare = str(Path(sys.executable).parent)
    done = sweep("+variant=baseline", "hydra/launcher=slurm", *SHORT, cwd=tmp_path, PATH=bare)
    assert done.returncode == 2 and done.stderr.startswith("pgx: hydra/launcher: there is no Slurm here")
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_512_members(tmp_path):
    done = sweep("+variant=vanilla", "seed=range(0,512)", "num_updates=1", "episodes_per_update=2", cwd=tmp_path)
    assert done.returncode == 0 and "512 members: 512 completed" in done.stdout
    assert len(json.loads((tmp_path / "s/members.json").read_text())) == 512
    assert len({(tmp_path / f"s/{i}/metrics.csv").read_bytes() for i in range(512)}) > 500
