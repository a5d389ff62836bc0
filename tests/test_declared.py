"""What a person declares, on the command line or in one variable: it may be imported and called, and a run that was made
with it must say what to type."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from program import checked, finish, gate, run_module, start
from refusals import COMMANDS, TINY, evaluate, refused

from pgx import resume
from pgx.config import check_plain
from pgx.declared import CONF, Declared, _scan
from pgx.errors import ConfigError
from pgx.runs.restore import read_run


@pytest.fixture(autouse=True)
def _nothing_runs_in_this_process(monkeypatch):
    monkeypatch.setattr("pgx.run.main", lambda: pytest.fail("the run goes on"))


LAB = {
    "lab.py": "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\nfrom pgx.estimators import reward_to_go\n"
    "def mine(reward, value, mask, bootstrap, *, gamma): return reward_to_go(reward, value, mask, bootstrap, gamma=gamma)\n"
    "gymnasium.register('Walk-v0', CartPoleEnv, max_episode_steps=20)\n",
    "conf/variant/mine.yaml": "# @package _global_\ndefaults:\n  - override /estimator: mine\n  - override /critic: none\n\nvariant: mine\n",
    "conf/estimator/mine.yaml": "# _target_: os.system\n_target_: lab.mine  # of our own\n_partial_: true\ngamma: ${gamma}\n",
    "conf/ablation/hot.yaml": "# @package _global_\nentropy_coefficient: 0.1\n",
    "conf/env/walk.yaml": "defaults:\n  - gymnasium\n\nid: lab:Walk-v0\n",
    "conf/small.yaml": "defaults:\n  - config\n  - _self_\n\nepisodes_per_update: 4\nnum_updates: 2\n",
}
MINE = ("+variant=mine", "+ablation=hot", *TINY[1:])


def make_lab(folder: Path) -> Path:
    for name, text in LAB.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "conf"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A working folder with somebody's own parts, and three runs that were made with them."""
    root = tmp_path_factory.mktemp("lab")
    make_lab(root)
    commands = {
        "dir": ["--config-dir=conf", *MINE],
        "path": ["hydra.searchpath=[file://conf]", *MINE],
        "name": ["--config-dir=conf", "--config-name=small", "+variant=reward_to_go", TINY[1]],
    }
    running = [start(*words, f"hydra.run.dir={name}", cwd=root) for name, words in commands.items()]
    for done in map(finish, running):
        assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def in_lab(lab, monkeypatch) -> Path:
    monkeypatch.chdir(lab)
    monkeypatch.syspath_prepend(lab)
    return lab


def test_a_run_names_what_it_was_made_with_and_goes_on_when_it_is_named(lab, capsys, monkeypatch):
    """Also from another folder, where a relative path leads elsewhere: the line can be copied."""
    monkeypatch.chdir("/")
    conf = lab / "conf"
    for name in ("dir", "path"):
        line = refused(resume, lab / name, "num_updates=3", cwd=lab, capsys=capsys)
        assert line.endswith(f"if that is yours: python -m pgx.resume {lab / name} num_updates=3 --config-dir {conf}\n")
    line = refused(resume, lab / "name", cwd=lab, capsys=capsys)
    assert line.endswith(f"python -m pgx.resume {lab / 'name'} --config-dir {conf} --config-name small\n")
    line = refused(resume, lab / "name", "--config-dir", conf, cwd=lab, capsys=capsys)
    assert line.endswith(f"python -m pgx.resume {lab / 'name'} --config-dir {conf} --config-name small\n")

    for name, words, more in (
        ("dir", [], {"PGX_CONFIG_DIR": str(conf)}),
        ("dir", [f"hydra.searchpath=[file://{conf}]"], {}),
        ("path", ["--config-dir", conf, "num_updates=3"], {}),
        ("name", ["--config-name", "small", "--config-dir", conf], {}),
    ):
        done = run_module("resume", lab / name, *words, cwd=lab.parent, PYTHONPATH=f"{lab}:{CONF.parent}", **more)
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert ("already finished" in done.stdout) == ("num_updates=3" not in words)


