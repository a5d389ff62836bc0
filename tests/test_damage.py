"""A run's folder is copied, moved, restored from a backup, edited by hand and cut by power failures: whatever becomes of
it, nobody may end with numbers that are not the run's."""

import json
import shutil
from pathlib import Path
from random import Random

import damage
import pytest
from program import summary, train_here

RUN = ("+variant=baseline", "+env.params.max_steps_in_episode=20", "episodes_per_update=4", "updates_per_chunk=4")
RUN += ("checkpoint_every=3", "diagnose_every=7")


def train(folder: Path, updates: int, *more: str) -> None:
    train_here(*RUN, f"num_updates={updates}", *more, folder=folder)


def end(folder: Path) -> tuple[bytes, bytes]:
    """metrics.csv and the state after the last update: parameters, moments, the last returns."""
    assert summary(folder)["status"] == "completed"
    newest = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    return (folder / "metrics.csv").read_bytes(), (folder / f"checkpoints/{newest}/state/bytes/0").read_bytes()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A finished run, one that was killed, another seed's, and what the first two must become."""
    root = tmp_path_factory.mktemp("runs")
    train(root / "finished", 13)
    train(root / "stranger", 13, "seed=1")
    train(root / "longer", 16)
    killed = shutil.copytree(root / "finished", root / "killed")
    shutil.rmtree(killed / "checkpoints/13")
    found = {key: x for key, x in summary(killed).items() if not key.startswith("return_") and key != "updates"}
    (killed / "run.json").write_text(json.dumps(found | {"status": "running", "finished": None, "resumed_from": 0}))
    return root


def survive(runs: Path, folder: Path, seed: int) -> tuple[str, str]:
    """Of this draw: (what was damaged, what came of it)."""
    chance = Random(seed)
    shutil.copytree(runs / chance.choice(["finished", "killed"]), folder / "run")
    shutil.copytree(runs / "stranger", folder / "stranger")
    done = [damage.damage(folder / "run", folder / "stranger", chance) for _ in range(chance.choice([1, 1, 2]))]
    stranger = damage.contents(folder / "stranger")
    try:
        came = damage.assert_refused_or_whole(folder / "run", lambda: train(folder / "run", 16), end, end(runs / "longer"))
        assert damage.contents(folder / "stranger") == stranger, "a stranger's folder was changed"
    except Exception as error:
        raise AssertionError(f"draw {seed}: {', '.join(done)}: {type(error).__name__}: {error}") from error
    return ", ".join(done), came


@pytest.mark.parametrize("seeds", [range(24), pytest.param(range(24, 424), marks=pytest.mark.slow)], ids=["few", "many"])
def test_a_damaged_run_is_refused_by_name_or_ends_with_its_own_bits(seeds, runs, tmp_path):
    """Files removed, emptied, cut, flipped, exchanged with another run's, replaced by links, renamed: one or two at a time."""
    came = [survive(runs, tmp_path / str(seed), seed)[1] for seed in seeds]
    assert {"refused", "whole"} == set(came)
