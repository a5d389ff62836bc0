"""A run folder is data. Folders are sent, downloaded and unpacked, and people evaluate what is in them: nothing that stands
in one may decide what is imported, called, or written. What a person has declared, on the command line or in one
variable, may; and a run that was made with such things must say what to type."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from program import checked, environment, finish, gate, start, train_here

from pgx import diagnose, play, resume
from pgx.config import check_plain
from pgx.declared import CONF, Declared, _scan
from pgx.errors import ConfigError
from pgx.gate import Gate, one_line_errors
from pgx.runs.restore import read_run

TINY = ("+variant=baseline", "+env.params.max_steps_in_episode=20", "episodes_per_update=4", "num_updates=2")

# Each makes a file `owned` in the working folder when it is called
HOSTILE = {
    "builtins.open": {"file": "owned", "mode": "w"},
    "pathlib.Path.write_text": {"_args_": [{"_target_": "pathlib.Path", "_args_": ["owned"]}, "x"]},
    "numpy.savetxt": {"fname": "owned", "X": [1.0]},
    "shutil.copyfile": {"src": "r/run.json", "dst": "owned"},
    "os.makedirs": {"name": "owned"},
    "asyncio.run": {"_args_": [{"_target_": "asyncio.create_subprocess_shell", "cmd": "touch owned"}]},
    "evil.touch": {},
    "functools.partial": {"_args_": [{"_target_": "evil.touch"}]},
}
PLACES = (
    "update", "estimator", "critic", "optimiser", "critic.optimiser", "env", "policy", "tracker",
    "env.kwargs", "env.kwargs.deep.er", "update.more", "env.params",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run with a checkpoint, and the two files of Hydra's that resume reads."""
    folder = tmp_path_factory.mktemp("trained") / "r"
    train_here(*TINY, folder=folder)
    (folder / ".hydra").mkdir()
    (folder / resume.OVERRIDES).write_text("".join(f"- {override}\n" for override in (*TINY, "tracker=none")))
    return folder


