"""From folders to the report: what it says, what it writes, and what it says of folders that are no good."""

import hashlib
import html
import json
import os
import re
import subprocess
import sys
import time
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import simulated
from matplotlib.figure import Figure
from run_folders import write_run

from analysis import load
from analysis.report import command as report
from analysis.report import sections, verdict
from analysis.report.notebook import Cell, Picture
from analysis.report.sections import origin
from analysis.report.study import Question, Study
from analysis.results import COLUMNS
from analysis.statistics.aggregates import Bootstrap
from analysis.statistics.events import Collapse

ROOT = Path(__file__).parents[2]
FIGURES = {
    "better", "final_scores", "gradient", "health", "learning_curves", "performance_profile", "reliability", "sooner",
    "time_to_threshold", "tolerance_bands", "underwater",
}  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    """Fewer resamples and points, which no test here is about."""
    monkeypatch.setattr(report, "Question", lambda **chosen: Question(bootstrap=Bootstrap(n_boot=60), points=15, **chosen))
    for field in ("score", "metric", "adjust", "reliability", "equivalent"):
        setattr(report.Question, field, getattr(Question(), field))


@pytest.fixture
def quick(small: None, monkeypatch: pytest.MonkeyPatch):
    """And figures are drawn and laid out, but not written: that is two thirds of the time."""

    def shown(self: sections.Gallery, figure: Figure, name: str) -> Picture:
        figure.draw_without_rendering()
        return Picture(name.encode(), name)

    monkeypatch.setattr(sections.Gallery, "__call__", shown)


def made(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    """Exit code, the page, and what was said on stderr."""
    code = report.main([str(x) for x in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    page = Path(out.removeprefix("report: ").strip()).read_text(encoding="utf-8") if out else ""
    return code, page, err


def loads_nothing(page: str) -> bool:
    loaded = re.findall(r"""(?:src|href|url|@import)\s*[=(]\s*["']?([^"'\s>)]+)""", re.sub(r"base64,[^\"]*", "base64,", page))
    return "<script" not in page and all(x.startswith(("data:", "#")) for x in loaded)


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture, small: None):
    sweep = simulated.sweep(tmp_path / "sweep", seeds=range(5))
    write_run(sweep / "lost", None, status="failed", error="ValueError: no", variant="vanilla", seed=77)
    code, page, err = made(capsys, sweep)
    assert code == 0 and "analysis:" not in err and "note: 1 of 16 runs are not completed: 1 failed" in err
    assert loads_nothing(page) and page.count("<img") == len(FIGURES)
    order = ["Provenance</h2>", "0123456789", "completed", "Warnings", "Primary endpoint", "Verdict</h2>",
             "runs reached 475",
             "How fast?</h2>", "How well?</h2>", "How stably?</h2>", "How do runs fail?</h2>", "The worst seeds",
             str(sweep / "lost"), "The gradient</h2>", "How sure are we?</h2>", "below 30% of the peak",
             "25,000 env steps",
             "Method</h2>"]  # fmt: skip
    places = [page.find(said) for said in order]
    assert -1 not in places and places == sorted(places)
    assert "import " not in page and "Study(" not in page  # the code is hidden
    assert {path.stem for path in (sweep / "report" / "figures").iterdir()} == FIGURES
    assert len(list((sweep / "report" / "figures").iterdir())) == 2 * len(FIGURES)
    results = pd.read_parquet(sweep / "report" / "tables" / "results.parquet")
    assert list(results.columns[: len(COLUMNS)]) == list(COLUMNS) and (results["method"] != "").all()
    assert (results["estimate"].notna() | (results["warning"] != "")).all()
    runs = pd.read_parquet(sweep / "report" / "tables" / "runs.parquet")
    assert len(runs) == 16 and runs["status"].value_counts()["failed"] == 1
    primary = pd.read_parquet(sweep / "report" / "tables" / "primary.parquet")
    assert len(primary) == 3 and set(primary["p_method"]) <= {"holm over 3", "holm over 2"}
    assert len(load(sweep).runs) == 16  # the report is no run


def test_two_sweeps_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture, quick: None):
    for name, speed in (("before", 0.7), ("after", 1.5)):
        simulated.sweep(tmp_path / name, {"baseline": (speed, 0), "vanilla": (0.6, 0)}, range(6), git_commit=name)
    code, page, err = made(capsys, tmp_path / "before", tmp_path / "after", "--output", tmp_path / "out")
    assert code == 0 and "note: the runs were made by 2 versions of the code" in err
    assert "Stability report: before and after</h1>" in page and "<th>before</th><th>after</th>" in page  # as given
    tables = {path.stem: pd.read_parquet(path) for path in (tmp_path / "out" / "tables").iterdir()}
    pairs = [("baseline, after", "baseline, before"), ("vanilla, after", "vanilla, before")]
    for name in ("primary", "differences", "collapse_tests"):  # a variant against itself, and nothing else
        assert list(zip(tables[name]["a"], tables[name]["b"], strict=True)) == pairs, name
    assert "baseline, after reached the threshold sooner than baseline, before" in page
    assert "12 runs have the same configuration and seed in two sweeps" in page


def test_same_bytes_twice(tmp_path: Path):
    """Two processes with different hash seeds, the second from the cache: the same tables, figures and page."""
    sweep = simulated.sweep(tmp_path / "sweep", {"baseline": (1.2, 0.1), "vanilla": (0.6, 0.3)}, range(3), points=25)
    said = []
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-m", "analysis.report", str(sweep), "--output", str(tmp_path / "out")]
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        files = sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file())
        said.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    assert said[0] == said[1] and len(said[0]) > 2 * len(FIGURES) + 20


