"""From sweep folders to a report: one HTML file that loads nothing, its figures as PNG and SVG, its tables as Parquet.

    python -m analysis.report SWEEP_DIR [SWEEP_DIR …] [--output DIR]

The report is the notebook stability.py beside this file. Exit code 0: it answers what was asked; 2: it cannot, and one
line says why; where there are runs a report of what there is has been written all the same. 1: a part of it failed.
"""

import argparse
import dataclasses
import math
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import NoReturn, TextIO

from tqdm import tqdm

from analysis import hygiene
from analysis.load import InputError, load
from analysis.report import notebook
from analysis.report.notebook import Cell
from analysis.report.study import Question, Study
from analysis.statistics.compare import FAMILIES
from analysis.statistics.reliability import Reliability

NOTEBOOK = Path(__file__).with_name("stability.py")


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        say(f"analysis: {' '.join(message.split())}; --help tells more", sys.stderr)
        raise SystemExit(2)


def _number(text: str, above: float = -math.inf) -> float:
    try:
        x = float(text)
    except ValueError:
        x = math.nan
    if not (math.isfinite(x) and x > above):
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: a number{f' > {above}' if above == 0 else ''}")
    return x


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line if anybody can take it: a closed pipe, a full disk or an ASCII terminal changes no exit code."""
    stream = stream or sys.stdout
    if stream is None:  # closed by the parent process
        return
    try:
        encoding = stream.encoding or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding), file=stream, flush=True)
    except OSError:
        with open(os.devnull, "w") as nowhere:  # or what waits in the buffer would fail again when Python ends
            os.dup2(nowhere.fileno(), stream.fileno())


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    complaints: list[str] = []
    sweeps = _usable(options.sweeps, complaints)
    question = Question(
        score=options.score, metric=options.metric, threshold=options.threshold, base=options.base,
        by=options.by and tuple(options.by.split(",")), adjust=options.adjust,
        reliability=Reliability(window=options.window), paired=options.paired or None, equivalent=options.equivalent,
        evaluated=tuple(map(str, options.final)),
    )  # fmt: skip
    output = options.output or (sweeps or options.sweeps)[0] / "report"
    try:
        tables = load(*sweeps) if sweeps else None
        study = _study(tables, question, complaints) if tables else None
        if study:
            study.scores  # noqa: B018 - a table of evaluations that does not fit is refused before anything is written
            _make_room(output)
            _look(study, sweeps, options.chosen_on)
    except InputError as error:
        complaints.append(str(error))
        study = None
    if study is None:
        return _end(complaints)
    complaints += write(study, output)
    say(f"report: {output / 'report.html'}")
    return _end(complaints, study)


def _look(study: Study, sweeps: list[Path], chosen_on: list[Path]) -> None:
    """Notes what is known of earlier looks at these runs, and whether their values were chosen on others."""
    for sweep in sweeps:
        inside = [Path(folder).is_relative_to(sweep) for folder in study.runs["folder"]]
        study.notes += hygiene.look_again(sweep, study.loaded[inside])
    for stage_one in chosen_on:
        sentence, fresh = hygiene.confirmed(study.loaded, load(stage_one).runs, str(stage_one))
        (study.notes if fresh else study.problems).append(sentence)


def write(study: Study, output: Path, *, quiet: bool | None = None) -> list[str]:
    """report.html, figures/ and tables/; what failed, a line each. `quiet` None: no progress bar but on a terminal."""
    notebook.plain_matplotlib()
    cells, failures = notebook.read(NOTEBOOK), []
    with tqdm(total=len(cells) + 1, desc="report", unit="part", disable=quiet if sys.stderr else True, leave=False) as bar:

        def begin(cell: Cell) -> None:
            bar.update()
            if cell.kind == "markdown":
                bar.set_description(cell.source.splitlines()[0].lstrip("# "))

        def failed(cell: Cell, error: Exception) -> str:
            line = f"this part could not be made: {type(error).__name__}: {' '.join(str(error).split())}"
            failures.append(f"{NOTEBOOK.name}, line {cell.line}: {line}")
            return f"> **{line[0].upper()}{line[1:]}**"

        given = {"STUDY": study, "OUTPUT": output}
        done = notebook.run(cells, given, name=str(NOTEBOOK), begin=begin, failed=failed)
        bar.set_description("tables")
        try:
            study.save(output / "tables")
        except Exception as error:  # a report without its tables is still one
            failures.append(f"tables: {type(error).__name__}: {' '.join(str(error).split())}")
    page = notebook.as_html(done, _heading(done) or f"Stability report: {', '.join(study.sweeps)}")
    (output / "report.html").write_text(page, encoding="utf-8")
    return failures


def _heading(cells: list[Cell]) -> str:
    """The first heading that is shown, as plain text; empty if none is."""
    text = "\n".join(bundle.get("text/markdown", "") for cell in cells for bundle in cell.shown)
    match = re.search(r"^# (.*)$", text, flags=re.MULTILINE)
    return re.sub(r"\\(.)", r"\1", match[1]) if match else ""


def _usable(sweeps: list[Path], complaints: list[str]) -> list[Path]:
    """The sweeps that can be loaded, each once; the others are complained of."""
    usable: dict[Path, Path] = {}
    for sweep in sweeps:
        if sweep.resolve() in usable:
            complaints.append(f"{sweep}: given twice")
        elif len(sweeps) > 1 and not sweep.is_dir():
            complaints.append(f"{sweep}: no such folder")
        else:
            usable[sweep.resolve()] = sweep
    return list(usable.values())


def _study(tables, question: Question, complaints: list[str]) -> Study:
    """The study; if its grouping does not exist, grouped by default, with a complaint. Raises InputError if that is none."""
    try:
        return Study(tables, question)
    except InputError as error:
        if question.by is None:
            raise
        complaints.append(str(error))
        return Study(tables, dataclasses.replace(question, by=None))


def _make_room(output: Path) -> None:
    """Raises InputError where the report cannot be written, or would be written through a link to somewhere else."""
    if link := next((path for path in (output, *output.rglob("*")) if path.is_symlink()), None):
        raise InputError(f"{link} is a link: what it leads to would be overwritten; choose another folder with --output")
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "report.html").touch()
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}); choose another folder with --output") from None


def _end(complaints: list[str], study: Study | None = None) -> int:
    """Prints what went wrong, a line each, and gives the exit code."""
    broken = [line for line in complaints if line.startswith((NOTEBOOK.name, "tables:"))]
    if study:
        complaints += study.problems
        for line in study.warnings:
            if line not in complaints:
                say(f"note: {line}", sys.stderr)
        if not study.runs["status"].isin(["completed", "running", "interrupted"]).any():
            complaints.append("all runs failed: there is nothing to measure")
    for line in dict.fromkeys(complaints):
        say(f"analysis: {line}", sys.stderr)
    return 1 if broken else 2 if complaints else 0


def _parser() -> argparse.ArgumentParser:
    default = Question()
    parser = Parser(
        prog="python -m analysis.report",
        description="Which variant learns, how fast, how stably, how do runs fail, and how sure are we? One HTML file, "
        "figures and tables from the run folders of one or several sweeps; several are compared side by side.",
        epilog="Exit code 2: what was asked cannot be answered, and a line on stderr says why.",
    )
    add = parser.add_argument
    add("sweeps", nargs="+", type=Path, metavar="SWEEP_DIR", help="a folder with runs anywhere below it")
    add("--output", type=Path, metavar="DIR", help="where to write; by default SWEEP_DIR/report of the first")
    add("--by", metavar="KEY[,KEY …]",
        help="what makes a group of replicates: variant,optimiser.learning_rate … (default: the variant and whatever "
        "else its runs differ in)")  # fmt: skip
    add("--score", default=default.score, metavar="METRIC",
        help=f"of curves, threshold and final scores (default: {default.score})")  # fmt: skip
    add("--final", type=Path, action="append", default=[], metavar="FILE.csv",
        help="final scores from what `python -m pgx.evaluate SWEEP_DIR --output FILE.csv` wrote (may be given again)")  # fmt: skip
    add("--metric", default=default.metric, metavar="METRIC",
        help=f"of reliability and collapses (default: {default.metric})")  # fmt: skip
    add("--threshold", type=_number, metavar="X", help="of --score (default: the environment's own)")
    add("--base", type=_number, metavar="X",
        help="what an untrained policy returns, from where the way up to the threshold is measured (default: the median "
             "over all runs of the mean of their first 50 episodes)")  # fmt: skip
    add("--window", type=partial(_number, above=0), default=default.reliability.window, metavar="STEPS",
        help=f"of the dispersion across time, in env steps (default: {default.reliability.window:g})")  # fmt: skip
    add("--adjust", choices=list(FAMILIES), default=default.adjust,
        help="over the family of comparisons: Holm or Benjamini–Yekutieli")  # fmt: skip
    add("--paired", action="store_true",
        help="compare final scores by seed (default: only where what a seed gives is clearly correlated)")  # fmt: skip
    add("--equivalent", type=share, default=default.equivalent, metavar="SHARE",
        help="the smallest difference of interest, of the time to the threshold or of what a run's curve spans: groups "
        f"that differ by less are practically equal; 0: none are (default: {default.equivalent:g})")  # fmt: skip
    add("--chosen-on", type=Path, action="append", default=[], metavar="SWEEP_DIR",
        help="where the values of these runs were chosen: checks that the seeds are fresh (may be given again)")  # fmt: skip
    return parser


def share(text: str) -> float:
    x = float(text)
    if not 0 <= x < 1:
        raise ValueError
    return x


if __name__ == "__main__":
    sys.exit(main())
