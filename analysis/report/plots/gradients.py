"""Plots of what was measured at frozen checkpoints: gradients against the size of a batch, returns after one more update."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from analysis.report.plots.captions import caption, doubts, headline, key, method_of, names_of, nothing
from analysis.report.plots.looks import GREY, Looks, looks_of


def against_batch_size(data: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, title: str = "", label: str = "") -> Axes:
    """Gradient quality at frozen checkpoints against episodes a batch, log–log.

    `data` is a results table with the column batch_size; what is not positive cannot be drawn here and is counted.
    """
    if data.empty:
        return nothing(ax, title)
    looks = looks or looks_of(names_of(data))
    handles = []
    floor = data["estimate"].where(data["estimate"] > 0).min() / 2
    for variant, rows in data.sort_values("batch_size").groupby("variant"):
        look = looks[variant]
        known = rows[rows["estimate"] > 0]
        # an interval that reaches 0 goes down to where the picture ends
        ax.fill_between(known["batch_size"], known["lo"].clip(lower=floor), known["hi"], color=look.colour, alpha=0.18,
                        linewidth=0)  # fmt: skip
        ax.plot(
            known["batch_size"],
            known["estimate"],
            color=look.colour,
            linestyle=look.dashes,
            marker=look.marker,
            linewidth=2,
        )
        handles.append(key(look, variant, marker=look.marker))
    ax.set(xscale="log", yscale="log", xlabel="episodes a batch", ylabel=label)
    ax.set_xticks(sizes := np.unique(data["batch_size"]), [f"{size:g}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    if np.isfinite(floor):
        ax.set_ylim(bottom=floor)
    headline(ax, title, handles)
    hidden = int((data["estimate"] <= 0).sum())
    left_out = f" Not drawn on the log scale because not positive: {hidden}." if hidden else ""
    caption(ax, f"{method_of(data)}.{left_out}{doubts(data)}")
    return ax


def post_update(returns: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, title: str = "After one more update") -> Axes:
    """Share of checkpoints where the worst of the updates left no more than this part of the mode of their returns.

    `returns` is from diagnosis.post_update: a row a checkpoint.
    """
    known = returns.dropna(subset="worst")
    if known.empty:
        return nothing(ax, title)
    looks = looks or looks_of(names_of(known))
    handles = []
    for variant, rows in known.groupby("variant"):
        look, x = looks[variant], np.sort(rows["worst"].to_numpy(float))
        y = np.arange(1, len(x) + 1) / len(x)
        start, end = min(0.0, x[0]), max(1.05, x[-1])
        ax.step([start, *x, end], [0, *y, 1], where="post", color=look.colour, linestyle=look.dashes, linewidth=2)
        handles.append(key(look, f"{variant} ({rows['run_id'].nunique()} runs, {len(rows)} checkpoints)"))
    ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    ax.set(ylim=(-0.03, 1.03), xlabel="worst return after an update / mode", ylabel="share of checkpoints")
    headline(ax, title, handles)
    n = known["n"].unique()
    caption(
        ax,
        f"{' or '.join(map(str, sorted(n)))} single updates from each checkpoint, each played for several "
        "episodes; further left: nearer to a cliff. Dotted: half of the mode. No estimate, every checkpoint.",
    )
    return ax