# Folders that are no good


def test_no_such_folder(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert made(capsys, tmp_path / "no") == (2, "", f"analysis: {tmp_path / 'no'}: no such folder\n")
    (tmp_path / "file").touch()
    assert made(capsys, tmp_path / "file") == (2, "", f"analysis: {tmp_path / 'file'}: not a folder\n")
    assert made(capsys, tmp_path / "a", tmp_path / "b")[0] == 2


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture):
    code, page, err = made(capsys, tmp_path)
    assert (code, page) == (2, "") and err.endswith("no runs (a run is a folder with run.json in it)\n")
    assert not (tmp_path / "report").exists()


def test_one_of_two_folders_is_missing_or_given_twice(tmp_path: Path, capsys: pytest.CaptureFixture, quick: None):
    sweep = simulated.sweep(tmp_path / "sweep", {"baseline": (1, 0)}, range(2), points=15)
    code, page, err = made(capsys, sweep, tmp_path / "no", tmp_path / "sweep" / ".")
    assert code == 2 and "2 runs of baseline" in page
    assert f"analysis: {tmp_path / 'no'}: no such folder\n" in err and "sweep: given twice\n" in err


def test_one_run(tmp_path: Path, capsys: pytest.CaptureFixture, quick: None):
    simulated.run(tmp_path / "r", "baseline", 0, 1.0, 0.0, 15, 300_000)
    code, page, err = made(capsys, tmp_path / "r")
    assert code == 0 and "note: one run only: nothing can be compared" in err and "could not be made" not in page
    assert "There is nothing to compare" in page


def test_one_seed(tmp_path: Path, capsys: pytest.CaptureFixture, quick: None):
    simulated.sweep(tmp_path, {"a": (2.0, 0), "b": (0.4, 0)}, range(1))
    code, page, err = made(capsys, tmp_path)
    assert code == 0 and err.count("one seed only, so nothing can be said about other seeds") == 2
    assert "<strong>Not decidable with 1 seed and 1 comparison</strong>" in page and "could not be made" not in page
    assert "<strong>a reached" not in page


def test_all_failed(tmp_path: Path, capsys: pytest.CaptureFixture, quick: None):
    for seed in range(3):
        write_run(tmp_path / str(seed), None, seed=seed, status="failed", error="ValueError: no")
    code, page, err = made(capsys, tmp_path)
    assert code == 2 and "analysis: all runs failed: there is nothing to measure\n" in err
    assert page.count("ValueError: no") >= 3 and "could not be made" not in page and "no scores" in page


