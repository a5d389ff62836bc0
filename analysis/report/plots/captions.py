"""The words of a plot: its title, its legend, and the caption under it, which says how its numbers were made."""

import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis import text
from analysis.report.plots.looks import GREY, INK, Look


def headline(ax: Axes, title: str, handles: Sequence[Line2D] = ()) -> None:
    """The title, and between it and the data the legend."""
    lengths = [len(str(handle.get_label())) + 7 for handle in handles]
    columns = len(handles) if sum(lengths) <= characters_across(ax) else int(characters_across(ax) / max(lengths))
    columns = max(1, columns)
    lines = -(-len(handles) // columns)
    handles = [handle for column in range(columns) for handle in handles[column::columns]]  # read along the lines
    ax.set_title(title, loc="left", pad=6 + 15 * lines, fontsize=12, fontweight="bold")
    if handles:
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, frameon=False,
                  fontsize=9, borderaxespad=0.2, handlelength=2.2, columnspacing=1.4, labelspacing=0.3)  # fmt: skip


def characters_across(ax: Axes) -> float:
    """About how many characters of 9 points fit across."""
    return ax.figure.get_figwidth() / ax.get_subplotspec().get_gridspec().ncols * 12


def caption(ax: Axes, words: str, below: float = 34) -> None:
    """Write a caption under the axis label, so many points below the axis."""
    wrapped = textwrap.fill(words, int(characters_across(ax)))
    ax.annotate(wrapped, (0, 0), (0, -below), xycoords="axes fraction", textcoords="offset points", va="top",
                ha="left", fontsize=9, color=INK, linespacing=1.25, annotation_clip=False, gid="caption")  # fmt: skip


def caption_of(ax: Axes) -> str:
    """The caption of a plot."""
    return " ".join(" ".join(child.get_text().split()) for child in ax.texts if child.get_gid() == "caption")


def take_caption(ax: Axes) -> str:
    """Take the caption off a plot and return it: for a figure of several Axes that has one caption."""
    words = caption_of(ax)
    remove(ax, "caption")
    return words


def remove(ax: Axes, gid: str) -> None:
    for child in [child for child in ax.texts if child.get_gid() == gid]:
        child.remove()


def caption_below(figure: Figure, words: str) -> None:
    """Write a caption under the whole figure."""
    wrapped = textwrap.fill(words, int(figure.get_figwidth() * 12.5))
    figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=9, color=INK, linespacing=1.25)


def method_of(rows: pd.DataFrame) -> str:
    """How the numbers of a results table were made: estimator, n, interval, resamples."""
    first = rows.iloc[0]
    known = rows.loc[rows["estimate"].notna(), "n_runs"]
    few, many = known.min(), known.max()
    of_n = f"n = {many}" if few == many else f"n = {few}–{many}"
    level = f"{first['level']:.0%} interval: " if first["level"] == first["level"] else ""
    resamples = f", {first['n_boot']:,} resamples" if first["n_boot"] else ""
    return f"{of_n} runs; {level}{first['method']}{resamples}"


def statistic(rows: pd.DataFrame) -> str:
    return rows["metric"].iloc[0].split(" of ")[0].replace("iqm", "IQM")


def doubts(rows: pd.DataFrame, most: int = 2) -> str:
    """The warnings about these numbers, as sentences; of more than `most` the others are counted."""
    parts = list(dict.fromkeys(part for warning in rows["warning"] for part in warning.split("; ") if part))
    notes = "".join(f" {part[0].upper()}{part[1:]}." for part in parts[:most])
    if (more := len(parts) - most) > 0:
        notes += f" {more} more {'note is' if more == 1 else 'notes are'} beside the numbers in the tables."
    return notes


def nothing(ax: Axes, title: str, why: str = "nothing was measured") -> Axes:
    """The place of a plot that cannot be drawn, with the reason."""
    headline(ax, title)
    ax.set_axis_off()
    ax.text(0.5, 0.5, f"No picture: {why}.", ha="center", va="center", color=GREY, transform=ax.transAxes)
    return ax


def steps_axis(ax: Axes, label: str = "environment steps") -> None:
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: text.steps(x)))


def key(look: Look, label: str, **more) -> Line2D:
    return Line2D([], [], **({"color": look.colour, "linestyle": look.dashes, "linewidth": 2, "label": label} | more))


def names_of(*tables: pd.DataFrame) -> list[str]:
    return sorted({variant for table in tables for variant in table["variant"]})