@pytest.fixture(autouse=True)
def _nothing_runs_in_this_process(monkeypatch):
    monkeypatch.setattr("pgx.run.main", lambda: pytest.fail("the run goes on"))


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    """The working folder, with that run as r/ and a module that must not be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text("open('imported', 'w')\ndef touch(*_, **__): open('owned', 'w')\n")
    shutil.copytree(trained, tmp_path / "r")
    return tmp_path


def snapshot(folder: Path) -> dict[Path, bytes | None]:
    return {
        path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*") if "__pycache__" not in path.parts
    }


def write_config(run: Path, config: dict[str, Any]) -> None:
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(summary | {"config": config}))


def read_config(run: Path) -> dict[str, Any]:
    return json.loads((run / "run.json").read_text())["config"]


def put(config: dict[str, Any], place: str, x: Any) -> None:
    *path, last = place.split(".")
    for key in path:
        config = config.setdefault(key, {})
    config[last] = x


def refused(command, *arguments: object, cwd: Path, capsys) -> str:
    """The one line; nothing was made, and nothing changed."""
    before = snapshot(cwd)
    with pytest.raises(SystemExit) as refusal:
        command([str(argument) for argument in arguments]) if callable(command) else command.main([*map(str, arguments)])
    out, text = capsys.readouterr()
    assert refusal.value.code == 2 and not out
    assert text.startswith("pgx: ") and text.count("\n") == 1
    assert snapshot(cwd) == before
    assert "evil" not in sys.modules
    return text


evaluate = importlib.import_module("pgx.evaluate")  # pgx.evaluate is the function
COMMANDS = (evaluate, play, diagnose)


@pytest.mark.parametrize("target", HOSTILE)
def test_no_folder_says_what_is_called(target, here, capsys):
    good, node = read_config(here / "r"), {"_target_": target} | HOSTILE[target]
    for place in PLACES:
        for bad in (node, [1, [node]], good.get(place, {}) | node if "." not in place else node):
            config = json.loads(json.dumps(good))
            put(config, place, bad)
            write_config(here / "r", config)
            for command in COMMANDS:
                line = refused(command, "r", cwd=here, capsys=capsys)
                assert "r/run.json: " in line and place.split(".")[0] in line, (place, bad)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("place", "x", "says"),
    [
        ("env", {"_target_": "pgx.envs.gymnasium.GymnasiumEnv", "id": "evil:X-v0", "num_lanes": 1, "max_steps": 9,
                 "reward_threshold": None, "kwargs": {}}, "env.id: it imports 'evil'"),
        ("update.env", {"_target_": "pgx.envs.gymnasium.GymnasiumEnv", "id": "evil:X-v0", "num_lanes": 1}, "imports 'evil'"),
        ("env.kwargs.inner", "evil:X-v0", "env.kwargs.inner: it imports 'evil'"),
        ("update._args_", [1], "update._args_: unknown key"),
        ("update._convert_", "all", "update._convert_: unknown key"),
        ("update._recursive_", False, "update._recursive_: unknown key"),
        ("update.deep", [{"_mode_": "x"}], "update.deep._mode_: unknown key"),
        ("update._partial_", "evil", "update._partial_: 'evil' is not allowed"),
        ("update._target_", {"_target_": "pgx.updates.gradient.GradientStep"}, "update._target_: "),
        ("update._target_", ["pgx.updates.gradient.GradientStep"], "update._target_: "),
        ("update._target_", "pgx.critics.NoCritic", "update._target_: 'pgx.critics.NoCritic' is not declared"),
        ("critic._target_", "pgx.gate.Gate", "'pgx.gate.Gate' is not declared"),
        ("update.x", "${oc.env:HOME}", "is not allowed; allowed: a text without ${…}"),
        ("env.id", "${oc.env:HOME}", ""),
        ("seed", "zero", "seed: 'zero' is not allowed"),
        ("seed", None, "seed: None is not allowed"),
        ("gamma", {}, "gamma"),
        ("gamma", [1.0], "gamma: [1.0] is not allowed"),
        ("policy.width", 0, "policy.width: 0 is not allowed"),
        ("more", 1, "more: unknown key"),
        ("update", None, "update: none chosen; allowed: update="),
        ("update", {}, "update._target_: the chosen update does not say it"),
        ("env", [], "env: none chosen"),
    ],
)  # fmt: skip
def test_what_is_read_is_checked_as_what_is_typed(command, place, x, says, here, capsys):
    config = read_config(here / "r")
    put(config, place, x)
    write_config(here / "r", config)
    line = refused(command, "r", cwd=here, capsys=capsys)
    assert "r/run.json: " in line and says in line


def test_what_nobody_foresaw_in_a_folder_is_one_line_too(here, capsys, monkeypatch):
    monkeypatch.setattr(evaluate, "of_run", lambda *_, **__: {}["group"])
    assert "KeyError: 'group'" in refused(evaluate, "r", cwd=here, capsys=capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_folder_is_named_in_one_line(command, here, capsys):
    file = here / "r/run.json"
    config = read_config(here / "r")
    for key in list(config):
        write_config(here / "r", {name: x for name, x in config.items() if name != key})
        line = refused(command, "r", cwd=here, capsys=capsys)
        assert f"run.json: {key}: it is missing" in line or f"run.json: {key}: none chosen" in line
    for content in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"config": 1}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"config": {"seed": 1' + b"0" * 9999,
    ):
        file.write_bytes(content)
        assert "r/run.json: " in refused(command, "r", cwd=here, capsys=capsys)


def test_a_part_that_cannot_be_made_is_said_in_one_line(here, capsys):
    """A run of another version: nothing is called that may not be, and there is no traceback."""
    config = read_config(here / "r")
    config["optimiser"]["method"] = "sgd"  # which knows no b1
    write_config(here / "r", config)
    assert "run.json: its configuration cannot be built: " in refused(evaluate, "r", cwd=here, capsys=capsys)


# What is typed follows the same rule


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            "estimator._target_=os.system",
            "estimator._target_: 'os.system' is not declared; allowed: pgx.estimators.lambda_return, ",
        ),
        (
            "critic._target_=pgx.critics.Nothing",
            "allowed: pgx.critics.LeaveOneOut, pgx.critics.NoCritic, pgx.critics.ValueNetwork;",
        ),
        ("+env.kwargs.x._target_=os.system env=gymnasium_cartpole", "env.kwargs.x._target_: 'os.system' is not declared"),
        ("+env.kwargs.x=[{_target_:os.system}] env=gymnasium_cartpole", "env.kwargs.x._target_: 'os.system' is not declared"),
        ("+env.kwargs._args_=[1] env=gymnasium_cartpole", "env.kwargs._args_: unknown key"),
    ],
)
def test_a_typed_target_must_be_declared_too(overrides, says, here, capsys):
    assert says in refused(lambda words: gate(*TINY, *words), *overrides.split(), cwd=here, capsys=capsys)


# resume: the folder's command


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("+hydra.callbacks.x={_target_: numpy.savetxt, fname: owned, X: [1]}", "is about Hydra itself"),
        ("++hydra={callbacks: {x: {_target_: evil.touch}}}", "is about Hydra itself"),
        ("+optimiser@hydra.callbacks.x=adam", "is about Hydra itself"),
        ("hydra/launcher=basic", "is about Hydra itself"),
        ("hydra.job_logging.root.level=INFO", "is about Hydra itself"),
        ("hydra.searchpath=[file:///tmp]", "is about Hydra itself"),
        ("--experimental-rerun=evil.pickle", "cannot be read"),
        ("--config-dir=evil", "cannot be read"),
        ("-m", "cannot be read"),
        ("env.id=evil:X-v0", "--import evil"),
        ("env={id: evil:X-v0}", "--import evil"),
        ("+update.env.id='evil:X-v0'", "--import evil"),
        ("tracker.project=${oc.env:HOME}", "'tracker.project=${oc.env:HOME}'"),
        ("tracker.project=${${variant}:HOME}", "'tracker.project=${${variant}:HOME}'"),
    ],
)
def test_resume_takes_from_a_folder_what_sets_the_run_and_nothing_else(line, says, here, capsys):
    with open(here / "r" / resume.OVERRIDES, "a") as file:
        file.write(f"- {json.dumps(line)}\n")
    assert says in refused(resume, "r", cwd=here, capsys=capsys)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["tracker.project=evil:X-v0", "env=gymnasium", "env.id=${tracker.project}"], "env.id: it imports 'evil'"),
        (["update._target_=evil.touch"], "update._target_: 'evil.touch' is not declared"),
    ],
)
def test_what_only_the_composed_configuration_shows_is_refused_by_the_gate(lines, says, here, capsys, monkeypatch):
    """An id that is put together out of two lines, and a target: the words look harmless."""
    (here / "r" / resume.OVERRIDES).write_text(json.dumps(["+variant=baseline", *lines]))
    monkeypatch.setattr(Gate, "modules", ())

    def go_on(words: list[str]) -> None:
        with one_line_errors(), initialize_config_dir(str(CONF), version_base="1.3"):
            Gate().on_run_start(compose("config", words, return_hydra_config=True))

    assert says in refused(go_on, *resume.command(Path("r"), []), cwd=here, capsys=capsys)


@pytest.mark.parametrize("file", [resume.OVERRIDES, ".hydra/hydra.yaml"])
@pytest.mark.parametrize(
    "content", [b"- {", b"\xff", b"1", b"- 1", b"a: &a [*a]", b"!!python/object/apply:evil.touch []", b"\x00"]
)
def test_damaged_yaml_is_named_in_one_line(file, content, here, capsys):
    (here / "r" / file).write_bytes(content)
    assert f"r/{file}: cannot be read" in refused(resume, "r", cwd=here, capsys=capsys)


def test_a_run_that_has_not_kept_its_command_says_so(here, capsys):
    shutil.rmtree(here / "r/.hydra")
    line = refused(resume, "r", cwd=here, capsys=capsys)
    assert "r has not kept its command" in line and "run.json has the configuration" in line and "hydra.run.dir=r" in line


# The same command on a hostile folder


def test_a_run_and_a_sweep_on_a_hostile_folder_call_nothing_of_it(here, capsys):
    good = read_config(here / "r")
    for place in ("update", "tracker", "env.kwargs.x", "estimator"):
        config = json.loads(json.dumps(good))
        put(config, place, {"_target_": "evil.touch"})
        write_config(here / "r", config)
        before = snapshot(here / "r")
        try:
            gate(*TINY, f"hydra.run.dir={here / 'r'}")
        except SystemExit as end:
            # where and how often a run is mirrored is no part of it: what is typed holds
            assert end.code == (0 if place == "tracker" else 2)
        assert not (here / "owned").exists() and not (here / "imported").exists()
        assert snapshot(here / "r").keys() <= before.keys() | {here / "r/.lock"}
        assert capsys.readouterr().err.count("\n") == (place != "tracker")


@pytest.mark.parametrize("name", ["run.log", ".lock", ".hydra/config.yaml", ".hydra"])
def test_no_run_goes_on_through_a_link(name, here, capsys):
    """Hydra appends to the log and overwrites its files, wherever they lead."""
    (here / "mine").write_text("years of work")
    link = here / "r" / name
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(here / "mine")
    line = refused(lambda words: gate(*TINY, *words), f"hydra.run.dir={here / 'r'}", "num_updates=3", cwd=here, capsys=capsys)
    assert f"r/{name}: is a link: " in line


# What a person declares


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


def program(command: str, *words: object, cwd: Path, **more: str) -> subprocess.CompletedProcess:
    """`python -m pgx.COMMAND` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"pgx.{command}", *map(str, words)],
        cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


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
        done = program("resume", lab / name, *words, cwd=lab.parent, PYTHONPATH=f"{lab}:{CONF.parent}", **more)
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
        ((study,), ("variant: none chosen", "leave_one_out|mine|")),
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
    done = program(
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


def test_whoever_stands_in_a_run_folder_imports_nothing_from_it(here):
    """`cd RUN_DIR; python -m pgx.evaluate .`: Python looks into the working folder, too, and jax imports what it finds
    under jax_plugins."""
    for name in ("json", "argparse", "shlex", "numpy", "jax", "jax_plugins/evil/__init__", "hydra_plugins/evil"):
        file = here / "r" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("open('owned', 'w')\n")
    done = program("evaluate", ".", "--episodes", "2", cwd=here / "r")
    assert done.returncode == 0, done.stderr
    assert not (here / "r/owned").exists()


def test_the_printed_search_path_is_in_hydras_grammar(tmp_path):
    """Whatever the folder is called."""
    for name in ("a b", "it's", "x,y=z", "[x]{y}"):
        (tmp_path / name).mkdir()
        words = resume._where(
            [("hydra.searchpath in command-line", f"file://{tmp_path / name}")] * 2, Declared((), ()), ["file:///x"]
        )
        value = OverridesParser.create().parse_override(words[-1]).value()
        assert value[-1] == f"file://{tmp_path / name}"