def test_mixed_environments(tmp_path: Path, capsys: pytest.CaptureFixture, quick: None):
    variants = {"a": (1.2, 0.0), "b": (0.7, 0.0)}
    simulated.sweep(tmp_path / "cart", variants, range(3), points=15)
    simulated.sweep(tmp_path / "acro", variants, range(3), points=15, env="Acrobot-v1", reward_threshold=None)
    code, page, err = made(capsys, tmp_path)
    assert code == 0 and "note: several environments (Acrobot-v1, CartPole-v1)" in err
    assert "<h3>Acrobot-v1</h3>" in page and "<h3>CartPole-v1</h3>" in page and "could not be made" not in page
    primary = pd.read_parquet(tmp_path / "report" / "tables" / "primary.parquet").set_index("env")
    assert primary["endpoint"].to_dict() == {"Acrobot-v1": "final score", "CartPole-v1": "time to threshold"}


def test_unknown_metric_and_group(tmp_path: Path, capsys: pytest.CaptureFixture, quick: None):
    simulated.sweep(tmp_path, {"a": (1, 0)}, range(3), points=15)
    code, page, err = made(capsys, tmp_path, "--score", "retrun", "--by", "lr")
    assert code == 2 and "3 runs of a on" in page and "could not be made" not in page
    lines = err.splitlines()
    assert any(x.startswith("analysis: no run has a metric 'retrun'; there are: ") for x in lines)
    assert any(x.startswith("analysis: the runs have no column 'lr'") for x in lines)
    with pytest.raises(SystemExit) as stop:
        report.main([str(tmp_path), "--adjust", "bonferroni"])
    assert stop.value.code == 2


def test_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture):
    simulated.sweep(tmp_path / "s", {"a": (1, 0)}, range(1), points=15)
    (tmp_path / "file").touch()
    code, _, err = made(capsys, tmp_path / "s", "--output", tmp_path / "file" / "out")
    assert code == 2 and "cannot be written" in err and "--output" in err


def test_a_part_that_fails_does_not_take_the_rest_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture, quick: None, monkeypatch: pytest.MonkeyPatch
):
    simulated.sweep(tmp_path, {"a": (1, 0)}, range(3), points=15)
    monkeypatch.setattr("analysis.report.plots.tolerance_bands", lambda *_, **__: 1 / 0)
    code, page, err = made(capsys, tmp_path)
    assert code == 1 and "This part could not be made: ZeroDivisionError" in page and page.count("<img") == len(FIGURES) - 1
    assert re.search(r"analysis: stability.py, line \d+: this part could not be made: ZeroDivisionError", err)


def test_runs_still_going(tmp_path: Path, capsys: pytest.CaptureFixture, quick: None):
    simulated.sweep(tmp_path, {"a": (1, 0), "b": (0.6, 0)}, range(3), points=15, status="running")
    code, page, err = made(capsys, tmp_path)
    assert code == 0 and "6 running" in err and "could not be made" not in page


# Pieces


def test_times_of_runs_that_stopped(tmp_path: Path):
    """Diverged and failed are never; killed is not known, but at the horizon it is."""
    simulated.sweep(tmp_path, {"a": (0.1, 0)}, range(4), points=15)
    for seed, status in enumerate(["completed", "diverged", "interrupted", "failed"]):
        path = tmp_path / f"a_{seed}" / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
    simulated.sweep(tmp_path / "b", {"b": (2.0, 0)}, range(4), points=15)
    study = Study(load(tmp_path), Question(threshold=300))
    row = study.sooner[study.sooner["a"] == "b"].iloc[0]
    assert row["estimate"] == 1 and row["n_runs"] == 4 and study.times["cut_short"].sum() == 0


def test_few_groups_are_shown_of_many(tmp_path: Path):
    simulated.sweep(tmp_path, {f"v{i}": (0.3 + 0.3 * i, 0) for i in range(5)}, range(3), points=15)
    study = Study(load(tmp_path), Question(shown=2))
    assert study.shown == ["v3", "v4"] and set(study.few(study.scores)["variant"]) == {"v3", "v4"}
    assert len(study.few(study.better)) == 2 and len(study.primary) == 10
    assert any(said.startswith("5 groups: the pictures show the 2") for said in study.warnings)


