"""A run folder is data. Folders are sent, downloaded and unpacked, and people evaluate what is in them: nothing that stands
in one may decide what is imported, called, or written."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from program import gate, run_module, train_here
from refusals import COMMANDS, TINY, evaluate, refused, snapshot

from pgx import resume
from pgx.declared import CONF
from pgx.gate import Gate, one_line_errors
from pgx.identity import NEUTRAL

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
    for key in config.keys() - NEUTRAL.keys():  # which an earlier version did not have
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
            "allowed: pgx.critics.GroupMean, pgx.critics.GroupStandardised, pgx.critics.LeaveOneOut, "
            "pgx.critics.MaxRL, pgx.critics.NoCritic, pgx.critics.ValueNetwork;",
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


def test_whoever_stands_in_a_run_folder_imports_nothing_from_it(here):
    """`cd RUN_DIR; python -m pgx.evaluate .`: Python looks into the working folder, too, and jax imports what it finds
    under jax_plugins."""
    for name in ("json", "argparse", "shlex", "numpy", "jax", "jax_plugins/evil/__init__", "hydra_plugins/evil"):
        file = here / "r" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("open('owned', 'w')\n")
    done = run_module("evaluate", ".", "--episodes", "2", cwd=here / "r")
    assert done.returncode == 0, done.stderr
    assert not (here / "r/owned").exists()
