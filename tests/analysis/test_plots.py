"""Every plot on a small sweep: what is drawn, what is said under it, and the same colour for a variant everywhere."""

import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import simulated
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb

from analysis import load
from analysis.report import plots
from analysis.report.study import Question, Study
from analysis.statistics.aggregates import Bootstrap


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = simulated.sweep(tmp_path_factory.mktemp("sweep"), seeds=range(4))
    return Study(load(folder), Question(bootstrap=Bootstrap(n_boot=100), points=20))


PLOTS: dict[str, Callable[[Study, Axes, plots.Looks], Axes]] = {
    "learning curves": lambda s, ax, look: plots.learning_curves(
        s.aligned, s.bands, ax, looks=look, threshold=475, smoothing="mean of 100 episodes"
    ),
    "tolerance": lambda s, ax, look: plots.tolerance_bands(s.tolerance_bands, ax, looks=look),
    "final": lambda s, ax, look: plots.final_scores(s.scores, s.final, ax, looks=look),
    "profile": lambda s, ax, look: plots.performance_profile(s.profile, ax, looks=look),
    "matrix": lambda s, ax, look: plots.improvement_matrix(s.better, ax, looks=look),
    "time": lambda s, ax, look: plots.time_to_threshold(s.survival, ax, looks=look),
    "underwater": lambda s, ax, look: plots.underwater(s.scored, s.collapses, ax, looks=look),
    "forest": lambda s, ax, look: plots.forest(_measure(s, "LRT"), ax, looks=look),
    "gradient": lambda s, ax, look: plots.along_training(s.bands_of("grad_variance"), ax, looks=look, scale="log"),
    "collapse": lambda s, ax, look: plots.around_collapse(s.around_collapse("entropy"), ax, looks=look),
    "batch size": lambda s, ax, look: plots.against_batch_size(_cosines(), ax, looks=look),
}


def _measure(study: Study, name: str) -> pd.DataFrame:
    return study.reliability[study.reliability["metric"].str.startswith(name)]


