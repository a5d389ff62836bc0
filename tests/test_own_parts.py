"""Parts of one's own: a package and a folder of YAML outside of this repository are run, swept, resumed, evaluated, diagnosed
and reported as pgx's own parts are, with no edit here. docs/own_parts.md says so."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import own_parts
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from program import environment

from pgx import configuration, diagnose, parts, play
from pgx.config import CONF, check, other_keys, unknown_key
from pgx.declared import Declared, on_search_path
from pgx.errors import ConfigError

evaluate = importlib.import_module("pgx.evaluate")  # pgx.evaluate is the function
MINE = ("+variant=mine", "env=corridor", "tracker=none", "episodes_per_update=4", "num_updates=3", "bootstrap_truncated=true")


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """The folder that the package is in, which Python finds."""
    folder = tmp_path_factory.mktemp("lab")
    own_parts.write(folder)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in ("mylab", "mylab.parts"):
        sys.modules.pop(name, None)


def composed(lab: Path, *overrides: str):
    search = f"hydra.searchpath=[file://{lab / 'mylab/conf'}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [search, *overrides], return_hydra_config=True)


def checked(lab: Path, *overrides: str):
    config = composed(lab, *overrides)
    return check(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]), on_search_path(config.hydra))


@pytest.fixture(scope="module")
def run(lab, tmp_path_factory) -> Path:
    """A run of nothing but own parts."""
    from pgx.run import run

    folder = tmp_path_factory.mktemp("runs") / "0"
    folder.mkdir()
    run(checked(lab, *MINE), folder)
    return folder


def summary(folder: Path):
    return json.loads((folder / "run.json").read_text())


def test_a_run_of_nothing_but_own_parts_learns_and_says_what_it_was_made_of(run):
    said = summary(run)
    assert said["status"] == "completed" and said["updates"] == 3
    assert said["config"]["estimator"]["scale"] == 0.5 and said["config"]["env"]["length"] == 6
    assert list(said["made_with"][0]["own_code"]) == ["mylab"]


def test_an_environment_s_file_may_set_what_the_environment_needs(run, lab):
    """With `# @package _global_`. What is typed comes last, another environment of the sweep sets what is its own, and
    the keys are those that the file has for its group."""
    assert {key: summary(run)["config"][key] for key in ("scale_observations", "reward_scale")} == {
        "scale_observations": True,
        "reward_scale": 0.25,
    }
    typed = checked(lab, *MINE, "reward_scale=2")
    assert typed["reward_scale"] == 2.0 and typed["scale_observations"]
    other = checked(lab, *MINE, "env=hallway")
    assert (other["reward_scale"], other["scale_observations"]) == (1.0, False)
    unknown = str(unknown_key("env.lenght", Declared((lab / "mylab/conf",))))
    assert "did you mean 'env.length'?" in unknown and "env.pay" in unknown
    assert "env.env" not in unknown and "env.reward_scale" not in unknown


def test_help_says_what_an_environment_s_file_sets(lab, monkeypatch):
    monkeypatch.setenv("PGX_CONFIG_DIR", str(lab / "mylab/conf"))
    line = "env=corridor: id, length, pay, reward_threshold; sets scale_observations=True reward_scale=0.25\n"
    assert line in other_keys()


def test_an_environment_s_file_may_build_on_another(tmp_path):
    """`gymnasium@env`: its keys are those of both files; without the @env they would be keys of no group."""
    (tmp_path / "env").mkdir()
    for name, place in {"right": "@env", "wrong": ""}.items():
        text = (
            f"# @package _global_\ndefaults:\n  - gymnasium{place}\n  - _self_\nenv: {{id: CartPole-v1}}\nreward_scale: 0.5\n"
        )
        (tmp_path / f"env/{name}.yaml").write_text(text)
    config = configuration("vanilla", env="right", config_dir=tmp_path)
    assert (config["env"]["id"], config["env"]["num_lanes"], config["reward_scale"]) == ("CartPole-v1", 10, 0.5)
    assert "right" in str(unknown_key("env.max_steps", Declared((tmp_path,)))).partition(" has it")[0]
    with pytest.raises(ConfigError, match="id: unknown key; did you mean 'env.id'?"):
        configuration("vanilla", env="wrong", config_dir=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("estimator.scale=much", "estimator.scale: 'much' is not allowed; allowed: a number"),
        ("estimator.kind=1", "estimator.kind: 1 is not allowed; allowed: a name"),
        ("env.length=2.5", "env.length: 2.5 is not allowed; allowed: a whole number"),
        ("policy.widths=4", "policy.widths: 4 is not allowed; allowed: a list"),
        ("policy.widths=[4,a]", "policy.widths: [4, 'a'] is not allowed"),
        ("critic.rate=null", "critic.rate: None is not allowed; allowed: a number"),
        ("update.most=[1]", "update.most: [1] is not allowed; allowed: a number"),
        ("env=hallway env.num_lanes=9", "env.num_lanes: 9 lanes have only 4"),
    ],
)
def test_a_wrong_value_of_an_own_key_is_one_line(overrides, says, lab):
    with pytest.raises(ConfigError) as error:
        checked(lab, *MINE, *overrides.split())
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("estimator", "estimator.scal: the chosen estimator has no such key; allowed: estimator.gamma, estimator.scale, "),
        ("critic", "critic.scal: the chosen critic has no such key; allowed: critic.rate"),
        ("policy", "policy.scal: the chosen policy has no such key; allowed: policy.widths"),
        ("update", "update.scal: the chosen update has no such key; allowed: update.most"),
        ("env", "env.scal: the chosen env has no such key; allowed: env.id, env.length, env.pay, "),
    ],
)
def test_a_file_that_says_what_nothing_asks_for_or_too_little_is_one_line(key, says, lab):
    config = checked(lab, *MINE)
    config[key]["scal"] = 1
    with pytest.raises(ConfigError) as error:
        recheck(config, lab)
    assert says in str(error.value)
    for name in {"critic": ["rate"], "policy": ["widths"], "update": ["most"], "env": ["length"]}.get(key, []):
        config = checked(lab, *MINE)
        del config[key][name]
        with pytest.raises(ConfigError, match=f"{key}.{name}: it is missing"):
            recheck(config, lab)


def recheck(config, lab):
    from pgx.config import check_plain
    from pgx.declared import Declared

    return check_plain(config, Declared((lab / "mylab/conf",)))


def test_a_mistyped_own_key_costs_no_jax_and_no_folder(lab, tmp_path):
    words = [f"--config-dir={lab / 'mylab/conf'}", *MINE, "hydra.run.dir=r"]
    for wrong, says in {
        "estimator.scal=2": "pgx: estimator.scal: unknown key; allowed: estimator.gamma, estimator.lam, estimator.kind, "
        "estimator.scale; did you mean 'estimator.scale'?\n",
        "estimator.scale=big": "pgx: estimator.scale: 'big' is not allowed; allowed: a number\n",
    }.items():
        code = f"import sys; from pgx import run\nsys.argv[1:] = {[*words, wrong]}\n"
        done = python(lab, "-c", f"{code}try: run.main()\nfinally: print(*sys.modules)", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (2, says)
        assert not {"jax", "mylab.parts"} & set(done.stdout.split()) and not (tmp_path / "r").exists()


def test_a_name_that_the_module_has_not_is_one_line(lab):
    for target, says in {
        "mylab.parts.Linea": "critic._target_: mylab.parts has no 'Linea'",
        "nolab.parts.Linear": "critic._target_: there is no module 'nolab'",
        "nolab": "critic._target_: there is no module 'nolab'",
    }.items():
        with pytest.raises(ConfigError) as error:
            parts.signature(target, "critic._target_")
        assert says in str(error.value)


def test_switches_ask_the_class_and_not_its_name(lab):
    """A critic with a V may bootstrap, and one without may not."""
    assert checked(lab, *MINE)["bootstrap_truncated"]
    with pytest.raises(ConfigError, match="there is no V"):
        checked(lab, *MINE, "critic=none")


def test_signatures_are_read_through_imports_and_bases(tmp_path, monkeypatch):
    """Re-exports, dataclasses, inherited constructors, forward references: as Python itself would call it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "deep/inner").mkdir(parents=True)
    (tmp_path / "deep/__init__.py").write_text("from .inner.b import B as Again, C\nfrom deep.inner import *\nmade = Again\n")
    (tmp_path / "deep/inner/__init__.py").write_text("from . import b\nfrom .b import D\n")
    (tmp_path / "deep/inner/b.py").write_text(
        "import dataclasses\nfrom typing import ClassVar, Literal, Optional\nimport equinox as eqx\nimport pgx.envs.base as base\n"
        "class A(eqx.Module):\n    x: 'float'\n    n: int = eqx.field(static=True)\n    k: ClassVar[int] = 3\n"
        "    off: bool = eqx.field(default=False)\n"
        "class B(A):\n    how: Literal['a', 'b'] | None = None\n    least: ClassVar[int] = 2\n"
        "@dataclasses.dataclass\nclass C:\n    n: Optional[int]\n    later: list = dataclasses.field(default_factory=list)\n"
        "class D(base.HostEnv):\n    def __init__(self, id, *, num_lanes=1, **more): pass\n"
        "def make(id: str) -> 'D': pass\n"
    )
    settings = {name: (x.required, rule(x).allowed) for name, x in parts.signature("deep.Again").settings.items()}
    assert settings == {
        "x": (True, "a number"),
        "n": (True, "a whole number"),
        "off": (False, "true or false"),
        "how": (False, "a | b or null"),
    }
    assert parts.signature("deep.made") == parts.signature("deep.inner.b.B")
    found = parts.signature("deep.C").settings
    assert [x.required for x in found.values()] == [True, False] and rule(found["n"]).allowed == "a whole number or null"
    assert parts.signature("deep.D").is_open and set(parts.signature("deep.D").settings) == {"id", "num_lanes"}
    assert parts.derives("deep.D", "pgx.envs.base.HostEnv") and parts.derives("deep.inner.b.make", "pgx.envs.base.HostEnv")
    assert not parts.derives("deep.C", "pgx.envs.base.HostEnv")
    assert [parts.declared(f"deep.{name}", key, 7) for name, key in (("Again", "least"), ("Again", "k"), ("C", "k"))] == [
        2,
        3,
        7,
    ]
    assert "deep" not in sys.modules