def test_pairs_by_seed_only_where_asked_for_or_shown_to_gain(tmp_path: Path):
    simulated.sweep(tmp_path, {"a": (1, 0), "b": (1.2, 0)}, range(6), points=15)
    assert not Study(load(tmp_path)).differences["paired"].any()
    asked = Study(load(tmp_path), Question(paired=True))
    assert asked.differences["paired"].all() and (asked.final_pairs["test"] == "signs").all()
    assert (asked.primary["test"] == "ranks").all() and "as was asked for" in sections.pairing(asked)


def test_sensitivity_has_the_main_numbers_among_the_others(tmp_path: Path):
    study = Study(load(simulated.sweep(tmp_path / "s", seeds=range(3), points=30)))
    rows = study.sensitivity
    assert (
        set(rows["choice"]) == {"threshold", "collapse", "window"} and rows.groupby("choice")["setting"].nunique().eq(3).all()
    )
    same = rows[(rows["setting"] == "100% of the way up") & (rows["scope"] == "variant")]["estimate"]
    np.testing.assert_array_equal(same, study.medians["estimate"])
    sooner = rows[rows["metric"] == "median env steps to threshold"].groupby("setting", sort=False)["estimate"].min().dropna()
    assert sooner.is_monotonic_increasing  # the lower the threshold, the sooner


def test_few_seeds_and_uncommitted_changes_are_said(tmp_path: Path):
    simulated.sweep(tmp_path, {"a": (1, 0)}, range(3), points=15, git_dirty=True)
    simulated.sweep(tmp_path, {"b": (1, 0)}, range(10), points=15)
    said = Study(load(tmp_path)).warnings
    assert "3 seeds in 1 of 2 groups: with fewer than 10 intervals are too narrow" in said
    assert "3 runs were made by code with uncommitted changes or from outside: the commit does not say what ran" in said


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "points", "limit"), [(10, 100, 20), (334, 500, 120)], ids=["30 runs", "1,000 runs"])
def test_speed(tmp_path: Path, seeds: int, points: int, limit: int):
    """30 runs ≤ 20 s, 1,000 runs of 500 rows ≤ 120 s on 2 cores (doubled here, for a machine with other work too)."""
    sweep = simulated.sweep(tmp_path / "sweep", seeds=range(seeds), points=points)
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "analysis.report", str(sweep)], cwd=ROOT, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    print(f"{3 * seeds} runs × {points} rows: {seconds:.1f} s")
    assert seconds < 2 * limit


def test_a_report_is_drawn_with_matplotlib_as_it_comes(tmp_path, monkeypatch):
    """A notebook's MPLBACKEND made an error of every part, and a person's matplotlibrc other pictures."""
    drawn = Cell("code", "import matplotlib\n[matplotlib.rcParams[x] for x in ('savefig.bbox', 'savefig.dpi')]")
    monkeypatch.setattr(report.notebook, "read", lambda _: [drawn])
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    study = SimpleNamespace(save=lambda _: None, sweeps=["s"])
    with matplotlib.rc_context({"savefig.bbox": "tight", "savefig.dpi": 10}):
        assert report.write(study, tmp_path, quiet=True) == []
    assert "[None, &#x27;figure&#x27;]" in (tmp_path / "report.html").read_text()
    assert os.environ["MPLBACKEND"] == "agg"


# What a number is called


