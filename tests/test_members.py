"""A sweep knows its folder and its members: each is completed once, in a folder of its own, or the command is refused
before anything runs."""

import json
import shutil
import threading

import pytest
import sweeps
from program import checked
from sweeps import SWEEP, Trainer, bits, composed_in, files, refused

from pgx.errors import ConfigError
from pgx.runs import record
from pgx.sweep import index, members

command = pytest.fixture(sweeps.command)

LAYOUTS = {
    "${hydra.job.num}": "0 1 2 3",
    "${variant}/${seed}": "vanilla/0 vanilla/1 baseline/0 baseline/1",
    "${variant}-${seed}": "vanilla-0 vanilla-1 baseline-0 baseline-1",
    "${variant}": "vanilla vanilla-2 baseline baseline-2",
    "a/b/${hydra:job.num}": "a/b/0 a/b/1 a/b/2 a/b/3",
    "./x//${hydra.job.num}/../${seed}${variant}": "x/0vanilla x/1vanilla x/0baseline x/1baseline",
    "${hydra.job.override_dirname}": None,
    "${hydra:job.override_dirname}/run": None,
}


@pytest.mark.parametrize("subdir", LAYOUTS)
def test_every_layout_of_the_folder_works(subdir, command, tmp_path):
    """members.json and ledger.csv are in hydra.sweep.dir, the same command runs nothing, another order finds its runs."""
    words = (*SWEEP, "+env.params.gravity=9.8", "hydra.sweep.dir=in/s", f"hydra.sweep.subdir={subdir}")
    if "dirname" in subdir:
        words = (*words, "hydra.job.config.override_dirname.kv_sep=/")  # as a value with a slash has
    if "${variant}" in subdir:
        words = (*words, "hydra.sweeper.max_batch_size=1")
    code, out, err = command(*words)
    assert (code, err) == (0, ""), err
    assert "4 members: 4 completed; files in in/s" in out and Trainer.sizes[0] <= 4
    sweep = tmp_path / "in/s"
    names = json.loads((sweep / "members.json").read_text())
    assert LAYOUTS[subdir] is None or {*names} == {*LAYOUTS[subdir].split()}
    assert {sweep / name for name in names} == {path.parent for path in sweep.rglob("run.json")} and len(names) == 4
    assert list(tmp_path.rglob("members.json")) == [sweep / "members.json"]
    assert (sweep / "ledger.csv").read_text().count("completed") == 4
    there = {path: x for path, x in files(sweep).items() if path.name not in ("ledger.csv", "multirun.yaml")}
    code, out, _ = command(*words, "seed=1,0", "+variant=baseline,vanilla")
    assert code == 0 and not Trainer.ran and "4 members: 4 completed" in out
    assert there == {path: x for path, x in files(sweep).items() if path in there}
    assert len(bits(sweep)) == 4
    for name, entry in names.items():
        found = record.read_summary(sweep / name)
        assert f"seed={found['seed']}" in entry["overrides"] and f"+variant={found['variant']}" in entry["overrides"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("hydra.sweep.subdir=../x", "hydra.sweep.subdir: '../x' is not allowed"),
        ("hydra.sweep.subdir=a/../../x", "hydra.sweep.subdir: 'a/../../x' is not allowed"),
        ("hydra.sweep.subdir=/nowhere/x", "hydra.sweep.subdir: '/nowhere/x' is not allowed"),
        ("hydra.sweep.subdir=.", "hydra.sweep.subdir: '.' is not allowed"),
        ("hydra.sweep.subdir=.hidden", "hydra.sweep.subdir: '.hidden' is not allowed"),
        (f"hydra.sweep.subdir={'x' * 256}", "too long for a folder's name"),
        ("hydra.sweep.subdir=${seed}/" + "y/" * 2000, "too long for a folder's name"),
        (f"hydra.sweep.dir=mine/{'x' * 300}", "hydra.sweep.dir: cannot write mine/xxx"),
        ("hydra.sweep.dir=mine/s${seed}", "hydra.sweep.dir: mine/s1 for one member"),
        ("num_updates=4,2", "num_updates: 4 and 2 for members that are alike in all else"),
        ("num_env_steps=1e5,1e6", "num_env_steps: 100000 and 1000000"),
        ("stop_when_solved=true,false", "stop_when_solved: True and False"),
        ("updates_per_chunk=1,3", "updates_per_chunk: 1 and 3"),
        ("checkpoint_every=1,3", "checkpoint_every: 1 and 3"),
        ("checkpoints_kept=1,3", "checkpoints_kept: 1 and 3"),
        ("tracker=none,wandb", "tracker: pgx.runs.tracker.Tracker and pgx.runs.tracker.WandbTracker"),
        ("gamma=0.5,abc", "gamma: 'abc' is not allowed"),
    ],
)
def test_refused_before_anything_runs(wrong, says, command, tmp_path):
    """And nothing is left of it."""
    refused(command, says, *SWEEP, "hydra.sweep.dir=mine/s", wrong)
    assert not any(tmp_path.iterdir())
    if "=" in says.partition(":")[0] or "and" in says:  # also where Hydra's sweeper asks for one after the other
        refused(command, says, *SWEEP, "hydra.sweep.dir=mine/s", wrong, "hydra.sweeper.max_batch_size=1")
        assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["mine", "mine/also", "mine/new/s"])
