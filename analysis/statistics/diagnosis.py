"""What `python -m pgx.diagnose` measured at the checkpoints of a sweep: gradient estimators at the same policy, and the
policies themselves. A run is first reduced to one number, the median over its checkpoints; then runs are resampled."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from analysis.results import table
from analysis.statistics.aggregates import Bootstrap, aggregate, curve_bands
from analysis.statistics.reliability import Reliability, across_rollouts

FILE = "diagnosis.csv"
DIAGNOSIS = ("run_id", "update", "env_steps", "of", "quantity", "batch_size", "value", "n", "settings")
"""Columns: one row a measurement; what they mean stands in pgx/diagnose.py."""

QUALITY = {
    "variance": "tr Σ",
    "snr": "‖G‖² / tr Σ",
    "cosine": "cosine of two batches",
    "cosine_reference": "cosine with the reference",
    "cosine_pathwise": "cosine with the gradient through the dynamics",
}
"""The measures of a gradient, and their labels."""

REFERENCES = ("snr_reference", "cosine_halves", "largest_share", "agreement")
"""The measures of a reference."""
TRUSTED = 1.0
"""A reference of a lower signal to noise ratio is mostly noise."""

PARTS = {"variance_state": "Σ_s", "variance_action": "Σ_a", "variance_return": "Σ_τ"}
"""The parts of the variance of one step's term (pgx/diagnosis/decomposition.py), and their letters."""

_TYPES = {"update": pa.int64(), "env_steps": pa.float64(), "batch_size": pa.float64(), "value": pa.float64(),
          "n": pa.int64(), **dict.fromkeys(("of", "quantity", "settings"), pa.string())}  # fmt: skip


