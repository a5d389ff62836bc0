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
# %% [markdown]
# # A policy in ten lines
#
# `pgx.train` takes what one would type after `python -m pgx.run`: a variant, and settings by their names.

# %% tags=["parameters"]
UPDATES = 300  # of 10 episodes each

# %%
from matplotlib.figure import Figure

import pgx
from analysis.report.notebook import Picture

policy, table = pgx.train("baseline", env="cartpole", num_updates=UPDATES, **{"optimiser.learning_rate": 3e-3})

figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
axes.plot(table["env_steps"], table["return_mean"], lw=0.5)
axes.plot(table["env_steps"], table["return_recent"])
axes.set(xlabel="environment steps", ylabel="return")
Picture.of(figure, "The mean return of each update, and of the last 100 episodes, against environment steps")

# %% [markdown]
# The columns of `table` are those of a run's `metrics.csv`, a row an update.

# %%
table[["update", "env_steps", "return_mean", "entropy", "explained_variance"]].tail(3).round(3)

# %% [markdown]
# ## What is it worth?
# The undiscounted return of each of 200 fresh episodes. `greedy` always takes the most probable action.

# %%
for greedy in (False, True):
    returns = pgx.evaluate(policy, env="cartpole", episodes=200, greedy=greedy)
    print(f"greedy={greedy}: {returns.mean():.1f} ± {returns.std(ddof=1):.1f}")

# %% [markdown]
# ## A run with a folder
# `pgx.train` writes nothing. A run that is to be resumed, reported or shown to others has a folder, and `pgx.Run` reads it.

# %%
import tempfile
from pathlib import Path

from pgx.run import run

folder = Path(tempfile.mkdtemp()) / "run"
run(pgx.configuration("reward_to_go", num_updates=UPDATES // 10, seed=3, tracker="none"), folder)
found = pgx.Run(folder)
print(f"{found.summary['updates']} updates, return of the last 100 episodes: {found.metrics['return_recent'].iloc[-1]:.1f}")
print(f"evaluated: {pgx.evaluate(found, episodes=200).mean():.1f}")

# %% [markdown]
# ## The parts
# `pgx.assemble` puts together what a configuration names. A runner makes the next chunk of updates from a state.

# %%
parts = pgx.assemble("gae", env="acrobot", episodes_per_update=4)
chunk = parts.runner(parts.state, pgx.Limits(updates=2))
chunk.rows["return_mean"]