def _cosines() -> pd.DataFrame:
    rows = [
        {"variant": v, "batch_size": b, "estimate": x, "lo": x / 2, "hi": x * 2, "level": 0.95, "method": "m",
         "n_runs": 4, "n_boot": 100, "warning": ""}
        for v, x in (("vanilla", -0.1), ("baseline", 0.4))
        for b in (1, 10)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def drawn(study: Study, name: str, looks: plots.Looks | None = None) -> Axes:
    _, (ax,) = plots.canvas()
    assert PLOTS[name](study, ax, looks or plots.looks_of(study.variants)) is ax
    return ax


@pytest.mark.parametrize("name", PLOTS)
def test_says_what_it_shows(study: Study, name: str):
    ax = drawn(study, name)
    assert ax.get_title(loc="left") or name in ("gradient", "batch size", "collapse")
    assert ax.lines or ax.collections or ax.patches
    caption = plots.caption_of(ax)
    assert "n = 4" in caption or name in ("underwater", "collapse") and "runs" in caption + "runs"
    assert "95% interval" in caption or name in ("tolerance", "underwater", "collapse", "time", "batch size")
    estimated = name not in ("tolerance", "underwater", "collapse", "time", "batch size", "matrix")
    assert not estimated or "100 resamples" in caption and "95% interval" in caption
    ax.figure.canvas.draw()
    if legend := ax.get_legend():  # above the data, never on them
        assert legend.get_window_extent().y0 >= ax.get_window_extent().y1 - 1


@pytest.mark.parametrize("name", [name for name in PLOTS if name != "matrix"])
def test_a_variant_has_its_colour(study: Study, name: str):
    """With all variants, and in a table that has but some of them."""
    looks = plots.looks_of(study.variants)
    ax = drawn(study, name)
    lines = {to_hex(line.get_color()) for line in ax.lines}
    areas = {to_hex(c) for area in ax.collections for c in [*area.get_facecolor(), *area.get_edgecolor()]}
    shown = (lines | areas) & {look.colour for look in looks.values()}
    there = {"batch size": {"baseline", "vanilla"}, "collapse": set(study.around_collapse("entropy")["variant"])}
    assert shown == {looks[variant].colour for variant in there.get(name, study.variants)}


VARIANTS = ("reward_to_go", "vanilla", "baseline", "gae", "leave_one_out")


def test_looks():
    alone = plots.looks_of(["baseline"])
    assert alone["baseline"].colour == plots.looks_of(["vanilla", "mine", "baseline"])["baseline"].colour
    assert plots.looks_of(["b", "a"]) == plots.looks_of(["a", "b"])
    many = plots.looks_of([*VARIANTS, "mine", "yours"])
    assert len({look.colour for look in many.values()}) == 7 == len({look.marker for look in many.values()})
    two = plots.looks_of(["baseline, after", "baseline, before", "vanilla, after"])
    assert two["baseline, after"].colour == alone["baseline"].colour  # one hue, told apart by dashes and shade
    assert len({(two[f"baseline, {x}"].dashes, two[f"baseline, {x}"].colour) for x in ("after", "before")}) == 2
    rates = plots.looks_of(["baseline, 0.1", "baseline, 0.2", "baseline, 0.3"])
    assert len({look.colour for look in rates.values()}) == 3
    assert len(plots.looks_of([f"v{i}" for i in range(25)])) == 25


def test_colours_are_apart_and_dark_enough():
    """leave_one_out and reward_to_go were both blue, and a second setting was pale blue on white."""

    def lab(colour: str) -> np.ndarray:
        rgb = np.array(to_rgb(colour))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
        x, y, z = np.cbrt(to_xyz @ linear / [0.9505, 1, 1.089])
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    names = [*VARIANTS, "mine", "yours", "theirs", "ours", "whose"]
    found = [lab(look.colour) for look in plots.looks_of(names).values()]
    assert min(np.linalg.norm(a - b) for i, a in enumerate(found) for b in found[:i]) > 20
    settings = [f"{name}, learning_rate {x}" for name in VARIANTS for x in (0.001, 0.01)]
    looks = plots.looks_of(settings)
    assert max(lab(look.colour)[0] for look in looks.values()) < 70, "legible on white"
    assert all(looks[a].colour != looks[b].colour for a, b in zip(settings[::2], settings[1::2], strict=True))


def overlaps(labels: list) -> list[str]:
    boxes = [label.get_window_extent().padded(-1) for label in labels]
    return [f"{labels[i].get_text()} / {labels[j].get_text()}" for i, a in enumerate(boxes) for j, b in enumerate(boxes[:i])
            if labels[i].get_rotation() == 0 and a.overlaps(b)]  # fmt: skip


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Study:
    folder = tmp_path_factory.mktemp("many")
    for rate in (0.001, 0.01):
        more = {"config": {"optimiser": {"learning_rate": rate}}}
        names = ("baseline", "leave_one_out", "reward_to_go")
        simulated.sweep(folder / str(rate), {name: (1.2, 0) for name in names}, range(3), points=20, **more)
    return Study(load(folder), Question(bootstrap=Bootstrap(n_boot=30), points=12))


@pytest.mark.parametrize("name", ["learning_curves", "performance_profile", "tolerance_bands", "time_to_threshold"])
def test_more_than_four_groups_have_a_panel_each(many: Study, name: str):
    tables = {
        "learning_curves": (many.aligned, many.bands), "performance_profile": (many.profile,),
        "tolerance_bands": (many.tolerance_bands,), "time_to_threshold": (many.survival,),
    }[name]  # fmt: skip
    looks = plots.looks_of(many.variants)
    figure = plots.by_env(getattr(plots, name), *tables, looks=looks, apart=True)
    shown = [ax for ax in figure.axes if ax.get_title(loc="left")]
    titles = [ax.get_title(loc="left").replace("\n", " ") for ax in shown]
    assert [title.split(" (")[0] for title in titles] == many.variants
    assert "baseline, learning_rate 0.001" in titles[0] and figure.get_suptitle() and "n = 3" in figure.get_supxlabel()
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in shown if ax.axison}) == 1 and not any(ax.get_legend() for ax in shown)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, of panels without room
        figure.draw_without_rendering()
    for ax in shown:
        edge = ax.get_window_extent()
        right = [b.get_window_extent().x0 for b in shown if b.get_window_extent().x0 > edge.x1]
        title = [child for child in ax.get_children() if getattr(child, "get_text", str)() == ax.get_title(loc="left")][-1]
        assert not right or title.get_window_extent().x1 < min(right), titles


