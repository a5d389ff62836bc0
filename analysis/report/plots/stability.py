"""Plots of stability: what each seed lost of its best, and the measures of reliability."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import text
from analysis.align import runs_of
from analysis.report.plots.captions import caption, doubts, headline, key, method_of, names_of, nothing, statistic, steps_axis
from analysis.report.plots.looks import Looks, looks_of
from analysis.statistics.reliability import drawdown

MEASURES = {
    "DT": ("dispersion across time", "←"), "SRT": ("short-term risk", "→"), "LRT": ("long-term risk", "←"),
    "max drawdown": ("largest loss of the best", "←"), "DR": ("dispersion across runs", "←"),
    "RR": ("risk across runs", "→"), "DF": ("dispersion of a policy", "←"), "RF": ("risk of a policy", "→"),
}  # fmt: skip
"""Measures of reliability: what they are, and which way is better."""


_FALLS = {
    "catastrophic": ("collapse for good", dict(marker="X", markersize=7, color="black")),
    "collapse": ("collapse, came back", dict(marker="v", markersize=6, color="white")),
    "falling": ("falling at the end", dict(marker=">", markersize=6, color="white")),
}


def underwater(
    curves: pd.DataFrame, events: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, label: str = "return",
    left_out: int = 0,
) -> Axes:  # fmt: skip
    """A row a run: its drawdown max y − y hangs from the row's line. `events` (events.collapses) are marked."""
    runs = [run.dropna(subset="value") for run in runs_of(curves)]
    runs = sorted((run for run in runs if len(run)), key=lambda run: run["variant"].iloc[0])
    if not runs:
        return nothing(ax, "Underwater")
    looks = looks or looks_of(names_of(curves))
    below = [drawdown(run["value"].to_numpy(float)) for run in runs]
    deepest = max(depth.max() for depth in below) or 1.0
    first: dict[str, list[int]] = {}
    for i, (run, depth) in enumerate(zip(runs, below, strict=True)):
        variant = run["variant"].iloc[0]
        first.setdefault(variant, []).append(i)
        colour, t = looks[variant].colour, run["env_steps"].to_numpy(float)
        ax.fill_between(t, i, i + 0.92 * depth / deepest, color=colour, alpha=0.75, linewidth=0, rasterized=len(runs) > 60)
        ax.plot(t[[0, -1]], [i, i], color=colour, linewidth=0.6)
        of_run = events[events["run_id"] == run["run_id"].iloc[0]]
        for event in of_run.itertuples():
            ax.plot(event.start, i + 0.12, linestyle="", markeredgecolor="black", markeredgewidth=0.9, **_FALLS[event.kind][1])
    if len(runs) <= 100:
        ax.set_yticks(
            np.arange(len(runs)) + 0.3,
            [str(run["seed"].iloc[0]) for run in runs],
            fontsize=8.5 if len(runs) <= 15 else 7 if len(runs) <= 40 else 5.5,
        )
        ax.set_ylabel("seed")
    else:
        ax.set_yticks([])
    ax.set_ylim(len(runs) + 0.1, -0.4)
    ax.grid(axis="y", visible=False)
    for rows in list(first.values())[1:]:
        ax.axhline(rows[0] - 0.15, color="#bbbbbb", linewidth=0.8)
    steps_axis(ax)
    handles = [key(looks[name], f"{name} (n = {len(rows)})", linewidth=6) for name, rows in first.items()]
    handles += [
        Line2D([], [], linestyle="", markeredgecolor="black", label=label, **marker)
        for kind, (label, marker) in _FALLS.items()
        if kind != "falling" or (events["kind"] == kind).any()
    ]
    headline(ax, "Underwater: what each seed lost of its best", handles)
    n = f"the {len(runs)} runs that lost most; {left_out} more are in the tables" if left_out else f"all {len(runs)} runs"
    caption(ax, f"A row a seed, hanging: max so far − now, of {label}; a full row is {text.number(deepest)}. No "
                 f"estimate, {n}.")  # fmt: skip
    return ax


# 8: reliability


def forest(results: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, names: Sequence[str] = ()) -> Axes:
    """One measure of reliability: a row a variant with its interval. `names` fixes the rows across several of these."""
    if results.empty:
        return nothing(ax, "Reliability")
    names = list(names) or names_of(results)
    looks = looks or looks_of(names)
    short = statistic(results)
    scale = 1e6 if short in ("DT", "SRT") else 1
    for row in results.itertuples():
        look, i = looks[row.variant], names.index(row.variant)
        ends = [row.lo * scale, row.hi * scale]
        ax.plot(ends, [i, i], color=look.colour, linewidth=3, solid_capstyle="butt", alpha=0.7)
        ax.plot(row.estimate * scale, i, look.marker, color=look.colour, markersize=8, markeredgecolor="white")
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    means, better = MEASURES.get(short, ("", ""))
    ax.set_xlabel(f"{means}\n" + {"←": "← steadier", "→": "steadier →", "": ""}[better], fontsize=9)
    headline(ax, f"{short}, per 1M steps" if scale > 1 else short)
    caption(ax, f"{method_of(results)}.{doubts(results)}", below=46)
    return ax
