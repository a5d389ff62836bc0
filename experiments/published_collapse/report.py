"""results/: the tables and the pictures of what has been run. What is not finished is left out, and said."""

from pathlib import Path

import pandas as pd

from analysis import text
from analysis.load import InputError
from experiments.published_collapse import figures, outcomes
from experiments.published_collapse.interventions import PARTS, SHORT, TORCH, folder_name

COLOURS = {
    "published": "#0173b2",
    "interventions": "#0173b2",
    "reverse": "#029e73",
    "full_scale": "#cc78bc",
    "harness": "#949494",
    "torch": "#d55e00",
}
PANELS = {
    "share of runs that reached 100": "reached 100",
    "share of runs that fell below half after 100": "… then fell below half",
    "share of runs dead at the end": "dead at the end",
    "iqm of best return": "best return",
    "iqm of final return": "final return",
}
COLUMNS = {
    "share of runs that reached 100": "reached 100",
    "share of runs that fell below half after 100": "then fell below half",
    "share of runs dead at the end": "dead at the end",
    "iqm of best return": "best return",
    "iqm of final return": "final return",
    "iqm of KL an episode": "KL an episode",
}


def write(folder: Path, results: Path) -> None:
    results.mkdir(exist_ok=True)
    frames = _all_points(folder)
    runs = pd.concat([outcomes.of_runs(frame).assign(part=part, intervention=name) for (part, name), frame in frames.items()])
    runs = runs[["part", "intervention", *runs.columns.drop(["part", "intervention"])]]
    runs.to_csv(results / "runs.csv", index=False, float_format="%.5g", lineterminator="\n")
    rows = outcomes.of_interventions(runs)
    rows.to_csv(results / "outcomes.csv", index=False, float_format="%.5g", lineterminator="\n")
    (results / "table.md").write_text(readable(rows))
    _save(results, figures.forest(rows[rows["part"] != "published"], PANELS, COLOURS), "interventions")
    if ("published", "as published") in frames:
        _published(frames["published", "as published"], runs, results)
    chosen = {name: frames[key] for name, key in {
        "post 1 as published": ("interventions", "as published"), "corrected, 1 episode": ("reverse", "correct"),
        "vanilla": ("harness", "vanilla"), "reward_to_go": ("harness", "reward_to_go"), "baseline": ("harness", "baseline"),
    }.items() if key in frames}  # fmt: skip
    _save(results, figures.beside(chosen, SHORT["env_steps"]), "beside")
    if (results / "estimator.csv").exists():
        from experiments.published_collapse.estimator import WALKS

        _save(
            results,
            figures.estimator(pd.read_csv(results / "estimator.csv", keep_default_na=True), list(WALKS)),
            "estimator",
        )


def _all_points(folder: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """(part, intervention) → its curves; what was published is also cut to the interventions' scale."""
    names = [(part, name) for part in PARTS for name in PARTS[part].names]
    names += [("torch", name) for name in TORCH]
    frames = {}
    for part, name in names:
        try:
            frame = outcomes.points(folder / part / folder_name(name))
        except InputError as error:
            print(f"left out: {error}")
            continue
        frames[part, name] = frame
        if part == "published":
            within = (frame["episodes"] <= SHORT["episodes"]) & (frame["env_steps"] <= SHORT["env_steps"])
            frames["interventions", name] = frame[within].reset_index(drop=True)
    return frames


def _published(frame: pd.DataFrame, runs: pd.DataFrame, results: Path) -> None:
    of = runs[runs["part"] == "published"]
    _save(results, figures.every_seed(frame, of), "published")
    falls = outcomes.falls_of(frame, outcomes.FALL)
    first = falls.groupby("run_id")["start"].min().to_dict()
    if not first:
        return
    names = dict(zip(frame["seed"], frame["run_id"], strict=True))
    died = {names[row.seed]: row.dead_since for row in of.itertuples() if row.dead}
    events = {"first fall to less than half": first} | ({"the end of runs that die": died} if died else {})
    _save(results, figures.around(frame, events), "health")
    _before(frame, first).to_csv(results / "before_the_fall.csv", index=False, float_format="%.4g", lineterminator="\n")


def _before(frame: pd.DataFrame, start: dict[str, float]) -> pd.DataFrame:
    """Medians over runs of each measurement in windows of 500 episodes before and after the first fall."""
    some = frame[frame["run_id"].isin(start)]
    at = some["episodes"] - some["run_id"].map(start)
    windows = (at // 500 * 500).where(at.between(-2500, 2499))
    each = some.groupby(["run_id", windows.rename("episodes_from_the_fall")])[list(outcomes.HEALTH)].mean()
    return each.groupby("episodes_from_the_fall").median().reset_index().assign(n=len(start))


def readable(rows: pd.DataFrame) -> str:
    """A Markdown table: a row an intervention."""
    lines = [f"| | {' | '.join(COLUMNS.values())} |", f"|---|{'---|' * len(COLUMNS)}"]
    for (part, name), group in rows.groupby(["part", "variant"], sort=False):
        cells = group.set_index("metric")
        said = []
        for metric in COLUMNS:
            row = cells.loc[metric]
            if metric.startswith("share"):
                said.append(f"{row['count']:.0f} of {row['n_runs']} {text.between(row['lo'], row['hi'], text.share)}")
            elif metric.endswith("KL an episode"):
                said.append(f"{row['estimate']:.1e}")
            else:
                said.append(f"{text.number(row['estimate'])} {text.between(row['lo'], row['hi'])}")
        lines.append(f"| {part}: {name} | {' | '.join(said)} |")
    return "\n".join(lines) + "\n"


def _save(results: Path, figure, name: str) -> None:
    figure.savefig(results / f"{name}.png", dpi=110)
