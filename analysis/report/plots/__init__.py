"""The ten plots. Each draws tables that are already computed into an `ax` and returns it; none computes a statistic.

A table is of one environment (`by_env` makes an Axes for each). Colours are seaborn's colour-blind palette and belong
to a variant: `looks_of` all variants of a report goes into every plot of it. Legends stand above the data, never on
them, and under every plot is what it shows: how many runs, which estimator, which interval, how many resamples.
"""

from analysis.report.plots.captions import caption_below, caption_of, headline, method_of, nothing, take_caption
from analysis.report.plots.curves import along_training, around_collapse, learning_curves, tolerance_bands
from analysis.report.plots.figures import by_env, canvas
from analysis.report.plots.gradients import against_batch_size, post_update
from analysis.report.plots.looks import GREY, PALETTE, STYLE, Look, Looks, looks_of
from analysis.report.plots.scores import final_scores, improvement_matrix, performance_profile
from analysis.report.plots.stability import forest, underwater
from analysis.report.plots.times import time_to_threshold

__all__ = [
    "GREY",
    "PALETTE",
    "STYLE",
    "Look",
    "Looks",
    "against_batch_size",
    "along_training",
    "around_collapse",
    "by_env",
    "canvas",
    "caption_below",
    "caption_of",
    "final_scores",
    "forest",
    "headline",
    "improvement_matrix",
    "learning_curves",
    "looks_of",
    "method_of",
    "nothing",
    "performance_profile",
    "post_update",
    "take_caption",
    "time_to_threshold",
    "tolerance_bands",
    "underwater",
]
