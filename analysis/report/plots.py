"""The ten plots. Each draws tables that are already computed into an `ax` and returns it; none computes a statistic.

A table is of one environment (`by_env` makes an Axes for each). Colours are seaborn's colour-blind palette and belong
to a variant: `looks_of` all variants of a report goes into every plot of it. Legends stand above the data, never on
them, and under every plot is what it shows: how many runs, which estimator, which interval, how many resamples.
"""

import hashlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from analysis import text
from analysis.align import matrix, runs_of
from analysis.statistics.reliability import drawdown

PALETTE = seaborn.color_palette("colorblind").as_hex()
PALETTE[5:] = ["#6b4423", "#00b3c4", "#555555", "#8f8a00", "#7a1f5c"]  # its own last five are pale, or nearly twice there
MARKERS = "osD^vPX*<>"
GREY = "#666666"
INK = "#3c3c3c"
STYLE = {
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8, "axes.axisbelow": True, "axes.edgecolor": "#999999", "axes.titlelocation": "left",
    "axes.titlesize": 12, "axes.titleweight": "bold", "axes.labelsize": 10, "axes.labelcolor": "#333333",
    "xtick.labelsize": 9, "ytick.labelsize": 9, "xtick.color": "#555555", "ytick.color": "#555555",
    "legend.fontsize": 9, "legend.frameon": False, "font.family": "DejaVu Sans",
}  # fmt: skip

MEASURES = {
    "DT": ("dispersion across time", "←"), "SRT": ("short-term risk", "→"), "LRT": ("long-term risk", "←"),
    "max drawdown": ("largest loss of the best", "←"), "DR": ("dispersion across runs", "←"),
    "RR": ("risk across runs", "→"), "DF": ("dispersion of a policy", "←"), "RF": ("risk of a policy", "→"),
}  # fmt: skip
"""Measures of reliability: what they are, and which way is better."""


@dataclass(frozen=True)
class Look:
    """How a variant is drawn; the marker and the dashes say the same as the colour."""

    colour: str
    marker: str
    dashes: str | tuple = "-"


Looks = Mapping[str, Look]


def looks_of(variants: Sequence[str]) -> dict[str, Look]:
    """One look a variant. Groups such as `baseline, before` and `baseline, after` share a hue: the later are darker, and
    dashed."""
    families: dict[str, list[str]] = {}
    for variant in sorted(dict.fromkeys(variants)):
        families.setdefault(variant.split(", ")[0], []).append(variant)
    if len(families) == 1 and len(variants) > 2:  # only one: its groups are told apart by colour
        families = {variant: [variant] for variant in sorted(variants)}
    found = {}
    for members, i in zip(families.values(), _places(list(families)), strict=True):
        for k, member in enumerate(members):
            dashes = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)), (0, (5, 1, 1, 1)))[k % 4]
            darker = 0.35 * k / max(1, len(members) - 1)
            found[member] = Look(_mix(PALETTE[i], -darker), MARKERS[(i + 3 * k) % len(MARKERS)], dashes)
    return found


def _places(names: Sequence[str]) -> list[int]:
    """Of each name in the palette: that of its hash, so that it has the same colour in every report, unless another one has
    taken it; then the next that is free."""
    taken: list[int] = []
    for name in names:
        wanted = int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(PALETTE)
        around = [(wanted + i) % len(PALETTE) for i in range(len(PALETTE))]
        taken.append(next((i for i in around if i not in taken), wanted))
    return taken


def _mix(colour: str, white: float) -> str:
    """With so much white in it; with black if that is negative."""
    towards = float(white > 0)
    return "#" + "".join(f"{round(255 * (c + (towards - c) * abs(white))):02x}" for c in to_rgb(colour))


# Figures


