"""The learning curve beside a run: what is on it, and that no run depends on the process that draws it."""

import os
import shutil
import signal

import numpy as np
import pytest
from PIL import Image
from program import rows, summary, train_here

from pgx.runs import curve
from pgx.runs.curve import NAME, Artist, draw


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train_here("+variant=baseline", "num_updates=30", folder=folder)
    return folder


def test_the_learning_curve_is_a_picture_with_something_on_it(folder):
    with Image.open(folder / "learning_curve.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[0] > 300 and pixels.shape[1] > 500
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_a_learning_curve_has_nothing_of_the_one_before(folder, tmp_path):
    """One figure serves all runs of a process."""
    long = [{k: float(x) if x else None for k, x in row.items()} for row in rows(folder)]
    for name, some in (("first.png", long), ("other.png", long[: len(long) // 2]), ("again.png", long)):
        draw(some, "a run", 475.0, tmp_path / name)
    first, other, again = ((tmp_path / name).read_bytes() for name in ("first.png", "other.png", "again.png"))
    assert first == again != other


def test_evaluations_are_on_the_learning_curve_of_a_run_that_has_some(folder, tmp_path):
    """Also where they are beyond what training returned; of a run that has none, nothing is left of another's."""
    plain = [{k: float(x) if x else None for k, x in row.items()} for row in rows(folder)]
    evaluated = [row | {"evaluation_return": 900.0 if row["update"] % 10 == 0 else None} for row in plain]
    for name, some in (("before.png", plain), ("evaluated.png", evaluated), ("after.png", plain)):
        draw(some, "a run", 475.0, tmp_path / name)
    before, after = ((tmp_path / name).read_bytes() for name in ("before.png", "after.png"))
    colours = [set(Image.open(tmp_path / name).convert("RGB").getdata()) for name in ("before.png", "evaluated.png")]
    assert before == after and [(0, 158, 115) in found for found in colours] == [False, True]


@pytest.mark.parametrize("scale", [1.0, -500.0, -123456.0])
def test_the_labels_of_a_learning_curve_are_not_cut(tmp_path, scale):
    """Of Acrobot's returns, −500 … 0, half of the axis label was beyond the edge."""
    names = ("return_mean", "return_min", "return_max", "return_recent")
    draw([{"env_steps": 1000.0 * i} | dict.fromkeys(names, scale * i) for i in (1, 2)], "a run", None, tmp_path / NAME)
    with Image.open(tmp_path / NAME) as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels[:, :3].min() == 255 and pixels[:, 3:45].min() < 100


def test_a_persons_settings_of_matplotlib_do_not_change_the_picture(folder, tmp_path, monkeypatch):
    """`!python -m pgx.run` in a notebook inherits a backend that matplotlib may not even know here; then no curve was
    drawn. And pictures are said to be the same bytes everywhere."""
    pictures = []
    (tmp_path / "home").mkdir()
    (tmp_path / "home/matplotlibrc").write_text(
        "savefig.bbox: tight\nsavefig.dpi: 50\nfont.size: 20\nfigure.autolayout: True\n"
    )
    for name, settings in {
        "plain": {},
        "theirs": {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "MPLCONFIGDIR": str(tmp_path / "home")},
    }.items():
        (tmp_path / name).mkdir()
        shutil.copy(folder / "metrics.csv", tmp_path / name)
        with monkeypatch.context() as patch:
            for variable, x in settings.items():
                patch.setenv(variable, x)
            artist = Artist()
            artist.ask(tmp_path / name, "title", None)
            assert artist.wait(tmp_path / name) is None
        pictures.append((tmp_path / name / NAME).read_bytes())
    assert pictures[0] == pictures[1]


def test_a_run_does_not_need_its_picture(tmp_path, caplog, monkeypatch):
    """The process that draws dies: the run says so and ends well, and the next one has a picture again."""
    small = ("+variant=vanilla", "num_updates=2", "env=catch")
    dead = Artist()
    dead._child.kill()
    dead._child.wait()
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Artist, "running", lambda: dead)
        assert train_here(*small, folder=tmp_path / "a")["status"] == "completed"
    assert "learning_curve.png is not drawn: the process that draws has ended" in caplog.text
    monkeypatch.setattr(Artist, "_running", dead)
    train_here(*small, folder=tmp_path / "b")
    assert not (tmp_path / "a" / NAME).exists() and (tmp_path / "b" / NAME).exists()


def test_what_cannot_be_drawn_harms_no_other_picture(folder, tmp_path):
    """And an answer that nobody waited for is not taken for another's."""
    artist = Artist.running()
    artist.ask(tmp_path, "a run without a table", None)
    assert "FileNotFoundError" in artist.wait(tmp_path)
    artist.ask(tmp_path, "a run that failed meanwhile", None)
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "metrics.csv", tmp_path / "other")
    artist.ask(tmp_path / "other", "another", 475.0)
    assert artist.wait(tmp_path / "other") is None and (tmp_path / "other" / NAME).stat().st_size > 1000


def test_an_artist_that_hangs_is_not_waited_for(tmp_path, caplog, monkeypatch):
    """A stopped process holds up nobody for ever, and the run has ended well."""
    stopped = Artist()
    os.kill(stopped._child.pid, signal.SIGSTOP)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(curve, "PATIENCE", 0.2)
        meanwhile.setattr(Artist, "running", lambda: stopped)
        assert train_here("+variant=vanilla", "num_updates=2", "env=catch", folder=tmp_path)["status"] == "completed"
    assert "learning_curve.png is not drawn: no answer for 0.2 s" in caplog.text
    assert stopped._child.wait(10) == -signal.SIGKILL and summary(tmp_path)["status"] == "completed"
