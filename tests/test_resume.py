"""A run is resumed in its folder, in this process: from damaged or foreign files as if nothing had happened, or not at all.
It must not continue what it should not."""

import json
import logging
import random
import shutil
from pathlib import Path

import jax
import pytest
from bits import metrics, saved, snapshot
from program import gate, summary, train_here

from pgx import backend
from pgx.errors import ConfigError
from pgx.runs import provenance
from pgx.runs.checkpoint import MANIFEST, CheckpointError, _checksums
from pgx.runs.restore import trained

SHORT = ("episodes_per_update=4", "updates_per_chunk=1", "checkpoint_every=3", "diagnose_every=7")
HERE = ("+variant=baseline", "+env.params.max_steps_in_episode=20", *SHORT)


@pytest.fixture(scope="module")
def short_and_long(tmp_path_factory) -> tuple[Path, Path]:
    """Runs of 13 and of 26 updates."""
    root = tmp_path_factory.mktemp("here")
    for updates in (13, 26):
        train_here(*HERE, f"num_updates={updates}", folder=root / str(updates))
    return root / "13", root / "26"


@pytest.fixture
def copy(short_and_long, tmp_path) -> Path:
    return shutil.copytree(short_and_long[0], tmp_path / "copy")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ("num_updates=13 seed=1", "seed: 0 → 1"),
        ("num_updates=12", "num_updates: 13 → 12"),
        ("num_updates=26 num_env_steps=1000", "num_env_steps: 1000000 → 1000"),
        ("num_updates=26 policy.width=16", "policy.width: 32 → 16"),
        ("num_updates=26 optimiser=adamw", "optimiser.method: adam → adamw"),
        ("num_updates=26 critic=none", "critic._target_: pgx.critics.ValueNetwork → pgx.critics.NoCritic"),
        ("num_updates=26 stop_when_solved=true", "stop_when_solved: False → True"),
        ("num_updates=26 xla_threads=3", "xla_threads: 1 → 3"),
    ],
)
def test_another_configuration_is_refused_by_name(changes, says, copy, capsys):
    """The first half of a run by one learning rate and the second by another is a result of neither."""
    before = snapshot(copy)
    with pytest.raises(SystemExit) as refusal:
        gate(*HERE, *changes.split(), f"hydra.run.dir={copy}")
    text = capsys.readouterr().err
    assert refusal.value.code == 2 and text.startswith(f"pgx: {says}: ") and "choose another folder" in text
    with pytest.raises(ConfigError, match=says.split(":")[0]):  # nor by the door behind
        train_here(*HERE, *changes.split(), folder=copy)
    assert {path: x for path, x in snapshot(copy).items() if path.name not in ("copy", ".lock")} == {
        path: x for path, x in before.items() if path.name not in ("copy", ".lock")
    }


@pytest.mark.parametrize("changes", ["num_updates=26", "num_updates=26 checkpoint_every=5 updates_per_chunk=4"])
def test_a_larger_budget_goes_on_to_what_one_long_run_is(changes, copy, short_and_long):
    """More training is the most common afterthought. How often a run looks up and saves is no part of it."""
    done = train_here(*HERE, *changes.split(), folder=copy)
    assert done["status"] == "completed" and metrics(copy) == metrics(short_and_long[1])
    assert saved(copy)[1] == saved(short_and_long[1])[1]


def flip_a_bit(step: Path) -> str:
    file = step / "state/bytes/0"
    data = bytearray(file.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    file.write_bytes(data)
    return "state/bytes/0 is altered"


def truncate(step: Path) -> str:
    file = step / "state/bytes/0"
    file.write_bytes(file.read_bytes()[:-1])
    return "state/bytes/0 is truncated"


def remove_a_file(step: Path) -> str:
    (step / "meta/metadata").unlink()
    return "meta/metadata is missing"


def remove_the_manifest(step: Path) -> str:
    (step / "manifest.json").unlink()
    return "unfinished, it has no manifest.json"


def remove_all(step: Path) -> str:
    shutil.rmtree(step)
    step.mkdir()
    return "unfinished, it has no manifest.json"


DAMAGES = (flip_a_bit, truncate, remove_a_file, remove_the_manifest, remove_all)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, copy, short_and_long, caplog):
    """Disks fill up and files rot. Wrong parameters would go on without a word."""
    newest = copy / "checkpoints/13"
    says = damage(newest)
    with caplog.at_level(logging.WARNING, "pgx"):
        train_here(*HERE, "num_updates=26", folder=copy)
    (warning,) = caplog.records
    assert warning.getMessage() == f"checkpoint {newest} is defective: {says}; not used"
    assert metrics(copy) == metrics(short_and_long[1]) and saved(copy)[1] == saved(short_and_long[1])[1]