def test_panels_that_would_all_be_empty_are_one(many: Study):
    never = many.survival.assign(events=0)
    figure = plots.by_env(plots.time_to_threshold, never, looks=plots.looks_of(many.variants), apart=True)
    assert [child.get_text() for ax in figure.axes for child in ax.texts] == ["No picture: no run reached it."]


def test_the_labels_of_a_large_matrix_do_not_touch(many: Study):
    """ "leave_one_out,leave_one_out, reward_to_go,…", and dots at 0 and 1 were cut in half by the cell's edge."""
    _, (ax,) = plots.canvas(height=7)
    plots.improvement_matrix(many.better, ax, looks=plots.looks_of(many.variants))
    ax.figure.draw_without_rendering()
    assert not overlaps(ax.get_xticklabels()) and not overlaps(ax.get_yticklabels())
    dots = [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "o"]
    assert len(dots) == 30 and all(0.08 < x % 1 < 0.92 for x in dots)


def test_learning_curves_draw_what_was_computed(study: Study):
    ax = drawn(study, "learning curves")
    thick = {to_hex(line.get_color()): line for line in ax.lines if line.get_linewidth() > 2}
    for variant, look in plots.looks_of(study.variants).items():
        band = study.bands[study.bands["variant"] == variant]
        np.testing.assert_array_equal(thick[look.colour].get_ydata(), band["estimate"])
    seeds = [area for area in ax.collections if isinstance(area, matplotlib.collections.LineCollection)]
    assert [len(lines.get_segments()) for lines in seeds] == [4, 4, 4]
    assert [handle.get_text() for handle in ax.get_legend().get_texts()][-1] == "threshold 475"
    caption = plots.caption_of(ax)
    assert "IQM" in caption and "Smoothing: mean of 100 episodes" in caption and "4 runs: a nominal 95%" not in caption[:50]


def test_time_to_threshold_shows_numbers_at_risk(study: Study):
    ax = drawn(study, "time")
    said = [child.get_text() for child in ax.texts]
    assert "still below:" in said and said.count("4") >= 3 and set(study.variants) <= set(said)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    reached = study.medians.set_index("variant")["reached"]
    assert f"baseline (reached by {reached['baseline']} of 4)" in labels and labels[-1] == "censored"
    assert any(line.get_marker() == "|" and len(line.get_xdata()) for line in ax.lines)


def test_matrix_has_the_half_line_and_every_interval(study: Study):
    ax = drawn(study, "matrix")
    said = [child.get_text() for child in ax.texts]
    row = study.better[(study.better["a"] == "baseline") & (study.better["b"] == "vanilla")].iloc[0]
    assert f"{row['estimate']:.2f}".removeprefix("0") in said or row["estimate"] == 1
    assert sum(text.startswith("[") for text in said) == 6
    assert sum(line.get_linestyle() == ":" for line in ax.lines) == 6


def test_underwater_marks_events(study: Study):
    crosses = [line for line in drawn(study, "underwater").lines if line.get_marker() in ("X", "v", ">")]
    assert len(crosses) == len(study.collapses) > 0


def test_batch_sizes_count_what_a_log_scale_cannot_show():
    _, (ax,) = plots.canvas()
    plots.against_batch_size(_cosines(), ax, title="t")
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert "because not positive: 2." in plots.caption_of(ax)


@pytest.mark.parametrize("name", [name for name in PLOTS if name != "batch size"])
def test_nothing_to_draw_is_said(tmp_path: Path, name: str):
    simulated.run(tmp_path / "r", "baseline", 0, 1.0, 0.0, 3, 1000)
    (tmp_path / "r" / "metrics.csv").unlink()
    ax = drawn(Study(load(tmp_path)), name)
    assert [child.get_text() for child in ax.texts][0].startswith("No picture: ")


def test_environments_are_drawn_apart(study: Study):
    both = pd.concat([study.bands, study.bands.assign(env="Acrobot-v1")])
    aligned = pd.concat([study.aligned, study.aligned.assign(env="Acrobot-v1")])
    figure = plots.by_env(plots.learning_curves, aligned, both, threshold=lambda env: {"Acrobot-v1": -100}.get(env, 475))
    assert [ax.get_title(loc="right") for ax in figure.axes] == ["Acrobot-v1", "CartPole-v1"]
    assert [ax.get_legend().get_texts()[-1].get_text() for ax in figure.axes] == ["threshold -100", "threshold 475"]
