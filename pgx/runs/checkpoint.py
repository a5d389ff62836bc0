"""Checkpoints: the state of a run on disk, written by Orbax and checked by us.

Orbax alone restores a flipped bit as a wrong number, takes an empty folder for the latest step, casts
dtypes silently and never falls back to an older step. So every step carries a manifest of sha256 sums,
which is checked before the step is believed, and the leaves are compared by name with the state that is
asked for. It also says whose it is, so that a step of another run is not believed, however intact. Arrays and JSON
only: loading a checkpoint never runs code from it.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PyTree

from pgx.errors import CheckpointError, one_line

log = logging.getLogger("pgx")

MANIFEST = "manifest.json"
WORKSHOP = ".unfinished"
"""Steps are written here and moved out when whole. It is there from the moment that a save is asked for; what a killed run
left inside is swept at the next."""


PATIENCE = 600.0
"""Seconds that writing one checkpoint may take: a network disk can hang for ever."""


class Origin(NamedTuple):
    """Whose a checkpoint is."""

    run: str
    """Of which run: the hash of its configuration (`record.run_hash`)."""
    update: int
    """After which of its updates, whatever the folder is called now."""
    rows: str
    """sha256 of metrics.csv until the row of that update, header included: the history that led here."""


class Restored(NamedTuple):
    """A checkpoint that was found good."""

    update: int
    state: PyTree
    origin: Origin | None
    """None where an older version of pgx has saved it."""


class Checkpoints:
    """The checkpoints of one run, in FOLDER/UPDATE/. A context manager: leaving it waits for the writing.

    A kill at any moment leaves every finished step as it was. After a power failure the newest ones may
    be damaged (nothing is fsynced); their manifests tell, and an older one is used.

    Keeps the newest `keep` steps, and the one with the best score. Use one object, in one process, at a time.
    `run` is the hash of the run that they belong to: steps that say they are another's are not used.
    """

    def __init__(self, folder: Path, *, run: str | None = None, keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, not {keep}")
        self._folder = Path(folder).absolute()
        self._run = run
        self._keep = keep
        self._thread = _thread()
        self._writing: Future | None = None

    def warm_up(self) -> None:
        """Start importing Orbax in the background (0.3 s, better spent while XLA compiles)."""
        self._thread.submit(_orbax)

    def save(self, update: int, state: PyTree, rows: str = "", score: float | None = None) -> None:
        """Copy `state` to the host and return; a background thread writes it, with its Origin.

        Saving `update` replaces a checkpoint of that number and removes those of later updates: whoever
        saves update 10 while 15 exists has gone back, because 15 is defective or by choice. A score of
        None, NaN or ±inf is never the best; of equal scores the earlier is.

        Waits if the checkpoint before is still being written, so that at most one copy is in memory.

        Raises CheckpointError if an *earlier* checkpoint could not be written (say, the disk is full);
        this one is then not saved, and the next attempt starts afresh. TypeError if a leaf is a NumPy array (which
        would come back as something else).
        """
        self._finish_writing()
        leaves = _named_leaves(state)
        values = jax.device_get(list(leaves.values()))  # starts every transfer before it waits for the first
        about = {
            "origin": Origin(self._run or "", update, rows)._asdict(),
            "score": float(score) if score is not None and math.isfinite(score) else None,
            "leaves": [[name, *_kind(leaf)] for name, leaf in leaves.items()],
        }
        data = [value.tobytes() for value in values]  # a copy: XLA may reuse a donated buffer while we write
        with contextlib.suppress(OSError):  # the thread will say so
            _remove(self._folder / WORKSHOP)
            (self._folder / WORKSHOP).mkdir(parents=True)
        self._writing = self._thread.submit(self._write, update, data, about)

    def restore(self, skeleton: PyTree, *, rows: Callable[[int], str] | None = None) -> Restored | None:
        """The newest good checkpoint. None if there is no step at all.

        `skeleton` is a state of the same structure, whose arrays (or ShapeDtypeStructs) are replaced, by strongly
        typed ones. `rows` tells the sum that the history until an update has now, which must be that of the step's
        Origin. A step that is defective, of another run, of another state or of another history is named in a
        warning, and the one before it is used.

        Raises CheckpointError if there are steps but none can be used: a run must not start again from zero by
        accident.
        """
        return self._first_good(lambda steps: steps[::-1], skeleton, rows)

    def best(self, skeleton: PyTree) -> Restored | None:
        """The good checkpoint with the best score, else as `restore`. None if no step has a score."""
        return self._first_good(lambda steps: _by_score(self._folder, steps), skeleton)

    def best_folder(self) -> Path | None:
        """Where the checkpoint with the best score is, good or defective; None if no step has a score."""
        self._finish_writing()
        best = _by_score(self._folder, self.steps())[:1]
        return self._path(best[0]) if best else None

    def at(self, update: int, skeleton: PyTree) -> PyTree:
        """The state of this very checkpoint. Raises CheckpointError if it is defective or of another state."""
        self._finish_writing()
        if update not in self.steps():
            raise CheckpointError(f"{self._folder} has no checkpoint of update {update}, only {self.steps()}")
        try:
            return self._load(update, skeleton)[0]
        except CheckpointError as error:
            raise CheckpointError(f"checkpoint {self._path(update)} {error}") from error

    def steps(self) -> list[int]:
        """The updates that have a checkpoint on disk now, good or defective, in order."""
        if not self._folder.is_dir():
            return []
        return sorted(int(path.name) for path in self._folder.iterdir() if _is_step(path))

    @property
    def unfinished(self) -> bool:
        """Whether a run was killed in a save, maybe its first."""
        return (self._folder / WORKSHOP).is_dir()

    def sweep(self) -> None:
        """Remove what a killed run left unfinished. Not for those who only read: the run may be at work."""
        self._finish_writing()
        _remove(self._folder / WORKSHOP)

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
        writing, self._writing = self._writing, None
        if writing is None:
            return
        try:
            error = writing.exception(PATIENCE)
        except TimeoutError:
            error = CheckpointError(f"a checkpoint in {self._folder} was not written in {PATIENCE:g} s: does the disk hang?")
        if error:
            raise error

    def _write(self, update: int, data: list[bytes], about: dict[str, Any]) -> None:
        try:
            workshop = self._folder / WORKSHOP
            workshop.mkdir(parents=True, exist_ok=True)
            step, place = workshop / str(update), self._path(update)
            _orbax_save(step, data, about)
            (step / MANIFEST).write_text(json.dumps(_checksums(step), indent=1))
            if os.path.lexists(place):
                place.rename(workshop / "replaced")
            step.rename(place)  # atomic: from here on the step exists, whole
            for old in self._superfluous(update):
                # Moved before it is deleted: half a deleted step would look like a defective one.
                self._path(old).rename(workshop / f"old-{old}")
            _remove(workshop)
        except Exception as error:
            raise CheckpointError(f"cannot write checkpoint {self._path(update)}: {one_line(error)}") from error

    def _superfluous(self, newest: int) -> set[int]:
        steps = self.steps()
        past = [step for step in steps if step <= newest]
        return set(steps) - set(past[-self._keep :]) - set(_by_score(self._folder, past)[:1])

    def _first_good(
        self, order: Callable[[list[int]], list[int]], skeleton: PyTree, rows: Callable[[int], str] | None = None
    ) -> Restored | None:
        """The first step, in this order, that can be used. The folder is looked into anew after every one that cannot:
        a run at work there may have removed it meanwhile, for a newer one."""
        self._finish_writing()
        unusable: dict[int, str] = {}
        while left := [step for step in order(self.steps()) if step not in unusable]:
            update = left[0]
            try:
                return Restored(update, *self._load(update, skeleton, rows))
            except CheckpointError as error:
                if self._path(update).exists():
                    log.warning("checkpoint %s %s; not used", self._path(update), error)
                    unusable[update] = str(error)
        if unusable:
            which = "; ".join(f"{update} {why}" for update, why in unusable.items())
            raise CheckpointError(f"no checkpoint in {self._folder} can be used: {which}")
        return None

    def _load(self, update: int, skeleton: PyTree, rows: Callable[[int], str] | None = None) -> tuple[PyTree, Origin | None]:
        """State and origin. Raises CheckpointError, which says what the step is instead of good."""
        step = self._path(update)
        if defect := _defect(step):
            raise CheckpointError(f"is defective: {defect}")
        try:
            origin = _origin(step)
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"does not say whose it is: {one_line(error)}") from error
        if origin is not None and (stranger := self._stranger(update, origin, rows)):
            raise CheckpointError(f"is {stranger}")
        try:
            # In the thread: it may still be importing Orbax, which is not thread-safe.
            data, about = self._thread.submit(_orbax_restore, step).result()
        except Exception as error:
            raise CheckpointError(f"is intact, but Orbax cannot read it: {one_line(error)}") from error
        wanted = {name: _kind(leaf) for name, leaf in _named_leaves(skeleton).items()}
        saved = {name: (dtype, tuple(shape)) for name, dtype, shape in about["leaves"]}
        if difference := _difference(saved, wanted):
            raise CheckpointError(f"is of another state: {difference}")
        arrays = _unpack(data, saved)
        leaves, static = eqx.partition(skeleton, _is_leaf)
        # uncommitted, so that the compiled code of a fresh state serves; jnp.array would compile a program a shape
        state = jax.device_put(jax.tree_util.tree_map_with_path(lambda path, _: arrays[_name(path)], leaves))
        return eqx.combine(state, static), origin

    def _stranger(self, update: int, origin: Origin, rows: Callable[[int], str] | None) -> str | None:
        """What makes a step none of this run's; None if nothing does."""
        if self._run is not None and origin.run != self._run:
            return "of a run with another configuration or seed"
        if origin.update != update:
            return f"in truth that of update {origin.update}"
        if rows is not None and origin.rows != rows(update):
            return f"of another history: the first {update} rows of metrics.csv are not those that it was saved with"
        return None


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
    return "orbax" not in record.pathname


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
        restored = checkpointer.restore(step, args=args.Composite(state=args.StandardRestore(), meta=args.JsonRestore()))
    return restored["state"]["bytes"], restored["meta"]


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


