"""`python -m pgx.diagnose`: a table beside each run that can be had again to the byte, goes on where it was stopped,
and is not lost because one checkpoint is."""

import csv
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from program import train_here

from pgx import diagnose, evaluation
from pgx.diagnosis import quality
from pgx.runs.checkpoint import CheckpointError, Checkpoints

TINY = ("scale_observations=true", "reward_scale=0.3")  # so that what is measured is what the learner sees
TINY += ("episodes_per_update=4", "checkpoint_every=2", "updates_per_chunk=1", "num_updates=4", "env=catch")
TINY += ("policy.width=8",)
SMALL = ("--episodes", "24", "--batches", "2,4", "--updates", "5", "--states", "6", "--actions", "3", "--continuations", "2")
PATHWISE = {"cosine_pathwise", "agreement"}
"""Measured only where dynamics and rewards can be differentiated."""
SETTINGS = "episodes 24 in 2+4 updates 5x8 states 6x3x2"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two runs of one program, checkpoints 2 and 4 each, measured. Tests that change it copy it."""
    sweep = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        train_here("+variant=baseline", *TINY, f"seed={seed}", folder=sweep / str(seed))
    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("*") if path.is_file()}
    diagnose.main([str(sweep), *SMALL])
    after = {path: path.stat().st_mtime_ns for path in sweep.rglob("*") if path.is_file()}
    assert {path.name for path in after.keys() - before.keys()} == {"diagnosis.csv"}
    assert all(after[path] == stamp for path, stamp in before.items())
    return sweep


@pytest.fixture
def sweep(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "sweep")


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "diagnosis.csv", newline="") as file:
        return list(csv.DictReader(file))


def tables(sweep: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in sweep.glob("*/diagnosis.csv")}


def said(capsys, *arguments: object, code: int = 0) -> tuple[str, list[str]]:
    """What is on stdout, and each line on stderr."""
    capsys.readouterr()
    if code:
        with pytest.raises(SystemExit) as end:
            diagnose.main([str(x) for x in arguments])
        assert end.value.code == code
    else:
        diagnose.main([str(x) for x in arguments])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return out, err.splitlines()


def test_every_quantity_of_every_checkpoint_is_there(made):
    for run in "01":
        found = rows(made / run)
        assert tuple(found[0]) == tuple(diagnose.COLUMNS) and {row["update"] for row in found} == {"2", "4"}
        assert {row["quantity"] for row in found} == diagnose.QUANTITIES.keys() - PATHWISE
        counted = Counter((row["quantity"], row["of"], row["batch_size"]) for row in found)
        assert counted["return", "", ""] == 2 * 24 and counted["post_update_return", "", ""] == 2 * 5
        estimators = ("vanilla", "reward_to_go", "baseline", "gae", "leave_one_out", "vanilla, whitened")
        estimators += ("baseline, own V", "own")
        assert {counted["snr", name, size] for name in estimators for size in "24"} == {2}
        parts = ("variance_state", "variance_action", "variance_return")
        baselines = ("reward_to_go", "baseline", "baseline, own V", "exact V")
        assert {counted[part, name, ""] for part in parts for name in baselines} == {2}
        with open(made / run / "metrics.csv", newline="") as file:
            steps = {row["update"]: row["env_steps"] for row in csv.DictReader(file)}
        assert {(row["update"], row["env_steps"]) for row in found} == {(u, steps[u]) for u in "24"}
        assert {row["n"] for row in found if row["quantity"] == "snr" and row["batch_size"] == "4"} == {"6"}


def test_the_table_says_what_was_computed(made):
    """Recomputed here from the checkpoint alone: the streams come from seed and update, and from no order."""
    import jax
    import jax.numpy as jnp

    from pgx.build import build, skeleton
    from pgx.diagnosis.seen import SeenEnv
    from pgx.loop import Keys

    config = json.loads((made / "1" / "run.json").read_text())["config"]
    env, algorithm = build(config)
    with Checkpoints(made / "1" / "checkpoints") as checkpoints:
        state = checkpoints.at(4, skeleton(config, env, algorithm))
    stream = jax.random.fold_in(Keys.of_seed(config["seed"]).evaluate, 0xD1A6)
    key, _, of_fit, of_states, of_paths = jax.random.split(jax.random.fold_in(stream, 4), 5)
    estimand = quality.Estimand(algorithm.gamma, jnp.array(0.95, jnp.float32), False, False)
    rollout, look, measure, decompose, _ = diagnose._programs()  # compiled already
    sets = [rollout(env, state.actor, key, num_episodes=24, group_size=None) for key in jax.random.split(key, 3)]
    own = (state.critic, algorithm)
    seen = [look(episodes, state.scaling, algorithm.reward_scale) for episodes in sets]
    seen_env = SeenEnv(env, state.scaling, algorithm.reward_scale)
    found, value = measure(state.policy, *seen, *own, estimand, of_fit, (seen_env, of_paths), batch_sizes=(2, 4), grouped=None)
    sizes = {"num_episodes": 24, "num_states": 6, "num_draws": 3, "num_continuations": 2}
    found |= decompose(seen_env, state.policy, value, *own, estimand, of_states, **sizes)
    written = [row for row in rows(made / "1") if row["update"] == "4"]
    np.testing.assert_array_equal([float(x["value"]) for x in written if x["quantity"] == "return"], sets[-1].reward.sum(0))
    for (of, quantity, size, n), x in found.items():
        (row,) = [x for x in written if (x["of"], x["quantity"], x["batch_size"]) == (of, quantity, str(size or ""))]
        assert row["n"] == str(n) and float(row["value"] or "nan") == pytest.approx(float(x), rel=1e-6, nan_ok=True)


def test_finished_checkpoints_are_skipped_and_the_bytes_are_the_same(sweep, made, capsys):
    out, err = said(capsys, sweep, *SMALL)
    assert out.startswith("0 checkpoints measured; 4 were there already") and not err
    assert tables(sweep) == tables(made)
    # stopped after the first checkpoint of one run, and in the middle of writing another's
    kept = [line for line in (sweep / "0" / "diagnosis.csv").read_text().splitlines(True) if not line.startswith("4,")]
    (sweep / "0" / "diagnosis.csv").write_text("".join(kept))
    table = sweep / "1" / "diagnosis.csv"
    table.write_bytes(table.read_bytes()[:-100])
    out, _ = said(capsys, sweep / "1", sweep / "0", *SMALL)
    assert out.startswith("3 checkpoints measured; 1 were there already")
    assert tables(sweep) == tables(made)


def test_other_settings_are_measured_again(sweep, made, capsys, monkeypatch):
    """Rows of another measurement do not stand beside those of this one."""
    monkeypatch.setattr(diagnose, "VERSION", 99)
    assert said(capsys, sweep / "0", *SMALL, "--checkpoints", "1")[0].startswith("1 checkpoints measured; `")
    found = rows(sweep / "0")
    assert {(row["update"], row["settings"]) for row in found} == {("4", f"{SETTINGS} v99")}
    old = [row["value"] for row in rows(made / "0") if row["update"] == "4"]
    assert [row["value"] for row in found] == old


def test_a_group_is_compiled_once(made):
    """All runs and checkpoints of this file differ in numbers only. Episodes are played 24, 4 and 8 at a time."""
    assert [program._cache_size() for program in diagnose._programs()] == [3, 1, 1, 1, 1]


def test_no_episode_is_one_that_evaluate_plays(made):
    """Nor one of training: those have another stream."""
    config = json.loads((made / "0" / "run.json").read_text())["config"]
    assert diagnose._STREAM > 10_000  # `evaluate` folds in 0, 1, 2 …: a batch each
    assert evaluation.COMPILED_LANES * diagnose._STREAM > 10**7 and config["seed"] == 0


# What is wrong is said in one line, and the rest is done.


def flip_a_bit(step: Path) -> None:
    file = step / "state" / "bytes" / "0"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_what_is_broken_is_named_and_the_others_are_measured(sweep, made, capsys):
    for path in sweep.glob("*/diagnosis.csv"):
        path.unlink()
    flip_a_bit(sweep / "0" / "checkpoints" / "2")
    shutil.copytree(sweep / "1", sweep / "v", ignore=lambda *_: ["checkpoints"])
    shutil.copytree(sweep / "1", sweep / "torn")
    (sweep / "torn" / "run.json").write_text('{"status"')
    shutil.copytree(sweep / "1", sweep / "other")
    about = json.loads((sweep / "1" / "run.json").read_text())
    about["config"]["policy"]["width"] = 16
    (sweep / "other" / "run.json").write_text(json.dumps(about))
    shutil.copytree(sweep / "1", sweep / "old")
    del about["config"]["gamma"]
    (sweep / "old" / "run.json").write_text(json.dumps(about))
    out, err = said(capsys, sweep, *SMALL, code=1)
    assert out.startswith("3 checkpoints measured"), (out, err)
    assert all(line.startswith("pgx: ") for line in err) and len(err) == 6
    assert f"checkpoint {sweep / '0' / 'checkpoints' / '2'} is defective: state/bytes/0 is altered" in "\n".join(err)
    assert sum(str(sweep / "other") in line and "is of a run with another configuration" in line for line in err) == 2
    for name, says in {"v": "has no checkpoint yet", "torn": "cannot be read", "old": "gamma: it is missing"}.items():
        assert sum(str(sweep / name) in line and says in line for line in err) == 1
    assert tables(sweep)["1"] == tables(made)["1"]
    assert {row["update"] for row in rows(sweep / "0")} == {"4"}


@pytest.mark.parametrize(
    "how", ["env.bound=clip", pytest.param("env.bound=tanh", marks=pytest.mark.slow),
            pytest.param("policy.clipped_score=true", marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_run_with_continuous_actions_is_measured_too(how, tmp_path, capsys):
    """By every estimator, with the variance divided, and, where actions are cut off, by the clipped score beside."""
    tiny = (*TINY[:-2], "policy.width=4", "env=pendulum", "+env.params.max_steps_in_episode=12", "scale_observations=true")
    train_here("+variant=baseline", *tiny, how, folder=tmp_path / "run")
    out, err = said(capsys, tmp_path, *SMALL, "--checkpoints", "1")
    assert out.startswith("1 checkpoints measured") and not err
    found = rows(tmp_path / "run")
    assert {row["quantity"] for row in found} == diagnose.QUANTITIES.keys()
    value = {(row["quantity"], row["of"], row["batch_size"]): row["value"] for row in found}
    assert all(value["variance", of, "4"] for of in ("vanilla", "gae", "baseline, own V", "own"))
    assert all(value[f"variance_{part}", "baseline", ""] for part in ("state", "action", "return"))
    beside = {of for quantity, of, _ in value if quantity in ("variance", "variance_action") and "score" in of}
    assert beside == (set() if "tanh" in how else {"baseline, clipped score"})
    assert {value["cosine_pathwise", of, "2"] == "" for of in ("vanilla", "own", "baseline, own V")} == {False}
    assert ("cosine_pathwise", "pathwise", "2") not in value and value["snr_reference", "pathwise", ""]
    if beside:
        by_raw, by_clipped = (float(value["variance", of, "2"]) for of in ("baseline", "baseline, clipped score"))
        assert by_clipped < by_raw


def test_a_run_on_the_host_is_measured_too(tmp_path, capsys):
    """All that takes whole episodes only; into a state such an environment cannot be put back."""
    host = ("+variant=baseline", *TINY[:-2], "policy.width=8", "env=gymnasium", "env.id=CartPole-v1", "env.max_steps=30")
    train_here(*host, folder=tmp_path / "run")
    arguments = (tmp_path, *SMALL, "--checkpoints", "1")
    out, err = said(capsys, *arguments)
    assert out.startswith("1 checkpoints measured") and not err
    found = rows(tmp_path / "run")
    parts = {"variance_state", "variance_action", "variance_return"}
    assert {row["quantity"] for row in found} == diagnose.QUANTITIES.keys() - parts - PATHWISE
    counted = Counter(row["quantity"] for row in found)
    assert counted["return"] == 24 and counted["post_update_return"] == 5
    returns = {float(row["value"]) for row in found if row["quantity"] == "return"}
    assert min(returns) >= 8 and max(returns) <= 30 and len(returns) > 5  # a pole falls in 8 steps at the soonest
    again = (tmp_path / "run" / "diagnosis.csv").read_bytes()
    (tmp_path / "run" / "diagnosis.csv").unlink()
    said(capsys, *arguments)
    assert (tmp_path / "run" / "diagnosis.csv").read_bytes() == again


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{}/nowhere"], "there is no folder"),
        (["{}/0/run.json"], "is no folder"),
        (["{}/0/checkpoints"], "holds no run (a run is a folder with run.json in it)"),
        (["{}", "--episodes", "5"], "--episodes: '5' is not allowed; allowed: a whole number ≥ 6"),
        (["{}", "--episodes", "x"], "--episodes: 'x' is not allowed"),
        (["{}", "--batches", "1,2"], "--batches: '1' is not allowed"),
        (["{}", "--batches", ""], "--batches: '' is not allowed"),
        (["{}", "--episodes", "20", "--batches", "2,7"], "20 episodes are fewer than three batches of 7"),
        (["{}", "--updates", "0"], "--updates: '0' is not allowed"),
        (["{}", "--states", "1"], "--states: '1' is not allowed"),
        (["{}", "--continuations", "1"], "--continuations: '1' is not allowed; allowed: a whole number ≥ 2"),
        (["{}", "--frob"], "--frob"),
        ([], "required: SWEEP_DIR"),
    ],
)
def test_bad_input(arguments, says, made, capsys):
    out, err = said(capsys, *(x.format(made) for x in arguments), code=2)
    assert not out and len(err) == 1 and err[0].startswith("pgx: ") and says in err[0]


def test_checkpoints_from_the_first_to_the_newest(sweep):
    for step in (6, 8, 10, 12):
        shutil.copytree(sweep / "0" / "checkpoints" / "4", sweep / "0" / "checkpoints" / str(step))
    (sweep / "0" / "diagnosis.csv").unlink()
    chosen = {n: diagnose.plan(sweep / "0", diagnose.Options(checkpoints=n)).updates for n in (1, 2, 3, 9)}
    assert chosen == {1: [12], 2: [2, 12], 3: [2, 6, 12], 9: [2, 4, 6, 8, 10, 12]}


def test_one_checkpoint_can_be_asked_for(sweep):
    """And not, without a word, another one."""
    from pgx.build import build, skeleton

    config = json.loads((sweep / "0" / "run.json").read_text())["config"]
    env, algorithm = build(config)
    empty = skeleton(config, env, algorithm)
    with Checkpoints(sweep / "0" / "checkpoints") as checkpoints:
        assert [int(checkpoints.at(update, empty).update) for update in (2, 4)] == [2, 4]
        flip_a_bit(sweep / "0" / "checkpoints" / "4")
        for update in (4, 3):
            with pytest.raises(CheckpointError, match="altered" if update == 4 else "no checkpoint of update 3"):
                checkpoints.at(update, empty)


def test_links_to_runs_are_followed_once_each(tmp_path):
    for seed in (0, 1):
        (tmp_path / "all" / str(seed)).mkdir(parents=True)
        (tmp_path / "all" / str(seed) / "run.json").write_text("{}")
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "first").symlink_to(tmp_path / "all" / "0")
    (chosen / "everything").symlink_to(tmp_path / "all")
    (chosen / "round").symlink_to(chosen)
    found = diagnose.run_folders([chosen])
    assert sorted(folder.resolve().name for folder in found) == ["0", "1"]
