"""The table of a sweep's members, as every command and `python -m pgx.sweep status` show it."""

import sys

import pytest
from sweeps import altered, composed_in, files, train

from pgx.sweep import __main__ as status
from pgx.sweep import index, ledger, members


def test_status_of_what_one_may_only_read(tmp_path, capsys, monkeypatch):
    """The table is what was asked for."""
    [member] = members.placed(composed_in(tmp_path / "s", "+variant=vanilla"))
    train(member)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ledger, "write_atomically", refuse)
    assert ledger.show(index.Index(tmp_path / "s")) == 0
    out, err = capsys.readouterr()
    assert "1 member: 1 completed" in out and err == f"pgx: {tmp_path / 's/ledger.csv'} is not written: Permission denied\n"


def test_status_of_single_runs(tmp_path, capsys, monkeypatch):
    """They are listed, and nothing is written among them."""
    [member] = composed_in(tmp_path / "day", "+variant=vanilla")
    train(member)
    (tmp_path / "day/2").mkdir()
    (tmp_path / "day/2/run.json").write_text("")
    before = files(tmp_path)
    monkeypatch.setattr(sys, "argv", ["status", "status", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        status.main()
    out = capsys.readouterr().out
    assert end.value.code == 1 and "day/0" in out and "no members.json" in out and "2 runs: 1 completed, 1 broken" in out
    assert files(tmp_path) == before


def test_a_long_reason_is_cut(tmp_path):
    [member] = members.placed(composed_in(tmp_path / "s", "+variant=vanilla"))
    train(member, "failed")
    altered(lambda said: said.update(error="x\n" * 100_000))(member.folder / "run.json")
    [row] = ledger.read(index.Index(tmp_path / "s"))
    assert len(row["reason"]) == 500 and "\n" not in row["reason"]
