"""metrics.csv of many runs → one wide table, from the files or from the cache. What is wrong with one is a note."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

KEYS = ("update", "env_steps")
CACHE_VERSION = 1


def read_metrics(sweep: Path, folders: list[Path], cache: Path) -> tuple[pa.Table, dict[int, str]]:
    """Every row of every run as in the files, with the run's number in column `run`; and what was wrong, by number."""
    stamps = [(folder.relative_to(sweep).as_posix(), *_stamp(folder / "metrics.csv")) for folder in folders]
    fingerprint = json.dumps([CACHE_VERSION, *stamps])
    with contextlib.suppress(OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        wide = pa.parquet.read_table(cache)
        about = json.loads(wide.schema.metadata[b"analysis"])
        if about["fingerprint"] == fingerprint:
            return wide, {int(i): note for i, note in about["notes"].items()}
    wide, notes = _read_files(folders)
    with contextlib.suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        about = json.dumps({"fingerprint": fingerprint, "notes": notes})
        temporary = cache.with_name(f".{cache.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:  # exclusively: through a link it would write elsewhere
            pa.parquet.write_table(wide.replace_schema_metadata({"analysis": about}), file, use_dictionary=["run"])
        os.replace(temporary, cache)
    return wide, notes


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        return (-1, 0)
    return stat.st_size, stat.st_mtime_ns


def _read_files(folders: list[Path]) -> tuple[pa.Table, dict[int, str]]:
    """Files with the same header are parsed as one: that is most of the speed. If one is bad, each by itself."""
    by_header: dict[tuple[str, ...], list[tuple[int, bytes]]] = {}
    notes: dict[int, list[str]] = {}
    for i, folder in enumerate(folders):
        try:
            columns, body, note = _split((folder / "metrics.csv").read_bytes())
        except FileNotFoundError:
            columns, body, note = (), b"", "no metrics.csv"
        except (OSError, ValueError) as error:
            columns, body, note = (), b"", f"metrics.csv cannot be read: {' '.join(str(error).split())}"
        if note:
            notes.setdefault(i, []).append(note)
        if body:
            by_header.setdefault(columns, []).append((i, body))
    tables = []
    for columns, files in by_header.items():
        try:
            tables.append(_parse(columns, files))
        except (pa.ArrowException, ValueError):
            for file in files:
                try:
                    tables.append(_parse(columns, [file]))
                except (pa.ArrowException, ValueError) as error:
                    reason = f"metrics.csv cannot be read: {' '.join(str(error).split())[:200]}"
                    notes.setdefault(file[0], []).append(reason)
    empty = pa.table({"run": pa.array([], pa.int32()), **{key: pa.array([], pa.float64()) for key in KEYS}})
    wide = pa.concat_tables([empty, *tables], promote_options="default")
    wide = _in_order(wide, notes)
    return wide, {i: "; ".join(said) for i, said in sorted(notes.items())}


def _split(content: bytes) -> tuple[tuple[str, ...], bytes, str]:
    """Column names, whole lines, and whether the last one was torn. Raises ValueError if it is no table of ours."""
    header, _, body = content.partition(b"\n")
    columns = tuple(header.decode().strip().split(","))
    if missing := [key for key in KEYS if key not in columns]:
        raise ValueError(f"no column {missing[0]}")
    if len(set(columns)) < len(columns) or "run" in columns:
        raise ValueError("two columns of the same name")
    whole = body[: body.rfind(b"\n") + 1]
    return columns, whole, "a torn last line of metrics.csv was dropped" if len(whole) < len(body) else ""


def _parse(columns: tuple[str, ...], files: list[tuple[int, bytes]]) -> pa.Table:
    """Whole lines of several files of the same columns. An empty cell is null (not applicable), `nan` is NaN."""
    table = pa.csv.read_csv(
        pa.BufferReader(b"".join(body for _, body in files)),
        read_options=pa.csv.ReadOptions(column_names=list(columns)),
        parse_options=pa.csv.ParseOptions(quote_char=False, ignore_empty_lines=False),
        convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.float64()), null_values=[""]),
    )
    run = np.repeat(np.array([i for i, _ in files], np.int32), [body.count(b"\n") for _, body in files])
    return table.append_column("run", pa.array(run))


def _in_order(wide: pa.Table, notes: dict[int, list[str]]) -> pa.Table:
    """One row a (run, step), in order; of several at one step the last one written."""
    run, update, steps = (wide[name].to_numpy() for name in ("run", *KEYS))
    keyed = np.isfinite(update) & np.isfinite(steps)
    for i, n in zip(*np.unique(run[~keyed], return_counts=True), strict=True):
        notes.setdefault(int(i), []).append(f"{n} rows of metrics.csv without update or env_steps were dropped")
    later = (np.diff(run) > 0) | ((np.diff(run) == 0) & (np.diff(steps) > 0))
    if keyed.all() and later.all():
        return wide
    order = np.lexsort((np.arange(len(run)), steps, run))
    order = order[keyed[order]]
    last = np.append((np.diff(run[order]) != 0) | (np.diff(steps[order]) != 0), True)[: len(order)]
    for i, n in zip(*np.unique(run[order[~last]], return_counts=True), strict=True):
        notes.setdefault(int(i), []).append(f"{n} rows of metrics.csv at a step that comes again were dropped")
    return wide.take(pa.array(order[last]))


def last_steps(wide: pa.Table) -> dict[int, int]:
    """The env steps that each run reached, by its number."""
    run, steps = wide["run"].to_numpy(), wide["env_steps"].to_numpy()
    ends = np.flatnonzero(np.append(np.diff(run) != 0, True)) if len(run) else []
    return {int(run[i]): int(steps[i]) for i in ends}
