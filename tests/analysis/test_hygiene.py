"""Values chosen on the seeds that are reported, the second stage, and looking again."""

import json
from pathlib import Path

import pandas as pd
import pytest
import simulated
from run_folders import write_run

from analysis import load
from analysis.hygiene import LOOKS, confirmed, look_again, ranges, second_stage, seed_hygiene, sweeper_of
from analysis.report import command as report
from analysis.report.study import Study

OPTUNA = "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"


def grid(folder: Path, rates: dict[float, float], seeds: range = range(3)) -> Path:
    """Learning rate → how soon the runs get there."""
    for rate, speed in rates.items():
        for seed in seeds:
            run = folder / f"{rate}_{seed}"
            config = {"optimiser": {"learning_rate": rate}}
            simulated.run(run, "baseline", seed, speed, 0.0, 15, 300_000, "x.BasicSweeper", config=config)
            (run / ".hydra" / "overrides.yaml").write_text(
                f"- +variant=baseline\n- seed={seed}\n- optimiser.learning_rate={rate}\n- 'env.id=My''Env[a b]'\n"
            )
    return folder


def test_tuning_sweepers(tmp_path: Path):
    simulated.sweep(tmp_path / "tuned", {"a": (1, 0)}, range(3), points=15, sweeper=OPTUNA)
    simulated.sweep(tmp_path / "plain", {"a": (1, 0)}, range(2, 5), points=15)
    assert sweeper_of(tmp_path / "tuned" / "a_0") == OPTUNA and sweeper_of(tmp_path) == ""
    assert seed_hygiene(load(tmp_path / "plain").runs) == []
    said = seed_hygiene(load(tmp_path).runs)
    assert said[0].startswith("seed hygiene: 3 runs were chosen by a sweeper that tunes (OptunaSweeper), on seeds 0–2")
    assert said[1] == "seed hygiene: seeds 2 of the other runs are among those that were tuned on"
    assert any("seed hygiene" in line for line in Study(load(tmp_path)).warnings)


def test_a_report_warns_of_the_seeds_that_were_tuned_on_and_not_of_fresh_ones(tmp_path):
    """hydra.yaml of a run says who chose its values."""
    ours = "hydra_plugins.pgx_optuna.OptunaSweeper"
    simulated.sweep(tmp_path / "s", {"a": (1, 0)}, range(3), points=15, sweeper=ours)
    for seed, rate in ((3, 0.1), (4, 0.1), (3, 0.2), (4, 0.2)):  # the best trial beside the defaults
        run, config = tmp_path / "s-confirmed" / f"{rate}_{seed}", {"optimiser": {"learning_rate": rate}}
        simulated.run(run, "a", seed, 1.0, 0.0, 15, 300_000, f"{ours}\n    confirming: true", config=config)
    assert sweeper_of(tmp_path / "s/a_0") == ours
    [said] = seed_hygiene(load(tmp_path / "s").runs)
    assert "3 runs were chosen by a sweeper that tunes (OptunaSweeper), on seeds 0–2" in said
    assert seed_hygiene(load(tmp_path / "s-confirmed").runs) == []
    assert not any("second stage" in line for line in Study(load(tmp_path / "s-confirmed")).warnings)
    (tmp_path / "s/trials.json").write_text('{"confirm": ["-m", "the same", "again"]}')
    [stage] = [line for line in Study(load(tmp_path / "s")).warnings if "second stage" in line]
    assert "`python -m pgx.run -m 'the same' again && python -m analysis.report" in stage  # by the tuning's own measure


def test_a_plain_grid_is_tuning_too(tmp_path: Path):
    said = seed_hygiene(load(grid(tmp_path, {0.001: 1.0, 0.01: 2.0, 0.1: 0.5})).runs)
    assert said == [
        "seed hygiene: the same seeds (0–2) were run with 3 values of optimiser.learning_rate: the best of them is the best of "
        "many, and looks better than it is, so report it on fresh seeds"
    ]


def test_the_second_stage_is_a_command(tmp_path: Path):
    sweep = grid(tmp_path / "grid", {0.001: 0.7, 0.01: 2.0, 0.1: 0.5})
    command = (
        "python -m pgx.run -m +variant=baseline optimiser.learning_rate=0.01 'env.id=My'\"'\"'Env[a b]' 'seed=range(3,13)' "
        f"hydra.sweep.dir={sweep}-confirmed"
    )
    said = Study(load(sweep)).warnings
    assert (f"second stage, the best values on fresh seeds: `{command} && python -m analysis.report {sweep}-confirmed "
            f"--chosen-on {sweep}`") in said  # fmt: skip
    assert not any("second stage" in line for line in Study(load(simulated.sweep(tmp_path / "s", points=15))).warnings)
    runs = load(sweep).runs
    nothing = runs[["run_id"]].assign(value=float("nan"))
    assert len(second_stage(runs, nothing, "out")) == 1 and second_stage(runs.iloc[:0], nothing, "out") == []


