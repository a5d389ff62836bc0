"""Checkpoints: the state of a run on disk, written by Orbax and checked by us.

Orbax alone restores a flipped bit as a wrong number, takes an empty folder for the latest step, casts
dtypes silently and never falls back to an older step. So every step carries a manifest of sha256 sums,
which is checked before the step is believed, and the leaves are compared by name with the state that is
asked for. Arrays and JSON only: loading a checkpoint never runs code from it.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

log = logging.getLogger("pgx")

MANIFEST = "manifest.json"
WORKSHOP = ".unfinished"
"""Steps are written here and moved out when whole. What a killed run left inside is swept at the next save."""


class CheckpointError(Exception):
    """A checkpoint cannot be written, or none can be used; the message is one line."""


class Checkpoints:
    """The checkpoints of one run, in FOLDER/UPDATE/. A context manager: leaving it waits for the writing.

    A kill at any moment leaves every finished step as it was. After a power failure the newest ones may
    be damaged (nothing is fsynced); their manifests tell, and an older one is used.

    Keeps the newest `keep` steps, and the one with the best score. Use one object, in one process, at a time.
    """

    def __init__(self, folder: Path, *, keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self._folder = Path(folder).absolute()
        self._keep = keep
        self._thread = _thread()
        self._writing: Future | None = None

    def warm_up(self) -> None:
        """Start importing Orbax in the background (0.3 s, better spent while XLA compiles)."""
        self._thread.submit(_orbax)

    def save(self, update: int, state: PyTree, meta: dict[str, Any], score: float | None = None) -> None:
        """Copy `state` to the host and return; a background thread writes it.

        Saving `update` replaces a checkpoint of that number and removes those of later updates: whoever
        saves update 10 while 15 exists has gone back, because 15 is defective or by choice. A score of
        None, NaN or ±inf is never the best; of equal scores the earlier is.

        Waits if the checkpoint before is still being written, so that at most one copy is in memory.

        Raises CheckpointError if an *earlier* checkpoint could not be written (say, the disk is full);
        this one is then not saved, and the next attempt starts afresh. TypeError if `meta` is not JSON or a leaf
        is a NumPy array (which would come back as something else).
        """
        self._finish_writing()
        leaves = _named_leaves(state)
        values = jax.device_get(list(leaves.values()))  # starts every transfer before it waits for the first
        about = {
            "meta": meta,
            "score": float(score) if score is not None and math.isfinite(score) else None,
            "leaves": [[name, *_kind(leaf)] for name, leaf in leaves.items()],
        }
        about = json.loads(json.dumps(about))  # refused here, not in the thread; and `meta` may change afterwards
        data = [value.tobytes() for value in values]  # a copy: XLA may reuse a donated buffer while we write
        self._writing = self._thread.submit(self._write, update, data, about)

    def restore(self, skeleton: PyTree, *, before: int | None = None) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The newest good checkpoint (older than `before`): (update, state, meta). None if there is no step at all.

        `skeleton` is a state of the same structure, whose arrays (or ShapeDtypeStructs) are replaced, by strongly
        typed ones. A defective step is named in a warning and the one before it is used.

        Raises CheckpointError if there are steps but none can be used (a run must not start again from zero by
        accident), or if the shapes or dtypes of an intact step differ from the skeleton's (another config).
        """
        self._finish_writing()
        steps = self.steps()
        candidates = [step for step in reversed(steps) if before is None or step < before]
        if steps and not candidates:
            raise CheckpointError(f"{self._folder} has no checkpoint before update {before}, only {steps}")
        return self._first_good(candidates, skeleton)

    def best(self, skeleton: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """The good checkpoint with the best score, else as `restore`. None if no step has a score."""
        self._finish_writing()
        return self._first_good(_by_score(self._folder, self.steps()), skeleton)

    def best_folder(self) -> Path | None:
        """Where the checkpoint with the best score is, good or defective; None if no step has a score."""
        self._finish_writing()
        best = _by_score(self._folder, self.steps())[:1]
        return self._path(best[0]) if best else None

    def at(self, update: int, skeleton: PyTree) -> PyTree:
        """The state of this very checkpoint. Raises CheckpointError if it is defective or of another state."""
        self._finish_writing()
        defect = _defect(self._path(update))
        if defect:
            raise CheckpointError(f"checkpoint {self._path(update)} is defective: {defect}")
        return self._load(update, skeleton)[0]

    def steps(self) -> list[int]:
        """The updates that have a checkpoint on disk now, good or defective, in order."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdecimal() and path.is_dir())

    def close(self) -> None:
        """Wait for the writing to end. Raises CheckpointError if it failed."""
        self._finish_writing()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: Any) -> None:
        try:
            self.close()
        except CheckpointError as error:
            if kind is None:
                raise
            log.warning("%s", error)  # what ended the run matters more

    def _path(self, update: int) -> Path:
        return self._folder / str(update)

    def _finish_writing(self) -> None:
        error = self._writing and self._writing.exception()
        self._writing = None
        if error:
            raise error

    def _write(self, update: int, data: list[bytes], about: dict[str, Any]) -> None:
        try:
            workshop = self._folder / WORKSHOP
            shutil.rmtree(workshop, ignore_errors=True)
            workshop.mkdir(parents=True)
            step, place = workshop / str(update), self._path(update)
            _orbax_save(step, data, about)
            (step / MANIFEST).write_text(json.dumps(_checksums(step), indent=1))
            if place.exists():
                place.rename(workshop / "replaced")
            step.rename(place)  # atomic: from here on the step exists, whole
            for old in self._superfluous(update):
                # Moved before it is deleted: half a deleted step would look like a defective one.
                self._path(old).rename(workshop / f"old-{old}")
            shutil.rmtree(workshop)
        except Exception as error:
            raise CheckpointError(f"cannot write checkpoint {self._path(update)}: {_one_line(error)}") from error

    def _superfluous(self, newest: int) -> set[int]:
        steps = self.steps()
        past = [step for step in steps if step <= newest]
        return set(steps) - set(past[-self._keep :]) - set(_by_score(self._folder, past)[:1])

    def _first_good(self, candidates: Iterable[int], skeleton: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        defects = []
        for update in candidates:
            defect = _defect(self._path(update))
            if not defect:
                state, meta = self._load(update, skeleton)
                return update, state, meta
            log.warning("checkpoint %s is defective and not used: %s", self._path(update), defect)
            defects.append(f"{update} ({defect})")
        if defects:
            raise CheckpointError(f"no checkpoint in {self._folder} can be used: {', '.join(defects)}")
        return None

    def _load(self, update: int, skeleton: PyTree) -> tuple[PyTree, dict[str, Any]]:
        try:
            # In the thread: it may still be importing Orbax, which is not thread-safe.
            data, about = self._thread.submit(_orbax_restore, self._path(update)).result()
        except Exception as error:
            raise CheckpointError(
                f"checkpoint {self._path(update)} is intact, but Orbax cannot read it: {_one_line(error)}"
            ) from error
        wanted = {name: _kind(leaf) for name, leaf in _named_leaves(skeleton).items()}
        found = {name: (dtype, tuple(shape)) for name, dtype, shape in about["leaves"]}
        difference = _difference(found, wanted)
        if difference:
            raise CheckpointError(f"checkpoint {self._path(update)} is of another state: {difference}")
        arrays = _unpack(data, found)
        leaves, static = eqx.partition(skeleton, _is_leaf)
        # uncommitted, so that the compiled code of a fresh state serves; jnp.array would compile a program a shape
        state = jax.device_put(jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], leaves))
        return eqx.combine(state, static), about["meta"]


# Orbax writes and reads single steps. Its CheckpointManager is not used: choosing, keeping and removing steps is done
# above, and a save through it takes three times the CPU (50 ms against 16).


def _orbax():
    import orbax.checkpoint

    absl = logging.getLogger("absl")
    if _serious not in absl.filters:
        absl.addFilter(_serious)
    return orbax.checkpoint


def _serious(record: logging.LogRecord) -> bool:
    """Orbax tells of every save and warns of what is harmless; its errors reach us as exceptions."""
    return record.levelno >= logging.ERROR or "orbax" not in record.pathname


def _checkpointer():
    ocp = _orbax()
    # OCDBT merges many arrays into few files; we write only one.
    state, meta = ocp.StandardCheckpointHandler(use_ocdbt=False), ocp.JsonCheckpointHandler()
    return ocp.Checkpointer(ocp.CompositeCheckpointHandler("state", "meta", state=state, meta=meta))


def _orbax_save(step: Path, data: list[bytes], about: dict[str, Any]) -> None:
    args = _orbax().args
    # One array for all leaves: Orbax takes 1.2 ms a leaf (36 leaves: 65 ms of CPU against 20), and refuses
    # arrays of size zero and empty trees; hence also the one byte more.
    state = {"bytes": np.frombuffer(b"".join([*data, b"\0"]), np.uint8)}
    with _checkpointer() as checkpointer:
        checkpointer.save(step, args=args.Composite(state=args.StandardSave(state), meta=args.JsonSave(about)))


def _orbax_restore(step: Path) -> tuple[np.ndarray, dict[str, Any]]:
    args = _orbax().args
    with _checkpointer() as checkpointer:
        found = checkpointer.restore(step, args=args.Composite(state=args.StandardRestore(), meta=args.JsonRestore()))
    return found["state"]["bytes"], found["meta"]


@cache
def _thread() -> ThreadPoolExecutor:
    """One for all runs of a process: in a pack, more would only fight for the interpreter."""
    return ThreadPoolExecutor(1, thread_name_prefix="checkpoint")


# Leaves.


def _is_leaf(x: Any) -> bool:
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct | np.ndarray | np.generic)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path)


def _kind(leaf: Any) -> tuple[str, tuple[int, ...]]:
    return str(leaf.dtype), leaf.shape


def _named_leaves(state: PyTree) -> dict[str, Any]:
    leaves = {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(eqx.filter(state, _is_leaf))}
    for name, leaf in leaves.items():
        if isinstance(leaf, np.ndarray | np.generic):
            raise TypeError(f"leaf {name} of the state is a NumPy array; checkpoints hold jax arrays")
    return leaves


def _unpack(data: np.ndarray, kinds: dict[str, tuple[str, tuple[int, ...]]]) -> dict[str, np.ndarray]:
    arrays, start = {}, 0
    for name, (dtype, shape) in kinds.items():
        end = start + np.dtype(dtype).itemsize * math.prod(shape)
        arrays[name] = data[start:end].view(dtype).reshape(shape)
        start = end
    return arrays


def _difference(found: dict[str, tuple], wanted: dict[str, tuple]) -> str | None:
    """The first leaf in which a checkpoint differs from the state that is wanted, and how many more do."""
    names = [name for name in wanted | found if wanted.get(name) != found.get(name)]
    if not names:
        return None
    found_text, wanted_text = (
        "{}{}".format(*kinds[names[0]]) if names[0] in kinds else "nothing" for kinds in (found, wanted)
    )
    more = f" (and {len(names) - 1} more)" if names[1:] else ""
    return f"leaf {names[0]} is {found_text} in the checkpoint and {wanted_text} in this run{more}"


# Files.


def _checksums(step: Path) -> dict[str, list]:
    """{file: [size, sha256]} of all files in a step but the manifest."""
    files = {str(path.relative_to(step)): path.read_bytes() for path in sorted(step.rglob("*")) if path.is_file()}
    return {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items() if name != MANIFEST}


def _defect(step: Path) -> str | None:
    """What is wrong with the files of a step; None if nothing is."""
    try:
        manifest, files = json.loads((step / MANIFEST).read_bytes()), _checksums(step)
        for name, (size, digest) in manifest.items():
            if name not in files:
                return f"{name} is missing"
            if files[name] != [size, digest]:
                return f"{name} is {'truncated' if files[name][0] < size else 'altered'}"
    except FileNotFoundError:
        return f"unfinished, it has no {MANIFEST}"
    except OSError as error:
        return str(error)
    except (ValueError, TypeError, AttributeError):
        return f"{MANIFEST} is altered"
    return None


def _by_score(folder: Path, steps: list[int]) -> list[int]:
    """The steps that have a score, best first, the earlier before the later."""
    scores = {step: _score(folder / str(step)) for step in steps}
    return sorted((step for step in steps if scores[step] is not None), key=lambda step: (-scores[step], step))


def _score(step: Path) -> float | None:
    try:
        score = json.loads((step / "meta" / "metadata").read_bytes())["score"]  # the file of Orbax's JsonSave
    except (OSError, ValueError, TypeError, KeyError):
        return None  # defective: restoring it tells how
    return score if isinstance(score, float) else None


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
