"""Measurements at frozen checkpoints, as people read them."""

from pathlib import Path

import numpy as np
import pandas as pd

from analysis import text
from analysis.report.sections.results import number
from analysis.report.study import Study
from analysis.statistics.diagnosis import mostly_noise, nearest, trained_batches


def readable_estimators(study: Study) -> pd.DataFrame:
    """A row an estimator, at the size of batch that is nearest to what the runs were trained with."""
    rows = study.estimators
    noise, of_forms = (x.set_index(["variant", "env"]) for x in (study.noise, study.noise_of_forms))
    size = _trained_batch(study, rows["batch_size"].unique())
    at = rows[rows["batch_size"] == size].assign(metric=rows["metric"].str.removeprefix("iqm of "))
    records = []
    for (env, name), group in at.groupby(["env", "variant"]):
        of = group.set_index("metric")
        cells = {
            quantity: f"{text.number(of.loc[quantity, 'estimate'])} "
            + text.between(of.loc[quantity, "lo"], of.loc[quantity, "hi"])
            for quantity in of.index
        }
        records.append({
            "estimator": name, "env": env,
            "tr Σ / that of vanilla": _ratio(noise, name, env), "/ its plain form": _ratio(of_forms, name, env),
            "SNR": cells.get("snr", "–"), "two batches": cells.get("cosine", "–"),
            "with the reference": cells.get("cosine_reference", "–"), "with pathwise": cells.get("cosine_pathwise", "–"),
            "n": int(of["n_runs"].max()),
        })  # fmt: skip
    frame = pd.DataFrame(records)
    unused = [name for name in ("/ its plain form", "with pathwise") if name in frame and (frame[name] == "–").all()]
    return frame.drop(columns=[*unused, *(["env"] if len(study.envs) == 1 and len(frame) else [])])


def _ratio(noise: pd.DataFrame, name: str, env: str) -> str:
    if (name, env) not in noise.index:
        return "–"
    ratio = noise.loc[(name, env)]
    return f"{text.number(ratio['estimate'])} {text.between(ratio['lo'], ratio['hi'])}"


def _trained_batch(study: Study, sizes: np.ndarray) -> float:
    """Of these, what is nearest to the first run's size of batch, which may be another one at each of its checkpoints."""
    run = study.runs.iloc[0]
    updates = study.diagnosis.loc[study.diagnosis["run_id"] == run["run_id"], "update"].unique()
    batches = trained_batches(Path(run["folder"]), updates)
    return nearest(sizes, float(np.median(list(batches.values()))) if batches else 10)


def frozen(study: Study) -> str:
    """The text about measurements at frozen checkpoints, or how to make them."""
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
        f"biased: a high signal to noise ratio says that its batches agree, not that they are right.{_pathwise(study)}"
    )


def _pathwise(study: Study) -> str:
    """The text where the environment's dynamics were differentiated."""
    of = study.references.set_index(["metric", "variant"])
    if "pathwise" not in of.index.get_level_values("variant"):
        return ""
    quantity = lambda name, reference: (
        f"{text.number(of.loc[(name, reference), 'estimate'].mean())}" if (name, reference) in of.index else "unknown"
    )
    noisy = len(mostly_noise(study.diagnosis, "pathwise"))
    rows = study.diagnosis
    checkpoints = len(rows.loc[rows["of"] == "pathwise", ["run_id", "update"]].drop_duplicates())
    return (
        "\n\n**A second reference, `pathwise`,** differentiates the return through policy, bound and dynamics, and shares "
        "nothing with score functions. Signal to noise of the references themselves, over all their episodes: baseline "
        f"{quantity('snr_reference', 'baseline')}, pathwise {quantity('snr_reference', 'pathwise')}; the cosine of the "
        f"two with the noise taken off: {quantity('agreement', 'pathwise')}. Derivatives of chaotic dynamics explode over "
        f"long episodes. One episode alone makes {quantity('largest_share', 'pathwise')} of the pathwise tr Σ (where that "
        f"is a tenth or more, other episodes may say otherwise), and at {noisy} of {checkpoints} checkpoints the pathwise "
        "gradient is mostly noise and not to be trusted: cosines with it are left out there."
    )


def parts(study: Study) -> str:
    """The text about the table of the variance's parts."""
    return (
        "**Where the variance comes from.** One step's term ∇ log π(a|s) (G − φ(s)), its variance divided (Tucker et "
        "al. 2018) into that of states, Σ_s; of the actions taken there, Σ_a, all that a baseline φ changes; and of what "
        "happens afterwards, Σ_τ. From states that the policy visits, every action (or, where there are too many, several "
        "drawn ones) was taken and gone on with several times. Shares of the sum without a baseline (`reward_to_go`) at the "
        "same checkpoint, luck taken off: they may "
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
    cells = [f"{short(x)} {text.between(lo, hi, short)}"
            for x, lo, hi in zip(rows["estimate"], rows["lo"], rows["hi"], strict=True)]  # fmt: skip
    rows = rows.assign(said=cells, part=rows["metric"].str.removesuffix(" / sum of reward_to_go"))
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
    cells = [f"{number(row, 'estimate')} [{number(row, 'lo')}, {number(row, 'hi')}]" for row in records]
    keys = ["env", "metric"] if len(study.envs) > 1 else ["metric"]
    wide = rows.assign(said=cells).pivot(index=keys, columns="variant", values="said").fillna("–")
    lines = list(dict.fromkeys(zip(*(rows[key] for key in keys), strict=True)))
    wide = wide.loc[lines if len(keys) > 1 else [line[0] for line in lines]]
    return wide.reset_index().rename(columns={"metric": "of the policies"}).rename_axis(columns=None)