def test_a_value_that_some_runs_have_not_is_a_setting_like_any_other(tmp_path: Path):
    """`optimiser.clip_norm=null,1.0`: null is not a number, and no reason to end without a report."""
    for clip, speed in ((None, 2.0), (1.0, 0.5)):
        for seed in range(3):
            run = tmp_path / "s" / f"{clip}_{seed}"
            config = {"optimiser": {"clip_norm": clip}}
            simulated.run(run, "baseline", seed, speed, 0.0, 15, 300_000, "x.BasicSweeper", config=config)
            asked = "null" if clip is None else clip
            (run / ".hydra" / "overrides.yaml").write_text(f"- +variant=baseline\n- optimiser.clip_norm={asked}\n")
    [said] = [line for line in Study(load(tmp_path / "s")).warnings if "second stage" in line]
    assert "optimiser.clip_norm=null 'seed=range(3,13)'" in said


def test_a_confirmation_needs_fresh_seeds(tmp_path: Path, capsys: pytest.CaptureFixture):
    stage_one = grid(tmp_path / "grid", {0.001: 1.0, 0.01: 2.0})
    runs = load(simulated.sweep(tmp_path / "fresh", {"baseline": (2.0, 0)}, range(3, 6), points=15)).runs
    said, fresh = confirmed(runs, load(stage_one).runs, "grid")
    assert fresh and said == "the values were chosen on seeds 0–2 (grid), and are reported on fresh ones: 3–5"
    again = load(simulated.sweep(tmp_path / "again", {"baseline": (2.0, 0)}, range(2, 4), points=15)).runs
    said, fresh = confirmed(again, load(stage_one).runs, "grid")
    assert not fresh and said.startswith("seed hygiene: seeds 2 are among those of grid, on which the values were chosen")
    study = Study(load(tmp_path / "again"))
    report._look(study, [tmp_path / "again"], [stage_one])
    assert len(study.problems) == 1  # exit code 2: it does not answer what was asked
    study = Study(load(tmp_path / "fresh"))
    report._look(study, [tmp_path / "fresh"], [stage_one])
    assert not study.problems and study.warnings[0].startswith("the values were chosen on seeds 0–2")
    with pytest.raises(SystemExit):
        report.main([str(tmp_path / "fresh"), "--equivalent", "2"])


# Looking again


def add(folder: Path, seeds: range, **more) -> pd.DataFrame:
    for variant in "ab":
        for seed in seeds:
            write_run(folder / f"{variant}{seed}", [1.0, 2, 3], variant=variant, seed=seed, **more)
    return load(folder).runs


def test_adding_seeds_after_a_look_is_said(tmp_path: Path):
    sweep = tmp_path / "sweep"
    assert look_again(sweep, add(sweep, range(10))) == []
    assert look_again(sweep, load(sweep).runs) == []  # the same runs again: no new look
    said = look_again(sweep, add(sweep, range(10, 20)))
    assert len(said) == 1 and "was reported before, with 10 seeds a group" in said[0]
    assert "this is look 2" in said[0] and "about 5% of the time, and 3% at a single one" in said[0]
    assert look_again(sweep, load(sweep).runs) == said  # it stays true
    said = look_again(sweep, add(sweep, range(20, 21)))
    assert "with 10, 20 seeds a group" in said[0] and "this is look 3" in said[0]
    assert look_again(sweep, load(sweep).runs[lambda runs: runs["seed"] < 5]) == []  # nothing was added to that


def test_what_is_said_of_more_looks_than_were_simulated(tmp_path: Path):
    said = [look_again(tmp_path, add(tmp_path, range(n, n + 1))) for n in range(7)]
    assert "look 5" in said[4][0] and "about 11% of the time" in said[4][0]
    assert "look 6" in said[5][0] and "more than 11% of the time" in said[5][0]


def test_a_look_at_runs_that_had_not_ended_counts_those_that_had(tmp_path: Path):
    add(tmp_path, range(5))
    assert look_again(tmp_path, add(tmp_path, range(5, 10), status="running")) == []
    runs = load(tmp_path).runs
    assert "with 5 seeds a group" in look_again(tmp_path, runs.assign(status="completed"))[0]


def test_another_variant_is_no_further_look(tmp_path: Path):
    look_again(tmp_path, add(tmp_path, range(5)))
    write_run(tmp_path / "c0", [1.0, 2, 3], variant="c", seed=0)
    assert look_again(tmp_path, load(tmp_path).runs) == []


@pytest.mark.parametrize("content", ["{", "[]", '{"looks": 3}', '{"looks": [{"a on e": ["x"]}]}', "[" * 100_000, "\udcff"])
def test_a_memory_that_is_no_good_is_said_and_replaced(tmp_path: Path, content: str):
    runs = add(tmp_path, range(2))
    (tmp_path / LOOKS).parent.mkdir(exist_ok=True)
    (tmp_path / LOOKS).write_bytes(content.encode(errors="surrogateescape"))
    (said,) = look_again(tmp_path, runs)
    assert "earlier reports are not known" in said and "\n" not in said
    assert json.loads((tmp_path / LOOKS).read_text()) == {"looks": [{"a on CartPole-v1": [0, 1], "b on CartPole-v1": [0, 1]}]}
    assert look_again(tmp_path, runs) == []


def test_a_memory_that_cannot_be_written_is_said(tmp_path: Path):
    runs = add(tmp_path / "s", range(2))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".analysis").touch()  # a file where the folder would be
    (said,) = look_again(tmp_path / "other", runs)
    assert "later report will not know" in said or "earlier reports are not known" in said


def test_ranges():
    assert ranges([0, 1, 5, 6, 9, 7]) == "0–1, 5–7, 9"
    assert (ranges([5, 1, 2, 3]), ranges([]), ranges([None])) == ("1–3, 5", "unknown", "unknown")