def canvas(columns: int = 1, rows: int = 1, *, width: float = 8.0, height: float = 4.2) -> tuple[Figure, list[Axes]]:
    """A figure of so many Axes, inches in all; not one of pyplot's, so that nothing is kept behind one's back."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.08, w_pad=0.08)
        return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False)))


TOGETHER = 4
"""The most groups that are drawn over each other."""


def by_env(draw: Callable[..., Axes], *tables: pd.DataFrame, height: float = 4.2, apart: bool = False, **more) -> Figure:
    """`draw(*tables, ax)` once an environment, one below the other, each with the rows of its own.

    Of the other arguments one that is a function is given the environment. With `apart`, more than TOGETHER groups have
    a panel each, on the same scales.
    """
    envs = sorted({env for table in tables if "env" in table for env in table["env"]}) or [""]
    of_env = {env: [table[table["env"] == env] if "env" in table else table for table in tables] for env in envs}
    given = {env: {name: x(env) if callable(x) else x for name, x in more.items()} for env in envs}
    if apart and max(len(_names(*of_env[env])) for env in envs) > TOGETHER:
        figure = _panels(draw, of_env, given)
        if any(ax.axison for ax in figure.axes):  # or there is nothing to show in any
            return figure
    figure, axes = canvas(rows=len(envs), height=height * len(envs))
    with matplotlib.rc_context(STYLE):
        for env, ax in zip(envs, axes, strict=True):
            if len(envs) > 1:
                ax.set_title(env, loc="right", fontsize=10, color=GREY)
            draw(*of_env[env], ax, **given[env])
    return figure


def _panels(
    draw: Callable[..., Axes], of_env: Mapping[str, Sequence[pd.DataFrame]], given: Mapping[str, dict], columns: int = 4
) -> Figure:
    """Small multiples: a panel a group, with its colour, its name above it, and one caption under all."""
    rows = {env: -(-len(_names(*tables)) // columns) for env, tables in of_env.items()}
    figure, axes = canvas(columns, sum(rows.values()), width=9.5, height=2.4 * sum(rows.values()) + 0.9)
    title = caption = ""
    with matplotlib.rc_context(STYLE | {"xtick.labelsize": 8, "ytick.labelsize": 8, "axes.labelsize": 9}):
        for env, tables in of_env.items():
            of_this, axes = axes[: columns * rows[env]], axes[columns * rows[env] :]
            names = _names(*tables)
            for ax, name in zip(of_this, names, strict=False):
                its = (table[table["variant"] == name] if "variant" in table else table for table in tables)
                draw(*its, ax, **given[env])
                title, caption = title or ax.get_title(loc="left"), take_caption(ax) or caption
                _as_panel(ax, name if len(of_env) == 1 else f"{name} · {env}", given[env]["looks"][name].colour)
            drawn, empty = of_this[: len(names)], of_this[len(names) :]
            _same_scales([ax for ax in drawn if ax.axison])
            for i, ax in enumerate(drawn):
                ax.tick_params(labelleft=i % columns == 0)
                ax.yaxis.label.set_visible(i % columns == 0)
                ax.xaxis.label.set_visible(i + columns >= len(drawn))
            for ax in empty:
                ax.set_axis_off()
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    caption_below(figure, caption)
    return figure


def _as_panel(ax: Axes, name: str, colour: str) -> None:
    """Without what all panels have in common; the group's own part of the legend is in the title."""
    _remove(ax, "at risk")  # too narrow for them, and they are in the table `survival`
    legend = ax.get_legend()
    said = [label.get_text() for label in legend.get_texts()] if legend else []
    if legend:
        legend.remove()
    more = said[0].removeprefix(name.split(" · ")[0]).strip(" :,") if said else ""
    broken = name.replace(", ", ",\n")
    ax.set_title(f"{broken}\n{more}".strip(), loc="left", pad=4, fontsize=9, fontweight="bold", color=colour)
    ax.xaxis.set_major_locator(MaxNLocator(3))


def _same_scales(axes: Sequence[Axes]) -> None:
    if axes:
        x, y = (np.array([ends(ax) for ax in axes]) for ends in (Axes.get_xlim, Axes.get_ylim))
        for ax in axes:
            ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))


def headline(ax: Axes, title: str, handles: Sequence[Line2D] = ()) -> None:
    """The title, and between it and the data the legend."""
    lengths = [len(str(handle.get_label())) + 7 for handle in handles]
    columns = len(handles) if sum(lengths) <= _width(ax) else int(_width(ax) / max(lengths))
    columns = max(1, columns)
    lines = -(-len(handles) // columns)
    handles = [handle for column in range(columns) for handle in handles[column::columns]]  # read along the lines
    ax.set_title(title, loc="left", pad=6 + 15 * lines, fontsize=12, fontweight="bold")
    if handles:
        ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=columns, frameon=False,
                  fontsize=9, borderaxespad=0.2, handlelength=2.2, columnspacing=1.4, labelspacing=0.3)  # fmt: skip


