"""The row, and the whole way from folders to results: same bytes twice, and something sensible from anything."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_folders import write_run

from analysis import Tables, align, curves, ledger, load
from analysis.load import InputError, warnings
from analysis.results import COLUMNS, params_json, row, table
from analysis.statistics import aggregates, compare, events, reliability, survival

ROOT = Path(__file__).parents[2]
BOOTSTRAP = aggregates.Bootstrap(n_boot=50)
COMPARISON = compare.Comparison(n_boot=50, n_permutations=99)


def test_row_and_table():
    @dataclass(frozen=True)
    class Spec:
        window: float = 3.0

    rows = [
        row(
            "variant",
            "a",
            "e",
            "m",
            1,
            n_runs=3,
            params=[Spec(), {"τ": np.float64(2)}],
            warning=["x", "", "x", "y"],
            p=0.5,
        )
    ]
    frame = table(rows, "tau")
    assert list(frame.columns) == [*COLUMNS, "tau", "p"]
    assert json.loads(frame.loc[0, "params_json"]) == {"window": 3.0, "τ": 2.0} and frame.loc[0, "warning"] == "x; y"
    assert frame["rng_seed"].isna().all() and frame["lo"].isna().all()
    empty = table([], "tau")
    assert list(empty.columns) == [*COLUMNS, "tau"] and empty["estimate"].dtype == float and empty["n_runs"].dtype == int
    assert params_json(None) == "{}"


def everything(tables: Tables) -> dict[str, pd.DataFrame]:
    """Every table that this package makes of a sweep."""
    mean, recent = curves(tables, "return_mean"), curves(tables, "return_recent")
    aligned = align.align(mean, align.grid(mean, 5))
    scores = align.with_all(align.score_when(recent, recent["env_steps"].min()), tables.runs)
    ways = events.ways_up(mean, dict.fromkeys(tables.runs["env"], 475.0))
    falls = events.collapses(mean, ways)
    became = events.outcomes(tables.runs, mean, falls, ways)
    shares = events.collapse_shares(became, ways)
    times = survival.times_to_threshold(recent, tables.runs, 5.0)
    different = compare.differences(scores, "r", COMPARISON)
    return {
        "ledger": ledger(tables.runs),
        "within": reliability.within_runs(mean, "y"),
        "across": reliability.across_runs(
            aligned, mean, "y", {env: way.base for env, way in ways.items()}, bootstrap=BOOTSTRAP
        ),
        "rollouts": reliability.across_rollouts(mean, "y"),
        "iqm": aggregates.aggregate(scores, "r", spec=BOOTSTRAP),
        "bands": aggregates.curve_bands(aligned, "y", spec=BOOTSTRAP),
        "profile": aggregates.profile(scores, "r", [1, 2], BOOTSTRAP),
        "improvements": aggregates.improvements(scores, "r", BOOTSTRAP),
        "tolerance": aggregates.tolerance(scores, "r"),
        "tolerance_bands": aggregates.tolerance_bands(aligned, "y"),
        "drawdowns": events.drawdowns(mean),
        "outcomes": became,
        "collapse_shares": shares,
        "collapse_tests": compare.collapse_tests(shares),
        "survival": survival.kaplan_meier(times),
        "medians": survival.median_times(times),
        "restricted": survival.restricted_means(times, 100, BOOTSTRAP),
        "log_rank": survival.log_rank(times),
        "differences": compare.adjust(different),
        "paired": compare.differences(scores, "r", compare.Comparison(paired=True, n_boot=50, n_permutations=99)),
        "effects": compare.effect_sizes(scores, "r", COMPARISON),
        "correlations": compare.correlations(scores, "r"),
        "ratios": survival.restricted_ratios(times, 100, BOOTSTRAP),
        "area": align.area(mean, 300),
    }


SWEEPS = {
    "one run": [("a", 0, [1.0, 5, 3, 7])],
    "one run of one point": [("a", 0, [1.0, 2, 3])],
    "one seed": [("a", 0, [1.0, 5, 3, 7]), ("b", 0, [2.0, 2, 2, 2])],
    "constant": [(v, s, [2.0, 2, 2, 2]) for v in "ab" for s in range(4)],
    "nan": [(v, s, [1.0, np.nan, np.nan, np.nan]) for v in "ab" for s in range(4)],
    "unequal": [(v, s, list(range(3 + s))) for v in "ab" for s in range(5)],
    "three variants": [(v, s, [1.0, s, 3, 4 + s]) for v in "abc" for s in range(12)],
}


def made(folder: Path, runs: list[tuple[str, int, list[float]]], **summary: object) -> Path:
    for variant, seed, returns in runs:
        write_run(folder / f"{variant}{seed}", returns, variant=variant, seed=seed, **summary)
    return folder


@pytest.mark.parametrize("runs", SWEEPS.values(), ids=SWEEPS)
@pytest.mark.filterwarnings("error")
def test_any_sweep_gives_tables(tmp_path: Path, runs: list):
    folder = made(tmp_path / "sweep", runs)
    write_run(folder / "lost", None, status="failed", error="no", variant="a", seed=99)
    tables = load(folder)
    results = everything(tables)
    assert results["ledger"]["runs"].sum() == len(runs) + 1 == len(results["outcomes"])
    for name, result in (results | {"runs": tables.runs, "metrics": tables.metrics}).items():
        result.to_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), result)
        if "params_json" in result:
            assert list(result.columns[: len(COLUMNS)]) == list(COLUMNS), name
            assert (result["estimate"].notna() | (result["warning"] != "")).all(), name  # no NaN without a reason
            assert result["params_json"].map(json.loads).map(lambda x: isinstance(x, dict)).all()
            two = result["lo"].notna() & result["hi"].notna()
            assert (result.loc[two, "lo"] <= result.loc[two, "hi"]).all(), name
    assert results["iqm"]["warning"].str.contains("runs have no score").any()


@pytest.mark.filterwarnings("error")
def test_mixed_environments_are_never_mixed(tmp_path: Path):
    made(tmp_path / "s" / "cart", [("a", s, [1.0, 2, 3]) for s in range(3)])
    made(tmp_path / "s" / "acro", [("a", s, [-5.0, -4, -3]) for s in range(3)], env="Acrobot-v1")
    tables = load(tmp_path / "s")
    assert any(said.startswith("several environments") for said in warnings(tables.runs))
    results = everything(tables)
    assert results["iqm"]["estimate"].tolist() == [-4.0, 2.0] and results["iqm"]["env"].tolist() == [
        "Acrobot-v1",
        "CartPole-v1",
    ]
    assert results["differences"].empty and set(results["bands"]["env"]) == {"Acrobot-v1", "CartPole-v1"}


def test_all_failed(tmp_path: Path):
    for seed in range(3):
        write_run(tmp_path / str(seed), None, seed=seed, status="failed", error="ValueError: no")
    tables = load(tmp_path)
    assert ledger(tables.runs)["failed"].tolist() == [3]
    assert warnings(tables.runs) == ["3 of 3 runs are not completed: 3 failed"]
    with pytest.raises(InputError, match="there are: none at all"):
        curves(tables, "return_mean")


def test_same_bytes_twice(tmp_path: Path):
    """Two processes with different hash seeds and a cold and a warm cache: the same bytes in every table."""
    made(tmp_path / "sweep", [(v, s, list(np.random.default_rng(s).normal(4, 2, 9))) for v in "abc" for s in range(5)])
    code = (
        "import hashlib, sys; from test_results import everything, load\n"
        "for name, x in everything(load(sys.argv[1])).items():\n"
        "    print(name, len(x), hashlib.sha256(x.to_csv(float_format='%a').encode()).hexdigest())"
    )
    said = []
    for hash_seed in ("1", "2"):
        path = os.pathsep.join([str(Path(__file__).parent), str(ROOT)])
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", code, str(tmp_path / "sweep")]
        said.append(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert said[0] == said[1] and len(said[0].splitlines()) == 24


def test_imports_neither_jax_nor_pgx():
    """But for the notebooks, which are no modules: one of them runs pgx to teach it."""
    scripts = [path for path in sorted((ROOT / "analysis").rglob("*.py")) if not path.with_suffix(".ipynb").exists()]
    names = (path.relative_to(ROOT).with_suffix("") for path in scripts if path.stem != "__init__")
    modules = ", ".join(str(name).replace("/", ".") for name in names)
    code = f"import sys, {modules}; print(sorted({{'jax', 'pgx', 'seaborn', 'matplotlib'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("[]", "['matplotlib', 'seaborn']")
    for path in scripts:
        assert not any(line.split()[:2] in (["import", "jax"], ["import", "pgx"]) for line in path.read_text().splitlines())