def test_a_refused_sweep_leaves_what_was_there(folder, command, tmp_path):
    """Empty folders are somebody's, too, and so is Hydra's note of an earlier command."""
    (tmp_path / "mine/also").mkdir(parents=True)
    (tmp_path / "mine/multirun.yaml").write_text("theirs")
    before = files(tmp_path)
    refused(command, "seed: 'abc' is not allowed", *SWEEP, f"hydra.sweep.dir={folder}", "seed=0,abc")
    assert files(tmp_path) == before
    code, out, _ = command(*SWEEP, f"hydra.sweep.dir={folder}", "hydra.launcher.dry_run=true")
    assert code == 0 and "4 of 4 to run" not in out and "2 of 2 to run" in out and files(tmp_path) == before


def test_a_folder_named_in_a_file_is_that_folder(command, tmp_path):
    """Only a name with the second in it asks for a new one each time."""
    (tmp_path / "mine/experiment").mkdir(parents=True)
    where = "# @package _global_\nhydra:\n  sweep: {dir: big}\n  run: {dir: one}\n"
    (tmp_path / "mine/experiment/where.yaml").write_text(where)
    for ran in (4, 0):
        code, out, err = command(*SWEEP, "--config-dir=mine", "+experiment=where")
        assert code == 0 and "4 members: 4 completed; files in big" in out and len(Trainer.ran) == ran, err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "mine"]
    refused(command, "num_updates: 4 → 3: big/0 holds a run", *SWEEP, "num_updates=3", "--config-dir=mine", "+experiment=where")
    for _ in range(2):  # the default: two commands of one second, say
        assert command(*SWEEP, "hydra.sweep.dir='x/${now:%Y-%S}'")[0] == 0
        assert len(Trainer.ran) == 4
    assert len([*tmp_path.glob("x/*")]) == 2
    single = ("+variant=vanilla", "seed=0", "--config-dir=mine", "+experiment=where")
    (tmp_path / "one").mkdir()
    shutil.copy(tmp_path / "big/0/run.json", tmp_path / "one/run.json")
    code, out, err = command(single[0], *single[1:], "num_updates=4")
    assert (code, err) == (0, "") and "already finished; files in one" in out


def test_the_folder_of_a_single_run_is_no_sweeps(command, tmp_path):
    (tmp_path / "s").mkdir()
    record.write_summary(tmp_path / "s", record.new_summary(checked("+variant=vanilla"), None))
    refused(command, "s holds a single run", *SWEEP, "hydra.sweep.dir=s")


def test_commands_at_once_choose_folders_of_their_own(tmp_path):
    """Eight of them, half asking for the same members: every member has one folder, and none is lost."""
    commands = [composed_in(tmp_path / "s", *(f"+variant=vanilla seed={i // 2 * 3 + k}" for k in range(3))) for i in range(8)]
    placed, barrier = {}, threading.Barrier(8)

    def place(i):
        barrier.wait()
        placed[i] = members.placed(commands[i])

    threads = [threading.Thread(target=place, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folders = {}
    for member in (member for found in placed.values() for member in found):
        assert folders.setdefault(member.key, member.name) == member.name
    assert len(folders) == len(set(folders.values())) == 12
    assert {x["config_hash"]: name for name, x in json.loads((tmp_path / "s/members.json").read_text()).items()} == folders


def test_a_member_inside_of_another_is_refused(tmp_path):
    [one, other] = composed_in(tmp_path / "s", "+variant=vanilla", "+variant=baseline")
    with pytest.raises(ConfigError, match="hydra.sweep.subdir: a/b lies in the folder of another member, a"):
        members.placed([one._replace(name="a"), other._replace(name="a/b")])
    assert not (tmp_path / "s/members.json").exists()


def test_a_command_that_chooses_for_ever_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "PATIENCE", 0.1)
    with index.locked(tmp_path), pytest.raises(ConfigError, match="another command has been choosing its members"):
        with index.locked(tmp_path):
            pass


def test_without_locks_one_command_at_a_time(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(index.fcntl, "flock", none)
    with index.locked(tmp_path):
        pass
    assert "no locks" in capsys.readouterr().err