def _width(ax: Axes) -> float:
    """About how many characters of 9 points fit across."""
    return ax.figure.get_figwidth() / ax.get_subplotspec().get_gridspec().ncols * 12


def _caption(ax: Axes, said: str, below: float = 34) -> None:
    """Under the axis label, so many points below the axis."""
    wrapped = textwrap.fill(said, int(_width(ax)))
    ax.annotate(wrapped, (0, 0), (0, -below), xycoords="axes fraction", textcoords="offset points", va="top",
                ha="left", fontsize=9, color=INK, linespacing=1.25, annotation_clip=False, gid="caption")  # fmt: skip


def caption_of(ax: Axes) -> str:
    """What stands under a plot."""
    return " ".join(" ".join(child.get_text().split()) for child in ax.texts if child.get_gid() == "caption")


def take_caption(ax: Axes) -> str:
    """The same, and it is there no longer: for a figure of several Axes that has one caption."""
    said = caption_of(ax)
    _remove(ax, "caption")
    return said


def _remove(ax: Axes, gid: str) -> None:
    for child in [child for child in ax.texts if child.get_gid() == gid]:
        child.remove()


def caption_below(figure: Figure, said: str) -> None:
    """Under all of a figure."""
    wrapped = textwrap.fill(said, int(figure.get_figwidth() * 12.5))
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


def _statistic(rows: pd.DataFrame) -> str:
    return rows["metric"].iloc[0].split(" of ")[0].replace("iqm", "IQM")


def _doubts(rows: pd.DataFrame, most: int = 2) -> str:
    """What is to be known of these numbers, as sentences; of more than `most` the others are counted."""
    said = list(dict.fromkeys(part for warning in rows["warning"] for part in warning.split("; ") if part))
    notes = "".join(f" {part[0].upper()}{part[1:]}." for part in said[:most])
    if (more := len(said) - most) > 0:
        notes += f" {more} more {'note is' if more == 1 else 'notes are'} beside the numbers in the tables."
    return notes


def nothing(ax: Axes, title: str, why: str = "nothing was measured") -> Axes:
    """The place of a plot that cannot be drawn, with the reason."""
    headline(ax, title)
    ax.set_axis_off()
    ax.text(0.5, 0.5, f"No picture: {why}.", ha="center", va="center", color=GREY, transform=ax.transAxes)
    return ax


def _steps_axis(ax: Axes, label: str = "environment steps") -> None:
    ax.set_xlabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: text.steps(x)))


def _key(look: Look, label: str, **more) -> Line2D:
    return Line2D([], [], **({"color": look.colour, "linestyle": look.dashes, "linewidth": 2, "label": label} | more))


def _names(*tables: pd.DataFrame) -> list[str]:
    return sorted({variant for table in tables for variant in table["variant"]})


# 1 and 2: curves


def learning_curves(
    aligned: pd.DataFrame, bands: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, threshold: float = np.nan,
    label: str = "return", smoothing: str = "none",
) -> Axes:  # fmt: skip
    """A thin line a seed, the statistic of `bands` (`curve_bands` of `aligned`) thick, with its interval."""
    if bands.empty:
        return nothing(ax, "Learning curves")
    looks = looks or looks_of(_names(bands))
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
        handles.append(_key(look, f"{variant} (n = {band['n_runs'].max()})"))
    if np.isfinite(threshold):
        ax.axhline(threshold, color=GREY, linewidth=1, linestyle=":")
        handles.append(Line2D([], [], color=GREY, linewidth=1, linestyle=":", label=f"threshold {threshold:g}"))
    ax.autoscale_view()
    _steps_axis(ax)
    ax.set_ylabel(label)
    ax.margins(x=0.01)
    headline(ax, "Learning curves", handles)
    _caption(
        ax,
        f"Thin: a seed. Thick: {_statistic(bands)}; band: {method_of(bands)}. Smoothing: {smoothing}.{_doubts(bands)}",
    )
    return ax