def test_final_is_one_number_everywhere(tmp_path: Path):
    """run.json's: the mean of the last 100 training episodes. A run had three "final" scores, in the table of its sweep,
    in the plot and among the worst seeds; each run ends with the first update beyond the budget, where it is read off."""
    for seed, ends in enumerate((1000, 1040, 1013)):  # of a budget of 1,000
        folder = write_run(tmp_path / str(seed), [1.0, 2.0, 3.0, 10.0 * (seed + 1)], seed=seed)
        lines = (folder / "metrics.csv").read_text().splitlines()
        steps = (300, 600, 960, ends)
        rows = [",".join([x.split(",")[0], str(t), *x.split(",")[2:]]) for x, t in zip(lines[1:], steps, strict=True)]
        (folder / "metrics.csv").write_text("\n".join([lines[0], *rows]) + "\n")
        recent = float(rows[-1].split(",")[4])
        about = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps(about | {"return_final": recent}))
    study = Study(load(tmp_path))
    recorded = study.runs.set_index("run_id")["return_final"]
    assert study.horizons == {"CartPole-v1": 1000} and recorded.nunique() == 3
    for table, column in ((study.scores, "value"), (study.worst, "final")):
        np.testing.assert_array_equal(table.set_index("run_id")[column].sort_index(), recorded.sort_index())
    assert "last 100 training episodes" in sections.method(study) and "`return_final`" in sections.method(study)


def test_the_worst_seeds_are_those_that_score_lowest_in_the_end(tmp_path: Path):
    """A run that had risen to 500 and ended at 257 was left out for eight that ended at 481 and more: it counted as
    learned, as it had stopped a hair above half of its peak."""
    simulated.sweep(tmp_path, {"a": (1.5, 0)}, range(6), points=40)
    fell = tmp_path / "a_3" / "metrics.csv"
    lines = fell.read_text().splitlines()
    columns = lines[0].split(",")
    for i in range(-3, 0):
        cells = lines[i].split(",")
        cells[columns.index("return_recent")] = cells[columns.index("return_mean")] = "260"
        lines[i] = ",".join(cells)
    fell.write_text("\n".join(lines) + "\n")
    for folder, status in (("a_0", "diverged"), ("a_1", "interrupted")):
        path = tmp_path / folder / "run.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"status": status}))
    worst = Study(load(tmp_path)).worst
    assert worst["run_id"].tolist()[:2] == ["a_0", "a_3"] and worst["outcome"][0] == "diverged"
    assert worst["final"][1:].dropna().is_monotonic_increasing and worst["final"][1] == 260


def test_what_varies_makes_the_groups_unless_there_are_too_many(tmp_path, capsys, quick):
    for rate in (0.001, 0.01):
        more = {"config": {"optimiser": {"learning_rate": rate}}}
        simulated.sweep(tmp_path / "few" / str(rate), {"a": (1, 0), "b": (1.3, 0)}, range(3), points=15, **more)
    code, page, err = made(capsys, tmp_path / "few")
    assert code == 0 and "replicates" not in err and "a, learning_rate 0.001" in page
    code, _, err = made(capsys, tmp_path / "few", "--by", "variant")
    assert code == 0 and "--by variant,optimiser.learning_rate keeps them apart" in err
    for i in range(40):
        write_run(tmp_path / "many" / str(i), [1.0, 2, 3], config={"optimiser": {"learning_rate": 1e-3 * (i + 1)}})
    code, page, err = made(capsys, tmp_path / "many")
    assert (code, page, err.count("\n")) == (2, "", 1)
    assert "40 groups" in err and "--by variant,optimiser.learning_rate " in err and "--by variant to pool" in err


def test_without_a_threshold_collapses_are_not_determined_and_no_number_says_that_there_were_none(tmp_path: Path):
    """F3: of 20 runs that all fall for good it said "0 of 10 collapsed" twice, and "never learned" of every one."""
    falling = {"a": (1.2, 1.0), "b": (1.2, 1.0)}
    study = Study(load(simulated.sweep(tmp_path / "s", falling, range(5), reward_threshold=None)))
    assert (study.outcomes["outcome"] == "not determined").all()
    reason = "no threshold (--threshold X sets one)"
    assert f"CartPole-v1: collapses are not determined for 10 of 10 runs: {reason}" in study.warnings
    said = verdict.sentences(study)
    assert f"- **Not determined**: {reason}." in said and "collapsed" not in said
    assert "0 of" not in sections.outcome_counts(study).to_string() and reason in sections.method(study)
    given = Study(study.tables, Question(threshold=475.0))
    assert set(given.outcomes["outcome"]) <= {"collapsed", "falling at the end"}
    assert (given.collapse_shares["collapsed"] + given.collapse_shares["falling"]).tolist() == [5, 5]
    beneath = Study(study.tables, Question(threshold=10.0))
    assert any("the threshold 10 is not above" in line for line in beneath.warnings)


