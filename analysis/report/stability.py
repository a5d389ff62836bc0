# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["parameters"]
SWEEPS = ["../outputs"]  # folders with runs in them
OUTPUT = None  # a folder for figures and tables; None keeps none
STUDY = None  # one that is already loaded

# %%
from pathlib import Path

from analysis import load
from analysis.report import plots, sections, verdict
from analysis.report.notebook import Markdown
from analysis.report.study import HEALTH, Study

study = STUDY or Study(load(*SWEEPS))
looks = plots.looks_of(study.variants)
show = sections.Gallery(OUTPUT and Path(OUTPUT) / "figures")
few, question = study.few, study.question
smoothing = sections.smoothing(question.score)

# %%
Markdown(sections.title(study))

# %% [markdown]
# ## Provenance

# %%
sections.shown(sections.provenance(study))

# %%
Markdown(sections.commands(study))

# %%
Markdown(sections.differences_of_config(study))

# %%
sections.shown(sections.readable_ledger(study), "No runs.")

# %%
Markdown(sections.warnings(study))

# %%
Markdown(sections.primary_endpoint(study))

# %% [markdown]
# ## Verdict
# Every sentence is made of the numbers in the tables. *Inconclusive* means that these seeds do not tell; it does not
# mean that there is no difference.

# %%
Markdown(verdict.sentences(study))

# %%
sections.shown(sections.readable_pairs(study), "No pairs to compare.")

# %% [markdown]
# ## How fast?

# %%
reached = lambda env: f"{question.score} ≥ {study.threshold(env):g}"
show(
    plots.by_env(
        plots.time_to_threshold,
        few(study.survival),
        looks=looks,
        threshold=reached,
        apart=True,
        height=sections.high(study, 3.4, 0.35),
    ),
    "time_to_threshold",
)

# %%
show(
    plots.by_env(
        plots.improvement_matrix, few(study.sooner), looks=looks, of="time to threshold", height=sections.high(study, 1.5, 0.8)
    ),
    "sooner",
)

# %%
sections.shown(sections.readable(study.medians, study.restricted, study.areas))

# %% [markdown]
# ## How well?

# %%
show(
    plots.by_env(
        plots.learning_curves,
        few(study.aligned),
        few(study.bands),
        looks=looks,
        label=question.score,
        smoothing=smoothing,
        threshold=study.threshold,
        apart=True,
    ),
    "learning_curves",
)

# %%
show(
    plots.by_env(
        plots.final_scores,
        few(study.scores),
        few(study.final),
        looks=looks,
        label=question.final,
        height=sections.high(study, 1.6, 0.75),
    ),
    "final_scores",
)

# %%
show(
    plots.by_env(plots.performance_profile, few(study.profile), looks=looks, label=question.final, apart=True),
    "performance_profile",
)

# %%
show(plots.by_env(plots.improvement_matrix, few(study.better), looks=looks, height=sections.high(study, 1.5, 0.8)), "better")

# %%
show(
    plots.by_env(
        plots.tolerance_bands, few(study.tolerance_bands), looks=looks, label=question.score, smoothing=smoothing, apart=True
    ),
    "tolerance_bands",
)

# %%
sections.shown(sections.readable(study.final, study.tolerance))

# %%
Markdown(sections.pairing(study))

# %%
sections.shown(sections.readable(study.differences, study.effects, study.correlations), "No pairs to compare.")

# %% [markdown]
# ## How stably?
# Within a run: DT, SRT, LRT and the largest drawdown; across runs: DR and RR (Chan et al. 2020). All are divided by the
# range that a run covers; DT and SRT are per env step, and RR is counted from what an untrained policy returns.

# %%
show(sections.forests(study, looks), "reliability")

# %%
show(sections.underwater(study, looks), "underwater")

# %%
sections.shown(sections.readable(study.reliability))

# %% [markdown]
# ## How do runs fail?

# %%
sections.shown(sections.outcome_counts(study))

# %%
show(sections.health(study, looks, HEALTH), "health")

# %% [markdown]
# ### The worst seeds

# %%
sections.shown(sections.worst(study), "No runs.")

# %% [markdown]
# ## The gradient
# During training, from the per-episode gradients of one batch every few updates: the policies differ, so this is no
# comparison of estimators at the same policy.

# %%
show(sections.gradient(study, looks), "gradient")

# %%
Markdown(sections.frozen(study))

# %%
frozen = len(study.estimators) > 0
show(sections.estimators(study), "estimators") if frozen else None

# %%
sections.shown(sections.readable_estimators(study)) if frozen else None

# %%
Markdown(sections.parts(study))

# %%
sections.shown(sections.readable_parts(study)) if len(study.parts_of_variance) else None

# %%
show(sections.after_updates(study, looks), "after_updates") if frozen else None

# %%
sections.shown(sections.readable_policies(study), long=40) if frozen else None

# %% [markdown]
# ## How sure are we?
# The same numbers under other choices. A verdict that changes with them is none.

# %%
sections.shown(sections.readable_sensitivity(study))

# %% [markdown]
# ## Method

# %%
Markdown(sections.method(study))
