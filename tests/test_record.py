"""The history of a run and its run.json: what is told of a run, and whether it goes on."""

import errno
import json
import math
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from program import checked

from pgx.config import check_plain
from pgx.declared import Declared
from pgx.errors import ConfigError
from pgx.identity import NEUTRAL
from pgx.runs import record
from pgx.runs.record import History
from pgx.runs.table import Table


def columns(**more: list[float]) -> dict[str, np.ndarray]:
    """A chunk of three updates, as the compiled program returns it."""
    rows = {"env_steps": [30, 40, 50], "episodes": [10, 10, 10], "return_recent": [np.nan, 20.0, 15.0]}
    kinds = {"env_steps": np.int32, "episodes": np.int32}
    return {name: np.array(x, kinds.get(name, np.float32)) for name, x in (rows | more).items()}


def test_rows_are_numbered_and_totals_run_on_over_chunks():
    """Chunks are nobody's business: row k is update k, and env_steps never falls."""
    history = History([], None)
    first, second = history.extend(columns()), history.extend(columns())
    assert [row["update"] for row in first + second] == [1, 2, 3, 4, 5, 6]
    assert [row["env_steps"] for row in first + second] == [30, 70, 120, 150, 190, 240]
    assert [row["episodes"] for row in first + second] == [10, 20, 30, 40, 50, 60]
    assert (history.updates, history.env_steps, history.recent, len(history.rows)) == (6, 240, 15.0, 6)
    assert first[0]["return_recent"] is None  # NaN: not applicable


def test_a_history_read_back_goes_on_as_the_one_that_was_written(tmp_path):
    """The sums of a resumed run start from the file: a rounding there would show in every later row."""
    names = ("update", "env_steps", "episodes", "return_recent", "x")
    table, history = Table(tmp_path / "table.csv", names), History([], None)
    table.begin()
    chunk = columns(x=[0.1, 1 / 3, 1e-8])
    table.append(history.extend(chunk))
    resumed = History(Table(tmp_path / "table.csv", names).keep(3), None)
    assert resumed.rows == history.rows
    assert resumed.extend(chunk) == history.extend(chunk)


@pytest.mark.parametrize(
    ("threshold", "solved"),
    [(None, None), (15.0, 70), (20.0, 70), (20.5, None)],
    ids=["none", "passed", "just", "missed"],
)
def test_a_summary_says_when_it_was_solved_and_what_was_best(threshold, solved):
    """The first time that the threshold was reached, however the run went on; the best, not the last."""
    history = History([], threshold)
    history.extend(columns())
    expected = {"updates": 3, "env_steps": 120, "episodes": 30, "return_best": 20.0}
    assert history.summary() == expected | {"solved_at_env_steps": solved, "evaluation_final": None, "warning": None}


def test_a_history_of_nothing_has_a_summary():
    """A run that diverges in its first update has one, too."""
    history = History([], 475.0)
    expected = {"updates": 0, "env_steps": 0, "episodes": 0, "return_best": None}
    expected |= {"solved_at_env_steps": None, "evaluation_final": None, "warning": None}
    assert history.summary() == expected and history.recent is None


@pytest.mark.parametrize(
    ("share", "returns", "dead"),
    [
        (1.0, [400.0, 9.4], True),
        (0.9, [400.0, 9.4], False),  # it still does something else now and then
        (1.0, [9.5, 9.4], False),  # as good as ever: it never learned
        (1.0, [400.0, 390.0], False),
        (1.0, [-100.0, -500.0], True),  # as on Acrobot
        (1.0, [np.nan, np.nan], False),
    ],
)
def test_a_dead_policy_is_noticed(share, returns, dead):
    """One action whatever it sees, and the return gone: nothing else on screen says that the run is lost. What the
    policy did more than 100 episodes ago does not count."""
    history = History([], 475.0)
    chunk = {"env_steps": [500] * 3, "episodes": [60] * 3, "return_recent": [returns[0], *[returns[1]] * 2]}
    history.extend(columns(**chunk, action_share=[0.5, share, share]))
    assert bool(history.warning) == dead and history.summary()["warning"] == history.warning
    if returns[1] == 9.4 and dead:
        expected = "warning: the policy looks dead: one action in the last 100 episodes, return 9.4 after 400.0"
        assert record.last_line(DONE | {"warning": history.warning}, Path("x")).splitlines()[1:] == [expected]


