"""Tuning with Optuna: a trial is a group of seeds, its value can be checked by hand, and a kill at any moment changes no
trial and runs nothing twice."""

import fcntl
import json
import random
import signal
import sys
import time
from collections import Counter

import numpy as np
import optuna
import pytest
import sweeps
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from program import finish, ledger, pgx, start, summary
from sweeps import Trainer, files, refused

from analysis.statistics.aggregates import Bootstrap, interval, iqm
from pgx.errors import ConfigError
from pgx.sweep import study as studies
from pgx.sweep import trials
from pgx.sweep.space import space_of

RATE = "optimiser.learning_rate=tag(log,interval(1e-4,1e-1))"
TUNE = ("-m", "hydra/sweeper=optuna", "+variant=vanilla", "num_updates=8", "hydra.sweep.dir=s")


class Killed(BaseException):
    """Nothing catches it, as nothing hears a SIGKILL."""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Commands whose runs end at once: the return has its best learning rate at 0.01, and every seed adds its own."""
    plain = sweeps.train

    def train(member, how):
        early = Trainer.end.get(member.config["seed"]) == "early"
        plain(member, how if early else Trainer.end.get(member.config["seed"], how))
        run = summary(member.folder)
        told = run["status"] == "completed" and not (early and member.config["num_updates"] < 8)
        value = returned(member.config) if told else None
        (member.folder / "run.json").write_text(json.dumps(run | {"return_final_iqm": value}))
        trained[member.key, member.config["num_updates"]] += 1

    trained = Counter()
    monkeypatch.setattr(sweeps, "train", train)
    here = sweeps.command(tmp_path, monkeypatch, capsys)
    here.trained = trained
    return here


def returned(config):
    return 100 - 10 * abs(np.log10(config["optimiser"]["learning_rate"]) + 2) + config["seed"] ** 2


def tuned(folder):
    return json.loads((folder / "trials.json").read_text())


def of_optuna(folder):
    """The study, as everybody's Optuna reads it."""
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.log")))
    return optuna.load_study(study_name=None, storage=storage).trials


# A trial


