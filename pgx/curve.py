"""learning_curve.png: what a person looks at first."""

from pathlib import Path
from typing import Any


def warm_up() -> None:
    """Import what `draw` needs: half a second, better spent while XLA compiles."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401


def draw(rows: list[dict[str, Any]], title: str, threshold: float | None, path: Path) -> None:
    """Return against environment steps: each batch's mean and range, and the mean of the last 100 episodes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no global state, and half the import

    column = {name: [row[name] for row in rows] for name in ("env_steps", "return_mean", "return_min", "return_max")}
    recent = [(row["env_steps"], row["return_recent"]) for row in rows if row["return_recent"] is not None]
    figure = Figure(figsize=(7, 4), dpi=110)
    FigureCanvasAgg(figure)
    # by hand: matplotlib's own layout draws everything twice
    ax = figure.subplots(gridspec_kw={"left": 0.09, "right": 0.97, "bottom": 0.12, "top": 0.86})
    ax.fill_between(column["env_steps"], column["return_min"], column["return_max"], color="#0072B2", alpha=0.15, lw=0, label="batch: min to max")
    ax.plot(column["env_steps"], column["return_mean"], color="#0072B2", alpha=0.5, lw=0.8, label="batch: mean")
    ax.plot(*zip(*recent, strict=True) if recent else ([], []), color="#D55E00", lw=2, label="last 100 episodes: mean")
    if threshold is not None:
        ax.axhline(threshold, color="0.4", lw=1, ls="--", label=f"solved: {threshold:g}")
    ax.set(xlabel="environment steps", ylabel="undiscounted return", xlim=(0, None))
    ax.set_title(title, y=1.08)  # a place of its own: matplotlib would measure all else to find one
    ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e3 else f"{x:g}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path)