def rule(setting):
    from pgx.rules import of_setting

    return of_setting(setting.annotation, setting.default)


def python(lab: Path, *words: object, cwd: Path) -> subprocess.CompletedProcess:
    more = {"PYTHONPATH": f"{environment()['PYTHONPATH']}:{lab}"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False)


def module(lab: Path, *words: object, cwd: Path) -> None:
    done = python(lab, "-m", *words, cwd=cwd)
    assert done.returncode == 0, done.stderr


SMALL = "--episodes 24 --batches 2,4 --updates 2 --states 6 --continuations 2 --checkpoints 1".split()


def test_the_whole_way_of_a_run_of_own_parts(run, lab, tmp_path, capsys):
    """evaluated, played (refused in a line: it has no pictures), diagnosed; and not without its folder of the configuration."""
    where = ["--config-dir", str(lab / "mylab/conf")]
    evaluate.main([str(run), *where, "--episodes", "4"])
    assert "mine on Corridor, seed 0, update 3: return " in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        play.main([str(run), *where])
    err = capsys.readouterr().err
    assert end.value.code == 2 and "Corridor has no renderer" in err and err.count("\n") == 1
    with pytest.raises(SystemExit):
        evaluate.main([str(run)])
    diagnose.main([str(run), *where, *SMALL])
    of_snr = {row["of"] for row in diagnose.read(run) if row["quantity"] == "snr"}
    assert {"own", "baseline, own V", "vanilla"} <= of_snr