def tolerance_bands(
    bands: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, label: str = "return", smoothing: str = "none"
) -> Axes:
    """Where the runs lie, not where their middle lies; `bands` from aggregates.tolerance_bands."""
    known = bands.dropna(subset="lo")
    if known.empty:
        return nothing(ax, "Tolerance bands", "a tolerance band needs two runs")
    looks = looks or looks_of(_names(bands))
    handles = []
    for variant, band in known.groupby("variant"):
        look, x = looks[variant], band["env_steps"].to_numpy(float)
        ax.fill_between(x, band["lo"], band["hi"], color=look.colour, alpha=0.12, linewidth=0)
        for end in ("lo", "hi"):
            ax.plot(x, band[end], color=look.colour, linestyle=look.dashes, linewidth=0.9)
        ax.plot(x, band["estimate"], color=look.colour, linestyle=look.dashes, linewidth=2.2)
        sure = band["level"]
        handles.append(_key(look, f"{variant} (confidence {sure.min():.0%})"))
    _steps_axis(ax)
    ax.set_ylabel(label)
    ax.margins(x=0.01)
    headline(ax, "Tolerance bands: what a new run may do", handles)
    few, many = known["n_runs"].min(), known["n_runs"].max()
    of_n = f"{many}" if few == many else f"{few}–{many}"
    _caption(
        ax,
        "Thick: median. Between the outer lines: "
        f"{known['method'].iloc[0].removeprefix('order statistics that hold ')}, n = {of_n}, with the confidence "
        f"beside the name; pointwise order statistics, no bootstrap. Not an interval for the mean. Smoothing: {smoothing}.",
    )
    return ax


# 3, 4 and 5: scores


def final_scores(
    scores: pd.DataFrame, results: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, label: str = "final return"
) -> Axes:
    """A dot a seed and, below the dots, the statistic of `results` (`aggregate` of `scores`) with its interval."""
    if results.empty or scores["value"].isna().all():
        return nothing(ax, "Final scores")
    names = _names(results)
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
            said = f"{text.number(row.estimate)}  {text.between(row.lo, row.hi)}"
            ax.annotate(said, (1.01, i + 0.12), xycoords=("axes fraction", "data"), fontsize=8.5, color=GREY, va="center")
    ax.set_yticks(range(len(names)), [f"{name}\n(n = {_n(results, name)})" for name in names])
    ax.set_ylim(len(names) - 0.55, -0.5)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(label)
    headline(ax, "Final scores")
    _caption(ax, f"Dots: seeds. Marker and bar: {_statistic(results)}, {method_of(results)}.{_doubts(results)}")
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
    looks = looks or looks_of(_names(results))
    handles = []
    for variant, rows in results.groupby("variant"):
        look, tau = looks[variant], rows["tau"].to_numpy(float)
        ax.fill_between(tau, rows["lo"], rows["hi"], color=look.colour, alpha=0.15, linewidth=0)
        ax.plot(tau, rows["estimate"], color=look.colour, linestyle=look.dashes, linewidth=2)
        handles.append(_key(look, f"{variant} (n = {rows['n_runs'].max()})"))
    ax.set(xlabel=f"τ ({label})", ylabel="share of runs above τ", ylim=(-0.02, 1.02))
    ax.margins(x=0.01)
    headline(ax, "Performance profile", handles)
    _caption(ax, f"Higher is better at every τ. Band: {method_of(results)}.{_doubts(results)}")
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
        ax.add_patch(matplotlib.patches.Rectangle((j, i), 1, 1, facecolor=_mix(winner, 0.78) if sure else "#f4f4f4"))
        ax.plot([j + 0.5] * 2, [i + 0.55, i + 0.92], color=GREY, linewidth=1, linestyle=":")
        ends = np.clip([row.lo, row.hi], 0, 1) * 0.8 + 0.1 + j  # room for half a dot at 0 and at 1
        ax.plot(ends, [i + 0.74] * 2, color="#222222", linewidth=2.5, solid_capstyle="butt")
        ax.plot(j + 0.1 + 0.8 * row.estimate, i + 0.74, "o", color="#222222", markersize=5)
        said = text.share(row.estimate), text.between(row.lo, row.hi, text.share)
        ax.text(
            j + 0.5,
            i + 0.2,
            said[0],
            ha="center",
            va="center",
            fontsize=size + 2,
            fontweight="bold" if sure else "normal",
        )
        ax.text(j + 0.5, i + 0.42, said[1], ha="center", va="center", fontsize=size - 1, color="#444444")
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
    _caption(ax, f"{method_of(results)}. Dotted: ½. Coloured, in the winner's colour, where the interval excludes ½."
                 f"{_doubts(results)}", below=34 + 11 * lines + (2.9 * longest if slanted else 0))  # fmt: skip
    return ax


# 6: time to threshold


