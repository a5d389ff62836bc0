"""Results as people read them."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis import text
from analysis.report.study import Study
from analysis.statistics.events import OUTCOMES


def readable(*results: pd.DataFrame) -> pd.DataFrame:
    """Results tables one under the other."""
    rows = [row for frame in results if len(frame) for row in frame.to_dict("records")]
    several = len({row["env"] for row in rows}) > 1
    return pd.DataFrame(
        [
            {"what": row["metric"].replace("iqm", "IQM"), "of": row["variant"]}
            | ({"env": row["env"]} if several else {})
            | {
                "estimate": number(row, "estimate"),
                "interval": f"{number(row, 'lo')}\u00a0…\u00a0{number(row, 'hi')}"
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
    ).pipe(without_empty)


def number(row: Mapping, end: str) -> str:
    x = row[end]
    if "env steps" in row["metric"]:
        return text.steps(x)
    if row["metric"].startswith(("probability", "P(", "share")):
        return text.share(x)
    return text.number(x)


def _adjusted(row: Mapping) -> str:
    p = row.get("p_adjusted", np.nan)
    return "" if p != p else f"{text.p_value(p)}, {text.family(row['p_method'])}"


def without_empty(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.loc[:, [name for name in frame if name not in ("p", "note") or frame[name].any()]] if len(frame) else frame


def readable_pairs(study: Study) -> pd.DataFrame:
    rows = study.primary.sort_values(["env", "p_adjusted"], kind="stable")
    cells = [f"{text.share(x)} {text.between(lo, hi, text.share)}"
            for x, lo, hi in zip(rows["estimate"], rows["lo"], rows["hi"], strict=True)]  # fmt: skip
    frame = pd.DataFrame(
        {
            "pair": rows["variant"], "env": rows["env"], "endpoint": rows["endpoint"], "P(the first is better)": cells,
            "n": rows["n_runs"], "p": rows["p"].map(text.p_value), "adjusted": rows["p_adjusted"].map(text.p_value),
            "family": rows["p_method"].map(text.family),
            "smallest p": rows["smallest_p_adjusted"].map(text.number), "verdict": rows["conclusion"],
            "note": rows["warning"],
        }
    )  # fmt: skip
    same = [name for name in ("env", "endpoint", "family") if frame[name].nunique() == 1]
    return without_empty(frame.drop(columns=same))


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
    return without_empty(frame)


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
            f"{number(row, 'estimate')} " + text.between(row["lo"], row["hi"], lambda x, row=row: number(row | {"x": x}, "x"))
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
