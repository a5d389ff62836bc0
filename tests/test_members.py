"""A sweep knows its folder and its members: each is completed once, in a folder of its own, or the command is refused
before anything runs. Whole commands in this process, whose pool writes down at once what training would have left."""

import contextlib
import gc
import json
import logging
import math
import os
import random
import shutil
import sys
import threading
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from program import checked

from pgx import run
from pgx.config import CONF
from pgx.errors import ConfigError
from pgx.gate import Gate
from pgx.runs import record
from pgx.sweep import __main__ as status
from pgx.sweep import index, ledger, members, pack, pool
from pgx.sweep.compose import composes_fast
from pgx.sweep.index import look
from pgx.sweep.launch import missing
from pgx.sweep.pool import Done


class Trainer(pool.Pool):
    """In the place of the pool: a member's run is over when it is asked for, and its bits tell its configuration."""

    sizes: list[int]
    ran: list[Path]
    end: dict[str, str]
    """Variant → how its runs end, if not well."""

    def __init__(self, callbacks, size, patience):  # starts nobody
        self.sizes.append(size)

    def grow(self, size):
        pass

    def run(self, batches):
        for member in (member for batch in batches for member in batch.members):
            hydra = member.hydra_config.hydra
            assert os.path.join(hydra.sweep.dir, hydra.sweep.subdir) == str(member.folder)  # where Hydra puts the run
            how = self.end.get(member.config["variant"], "completed")
            train(member, how)
            self.ran.append(member.folder)
            yield Done(member.number, None if how in ("completed", "diverged") else "it did not go well")


def train(member, how="completed"):
    member.folder.mkdir(parents=True, exist_ok=True)
    value = {"return_final": 1.0 + member.config["seed"], "return_final_iqm": 2.0 + member.config["seed"], "env_steps": 7}
    value |= {"episodes": 1, "solved_at_env_steps": None, "reward_threshold": None}
    summary = record.new_summary(member.config, member.before, group=str(member.sweep), executor="map")
    summary |= value | {"status": how, "error": None if how == "completed" else "it did not go well"}
    record.write_summary(member.folder, summary)
    (member.folder / "metrics.csv").write_text(f"{member.key} {member.config['num_updates']}\n")
    (member.folder / "checkpoints/4/meta").mkdir(parents=True, exist_ok=True)
    (member.folder / "checkpoints/4/meta/metadata").write_text(json.dumps({"origin": {"run": member.key}}))
    (member.folder / ".hydra").mkdir(exist_ok=True)
    (member.folder / ".hydra/overrides.yaml").write_text(json.dumps(member.task_overrides))


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """`python -m pgx.run …` in tmp_path; (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pool, "Pool", Trainer)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    Trainer.sizes, Trainer.ran, Trainer.end = [], [], {}

    def run_here(*words):
        handlers = logging.root.handlers[:]
        monkeypatch.setattr(sys, "argv", ["pgx", words[0], "tracker=none", *words[1:]])
        Trainer.ran.clear()
        Gate.untouched = None
        try:
            run.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        finally:
            gc.enable()
            GlobalHydra.instance().clear()
            logging.root.handlers[:] = handlers
            logging.disable(logging.NOTSET)
        return code, *capsys.readouterr()

    return run_here


def found_in(folder, *words):
    """The members of a command, composed."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration("config", [f"hydra.sweep.dir={folder}", "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        jobs = enumerate(["tracker=none", *x.split()] for x in words)
        return members.composed(composes_fast(loader), config, jobs)


SWEEP = ("-m", "+variant=vanilla,baseline", "seed=0,1", "num_updates=4")