@pytest.mark.parametrize(
    ("now", "sign"),
    [
        ({"std_mean": 0.01, "saturated_share": 0.2}, "a standard deviation of 0.01"),
        ({"std_mean": 0.5, "saturated_share": 0.999}, "100% of the actions at their ends"),
        ({"std_mean": 0.5, "saturated_share": 0.9}, None),
        ({"std_mean": 0.01}, "a standard deviation of 0.01"),  # unbounded actions are never at an end
    ],
)
def test_a_dead_policy_of_real_numbers_is_noticed(now, sign):
    """No noise is left, or there are only the ends: it does one thing whatever it sees, as a categorical one does that
    takes one action."""
    history = History([], None)
    before = {"std_mean": 0.5, "saturated_share": 0.1}
    chunk = {"env_steps": [500] * 3, "episodes": [60] * 3, "return_recent": [-200.0, -1400.0, -1400.0]}
    shown = {name: [before[name], x, x] for name, x in now.items()}
    history.extend(columns(**chunk, **shown))
    expected = sign and f"the policy looks dead: {sign} in the last 100 episodes, return -1400.0 after -200.0"
    assert history.warning == expected


@pytest.mark.parametrize(("kl", "still"), [([0.1] * 19 + [0.0] * 21, 21), ([0.1] * 21 + [0.0] * 19, None), ([0.0] * 10, None)])
def test_a_policy_that_stands_still_is_noticed(kl, still):
    """A learning rate that has decayed to 0 after the first tenth of a run looks like a plateau."""
    history = History([], None)
    history.extend(columns(env_steps=[500] * len(kl), episodes=[5] * len(kl), return_recent=[1.0] * len(kl), kl=kl))
    expected = still and f"the policy did not move in the last {still} of {len(kl)} updates (KL 0); "
    assert (history.warning or "").startswith(expected or "") and bool(history.warning) == bool(still)


def test_speed_is_of_the_chunk_and_not_of_the_run():
    history = History([], None)
    history.extend(columns())
    rows = history.extend(columns())
    expected = {"update": 6, "env_steps": 240, "seconds": 0.5, "env_steps_per_second": 240.0, "compile_seconds": None}
    assert history.timing(rows, 0.5, None) == expected


@pytest.mark.parametrize(
    ("returns", "mean", "iqm"),
    [
        (range(100), 49.5, 49.5),
        ([0] * 25 + [10] * 50 + [1000] * 25, 255.0, 10.0),
        ([np.nan] * 97 + [1, 2, 6], 3.0, 3.0),
        ([np.nan] * 96 + [0, 1, 2, 9], 3.0, 1.5),
    ],
)
def test_the_objective_of_a_sweep_is_the_middle_half(returns, mean, iqm):
    """The interquartile mean: one lucky episode must not choose a learning rate."""
    returns = np.random.default_rng(0).permutation(np.array(list(returns), np.float32))
    assert record.last_returns(returns) == (pytest.approx(mean), pytest.approx(iqm))


def test_there_is_no_return_before_an_episode():
    assert record.last_returns(np.full(100, np.nan, np.float32)) == (None, None)


# run.json and what is said of it

DONE = {
    "status": "completed",
    "error": None,
    "variant": "vanilla",
    "env": "CartPole-v1",
    "seed": 3,
    "episodes": 40,
    "env_steps": 1234567,
    "return_final": 471.26,
    "solved_at_env_steps": None,
    "reward_threshold": 475.0,
    "wall_seconds": 4.21,
}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, ": return 471.3 over the last 40 episodes, not solved in 1,234,567 env steps; 4.2 s; files in {}"),
        (
            {"solved_at_env_steps": 5000, "episodes": 2000},
            ": return 471.3 over the last 100 episodes, solved at 5,000 of 1,234,567 env steps; 4.2 s; files in {}",
        ),
        ({"reward_threshold": None}, ": return 471.3 over the last 40 episodes; 4.2 s; files in {}"),
        (
            {"status": "interrupted", "error": "SIGTERM", "return_final": None},
            ": interrupted (SIGTERM); 4.2 s; files in {}",
        ),
        (
            {"status": "diverged", "error": "x is bad", "return_final": None},
            ": diverged (x is bad); 4.2 s; files in {}",
        ),
        (
            {"already": True, "reward_threshold": None},
            ": return 471.3 over the last 40 episodes; already finished; files in {}",
        ),
    ],
    ids=["not solved", "solved", "no threshold", "interrupted", "diverged", "already"],
)
def test_the_last_line_says_what_happened_and_where(changes, line, tmp_path, monkeypatch):
    """For many people it is all that they read of a run."""
    said = "vanilla on CartPole-v1, seed 3" + line
    assert record.last_line(DONE | changes, tmp_path / "a/b") == said.format(tmp_path / "a/b")
    monkeypatch.chdir(tmp_path)
    assert record.last_line(DONE | changes, tmp_path / "a/b") == said.format(Path("a/b"))  # shorter where it can be


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        ("completed", None, 0),
        ("diverged", "x", 1),
        ("failed", "x", 1),
        ("interrupted", "SIGTERM", 143),
        ("interrupted", "SIGINT", 130),
    ],
)
def test_exit_codes(status, error, code):
    """Batch systems decide by it whether to start the job again: 128 + n after signal n, as shells have it."""
    assert record.exit_code({"status": status, "error": error}) == code


