"""What a referee tried: sweeps of which the right conclusion is known, and the one that the report draws."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simulated
from run_folders import made_tables, write_run

from analysis.load import load
from analysis.report import sections, verdict
from analysis.report.study import Question, Study
from analysis.statistics.aggregates import Bootstrap
from analysis.statistics.ranks import probability_of_improvement

QUICK = Bootstrap(n_boot=200)
END = 1_000_000


def study(groups: dict[str, list[dict]], threshold: float | None = 475.0, **question) -> Study:
    """Variant → its runs, the seeds in order; each at least with `curve`."""
    runs = [{"variant": name, "seed": seed} | run for name, group in groups.items() for seed, run in enumerate(group)]
    return Study(made_tables(runs, threshold), Question(bootstrap=QUICK, **question))


def ends(at: float, **more) -> dict:
    return {"curve": {END: at}} | more


def reaches(step: float, end: int = END, **more) -> dict:
    """Is there at that step, and stays there; ∞: never."""
    return {"curve": {int(min(step, end)): 480.0 if step <= end else 10.0, end: 480.0 if step <= end else 10.0}} | more


def said_of(study: Study) -> str:
    return verdict.sentences(study)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Runs that diverged, failed or were stopped


def test_a_variant_does_not_win_because_half_of_its_runs_diverged(rng: np.random.Generator):
    """10 of 20 diverge and 10 are good, against 10 of 20 that fall: neither is better."""
    groups = {
        "diverges": [ends(x) for x in rng.normal(490, 5, 10)] + [{"curve": {1000: 20.0}, "status": "diverged"}] * 10,
        "falls": [ends(x) for x in rng.normal(490, 5, 10)] + [ends(x) for x in rng.normal(50, 5, 10)],
    }
    found = study(groups, threshold=None)
    (row,) = found.primary.to_dict("records")
    assert row["endpoint"] == "final score" and not row["conclusive"] and abs(row["estimate"] - 0.5) < 0.3
    assert "10 of 20 runs of diverges diverged and rank last" in said_of(found)
    assert "; 10 diverged" in said_of(found)
    assert abs(found.differences["estimate"].item()) < 200  # 215 [1, 388] without those that diverged


def test_whose_runs_all_diverge_is_worse(rng: np.random.Generator):
    groups = {"a": [ends(x) for x in rng.normal(490, 5, 10)], "b": [{"curve": {1000: 20.0}, "status": "diverged"}] * 10}
    for threshold in (None, 475.0):
        assert "**a scored higher in the end than b**" in said_of(study(groups, threshold))


@pytest.mark.parametrize(("status", "counted"), [("failed", 20), ("interrupted", 17), ("running", 17)])
def test_nothing_is_clear_while_more_than_a_tenth_is_missing(rng: np.random.Generator, status: str, counted: int):
    """However great the difference: for final scores and for times."""
    lost = {"curve": {1000: 20.0}, "status": status}
    for missing, conclusion in ((2, "clear"), (3, "absent")):
        a = [reaches(x) for x in rng.normal(2e5, 1e4, 20 - missing)] + [lost] * missing
        found = study({"a": a, "b": [reaches(np.inf)] * 20})
        for row in (found.primary.iloc[0], found.final_pairs.iloc[0]):
            assert row["conclusion"] == conclusion, row["endpoint"]
        assert row["n_a"] == (counted if missing == 3 else counted + (1 if counted < 20 else 0))
        said = said_of(found)
        how = "failed and rank last" if status == "failed" else "were stopped or have not"
        assert f"{missing} of 20 runs of a {how}" in said
        assert ("Nothing is clear while more than a tenth" in said) == (missing == 3)


def test_a_run_that_diverges_never_gets_there():
    """It is followed to the horizon; it is not censored where it diverged, as if it might have got there next."""
    groups = {"a": [reaches(2e5)] * 6 + [{"curve": {1000: 20.0}, "status": "diverged"}] * 6, "b": [reaches(6e5)] * 12}
    found = study(groups)
    assert found.restricted.set_index("variant").loc["a", "estimate"] == 6e5  # (2e5 + 1e6) / 2
    assert found.medians.set_index("variant").loc["a", "reached"] == 6
    assert found.primary["estimate"].item() == 0.5 and found.primary["n_a"].item() == 12


def test_that_nobody_has_a_score_is_no_result():
    found = study({v: [{"curve": {}, "status": "failed"}] * 6 for v in "ab"}, threshold=None)
    assert set(found.final_pairs["conclusion"]) <= {"none"}


# Conclusions are possible


@pytest.mark.parametrize(("variants", "seeds"), [(2, 5), (2, 6), (3, 8), (5, 10)])
def test_a_difference_in_every_seed_is_clear(variants: int, seeds: int, rng: np.random.Generator):
    """500 against 10, at the sizes that people use: paired by seed, with an IQM, it could not have been."""
    groups = {str(i): [ends(x) for x in rng.normal(500 - 20 * i, 0.1, seeds)] for i in range(variants)}
    found = study(groups)
    assert found.final_pairs["conclusive"].all(), found.final_pairs[["a", "b", "p_adjusted", "smallest_p_adjusted"]]
    assert study(groups, threshold=None).primary["conclusive"].all()


def test_what_cannot_be_decided_is_not_called_inconclusive(rng: np.random.Generator):
    groups = {str(i): [ends(x) for x in rng.normal(500 - 20 * i, 0.1, 5)] for i in range(5)}
    said = said_of(study(groups, threshold=None))
    assert said.count("**Not decidable with 5 seeds and 10 comparisons** (at least 6 seeds each would be needed)") == 1
    assert "The smallest p that so many can give is .0079, after the adjustment .079" in said
    assert "higher in the end" not in said
    said = said_of(study({str(i): [reaches(1e5 * (i + 1))] * 3 for i in range(2)}))
    assert "**Not decidable with 3 seeds and 1 comparison**" in said and "sooner than" not in said


def test_many_pairs_have_permutations_enough():
    """With 435 pairs 10,000 would leave no p that is clear after the adjustment."""
    many = study({str(i): [ends(1.0)] for i in range(30)})
    assert 435 / (many.permutations + 1) < 0.02 and study({"a": [ends(1.0)]}).permutations == 10_000


def test_paired_by_seed_if_asked(rng: np.random.Generator):
    """Signs, of the mean: as small a p as there can be."""
    groups = {"a": [ends(x) for x in rng.normal(500, 0.1, 10)], "b": [ends(x) for x in rng.normal(10, 0.1, 10)]}
    row = study(groups, paired=True).final_pairs.iloc[0]
    assert row["test"] == "signs" and row["p"] == row["smallest_p"] == 2 / 2**10 and row["conclusive"]


# One hypothesis and one direction


def test_sooner_more_often_but_later_on_average_is_no_claim():
    """a: 61 % at 100k, the others never; b: all at 110k. P(a sooner) is .61, and b is much the faster."""
    a = [reaches(1e5) if i < 78 else reaches(np.inf) for i in range(128)]
    found = study({"a": a, "b": [reaches(1.1e5)] * 128})
    (row,) = found.primary.to_dict("records")
    assert row["estimate"] == 78 / 128 and row["conclusion"] == "mixed"
    said = said_of(found)
    assert "sooner than b**" not in said and "(restricted mean 452k against 110k)" in said
    assert "a is sooner more often than not, but later on average" in said


@pytest.mark.parametrize("n", [3, 4])
def test_no_claim_below_five_seeds(n: int):
    found = study({"a": [reaches(1e5 + i) for i in range(n)], "b": [reaches(6e5 + i) for i in range(n)]})
    assert not found.primary["conclusive"].any() and "[1, 1]" not in said_of(found)


def test_no_interval_is_a_point():
    found = study({"a": [reaches(1e5)] * 6, "b": [reaches(6e5)] * 6})
    row = found.primary.iloc[0]
    assert row["conclusive"] and row["estimate"] == row["hi"] == 1 and 0.5 < row["lo"] < 0.7
    assert "[1, 1]" not in said_of(found) and "[0, 0]" not in said_of(found)


# The horizon that all runs have


def test_the_same_algorithm_with_two_budgets_is_level(rng: np.random.Generator):
    times = rng.lognormal(np.log(5e5), 0.6, (2, 20))
    groups = {
        "short": [reaches(x if x <= 500_000 else np.inf, 500_000) for x in times[0]],
        "long": [reaches(x, 2_000_000) for x in times[1]],
    }
    found = study(groups)
    row = found.primary.set_index("a").loc["long"]
    reached = [(x <= 500_000).sum() for x in times]
    assert found.medians.set_index("variant").loc[["short", "long"], "reached"].tolist() == reached
    short, long = np.where(times > 500_000, np.inf, times)
    np.testing.assert_allclose(row["estimate"], probability_of_improvement(-long, -short), atol=0.01)  # whole env steps
    assert not row["conclusive"] and row["estimate"] < 0.7
    assert found.survival["env_steps"].max() == 500_000 and (found.times["time"] <= 500_000).all()
    late = int((times[1] > 500_000).sum())
    assert any(f"times are cut at 500,000 env steps, which all have, and {late} runs that reached" in x for x in found.warnings)
    truncated = study(groups | {"long": [reaches(x if x <= 500_000 else np.inf, 500_000) for x in times[1]]})
    for name in ("estimate", "p", "lo", "hi"):  # what came later makes no difference
        assert truncated.primary.set_index("a").loc["long", name] == row[name]


def test_runs_that_stop_when_they_get_there_do_not_shorten_the_others():
    """Solved at 100k, and stopped there: it was followed to its budget, as far as this question goes."""
    stops = {"curve": {100_000: 480.0}, "budget": float(END)}
    found = study({"a": [stops] * 10, "b": [reaches(6e5)] * 10})
    assert found.times["horizon"].unique().tolist() == [END] and found.times["reached"].all()
    assert found.restricted.set_index("variant").loc["b", "estimate"] == 6e5


# Practically equal


def test_practically_equal(rng: np.random.Generator):
    """Both at 201k ± 1 %: no number of seeds would make that clear, and none is needed."""
    groups = {v: [reaches(x) for x in rng.normal(201_000, 2010, 30)] for v in "ab"}
    found = study(groups)
    assert found.primary["conclusion"].item() == "equal" and "**a and b are practically equal**" in said_of(found)
    assert study(groups, equivalent=0.0).primary["conclusion"].item() == "inconclusive"
    assert study({v: group[:9] for v, group in groups.items()}).primary["conclusion"].item() == "inconclusive"


def test_two_that_seldom_get_there_are_not_equal():
    """Their restricted means are, near the horizon; that is the horizon's doing."""
    groups = {v: [reaches(9e5)] * 5 + [reaches(np.inf)] * 25 for v in "ab"}
    assert study(groups).primary["conclusion"].item() == "inconclusive"


