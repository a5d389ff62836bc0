"""Run folders → tables: what is in them, what is wrong with them, and that the cache never lies."""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_folders import HEADER, lines, write_run

from analysis.load import METRICS, RUNS, InputError, Tables, curves, grouped_by, ledger, load, replicate_keys, warnings


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    folder = tmp_path / "sweep"
    for seed in range(3):
        write_run(folder / f"{seed}", [1.0, 2.0, 3.0, 4.0], seed=seed, variant="vanilla")
        write_run(folder / f"{seed + 9}", [2.0, 4.0, 6.0], seed=seed)
    return folder


def test_tables(sweep: Path):
    tables = load(sweep)
    assert list(tables.runs["run_id"]) == ["0", "1", "2", "9", "10", "11"]  # 10 after 9
    assert list(tables.runs.columns) == list(RUNS)  # nothing varies but variant and seed
    assert list(tables.runs["env_steps"]) == [400] * 3 + [300] * 3
    metrics = tables.metrics
    assert tuple(metrics.columns) == METRICS
    assert not metrics.duplicated(["run_id", "metric", "env_steps"]).any()
    assert set(metrics["metric"]) == {"episodes", "return_mean", "return_recent"}  # value_loss applies to none
    mean = metrics[(metrics["run_id"] == "10") & (metrics["metric"] == "return_mean")]
    assert mean[["update", "env_steps", "value", "episodes"]].to_numpy().tolist() == [
        [1, 100, 2, 10],
        [2, 200, 4, 10],
        [3, 300, 6, 10],
    ]
    recent = metrics[metrics["metric"] == "return_recent"]
    assert recent["env_steps"].min() == 300 and (recent["episodes"] == 10).all()  # empty until then: no rows


def test_curves(sweep: Path):
    of_mean = curves(load(sweep), "return_mean")
    assert list(of_mean.columns) == ["run_id", "variant", "env", "seed", "env_steps", "value", "episodes"]
    assert of_mean.iloc[4].tolist() == ["1", "vanilla", "CartPole-v1", 1, 100, 1.0, 10]
    with pytest.raises(InputError, match=r"no run has a metric 'retrun'; there are: .*return_mean"):
        curves(load(sweep), "retrun")


def test_config_values_that_vary_are_columns(sweep: Path):
    write_run(sweep / "lr", [1.0], config={"optimiser": {"learning_rate": 0.1}, "depth": [1, 2]}, seed=7)
    runs = load(sweep).runs.set_index("run_id")
    assert runs.loc["lr", ["depth", "optimiser.learning_rate"]].tolist() == ["[1, 2]", 0.1]
    assert np.isnan(runs.loc["0", "optimiser.learning_rate"])
    assert any("also differ in depth, optimiser.learning_rate" in said for said in warnings(load(sweep).runs))
    grouped = grouped_by(load(sweep), ["variant", "optimiser.learning_rate"])
    assert set(grouped.runs["variant"]) == {
        "vanilla, learning_rate –", "baseline, learning_rate –", "baseline, learning_rate 0.1"
    }  # fmt: skip
    with pytest.raises(InputError, match=r"no column 'lr'; what varies: variant, depth, optimiser.learning_rate"):
        grouped_by(load(sweep), ["lr"])


def test_a_torn_last_line_is_dropped_and_said(sweep: Path):
    whole = load(sweep).metrics
    with open(sweep / "9" / "metrics.csv", "a") as file:
        file.write("4,400,40,8.0,5")
    tables = load(sweep)
    pd.testing.assert_frame_equal(tables.metrics, whole)
    assert "torn last line" in tables.runs.set_index("run_id").loc["9", "error"]
    assert tables.runs.set_index("run_id").loc["9", "status"] == "completed"


