"""Evaluation of a trained policy: `python -m pgx.evaluate RUN_DIR` plays fresh episodes and prints their return.

The episodes come from a random stream of the run's seed that training does not touch: none of them was
trained on, and the same command gives the same number again. Of a folder with several runs, all are evaluated, and a
table is printed; with --seed all of them play the same episodes, and --output keeps a line each, from which
`python -m analysis.report SWEEP_DIR --final FILE` takes its final scores. Nothing in a run's folder is written.
"""

import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgx.config import whole
from pgx.errors import ConfigError, one_line
from pgx.evaluation import of_run
from pgx.runs.files import write_atomically
from pgx.runs.restore import Arguments, Typed, read_as, read_run, runs_below, short_errors, title
from pgx.sweep.index import order, overrides_of


def describe(returns: np.ndarray, of: str = "fresh episode") -> str:
    """The line about some returns: mean ± sd (n−1) and range."""
    if len(returns) == 1:
        return f"return {returns[0]:.4g} in 1 {of}"
    spread = f"{returns.mean():.4g} ± {returns.std(ddof=1):.4g}"
    return f"return {spread} (mean ± sd of {len(returns):,} {of}s), {returns.min():g} to {returns.max():g}"


def main(arguments: Sequence[str] | None = None) -> None:
    with short_errors():
        parser = Arguments("evaluate", __doc__, what="the folder of a run, or of a sweep")
        parser.add_argument("--episodes", metavar="N", type=read_as(whole(1)), default=100, help="of each (default: 100)")
        seed = "of the episodes (default: that of the run)"
        parser.add_argument("--seed", metavar="N", type=read_as(whole(0, 2**32 - 1)), help=seed)
        parser.add_argument("--output", metavar="FILE.csv", type=Path, help="where a sweep's table is written as well")
        parser.choose_policy()
        chosen, typed = parser.read(arguments)
        how = {"episodes": chosen.episodes, "greedy": chosen.greedy, "best": chosen.best, "seed": chosen.seed}
        if chosen.output and not os.access(chosen.output.absolute().parent, os.W_OK):
            raise ConfigError("--output", f"{chosen.output} cannot be written", hint="choose a folder that is there")
        runs = sorted(runs_below(chosen.folder), key=lambda run: order(run.as_posix()))
        if runs and (runs != [chosen.folder] or chosen.output):
            sys.exit(_evaluate_all(chosen.folder, runs, typed, how, chosen.output))
        summary = read_run(chosen.folder, typed)
        update, returns = of_run(chosen.folder, summary["config"], **how)
        print(f"{title(summary, update, greedy=chosen.greedy)}: {describe(returns)}")


def _evaluate_all(sweep: Path, runs: Sequence[Path], typed: Typed, how: dict[str, Any], output: Path | None) -> int:
    """Print a line for each run and one for each group of replicates; the exit code: 1 if one could not be evaluated."""
    names = [run.relative_to(sweep).as_posix() for run in runs]
    width, groups, rows, failed = max(map(len, names)), {}, [], False
    for name, run in zip(names, runs, strict=True):
        try:
            summary = read_run(run, typed)
            update, returns = of_run(run, summary["config"], **how)
        except Exception as error:  # of another version, say, or without a checkpoint: the others can be evaluated
            print(f"pgx: {one_line(error)}", file=sys.stderr)
            failed = True
            continue
        print(f"{name:<{width}}  {title(summary, update, greedy=how['greedy'])}: {describe(returns)}", flush=True)
        groups.setdefault(_group(run, summary), []).append(returns.mean())
        if output:
            rows.append(_row(run, output, update, returns, how))
            write_atomically(output, _table(rows))  # after every run: nothing that was played is lost
    print()
    for group, means in groups.items():
        print(f"{group}: {describe(np.array(means), 'run')}")
    if output and rows:
        print(f"table: {output}; `python -m analysis.report {sweep} --final {output}` has these as its final scores")
    return int(failed)


def _row(run: Path, output: Path, update: int, returns: np.ndarray, how: dict[str, Any]) -> dict[str, Any]:
    """A line of the table. `folder` is counted from the table's own, so that both can be moved together."""
    folder = os.path.relpath(run.resolve(), output.resolve().parent)
    spread = returns.std(ddof=1) if len(returns) > 1 else ""
    return {"folder": folder, "update": update, "return_mean": returns.mean(), "return_std": spread} | how


def _table(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _group(run: Path, summary: dict[str, Any]) -> str:
    """What replicates share: all that was asked for but the seed."""
    label = f"{summary.get('label', summary['variant'])} on {summary['env']}"
    asked = [x for x in overrides_of(run) if x.lstrip("+").partition("=")[0] not in ("seed", "variant")]
    return " ".join([label, *sorted(asked)])


if __name__ == "__main__":
    main()