def load_diagnosis(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Every table beside these runs under each other (DIAGNOSIS), and what was wrong with some."""
    parts, notes = [], []
    for run_id, folder in zip(runs["run_id"], runs["folder"], strict=True):
        path = Path(folder) / FILE
        try:
            if not path.is_file():
                continue
            options = pa.csv.ConvertOptions(column_types=_TYPES, null_values=[""], strings_can_be_null=False)
            frame = pa.csv.read_csv(path, convert_options=options)
            if missing := [name for name in DIAGNOSIS[1:] if name not in frame.column_names]:
                raise ValueError(f"no column {missing[0]}")
        except (OSError, ValueError, pa.ArrowException) as error:
            notes.append(f"{run_id}: {FILE} cannot be read and is left out: {' '.join(str(error).split())[:200]}")
            continue
        parts.append(frame.append_column("run_id", pa.array([run_id] * len(frame), pa.string())))
    if not parts:
        types = {"run_id": "str"} | {name: str(kind) for name, kind in _TYPES.items()}
        kinds = {"string": "str", "double": "float64", "int64": "int64", "str": "str"}
        empty = pd.DataFrame(columns=list(DIAGNOSIS))
        return empty.astype({name: kinds[types[name]] for name in DIAGNOSIS}), notes
    found = pa.concat_tables(parts).select(list(DIAGNOSIS)).to_pandas()
    if len(several := found["settings"].unique()) > 1:
        notes.append(f"the checkpoints were measured with {len(several)} different settings: {'; '.join(several)}")
    return found, notes


def _described(diagnosis: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Rows with variant, env and seed of the run."""
    return diagnosis.merge(runs[["run_id", "variant", "env", "seed"]], on="run_id")


def _over_checkpoints(rows: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """One value a run: the median over its checkpoints; NaN counts as none."""
    by = ["run_id", "variant", "env", *keys]
    return rows.groupby(by, sort=False)["value"].median().reset_index()


# The estimators


def estimators(diagnosis: pd.DataFrame, runs: pd.DataFrame, spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """QUALITY of each estimator against the size of a batch: IQM over all runs of an environment, whatever variant
    trained them (results rows with the extra column batch_size; `variant` is the estimator). Cosines with the gradient
    through the dynamics count where that is more than noise."""
    wanted = diagnosis["quantity"].isin(QUALITY) & diagnosis["of"].isin(shown(diagnosis["of"].unique()))
    where = pd.MultiIndex.from_frame(diagnosis[["run_id", "update"]])
    noise = where.isin(pd.MultiIndex.from_frame(mostly_noise(diagnosis, "pathwise")))
    rows = _described(diagnosis[wanted & ~(noise & (diagnosis["quantity"] == "cosine_pathwise"))], runs)
    parts = []
    for quantity in QUALITY:
        of_quantity = rows[rows["quantity"] == quantity]
        if quantity == "variance":  # whitening changes the unit of the gradient
            of_quantity = of_quantity[~of_quantity["of"].str.endswith(", whitened")]
        of_quantity = of_quantity.assign(variant=of_quantity["of"], env_steps=of_quantity["batch_size"])
        # a value a batch size is a curve, whose points come from the same episodes
        curves = _over_checkpoints(of_quantity, "env_steps")
        if len(curves):
            parts.append(curve_bands(curves, quantity, spec=spec).rename(columns={"env_steps": "batch_size"}))
    if not parts:
        return table([], "batch_size")
    method = "median over a run's checkpoints; pointwise percentile bootstrap over runs"
    return pd.concat(parts, ignore_index=True).assign(method=method)


def mostly_noise(diagnosis: pd.DataFrame, reference: str) -> pd.DataFrame:
    """(run_id, update) of the checkpoints where this reference is not to be trusted."""
    rows = diagnosis[(diagnosis["of"] == reference) & (diagnosis["quantity"] == "snr_reference")]
    return rows.loc[~(rows["value"] >= TRUSTED), ["run_id", "update"]]  # nor where it is not a number


def references(diagnosis: pd.DataFrame, runs: pd.DataFrame, spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """REFERENCES of each (`variant`): results rows, IQM over runs."""
    rows = _described(diagnosis[diagnosis["quantity"].isin(REFERENCES)], runs)
    found = []
    for quantity in REFERENCES:
        scores = _over_checkpoints(rows[rows["quantity"] == quantity].assign(variant=rows["of"]))
        if scores["value"].notna().any():
            found.append(aggregate(scores.assign(seed=0), quantity, spec=spec).assign(metric=quantity))
    if not found:
        return table([])
    said = "IQM over runs of the median over a run's checkpoints; percentile bootstrap over runs"
    return pd.concat(found, ignore_index=True).assign(method=said)


def noise_against(
    diagnosis: pd.DataFrame, runs: pd.DataFrame, other: str | None = "vanilla", spec: Bootstrap = Bootstrap()
) -> pd.DataFrame:
    """tr Σ divided by that of another estimator at the same checkpoint and batch size: a results row an estimator. `other`
    None: what is named `baseline, …` is divided by `baseline`, and so on.

    Whitening changes the unit of the gradient, so whitened ones are left out.
    """
    rows = diagnosis[(diagnosis["quantity"] == "variance") & ~diagnosis["of"].str.endswith(", whitened")]
    rows = rows[rows["of"] != "own"]
    rows = rows.assign(other=rows["of"].str.split(", ").str[0] if other is None else other)
    keys = ["run_id", "update", "batch_size"]
    divisors = rows[[*keys, "of", "value"]].rename(columns={"of": "other"})
    both = rows.merge(divisors, on=[*keys, "other"], suffixes=("", "_other"))
    both = both[(both["of"] != both["other"]) & (both["value"] > 0) & (both["value_other"] > 0)]
    if both.empty:
        return table([])
    both = _described(both.assign(value=np.log(both["value"] / both["value_other"])), runs)
    scores = _over_checkpoints(both.assign(variant=both["of"]))
    ratios = aggregate(scores.assign(seed=0), f"tr Σ / tr Σ of {other or 'the plain one'}", spec=spec)
    method = f"same checkpoint and batch; IQM of logarithms over runs, {spec.level:.0%} bootstrap"
    return ratios.assign(method=method, **{name: np.exp(ratios[name]) for name in ("estimate", "lo", "hi")})


def parts_of_variance(diagnosis: pd.DataFrame, runs: pd.DataFrame, spec: Bootstrap = Bootstrap()) -> pd.DataFrame:
    """Σ_s, Σ_a, Σ_τ and their sum by baseline (`variant`), as shares of the sum without a baseline (`reward_to_go`) at
    the same checkpoint: a results row each, IQM over runs.

    The shares are unbiased up to their common divisor; a part that is next to nothing may come out negative.
    """
    keys = ["run_id", "update", "of"]
    rows = diagnosis.loc[diagnosis["quantity"].isin(PARTS), [*keys, "quantity", "value"]]
    if rows.empty:
        return table([])
    total = rows.groupby(keys, sort=False)["value"].sum(min_count=len(PARTS)).reset_index().assign(quantity="sum")
    whole = total.loc[(total["of"] == "reward_to_go") & (total["value"] > 0), ["run_id", "update", "value"]]
    rows = pd.concat([rows, total], ignore_index=True).merge(whole, on=["run_id", "update"], suffixes=("", "_whole"))
    rows = _described(rows.assign(value=rows["value"] / rows["value_whole"]), runs).assign(variant=rows["of"])
    parts = []
    for quantity, letter in {**PARTS, "sum": "Σ_s + Σ_a + Σ_τ"}.items():
        scores = _over_checkpoints(rows[rows["quantity"] == quantity]).assign(seed=0)
        parts.append(aggregate(scores, letter, spec=spec).assign(metric=f"{letter} / sum of reward_to_go"))
    method = "IQM over runs of the median over a run's checkpoints; percentile bootstrap over runs"
    return pd.concat(parts, ignore_index=True).assign(method=method)


# The policies


def half_sample_mode(x: np.ndarray) -> float:
    """Where the values are densest: the densest half of the densest half … (Bickel & Frühwirth 2006)."""
    x = np.sort(np.asarray(x, float))
    while len(x) > 2:
        half = -(-len(x) // 2)
        widths = x[half - 1 :] - x[: len(x) - half + 1]
        first = int(np.argmin(widths))
        x = x[first : first + half]
    return float(x.mean()) if len(x) else np.nan


def post_update(diagnosis: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Returns after single updates: a row a checkpoint (Rahn et al. 2023).

    mode; below_half: the share of updates that lead below half of the mode, counted from 0, or from the lowest return
    seen at this checkpoint where that is negative; an update to a policy that is not a number counts as one; n.
    """
    wanted = diagnosis[diagnosis["quantity"].isin(["return", "post_update_return"])]
    rows = []
    for (run_id, update), group in _described(wanted, runs).groupby(["run_id", "update"], sort=False):
        after = group.loc[group["quantity"] == "post_update_return", "value"].to_numpy(float)
        known = after[~np.isnan(after)]
        if not len(after):
            continue
        floor = min(0.0, group["value"].min()) if len(known) else np.nan
        mode = half_sample_mode(known)
        below = np.isnan(after) | (after < floor + 0.5 * (mode - floor))
        first = group.iloc[0]
        rows.append({"run_id": run_id, "variant": first["variant"], "env": first["env"], "seed": first["seed"],
                     "update": update, "mode": mode, "below_half": below.mean(),
                     "worst": (known.min() - floor) / (mode - floor) if len(known) and mode > floor else np.nan,
                     "n": len(after)})  # fmt: skip
    columns = ["run_id", "variant", "env", "seed", "update", "mode", "below_half", "worst", "n"]
    return pd.DataFrame(rows, columns=columns)


def policies(
    diagnosis: pd.DataFrame, runs: pd.DataFrame, spec: Bootstrap = Bootstrap(), reliability: Reliability = Reliability()
) -> pd.DataFrame:
    """Of the policies that each variant trained, a results row a measure: IQM over runs.

    The cosine and the SNR of the gradient that the run itself learned from, at its own size of batch (the nearest that
    was measured); explained variance of its own V; DF and RF; returns after an update; hidden units.
    """
    if diagnosis.empty:
        return table([])
    scores: list[tuple[str, pd.DataFrame]] = []
    own = _described(_own_gradient(diagnosis, runs), runs)
    for quantity, label in (("cosine", "cosine of two own batches"), ("snr", "SNR of own gradient")):
        scores.append((label, own[own["quantity"] == quantity]))
    rows = _described(diagnosis, runs)
    own_v = (rows["quantity"] == "explained_variance") & (rows["of"] == "baseline, own V")
    scores.append(("explained variance of own V", rows[own_v]))
    fitted_v = (rows["quantity"] == "explained_variance") & (rows["of"] == "baseline")
    scores.append(("explained variance of a fitted V", rows[fitted_v]))
    played = rows[rows["quantity"] == "return"]
    # one policy is one checkpoint
    checkpoint = played["run_id"] + "\n" + played["update"].astype("str")
    fixed = across_rollouts(played.assign(run_id=checkpoint), "return", reliability)
    fixed = fixed.assign(run_id=fixed["run_id"].str.split("\n").str[0], value=fixed["estimate"])
    for name in ("DF", "RF"):
        scores.append((f"{name} of return", fixed[fixed["metric"] == f"{name} of return"]))
    after = post_update(diagnosis, runs)
    scores.append(("share of updates below half of the mode", after.assign(value=after["below_half"])))
    for quantity in ("dead_units", "effective_rank"):
        units = rows[rows["quantity"] == quantity]
        for layer in sorted(units["of"].unique()):
            label = "share of dead units" if quantity == "dead_units" else "effective rank"
            scores.append((f"{label}, {layer}", units[units["of"] == layer]))
    seeds = runs.set_index("run_id")["seed"]
    parts = []
    for label, part in scores:
        if part["value"].notna().any():
            each = _over_checkpoints(part)
            parts.append(aggregate(each.assign(seed=each["run_id"].map(seeds)), label, spec=spec).assign(metric=label))
    if not parts:
        return table([])
    method = "IQM over runs of the median over a run's checkpoints; percentile bootstrap over runs"
    return pd.concat(parts, ignore_index=True).assign(method=method)


def _own_gradient(diagnosis: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of what each run itself learned from, at about its size of batch there."""
    sized = dict(list(diagnosis[diagnosis["of"] == "own"].dropna(subset="batch_size").groupby("run_id")))
    mine = []
    for run_id, folder in zip(runs["run_id"], runs["folder"], strict=True):
        rows = sized.get(run_id, diagnosis.iloc[:0])
        sizes = np.unique(rows["batch_size"])
        batches = trained_batches(Path(folder), rows["update"].unique())
        mine += [(run_id, "own", update, nearest(sizes, episodes)) for update, episodes in batches.items()]
    wanted = pd.DataFrame(mine, columns=["run_id", "of", "update", "batch_size"])
    return diagnosis.merge(wanted, on=list(wanted)) if mine else diagnosis.iloc[:0]


def nearest(sizes: Iterable[float], episodes: float) -> float:
    """The size of batch that differs from `episodes` by the smallest factor."""
    return min(sizes, key=lambda x: (abs(np.log(x / episodes)), x))


def trained_batches(folder: Path, updates: Iterable[int]) -> dict[int, int]:
    """Update → the episodes that it learned from. Nothing of a run that does not tell; where its batches are made by steps,
    metrics.csv tells."""
    try:
        config: Any = json.loads((folder / "run.json").read_bytes())["config"]
        if config["episodes_per_update"] is not None:
            return dict.fromkeys(updates, int(config["episodes_per_update"]))
        so_far = pd.read_csv(folder / "metrics.csv", usecols=["update", "episodes"], index_col="update")["episodes"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    each = so_far.diff().fillna(so_far)
    return {update: int(each[update]) for update in updates if update in each.index}


def shown(names: Iterable[str]) -> list[str]:
    """The estimators in the pictures: all that are not whitened, and whitened `vanilla`; and none that is another one for
    every run."""
    return [name for name in names if name != "own" and (not name.endswith(", whitened") or name == "vanilla, whitened")]
