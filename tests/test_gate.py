"""The gate before every run: the words of a command line, and the folder that a run is given."""

import os
from pathlib import Path

import pytest
from hydra._internal.callbacks import Callbacks
from program import composed, finish, gate, pgx, start

import pgx.gate as the_gate
from pgx.config import CONF
from pgx.gate import _claim, of_words, one_line_errors

WORDS = [
    (["--junk"], "--junk: there is no such option", "key=value"),
    (["+variant=baseline", "--seed", "3"], "--seed: there is no such option", "'seed'?"),
    (["+variant=baseline", "--learning-rate=3"], "--learning-rate=3: there is no such option", "'optimiser.learning_rate'?"),
    (["--cfg", "jb"], "--cfg/-c: invalid choice", "--help"),
    (["+variant=baseline", "policy=5"], "policy: there is no '5'", "mlp"),
    (["+variant=baseline", "policy=[1]"], "policy: there is no '1'", "mlp"),
    (["-m", "+variant=baseline", "env=1,2"], "env: there is no '1'", "cartpole"),
    (["+variant=baseline", "env=null"], "env: there is no 'null'", "cartpole"),
    (["+variant=baseline", "seed=" + "9" * 5000], "seed: 999", "(5,000 characters) cannot be read"),
    (["+variant=baseline", "hydra.callbacks.gate=null"], "hydra.callbacks.gate: cannot be removed", ""),
    (["+variant=baseline", "~hydra.callbacks"], "hydra.callbacks: cannot be removed", ""),
]


@pytest.mark.parametrize(("words", "says", "helps"), WORDS, ids=[" ".join(case[0])[:60] for case in WORDS])
def test_words_that_hydra_would_answer_with_its_usage_give_one_line(words, says, helps, capsys):
    """Eight lines of argparse about somebody else's options do not say what to type, and an error deep in Hydra does
    not say which key it is about."""
    with pytest.raises(SystemExit) as end, one_line_errors():
        of_words(words)
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.startswith("pgx: ") and err.count("\n") == 1 and len(err) < 400
    assert says in err and helps in err


def test_overrides_may_stand_on_both_sides_of_an_option():
    """`… hydra/launcher=basic -m seed=1` is what one gets by appending to the last command."""
    assert of_words(["a=1", "-m", "b=2"]) == ["a=1", "b=2", "-m"]
    assert of_words(["-m", "a=1", "-cn", "x", "a=1"]) == ["a=1", "a=1", "-m", "-cn", "x"]
    assert of_words(["--config-dir", "a", "b=1"]) == ["b=1", "--config-dir", "a"]


def test_the_gate_cannot_fail_open(tmp_path, monkeypatch, capsys):
    """Hydra only warns of what a callback raises: the run would go on without lock and check."""
    for broken, on in ((the_gate, "check"), (the_gate, "check_overrides")):
        with monkeypatch.context() as patch, composed("+variant=baseline", f"hydra.run.dir={tmp_path}/r") as config:
            patch.setattr(broken, on, lambda *_: {}["status"])
            callbacks = Callbacks(config)
            with pytest.raises(SystemExit) as end:
                callbacks.on_run_start(config)
        assert end.value.code == 2
        assert capsys.readouterr().err == "pgx: command line: KeyError: 'status'; HYDRA_FULL_ERROR=1 shows the traceback\n"
    with monkeypatch.context() as patch, composed("hydra.sweep.dir=s") as config:
        patch.setattr(the_gate, "check_overrides", lambda *_: {}["status"])
        with pytest.raises(SystemExit):
            Callbacks(config).on_multirun_start(config)
    assert "KeyError: 'status'" in capsys.readouterr().err


# Folders.


def test_a_new_folder_is_never_shared(tmp_path):
    """Folders are named by the second, and a script starts ten runs in one: two in a folder would mix their rows."""
    pids, claims = [], tmp_path / "claims"
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            names = [str(_claim(tmp_path / "day" / "12-00-00")) for _ in range(20)]
            with open(claims, "a") as file:
                file.write("".join(name + "\n" for name in names))
            os._exit(0)
        pids.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    names = claims.read_text().split()
    assert len(names) == len(set(names)) == 160
    assert {Path(name).name for name in names} == {"12-00-00"} | {f"12-00-00-{n}" for n in range(2, 161)}


def test_runs_and_multiruns_of_the_same_second_get_folders_of_their_own(tmp_path):
    """The same through Hydra, which makes the folder anew and, in a multirun, its name anew for every member."""
    pinned = ["+variant=vanilla", "num_updates=1", "episodes_per_update=2", "env=catch"]
    # Hydra's clock, stopped: otherwise the two might start in different seconds, and the test prove nothing
    stopped = {"PYTHONPATH": os.pathsep.join((str(_stopped_clock(tmp_path)), str(CONF.parent)))}
    singles = [start(*pinned, cwd=tmp_path, **stopped) for _ in range(2)]
    multis = [start("-m", *pinned, f"seed={seed}", cwd=tmp_path, **stopped) for seed in (1, 2)]
    for done in map(finish, singles + multis):
        assert done.returncode == 0, done.stderr
    found = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("run.json")}
    times = ("2026-01-02/03-04-05", "2026-01-02/03-04-05-2")
    assert found == {f"outputs/{time}" for time in times} | {f"multirun/{time}/0" for time in times}


def _stopped_clock(tmp_path: Path) -> Path:
    """A folder whose sitecustomize makes `${now:…}` always say the same."""
    folder = tmp_path / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import hydra.core.utils as u, datetime\n"
        "class Stopped(datetime.datetime):\n"
        "    @classmethod\n"
        "    def now(cls, tz=None): return cls(2026, 1, 2, 3, 4, 5)\n"
        "u.datetime = Stopped\n"
    )
    return folder


def test_a_refused_run_leaves_the_named_folder_and_what_is_in_it(tmp_path, monkeypatch):
    """`hydra.run.dir=~/thesis +env.params.gravty=1` once deleted the folder, whatever else it held."""
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SystemExit):
        gate("+variant=baseline", "+env.params.gravty=1", f"hydra.run.dir={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


# Multiruns.


def test_a_wrong_member_under_hydras_own_launcher_stops_neither_the_others_nor_success_from_being_denied(tmp_path):
    """One mistyped value must not cost a night of sweeping, and a script must be able to see that one was wrong.
    (Our own launcher checks all members before it runs one: test_sweep.py.)"""
    sweep = ("-m", "hydra/launcher=basic", "+variant=vanilla", "env=catch", "num_updates=1", "hydra.sweep.dir=s")
    done = pgx(*sweep, "seed=0,-1,1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("pgx: seed: -1 is not allowed") and "Traceback" not in done.stderr
    assert [(tmp_path / "s" / member / "run.json").exists() for member in "012"] == [True, False, True]
    before = (tmp_path / "s/0/metrics.csv").read_bytes()
    # the same folder for other members: their results must not be taken for these
    done = pgx(*sweep, "seed=5", cwd=tmp_path)
    assert done.returncode == 2 and "pgx: seed: 0 → 5: " in done.stderr
    assert (tmp_path / "s/0/metrics.csv").read_bytes() == before
