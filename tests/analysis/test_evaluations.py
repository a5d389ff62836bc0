"""Final scores from what pgx.evaluate wrote instead of from the curves."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.load import InputError, load
from analysis.report import command, sections
from analysis.report.study import Question, Study
from tests.analysis.run_folders import write_run


def written(file: Path, returns: dict[str, float], **how: object) -> str:
    about = {"update": 4, "return_std": 1.0, "episodes": 100, "greedy": False, "best": False, "seed": 7} | how
    with open(file, "w", newline="") as stream:
        table = csv.DictWriter(stream, ["folder", "return_mean", *about])
        table.writeheader()
        table.writerows({"folder": folder, "return_mean": x} | about for folder, x in returns.items())
    return str(file)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for seed in range(3):
        write_run(tmp_path / "sweep" / str(seed), [1.0, 2.0, 3.0, 10.0 * (seed + 1)], seed=seed)
    return tmp_path / "sweep"


def test_final_scores_are_those_of_the_table_and_curves_are_not(sweep: Path, tmp_path: Path):
    file = written(tmp_path / "e.csv", {"sweep/0": 30.0, "sweep/2": 10.0, "elsewhere": 99.0})
    training, study = Study(load(sweep)), Study(load(sweep), Question(evaluated=(file,)))
    assert study.scores["value"].tolist()[::2] == [30.0, 10.0] and np.isnan(study.scores["value"][1])
    assert study.worst["final"].dropna().tolist() == [10.0, 30.0]
    pd.testing.assert_frame_equal(study.scored, training.scored)
    assert not study.scores["value"].equals(training.scores["value"])
    assert set(study.final["metric"]) == {"iqm of final return of fresh episodes"}
    said = sections.method(study)
    assert (
        "100 fresh episodes a run, with the policy's own noise, of the newest checkpoint, the same for all runs (seed 7)"
        in said
    )
    assert "last 100 training episodes, which" not in said


def test_a_table_is_found_again_where_it_was_moved_to_with_its_runs(sweep: Path, tmp_path: Path):
    written(sweep / "e.csv", {"0": 30.0, "1": 20.0, "2": 10.0})
    shutil.move(sweep, tmp_path / "moved")
    study = Study(load(tmp_path / "moved"), Question(evaluated=(str(tmp_path / "moved/e.csv"),)))
    assert study.scores["value"].tolist() == [30.0, 20.0, 10.0]


def test_several_tables_are_one_and_no_run_stands_in_two(sweep: Path, tmp_path: Path):
    files = tuple(written(tmp_path / f"{i}.csv", {f"sweep/{i}": float(i)}) for i in range(3))
    assert Study(load(sweep), Question(evaluated=files)).scores["value"].tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(InputError, match="twice"):
        _ = Study(load(sweep), Question(evaluated=(*files, files[0]))).scores


@pytest.mark.parametrize(
    "content, problem",
    [
        (None, "No such file"),
        ("folder,return_mean\n0,1\n", "no column update, episodes"),
        ("", "it is no CSV file"),
        ("folder,update,return_mean,episodes,greedy,best,seed\nnowhere,1,1,1,False,False,1\n", "none of these runs"),
    ],
)
def test_a_table_that_is_none_is_one_line_and_nothing_is_written(content, problem, sweep: Path, tmp_path: Path, capsys):
    if content is not None:
        (tmp_path / "e.csv").write_text(content)
    assert command.main([str(sweep), "--final", str(tmp_path / "e.csv"), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and problem in said[0] and not (tmp_path / "out").exists()