@pytest.fixture(scope="module")
def config() -> dict:
    return checked("+variant=baseline", "num_updates=10")


@pytest.mark.parametrize(
    ("status", "changes", "on"),
    [
        ("running", {}, True),  # killed
        ("failed", {}, True),
        ("interrupted", {}, True),
        ("completed", {}, False),
        ("completed", {"num_updates": 20}, True),
        ("completed", {"checkpoint_every": 1}, False),
        ("diverged", {}, False),
        ("diverged", {"num_updates": 20}, False),
    ],
)
def test_what_goes_on_and_what_has_ended(status, changes, on, config):
    """A finished run goes on with a larger budget only; a diverged one would diverge again, bit for bit."""
    assert record.needs_more({"status": status, "config": config}, config | changes) == on


def test_the_hash_is_of_what_decides_the_results(config):
    """Runs of equal hash are one run in a table: how often they saved must not matter, and a seed must."""
    same = config | {"checkpoint_every": 1, "updates_per_chunk": 3, "tracker": {"_target_": "x"}, "checkpoints_kept": 9}
    assert record.config_hash(same) == record.config_hash(dict(reversed(config.items()))) == record.config_hash(config)
    others = [config | {"seed": 1}, config | {"gamma": 0.5}, config | {"policy": config["policy"] | {"width": 33}}]
    assert len({record.config_hash(x) for x in (config, *others)}) == 4


def test_a_key_that_is_none_is_as_if_it_were_not_there(config, tmp_path):
    """A later version may have a key more: it must not run every sweep of an earlier one again."""
    later = config | {"newer": None, "policy": config["policy"] | {"newer": None}}
    assert record.config_hash(later) == record.config_hash(config) != record.config_hash(later | {"newer": 0})
    record.write_summary(tmp_path, record.new_summary(config, None))
    assert record.earlier_run(tmp_path, later)["config_hash"] == record.config_hash(config)
    with pytest.raises(ConfigError, match=r"newer: None → 0"):
        record.earlier_run(tmp_path, later | {"newer": 0})


def test_a_run_of_an_earlier_version_is_the_same_run(config, tmp_path):
    """It does not have the keys that came later, and did what their neutral values do."""
    earlier = json.loads(json.dumps(config))
    for key in NEUTRAL:
        *path, last = key.split(".")
        reduce(dict.get, path, earlier).pop(last, None)
    assert earlier != config and record.config_hash(earlier) == record.config_hash(config)
    record.write_summary(tmp_path, record.new_summary(earlier, None))
    assert record.earlier_run(tmp_path, config)["config"] == earlier
    with pytest.raises(ConfigError, match=r"reward_scale: None → 0.1"):
        record.earlier_run(tmp_path, config | {"reward_scale": 0.1})
    assert check_plain(earlier, Declared())["reward_scale"] == 1.0  # evaluate, play and diagnose read it


@pytest.mark.parametrize(
    ("overrides", "known"),
    [
        ("+variant=vanilla", "8b36479528191b49"),
        ("+variant=baseline", "0fe6c9b0134b9814"),
        ("+variant=baseline env=gymnasium_cartpole", "1b70da4cade366f5"),
    ],
)
def test_a_default_run_keeps_its_hash_whatever_keys_are_added(overrides, known):
    """A key whose default changes nothing belongs into NEUTRAL, or every sweep that there is would be run again."""
    assert record.run_hash(checked(*overrides.split())) == known


def test_an_identity_does_not_change():
    """Sweeps are kept for years: with another hash of the same things all their members would be called damaged."""
    config = {
        "variant": "a", "seed": 3, "num_env_steps": None, "num_updates": 7, "stop_when_solved": False,
        "optimiser": {"method": "adam", "clip_norm": None, "decay_steps": None}, "critic": {"minibatch_steps": None},
        "env": {"max_steps": None, "reward_threshold": None, "params": {}}, "tracker": {"mode": None},
    }  # fmt: skip
    assert record.config_hash(config) == "fdd18411f1ec9c2c"
    assert record.config_hash(config | {"num_updates": None}) == "cbdc96ac7b339ed2"


def test_nan_in_a_configuration_is_the_same_nan(config, tmp_path):
    """An environment may be given one; it would never go on."""
    odd = config | {"env": config["env"] | {"kwargs": {"x": math.nan}}}
    record.write_summary(tmp_path, record.new_summary(odd, None))
    assert record.earlier_run(tmp_path, odd)["status"] == "running"
    with pytest.raises(ConfigError, match=r"env\.kwargs\.x: nan → 1"):
        record.earlier_run(tmp_path, config | {"env": config["env"] | {"kwargs": {"x": 1}}})


