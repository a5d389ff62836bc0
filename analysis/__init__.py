"""From run folders to a verdict: load → align → statistics → plots → report. Imports neither jax nor pgx.

    load.py         run folders → tables `runs` and `metrics`; the ledger; one metric's `curves`
    read.py         metrics.csv of them all in one go, and the Parquet cache
    evaluations.py  what pgx.evaluate played with the runs of a sweep, as final scores
    align.py        curves on one grid of env steps; a run's final score and its area
    results.py      the row in which every number ends up
    text.py         numbers as people read them
    hygiene.py      seeds that were tuned on, the second stage, and looking again
    power.py        a command: how many seeds, before the runs

    statistics/     tables in, tables out
        aggregates.py   IQM and company, performance profiles, bootstrap, tolerance intervals
        ranks.py        the probability of improvement: estimate, interval, permutation test
        compare.py      differences between variants: tests, families, what may be concluded
        survival.py     time to threshold: Kaplan–Meier, log-rank, restricted mean
        events.py       the way up, collapses, dead runs, what became of every run
        reliability.py  DT, SRT, LRT, drawdown, DR, RR, DF, RF, with intervals over runs
        diagnosis.py    what pgx.diagnose measured: estimators at one policy, policies at frozen checkpoints

    report/         `python -m analysis.report SWEEP_DIR …`
        command.py      → report.html, figures/, tables/
        study/          all tables of a report, each computed when asked for: runs, curves, scores, times, pairs …
        verdict.py      sentences made of the numbers
        sections/       the report's parts: origin, results, figures, checkpoints, methods
        plots/          its ten plots, tables and an `ax` in, the `ax` out: curves, scores, times, stability, gradients
        stability.py    the report, a notebook (paired with stability.ipynb)
        notebook.py     runs such a script in this process, and writes it as HTML or .ipynb

There are five shapes of table, all tidy, one row an observation:

    runs      one row a run (load.RUNS), and a column for every config value that varies
    metrics   run_id, update, env_steps, metric, value, episodes
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
