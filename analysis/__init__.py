"""From run folders to a verdict: load → align → statistics → plots → report. Imports neither jax nor pgx.

    load.py         run folders → tables `runs` and `metrics`; the ledger; one metric's `curves`
    read.py         … metrics.csv of them all in one go, and the Parquet cache
    align.py        curves on one grid of env steps; a run's final score and its area
    reliability.py  DT, SRT, LRT, drawdown, DR, RR, DF, RF, with intervals over runs
    ranks.py        the probability of improvement: estimate, interval, permutation test
    aggregates.py   IQM and company, performance profiles, probability of improvement, bootstrap, tolerance
    events.py       drawdown episodes, collapses, dead runs, what became of every run, and how many collapsed
    survival.py     time to threshold: Kaplan–Meier, log-rank, restricted mean
    compare.py      differences between variants, permutation tests, families, effect sizes, how many seeds
    results.py      the row in which every one of these numbers ends up
    hygiene.py      seeds that were tuned on, the second stage, and looking again
    power.py        the command: how many seeds, before the runs
    diagnosis.py    what pgx.diagnose measured: estimators at the same policy, policies at frozen checkpoints
    study.py        all tables of a report, each computed when asked for
    plots.py        the ten plots: tables and an `ax` in, the `ax` out
    verdict.py      sentences made of the numbers; text.py, numbers as people read them
    stability.py    the report, a notebook (paired with stability.ipynb); sections.py, its parts
    notebook.py     runs such a script in this process, and writes it as HTML or .ipynb
    report.py       the command: SWEEP_DIR … → report.html, figures/, tables/
    teaching.py     a second notebook, which teaches; the only file here that imports pgx

Four shapes of table go round, all tidy, one row an observation:

    runs      one row a run (load.RUNS), and a column for every config value that varies
    metrics   run_id, update, env_steps, phase, metric, value, n_samples
    curves    run_id, variant, env, seed, env_steps, value: one metric, one row a (run, step); events want episodes, too
    scores    run_id, variant, env, seed, value: one number a run
    results   results.COLUMNS, then what places a row (env_steps, tau, p …)

Functions take one of them and return another. What can be chosen is a frozen dataclass (a *spec*) that is stored in
the `params_json` of every row computed with it. Data that cannot be used are reported, in the ledger or in the column
`warning`; only a wrong request (no such folder, no such metric) raises, and always `InputError`, with one clear line.
Same input and same spec: the same numbers, byte for byte.
"""

from analysis.load import InputError, Tables, curves, ledger, load

__all__ = ["InputError", "Tables", "curves", "ledger", "load"]
