"""The bits of a run folder: its table, its newest checkpoint, every file."""

from pathlib import Path

import equinox as eqx
import jax
import numpy as np
from program import summary

from pgx.build import build, skeleton
from pgx.runs.checkpoint import Checkpoints


def metrics(folder: Path) -> bytes:
    return (folder / "metrics.csv").read_bytes()


def num_rows(folder: Path) -> int:
    return metrics(folder).count(b"\n") - 1 if (folder / "metrics.csv").exists() else 0


def saved(folder: Path) -> tuple[list[int], list[bytes]]:
    """(the updates that have a checkpoint, every bit of the newest)."""
    config = summary(folder)["config"]
    with Checkpoints(folder / "checkpoints") as checkpoints:
        update, state, _ = checkpoints.restore(skeleton(config, *build(config)))
        assert update == checkpoints.steps()[-1]
        return checkpoints.steps(), [np.asarray(x).tobytes() for x in jax.tree.leaves(eqx.filter(state, eqx.is_array))]


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes | None]]:
    """Time and content of everything."""
    paths = (folder, *folder.rglob("*"))
    return {path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None) for path in paths}