BROKEN = {
    "garbage": b"\x00\xff\xfe\n\n\n",
    "no columns": b"a,b\n1,2\n",
    "text": f"{HEADER}\n1,100,10,2.0,,\n2,200,20,oops,,\n".encode(),
    "too many cells": f"{HEADER}\n1,100,10,2.0,,\n2,200,20,1.0,,,,\n".encode(),
    "same column twice": b"update,env_steps,x,x\n1,2,3,4\n",
    "empty": b"",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_table_stays_in_the_ledger_and_spoils_no_other(sweep: Path, content: bytes):
    whole = load(sweep).metrics
    write_run(sweep / "bad", seed=5)
    (sweep / "bad" / "metrics.csv").write_bytes(content)
    for _ in range(2):  # from the files, then from the cache
        tables = load(sweep)
        bad = tables.runs.set_index("run_id").loc["bad"]
        assert bad["status"] == "broken" and "metrics.csv cannot be read" in bad["error"] and "\n" not in bad["error"]
        pd.testing.assert_frame_equal(tables.metrics.astype({"run_id": str}), whole.astype({"run_id": str}))
    row = ledger(tables.runs).set_index("variant").loc["baseline"]
    assert (row["runs"], row["completed"], row["broken"]) == (4, 3, 1) and "cannot be read" in row["reasons"]


def test_broken_summaries(sweep: Path):
    for name, content in {
        "json": b"{",
        "list": b"[]",
        "bytes": b"\xff",
        "types": b'{"status": 3, "seed": "x"}',
    }.items():
        write_run(sweep / name, [1.0])
        (sweep / name / "run.json").write_bytes(content)
    job = sweep / "job"
    (job / ".hydra").mkdir(parents=True)
    (job / ".hydra" / "overrides.yaml").write_text("- +variant=gae\n- seed=12\n")
    write_run(sweep / "lost", None)
    write_run(sweep / "alive", [1.0], status="running", wall_seconds=None, error=None)
    write_run(sweep / "dead", None, status="failed", error="ValueError: no")
    runs = load(sweep).runs.set_index("run_id")
    assert runs.loc[["json", "list", "bytes", "types", "lost"], "status"].eq("broken").all()
    assert runs.loc["job", ["status", "variant", "seed", "error"]].tolist() == [
        "missing",
        "gae",
        12,
        "no run.json; no metrics.csv",
    ]
    assert runs.loc["alive", "status"] == "running" and "killed" in runs.loc["alive", "error"]
    assert runs.loc["dead", "error"].startswith("ValueError: no")
    counted = ledger(load(sweep).runs)
    assert counted["runs"].sum() == len(runs) == counted[list(counted.columns[4:-1])].to_numpy().sum()
    assert warnings(load(sweep).runs)[0].startswith("8 of 14 runs are not completed: ")


def test_nan_is_kept_and_repeated_steps_are_not(tmp_path: Path):
    run = write_run(tmp_path / "s" / "r", seed=1)
    rows = [HEADER, "1,100,10,nan,,", "2,200,20,5.0,,", "2,200,20,6.0,,", "", "1,50,10,-inf,,", "3,,30,1.0,,"]
    (run / "metrics.csv").write_text("\n".join(rows) + "\n")
    tables = load(tmp_path / "s")
    mean = curves(tables, "return_mean")
    assert mean["env_steps"].tolist() == [50, 100, 200]
    np.testing.assert_array_equal(mean["value"], [-np.inf, np.nan, 6.0])
    error = tables.runs.loc[0, "error"]
    assert "2 rows of metrics.csv without update or env_steps" in error and "1 rows of metrics.csv at a step" in error


def test_files_with_other_columns_go_together(sweep: Path):
    run = write_run(sweep / "new", seed=8)
    (run / "metrics.csv").write_text("update,env_steps,novelty\n1,10,0.5\n")
    tables = load(sweep)
    assert curves(tables, "novelty")["value"].tolist() == [0.5]
    assert (tables.metrics.loc[tables.metrics["metric"] == "novelty", "episodes"] == 0).all()
    assert len(curves(tables, "return_mean")) == 21


def test_the_cache_follows_the_files(sweep: Path):
    first = load(sweep).metrics
    cache = sweep / ".analysis" / "metrics.parquet"
    written = cache.stat().st_mtime_ns
    pd.testing.assert_frame_equal(load(sweep).metrics, first)
    assert cache.stat().st_mtime_ns == written
    table = sweep / "0" / "metrics.csv"
    stamp = table.stat().st_mtime_ns
    table.write_text(table.read_text().replace("4.0", "9.0"))  # the same size
    os.utime(table, ns=(stamp + 1, stamp + 1))
    assert curves(load(sweep), "return_mean")["value"].tolist()[3] == 9.0
    cache.write_bytes(cache.read_bytes()[:100])  # damaged: read again
    assert curves(load(sweep), "return_mean")["value"].tolist()[3] == 9.0
    write_run(sweep / "more", [1.0], seed=9)
    assert len(load(sweep).runs) == 7
    assert {path.name for path in (sweep / ".analysis").iterdir()} == {"metrics.parquet"}


def test_the_cache_may_live_elsewhere_or_nowhere(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    load(sweep, cache=tmp_path / "cache")
    assert not (sweep / ".analysis").exists() and len(list((tmp_path / "cache").iterdir())) == 1

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert len(load(sweep).runs) == 6 and not (sweep / ".analysis").exists()


def test_several_sweeps_and_a_single_run(sweep: Path, tmp_path: Path):
    write_run(tmp_path / "other" / "0", [5.0], env="Acrobot-v1")
    tables = load(sweep, tmp_path / "other")
    assert list(tables.runs["run_id"])[-2:] == ["sweep/11", "other/0"] and set(tables.runs["sweep"]) == {
        "sweep",
        "other",
    }
    assert curves(tables, "return_mean").iloc[-1].tolist() == ["other/0", "baseline", "Acrobot-v1", 0, 100, 5.0, 10]
    assert any("several environments (Acrobot-v1, CartPole-v1)" in said for said in warnings(tables.runs))
    assert load(sweep / "9").runs["run_id"].tolist() == ["9"]
    twice = load(sweep, tmp_path / "other" / ".." / "sweep").runs
    assert twice["run_id"].is_unique
    assert any("repeat another one's configuration" in said for said in warnings(twice))


def test_nothing_to_load(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere: no such folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: not a folder"):
        load(tmp_path / "file")
    with pytest.raises(InputError, match="no runs"):
        load(tmp_path)
    with pytest.raises(InputError, match="no folder was given"):
        load()


def test_different_budgets_are_said(tmp_path: Path):
    for seed, budget in enumerate([1000, 3000]):
        write_run(tmp_path / str(seed), [1.0], config={"num_env_steps": budget}, seed=seed)
    assert warnings(load(tmp_path).runs) == ["baseline on CartPole-v1: the budgets differ, from 1,000 to 3,000"]


def test_one_seed_is_said(tmp_path: Path):
    write_run(tmp_path / "a", [1.0])
    assert warnings(load(tmp_path).runs) == ["baseline on CartPole-v1: one seed only, so nothing can be said about other seeds"]


@pytest.mark.slow
def test_speed(tmp_path: Path):
    """1,000 runs of 500 rows: ≤ 4 s, then ≤ 1 s (on 2 cores; tripled here, for a machine that has other work too)."""
    body = "\n".join(lines(list(np.linspace(0, 500, 500).round(3)))) + "\n"
    wide = [
        f"{line},{','.join(['0.12345678'] * 11 if i else [f'm{k}' for k in range(11)])}"
        for i, line in enumerate(body.split("\n")[:-1])
    ]
    for seed in range(1000):
        run = write_run(tmp_path / str(seed), seed=seed)
        (run / "metrics.csv").write_text("\n".join(wide) + "\n")
    for limit in (12, 3):
        start = time.perf_counter()
        assert len(load(tmp_path).runs) == 1000
        seconds = time.perf_counter() - start
        print(f"1,000 runs × 500 rows: {seconds:.2f} s")
        assert seconds < limit


def test_links_are_followed_and_each_run_is_found_once(tmp_path: Path):
    """A folder of chosen runs is usually made with `ln -s`; 1 of 4 was found, without a word."""
    for seed in range(3):
        write_run(tmp_path / "all" / f"run-{seed}", [1, 2, 3], seed=seed)
    chosen = tmp_path / "chosen"
    write_run(chosen / "own", [1, 2, 3], seed=7)
    for seed in range(3):
        (chosen / f"linked-{seed}").symlink_to(tmp_path / "all" / f"run-{seed}")
    (chosen / "again").symlink_to(tmp_path / "all")  # the same three by another way
    (chosen / "round").symlink_to(chosen)  # and a circle
    tables = load(chosen)
    assert sorted(tables.runs["seed"]) == [0, 1, 2, 7] and tables.runs["run_id"].is_unique
    assert set(tables.metrics["run_id"]) == set(tables.runs["run_id"])


def test_groups_are_made_of_what_varies_and_say_of_what(tmp_path: Path):
    """Two learning rates were pooled as replicates by the README's own commands, with intervals and verdicts."""
    for seed in range(2):
        for rate in (0.001, 0.01):
            for variant in ("a", "b"):
                more = {"critic": {"optimiser": {"learning_rate": rate}}, "optimiser": {"learning_rate": rate}}
                config = more | {"whiten": variant == "b", "checkpoint_every": 10 * seed}
                write_run(tmp_path / f"{variant}-{rate}-{seed}", [1, 2, 3], config, variant=variant, seed=seed)
    runs = load(tmp_path).runs
    keys = replicate_keys(runs)
    assert keys == ("variant", "optimiser.learning_rate"), "not what it implies, nor what the variant does, nor files"
    grouped = grouped_by(load(tmp_path), keys).runs
    assert sorted(set(grouped["variant"])) == [f"{v}, learning_rate {rate}" for v in "ab" for rate in ("0.001", "0.01")]
    assert not any("replicates" in said for said in warnings(grouped, keys))
    pooled = [said for said in warnings(runs) if "replicates" in said]
    assert len(pooled) == 2 and pooled[0].endswith("--by variant,optimiser.learning_rate keeps them apart")
    both = grouped_by(load(tmp_path), ["variant", "critic.optimiser.learning_rate", "optimiser.learning_rate"]).runs
    assert both["variant"].iloc[0] == "a, critic.optimiser.learning_rate 0.001, optimiser.learning_rate 0.001"
    assert set(grouped_by(load(tmp_path), ["whiten"]).runs["variant"]) == {"whiten true", "whiten false"}


def test_a_group_is_called_by_the_size_of_its_batches(tmp_path):
    """By episodes or by steps, whichever a run has; how much room there was follows from that."""
    sizes = {"episodes": (10, None, None), "few": (None, 300, 19), "many": (None, 900, 57)}
    for name, size in sizes.items():
        keys = ("episodes_per_update", "steps_per_update", "max_episodes_per_update")
        for seed in range(2):
            write_run(tmp_path / f"{name}_{seed}", [1.0] * 4, dict(zip(keys, size, strict=True)), seed=seed)

    def called(*names: str) -> list[str]:
        runs = load(tmp_path).runs
        runs = runs[runs["folder"].str.contains("|".join(names))].reset_index(drop=True)
        keys = replicate_keys(runs)
        return sorted(set(grouped_by(Tables(runs, load(tmp_path).metrics), keys).runs["variant"]))

    by_steps = ["baseline, steps_per_update 300", "baseline, steps_per_update 900"]
    assert called("episodes", "few", "many") == ["baseline, episodes_per_update 10", *by_steps]
    assert called("episodes", "few") == ["baseline, episodes_per_update 10", by_steps[0]]
    assert called("few", "many") == by_steps


def test_a_run_is_grouped_by_what_it_is_called(tmp_path):
    """A baseline with another estimator is no replicate of the baselines."""
    write_run(tmp_path / "0", [1.0] * 4, label="baseline")
    write_run(tmp_path / "1", [1.0] * 4, label="baseline (estimator=vanilla)")
    write_run(tmp_path / "2", [1.0] * 4)  # of a pgx that gave no labels
    assert load(tmp_path).runs["variant"].tolist() == ["baseline", "baseline (estimator=vanilla)", "baseline"]


def test_a_run_that_went_on_with_other_code_says_so(tmp_path):
    """Its newest commit is not what the first thirty updates were made with."""
    stretch = {"from_update": 1, "git_commit": "abc", "git_dirty": False, "own_code": {}}
    later = stretch | {"from_update": 31, "git_commit": "def", "own_code": {"lab": "0123"}}
    write_run(tmp_path / "s/0", [1.0], git_commit="def", made_with=[stretch, later])
    write_run(tmp_path / "s/1", [1.0], seed=1, made_with=[stretch])
    write_run(tmp_path / "s/2", [1.0], seed=2)  # of an older version
    runs = load(tmp_path / "s").runs
    assert list(runs["git_sha"]) == ["abc → def+", "abc", "abc"] and list(runs["stretches"]) == [2, 1, 1]
    said = warnings(runs)
    assert "the runs were made by 2 versions of the code" in said
    assert any(x.startswith("1 of 3 runs went on with other code, packages, device or settings") for x in said)


def test_a_variant_whose_parts_were_exchanged_is_called_so(tmp_path: Path):
    """`+variant=baseline estimator=vanilla` is no baseline; in a sweep of its own the report took it for one."""
    write_run(tmp_path / "0", [1.0], label="baseline (estimator=vanilla)")
    write_run(tmp_path / "1", [1.0])  # made before runs had a label
    assert load(tmp_path).runs["variant"].tolist() == ["baseline (estimator=vanilla)", "baseline"]