# What must not change a pair


def test_an_unrelated_variant_changes_no_p_of_a_pair(rng: np.random.Generator):
    groups = {v: [reaches(x) for x in rng.lognormal(np.log(3e5), 0.5, 12)] for v in "ab"}
    groups["b"][0] = {"curve": {1000: 20.0}, "status": "diverged"}
    more = groups | {"c": [reaches(np.inf)] * 12}
    alone, among = (study(g) for g in (groups, more))
    for name in ("primary", "final_pairs", "differences"):
        one, all_ = (getattr(s, name).set_index(["a", "b"]).loc[("a", "b")] for s in (alone, among))
        for column in ("estimate", "lo", "hi", "p"):
            assert one[column] == all_[column] or np.isnan(one[column]) and np.isnan(all_[column]), (name, column)


def test_the_order_of_seeds_and_the_names_of_variants_change_nothing_but_the_side(rng: np.random.Generator):
    groups = {v: [reaches(x) for x in rng.lognormal(np.log(3e5), 0.5, 11)] for v in "ab"}
    row = study(groups).primary.iloc[0]
    other = study({"a": groups["b"][::-1], "b": groups["a"][::-1]}).primary.iloc[0]
    assert row["p"] == other["p"]
    mirrored = 1 - other["estimate"], 1 - other["hi"], 1 - other["lo"]
    np.testing.assert_allclose((row["estimate"], row["lo"], row["hi"]), mirrored)


