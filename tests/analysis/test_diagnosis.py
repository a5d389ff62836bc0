"""What pgx.diagnose wrote, read and reduced: first over a run's checkpoints, then over runs, like compared with like."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simulated
from run_folders import write_run

from analysis import load
from analysis.report import command as report
from analysis.report.sections.checkpoints import frozen, readable_estimators
from analysis.report.study import Study
from analysis.statistics import diagnosis
from analysis.statistics.aggregates import Bootstrap
from analysis.statistics.diagnosis import (
    estimators,
    half_sample_mode,
    load_diagnosis,
    mostly_noise,
    noise_against,
    parts_of_variance,
    policies,
    post_update,
    references,
)

SPEC = Bootstrap(n_boot=100)
VARIANCE = {"vanilla": 100.0, "reward_to_go": 25.0, "baseline": 4.0}
SETTINGS = "episodes 300 in 2+10 updates 4x8 v1"


def write_table(
    folder: Path, seed: int = 0, scale: tuple[float, ...] = (1.0, 8.0), own: str = "vanilla", **more: list[float]
) -> Path:
    """diagnosis.csv of two checkpoints; the second one's gradients are `scale` times as noisy. `own`: the estimator that
    the run's is like. `more`: returns."""
    rng = np.random.default_rng(seed)
    rows = []
    for update, factor in zip((100, 200), scale, strict=True):
        for size in (2, 10):
            for name, x in VARIANCE.items():
                luck = rng.lognormal(0, 0.1)
                values = {"variance": factor * x * luck / size, "snr": size / x, "cosine": 0.5 - 1 / size, "signal": 1.0,
                          "cosine_reference": 0.8, "no_gradient": 0.0}  # fmt: skip
                rows += [(update, name, quantity, size, value, 30) for quantity, value in values.items()]
                rows.append((update, f"{name}, whitened", "cosine", size, 0.9, 30))
                if name == own:
                    rows += [(update, "own", quantity, size, value, 30) for quantity, value in values.items()]
        # of 1000 and, at the second checkpoint, of 8000: a baseline takes 600 from the actions' part
        for name, of_actions in {"reward_to_go": 900, "baseline": 300, "exact V": -10}.items():
            values = {"variance_state": 20, "variance_action": of_actions, "variance_return": 80}
            rows += [(update, name, quantity, "", factor * x, 100) for quantity, x in values.items()]
        for layer in ("hidden 1", "hidden 2"):
            rows.append((update, layer, "dead_units", "", 0.25, 1024))
            rows.append((update, layer, "effective_rank", "", 3.0 + factor, 1024))
        for quantity, values in ({"return": [10, 20, 30, 40, 50], "post_update_return": [29, 30, 31, 10]} | more).items():
            rows += [(update, "", quantity, "", x, 1) for x in values]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "diagnosis.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["update", "env_steps", "of", "quantity", "batch_size", "value", "n", "settings"])
        table.writerows([(u, u * 1000, of, q, b, "" if x != x else x, n, SETTINGS) for u, of, q, b, x, n in rows])
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for variant in ("vanilla", "reward_to_go"):
        for seed in range(4):
            config = {"estimator": {"_target_": f"pgx.estimators.{variant}"}, "whiten": False,
                      "critic": {"_target_": "pgx.critics.NoCritic"}, "episodes_per_update": 12}  # fmt: skip
            folder = tmp_path / f"{variant}_{seed}"
            write_run(folder, [1.0, 2.0], config, variant=variant, seed=seed)
            write_table(folder, seed, own=variant)
    return tmp_path