def test_the_method_describes_the_rule_with_its_numbers(tmp_path: Path):
    study = Study(load(simulated.sweep(tmp_path / "s", seeds=range(3), points=30)))
    assert "CartPole-v1: from 2" in sections.method(study) and "to 475." in sections.method(study)
    other = Collapse(level=0.7, fall=0.4, back=0.95, smoothing=25, lasting=60)
    said = sections.method(Study(study.tables, Question(collapse=other, base=5.0)))
    for number in ("mean of 25 episodes", "70% of the way up", "below 40%", "for 60 episodes", "at 95% of the peak"):
        assert number in said
    assert "(as given)" in said and "from 5 to 475" in said


def test_a_report_names_its_sweep_and_the_command_that_made_it(tmp_path, capsys, quick):
    """It was called "18-47-27", a time of day, and how to make the sweep again was nowhere."""
    sweep = tmp_path / "2026-05-04" / "18-47-27"
    for seed in range(5):
        for name in ("a", "b"):
            config = {"estimator": {"_target_": f"x.{seed % 2}"}}
            run = write_run(sweep / f"{name}{seed}", [1.0, 2, 3], config, variant=name, seed=seed)
            (run / ".hydra").mkdir()
            words = f"- +variant={name}\n- seed={seed}\n- '+env.kwargs.x=''it'''\n"
            (run / ".hydra" / "overrides.yaml").write_text(words)
    code, page, _ = made(capsys, sweep, "--by", "variant")
    title = "Stability report: 2026-05-04/18-47-27: variant on CartPole-v1"
    assert code == 0 and f"<title>{title}</title>" in page and f"{title}</h1>" in page
    assert "python -m pgx.run -m +variant=a,b 'seed=range(0,5)' " in html.unescape(page)
    warnings_ = page[page.index("Warnings</strong>") : page.index("Primary endpoint")]
    assert "estimator._target_, so they are no replicates" in warnings_ and "<em>" not in warnings_
    assert all(line.endswith(".</li>") for line in warnings_.splitlines() if line.startswith("<li>")), "whole sentences"


@pytest.mark.parametrize(
    ("known", "command"),
    [
        ([["+variant=a", "seed=0"], ["+variant=a", "seed=3"]], "python -m pgx.run -m +variant=a seed=0,3"),
        ([["+variant=a", "tracker.tags=[x,y]"]], "python -m pgx.run +variant=a 'tracker.tags=[x,y]'"),
        ([["a=1", "b=1"], ["a=2", "b=2"]], ""),  # two of four combinations
        ([["a=1"], ["a=1", "b=2"]], ""),
        ([["a=[1]"], ["a=[2]"]], ""),
    ],
)
def test_runs_that_are_all_combinations_are_one_command(known, command):
    assert origin.command_of(known) == command


@pytest.mark.parametrize("words", [["--window", "0"], ["--window", "nan"], ["--window", "-5"], ["--window", "inf"],
                                   ["--threshold", "nan"], ["--adjust", "none"], ["--junk"]], ids=" ".join)  # fmt: skip
def test_a_number_that_means_nothing_is_refused_in_one_line(words, tmp_path, capsys):
    """`--window 0` made an error of a section, −5 was taken without a word, and argparse says eight lines."""
    with pytest.raises(SystemExit) as end:
        report.main([str(tmp_path), *words])
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.startswith("analysis: ") and err.count("\n") == 1 and words[0] in err
    assert not list(tmp_path.iterdir())


def test_a_last_line_that_nobody_takes_changes_no_exit_code(monkeypatch, capsys):
    """`python -m analysis.report … | true`, `> /dev/full`, and an ASCII terminal."""
    with open("/dev/full", "w") as full:
        report.say("report: r/report.html", full)
        report.say("again", full)
    terminal = TextIOWrapper(shown := BytesIO(), encoding="ascii", write_through=True)
    report.say("–", terminal)
    assert shown.getvalue() == b"?\n"
    monkeypatch.setattr(sys, "stdout", None)
    report.say("closed from the start")
