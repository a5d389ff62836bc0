"""Plots over environment steps: learning curves, tolerance bands, any metric along training or around a collapse."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from analysis.align import matrix
from analysis.report.plots.captions import caption, doubts, headline, key, method_of, names_of, nothing, statistic, steps_axis
from analysis.report.plots.figures import TOGETHER
from analysis.report.plots.looks import GREY, Looks, looks_of


def learning_curves(
    aligned: pd.DataFrame, bands: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, threshold: float = np.nan,
    label: str = "return", smoothing: str = "none",
) -> Axes:  # fmt: skip
    """A thin line a seed, the statistic of `bands` (`curve_bands` of `aligned`) thick, with its interval."""
    if bands.empty:
        return nothing(ax, "Learning curves")
    looks = looks or looks_of(names_of(bands))
    handles = []
    for variant, band in bands.groupby("variant"):
        look, of_variant = looks[variant], aligned[aligned["variant"] == variant]
        x = band["env_steps"].to_numpy(float)
        seeds = [np.column_stack([x, y]) for y in matrix(of_variant)] if len(of_variant) else []
        ax.add_collection(
            LineCollection(seeds, colors=look.colour, linewidths=0.6, alpha=max(0.08, min(0.35, 4 / (len(seeds) + 1))),
                           rasterized=len(seeds) > 50)
        )  # fmt: skip
        ax.fill_between(x, band["lo"], band["hi"], color=look.colour, alpha=0.22, linewidth=0)
        ax.plot(x, band["estimate"], color=look.colour, linestyle=look.dashes, linewidth=2.2)
        handles.append(key(look, f"{variant} (n = {band['n_runs'].max()})"))
    if np.isfinite(threshold):
        ax.axhline(threshold, color=GREY, linewidth=1, linestyle=":")
        handles.append(Line2D([], [], color=GREY, linewidth=1, linestyle=":", label=f"threshold {threshold:g}"))
    ax.autoscale_view()
    steps_axis(ax)
    ax.set_ylabel(label)
    ax.margins(x=0.01)
    headline(ax, "Learning curves", handles)
    caption(
        ax,
        f"Thin: a seed. Thick: {statistic(bands)}; band: {method_of(bands)}. Smoothing: {smoothing}.{doubts(bands)}",
    )
    return ax


def tolerance_bands(
    bands: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, label: str = "return", smoothing: str = "none"
) -> Axes:
    """Where the runs lie, not where their middle lies; `bands` from aggregates.tolerance_bands."""
    known = bands.dropna(subset="lo")
    if known.empty:
        return nothing(ax, "Tolerance bands", "a tolerance band needs two runs")
    looks = looks or looks_of(names_of(bands))
    handles = []
    for variant, band in known.groupby("variant"):
        look, x = looks[variant], band["env_steps"].to_numpy(float)
        ax.fill_between(x, band["lo"], band["hi"], color=look.colour, alpha=0.12, linewidth=0)
        for end in ("lo", "hi"):
            ax.plot(x, band[end], color=look.colour, linestyle=look.dashes, linewidth=0.9)
        ax.plot(x, band["estimate"], color=look.colour, linestyle=look.dashes, linewidth=2.2)
        sure = band["level"]
        handles.append(key(look, f"{variant} (confidence {sure.min():.0%})"))
    steps_axis(ax)
    ax.set_ylabel(label)
    ax.margins(x=0.01)
    headline(ax, "Tolerance bands: what a new run may do", handles)
    few, many = known["n_runs"].min(), known["n_runs"].max()
    of_n = f"{many}" if few == many else f"{few}–{many}"
    caption(
        ax,
        "Thick: median. Between the outer lines: "
        f"{known['method'].iloc[0].removeprefix('order statistics that hold ')}, n = {of_n}, with the confidence "
        f"beside the name; pointwise order statistics, no bootstrap. Not an interval for the mean. Smoothing: {smoothing}.",
    )
    return ax


def along_training(
    bands: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, title: str = "", label: str = "",
    scale: str = "linear", zero: bool = False,
) -> Axes:  # fmt: skip
    """Any metric's statistic over env steps with its interval, `bands` from curve_bands; `zero` draws the line at 0."""
    if bands.empty:
        return nothing(ax, title)
    looks = looks or looks_of(names_of(bands))
    handles, crowded = [], len(names_of(bands)) > TOGETHER
    for variant, band in bands.groupby("variant"):
        look, x = looks[variant], band["env_steps"].to_numpy(float)
        if not crowded:
            ax.fill_between(x, band["lo"], band["hi"], color=look.colour, alpha=0.18, linewidth=0)
        ax.plot(x, band["estimate"], color=look.colour, linestyle=look.dashes, linewidth=2)
        handles.append(key(look, variant))
    if zero:
        ax.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_yscale(scale)
    steps_axis(ax)
    ax.set_ylabel(label)
    ax.margins(x=0.01)
    headline(ax, title, handles)
    intervals = " The intervals of so many groups are not drawn." if crowded else ""
    caption(ax, f"{statistic(bands)} over seeds; {method_of(bands)}.{intervals}{doubts(bands)}")
    return ax


def around_collapse(aligned: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, label: str = "") -> Axes:
    """One metric of every run that collapsed, at steps relative to its collapse (0); thick: the median over runs.

    `aligned` is curves on one grid of relative steps, NaN where a run has none.
    """
    if aligned.empty or aligned["value"].isna().all():
        return nothing(ax, label, "no such measurement")
    looks = looks or looks_of(names_of(aligned))
    for variant, rows in aligned.groupby("variant"):
        look, t = looks[variant], np.unique(rows["env_steps"]).astype(float)
        y = matrix(rows)
        known = ~np.isnan(y).all(0)
        ax.add_collection(
            LineCollection([np.column_stack([t, run]) for run in y], colors=look.colour, linewidths=0.6, alpha=0.4)
        )
        ax.plot(t[known], np.nanmedian(y[:, known], axis=0), color=look.colour, linestyle=look.dashes, linewidth=2.2)
    ax.axvline(0, color="black", linewidth=1, linestyle=":")
    ax.autoscale_view()
    steps_axis(ax, "environment steps from the collapse")
    headline(
        ax,
        label,
        [key(looks[name], f"{name} (n = {rows['run_id'].nunique()})") for name, rows in aligned.groupby("variant")],
    )
    caption(ax, "Thin: a run that collapsed. Thick: median over them; no interval. 0: where the collapse begins.")
    return ax