def test_tables_of_a_study_can_be_saved(tmp_path, rng: np.random.Generator):
    study({v: [reaches(x) for x in rng.lognormal(np.log(3e5), 0.5, 5)] for v in "ab"}).save(tmp_path)
    rows = pd.read_parquet(tmp_path / "final_pairs.parquet")
    assert {"smallest_p", "conclusion", "n_a", "absent_b"} <= set(rows.columns)


# Scores of evaluations, of which most updates have none


def evaluated(folder, returns: list[float], **summary):
    """A run that is evaluated after every third update, and learns with a delay that its evaluations do not have."""
    write_run(folder, [0.0] * 9, **summary)
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    rows = [f"{row},{returns[i // 3] if i % 3 == 2 else ''}" for i, row in enumerate(rows)]
    (folder / "metrics.csv").write_text("\n".join([f"{header},evaluation_return", *rows]) + "\n")


def test_a_report_can_score_by_the_evaluations(tmp_path):
    """Final score, time to the threshold and horizon are those of the updates that were evaluated."""
    for seed in range(3):
        evaluated(tmp_path / f"a{seed}", [10.0, 480.0, 490.0 + seed], variant="a", seed=seed)
        evaluated(tmp_path / f"b{seed}", [10.0, 20.0, 480.0 + seed], variant="b", seed=seed)
    found = Study(load(tmp_path), Question(score="evaluation_return", bootstrap=QUICK))
    assert found.horizons == {"CartPole-v1": 900} and not found.problems
    assert found.scores.set_index(["variant", "seed"])["value"].to_dict() == {
        **{("a", seed): 490.0 + seed for seed in range(3)}, **{("b", seed): 480.0 + seed for seed in range(3)},
    }  # fmt: skip
    assert found.times.groupby("variant")["time"].unique().map(list).to_dict() == {"a": [600.0], "b": [900.0]}
    assert len(found.aligned) and found.aligned["value"].notna().all()
    assert "mean of an evaluation's episodes" in sections.method(found) and "evaluation" in sections.primary_endpoint(found)


