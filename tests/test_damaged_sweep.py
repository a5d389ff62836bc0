"""A damaged sweep: whatever has become of members.json or of a member, every member is completed once, or told as broken."""

import contextlib
import json
import random
import shutil
from pathlib import Path

import pytest
import sweeps
from sweeps import SWEEP, Trainer, altered, bits, files, run_missing, train

from pgx.sweep import index, ledger
from pgx.sweep.index import look

four = pytest.fixture(sweeps.four, scope="module")
command = pytest.fixture(sweeps.command)


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


@pytest.mark.parametrize("damage", INDEX)
@pytest.mark.parametrize("done", [4, 2])
def test_the_index_is_rebuilt_from_the_run_folders(damage, done, four, tmp_path, capsys):
    """Whatever has become of members.json, and whether all was done or half: every member once, nothing outside."""
    sweep = tmp_path / "a/s"
    assert run_missing(four, sweep) == ["0", "1", "2", "3"]
    whole = bits(sweep)
    for name in range(done, 4):
        shutil.rmtree(sweep / str(name))
    kept = {path: x for path, x in files(sweep).items() if path.parent.name in map(str, range(done))}
    INDEX[damage](sweep / "members.json")
    assert capsys.readouterr().err == ""
    assert len(run_missing(four, sweep)) == 4 - done and bits(sweep) == whole
    assert kept.items() <= files(sweep).items() and [path.name for path in tmp_path.iterdir()] == ["a"]
    err = capsys.readouterr().err
    assert err.count("\n") <= 1 and ("members.json was " in err or done < 4 or damage == "a folder more")
    assert run_missing(four, sweep) == [] and capsys.readouterr().err == ""  # it is mended


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
    run_missing(four, sweep)
    whole = bits(sweep)
    shutil.rmtree(sweep / "2")
    RUN[damage](sweep / "1/run.json")
    if index_too:
        (sweep / "members.json").unlink()
    before = files(sweep / "1")
    assert run_missing(four, sweep) == ["2"] and files(sweep / "1") == before and bits(sweep) == whole
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
        run_missing(four, root / "s")
        (root / "outside/folder").mkdir(parents=True)
        for name in ("members.json", "run.json", "folder/run.json"):
            (root / "outside" / name).write_text('{"theirs": 1}')
        outside, before = files(root / "outside"), bits(root / "s")
        done = [damage(root / "s", dice) for _ in range(harm)]
        run_missing(four, root / "s", train_once)
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


def train_once(member):
    """As a Recording does it: what has a checkpoint goes on, and only as the run that it is of."""
    file = member.folder / "checkpoints/4/meta/metadata"
    if not file.exists() or json.loads(file.read_text())["origin"]["run"] == member.key:
        train(member)


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
