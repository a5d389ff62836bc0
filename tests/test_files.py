"""A file is the old one or the new one. And what somebody has put into a folder must not choose which file is written."""

import os
from pathlib import Path

import pytest

from analysis.load import InputError
from analysis.report import command as report
from pgx.runs import curve, record
from pgx.runs.files import write_atomically
from pgx.sweep import ledger


def test_a_file_is_replaced_whole_and_nothing_else_stays(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    write_atomically(path, "new: γ")
    assert path.read_text(encoding="utf-8") == "new: γ"
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask  # a group that shares its runs can read it
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def test_what_cannot_be_written_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "run.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path, "new")
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["run.json"]
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}.*"))


WRITERS = {
    "run.json": lambda folder: record.write_summary(folder, {}),
    "ledger.csv": lambda folder: ledger.write(folder, []),
    curve.NAME: lambda folder: curve.draw([], "title", None, folder / curve.NAME),
}


@pytest.mark.parametrize("name", WRITERS)
def test_no_link_leads_a_file_of_a_run_to_another_file(name, tmp_path):
    """A folder from somewhere else may hold links of every name that a temporary file or the file itself can have."""
    folder, mine = tmp_path / "run", tmp_path / "mine"
    folder.mkdir()
    mine.write_text("years of work")
    for link in (name, f".{name}.tmp", f".{name}.{os.getpid()}.tmp"):
        (folder / link).symlink_to(mine)
    WRITERS[name](folder)
    assert mine.read_text() == "years of work"
    assert not (folder / name).is_symlink() and (folder / name).stat().st_size != len("years of work")


def test_a_report_is_not_written_through_a_link(tmp_path):
    mine, output = tmp_path / "mine", tmp_path / "report"
    mine.write_text("years of work")
    (output / "figures").mkdir(parents=True)
    (output / "figures/curves.png").symlink_to(mine)
    with pytest.raises(InputError, match=r"curves\.png is a link"):
        report._make_room(output)


def test_only_one_file_knows_how_to_replace_a_file():
    """Four had each their own way, all of them through a name that could be guessed."""
    files = Path(record.__file__).parent.rglob("*.py")
    assert [path.name for path in files if "os.replace(" in path.read_text()] == ["files.py"]