def test_runs_that_their_evaluations_stopped_are_not_judged_by_training_without_a_word(tmp_path):
    """By its last 100 episodes such a run seems to have given up early."""
    solved = {"config": {"stop_when_solved": True}, "solved_at_env_steps": 900}
    evaluated(tmp_path / "a", [10.0, 20.0, 480.0], seed=0, **solved)
    evaluated(tmp_path / "b", [10.0, 20.0, 480.0], seed=1)
    by = {
        score: Study(load(tmp_path), Question(score=score, bootstrap=QUICK)) for score in ("return_recent", "evaluation_return")
    }
    said = {score: [line for line in study.warnings if "stopped by an evaluation" in line] for score, study in by.items()}
    assert [line[:6] for line in said["return_recent"]] == ["1 runs"] and said["evaluation_return"] == []


def test_a_metric_that_some_run_has_too_late_is_a_note_and_no_problem(tmp_path: Path):
    """A short run of large batches has its gradient measured once, after another one has ended: the report is good without."""
    simulated.run(tmp_path / "s/short", "a", 0, 1.0, 0.0, 60, 20_000)
    simulated.run(tmp_path / "s/long", "a", 1, 1.0, 0.0, 15, 300_000)
    study = Study(load(tmp_path / "s"))
    assert study.bands_of("grad_variance").empty and not study.problems
    assert any("CartPole-v1: grad_variance: no env steps between" in note for note in study.notes)