def time_to_threshold(
    survival: pd.DataFrame,
    ax: Axes,
    *,
    looks: Looks | None = None,
    level: float = 0.95,
    threshold: str = "the threshold",
) -> Axes:
    """Kaplan–Meier, turned over: the share of runs that got there, ticks where one was censored, numbers at risk."""
    title = f"Time to {threshold}"
    if survival.empty or not survival["events"].sum():
        return nothing(ax, title, "no run reached it")
    looks = looks or looks_of(_names(survival))
    handles, names = [], _names(survival)
    end = survival["env_steps"].max()
    for variant, rows in survival.groupby("variant"):
        look, t = looks[variant], rows["env_steps"].to_numpy(float)
        done = 1 - rows["survival"].to_numpy(float)
        ax.fill_between(t, 1 - rows["hi"], 1 - rows["lo"], step="post", color=look.colour, alpha=0.15, linewidth=0)
        ax.step(
            np.append(t, end),
            np.append(done, done[-1]),
            where="post",
            color=look.colour,
            linestyle=look.dashes,
            linewidth=2,
        )
        ax.plot(
            t[rows["censored"] > 0],
            done[rows["censored"] > 0],
            "|",
            color=look.colour,
            markersize=11,
            markeredgewidth=1.8,
        )
        handles.append(_key(look, f"{variant} (reached by {rows['events'].sum()} of {rows['at_risk'].max()})"))
    handles.append(Line2D([], [], color=GREY, marker="|", markersize=9, linestyle="", label="censored"))
    ax.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    ax.set(ylim=(-0.03, 1.03), ylabel="share of runs that reached it", xlim=(0, end * 1.02))
    _steps_axis(ax)
    ticks = [tick for tick in ax.get_xticks() if 0 <= tick <= end]
    row_height = 12
    for k, variant in enumerate(["still below:", *names]):
        look = looks.get(variant)
        below = -34 - row_height * k
        ax.annotate(variant, (0, 0), (-14, below), xycoords="axes fraction", textcoords="offset points", ha="right",
                    fontsize=8, color=look.colour if look else GREY, annotation_clip=False, gid="at risk")  # fmt: skip
        for tick in ticks if look else []:
            later = survival[(survival["variant"] == variant) & (survival["env_steps"] >= tick)]
            at_risk = later["at_risk"].max() if len(later) else 0
            ax.annotate(str(at_risk), (tick, 0), (0, below), xycoords=("data", "axes fraction"), color="#444444",
                        textcoords="offset points", ha="center", fontsize=8, annotation_clip=False, gid="at risk")  # fmt: skip
    headline(ax, title, handles)
    counts = survival[survival["env_steps"] == 0].set_index("variant")["at_risk"]
    few, many = counts.min(), counts.max()
    _caption(ax, f"Kaplan–Meier, n = {many if few == many else f'{few}–{many}'} runs a variant; band: {level:.0%} "
                 "pointwise log-log. A censored run had not got there when it ended.",
             below=34 + row_height * (len(names) + 1))  # fmt: skip
    return ax


# 7: underwater

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
    looks = looks or looks_of(_names(curves))
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
    _steps_axis(ax)
    handles = [_key(looks[name], f"{name} (n = {len(rows)})", linewidth=6) for name, rows in first.items()]
    handles += [
        Line2D([], [], linestyle="", markeredgecolor="black", label=label, **marker)
        for kind, (label, marker) in _FALLS.items()
        if kind != "falling" or (events["kind"] == kind).any()
    ]
    headline(ax, "Underwater: what each seed lost of its best", handles)
    n = f"the {len(runs)} runs that lost most; {left_out} more are in the tables" if left_out else f"all {len(runs)} runs"
    _caption(ax, f"A row a seed, hanging: max so far − now, of {label}; a full row is {text.number(deepest)}. No "
                 f"estimate, {n}.")  # fmt: skip
    return ax


# 8: reliability


def forest(results: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, names: Sequence[str] = ()) -> Axes:
    """One measure of reliability: a row a variant with its interval. `names` fixes the rows across several of these."""
    if results.empty:
        return nothing(ax, "Reliability")
    names = list(names) or _names(results)
    looks = looks or looks_of(names)
    short = _statistic(results)
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
    _caption(ax, f"{method_of(results)}.{_doubts(results)}", below=46)
    return ax


# 9 and 10: the gradient, and the run's health