def _difference(saved: dict[str, tuple], wanted: dict[str, tuple]) -> str | None:
    """The first leaf in which a checkpoint differs from the state that is wanted, and how many more do."""
    names = [name for name in wanted | saved if wanted.get(name) != saved.get(name)]
    if not names:
        return None
    saved_text, wanted_text = ("{}{}".format(*kinds[names[0]]) if names[0] in kinds else "nothing" for kinds in (saved, wanted))
    more = f" (and {len(names) - 1} more)" if names[1:] else ""
    return f"leaf {names[0]} is {saved_text} in the checkpoint and {wanted_text} in this run{more}"


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
        if unproved := files.keys() - manifest.keys():
            return f"{min(unproved)} is not in {MANIFEST}"
    except FileNotFoundError:
        return f"unfinished, it has no {MANIFEST}"
    except OSError as error:
        return str(error)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is altered"
    return None


def _is_step(path: Path) -> bool:
    """Whether it has a name that `save` gives: other numerals, and 007, are somebody's own."""
    return path.name.isascii() and path.name.isdecimal() and path.name == str(int(path.name)) and path.is_dir()


def _remove(path: Path) -> None:
    """Whatever it is: a folder, a file, a link (but not what that points to), nothing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _about(step: Path) -> dict[str, Any]:
    """What was saved beside the state, without Orbax. Raises OSError, or ValueError where it is damaged."""
    about = json.loads((step / "meta" / "metadata").read_bytes())  # the file of Orbax's JsonSave
    if not isinstance(about, dict):
        raise ValueError("not a step's")
    return about


def _origin(step: Path) -> Origin | None:
    """Of an intact step."""
    origin = _about(step).get("origin")
    return None if origin is None else Origin(**origin)


def _by_score(folder: Path, steps: list[int]) -> list[int]:
    """The steps that have a score, best first, the earlier before the later."""
    scores = {step: _score(folder / str(step)) for step in steps}
    return sorted((step for step in steps if scores[step] is not None), key=lambda step: (-scores[step], step))


def _score(step: Path) -> float | None:
    try:
        score = _about(step).get("score")
    except (OSError, ValueError):
        return None  # defective: restoring it tells how
    return score if isinstance(score, float) else None
