"""metrics.csv and timing.csv, the tables of a run folder."""

import hashlib
import logging
from functools import cached_property
from pathlib import Path
from typing import Any

from pgx.errors import ConfigError
from pgx.runs.files import write_atomically

log = logging.getLogger("pgx")


class Table:
    """A CSV file that only grows, a chunk of rows at a time. Empty cells mean not applicable.

    A file of an older version, with fewer columns, keeps those that it has.

    Of what is there, `keep` or `keep_until` chooses what stays; the file is not touched before `begin`.
    """

    def __init__(self, path: Path, columns: tuple[str, ...]):
        self._path, self._columns = path, _columns_of(path, columns)
        self._header = (",".join(self._columns) + "\n").encode()
        self._sum = hashlib.sha256(self._header)
        self._kept: list[bytes] = []

    @cached_property
    def _lines(self) -> list[bytes]:
        """The rows of the file, without a torn last one. Raises ConfigError if they are of other columns."""
        try:
            *whole, _ = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(str(self._path), f"cannot be read: {error.strerror}") from error
        header, *lines = [line + b"\n" for line in whole] or [self._header]
        if header != self._header:
            raise ConfigError(str(self._path), "has the columns of another version of pgx", hint="choose another folder")
        return lines

    def __len__(self) -> int:
        return len(self._lines)

    def sum_until(self, row: int) -> str:
        """sha256 of the header and the first rows that are there: the history that a checkpoint proves."""
        return hashlib.sha256(self._header + b"".join(self._lines[:row])).hexdigest()

    @property
    def sum(self) -> str:
        """sha256 of the header and of all rows that were kept and appended."""
        return self._sum.hexdigest()

    def keep(self, rows: int) -> list[dict[str, float | int | None]]:
        """The first `rows`, which must be the updates from 1 on. Raises ConfigError that names the one that is not."""
        self._kept = self._lines[:rows]
        self._sum.update(b"".join(self._kept))
        return [self._read(line, number) for number, line in enumerate(self._kept, 1)]

    def keep_until(self, update: int) -> None:
        """The rows until this update. Those that cannot be read are left out, with a warning: they decide nothing."""
        try:
            for line in self._lines:
                if self._read(line)["update"] <= update:
                    self._kept.append(line)
        except ConfigError as error:
            log.warning(f"{error}; the file goes on without it and what follows")

    def _read(self, line: bytes, number: int | None = None) -> dict[str, float | int | None]:
        """A row, the one of this update if it is given."""
        where, cells = f"row {len(self._kept) + 1 if number is None else number}", line[:-1].split(b",")
        try:
            if len(cells) != len(self._columns):
                raise ValueError(f"{len(cells)} cells for {len(self._columns)} columns")
            row = dict(zip(self._columns, (number_of(cell.decode("ascii")) for cell in cells), strict=True))
            if type(row["update"]) is not int or number not in (None, row["update"]):
                raise ValueError(f"its update is {row['update']}")
        except ValueError as error:
            raise ConfigError(str(self._path), f"{where} was altered: {error}") from error
        return row

    def begin(self) -> None:
        """Write the rows that are kept, byte for byte as they were, and nothing after them."""
        write_atomically(self._path, self._header + b"".join(self._kept))
        self._kept = []
        self.__dict__.pop("_lines", None)

    def append(self, rows: list[dict[str, Any]]) -> None:
        text = "".join(",".join(_cell(row.get(column)) for column in self._columns) + "\n" for row in rows)
        self._sum.update(text.encode())
        with open(self._path, "a") as file:
            file.write(text)


def _columns_of(path: Path, known: tuple[str, ...]) -> tuple[str, ...]:
    """The columns of the file, if there is one and all of them are known; else `known`."""
    try:
        with open(path, encoding="ascii") as file:
            there = tuple(file.readline().removesuffix("\n").split(","))
    except (OSError, UnicodeDecodeError):
        return known
    return there if "update" in there and there == tuple(name for name in known if name in there) else known


def _cell(x: Any) -> str:
    """The shortest text that reads back as the same float32; empty for None."""
    if isinstance(x, float):
        from numpy import float32

        return str(float32(x))
    return "" if x is None else str(x)


def number_of(cell: str) -> float | int | None:
    """What a cell says; None where it is empty."""
    if not cell:
        return None
    return int(cell) if cell.lstrip("-").isdecimal() else float(cell)