@pytest.mark.parametrize(
    ("before", "rows", "saving", "saved"),
    [
        (None, 0, False, False),
        (None, 3, False, True),  # a table whose run.json is gone
        ({}, 0, False, False),  # killed before the first row
        ({}, 10, False, False),  # just before the first save
        ({}, 11, False, True),
        ({}, 20, True, False),  # in the first save: the second waits for it
        ({}, 21, True, True),
        ({"updates": 3}, 3, False, True),  # interrupted: it saved
        ({"updates": 0}, 0, False, False),
        ({"resumed_from": 3}, 5, False, True),  # killed after it had gone on from update 3
        ({"updates": 30}, 0, False, True),  # the table is gone, too
    ],
)
def test_only_a_run_that_never_saved_may_begin_again(before, rows, saving, saved):
    """Checkpoints may be left out of a copy, or deleted to save space: to begin again would overwrite all that is left."""
    before = before if before is None else before | {"config": {"checkpoint_every": 10}}
    assert record.must_have_saved(before, rows, saving=saving) == saved


@pytest.mark.parametrize(
    "change",
    [{"status": "complated"}, {"status": None}, {"wall_seconds": "1"}, {"config": []}, {"made_with": [1]}, {"made_with": [{}]}],
)
def test_a_run_json_of_another_form_is_refused(change, config, tmp_path):
    """A flipped bit: the run would go on from it, and fail later or never."""
    record.write_summary(tmp_path, record.new_summary(config, None) | change)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ConfigError, match=r"run\.json: cannot be read"):
        record.earlier_run(tmp_path, config)
    assert (tmp_path / "run.json").read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", '{"status": "completed"}', "[1]", '"x"'])
def test_a_run_json_that_cannot_be_read_is_refused_and_not_overwritten(text, config, tmp_path):
    """It may be another program's, or all that is left of a run."""
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json: cannot be read"):
        record.earlier_run(tmp_path, config)
    assert (tmp_path / "run.json").read_text() == text


def test_a_summary_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A run.json torn by a kill would lose the run for good."""
    record.write_summary(tmp_path, {"status": "running"})
    assert json.loads((tmp_path / "run.json").read_text()) == record.read_summary(tmp_path) == {"status": "running"}

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(record.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        record.write_summary(tmp_path, {"status": "completed", "more": "x" * 10_000})
    assert record.read_summary(tmp_path) == {"status": "running"}


def test_a_folder_has_one_user_at_a_time(tmp_path):
    with record.sole_use(tmp_path):
        with pytest.raises(ConfigError, match="another process is at work"), record.sole_use(tmp_path):
            pass
    with record.sole_use(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_warning(code, tmp_path, monkeypatch, caplog):
    """Some network disks have none: the run goes on, and says once what it cannot keep out."""

    def flock(*_):
        raise OSError(code, "no locks")

    monkeypatch.setattr(record.fcntl, "flock", flock)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with record.sole_use(tmp_path / name):
            assert not record.at_work(tmp_path / name)
    assert caplog.text.count("without locks (no locks)") == 1


def test_whether_a_run_is_at_work_is_asked_without_a_trace(tmp_path):
    """Of a folder that can only be read, too."""
    assert not record.at_work(tmp_path) and not list(tmp_path.iterdir())
    with record.sole_use(tmp_path):
        (tmp_path / ".lock").chmod(0o444)
        assert record.at_work(tmp_path)
    assert not record.at_work(tmp_path)


def test_a_full_disk_has_room_for_the_last_word(tmp_path, monkeypatch):
    """That it was full should stand in run.json, and not `running` for ever."""
    with record.room(tmp_path):
        assert (tmp_path / record.ROOM).stat().st_blocks * 512 >= 16384

        def full(path, content):
            if (tmp_path / record.ROOM).exists():
                raise OSError(errno.ENOSPC, "no space left")
            path.write_text(content)

        monkeypatch.setattr(record, "write_atomically", full)
        record.write_summary(tmp_path, {"status": "failed"})
    assert record.read_summary(tmp_path) == {"status": "failed"} and not (tmp_path / record.ROOM).exists()


def test_the_last_line_names_a_folder_that_one_can_find(tmp_path, monkeypatch):
    """With hydra.job.chdir=true it said "files in ."."""
    config = checked("+variant=baseline")
    found = record.new_summary(config, None) | {"status": "completed"}
    monkeypatch.chdir(tmp_path)
    assert f"files in {tmp_path}" in record.last_line(found, tmp_path)
    assert record.last_line(found, tmp_path / "r").endswith("files in r")