def assert_refused(folder: Path, says: str, *changes: str) -> None:
    """By name, and every byte is what it was."""
    before = contents(folder)
    with pytest.raises((CheckpointError, ConfigError), match=says):
        train_here(*HERE, "num_updates=26", *changes, folder=folder)
    assert contents(folder) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: x for path, (_, x) in snapshot(folder).items() if x is not None and path.name != ".lock"}


def steps(folder: Path) -> list[Path]:
    return [path for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]


def test_without_any_good_checkpoint_nothing_starts_from_zero(copy):
    """It would overwrite the only record of the run that there is."""
    for step in steps(copy):
        flip_a_bit(step)
    assert len(steps(copy)) > 2
    assert_refused(copy, "no checkpoint in .* can be used: 13 is defective")


@pytest.mark.parametrize("gone", ["folder", "steps", "table as well", "run.json as well"])
def test_without_any_checkpoint_nothing_starts_from_zero(gone, copy):
    """Left out of a copy, deleted to save space, not in the archive: it wiped the history without a word."""
    shutil.rmtree(copy / "checkpoints")
    if gone == "steps":
        (copy / "checkpoints").mkdir()
    if gone == "table as well":
        (copy / "metrics.csv").unlink()
    if gone == "run.json as well":
        (copy / "run.json").unlink()
    assert_refused(copy, "no checkpoint in .* can be used: there is none")


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(copy, short_and_long):
    """Nothing is lost that would not be computed again at once."""
    shutil.rmtree(copy / "checkpoints")
    lines = metrics(copy).splitlines(keepends=True)
    (copy / "metrics.csv").write_bytes(b"".join(lines[:3]))  # of two updates: one is saved every three
    killed = {"status": "running", "updates": None, "finished": None}
    (copy / "run.json").write_text(json.dumps(summary(copy) | killed))
    assert train_here(*HERE, "num_updates=26", folder=copy)["status"] == "completed"
    assert metrics(copy) == metrics(short_and_long[1])


def test_run_json_is_left_as_it_was_by_what_fails_before_the_first_new_update(copy, short_and_long, monkeypatch):
    """A finished run became `failed`, and its results were gone, because there was no GPU that day."""
    from pgx import build, loop

    before = contents(copy)

    def fails(*_, **__):
        raise AssertionError

    for where, name in ((backend, "prepare"), (build, "runner"), (loop, "train")):
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(where, name, fails)
            train_here(*HERE, "num_updates=26", folder=copy)
        assert contents(copy) == before
    assert train_here(*HERE, "num_updates=26", folder=copy)["status"] == "completed"  # it can still go on
    assert metrics(copy) == metrics(short_and_long[1])


# The table and the checkpoints prove each other


def test_a_run_whose_run_json_is_gone_goes_on_by_its_own_command_only(copy, short_and_long):
    """20 updates of seed 0 and 10 of seed 1 were a whole run of seed 1."""
    (copy / "run.json").unlink()
    for other in ("seed=1", "gamma=0.5", "optimiser.learning_rate=0.5"):
        assert_refused(copy, "13 is of a run with another configuration or seed", other)
    assert train_here(*HERE, "num_updates=26", folder=copy)["status"] == "completed"
    assert metrics(copy) == metrics(short_and_long[1])


@pytest.mark.parametrize("row", [2, 11])
def test_a_table_that_somebody_edited_is_not_believed(row, copy, short_and_long, caplog):
    """One digit, in a row that some checkpoints still prove, or in one that none does."""
    lines = metrics(copy).splitlines(keepends=True)
    first, second, rest = lines[row].split(b",", 2)
    lines[row] = b",".join([first, b"9999", rest])
    (copy / "metrics.csv").write_bytes(b"".join(lines))
    if row == 2:
        assert_refused(copy, "13 is of another history: the first 13 rows of metrics.csv are not those")
    else:
        train_here(*HERE, "num_updates=26", folder=copy)
        assert "13 is of another history" in caplog.text and "12 is of another history" in caplog.text
        assert metrics(copy) == metrics(short_and_long[1])