def loaded(sweep: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    runs = load(sweep).runs
    found, notes = load_diagnosis(runs)
    assert not notes
    return found, runs


def test_tables_are_read_and_a_broken_one_is_said(sweep: Path):
    found, runs = loaded(sweep)
    assert tuple(found) == diagnosis.DIAGNOSIS and found["run_id"].nunique() == 8
    assert found["batch_size"].dropna().unique().tolist() == [2, 10]
    (sweep / "vanilla_0" / "diagnosis.csv").write_bytes(b'update,of\n1,"\xff')
    (sweep / "vanilla_1" / "diagnosis.csv").write_text("update,of\n1,x\n")
    (sweep / "vanilla_2" / "diagnosis.csv").write_text("")
    (sweep / "vanilla_3" / "diagnosis.csv").unlink()
    found, notes = load_diagnosis(runs)
    assert found["run_id"].nunique() == 4 and len(notes) == 3
    assert all("diagnosis.csv cannot be read" in said and said.startswith("vanilla_") for said in notes)
    path = sweep / "reward_to_go_0" / "diagnosis.csv"
    path.write_text(path.read_text().replace("v1", "v2"))
    assert "2 different settings" in load_diagnosis(runs)[1][-1]


def test_without_tables_everything_is_empty(tmp_path: Path):
    write_run(tmp_path / "r", [1.0])
    runs = load(tmp_path).runs
    found, notes = load_diagnosis(runs)
    assert tuple(found) == diagnosis.DIAGNOSIS and found.empty and not notes
    for part in (estimators, noise_against, parts_of_variance, policies, post_update):
        assert part(found, runs).empty


def test_a_run_is_one_number(sweep: Path):
    """The median over its checkpoints; more checkpoints of one run are no more runs."""
    found, runs = loaded(sweep)
    rows = estimators(found, runs, SPEC)
    assert (rows["n_runs"] == 8).all() and (rows["method"].str.contains("bootstrap over runs")).all()
    of = rows.set_index(["metric", "variant", "batch_size"])["estimate"]
    by_hand = found[(found["quantity"] == "variance") & (found["of"] == "vanilla") & (found["batch_size"] == 10)]
    medians = np.sort(by_hand.groupby("run_id")["value"].median())
    assert of["iqm of variance", "vanilla", 10] == pytest.approx(medians[2:6].mean())
    assert of["iqm of snr", "baseline", 2] == pytest.approx(0.5)
    assert set(rows["variant"]) == {*VARIANCE, "vanilla, whitened"}  # of the whitened ones only that
    assert ("iqm of variance", "vanilla, whitened", 10) not in of  # whose variance has another unit


def test_noise_is_compared_at_the_same_checkpoint(sweep: Path):
    """The second checkpoint is eight times as noisy: pooled, that would hide what is the same at every one."""
    found, runs = loaded(sweep)
    rows = noise_against(found, runs, spec=SPEC).set_index("variant")
    assert rows.index.tolist() == ["baseline", "reward_to_go"]
    assert rows.loc["baseline", "estimate"] == pytest.approx(0.04, rel=0.1)
    assert rows.loc["reward_to_go", "estimate"] == pytest.approx(0.25, rel=0.1)
    ends = rows.loc["baseline", ["lo", "hi"]]
    assert 0.03 < ends["lo"] < rows.loc["baseline", "estimate"] < ends["hi"] < 0.05


def with_more(folder: Path, rows: list[tuple]) -> None:
    """Rows (update, of, quantity, batch size, value) after those that are there."""
    with open(folder / "diagnosis.csv", "a", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([(u, u * 1000, of, q, b, x, 9, SETTINGS) for u, of, q, b, x in rows])


@pytest.fixture
def continuous(sweep: Path) -> Path:
    """With a form of `baseline` that is half as noisy, and a second reference, which at the first checkpoint is noise."""
    found, _ = loaded(sweep)
    for run_id, rows in found.groupby("run_id"):
        of = rows[(rows["of"] == "baseline") & (rows["quantity"] == "variance")]
        clipped = [(row.update, "baseline, clipped", "variance", row.batch_size, row.value / 2) for row in of.itertuples()]
        through = [(u, "pathwise", "snr_reference", "", snr) for u, snr in ((100, 0.3), (200, 50.0))]
        agree = [(u, "baseline", "cosine_pathwise", size, x) for u, x in ((100, -0.9), (200, 0.7)) for size in (2, 10)]
        with_more(sweep / run_id, [*clipped, *through, *agree, (200, "pathwise", "agreement", "", 1.02)])
    return sweep


def test_a_form_of_an_estimator_is_compared_with_the_plain_one(continuous: Path):
    """Whatever it is called: `baseline, …` with `baseline`."""
    rows = noise_against(*loaded(continuous), None, SPEC).set_index("variant")
    assert rows.index.tolist() == ["baseline, clipped"] and rows.loc["baseline, clipped", "estimate"] == pytest.approx(0.5)


def test_a_reference_that_is_noise_is_not_compared_with(continuous: Path):
    found, runs = loaded(continuous)
    assert set(mostly_noise(found, "pathwise")["update"]) == {100} and mostly_noise(found, "baseline").empty
    rows = estimators(found, runs, SPEC)
    assert rows.loc[rows["metric"] == "iqm of cosine_pathwise", "estimate"].to_list() == pytest.approx([0.7, 0.7])
    of = references(found, runs, SPEC).set_index(["metric", "variant"])["estimate"]
    assert of["agreement", "pathwise"] == pytest.approx(1.02) and of["snr_reference", "pathwise"] == pytest.approx(25.15)


def test_what_was_measured_of_continuous_actions_is_shown(continuous: Path):
    study = Study(load(continuous))
    shown = readable_estimators(study).set_index("estimator")
    assert (
        shown.loc["baseline, clipped", "/ its plain form"].startswith("0.5")
        and shown.loc["baseline", "with pathwise"][:3] == "0.7"
    )
    assert "at 8 of 16 checkpoints the pathwise gradient is mostly noise" in frozen(study)


def test_without_them_there_is_no_column_for_them(sweep: Path):
    study = Study(load(sweep))
    assert not {"/ its plain form", "with pathwise"} & set(readable_estimators(study)) and "pathwise" not in frozen(study)


def test_parts_of_the_variance_are_shares_at_the_same_checkpoint(sweep: Path):
    """The second checkpoint's are eight times as large; one where all is 0 says nothing, and does no harm."""
    found, runs = loaded(sweep)
    rows = parts_of_variance(found, runs, SPEC)
    assert (rows["n_runs"] == 8).all() and set(rows["variant"]) == {"reward_to_go", "baseline", "exact V"}
    of = rows.set_index(["metric", "variant"])["estimate"].unstack()
    of.index = of.index.str.removesuffix(" / sum of reward_to_go")
    assert of.loc["Σ_a"].to_dict() == pytest.approx({"reward_to_go": 0.9, "baseline": 0.3, "exact V": -0.01})
    assert of.loc["Σ_s + Σ_a + Σ_τ"].to_dict() == pytest.approx({"reward_to_go": 1, "baseline": 0.4, "exact V": 0.09})
    assert of.loc["Σ_s"].to_list() == pytest.approx([0.02] * 3) and of.loc["Σ_τ"].to_list() == pytest.approx([0.08] * 3)
    first = found["quantity"].str.startswith("variance_") & (found["update"] == 100)
    nothing = parts_of_variance(found.assign(value=found["value"].where(~first, 0.0)), runs, SPEC)
    pd.testing.assert_frame_equal(nothing, rows)


def test_policies(sweep: Path):
    found, runs = loaded(sweep)
    rows = policies(found, runs, SPEC).set_index(["metric", "variant"])["estimate"]
    # of the gradient that it was trained with, at the size nearest to 12
    assert rows["SNR of own gradient", "vanilla"] == pytest.approx(10 / 100)
    assert rows["SNR of own gradient", "reward_to_go"] == pytest.approx(10 / 25)
    assert rows["DF of return", "vanilla"] == pytest.approx(20 / 30)
    assert rows["RF of return", "vanilla"] == pytest.approx(10 / 30)
    assert rows["share of updates below half of the mode", "vanilla"] == 0.25
    assert rows["effective rank, hidden 2", "vanilla"] == 7.5  # the median of 4 and 11
    assert ("explained variance of own V", "vanilla") not in rows


def test_how_large_a_run_s_own_batches_were(tmp_path: Path):
    (tmp_path / "run.json").write_text(json.dumps({"config": {"episodes_per_update": 7}}))
    assert diagnosis.trained_batches(tmp_path, [1, 3]) == {1: 7, 3: 7}
    by_steps = json.dumps({"config": {"episodes_per_update": None, "steps_per_update": 300}})
    (tmp_path / "run.json").write_text(by_steps)
    assert diagnosis.trained_batches(tmp_path, [1]) == {}, "there is no metrics.csv"
    (tmp_path / "metrics.csv").write_text("update,env_steps,episodes\n1,60,2\n2,360,12\n3,650,16\n")
    assert diagnosis.trained_batches(tmp_path, [1, 3, 9]) == {1: 2, 3: 4}
    (tmp_path / "run.json").write_text("[]")
    assert diagnosis.trained_batches(tmp_path, [1]) == {}


def test_batches_by_steps_are_judged_at_the_size_that_they_had_at_each_checkpoint(sweep: Path):
    """Of 10 episodes at the first checkpoint and of 2 at the other, and not at one size for both."""
    for folder in sweep.glob("vanilla_*"):
        summary = json.loads((folder / "run.json").read_text())
        summary["config"] |= {"episodes_per_update": None, "steps_per_update": 300}
        (folder / "run.json").write_text(json.dumps(summary))
        (folder / "metrics.csv").write_text("update,env_steps,episodes\n99,300,8\n100,600,19\n199,900,30\n200,1200,32\n")
    found, runs = loaded(sweep)
    own = diagnosis._own_gradient(found, runs[runs["variant"] == "vanilla"])
    assert own.groupby("update")["batch_size"].unique().map(list).to_dict() == {100: [10], 200: [2]}


def test_mode_is_where_it_is_densest():
    rng = np.random.default_rng(0)
    skewed = np.concatenate([rng.normal(480, 2, 60), rng.uniform(0, 480, 60)])
    assert half_sample_mode(skewed) == pytest.approx(480, abs=4) and abs(skewed.mean() - 480) > 80
    assert half_sample_mode(np.array([1.0, 500, 500, 500, 700])) == 500
    assert half_sample_mode(np.array([3.0])) == 3 and np.isnan(half_sample_mode(np.array([])))


@pytest.mark.parametrize(
    ("after", "below"),
    [
        ([400, 400, 400, 199], 0.25),
        ([400, 400, 400, 201], 0),
        ([400, 400, 400, np.nan], 0.25),  # the update left no policy
        ([np.nan] * 4, 1.0),
        ([-100, -100, -100, -290], 0),  # halfway from the lowest return seen, −500
        ([-100, -100, -100, -310], 0.25),
    ],
)
def test_below_half_of_the_mode(tmp_path: Path, after: list[float], below: float):
    lowest = -500.0 if np.nanmax([*after, -1e9]) < 0 and not np.isnan(after).all() else 10.0
    write_run(tmp_path / "r", [1.0])
    write_table(tmp_path / "r", **{"return": [lowest, 300.0], "post_update_return": after})
    found, runs = loaded(tmp_path)
    rows = post_update(found, runs)
    assert rows["below_half"].tolist() == [below] * 2 and rows["n"].tolist() == [4, 4]


# In the report


def test_the_report_shows_it_where_there_is_one(tmp_path: Path, capsys: pytest.CaptureFixture):
    simulated.sweep(tmp_path, {"vanilla": (0.6, 0.1), "baseline": (1.2, 0.0)}, range(2), points=15)
    assert report.main([str(tmp_path)]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert f"<code>python -m pgx.diagnose {tmp_path}</code>" in page and "At the same policy" not in page
    for i, folder in enumerate(sorted(tmp_path.glob("*_*"))):
        write_table(folder, i)
    (tmp_path / "vanilla_0" / "diagnosis.csv").write_text("?")
    capsys.readouterr()
    assert report.main([str(tmp_path)]) == 0  # a broken table is a warning
    err = capsys.readouterr().err
    page = (tmp_path / "report" / "report.html").read_text()
    assert "note: vanilla_0: diagnosis.csv cannot be read" in err and "could not be made" not in page
    assert "At 6 frozen checkpoints of 3 runs" in page and SETTINGS in page
    figures = {path.name for path in (tmp_path / "report" / "figures").iterdir()}
    assert {"estimators.png", "after_updates.svg"} <= figures
    tables = {path.stem: pd.read_parquet(path) for path in (tmp_path / "report" / "tables").iterdir()}
    assert len(tables["estimators"]) and len(tables["noise"]) == 2 and len(tables["policies"])
    assert "Where the variance comes from" in page and len(tables["parts_of_variance"]) == 12
    assert set(tables["results"]["table"]) >= {"estimators", "noise", "parts_of_variance", "policies"}
