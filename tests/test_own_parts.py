"""Parts of one's own: a package and a folder of YAML outside of this repository are run, swept, resumed, evaluated, diagnosed
and reported as pgx's own parts are, with no edit here. docs/own_parts.md says so."""

import json
import subprocess
import sys
from pathlib import Path

import own_parts
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from program import environment

from pgx import diagnose, evaluate, parts, play, resume
from pgx.config import CONF, check
from pgx.declared import on_search_path
from pgx.errors import ConfigError
from pgx.gate import Gate, one_line_errors

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


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ("estimator.scale=much", "estimator.scale: 'much' is not allowed; allowed: a number"),
        ("estimator.kind=1", "estimator.kind: 1 is not allowed; allowed: a name"),
        ("env.length=2.5", "env.length: 2.5 is not allowed; allowed: a whole number"),
        ("policy.widths=4", "policy.widths: 4 is not allowed; allowed: a list"),
        ("policy.widths=[4,a]", "policy.widths: [4, 'a'] is not allowed"),
        ("critic.rate=null", "critic.rate: None is not allowed; allowed: a number"),
        ("optimiser.learning_rate=fast", "optimiser.learning_rate: 'fast' is not allowed"),
        ("env=hallway env.num_lanes=9", "env.num_lanes: 9 lanes have only 4"),
    ],
)
def test_a_wrong_value_of_an_own_key_is_one_line(overrides, says, lab):
    with pytest.raises(ConfigError) as error:
        checked(lab, *MINE, *overrides.split())
    assert says in str(error.value) and "\n" not in str(error.value)
