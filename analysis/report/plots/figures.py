"""Figures of one or several Axes: one below the other for several environments, small multiples for many groups."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.report.plots.captions import caption_below, names_of, remove, take_caption
from analysis.report.plots.looks import GREY, STYLE


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
    if apart and max(len(names_of(*of_env[env])) for env in envs) > TOGETHER:
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
    rows = {env: -(-len(names_of(*tables)) // columns) for env, tables in of_env.items()}
    figure, axes = canvas(columns, sum(rows.values()), width=9.5, height=2.4 * sum(rows.values()) + 0.9)
    title = caption = ""
    with matplotlib.rc_context(STYLE | {"xtick.labelsize": 8, "ytick.labelsize": 8, "axes.labelsize": 9}):
        for env, tables in of_env.items():
            of_this, axes = axes[: columns * rows[env]], axes[columns * rows[env] :]
            names = names_of(*tables)
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
    remove(ax, "at risk")  # too narrow for them, and they are in the table `survival`
    legend = ax.get_legend()
    labels = [label.get_text() for label in legend.get_texts()] if legend else []
    if legend:
        legend.remove()
    more = labels[0].removeprefix(name.split(" · ")[0]).strip(" :,") if labels else ""
    broken = name.replace(", ", ",\n")
    ax.set_title(f"{broken}\n{more}".strip(), loc="left", pad=4, fontsize=9, fontweight="bold", color=colour)
    ax.xaxis.set_major_locator(MaxNLocator(3))


def _same_scales(axes: Sequence[Axes]) -> None:
    if axes:
        x, y = (np.array([ends(ax) for ax in axes]) for ends in (Axes.get_xlim, Axes.get_ylim))
        for ax in axes:
            ax.set(xlim=(x.min(), x.max()), ylim=(y.min(), y.max()))