def test_a_trial_is_a_group_of_seeds_and_its_value_their_interquartile_mean(command, tmp_path):
    """One seed's luck must not choose: the best and the worst of five do not count."""
    code, out, err = command(*TUNE, "seed=3", "hydra.sweeper.n_trials=4", "hydra.sweeper.batch=2", RATE)
    assert (code, err) == (0, ""), err
    assert len(Trainer.ran) == 20 and "20 members: 20 completed; files in s" in out
    content = tuned(tmp_path / "s")
    assert [x["status"] for x in content["trials"]] == ["completed"] * 4 and content["seeds"] == [3, 4, 5, 6, 7]
    for x, frozen in zip(content["trials"], of_optuna(tmp_path / "s"), strict=True):
        [rate] = frozen.params.values()
        of_seeds = [100 - 10 * abs(np.log10(rate) + 2) + seed**2 for seed in (3, 4, 5, 6, 7)]
        assert np.allclose([*x["of_seeds"].values()], of_seeds)
        assert x["value"] == frozen.value == pytest.approx(sum(of_seeds[1:4]) / 3) == pytest.approx(iqm(np.array(of_seeds)))
    best = max(content["trials"], key=lambda x: x["value"])
    assert f"best: trial {best['trial']}, {best['chosen'][0]}: {best['value']:.1f}, the interquartile mean" in out
    assert [row["trial"] for row in ledger(tmp_path / "s")] == [str(i // 5) for i in range(20)]
    assert {summary(folder)["seed"] for folder in Trainer.ran[:5]} == {3, 4, 5, 6, 7}
    status = command(*TUNE, "seed=3", "hydra.sweeper.n_trials=4", "hydra.sweeper.batch=2", RATE)
    assert status[0] == 0 and not Trainer.ran and tuned(tmp_path / "s") == content


def test_a_trial_fails_with_any_of_its_seeds_and_harms_no_other(command, tmp_path):
    Trainer.end[1] = "diverged"
    words = (*TUNE, RATE, "hydra.sweeper.n_trials=2", "hydra.sweeper.batch=1")
    code, out, _ = command(*words, "hydra.sweeper.seeds=2")
    assert code == 1 and "4 members: 2 completed, 2 diverged" in out
    assert [x.state.name for x in of_optuna(tmp_path / "s")] == ["FAIL", "FAIL"] and len(Trainer.ran) == 4
    first, _ = tuned(tmp_path / "s")["trials"]
    assert (first["status"], first["value"]) == ("failed", None)
    assert first["reason"] == "seed 1: diverged (it did not go well)"
    assert out.splitlines()[-1] == "no trial is completed; files in s"


def test_values_that_do_not_go_together_fail_their_trial_only(command, tmp_path, monkeypatch):
    """Each was looked at before, but not all with all."""
    from hydra_plugins.pgx_launcher import PgxLauncher

    def checked(self, jobs, plain=PgxLauncher.checked):
        if len(jobs) == 1 and "whiten=True" in jobs[0]:
            raise ConfigError("whiten", "not with this gamma")
        return plain(self, jobs)

    monkeypatch.setattr(PgxLauncher, "checked", checked)
    words = ("whiten=choice(true,false)", "hydra.sweeper.seeds=2", "hydra.sweeper.n_trials=8", "hydra.sweeper.sampler=random")
    code, out, _ = command(*TUNE, *words)
    statuses = {x["chosen"][0]: x["status"] for x in tuned(tmp_path / "s")["trials"]}
    assert code == 0 and statuses == {"whiten=True": "failed", "whiten=False": "completed"}
    assert "whiten: not with this gamma" in out and len(Trainer.ran) == 2


def test_a_trial_that_is_another_one_again_has_its_value_and_its_runs(command, tmp_path):
    words = ("gamma=0.5,0.9", "hydra.sweeper.seeds=2", "hydra.sweeper.n_trials=7", "hydra.sweeper.rungs=[0.5]")
    code, out, _ = command(*TUNE, *words, "hydra.sweeper.batch=3")
    assert code == 0 and "4 members: 4 completed" in out
    assert {*command.trained.values()} == {1} and len(command.trained) == 8  # to the rung, and to the end
    values = {}
    for x in tuned(tmp_path / "s")["trials"]:
        values.setdefault(x["chosen"][0], set()).add(x["value"])
    assert len(values) == 2 and all(len(x) == 1 for x in values.values())


def test_a_group_is_pruned_as_one_and_the_others_go_on_where_they_are(command, tmp_path):
    """After five complete trials, one below their median at a rung has no more of any seed."""
    words = (RATE, "hydra.sweeper.seeds=[0,2]", "hydra.sweeper.n_trials=12", "hydra.sweeper.rungs=[0.25,0.5]")
    code, _, err = command(*TUNE, *words)
    assert (code, err) == (0, ""), err
    content = tuned(tmp_path / "s")
    budgets = {}
    for row in ledger(tmp_path / "s"):
        budgets.setdefault(int(row["trial"]), []).append(summary(tmp_path / "s" / row["member"])["config"]["num_updates"])
    states = [x["status"] for x in content["trials"]]
    assert states[:5] == ["completed"] * 5 and "pruned" in states
    assert [budgets[i] for i in range(12)] == [[8, 8] if state == "completed" else [2, 2] for state in states]
    median = np.median([x["value"] for x in content["trials"][:5]])
    assert [x["status"] == "pruned" for x in content["trials"][5:10]] == [x["value"] < median for x in content["trials"][5:10]]
    assert {*command.trained.values()} == {1}


def test_at_a_rung_it_may_be_too_early_for_a_value(command, tmp_path):
    """With evaluate_every=50 a rung of 20 updates has no evaluation: no reason to fail, or to prune, a trial."""
    words = (RATE, "hydra.sweeper.seeds=2", "hydra.sweeper.n_trials=7", "hydra.sweeper.batch=6", "hydra.sweeper.rungs=[0.25]")
    Trainer.end[1] = "early"
    assert command(*TUNE, *words)[0] == 0
    assert [(x.state.name, x.intermediate_values) for x in of_optuna(tmp_path / "s")] == [("COMPLETE", {})] * 7
    assert {*command.trained.values()} == {1} and len(command.trained) == 28


# Kills


def without_times(content):
    return {key: x for key, x in content.items() if key != "confirm"}


def test_killed_at_any_write_it_ends_with_the_same_trials_and_runs_nothing_twice(command, tmp_path, monkeypatch):
    """The sampler is asked for the same trials, whatever this process knew: otherwise nobody could have a tuning again."""
    words = (RATE, "hydra.sweeper.seeds=2", "hydra.sweeper.n_trials=8", "hydra.sweeper.batch=4", "hydra.sweeper.rungs=[0.5]")
    more = ("gamma=0.9,0.99,1.0", "hydra.sweeper.confirm=3")
    assert command(*TUNE, *words, *more)[0] == 0
    whole = tuned(tmp_path / "s")
    (tmp_path / "s").rename(tmp_path / "whole")
    (tmp_path / "s-confirmed").rename(tmp_path / "whole-confirmed")
    once = dict(command.trained)
    command.trained.clear()
    append, left, kills = JournalFileBackend.append_logs, 0, 0

    def append_or_die(self, logs):
        nonlocal left
        left -= 1
        if left == 0 and kills % 2:
            append(self, logs)
        if left <= 0:
            raise Killed
        append(self, logs)

    monkeypatch.setattr(JournalFileBackend, "append_logs", append_or_die)
    while kills < 100:
        left = 8 + kills % 3
        try:
            code, out, _ = command(*TUNE, *words, *more)
            break
        except Killed:
            kills += 1
    assert kills > 4 and code == 0
    assert without_times(tuned(tmp_path / "s")) == without_times(whole)
    assert dict(command.trained) == once and {*once.values()} == {1}
    mine, theirs = of_optuna(tmp_path / "s"), of_optuna(tmp_path / "whole")
    for a, b in zip(mine, theirs, strict=True):
        assert (a.params, a.state, a.value, a.intermediate_values) == (b.params, b.state, b.value, b.intermediate_values)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_trial_depends_on_those_before_it_and_on_nothing_else(sampler, tmp_path):
    """Also where the sampler has begun to learn (after ten), beside trials of its batch that have not ended."""
    words = [RATE, "gamma=0.9,0.99", "policy.depth=int(interval(1,5))"]
    distributions = space_of(OverridesParser.create().parse_overrides(words)).distributions

    def trial_15(folder, together):
        with studies.opened(folder, {}) as study:
            for number in range(12):
                studies.ask(study, distributions, sampler, 3)
                study.tell(number, 100 - abs(np.log10(study.trials[number].params["optimiser.learning_rate"]) + 2))
            for _ in range(4 if together else 3):
                studies.ask(study, distributions, sampler, 3)
        if not together:  # a new process
            with studies.opened(folder, {}) as study:
                studies.ask(study, distributions, sampler, 3)
        return of_optuna(folder)[15].params

    params = trial_15(tmp_path / "a", True)
    assert trial_15(tmp_path / "b", False) == params
    with studies.opened(tmp_path / "a", {}) as study:
        studies.ask(study, distributions, sampler, 3)
        assert study.trials[16].params != params


@pytest.mark.slow
def test_a_tuning_that_was_killed_and_stopped_ends_with_the_bits_of_one_that_was_not(tmp_path):
    """Whole processes, at random moments: trials, values and every member's rows."""
    words = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.seeds=2", "hydra.sweeper.n_trials=4", "hydra.sweeper.batch=2", RATE)
    words += ("hydra.sweeper.rungs=[0.5]", "+variant=baseline", "num_updates=40", "checkpoint_every=3", "updates_per_chunk=1")
    done = pgx(*words, "hydra.sweep.dir=whole", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        before = {path: path.stat().st_size for path in (tmp_path / "s").rglob("metrics.csv")}
        process, patience = start(*words, "hydra.sweep.dir=s", cwd=tmp_path), time.monotonic() + 100
        while {path: path.stat().st_size for path in (tmp_path / "s").rglob("metrics.csv")} == before:
            assert time.monotonic() < patience and process.poll() is None
        time.sleep(random.uniform(0, 0.5))
        process.send_signal(number)
        ended = finish(process)
        assert ended.returncode == (-number if number == signal.SIGKILL else 128 + number), ended.stderr
    done = pgx(*words, "hydra.sweep.dir=s", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert tuned(tmp_path / "s")["trials"] == tuned(tmp_path / "whole")["trials"]
    mine, theirs = (
        {(tuple(summary(x.parent)["config"]["optimiser"].items()), summary(x.parent)["seed"]): x.read_bytes() for x in paths}
        for paths in ((tmp_path / name).rglob("metrics.csv") for name in ("s", "whole"))
    )
    assert mine == theirs and len(mine) == 8


def test_half_a_line_is_no_obstacle(command, tmp_path):
    words = (*TUNE, RATE, "hydra.sweeper.seeds=2", "hydra.sweeper.n_trials=2")
    assert command(*words)[0] == 0
    with open(tmp_path / "s/optuna.log", "a") as log:
        log.write('{"op_code":4,"worker')
    code, _, err = command(*words[:-1], "hydra.sweeper.n_trials=3")
    assert (code, err) == (0, "") and len(Trainer.ran) == 2
    (tmp_path / "s/optuna.log").write_text("so\nwhat\n")
    refused(command, "optuna.log cannot be read", *words)


def test_one_command_at_a_time_and_the_same_one(command, tmp_path):
    """Two would ask for the same trials; another space, other seeds or another budget make values that no one may compare."""
    words = (*TUNE, RATE, "hydra.sweeper.seeds=2", "hydra.sweeper.n_trials=1", "hydra.sweeper.batch=1")
    assert command(*words)[0] == 0
    before = files(tmp_path / "s")
    with open(tmp_path / "s/.optuna.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(command, "hydra.sweep.dir: another command is tuning in s", *words)
    for other, says in {
        "num_updates=9": "num_updates: 8 → 9: s holds the trials of another tuning",
        "gamma=0.5": "gamma: 1.0 → 0.5",
        "hydra.sweeper.seeds=3": "hydra.sweeper.seeds: [0, 1] → [0, 1, 2]",
        "seed=1": "hydra.sweeper.seeds: [0, 1] → [1, 2]",
        "optimiser.learning_rate=interval(1e-4,1e-1)": "optimiser.learning_rate: tag(log,interval(1e-4,1e-1)) → interval",
        "hydra.sweeper.sampler=random": "hydra.sweeper.sampler: tpe → random",
    }.items():
        refused(command, says, *words, other)
    refused(command, says, *words, other, "hydra.launcher.dry_run=true")
    assert files(tmp_path / "s") == before
    assert command(*words, "checkpoint_every=7")[0] == 0


# Fresh seeds


def test_the_best_trial_is_run_again_on_fresh_seeds_and_reports_know_which_seeds_are_which(command, tmp_path):
    """What was chosen on five seeds looks better than it is: the second stage is in the same command."""
    words = (*TUNE, RATE, "hydra.sweeper.seeds=3", "hydra.sweeper.n_trials=3", "seed=4")
    code, out, _ = command(*words)
    assert "hydra.sweep.dir=s hydra.sweeper.confirm=20; files in s" in out.splitlines()[-1] and code == 0
    code, out, err = command(*words, "hydra.sweeper.confirm=6", "hydra.sweeper.confirm_default=true")
    assert (code, err) == (0, "") and len(Trainer.ran) == 12
    confirmed = tuned(tmp_path / "s")["confirmed"]
    assert confirmed["seeds"] == [*range(7, 13)]
    best = trials.best(tuned(tmp_path / "s")["trials"])
    [rate] = (float(x.partition("=")[2]) for x in best["overrides"] if x.startswith("optimiser."))
    values = np.array([100 - 10 * abs(np.log10(rate) + 2) + seed**2 for seed in range(7, 13)])
    group = confirmed["groups"]["best"]
    assert group["value"] == pytest.approx(iqm(values))
    low, high = interval([values], iqm, Bootstrap())
    assert group["interval"] == pytest.approx([low, high])  # a report has the same
    assert out.splitlines()[-1].endswith(
        f"on 6 fresh ones best {group['value']:.1f} [{low:.1f}, {high:.1f}], "
        f"default {confirmed['groups']['default']['value']:.1f} "
        f"[{confirmed['groups']['default']['interval'][0]:.1f}, {confirmed['groups']['default']['interval'][1]:.1f}]"
        "; files in s-confirmed"
    )
    assert out.index("12 members: 12 completed; files in s-confirmed") < out.index("9 members: 9 completed; files in s")
    refused(command, "hydra.sweeper.confirm: seeds [5] are among those of the trials", *words, "hydra.sweeper.confirm=[5,99]")


def test_runs_of_a_confirmation_that_fail_are_counted(command, tmp_path):
    Trainer.end[12] = "diverged"
    words = (RATE, "hydra.sweeper.seeds=2", "hydra.sweeper.n_trials=1", "hydra.sweeper.confirm=[10,11,12,13]")
    code, out, _ = command(*TUNE, *words)
    assert code == 1 and "(1 of them did not complete); files in s-confirmed" in out.splitlines()[-1]


def test_a_damaged_file_of_trials_is_no_obstacle_and_of_many_the_best_are_shown(command, tmp_path):
    words = (*TUNE, RATE, "hydra.sweeper.seeds=2", "hydra.sweeper.n_trials=1")
    assert command(*words)[0] == 0
    whole = tuned(tmp_path / "s")
    for damage in ("", "[]", '{"trials": [{"trial": 0}]}', json.dumps(whole | {"seeds": None})):
        (tmp_path / "s/trials.json").write_text(damage)
        assert trials.read(tmp_path / "s") is None
    assert command(*words)[0] == 0 and tuned(tmp_path / "s") == whole
    many = [whole["trials"][0] | {"trial": i, "value": float(i)} for i in range(70)]
    many[3] |= {"status": "failed", "value": None}
    shown = trials.summary(whole | {"trials": many}, tmp_path / "s").splitlines()
    assert len(shown) == 1 + trials.MOST + 2 and shown[-2] == "… and 10 more, all in trials.json"
    assert [line.split()[0] for line in shown[1:3]] == ["10", "11"] and shown[-1].startswith("best: trial 69")


# The search space


def test_the_space_may_stand_in_a_file(command, tmp_path):
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/tune.yaml").write_text(
        "# @package _global_\ndefaults: [override /hydra/sweeper: optuna]\n"
        "hydra: {sweeper: {n_trials: 1, seeds: [4, 7], params: {gamma: 'interval(0.9,1)'}}}\n"
    )
    words = ("-m", "--config-dir", "mine", "+experiment=tune", "+variant=vanilla", "num_updates=8", "hydra.sweep.dir=s")
    code, _, err = command(*words, "whiten=true,false")
    assert (code, err) == (0, "") and len(Trainer.ran) == 2
    [trial] = tuned(tmp_path / "s")["trials"]
    assert [x.partition("=")[0] for x in trial["chosen"]] == ["gamma", "whiten"] and [*trial["of_seeds"]] == ["4", "7"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "hydra/sweeper: there is nothing to choose"),
        (("gama=interval(0,1)",), "did you mean 'gamma'"),
        (("gamma=interval(0,2)",), "gamma: 2.0 is not allowed"),
        (("episodes_per_update=interval(2,9)",), "episodes_per_update: 4.66 is not allowed"),
        (("optimiser=adam,sgd", "optimiser.momentum=interval(0,1)"), "optimiser.momentum"),
        ((RATE, "hydra.sweeper.n_trials=0"), "hydra.sweeper.n_trials: 0 is not allowed"),
        ((RATE, "hydra.sweeper.seeds=0"), "hydra.sweeper.seeds: 0 is not allowed; allowed: how many, or a list"),
        ((RATE, "hydra.sweeper.seeds=[1,1]"), "hydra.sweeper.seeds: [1, 1] is not allowed"),
        ((RATE, "hydra.sweeper.rungs=[0.5,0.2]"), "hydra.sweeper.rungs: [0.5, 0.2] is not allowed"),
        ((RATE, "hydra.sweeper.n_trials=many"), "hydra.sweeper.n_trials: Value 'many' of type 'str' could not be converted"),
        ((RATE, "hydra.sweeper.sampler=best"), "hydra.sweeper.sampler: 'best' is not allowed; allowed: tpe | random"),
        ((RATE, "hydra.sweeper.direction=minimize"), "hydra.sweeper.direction: minimize would choose the worst"),
        ((RATE, "hydra.sweeper.direction=up"), "hydra.sweeper.direction: 'up' is not allowed"),
        ((RATE, "hydra/launcher=basic"), "hydra/launcher: optuna cannot resume trials that BasicLauncher runs"),
        ((RATE, "hydra.launcher.executor=fast"), "hydra.launcher.executor: 'fast' is not allowed"),
    ],
)
def test_refused_before_anything_runs(words, says, command, tmp_path):
    refused(command, says, *TUNE, *words)
    assert list(tmp_path.iterdir()) == []


def test_without_optuna_one_line_says_what_to_install(command, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "optuna" or name.startswith("pgx.sweep.tun")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("pgx.sweep.study", "pgx.sweep.space"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    refused(command, "hydra/sweeper: Optuna 5 is not installed; pip install -e '.[optuna]'", *TUNE, RATE)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_the_next_trials_are_and_touches_nothing(command, tmp_path):
    words = (*TUNE, RATE, "hydra.sweeper.seeds=2", "hydra.sweeper.batch=2", "hydra.sweeper.n_trials=4")
    code, out, err = command(*words, "hydra.launcher.dry_run=true")
    assert (code, err) == (0, "") and list(tmp_path.iterdir()) == []
    assert out.startswith("trials 0–1 of 4, 2 seeds each\n4 members") and out.count("to run ") == 4
    promised = [line.split()[-2:] for line in out.splitlines() if " to run " in line and line.split()[0].isdecimal()]
    assert command(*words[:-1], "hydra.sweeper.n_trials=2")[0] == 0
    done = [row["overrides"].split()[-2:] for row in ledger(tmp_path / "s")]
    assert promised == done
    before = files(tmp_path / "s")
    code, out, _ = command(*words, "hydra.launcher.dry_run=true")
    assert code == 0 and out.startswith("trials 2–3 of 4") and not Trainer.ran
    assert files(tmp_path / "s") == before
