"""Plots of final scores: each seed's, the performance profile, who is better than whom."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import text
from analysis.report.plots.captions import caption, doubts, headline, key, method_of, names_of, nothing, statistic
from analysis.report.plots.looks import GREY, Looks, looks_of, mixed


def final_scores(
    scores: pd.DataFrame, results: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, label: str = "final return"
) -> Axes:
    """A dot a seed and, below the dots, the statistic of `results` (`aggregate` of `scores`) with its interval."""
    if results.empty or scores["value"].isna().all():
        return nothing(ax, "Final scores")
    names = names_of(results)
    looks = looks or looks_of(names)
    for i, variant in enumerate(names):
        look = looks[variant]
        x = np.sort(scores.loc[scores["variant"] == variant, "value"].dropna().to_numpy(float))
        height = -0.05 - 0.26 * _beeswarm(x, np.ptp(scores["value"].dropna()) or 1.0)
        size = 26 if len(x) <= 50 else 10
        ax.scatter(x, i + height, s=size, color=look.colour, alpha=0.55, linewidths=0, gid=f"seeds of {variant}")
        for row in results[results["variant"] == variant].itertuples():
            ax.plot([row.lo, row.hi], [i + 0.18] * 2, color=look.colour, linewidth=3.5, solid_capstyle="butt", alpha=0.7)
            ax.plot(row.estimate, i + 0.18, look.marker, color=look.colour, markeredgecolor="white", markersize=9)
            words = f"{text.number(row.estimate)}  {text.between(row.lo, row.hi)}"
            ax.annotate(words, (1.01, i + 0.12), xycoords=("axes fraction", "data"), fontsize=8.5, color=GREY, va="center")
    ax.set_yticks(range(len(names)), [f"{name}\n(n = {_n(results, name)})" for name in names])
    ax.set_ylim(len(names) - 0.55, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(label)
    headline(ax, "Final scores")
    caption(ax, f"Dots: seeds. Marker and bar: {statistic(results)}, {method_of(results)}.{doubts(results)}")
    return ax


def _n(results: pd.DataFrame, variant: str) -> int:
    return int(results.loc[results["variant"] == variant, "n_runs"].max())


def _beeswarm(x: np.ndarray, span: float) -> np.ndarray:
    """Heights in [0, 1] that keep near neighbours of a sorted x apart: they count up within a fiftieth of the span."""
    height, last = np.zeros(len(x)), 0
    for i in range(1, len(x)):
        last = last + 1 if x[i] - x[i - 1] < span / 50 else 0
        height[i] = last
    return (height * 0.382) % 1.0 if height.any() else height


def performance_profile(results: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, label: str = "final return") -> Axes:
    """Share of runs above τ, for every τ; `results` from aggregates.profile."""
    if results.empty:
        return nothing(ax, "Performance profile")
    looks = looks or looks_of(names_of(results))
    handles = []
    for variant, rows in results.groupby("variant"):
        look, tau = looks[variant], rows["tau"].to_numpy(float)
        ax.fill_between(tau, rows["lo"], rows["hi"], color=look.colour, alpha=0.15, linewidth=0)
        ax.plot(tau, rows["estimate"], color=look.colour, linestyle=look.dashes, linewidth=2)
        handles.append(key(look, f"{variant} (n = {rows['n_runs'].max()})"))
    ax.set(xlabel=f"τ ({label})", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
    ax.margins(x=0.01)
    headline(ax, "Performance profile", handles)
    caption(ax, f"Higher is better at every τ. Band: {method_of(results)}.{doubts(results)}")
    return ax


def improvement_matrix(results: pd.DataFrame, ax: Axes, *, of: str = "final scores", looks: Looks | None = None) -> Axes:
    """P(row > column), a small scale from 0 to 1 in every cell with the line at ½; shaded where ½ is excluded."""
    title = f"Probability of improvement: {of}"
    if results.empty:
        return nothing(ax, title, "it needs two variants with scores")
    names = sorted({*results["a"], *results["b"]})
    looks = looks or looks_of(names)
    size = 9.5 if len(names) <= 5 else 7
    for row in results.itertuples():
        i, j = names.index(row.a), names.index(row.b)
        sure = row.lo > 0.5 or row.hi < 0.5
        winner = looks[row.a if row.estimate > 0.5 else row.b].colour
        ax.add_patch(matplotlib.patches.Rectangle((j, i), 1, 1, facecolor=mixed(winner, 0.78) if sure else "#f4f4f4"))
        ax.plot([j + 0.5] * 2, [i + 0.55, i + 0.92], color=GREY, linewidth=1, linestyle=":")
        ends = np.clip([row.lo, row.hi], 0, 1) * 0.8 + 0.1 + j  # room for half a dot at 0 and at 1
        ax.plot(ends, [i + 0.74] * 2, color="#222222", linewidth=2.5, solid_capstyle="butt")
        ax.plot(j + 0.1 + 0.8 * row.estimate, i + 0.74, "o", color="#222222", markersize=5)
        words = text.share(row.estimate), text.between(row.lo, row.hi, text.share)
        ax.text(
            j + 0.5,
            i + 0.2,
            words[0],
            ha="center",
            va="center",
            fontsize=size + 2,
            fontweight="bold" if sure else "normal",
        )
        ax.text(j + 0.5, i + 0.42, words[1], ha="center", va="center", fontsize=size - 1, color="#444444")
    for i in range(len(names)):
        ax.text(i + 0.5, i + 0.5, "–", ha="center", va="center", color="#bbbbbb")
    broken = [name.replace(", ", ",\n") for name in names]
    small, lines = 9 if len(names) <= 5 else 8, max(name.count("\n") for name in broken)
    longest = max(len(part) for name in broken for part in name.split("\n"))
    slanted = {} if len(names) <= 3 else {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}  # or they touch
    ax.set_xticks(np.arange(len(names)) + 0.5, broken, fontsize=small, **slanted)
    ax.set_yticks(np.arange(len(names)) + 0.5, broken, fontsize=small)
    ax.set(xlim=(0, len(names)), ylim=(len(names), 0), xlabel="… than this one", ylabel="P(this one is better …)")
    ax.grid(visible=False)
    for edge in range(len(names) + 1):
        ax.axhline(edge, color="white", linewidth=3)
        ax.axvline(edge, color="white", linewidth=3)
    headline(ax, title)
    caption(ax, f"{method_of(results)}. Dotted: ½. Coloured, in the winner's colour, where the interval excludes ½."
                 f"{doubts(results)}", below=34 + 11 * lines + (2.9 * longest if slanted else 0))  # fmt: skip
    return ax
