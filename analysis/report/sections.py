"""The parts of the report: tables and figures as people read them, from the tables of a Study."""

import html
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import text
from analysis.hygiene import ranges
from analysis.load import RUNS, STATUSES
from analysis.report import plots
from analysis.report.notebook import Html, Markdown, Picture
from analysis.report.study import Study, question_json
from analysis.statistics.compare import FEW_SEEDS, LEAST_SEEDS, MOST_ABSENT
from analysis.statistics.events import OUTCOMES

SMOOTHING = {"return_recent": "mean of the last 100 training episodes"}


def smoothing(metric: str) -> str:
    return SMOOTHING.get(metric, "none")


class Gallery:
    """Shows a figure, and keeps it in a folder as PNG and SVG if there is one."""

    def __init__(self, folder: Path | None = None):
        self.folder = folder

    def __call__(self, figure: Figure, name: str) -> Picture:
        said = [f"{ax.get_title(loc='left')}. {plots.caption_of(ax)}" for ax in figure.axes]
        picture = Picture.of(figure, " ".join([figure.get_suptitle(), *said, figure.get_supxlabel()]).strip())
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{name}.png").write_bytes(picture.png)
            figure.set_layout_engine("none")  # it is laid out: a quarter of the time is saved
            with matplotlib.rc_context({"svg.hashsalt": name}):  # or no two files are the same
                figure.savefig(self.folder / f"{name}.svg", metadata={"Date": None}, dpi=130)
        return picture


def shown(frame: pd.DataFrame, otherwise: str = "Nothing was measured.", long: int = 16) -> Html | Markdown:
    """A table of text, closed if it is long."""
    if frame.empty:
        return Markdown(otherwise)
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in frame.columns)
    rows = "\n".join(f"<tr>{''.join(_cell(str(x)) for x in row)}</tr>" for row in frame.itertuples(index=False, name=None))
    table = f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    return Html(f"<details><summary>{len(frame)} rows</summary>{table}</details>" if len(frame) > long else table)


def _cell(said: str) -> str:
    """Short ones are not broken: neither `CartPole-v1` nor an interval."""
    return f"<td{' class=short' if len(said) <= 16 else ''}>{html.escape(said)}</td>"


# What was run


def headline(study: Study) -> str:
    """What a report is of: folders, and what varies in them."""
    if len(study.sweeps) > 1:
        return text.listed(study.sweeps)
    folder = _sweep_folder(study.runs)
    # Hydra calls a sweep by the time of day, in a folder of the day
    name = "/".join(folder.parts[-2:]) if re.fullmatch(r"\d\d-\d\d-\d\d(-\d+)?", folder.name) else folder.name
    return f"{name}: {' × '.join(study.by)} on {text.listed(study.envs)}"


def title(study: Study) -> str:
    runs = study.runs
    return (f"# {escaped(f'Stability report: {headline(study)}')}\n\n{len(runs)} runs of "
            f"{escaped('; '.join(study.families))} on {text.listed(study.envs)}, seeds {ranges(runs['seed'])}.")  # fmt: skip


def escaped(said: str) -> str:
    """Text that Markdown shows as it is: `estimator._target_` is no emphasis."""
    return re.sub(r"([\\`*_<>\[\]])", r"\\\1", said)


def _sweep_folder(runs: pd.DataFrame) -> Path:
    folder = Path(runs["folder"].iloc[0])
    return (folder.parent if len(runs) > 1 else folder).resolve()


def commands(study: Study, most: int = 5) -> str:
    """What was typed, as Hydra has it beside the runs: one command a sweep if its runs are all of its combinations."""
    said = []
    for _, runs in study.runs.groupby("sweep", sort=False):
        known = [_overrides(Path(folder)) for folder in runs["folder"]]
        known = [overrides for overrides in known if overrides]
        together = _together(known)
        every = [together] if together else ["python -m pgx.run " + shlex.join(overrides) for overrides in known]
        said += every[:most]
        if len(every) > most:
            said.append(f"# … and {len(every) - most} more: .hydra/overrides.yaml in every run's folder")
    if not said:
        return "The commands that made these runs are not recorded."
    return "Made by, and to be made again with the code above:\n\n```\n" + "\n".join(said) + "\n```"


