"""The plot of times to a threshold."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.report.plots.captions import caption, headline, key, names_of, nothing, steps_axis
from analysis.report.plots.looks import GREY, Looks, looks_of


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
    looks = looks or looks_of(names_of(survival))
    handles, names = [], names_of(survival)
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
        handles.append(key(look, f"{variant} (reached by {rows['events'].sum()} of {rows['at_risk'].max()})"))
    handles.append(Line2D([], [], color=GREY, marker="|", markersize=9, linestyle="", label="censored"))
    ax.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    ax.set(ylim=(-0.03, 1.03), ylabel="share of runs that reached it", xlim=(0, end * 1.02))
    steps_axis(ax)
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
    caption(ax, f"Kaplan–Meier, n = {many if few == many else f'{few}–{many}'} runs a variant; band: {level:.0%} "
                 "pointwise log-log. A censored run had not got there when it ended.",
             below=34 + row_height * (len(names) + 1))  # fmt: skip
    return ax