def test_a_torn_table_goes_on_from_the_checkpoint_that_it_still_has(copy, short_and_long, caplog):
    """What a power failure leaves: the last rows are gone, the checkpoint that they led to is there."""
    (copy / "metrics.csv").write_bytes(metrics(copy)[:-3])
    train_here(*HERE, "num_updates=26", folder=copy)
    assert "13 is of another history" in caplog.text
    assert metrics(copy) == metrics(short_and_long[1]) and saved(copy)[1] == saved(short_and_long[1])[1]


def test_a_damaged_timing_csv_stops_nothing(copy, short_and_long, caplog):
    """It decides nothing."""
    damaged = (copy / "timing.csv").read_bytes().replace(b".", b"v")
    (copy / "timing.csv").write_bytes(damaged)
    assert train_here(*HERE, "num_updates=26", folder=copy)["status"] == "completed"
    assert "timing.csv: row 1 was altered" in caplog.text and metrics(copy) == metrics(short_and_long[1])


def of_an_older_version(folder: Path) -> None:
    """As checkpoints were before they said whose they are."""
    for step in steps(folder):
        about = json.loads((step / "meta/metadata").read_text())
        del about["origin"]
        (step / "meta/metadata").write_text(json.dumps(about | {"meta": {}}))
        (step / MANIFEST).write_text(json.dumps(_checksums(step)))


def test_a_checkpoint_of_an_older_version_is_used_with_a_warning(copy, short_and_long, caplog):
    """Of it only this can be asked: has the table its rows, and is it the update that its folder says?"""
    of_an_older_version(copy)
    lines = metrics(copy).splitlines(keepends=True)
    (copy / "metrics.csv").write_bytes(b"".join(lines[:-2]))
    assert_refused(copy, r"metrics\.csv has 11 rows, the checkpoint 13: the file was altered")
    (copy / "metrics.csv").write_bytes(b"".join([*lines[:4], lines[4].replace(b",", b",x", 1), *lines[5:]]))
    assert_refused(copy, r"metrics\.csv: row 4 was altered")
    (copy / "metrics.csv").write_bytes(b"".join(lines))
    (copy / "checkpoints/13").rename(copy / "checkpoints/14")
    assert_refused(copy, "14 is in truth that of update 13")
    (copy / "checkpoints/14").rename(copy / "checkpoints/13")
    caplog.clear()
    train_here(*HERE, "num_updates=26", folder=copy)
    assert "13 is of an older version of pgx and does not prove that it is of this run" in caplog.text
    assert metrics(copy) == metrics(short_and_long[1])


def test_whoever_only_reads_a_run_does_not_take_another_ones_step_either(copy, caplog):
    """`evaluate` would show somebody else's policy under this run's name, and change nothing doing so."""
    foreign = shutil.copytree(copy / "checkpoints/13", copy / "checkpoints/20")
    about = json.loads((foreign / "meta/metadata").read_text())
    about["origin"] |= {"run": "0123456789abcdef", "update": 20}
    (foreign / "meta/metadata").write_text(json.dumps(about))
    (foreign / MANIFEST).write_text(json.dumps(_checksums(foreign)))
    before = contents(copy)
    assert trained(copy, summary(copy)["config"], best=False).update == 13
    assert "checkpoints/20 is of a run with another configuration or seed; not used" in caplog.text
    assert contents(copy) == before


# What a run was made with


def test_what_each_stretch_was_made_with_is_kept_and_a_change_is_told(copy, monkeypatch, caplog):
    """run.json named the last commit, whoever had made the first thirty updates."""
    (first,) = summary(copy)["made_with"]
    assert first["from_update"] == 1 and first["device"] and first["versions"]["jax"]
    train_here(*HERE, "num_updates=14", folder=copy)
    assert summary(copy)["made_with"] == [first] and caplog.text == ""
    other = {"git_commit": "f" * 40, "versions": first["versions"] | {"jax": "99"}, "environment": {"XLA_FLAGS": "--fast"}}
    now = {key: x for key, x in first.items() if key != "from_update"} | other
    monkeypatch.setattr(provenance, "made_with", lambda *_: now)
    train_here(*HERE, "num_updates=16", folder=copy)
    assert f"jax {jax.__version__} → 99" in caplog.text and "XLA_FLAGS none → --fast" in caplog.text
    found = summary(copy)
    assert [stretch["from_update"] for stretch in found["made_with"]] == [1, 15] and found["git_commit"] == "f" * 40
    assert found["made_with"][0] == first and found["made_with"][1]["environment"] == {"XLA_FLAGS": "--fast"}