def files(folder):
    """Everything below a folder, with contents and times."""
    return {path: path.is_file() and (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def bits(sweep):
    """What was trained, wherever it lies."""
    return sorted(path.read_text() for path in sweep.rglob("metrics.csv"))


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


def refused(command, says, *words):
    code, out, err = command(*words)
    assert (code, out) == (2, "") and err.startswith("pgx: ") and err.count("\n") == 1 and says in err, err
    assert not Trainer.ran


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


# Damage


def lose(path):
    path.unlink()


def empty(path):
    path.write_bytes(b"")


def cut(path):
    path.write_bytes(path.read_bytes()[:-30])


def garble(path):
    path.write_bytes(b"\xff\xfe\x00" + path.read_bytes())


def replaced(text):
    def replace(path):
        path.write_text(text)

    return replace


def altered(change):
    def alter(path):
        said = json.loads(path.read_text())
        change(said)
        path.write_text(json.dumps(said))

    return alter


def exchange(said):
    said["0"], said["3"] = said["3"], said["0"]


INDEX = {
    "lost": lose,
    "empty": empty,
    "cut": cut,
    "not UTF-8": garble,
    "{}": replaced("{}"),
    "[]": replaced("[]"),
    "null": replaced("null"),
    "deep": replaced("[" * 100_000),
    "a wrong hash": altered(lambda said: said["1"].update(config_hash="0" * 16)),
    "no hash": altered(lambda said: said["1"].pop("config_hash")),
    "overrides of another kind": altered(lambda said: said["1"].update(overrides=3)),
    "one is missing": altered(lambda said: said.pop("2")),
    "two exchanged": altered(exchange),
    "one for two": altered(lambda said: said.update({"1": said["0"]})),
    "a foreign folder": altered(lambda said: said.update({"../../outside": said.pop("1")})),
    "an absolute folder": altered(lambda said: said.update({"/nowhere/outside": said.pop("1")})),
    "a hidden folder": altered(lambda said: said.update({".x/1": said.pop("1")})),
    "a folder more": altered(lambda said: said.update({"x/7": {"config_hash": "f" * 16, "overrides": ["seed=9"]}})),
}


@pytest.fixture(scope="module")
def four():
    """The members of a command, composed."""
    return found_in("s", *(f"+variant={variant} seed={seed}" for variant in ("vanilla", "baseline") for seed in (0, 1)))


def go(four, sweep):
    """The command on this folder; whose members it ran."""
    placed = members.placed([member._replace(sweep=sweep) for member in four])
    todo = missing(placed)
    for member in todo:
        train(member)
    return [member.name for member in todo]


@pytest.mark.parametrize("damage", INDEX)
@pytest.mark.parametrize("done", [4, 2])
def test_the_index_is_rebuilt_from_the_run_folders(damage, done, four, tmp_path, capsys):
    """Whatever has become of members.json, and whether all was done or half: every member once, nothing outside."""
    sweep = tmp_path / "a/s"
    assert go(four, sweep) == ["0", "1", "2", "3"]
    whole = bits(sweep)
    for name in range(done, 4):
        shutil.rmtree(sweep / str(name))
    kept = {path: x for path, x in files(sweep).items() if path.parent.name in map(str, range(done))}
    INDEX[damage](sweep / "members.json")
    assert capsys.readouterr().err == ""
    assert len(go(four, sweep)) == 4 - done and bits(sweep) == whole
    assert kept.items() <= files(sweep).items() and [path.name for path in tmp_path.iterdir()] == ["a"]
    err = capsys.readouterr().err
    assert err.count("\n") <= 1 and ("members.json was " in err or done < 4 or damage == "a folder more")
    assert go(four, sweep) == [] and capsys.readouterr().err == ""  # it is mended


RUN = {
    "empty": empty,
    "cut": cut,
    "not UTF-8": garble,
    "[]": replaced("[]"),
    "no status": altered(lambda said: said.pop("status")),
    "a status of its own": altered(lambda said: said.update(status="complete")),
    "no configuration": altered(lambda said: said.pop("config")),
    "a configuration that is none": altered(lambda said: said.update(config=7)),
    "another seed": altered(lambda said: said["config"].update(seed=9)),
    "another member's seed": altered(lambda said: said["config"].update(seed=0)),
    "another budget": altered(lambda said: said["config"].update(num_updates=3)),
    "another hash": altered(lambda said: said.update(config_hash="0" * 16)),
    "no time": altered(lambda said: said.pop("wall_seconds")),
}


@pytest.mark.parametrize("damage", RUN)
@pytest.mark.parametrize("index_too", [False, True])
def test_one_broken_member_is_contained(damage, index_too, four, tmp_path, capsys):
    """It is in the table with its reason, untouched; the others go on; exit code 1. Also when members.json is gone."""
    sweep = tmp_path / "s"
    go(four, sweep)
    whole = bits(sweep)
    shutil.rmtree(sweep / "2")
    RUN[damage](sweep / "1/run.json")
    if index_too:
        (sweep / "members.json").unlink()
    before = files(sweep / "1")
    assert go(four, sweep) == ["2"] and files(sweep / "1") == before and bits(sweep) == whole
    capsys.readouterr()
    assert ledger.show(index.Index(sweep)) == 1
    out = capsys.readouterr().out
    assert "4 members: 1 completed, 1 broken, 2 completed" in out or "4 members: 3 completed, 1 broken" in out
    [line] = [line for line in out.splitlines() if line.startswith("1 ")]
    assert "broken" in line and "run.json" in line


def test_a_command_goes_on_beside_a_broken_member(command, tmp_path):
    """The whole way, with members.json gone as well."""
    words = (*SWEEP, "hydra.sweep.dir=s", "hydra.sweep.subdir=${variant}/${seed}")
    assert command(*words)[0] == 0
    empty(tmp_path / "s/vanilla/1/run.json")
    lose(tmp_path / "s/members.json")
    shutil.rmtree(tmp_path / "s/baseline/0")
    code, out, err = command(*words)
    assert code == 1 and Trainer.ran == [Path("s/baseline/0")] and "3 completed, 1 broken" in out
    assert err.count("\n") == 1 and "s/members.json was missing" in err


def flip(path, dice):
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def link(path):
    """To somebody else's file, or folder."""
    outside = path.parent.parent / "outside" / path.name
    if path.is_dir():
        outside = path.parent.parent / "outside/folder"
    shutil.move(path, path.with_name("gone"))
    path.symlink_to(outside)


def damage(sweep, dice):
    """To an index, a run.json or a member's folder; what it was."""
    ours = [x for x in (sweep / "members.json", *sweep.glob("[0-9]/run.json")) if x.resolve().is_relative_to(sweep)]
    file = dice.choice(ours)  # not through a link: that would be us
    one, other = dice.sample([path for path in sweep.glob("[0-9]") if not path.is_symlink()], 2)
    ways = {
        "lose": lambda: lose(file),
        "empty": lambda: empty(file),
        "cut": lambda: file.write_bytes(file.read_bytes()[: dice.randrange(file.stat().st_size)]),
        "flip": lambda: flip(file, dice),
        "link": lambda: link(file),
        "link a folder": lambda: link(one),
        "exchange two run.json": lambda: swap(one / "run.json", other / "run.json"),
        "exchange two folders": lambda: swap(one, other),
        "rename a folder": lambda: one.rename(sweep / "renamed"),
        "copy a folder": lambda: shutil.copytree(one, sweep / "copied", symlinks=True),
        "remove a folder": lambda: shutil.rmtree(one),
    }
    way = dice.choice(list(ways))
    with contextlib.suppress(FileNotFoundError, FileExistsError, ValueError):  # gone already, or empty
        ways[way]()
    return f"{way}: {file.relative_to(sweep)} {one.name} {other.name}"


def swap(one, other):
    one.rename(one.with_name("between"))
    other.rename(one)
    one.with_name("between").rename(other)


@pytest.mark.parametrize("harm", [1, 2])
def test_random_damage(harm, four, tmp_path, capsys):
    """Every member is completed exactly once, with its own bits, or it is told as broken; and nothing outside is touched."""
    for seed in range(40):
        root, dice = tmp_path / str(seed), random.Random(seed)
        go(four, root / "s")
        (root / "outside/folder").mkdir(parents=True)
        for name in ("members.json", "run.json", "folder/run.json"):
            (root / "outside" / name).write_text('{"theirs": 1}')
        outside, before = files(root / "outside"), bits(root / "s")
        done = [damage(root / "s", dice) for _ in range(harm)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys.modules[__name__], "train", trained_once)
            go(four, root / "s")
        code = ledger.show(index.Index(root / "s"))
        told = capsys.readouterr().out
        owners = [x.key for x in index.Index(root / "s").runs.values() if x.key is not None]
        missing_ones = {member.key for member in four} - set(owners)
        assert code == 1 and "broken" in told if missing_ones else True, (seed, done, told)
        for name, entry in index.Index(root / "s").entries.items():
            run = look(root / "s" / name)
            if run.key is not None:  # it says whose it is: then it has those bits
                assert (root / "s" / name / "metrics.csv").read_text() == f"{entry.key} None\n", (seed, done, name)
        assert set(before) <= set(bits(root / "s")) and files(root / "outside") == outside, (seed, done)


def trained_once(member):
    """As a Recording does it: what has a checkpoint goes on, and only as the run that it is of."""
    file = member.folder / "checkpoints/4/meta/metadata"
    if not file.exists() or json.loads(file.read_text())["origin"]["run"] == member.key:
        train_well(member)


train_well = train


def test_a_copy_of_a_member_is_none(command, tmp_path, capsys):
    """Somebody's backup beside it."""
    assert command(*SWEEP, "hydra.sweep.dir=s")[0] == 0
    shutil.copytree(tmp_path / "s/2", tmp_path / "s/2-backup")
    code, out, err = command(*SWEEP, "hydra.sweep.dir=s")
    assert code == 0 and not Trainer.ran and "4 members: 4 completed" in out and "2-backup repeats 2" in err
    (tmp_path / "s/members.json").unlink()
    code, out, err = command(*SWEEP, "hydra.sweep.dir=s")
    assert code == 0 and not Trainer.ran and "4 members: 4 completed" in out


def test_a_member_is_not_run_through_a_link(command, tmp_path):
    """A finished one may lie elsewhere; but nothing is written outside of the sweep's folder."""
    assert command(*SWEEP, "hydra.sweep.dir=s")[0] == 0
    for name in ("0", "1"):
        (tmp_path / "s" / name).rename(tmp_path / f"archive{name}")
        (tmp_path / "s" / name).symlink_to(tmp_path / f"archive{name}")
    altered(lambda said: said.update(status="interrupted"))(tmp_path / "archive1/run.json")
    before = files(tmp_path / "archive1")
    code, out, err = command(*SWEEP, "hydra.sweep.dir=s")
    assert code == 1 and not Trainer.ran and "3 completed, 1 interrupted" in out.replace("1 interrupted, 2", "3"), out
    assert files(tmp_path / "archive1") == before


# Objectives


def test_a_run_that_went_wrong_never_wins():
    """Its return is of before it went wrong, and a tuner would prefer it."""
    well = {"status": "completed", "return_final_iqm": -500.0}
    assert record.objective(well) == -500.0
    for wrong in ("diverged", "failed", "interrupted", "running"):
        assert record.objective(well | {"status": wrong}) == -math.inf
    assert record.objective(well | {"return_final_iqm": None}) == record.objective(None) == -math.inf


def ask(command, monkeypatch, *batches):
    """A sweeper that asks for batches of members, and what it is told."""
    Plugins.instance()  # which loads that module anew
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    told = []

    def sweep(self, arguments):
        number = 0
        for batch in batches:
            jobs = [[*arguments, *words.split()] for words in batch]
            told.extend(x.return_value for x in self.launcher.launch(jobs, number))
            number += len(batch)

    monkeypatch.setattr(BasicSweeper, "sweep", sweep)
    (Path.cwd() / "s").mkdir()
    return told, command("-m", "num_updates=4", "hydra.sweep.dir=s")


def test_a_sweeper_is_told_what_is_true(command, monkeypatch):
    """The same point twice: run once, told twice. What diverges or fails is the worst there is, and stops nobody."""
    Trainer.end = {"baseline": "diverged", "gae": "failed"}
    well, wild, fails = "+variant=vanilla seed=3", "+variant=baseline", "+variant=gae"
    batches = [[well, wild, well], [fails, well], [wild, "+variant=vanilla seed=4"]]
    told, (code, out, err) = ask(command, monkeypatch, *batches)
    assert told == [5.0, -math.inf, 5.0, -math.inf, 5.0, -math.inf, 6.0], err
    assert code == 1 and "4 members: 2 completed, 1 diverged, 1 failed" in out
    assert [str(path) for path in Trainer.ran] == ["s/0", "s/1", "s/3", "s/6"]


def test_a_sweeper_that_changes_the_budget_is_refused(command, monkeypatch):
    """It would be told of one run for both."""
    batches = [["+variant=vanilla num_updates=2"], ["+variant=vanilla num_updates=4"]]
    told, (code, _, err) = ask(command, monkeypatch, *batches)
    assert code == 2 and "num_updates: 2 and 4" in err and told == [2.0]


def test_nobody_minimises_a_return(command):
    refused(command, "hydra.sweeper.direction: minimize", *SWEEP, "hydra.sweep.dir=s", "+hydra.sweeper.direction=minimize")


def test_a_member_that_did_not_end_is_no_success(command, tmp_path, monkeypatch):
    """Somebody else is at work in its folder, say."""

    def busy(self, batches):
        yield Done(0, "another process is at work in s/0")

    monkeypatch.setattr(Trainer, "run", busy)
    code, out, err = command("-m", "+variant=vanilla", "hydra.sweep.dir=s")
    assert code == 1 and "another process is at work in s/0" in out and "1 of 1 members did not end" in err


# Workers


def test_no_more_workers_than_members_and_none_for_nothing(command, monkeypatch):
    monkeypatch.setattr(pool, "cores", lambda: 64)
    monkeypatch.setattr("pgx.sweep.launch.cores", lambda: 64)
    command("-m", "+variant=vanilla", "seed=0,1", "hydra.sweep.dir=s")
    assert Trainer.sizes == [2]
    command("-m", "+variant=vanilla", "seed=0,1", "hydra.sweep.dir=s")
    command("-m", "+variant=vanilla", "seed=0,1,2", "hydra.sweep.dir=s")
    assert Trainer.sizes == [2, 0, 1]


def test_cores_where_nobody_binds_processes_to_them(monkeypatch, tmp_path):
    """macOS has no affinity; a container may have a share of the cores' time."""
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert 1 <= pool.cores() <= 6
    file = tmp_path / "cpu.max"
    for text, cores in (("max 100000\n", None), ("150000 100000\n", 2), ("50000 100000\n", 1), ("odd", None)):
        file.write_text(text)
        assert pool._quota(file) == cores
    assert pool._quota(tmp_path / "nothing") is None


def test_files_where_there_is_no_limit(monkeypatch):
    """On macOS the hard limit is infinite by name only."""
    asked = []

    def refuse(_, limits):
        asked.append(limits)
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(pack.resource, "getrlimit", lambda _: (256, pack.resource.RLIM_INFINITY))
    monkeypatch.setattr(pack.resource, "setrlimit", refuse)
    pack._open_many_files()
    assert asked == [(10240, pack.resource.RLIM_INFINITY)]


def test_commands_at_once_choose_folders_of_their_own(tmp_path):
    """Eight of them, half asking for the same members: every member has one folder, and none is lost."""
    commands = [found_in(tmp_path / "s", *(f"+variant=vanilla seed={i // 2 * 3 + k}" for k in range(3))) for i in range(8)]
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


def test_a_member_inside_of_another_is_refused(tmp_path):
    [one, other] = found_in(tmp_path / "s", "+variant=vanilla", "+variant=baseline")
    with pytest.raises(ConfigError, match="hydra.sweep.subdir: a/b lies in the folder of another member, a"):
        members.placed([one._replace(name="a"), other._replace(name="a/b")])
    assert not (tmp_path / "s/members.json").exists()


# Status


def test_status_of_what_one_may_only_read(tmp_path, capsys, monkeypatch):
    """The table is what was asked for."""
    [member] = members.placed(found_in(tmp_path / "s", "+variant=vanilla"))
    train(member)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ledger, "write_atomically", refuse)
    assert ledger.show(index.Index(tmp_path / "s")) == 0
    out, err = capsys.readouterr()
    assert "1 member: 1 completed" in out and err == f"pgx: {tmp_path / 's/ledger.csv'} is not written: Permission denied\n"


def test_status_of_single_runs(tmp_path, capsys, monkeypatch):
    """They are listed, and nothing is written among them."""
    [member] = found_in(tmp_path / "day", "+variant=vanilla")
    train(member)
    (tmp_path / "day/2").mkdir()
    (tmp_path / "day/2/run.json").write_text("")
    before = files(tmp_path)
    monkeypatch.setattr(sys, "argv", ["status", "status", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        status.main()
    out = capsys.readouterr().out
    assert end.value.code == 1 and "day/0" in out and "no members.json" in out and "2 runs: 1 completed, 1 broken" in out
    assert files(tmp_path) == before


def test_a_long_reason_is_cut(tmp_path):
    [member] = members.placed(found_in(tmp_path / "s", "+variant=vanilla"))
    train(member, "failed")
    altered(lambda said: said.update(error="x\n" * 100_000))(member.folder / "run.json")
    [row] = ledger.read(index.Index(tmp_path / "s"))
    assert len(row["reason"]) == 500 and "\n" not in row["reason"]


# Packs


def test_a_pack_stays_where_it_is(tmp_path, monkeypatch):
    """hydra.job.chdir is one folder, and its members are many: nested, one would lie in another's."""
    monkeypatch.chdir(tmp_path)
    found = members.placed(found_in("s", *(f"+variant=vanilla seed={i} hydra.job.chdir=true" for i in range(3))))
    seen = []

    class Recorded(contextlib.nullcontext):
        goes_on, summary = False, {"status": "diverged"}

        def __init__(self, config, folder, **_):
            super().__init__(self)
            seen.append((folder, Path.cwd()))

    monkeypatch.setattr(pack, "Recording", Recorded)
    context = HydraContext(config_loader=None, callbacks=Callbacks())
    handlers = logging.root.handlers[:]
    try:
        told = pack.Pack([(x.number, x.hydra_config) for x in found], 4, lambda *_: None).run(context)
    finally:
        logging.root.handlers[:] = handlers
    assert seen == [(tmp_path / "s" / str(i), tmp_path) for i in range(3)] and Path.cwd() == tmp_path
    assert [x.return_value for x in told.values()] == [-math.inf] * 3