def along_training(
    bands: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, title: str = "", label: str = "",
    scale: str = "linear", zero: bool = False,
) -> Axes:  # fmt: skip
    """Any metric's statistic over env steps with its interval, `bands` from curve_bands; `zero` draws the line at 0."""
    if bands.empty:
        return nothing(ax, title)
    looks = looks or looks_of(_names(bands))
    handles, crowded = [], len(_names(bands)) > TOGETHER
    for variant, band in bands.groupby("variant"):
        look, x = looks[variant], band["env_steps"].to_numpy(float)
        if not crowded:
            ax.fill_between(x, band["lo"], band["hi"], color=look.colour, alpha=0.18, linewidth=0)
        ax.plot(x, band["estimate"], color=look.colour, linestyle=look.dashes, linewidth=2)
        handles.append(_key(look, variant))
    if zero:
        ax.axhline(0, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_yscale(scale)
    _steps_axis(ax)
    ax.set_ylabel(label)
    ax.margins(x=0.01)
    headline(ax, title, handles)
    intervals = " The intervals of so many groups are not drawn." if crowded else ""
    _caption(ax, f"{_statistic(bands)} over seeds; {method_of(bands)}.{intervals}{_doubts(bands)}")
    return ax


def against_batch_size(data: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, title: str = "", label: str = "") -> Axes:
    """Gradient quality at frozen checkpoints against episodes a batch, log–log.

    `data` is a results table with the column batch_size; what is not positive cannot be drawn here and is counted.
    """
    if data.empty:
        return nothing(ax, title)
    looks = looks or looks_of(_names(data))
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
        handles.append(_key(look, variant, marker=look.marker))
    ax.set(xscale="log", yscale="log", xlabel="episodes a batch", ylabel=label)
    ax.set_xticks(sizes := np.unique(data["batch_size"]), [f"{size:g}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    if np.isfinite(floor):
        ax.set_ylim(bottom=floor)
    headline(ax, title, handles)
    hidden = int((data["estimate"] <= 0).sum())
    left_out = f" Not drawn on the log scale because not positive: {hidden}." if hidden else ""
    _caption(ax, f"{method_of(data)}.{left_out}{_doubts(data)}")
    return ax


def post_update(returns: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, title: str = "After one more update") -> Axes:
    """Share of checkpoints where the worst of the updates left no more than this part of the mode of their returns.

    `returns` is from diagnosis.post_update: a row a checkpoint.
    """
    known = returns.dropna(subset="worst")
    if known.empty:
        return nothing(ax, title)
    looks = looks or looks_of(_names(known))
    handles = []
    for variant, rows in known.groupby("variant"):
        look, x = looks[variant], np.sort(rows["worst"].to_numpy(float))
        y = np.arange(1, len(x) + 1) / len(x)
        start, end = min(0.0, x[0]), max(1.05, x[-1])
        ax.step([start, *x, end], [0, *y, 1], where="post", color=look.colour, linestyle=look.dashes, linewidth=2)
        handles.append(_key(look, f"{variant} ({rows['run_id'].nunique()} runs, {len(rows)} checkpoints)"))
    ax.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    ax.set(ylim=(-0.03, 1.03), xlabel="worst return after an update / mode", ylabel="share of checkpoints")
    headline(ax, title, handles)
    n = known["n"].unique()
    _caption(
        ax,
        f"{' or '.join(map(str, sorted(n)))} single updates from each checkpoint, each played for several "
        "episodes; further left: nearer to a cliff. Dotted: half of the mode. No estimate, every checkpoint.",
    )
    return ax


def around_collapse(aligned: pd.DataFrame, ax: Axes, *, looks: Looks | None = None, label: str = "") -> Axes:
    """One metric of every run that collapsed, at steps relative to its collapse (0); thick: the median over runs.

    `aligned` is curves on one grid of relative steps, NaN where a run has none.
    """
    if aligned.empty or aligned["value"].isna().all():
        return nothing(ax, label, "no such measurement")
    looks = looks or looks_of(_names(aligned))
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
    _steps_axis(ax, "environment steps from the collapse")
    headline(
        ax,
        label,
        [_key(looks[name], f"{name} (n = {rows['run_id'].nunique()})") for name, rows in aligned.groupby("variant")],
    )
    _caption(ax, "Thin: a run that collapsed. Thick: median over them; no interval. 0: where the collapse begins.")
    return ax
