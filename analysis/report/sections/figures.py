"""Figures of several Axes."""

from collections.abc import Callable, Mapping
from functools import partial

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from analysis import text
from analysis.report import plots
from analysis.report.study import Study


def high(study: Study, inches: float, of_variant: float) -> float:
    """Inches of a plot that grows with the number of variants."""
    return inches + of_variant * len(study.shown)


def forests(study: Study, looks: plots.Looks) -> Figure:
    rows = study.few(study.reliability)
    groups = list(rows.groupby(["env", "metric"], sort=False))
    if not groups:
        figure, axes = plots.canvas()
        plots.nothing(axes[0], "Reliability")
        return figure
    high = -(-len(groups) // 3)
    figure, axes = plots.canvas(3, high, height=high * (1.5 + 0.32 * len(study.shown)) + 0.4)
    names = [name for name in study.shown if name in set(rows["variant"])]
    for i, (ax, ((env, _), group)) in enumerate(zip(axes, groups, strict=False)):
        plots.take_caption(plots.forest(group, ax, looks=looks, names=names))
        if i % 3:
            ax.set_yticklabels([])
        if len(study.envs) > 1:
            ax.set_title(f"{ax.get_title(loc='left')} · {env}", loc="left")
    for ax in axes[len(groups) :]:
        ax.set_axis_off()
    sentences = []
    for _, same in rows.groupby("method", sort=False):
        measures = [metric.split(" of ")[0] for metric in same["metric"].unique()]
        sentences.append(f"{text.listed(measures)}: {plots.method_of(same)}.")
    plots.caption_below(figure, " ".join(sentences))
    return figure


def underwater(study: Study, looks: plots.Looks, most: int = 100) -> Figure:
    """The runs that lost most, as many of each group."""
    loss = study.within[study.within["metric"].str.startswith("max drawdown")].set_index("run_id")["estimate"]
    runs = study.few(study.runs)
    each = max(1, most // max(1, len(study.shown)))
    ranked = runs.assign(loss=runs["run_id"].map(loss).fillna(-np.inf)).sort_values("loss", ascending=False, kind="stable")
    chosen = set(ranked.groupby(["variant", "env"]).head(each)["run_id"])
    curves = study.scored[study.scored["run_id"].isin(chosen)]
    env_rows = curves.groupby("env")["run_id"].nunique().max() if len(curves) else 0
    with_curve = set(study.scored["run_id"])
    return plots.by_env(
        plots.underwater, curves, study.collapses, looks=looks, label=study.question.score,
        height=2.2 + (0.24 if env_rows <= 40 else 0.14) * env_rows,
        left_out=lambda env: len(with_curve & set(study.runs.loc[study.runs["env"] == env, "run_id"]) - chosen),
    )  # fmt: skip


def health(study: Study, looks: plots.Looks, metrics: Mapping[str, str]) -> Figure:
    """The health of runs around their collapse."""
    curves = {label: study.few(study.around_collapse(metric)) for metric, label in metrics.items()}
    curves = {label: aligned for label, aligned in curves.items() if aligned["value"].notna().any()}
    if not curves:
        figure, axes = plots.canvas(height=1.6)
        unknown = [f"{env}: {way.undetermined}" for env, way in study.ways.items() if way.undetermined]
        plots.nothing(axes[0], "Around a collapse", "; ".join(unknown) or "no run collapsed")
        return figure
    rows = -(-len(curves) // 2)
    figure, axes = plots.canvas(2, rows, width=9, height=3.5 * rows)
    draws = [partial(plots.around_collapse, aligned, looks=looks, label=label) for label, aligned in curves.items()]
    _each(axes, draws)
    return figure


def gradient(study: Study, looks: plots.Looks) -> Figure:
    figure, axes = plots.canvas(2, len(study.envs), width=9, height=3.7 * len(study.envs))
    variance, signal = (study.few(study.bands_of(name)) for name in ("grad_variance", "grad_snr"))
    draws = []
    for env in study.envs:
        name = f" · {env}" if len(study.envs) > 1 else ""
        for bands, title, more in (
            (variance, "Variance: tr Σ of an episode's gradient", {"scale": "log"}),
            (signal, "Signal to noise: ‖G‖² / tr Σ", {"zero": True}),
        ):
            of_env = bands[bands["env"] == env]
            draws.append(partial(plots.along_training, of_env, looks=looks, title=title + name, **more))
    _each(axes, draws)
    return figure


def estimators(study: Study) -> Figure:
    """Plot 9: two in a row; the last one where the environment's dynamics are differentiable."""
    labels = {"variance": ("Variance", "tr Σ"), "snr": ("Signal to noise", "‖G‖² / tr Σ"),
              "cosine": ("Do two batches agree?", "mean cosine"),
              "cosine_reference": ("Is it the right way?", "mean cosine with the reference"),
              "cosine_pathwise": ("The way through the dynamics?", "mean cosine with pathwise")}  # fmt: skip
    rows = study.estimators
    envs = sorted(rows["env"].unique())
    looks = plots.looks_of(rows["variant"].unique())
    draws = []
    for env in envs:
        name = f" · {env}" if len(envs) > 1 else ""
        for quantity, (title, label) in labels.items():
            of_env = rows[(rows["env"] == env) & (rows["metric"] == f"iqm of {quantity}")]
            if len(of_env) or quantity != "cosine_pathwise":
                draws.append(partial(plots.against_batch_size, of_env, looks=looks, title=title + name, label=label))
    lines = -(-len(draws) // 2)
    figure, axes = plots.canvas(2, lines, width=10.4, height=4.6 * lines)
    _each(axes, draws)
    return figure


def after_updates(study: Study, looks: plots.Looks) -> Figure:
    return plots.by_env(plots.post_update, study.few(study.post_update), looks=looks, height=3.8)


def _each(axes: list, draws: list[Callable]) -> None:
    with matplotlib.rc_context(plots.STYLE):
        for ax, draw in zip(axes, draws, strict=False):
            draw(ax)
        for ax in axes[len(draws) :]:
            ax.set_axis_off()