def _overrides(folder: Path) -> list[str]:
    """A run's command line; empty where it is not recorded, or not as plainly as Hydra does it."""
    try:
        lines = (folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
    if not all(line.startswith("- ") and not line.startswith('- "') for line in lines):
        return []
    return [x[1:-1].replace("''", "'") if x[:1] == "'" else x for x in (line[2:] for line in lines)]


def _together(known: list[list[str]]) -> str:
    """The multirun that makes exactly these; empty if there is none so simple."""
    values: dict[str, list[str]] = {}
    for overrides in known:
        for override in overrides:
            key, _, value = override.partition("=")
            values.setdefault(key, []).append(value)
    if not known or any(len(found) != len(known) for found in values.values()):
        return ""
    distinct = {key: list(dict.fromkeys(found)) for key, found in values.items()}
    varied = [found for found in distinct.values() if len(found) > 1]
    plain = not any(re.search(r"[,\[{('\"]", x) for found in varied for x in found)
    if not plain or math.prod(map(len, varied)) != len(set(map(tuple, known))):
        return ""
    words = [f"{key}={_values(found)}" for key, found in distinct.items()]
    return f"python -m pgx.run {'-m ' if varied else ''}{shlex.join(words)}"


def _values(found: list[str]) -> str:
    numbers = [int(x) for x in found] if all(x.isdecimal() for x in found) else []
    if len(numbers) > 3 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"range({numbers[0]},{numbers[-1] + 1})"
    return ",".join(found)


def provenance(study: Study) -> pd.DataFrame:
    rows = []
    for sweep, runs in study.runs.groupby("sweep", sort=False):
        abouts = [_about(folder) for folder in runs["folder"]]
        where = Path(runs["folder"].iloc[0]).parent if len(runs) > 1 else Path(runs["folder"].iloc[0])
        versions = sorted({f"{k} {v}" for about in abouts for k, v in (about.get("versions") or {}).items()})
        rows.append(
            {
                "": sweep,
                "folder": str(where),
                "runs": len(runs),
                "seeds": ranges(runs["seed"]),
                "code": ", ".join(
                    x[:10] + ("+ (with changes)" if x.endswith("+") else "")
                    for x in dict.fromkeys(x for path in _set(runs["git_sha"]) for x in path.split(" → "))
                ),
                "device": ", ".join(_set(runs["device"])),
                "executor": ", ".join(sorted({str(about.get("executor", "")) for about in abouts} - {""})),
                "packages": ", ".join(versions),
            }
        )
    return pd.DataFrame(
        [[name, *(row[name] for row in rows)] for name in rows[0] if name], columns=["", *(row[""] for row in rows)]
    )


def _about(folder: str) -> dict:
    try:
        content = json.loads((Path(folder) / "run.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _set(column: pd.Series) -> list[str]:
    return sorted(set(column.dropna()) - {""}) or ["unknown"]


def differences_of_config(study: Study, most: int = 12) -> str:
    """Configuration values that differ, beside variant, environment, seed and budget."""
    groups = study.runs.assign(family=study.runs["variant"].map(study.family_of)).groupby("family")
    varied = list(study.runs.columns[len(RUNS) :])
    keys = [key for key in varied if (groups[key].nunique(dropna=False) > 1).any()]
    implied = [f"`{key}`" for key in varied if key not in keys]
    of_variant = f" What tells the groups apart: {', '.join(implied)}." if implied else ""
    if not keys:
        same = "Apart from variant, environment, seed and budget, all runs have the same configuration."
        return same + of_variant
    lines = []
    for key in keys[:most]:
        of_value = study.runs.assign(value=study.runs[key].map(_short)).groupby("value")["variant"]
        values = [f"`{value}` ({text.listed(sorted(set(variants)))})" for value, variants in of_value]
        lines.append(f"- `{key}`: {', '.join(values[:6])}{', …' if len(values) > 6 else ''}")
    if len(keys) > most:
        lines.append(f"- … and {len(keys) - most} more, in the table `runs`")
    return "The runs' configurations differ in:\n\n" + "\n".join(lines) + f"\n\n{of_variant}"


def _short(x: object) -> str:
    said = "not set" if x is None or x != x else str(x)
    return said if len(said) <= 48 else f"{said[:45]}…"


def readable_ledger(study: Study) -> pd.DataFrame:
    ledger = study.ledger
    statuses = [status for status in STATUSES if ledger[status].any()]
    reasons = ledger["reasons"].map(lambda said: said if len(said) <= 300 else f"{said[:297]}…")
    kept = ledger[["variant", "env", "runs", "seeds", *statuses]]
    return kept.assign(reasons=reasons) if reasons.any() else kept


def warnings(study: Study) -> str:
    """Computed last of what is above the verdict, so that every problem is known."""
    _ = study.primary, study.outcomes
    if not study.warnings:
        return "Nothing speaks against using these runs: all are completed, and replicates differ in their seed alone."
    said = (line[:1].upper() + line[1:].rstrip(".") + "." for line in study.warnings)
    return "> **Warnings**\n>\n" + "\n".join(f"> - {escaped(line)}" for line in said)


def primary_endpoint(study: Study) -> str:
    thresholds = [
        f"{study.threshold(env):g}{f' on {env}' if len(study.envs) > 1 else ''}"
        for env in study.envs
        if not np.isnan(study.threshold(env))
    ]
    q, horizon = study.question, ", ".join(f"{x:,}" for x in study.horizons.values()) or "no"
    if thresholds:
        what = (f"env steps until `{q.score}` ({smoothing(q.score)}) first reaches {text.listed(thresholds)}. A run "
                "that does not within the env steps that all runs have is censored there, not left out")  # fmt: skip
    else:
        what = f"`{q.score}` at {horizon} env steps, for want of a threshold"
    family = {"holm": "Holm's", "by": "Benjamini and Yekutieli's"}[q.adjust]
    return (f"**Question.** Which of these learns, how fast, and how stably?\n\n**Primary endpoint.** {what[0].upper()}"
            f"{what[1:]}. Variants are compared by P, the probability that a run of one does better than a run of the other; "
            f"a run that diverged or failed is the worst. A difference is called clear where the {q.bootstrap.level:.0%} "
            f"interval of P excludes ½ and p of the permutation test of P = ½, after {family} adjustment over all pairs, is at "
            f"most {q.alpha:g}; where each group has at least {LEAST_SEEDS} seeds, of which no more than {MOST_ABSENT:.0%} are "
            f"missing; and where the means do not say the opposite. Intervals are not adjusted for the number of pairs. "
            f"Practically equal: {FEW_SEEDS} seeds or more, and means that differ by no more than {q.equivalent:.0%}, of "
            "themselves (times) or of what a run's curve spans (scores), everywhere in their interval. How many seeds a "
            "difference needs is asked before the runs: `python -m analysis.power`. All else is secondary.")  # fmt: skip


# Results as people read them


def readable(*results: pd.DataFrame) -> pd.DataFrame:
    """Results tables one under the other."""
    rows = [row for frame in results if len(frame) for row in frame.to_dict("records")]
    several = len({row["env"] for row in rows}) > 1
    return pd.DataFrame(
        [
            {"what": row["metric"].replace("iqm", "IQM"), "of": row["variant"]}
            | ({"env": row["env"]} if several else {})
            | {
                "estimate": _number(row, "estimate"),
                "interval": f"{_number(row, 'lo')}\u00a0…\u00a0{_number(row, 'hi')}"
                if row["lo"] == row["lo"] or row["hi"] == row["hi"]
                else "–",
                "level": f"{row['level']:.0%}" if row["level"] == row["level"] else "–",
                "n": row["n_runs"],
                "p": _adjusted(row),
                "method": row["method"] + (f", {row['n_boot']:,} resamples" if row["n_boot"] else ""),
                "note": row["warning"],
            }
            for row in rows
        ]
    ).pipe(_without_empty)


def _number(row: Mapping, end: str) -> str:
    x = row[end]
    if "env steps" in row["metric"]:
        return text.steps(x)
    if row["metric"].startswith(("probability", "P(", "share")):
        return text.share(x)
    return text.number(x)


def _adjusted(row: Mapping) -> str:
    p = row.get("p_adjusted", np.nan)
    return "" if p != p else f"{text.p_value(p)}, {text.family(row['p_method'])}"


def _without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.loc[:, [name for name in frame if name not in ("p", "note") or frame[name].any()]] if len(frame) else frame


def readable_pairs(study: Study) -> pd.DataFrame:
    rows = study.primary.sort_values(["env", "p_adjusted"], kind="stable")
    said = [f"{text.share(x)} {text.between(lo, hi, text.share)}"
            for x, lo, hi in zip(rows["estimate"], rows["lo"], rows["hi"], strict=True)]  # fmt: skip
    frame = pd.DataFrame(
        {
            "pair": rows["variant"], "env": rows["env"], "endpoint": rows["endpoint"], "P(the first is better)": said,
            "n": rows["n_runs"], "p": rows["p"].map(text.p_value), "adjusted": rows["p_adjusted"].map(text.p_value),
            "family": rows["p_method"].map(text.family),
            "smallest p": rows["smallest_p_adjusted"].map(text.number), "verdict": rows["conclusion"],
            "note": rows["warning"],
        }
    )  # fmt: skip
    same = [name for name in ("env", "endpoint", "family") if frame[name].nunique() == 1]
    return _without_empty(frame.drop(columns=same))


def pairing(study: Study) -> str:
    pairs, rows = study.differences, study.correlations
    if pairs.empty:
        return ""
    chosen = pairs[pairs["paired"]]
    names = text.listed([f"{a} and {b}" for a, b in zip(chosen["a"], chosen["b"], strict=True)])
    why = "as was asked for" if study.question.paired else "because what a seed gives in the one and in the other is correlated"
    known = rows["estimate"].dropna()
    of = f" The correlation between seeds is {text.number(known.median())} (Spearman's, median over pairs)."
    of = of if len(known) else ""
    if chosen.empty:
        return "Differences are **not paired by seed**: that gains where seeds are correlated, and costs elsewhere." + of
    return f"Differences are **paired by seed** for {names}, {why}.{of}"


def outcome_counts(study: Study) -> pd.DataFrame:
    """A row a variant: how many runs came to what, how many were at risk of a collapse, and how many of these had one."""
    counts = study.outcomes.groupby(["variant", "env", "outcome"]).size().unstack(fill_value=0)
    counts = counts[[outcome for outcome in reversed(OUTCOMES) if outcome in counts]]
    shares = study.collapse_shares.set_index(["variant", "env"]).loc[counts.index]
    known = [row["undetermined"] < row["runs"] for _, row in shares.iterrows()]
    ever = [
        f"{row['collapsed']} of {row['n_runs']} {text.between(row['lo'], row['hi'], text.share)}" if there else "–"
        for there, (_, row) in zip(known, shares.iterrows(), strict=True)
    ]
    more = {
        f"reached {study.question.collapse.level:.0%} of the way up": shares["n_runs"].where(known, "–"),
        "… and collapsed, now or then": ever,
        "… watched, median env steps": shares["watched"].map(text.steps),
    }
    if shares["stopped"].any():
        more["… stopped when solved"] = shares["stopped"]
    return counts.assign(**more).reset_index()


def worst(study: Study, most: int = 10) -> pd.DataFrame:
    rows = study.worst.head(most)
    frame = pd.DataFrame(
        {
            "run": rows["run_id"], "variant": rows["variant"], "env": rows["env"], "seed": rows["seed"].astype("str"),
            "outcome": rows["outcome"], "final score": rows["final"].map(text.number), "collapses": rows["collapses"],
            "folder": rows["folder"], "note": rows["error"],
        }
    )  # fmt: skip
    return _without_empty(frame)


def readable_sensitivity(study: Study) -> pd.DataFrame:
    """A row a choice and its setting, a column a variant or pair."""
    rows = study.sensitivity
    if rows.empty:
        return rows
    what = {
        "median env steps to threshold": "median env steps",
        "probability of improvement of time to threshold": "P(sooner)",
    }
    rows = rows.assign(
        what=rows["metric"].map(lambda x: what.get(x, x)),
        said=[
            f"{_number(row, 'estimate')} " + text.between(row["lo"], row["hi"], lambda x, row=row: _number(row | {"x": x}, "x"))
            for row in rows.to_dict("records")
        ],
    )
    if (rows["scope"] == "comparison").any():  # one direction of every pair
        rows = rows[(rows["scope"] != "comparison") | (rows.get("a") < rows.get("b"))]
    keys = ["what", "env", "setting"] if len(study.envs) > 1 else ["what", "setting"]
    few = rows[rows["variant"].isin(study.shown) | (rows["scope"] == "comparison") & (len(study.shown) <= 3)]
    wide = few.pivot(index=keys, columns="variant", values="said").fillna("")
    lines = list(dict.fromkeys(zip(*(few[key] for key in keys), strict=True)))
    names = few.sort_values("scope", ascending=False, kind="stable")["variant"].unique()  # variants, then comparisons
    return wide.loc[lines, names].reset_index().rename_axis(columns=None)


# Figures of several Axes


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
    said = []
    for _, same in rows.groupby("method", sort=False):
        measures = [metric.split(" of ")[0] for metric in same["metric"].unique()]
        said.append(f"{text.listed(measures)}: {plots.method_of(same)}.")
    plots.caption_below(figure, " ".join(said))
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
    """How the run was doing when it collapsed."""
    curves = {label: study.few(study.around_collapse(metric)) for metric, label in metrics.items()}
    curves = {label: aligned for label, aligned in curves.items() if aligned["value"].notna().any()}
    if not curves:
        figure, axes = plots.canvas(height=1.6)
        unknown = [f"{env}: {way.undetermined}" for env, way in study.ways.items() if way.undetermined]
        plots.nothing(axes[0], "Around a collapse", "; ".join(unknown) or "no run collapsed")
        return figure
    rows = -(-len(curves) // 2)
    figure, axes = plots.canvas(2, rows, width=9, height=3.5 * rows)
    _each(axes, [
        lambda ax, label=label, aligned=aligned: plots.around_collapse(aligned, ax, looks=looks, label=label)
        for label, aligned in curves.items()
    ])  # fmt: skip
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
            draws.append(
                lambda ax, bands=bands[bands["env"] == env], title=title + name, more=more: plots.along_training(
                    bands, ax, looks=looks, title=title, **more
                )
            )
    _each(axes, draws)
    return figure


def estimators(study: Study) -> Figure:
    """Plot 9: two rows of two an environment."""
    labels = {"variance": ("Variance", "tr Σ"), "snr": ("Signal to noise", "‖G‖² / tr Σ"),
              "cosine": ("Do two batches agree?", "mean cosine"),
              "cosine_reference": ("Is it the right way?", "mean cosine with the reference")}  # fmt: skip
    rows = study.estimators
    envs = sorted(rows["env"].unique())
    looks = plots.looks_of(rows["variant"].unique())
    figure, axes = plots.canvas(2, 2 * len(envs), width=9.5, height=8.4 * len(envs))
    draws = []
    for env in envs:
        for quantity, (title, label) in labels.items():
            of = rows[(rows["env"] == env) & (rows["metric"] == f"iqm of {quantity}")]
            draws.append(
                lambda ax, of=of, title=f"{title}{f' · {env}' if len(envs) > 1 else ''}", label=label: plots.against_batch_size(
                    of, ax, looks=looks, title=title, label=label
                )
            )
    _each(axes, draws)
    return figure


def readable_estimators(study: Study) -> pd.DataFrame:
    """A row an estimator, at the size of batch that is nearest to what the runs were trained with."""
    rows, noise = study.estimators, study.noise.set_index(["variant", "env"])
    size = _trained_batch(study, rows["batch_size"].unique())
    at = rows[rows["batch_size"] == size].assign(metric=rows["metric"].str.removeprefix("iqm of "))
    found = []
    for (env, name), group in at.groupby(["env", "variant"]):
        of = group.set_index("metric")
        said = {
            quantity: f"{text.number(of.loc[quantity, 'estimate'])} "
            + text.between(of.loc[quantity, "lo"], of.loc[quantity, "hi"])
            for quantity in of.index
        }
        ratio = noise.loc[(name, env)] if (name, env) in noise.index else None
        found.append({
            "estimator": name, "env": env,
            "tr Σ / that of vanilla": "–" if ratio is None else
            f"{text.number(ratio['estimate'])} {text.between(ratio['lo'], ratio['hi'])}",
            "SNR": said.get("snr", "–"), "two batches": said.get("cosine", "–"),
            "with the reference": said.get("cosine_reference", "–"), "n": int(of["n_runs"].max()),
        })  # fmt: skip
    frame = pd.DataFrame(found)
    return frame if len(study.envs) > 1 or frame.empty else frame.drop(columns="env")


def _trained_batch(study: Study, sizes: np.ndarray) -> float:
    episodes = [(_about(folder).get("config") or {}).get("episodes_per_update") for folder in study.runs["folder"][:1]]
    wanted = episodes[0] if episodes and isinstance(episodes[0], int) else 10
    return min(sizes, key=lambda x: (abs(np.log(x / wanted)), x))


def frozen(study: Study) -> str:
    """What was measured at frozen checkpoints, or how to."""
    if study.estimators.empty:
        where = " ".join(sorted({str(Path(folder).parent) for folder in study.runs["folder"]})[:3])
        return (f"**Estimators at the same policy** were not measured: `python -m pgx.diagnose {where}` measures them "
                "at the runs' checkpoints, and this section then shows them.")  # fmt: skip
    rows = study.diagnosis
    checkpoints, runs = len(rows[["run_id", "update"]].drop_duplicates()), rows["run_id"].nunique()
    size = _trained_batch(study, study.estimators["batch_size"].unique())
    return (
        f"### Estimators at the same policy\nAt {checkpoints} frozen checkpoints of {runs} runs "
        f"(`{rows['settings'].iloc[0]}`), every estimator on the same episodes; in the table batches of {size:g} "
        "episodes. A run counts once, with the median over its checkpoints, whatever variant trained it. V of "
        "`baseline` and `gae` is fitted to episodes of its own at that checkpoint; `baseline, own V` is what the run "
        "itself learned from, in those runs that have a V. The reference is the mean gradient of `baseline` over as "
        "many other episodes as were measured: it is noisy too, so a cosine with it is an underestimate. `gae` is "
        "biased: a high signal to noise ratio says that its batches agree, not that they are right."
    )


def parts(study: Study) -> str:
    """What the table of the variance's parts says."""
    return (
        "**Where the variance comes from.** One step's term ∇ log π(a|s) (G − φ(s)), its variance divided (Tucker et "
        "al. 2018) into that of states, Σ_s; of the actions taken there, Σ_a, all that a baseline φ changes; and of what "
        "happens afterwards, Σ_τ. From states that the policy visits, every action was taken and gone on with several "
        "times. Shares of the sum without a baseline (`reward_to_go`) at the same checkpoint, luck taken off: they may "
        "be negative. `exact V` is the mean of these continuations: what remains there is about what no baseline of "
        "states removes. An episode's gradient is a sum of such terms, which are not independent."
        if len(study.parts_of_variance)
        else ""
        if study.estimators.empty
        else "The variance was not divided: an environment on the host cannot be put back into a state."
    )


def readable_parts(study: Study) -> pd.DataFrame:
    """A row a baseline, a column a part of the variance."""
    rows = study.parts_of_variance
    if rows.empty:
        return rows
    short = lambda x: text.number(round(x, 4) + 0.0)  # and no −0
    said = [f"{short(x)} {text.between(lo, hi, short)}"
            for x, lo, hi in zip(rows["estimate"], rows["lo"], rows["hi"], strict=True)]  # fmt: skip
    rows = rows.assign(said=said, part=rows["metric"].str.removesuffix(" / sum of reward_to_go"))
    keys = ["env", "variant"] if len(study.envs) > 1 else ["variant"]
    wide = rows.pivot(index=keys, columns="part", values="said")[list(rows["part"].unique())]
    n = rows.groupby(keys)["n_runs"].max()
    return wide.assign(n=n).reset_index().rename(columns={"variant": "baseline"}).rename_axis(columns=None)


def readable_policies(study: Study) -> pd.DataFrame:
    """A row a measure, a column a variant."""
    rows = study.few(study.policies)
    if rows.empty:
        return rows
    records = rows.to_dict("records")
    said = [f"{_number(row, 'estimate')} [{_number(row, 'lo')}, {_number(row, 'hi')}]" for row in records]
    keys = ["env", "metric"] if len(study.envs) > 1 else ["metric"]
    wide = rows.assign(said=said).pivot(index=keys, columns="variant", values="said").fillna("–")
    lines = list(dict.fromkeys(zip(*(rows[key] for key in keys), strict=True)))
    wide = wide.loc[lines if len(keys) > 1 else [line[0] for line in lines]]
    return wide.reset_index().rename(columns={"metric": "of the policies"}).rename_axis(columns=None)


def after_updates(study: Study, looks: plots.Looks) -> Figure:
    return plots.by_env(plots.post_update, study.few(study.post_update), looks=looks, height=3.8)


def _each(axes: list, draws: list[Callable]) -> None:
    with matplotlib.rc_context(plots.STYLE):
        for ax, draw in zip(axes, draws, strict=False):
            draw(ax)
        for ax in axes[len(draws) :]:
            ax.set_axis_off()


def way_up(study: Study) -> list[str]:
    """What 0 and 1 are on the scale of collapses, in every environment."""
    smoothing, given = study.question.collapse.smoothing, study.question.base is not None
    of = "as given" if given else f"the median over all runs of the mean of their first {smoothing} episodes"
    said = [
        f"{env}: not determined, {way.undetermined}" if way.undetermined else
        f"{env}: from {text.number(way.base)} to {text.number(way.threshold)}"
        for env, way in study.ways.items() if env in study.envs
    ]  # fmt: skip
    return [f"**The way up** goes from what an untrained policy returns ({of}) to the threshold. {'; '.join(said)}."]


def _final(score: str) -> str:
    if score == "return_recent":
        return "The mean of the last 100 training episodes, which is `return_final` of run.json and of a sweep's table,"
    return f"`{score}`"


def method(study: Study) -> str:
    q, boot, fall = study.question, study.question.bootstrap, study.question.collapse
    horizons = ", ".join(f"{n:,} env steps ({env})" for env, n in study.horizons.items()) or "no step"
    said = [
        "**Unit.** A run; never an episode. First every run is reduced to one number or one curve, then runs are resampled.",
        f"**Intervals.** {boot.level:.0%} percentile bootstrap over runs, {boot.n_boot:,} resamples, generator seeded "
        f"with {boot.rng_seed}: the same runs give the same numbers. With fewer than 10 seeds they are too narrow; "
        "with fewer than 3 there is none.",
        f"**Curves** are put on one grid of {q.points} points by their value at or before each point, never beyond their end.",
        f"**Final score.** {_final(q.score)} after the first update that reached {horizons}, as far as every completed "
        "run came. Where all runs have one budget that is their last update. No other number here is called final.",
        *way_up(study),
        f"**Collapse.** After the mean of {fall.smoothing} episodes of `{q.metric}` reached {fall.level:.0%} of the way "
        f"up, it falls below {fall.fall:.0%} of its running peak on the way up and stays there for {fall.lasting} "
        f"episodes or more; for good, if it is not back at {fall.back:.0%} of the peak by the end. A run that ends "
        "below that share before these episodes are over is *falling at the end*. An episode counts as the mean of its "
        "batch, so a change of the number of episodes an update changes nothing here.",
        f"**Shares of collapses** are of the runs at risk: those that reached {fall.level:.0%} of the way up. Diverged "
        "and failed runs are counted beside them; a run that was stopped when it had solved the environment was at risk "
        "only while it was watched. No difference of shares is called clear where a group has fewer than "
        f"{LEAST_SEEDS} runs at risk, or where the end of more than {MOST_ABSENT:.0%} of a group was not seen.",
        f"**Reliability.** Of `{q.metric}`; α = {q.reliability.alpha:g}, window {q.reliability.window:,.0f} env steps. "
        "DT, SRT, LRT and the largest drawdown are divided by the range P95 − first value of the run's whole curve. "
        f"DR and RR are means over at most {q.points} points of the grid (the tables say how many; with another number "
        "DR comes out somewhat different), divided by the median of these ranges over runs. Two deviations from Chan et "
        "al.: their code divides each run by its own range before the RR of all, but a run that never rose has none, "
        "and is the one that RR is about; and RR is a level, so it is counted from what an untrained policy returns, as "
        "the way up is, or it would change with a constant added to all rewards.",
        "**Families.** Pairs on the primary endpoint are one family; those on final scores and on collapses are one each. "
        "Intervals are not adjusted for a family.",
        "**Tests.** P of ranks: all divisions of the runs into two groups, or random ones with the one that was observed "
        "(Brunner and Munzel's statistic, which allows for unequal variances). Differences by seed: signs. Collapses: "
        "Fisher's. The log-rank test of the curves makes no sentence: it is of another hypothesis.",
        "**Tables.** Every number is in `tables/*.parquet`, the results with method, n, resamples, seed, parameters "
        "and warnings.",
    ]
    return "\n".join(f"- {line}" for line in said) + f"\n\n`{question_json(q)}`"