@pytest.mark.slow
def test_a_sweep_of_own_parts_is_run_resumed_diagnosed_and_reported(lab, tmp_path):
    where = f"--config-dir={lab / 'mylab/conf'}"
    words = [where, "-m", *MINE, "seed=0,1", "hydra.sweep.dir=s", "hydra.sweep.subdir=${variant}-${seed}"]
    module(lab, "pgx.run", *words, cwd=tmp_path)
    members = [tmp_path / "s" / f"mine-{seed}" for seed in (0, 1)]
    assert [summary(member)["status"] for member in members] == ["completed"] * 2
    assert all(list(summary(member)["made_with"][0]["own_code"]) == ["mylab"] for member in members)
    module(lab, "pgx.resume", members[0], where, "num_updates=5", cwd=tmp_path)
    assert summary(members[0])["updates"] == 5
    module(lab, "pgx.diagnose", "s", where, *SMALL, cwd=tmp_path)
    module(lab, "analysis.report", "s", "--score", "return_mean", cwd=tmp_path)
    (report,) = (tmp_path / "s").glob("**/report.html")
    assert "mine" in report.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("env=hallway",), ("optimiser=plain",)], ids=lambda parts: parts[0])
def test_other_own_parts_train_too(parts, lab, tmp_path, capsys):
    """An environment in Python, and an optimiser that owes nothing to optax."""
    from pgx.run import run

    run(checked(lab, *MINE, *parts), tmp_path)
    assert summary(tmp_path)["status"] == "completed"
    evaluate.main([str(tmp_path), "--config-dir", str(lab / "mylab/conf"), "--episodes", "4"])
    assert "of 4 fresh episodes" in capsys.readouterr().out


IMMEDIATE = {
    "estimators_of_mine.py": "def immediate(reward, value, mask, bootstrap):\n    return reward\n",
    "conf/estimator/immediate.yaml": "_target_: estimators_of_mine.immediate\n_partial_: true\n",
    "conf/variant/immediate.yaml": "# @package _global_\ndefaults:\n  - override /estimator: immediate\n"
    "  - override /critic: none\n\nvariant: immediate\n",
}


def test_a_variant_is_three_files(tmp_path, monkeypatch):
    """A function and two files of YAML: it runs under its name, and no fourth file knows of it."""
    from pgx.run import run

    assert len(IMMEDIATE) == 3
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in IMMEDIATE.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    search = f"hydra.searchpath=[file://{tmp_path / 'conf'}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [search, "+variant=immediate", "tracker=none", "num_updates=2", "env=catch"]
        config = compose("config", words, return_hydra_config=True)
    task = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    (tmp_path / "r").mkdir()
    run(check(task, on_search_path(config.hydra)), tmp_path / "r")
    assert summary(tmp_path / "r")["variant"] == "immediate" and summary(tmp_path / "r")["updates"] == 2
    sys.modules.pop("estimators_of_mine", None)