def test_folders_may_have_moved(lab, tmp_path, capsys):
    """What is compared is what was chosen, not where it was found."""
    moved = shutil.copytree(lab / "conf", tmp_path / "moved")
    words = resume.command(lab / "dir", [], declared=Declared((moved,), ()))
    assert words[:2] == ["--config-dir", str(moved)]
    with pytest.raises(ConfigError, match=f"hydra.searchpath=.file://{lab / 'conf'}"):
        resume.command(lab / "dir", [], declared=Declared((tmp_path,), ()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_part_of_ones_own_is_used_when_its_folder_is_named(command, in_lab, capsys):
    line = refused(command, in_lab / "dir", cwd=in_lab, capsys=capsys)
    name = command.__name__.removeprefix("pgx.")
    assert "run.json: estimator._target_: 'lab.mine' is not declared; allowed: pgx.estimators.lambda_return, " in line
    assert line.endswith(f"if that is yours: python -m pgx.{name} {in_lab / 'dir'} --config-dir {in_lab / 'conf'}\n")


def test_evaluate_believes_the_command_line_and_the_variable(in_lab, capsys, monkeypatch):
    evaluate.main([str(in_lab / "dir"), "--episodes", "2", "--config-dir", "conf"])
    told = capsys.readouterr().out
    assert told.startswith("mine on CartPole-v1, seed 0, update ")
    assert "--config-dir: there is no folder nowhere" in refused(
        evaluate, "dir", "--config-dir", "nowhere", cwd=in_lab, capsys=capsys
    )
    monkeypatch.setenv("PGX_CONFIG_DIR", f"{os.pathsep}conf")
    assert read_run(Path("dir"))["config"]["estimator"]["_target_"] == "lab.mine"
    monkeypatch.setenv("PGX_CONFIG_DIR", "nowhere")
    assert "PGX_CONFIG_DIR: there is no folder" in refused(evaluate, "dir", cwd=in_lab, capsys=capsys)


def test_a_folder_that_brings_its_own_configuration_is_not_recommended(in_lab, tmp_path, capsys):
    run = shutil.copytree(in_lab / "dir", tmp_path / "r")
    shutil.copytree(in_lab / "conf", run / "conf")
    text = (run / ".hydra/hydra.yaml").read_text()
    (run / ".hydra/hydra.yaml").write_text(text.replace(f"{in_lab}/conf", f"{run}/conf"))
    line = refused(evaluate, run, cwd=tmp_path, capsys=capsys)
    assert "'lab.mine' is not declared" in line and f"{run}/conf" not in line


def test_the_module_of_an_environment_must_be_declared(in_lab, capsys, monkeypatch):
    """By a word, by a variable, or by a YAML file of the configuration."""
    config = checked("+variant=vanilla", "env=gymnasium", "env.id=lab:Walk-v0", "num_updates=1")
    for modules, folders, variable in (((), (), ""), (("la",), (), ""), ((), (in_lab / "empty",), "other")):
        monkeypatch.setenv("PGX_IMPORT", variable)
        with pytest.raises(ConfigError, match=r"env\.id: it imports 'lab', which is not declared"):
            check_plain(dict(config), Declared(folders, modules))
    for modules, folders, variable in ((("lab",), (), ""), ((), (in_lab / "conf",), ""), ((), (), "other, lab")):
        monkeypatch.setenv("PGX_IMPORT", variable)
        assert check_plain(dict(config), Declared(folders, modules))["env"]["id"] == "lab:Walk-v0"
    monkeypatch.delenv("PGX_IMPORT")
    run = in_lab / "walk"
    (run / "checkpoints/1").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"config": config}))
    line = refused(evaluate, "walk", "--greedy", cwd=in_lab, capsys=capsys)
    assert line.endswith("if that is yours: python -m pgx.evaluate walk --greedy --import lab\n")
    (run / ".hydra").mkdir()
    (run / resume.OVERRIDES).write_text(json.dumps(["+variant=vanilla", "env=gymnasium", "env.id=lab:Walk-v0"]))
    line = refused(resume, "walk", cwd=in_lab, capsys=capsys)
    assert line.endswith("if that is yours: python -m pgx.resume walk --import lab\n")
    assert resume.command(run, ["env.id=lab:Walk-v0"])[2] == "env.id=lab:Walk-v0"  # typed again


