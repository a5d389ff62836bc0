"""The CSV files of a run folder: every figure is drawn from them, and a resumed run believes them."""

from pathlib import Path

import numpy as np
import pytest

from pgx.errors import ConfigError
from pgx.runs.table import Table

COLUMNS = ("update", "x", "y")


@pytest.fixture
def table(tmp_path) -> Table:
    table = Table(tmp_path / "table.csv", COLUMNS)
    table.begin()
    return table


def again(tmp_path: Path, rows: int, columns: tuple[str, ...] = COLUMNS) -> tuple[Table, list[dict]]:
    """The table as a resumed run opens it, and what the first `rows` say."""
    table = Table(tmp_path / "table.csv", columns)
    return table, table.keep(rows)


def append(table: Table, *updates: int) -> None:
    table.append([{"update": k, "x": k / 2, "y": None} for k in updates])


def test_what_is_appended_is_read_back(table, tmp_path):
    """A resumed run goes on with these numbers, so they must be those that were computed."""
    values = [0.1, 1e-45, 3.4028235e38, 16777216.0, -0.0, 1 / 3]
    table.append([{"update": k, "x": float(np.float32(x)), "y": None} for k, x in enumerate(values, 1)])
    _, rows = again(tmp_path, 99)
    assert [row["update"] for row in rows] == list(range(1, 7)) and {row["y"] for row in rows} == {None}
    bits = [np.float32(row["x"]).tobytes() for row in rows]
    assert bits == [np.float32(x).tobytes() for x in values]


def test_a_number_has_the_digits_of_a_float32_and_what_does_not_apply_has_none(table, tmp_path):
    """0.1 and not 0.10000000149011612: the file is read by people, too. An empty cell is no zero."""
    table.append([{"update": 1, "x": float(np.float32(0.1)), "y": None}])
    assert (tmp_path / "table.csv").read_text() == "update,x,y\n1,0.1,\n"


@pytest.mark.parametrize("torn", ["3", "3,1", "3,1.5,", "3,1.5,2", ""])
def test_a_torn_last_line_is_dropped(torn, table, tmp_path):
    """A kill in mid-write leaves half a number, which looks like a number."""
    append(table, 1, 2)
    whole = (tmp_path / "table.csv").read_bytes()
    (tmp_path / "table.csv").write_bytes(whole + torn.encode())
    opened, rows = again(tmp_path, 9)
    assert [row["update"] for row in rows] == [1, 2] and opened.sum == table.sum
    opened.begin()
    assert (tmp_path / "table.csv").read_bytes() == whole


@pytest.mark.parametrize("update", [0, 1, 2, 3])
def test_rows_after_the_checkpoint_are_dropped_and_the_others_stay_byte_for_byte(update, table, tmp_path):
    """They will be computed again; twice in the file they would count twice."""
    append(table, 1, 2, 3)
    lines = (tmp_path / "table.csv").read_text().splitlines(keepends=True)
    opened, rows = again(tmp_path, update)
    assert len(opened) == 3 and len(rows) == update
    assert (tmp_path / "table.csv").read_text() == "".join(lines)  # nothing is lost before the run goes on
    opened.begin()
    assert (tmp_path / "table.csv").read_text() == "".join(lines[: update + 1])
    append(opened, *range(update + 1, 4))
    assert (tmp_path / "table.csv").read_text() == "".join(lines)


def test_a_sum_is_of_the_rows_until_then_however_they_came_there(table, tmp_path):
    """A checkpoint proves the table by it, after any number of resumes."""
    append(table, 1)
    first = table.sum
    append(table, 2, 3)
    opened, _ = again(tmp_path, 1)
    assert opened.sum_until(1) == opened.sum == first != table.sum and opened.sum_until(3) == table.sum
    opened.begin()
    append(opened, 2, 3)
    assert opened.sum == table.sum
    assert Table(tmp_path / "table.csv", COLUMNS).sum_until(9) == table.sum


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b"2,1.0", r"row 2 was altered: 2 cells for 3 columns"),
        (b"2,abc,,", r"row 2 was altered: 4 cells"),
        (b"2,abc,", r"row 2 was altered: .*'abc'"),
        (b"3,1.0,", r"row 2 was altered: its update is 3"),
        (b"2.0,1.0,", r"row 2 was altered: its update is 2\.0"),
        (b",1.0,", r"row 2 was altered: its update is None"),
        (b"2,\xff,", r"row 2 was altered: .*ascii"),
    ],
)
def test_a_row_that_cannot_be_read_is_named(row, says, table, tmp_path):
    """Old checkpoints do not prove the table: then at least it must be one. Which row is what one wants to know."""
    append(table, 1, 2, 3)
    lines = (tmp_path / "table.csv").read_bytes().splitlines(keepends=True)
    (tmp_path / "table.csv").write_bytes(b"".join([*lines[:2], row + b"\n", lines[3]]))
    with pytest.raises(ConfigError, match=rf"table\.csv: {says}"):
        again(tmp_path, 3)


def test_what_decides_nothing_stops_nothing(table, tmp_path, caplog):
    """timing.csv: its good rows stay, until the damaged one."""
    append(table, 20, 40, 60)
    damaged = (tmp_path / "table.csv").read_text().replace("20.0", "2v.0")
    (tmp_path / "table.csv").write_text(damaged)
    opened = Table(tmp_path / "table.csv", COLUMNS)
    opened.keep_until(60)
    opened.begin()
    assert (tmp_path / "table.csv").read_text() == "update,x,y\n20,10.0,\n"
    assert "table.csv: row 2 was altered" in caplog.text
    (tmp_path / "table.csv").write_text("something else\n")
    opened = Table(tmp_path / "table.csv", COLUMNS)
    opened.keep_until(60)
    opened.begin()
    assert (tmp_path / "table.csv").read_text() == "update,x,y\n"


def test_a_table_of_other_columns_is_refused_and_left_alone(table, tmp_path):
    """Another version's file: read by this one's columns, the entropy would become the loss."""
    append(table, 1, 2)
    before = (tmp_path / "table.csv").read_bytes()
    with pytest.raises(ConfigError, match=r"table\.csv.* columns"):
        again(tmp_path, 9, ("update", "y", "x"))
    assert (tmp_path / "table.csv").read_bytes() == before


def test_a_table_of_an_earlier_version_goes_on_with_its_columns(tmp_path):
    """A run that was interrupted before an update of pgx is not lost for a column more."""
    (tmp_path / "table.csv").write_text("update,x\n1,0.5\n")
    table, rows = again(tmp_path, 1)
    assert rows == [{"update": 1, "x": 0.5}]
    table.begin()
    append(table, 2)
    assert (tmp_path / "table.csv").read_text() == "update,x\n1,0.5\n2,1.0\n"


def test_a_file_that_was_torn_in_its_header_starts_again(tmp_path):
    (tmp_path / "table.csv").write_text("upd")
    table, rows = again(tmp_path, 9)
    assert rows == []
    table.begin()
    append(table, 1)
    assert (tmp_path / "table.csv").read_text() == "update,x,y\n1,0.5,\n"
