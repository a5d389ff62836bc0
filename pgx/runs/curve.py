"""learning_curve.png: what a person looks at first.

Drawn from metrics.csv in a process of its own, `python -m pgx.runs.curve`, as importing matplotlib takes half a second.
Requests come in on stdin, one JSON object a line; answers go out on stdout: {"folder": …, "error": null}.
"""

import contextlib
import csv
import io
import json
import os
import queue
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from pgx.runs import child
from pgx.runs.files import write_atomically

NAME = "learning_curve.png"


PATIENCE = 30.0
"""Seconds to wait for a picture."""


class Artist:
    """The process that draws, for all runs of this process."""

    _running: "Artist | None" = None

    @classmethod
    def running(cls) -> "Artist":
        """The artist of this process; started if there is none or it has died."""
        if cls._running is None or cls._running._child.poll() is not None:
            cls._running = cls()
        return cls._running

    def __init__(self):
        self._child = child.start("pgx.runs.curve")
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, folder: Path, title: str, threshold: float | None) -> None:
        """Ask for a picture of the folder's metrics.csv as it is now."""
        request = {"folder": str(folder.absolute()), "title": title, "threshold": threshold}
        with contextlib.suppress(OSError):  # it has died: `wait` says so
            print(json.dumps(request), file=self._child.stdin, flush=True)

    def wait(self, folder: Path) -> str | None:
        """Wait until it is drawn; return what went wrong, or None."""
        try:
            while (answer := self._answers.get(timeout=PATIENCE)) is not None:
                if answer["folder"] == str(folder.absolute()):
                    return answer["error"]
        except queue.Empty:
            self._child.kill()  # it hangs, or was stopped
            return f"no answer for {PATIENCE:g} s"
        return "the process that draws has ended"

    def _read(self) -> None:
        for line in self._child.stdout:
            self._answers.put(json.loads(line))
        self._answers.put(None)


def main() -> None:
    answers = child.answers()
    os.environ["MPLBACKEND"] = "agg"  # a notebook's, of which matplotlib may know nothing here
    import matplotlib.backends.backend_agg
    import matplotlib.figure

    matplotlib.rcdefaults()  # the picture is the same, whatever a person's matplotlibrc says
    for line in sys.stdin:
        request, error = json.loads(line), None
        folder = Path(request["folder"])
        try:
            with open(folder / "metrics.csv", newline="") as file:
                rows = [{name: float(x) if x else None for name, x in row.items()} for row in csv.DictReader(file)]
            draw(rows, request["title"], request["threshold"], folder / NAME)
        except Exception as fault:
            error = f"{type(fault).__name__}: {fault}"
        print(json.dumps({"folder": request["folder"], "error": error}), file=answers, flush=True)


def draw(rows: list[dict[str, Any]], title: str, threshold: float | None, path: Path) -> None:
    """Return against environment steps: each batch's mean and range, the mean of the last 100 episodes, and evaluations."""
    evaluated = [(row["env_steps"], x) for row in rows if (x := row.get("evaluation_return")) is not None]
    figure, ax, band, mean, last, evaluations = _figure(threshold, bool(evaluated))
    steps, middle, low, high = (
        [row[name] for row in rows] for name in ("env_steps", "return_mean", "return_min", "return_max")
    )
    recent = [(row["env_steps"], row["return_recent"]) for row in rows if row["return_recent"] is not None]
    band.set_data(steps, low, high)
    mean.set_data(steps, middle)
    last.set_data(*zip(*recent, strict=True) if recent else ([], []))
    evaluations.set_data(*zip(*evaluated, strict=True) if evaluated else ([], []))
    shown = [x for x in (*low, *high, threshold, *(x for _, x in evaluated)) if x is not None] or [0.0]
    margin = 0.05 * (max(shown) - min(shown)) or 1.0
    ax.set(xlim=(0, 1.02 * max(steps, default=1)), ylim=(min(shown) - margin, max(shown) + margin))
    labels = ax.yaxis.get_major_formatter().format_ticks(ax.yaxis.get_majorticklocs())
    figure.subplots_adjust(left=0.055 + 0.0126 * max(map(len, labels)))  # −500 is wider than 500
    ax.set_title(title, y=1.08)  # a place of its own: matplotlib would measure all else to find one
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(path, picture.getvalue())


@cache
def _figure(threshold: float | None, evaluated: bool) -> tuple:
    """(figure, axes, what shows the data), for all runs of a process: making one takes as long as drawing it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no global state, and half the import

    figure = Figure(figsize=(7, 4), dpi=110)
    FigureCanvasAgg(figure)
    # by hand: matplotlib's own layout draws everything twice
    ax = figure.subplots(gridspec_kw={"right": 0.97, "bottom": 0.12, "top": 0.86})
    band = ax.fill_between([], [], [], color="#0072B2", alpha=0.15, lw=0, label="batch: min to max")
    (mean,) = ax.plot([], [], color="#0072B2", alpha=0.5, lw=0.8, label="batch: mean")
    (last,) = ax.plot([], [], color="#D55E00", lw=2, label="last 100 episodes: mean")
    (evaluations,) = ax.plot([], [], ".-", color="#009E73", lw=1, ms=4, label="evaluation" if evaluated else None)
    if threshold is not None:
        ax.axhline(threshold, color="0.4", lw=1, ls="--", label=f"solved: {threshold:g}")
    ax.set(xlabel="environment steps", ylabel="undiscounted return")
    ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e3 else f"{x:g}")
    ax.spines[["top", "right"]].set_visible(False)
    tight = {"handlelength": 1.2, "columnspacing": 1.2} if evaluated else {}
    ax.legend(frameon=False, fontsize=8, ncols=4 + evaluated, loc="lower center", bbox_to_anchor=(0.5, 1), **tight)
    return figure, ax, band, mean, last, evaluations


if __name__ == "__main__":
    main()