def test_a_group_of_ones_own_is_known_where_its_folder_is_in_use(lab, capsys, monkeypatch):
    study = f"hydra.searchpath=[file://{lab / 'conf'}]"
    assert checked(study, "+variant=reward_to_go", "+ablation=hot")["entropy_coefficient"] == 0.1
    for overrides, says in (
        ((study, "+variant=mne"), ("there is no 'mne'", "mine", "did you mean 'mine'?")),
        ((study,), ("variant: none chosen", "maxrl|mine|")),
        ((study, "+variant=mine", "ablation=hot"), ("ablation: not chosen yet", "+ablation=hot", "put a + before it")),
        (("+variant=baseline", "+ablation=hot"), ("ablation: unknown key",)),
    ):
        monkeypatch.setattr(sys, "argv", ["pgx.run", *overrides])
        with pytest.raises(SystemExit):
            gate(*overrides)
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and all(text in line for text in says), line
    monkeypatch.setenv("PGX_CONFIG_DIR", str(lab / "conf"))
    assert checked("+variant=mine", "+ablation=hot")["variant"] == "mine"


def test_a_member_of_a_sweep_is_as_its_command_was(lab, tmp_path, capsys):
    """Its worker checks it again; and alone it says what the sweep was made with."""
    done = run_module(
        "run",
        "-m",
        "--config-dir=conf",
        *MINE,
        "tracker=none",
        f"hydra.sweep.dir={tmp_path}/s",
        "hydra.launcher.processes=1",
        cwd=lab,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    line = refused(resume, tmp_path / "s/0", cwd=tmp_path, capsys=capsys)
    assert line.endswith(f"python -m pgx.resume {tmp_path}/s/0 --config-dir {lab}/conf\n")
    assert resume.command(tmp_path / "s/0", [], declared=Declared((lab / "conf",), ()))[:2] == ["--config-dir", f"{lab}/conf"]


def test_what_lies_in_results_declares_nothing(tmp_path):
    """`--config-dir .` where sweeps lie around: their YAML files say `_target_`, too."""
    make_lab(tmp_path)
    for name in ("multirun/s/multirun.yaml", "runs/r/run.json", "packed/members.json", ".hidden/x.yaml"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("_target_: evil.a")
        (tmp_path / name).parent.joinpath("more").mkdir()
        (tmp_path / name).parent.joinpath("more/x.yaml").write_text("_target_: evil.b")
    (tmp_path / "flow.yaml").write_text('update: {"_target_": lab.flow, x: [{_target_: "lab.inner"}]}\n  # _target_: evil.c\n')
    found = set().union(*_scan(tmp_path).targets.values())
    assert found == {"lab.mine", "lab.flow", "lab.inner"} and _scan(tmp_path).modules == {"lab"}


def test_the_printed_search_path_is_in_hydras_grammar(tmp_path):
    """Whatever the folder is called."""
    for name in ("a b", "it's", "x,y=z", "[x]{y}"):
        (tmp_path / name).mkdir()
        words = resume._where(
            [("hydra.searchpath in command-line", f"file://{tmp_path / name}")] * 2, Declared((), ()), ["file:///x"]
        )
        value = OverridesParser.create().parse_override(words[-1]).value()
        assert value[-1] == f"file://{tmp_path / name}"
