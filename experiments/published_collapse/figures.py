"""The study's pictures: tables in, a figure out, in the style of the stability report."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import align
from analysis.report import plots
from analysis.statistics.aggregates import curve_bands
from experiments.published_collapse.outcomes import DEAD_RETURN, DEAD_SHARE, HEALTH, POINT, curve

BLUE, RED, GREY = plots.PALETTE[0], plots.PALETTE[3], plots.GREY


def every_seed(frame: pd.DataFrame, runs: pd.DataFrame, columns: int = 5) -> Figure:
    """A small picture a seed: the return over episodes, red where the policy is dead, falls after 380 marked."""
    seeds = sorted(frame["seed"].unique())
    rows = -(-len(seeds) // columns)
    figure, axes = plots.canvas(columns, rows, width=11, height=1.55 * rows + 0.7)
    with matplotlib.rc_context(plots.STYLE):
        for ax, seed in zip(axes, seeds, strict=False):
            run = frame[frame["seed"] == seed]
            x, y = run["episodes"].to_numpy() / 1000, run["return_mean"].to_numpy()
            dead = (y < DEAD_RETURN) & (run["action_share"].to_numpy() > DEAD_SHARE)
            lines = np.stack([np.column_stack([x[:-1], y[:-1]]), np.column_stack([x[1:], y[1:]])], axis=1)
            ax.add_collection(LineCollection(lines, colors=np.where(dead[1:], RED, BLUE), linewidths=1.0))
            ax.axhline(380, color=GREY, linewidth=0.7, linestyle=":")
            about = runs[runs["seed"] == seed].iloc[0]
            said = (
                f"{about['collapses']} collapse{'s' if about['collapses'] != 1 else ''}" if about["reached"] else "never at 380"
            )
            ax.set_title(f"seed {seed}: {said}{', dead' if about['dead'] else ''}", fontsize=8.5, fontweight="normal", pad=3)
            ax.set(xlim=(0, x.max()), ylim=(0, 510), yticks=(0, 250, 500))
            ax.label_outer()
        for ax in axes[len(seeds) :]:
            ax.set_axis_off()
        for ax in axes[len(seeds) - columns : len(seeds)]:
            ax.set_xlabel("thousand episodes", fontsize=8.5)
        plots.caption_below(
            figure,
            f"Post 1 as published: the return, mean of {POINT} episodes. Red: below {DEAD_RETURN:g} with one action in "
            f"more than {DEAD_SHARE:.0%} of the steps. Dotted: 380, 80 % of the threshold; a collapse is a fall from "
            "above it to less than half of the best, for 300 episodes or more.",
        )
    return figure


def around(frame: pd.DataFrame, events: dict[str, dict[str, float]], reach: int = 3000) -> Figure:
    """Return, entropy, KL and share of one action around events, in episodes from them; `events`: name → {run: episode}."""
    grid = np.arange(-reach, reach + 1, POINT)
    figure, axes = plots.canvas(2, 2, width=10, height=6.6)
    looks = {name: plots.Look(colour, "o") for name, colour in zip(events, (BLUE, RED), strict=False)}
    with matplotlib.rc_context(plots.STYLE):
        for ax, (metric, label) in zip(axes, HEALTH.items(), strict=True):
            parts = []
            for name, start in events.items():
                some = align.relative_to(curve(frame, metric, "episodes"), start)
                parts.append(align.align(some, grid).assign(variant=name))
            plots.take_caption(plots.around_collapse(pd.concat(parts), ax, looks=looks, label=label))
            ax.set_xlabel("episodes from the event")
            if metric == "kl":
                ax.set_yscale("log")
                ax.set_ylim(1e-7, None)
        plots.caption_below(
            figure, f"Thin: a run. Thick: median over runs. 0: where the fall begins; or, in runs that end dead, where the return stays below {DEAD_RETURN:g} for good. Means of "
            f"{POINT} episodes."
        )  # fmt: skip
    return figure


def forest(rows: pd.DataFrame, panels: dict[str, str], colours: dict[str, str]) -> Figure:
    """A row an intervention, a panel a measure (`panels`: metric → what stands above it), a colour a part."""
    names = list(dict.fromkeys(zip(rows["part"], rows["variant"], strict=True)))
    figure, axes = plots.canvas(len(panels), 1, width=12, height=0.235 * len(names) + 1.4)
    with matplotlib.rc_context(plots.STYLE):
        for k, (ax, (metric, label)) in enumerate(zip(axes, panels.items(), strict=True)):
            of_metric = rows[rows["metric"] == metric].set_index(["part", "variant"])
            for i, key in enumerate(names):
                if key not in of_metric.index:
                    continue
                row, colour = of_metric.loc[key], colours[key[0]]
                ax.plot([row["lo"], row["hi"]], [i, i], color=colour, linewidth=2.4, alpha=0.6, solid_capstyle="butt")
                ax.plot(row["estimate"], i, "o", color=colour, markersize=4.5)
            ax.set_yticks(range(len(names)), [name for _, name in names] if k == 0 else [""] * len(names), fontsize=8)
            ax.set_ylim(len(names) - 0.4, -0.6)
            ax.set_title(label, fontsize=9.5, fontweight="normal")
            ax.set_xlim((-0.03, 1.03) if metric.startswith("share") else (0, 510))
            for i in range(1, len(names)):
                if names[i][0] != names[i - 1][0]:
                    ax.axhline(i - 0.5, color="#bbbbbb", linewidth=0.8)
        handles = [Line2D([], [], color=c, marker="o", label=part) for part, c in colours.items() if part in set(rows["part"])]
        axes[0].figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=9)
        shares = rows[rows["metric"].str.startswith("share")]
        others = rows[~rows["metric"].str.startswith("share")]
        plots.caption_below(figure, f"Shares: n = {shares['n_runs'].min()}–{shares['n_runs'].max()}, Wilson's 95 % interval. "
                            f"Returns: IQM; {plots.method_of(others)}.")  # fmt: skip
    return figure


def beside(frames: dict[str, pd.DataFrame], stop: int) -> Figure:
    """Learning curves of several programs over the same env steps."""
    parts = [curve(frame, "return_mean").assign(variant=name) for name, frame in frames.items()]
    curves = pd.concat([part.assign(run_id=part["variant"] + "/" + part["run_id"]) for part in parts])
    aligned = align.align(curves, align.grid(curves, 60, stop))
    figure, (ax,) = plots.canvas(width=9, height=5)
    with matplotlib.rc_context(plots.STYLE):
        bands = curve_bands(aligned, "return")
        plots.learning_curves(aligned, bands, ax, threshold=475, smoothing=f"means of {POINT} episodes")
        ax.set_ylim(0, 510)
    return figure


def estimator(rows: pd.DataFrame, walks: Sequence[str]) -> Figure:
    """SNR and cosine of every form, a colour a checkpoint; what cannot be told from 0 has a hollow marker."""
    rows = rows[~rows["variant"].isin(walks)]
    names = list(dict.fromkeys(rows["variant"]))
    checkpoints = list(dict.fromkeys(rows["checkpoint"]))
    figure, axes = plots.canvas(2, 1, width=11, height=0.32 * len(names) + 1.8)
    panels = {"SNR": "signal to noise of one episode", "cosine": "cosine of E[g] with the policy gradient"}
    with matplotlib.rc_context(plots.STYLE):
        for k, (ax, (kind, label)) in enumerate(zip(axes, panels.items(), strict=True)):
            for j, checkpoint in enumerate(checkpoints):
                colour = plots.PALETTE[(0, 1, 2, 4, 7)[j]]
                of = rows[rows["checkpoint"] == checkpoint].set_index(["variant", "metric"])
                for i, name in enumerate(names):
                    at = i + 0.16 * (j - (len(checkpoints) - 1) / 2)
                    snr, cosine = of.loc[(name, "SNR")], of.loc[(name, "cosine with the policy gradient")]
                    clear = snr["lo"] > 0
                    if kind == "SNR":
                        ax.plot(
                            [max(snr["lo"], 1e-6), max(snr["hi"], 1e-6)],
                            [at, at],
                            color=colour,
                            linewidth=1.6,
                            alpha=0.6,
                        )
                        ax.plot(
                            max(snr["estimate"], 1e-6),
                            at,
                            "o",
                            color=colour,
                            markersize=4.5,
                            markerfacecolor=colour if clear else "white",
                        )
                    elif clear:
                        ax.plot([cosine["lo"], cosine["hi"]], [at, at], color=colour, linewidth=1.6, alpha=0.6)
                        ax.plot(cosine["estimate"], at, "o", color=colour, markersize=4.5)
            ax.set_yticks(range(len(names)), names if k == 0 else [""] * len(names), fontsize=8.5)
            ax.set_ylim(len(names) - 0.4, -0.6)
            ax.set_title(label, fontsize=10, fontweight="normal")
            if kind == "SNR":
                ax.set_xscale("log")
                ax.set_xlim(8e-7, None)
            else:
                ax.set_xlim(-1.08, 1.08)
                ax.axvline(0, color=GREY, linewidth=0.8, linestyle=":")
        handles = [
            Line2D([], [], color=plots.PALETTE[(0, 1, 2, 4, 7)[j]], marker="o", label=c) for j, c in enumerate(checkpoints)
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=8.5)
        plots.caption_below(figure, "Bars: ± 1.96 jackknife standard errors. Hollow: not told from 0 (then there is no "
                            "cosine); at the left edge: estimates ≤ 10⁻⁶.")  # fmt: skip
    return figure
