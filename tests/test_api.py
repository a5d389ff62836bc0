"""`import pgx` as a notebook or a program uses it: nothing to compose, compile, make or pass by hand first."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import hydra
import jax
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from program import ROOT, environment

import pgx
from pgx.build import limits
from pgx.config import CONF
from pgx.loop import train
from pgx.metrics import COLUMNS
from pgx.run import run

TINY = {"episodes_per_update": 4, "updates_per_chunk": 2, "checkpoint_every": 2, "tracker": "none"}


def python(code: str, *, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=environment(**more), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run of four updates, in a folder that nobody made."""
    folder = tmp_path_factory.mktemp("runs") / "not" / "there"
    summary = run(pgx.configuration("reward_to_go", num_updates=4, seed=3, **TINY), folder)
    assert summary["status"] == "completed"
    assert {type(summary[key]) for key in ("return_final", "return_final_iqm", "wall_seconds")} == {float}
    assert {type(summary[key]) for key in ("updates", "env_steps", "episodes")} == {int}
    return folder


@pytest.fixture(scope="module")
def trained() -> tuple:
    return pgx.train("reward_to_go", "num_updates=4", seed=3, progress=False, **TINY)


def test_a_policy_in_one_call_is_that_of_the_run_of_the_same_name(trained, folder):
    """Named settings and typed ones mean the same; the table is the file."""
    policy, table = trained
    assert list(table) == list(COLUMNS) and len(table) == 4
    pd.testing.assert_frame_equal(table, pgx.Run(folder).metrics)
    same = jax.tree.map(lambda x, y: bool((x == y).all()), policy, pgx.Run(folder).policy())
    assert all(jax.tree.leaves(same))


def test_an_evaluation_is_that_of_the_command(trained, folder, capsys):
    """By policy or by folder: the same episodes, to the last digit."""
    by_folder = pgx.evaluate(folder, episodes=12)
    assert by_folder.shape == (12,) and by_folder.dtype == np.float64
    np.testing.assert_array_equal(by_folder, pgx.evaluate(trained.policy, env="cartpole", seed=3, episodes=12))
    np.testing.assert_array_equal(by_folder, pgx.evaluate(pgx.Run(str(folder)), episodes=12))
    assert not np.array_equal(by_folder, pgx.evaluate(folder, episodes=12, seed=4))
    assert not np.array_equal(by_folder, pgx.evaluate(folder, episodes=12, greedy=True))
    from pgx.evaluate import main

    main([str(folder), "--episodes", "12"])
    assert f"return {by_folder.mean():.4g} ± {by_folder.std(ddof=1):.4g} (" in capsys.readouterr().out


def test_a_run_folder_says_what_is_in_it(folder):
    found = pgx.Run(folder)
    assert found.summary["updates"] == 4 and found.config["seed"] == 3 and found.env.spec.id == "CartPole-v1"
    assert "reward_to_go on CartPole-v1, seed 3, update 4" in repr(found)


def test_a_run_folder_that_names_what_nobody_declared_is_refused_and_says_what_to_write(folder, tmp_path):
    """A folder is data: what it would import is declared in the program that reads it."""
    shutil.copytree(folder, tmp_path / "r")
    summary = json.loads((tmp_path / "r" / "run.json").read_text())
    host = pgx.configuration("reward_to_go", env="gymnasium_cartpole")["env"] | {"id": "lab:X-v0"}
    (tmp_path / "r" / "run.json").write_text(json.dumps(summary | {"config": summary["config"] | {"env": host}}))
    with pytest.raises(pgx.ConfigError, match=r"it imports 'lab', which is not declared.*if that is yours: modules=\['lab'\]$"):
        pgx.Run(tmp_path / "r")


def test_the_parts_of_a_run_need_no_further_word():
    """They compile at their first chunk, which holds as many updates as there is room for."""
    parts = pgx.assemble("reward_to_go", num_updates=3, **TINY)
    assert len(parts.runner(parts.state).rows["env_steps"]) == TINY["updates_per_chunk"]
    assert len(parts.runner(parts.state, pgx.Limits(updates=1)).rows["env_steps"]) == 1
    chunks = list(train(parts.runner, parts.state, **limits(parts.config, parts.env)))
    assert int(chunks[-1].state.update) == 3
    again = pgx.assemble(parts.config | {"seed": 9})
    assert not np.array_equal(jax.random.key_data(again.keys.init), jax.random.key_data(parts.keys.init))
    with pytest.raises(pgx.ConfigError, match=r"^seed: -1 is not allowed; allowed: a whole number"):
        pgx.assemble(parts.config | {"seed": -1})


def test_an_environment_on_the_host_trains_and_is_evaluated_alike():
    policy, table = pgx.train("vanilla", env="gymnasium_cartpole", num_updates=2, progress=False, **TINY)
    assert len(table) == 2 and len(pgx.evaluate(policy, env="gymnasium_cartpole", episodes=3)) == 3


def test_a_run_that_diverges_says_so_and_returns_its_last_finite_policy():
    with pytest.warns(RuntimeWarning, match="is not finite at update"):
        policy, table = pgx.train("reward_to_go", num_updates=9, progress=False, **TINY, **{"optimiser.learning_rate": 1e30})
    assert all(bool(np.isfinite(x).all()) for x in jax.tree.leaves(policy) if hasattr(x, "dtype")) and len(table) < 9


def test_the_bar_shows_the_live_return(capsys):
    _, table = pgx.train("reward_to_go", num_updates=4, seed=3, **TINY)
    shown = capsys.readouterr().err
    assert "100%" in shown and f"return {table['return_mean'].iloc[-1]:.1f}" in shown


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["basline"], {}),
        (["baseline"], {"sed": 3}),
        (["baseline", "seed=-1"], {}),
        (["baseline", "seed=1,2"], {}),
        ([], {"seed": 3}),
        (["baseline"], {"gamma": "${foo}"}),
        (["baseline", "env.params.gravity=3"], {}),
        (["baseline", "+sed=3"], {}),
        (["baseline"], {"policy": {"widht": 3}}),
        (["baseline"], {"env": "pendulm"}),
    ],
)
def test_a_mistake_is_the_line_of_the_command_line_as_an_exception(words, settings, capsys):
    """Nothing exits: a notebook would lose its kernel."""
    from program import gate

    with pytest.raises(pgx.ConfigError) as error:
        pgx.train(*words, **settings)
    typed = [word if "=" in word else f"+variant={word}" for word in words]
    named = [f"{key}={x}".replace("'", "").replace("{widht: 3}", "{widht:3}") for key, x in settings.items()]
    with pytest.raises(SystemExit):
        gate(*typed, *named)
    assert capsys.readouterr().err == f"pgx: {error.value}\n"


def test_what_is_no_setting_is_refused_in_one_line(trained, folder, tmp_path):
    for call, says in {
        lambda: pgx.configuration("--seed", "3"): "--seed: is an option of the command line; allowed: key=value",
        lambda: pgx.configuration("baseline", seed=object()): "seed: a object is not allowed",
        lambda: pgx.configuration("baseline", config_dir="nowhere"): "config_dir: there is no folder nowhere",
        lambda: pgx.assemble({"seed": 3}, gamma=1.0): "assemble: it takes a configuration or settings",
        lambda: pgx.evaluate(trained.policy, env="cartpole", episodes=0): "episodes: 0 is not allowed",
        lambda: pgx.evaluate(trained.policy, env="acrobot"): "policy: it cannot act on the 6 observed numbers of Acrobot-v1",
        lambda: pgx.evaluate(folder, env="acrobot"): "evaluate: a run's folder says in which environment",
        lambda: pgx.evaluate(trained.policy, best=True): "evaluate: a policy has no best checkpoint",
        lambda: pgx.assemble(
            "reward_to_go", episodes_per_update=10**9
        ): "episodes_per_update: 500 steps × 1,000,000,000 episodes",
        lambda: pgx.Run(tmp_path): f"RUN_DIR: {tmp_path} holds no run (no run.json)",
    }.items():
        with pytest.raises(pgx.ConfigError) as error:
            call()
        assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_values_arrive_as_they_were_given():
    """Texts with quotes, commas and backslashes; numbers of numpy; a dictionary for a group."""
    texts = ["a, b", "it's", "back\\slash\\", "{x: [1]}", "true", "3"]
    given = {"tracker": "wandb", "tracker.tags": texts, "seed": np.int64(7), "gamma": np.float32(0.5), "num_updates": None}
    config = pgx.configuration("baseline", policy={"width": 8, "depth": 1}, stop_when_solved=True, **given)
    assert config["tracker"]["tags"] == texts and config["stop_when_solved"] is True and config["num_updates"] is None
    assert (config["seed"], config["gamma"], config["policy"]["width"]) == (7, 0.5, 8)
    assert pgx.configuration(variant="baseline") == pgx.configuration("+variant=baseline")


def test_a_folder_of_ones_own_counts_by_name_and_by_variable(tmp_path, monkeypatch):
    (tmp_path / "variant").mkdir()
    (tmp_path / "variant" / "own.yaml").write_text("# @package _global_\nvariant: own\ngamma: 0.25\n")
    with pytest.raises(pgx.ConfigError, match="there is no 'own'"):
        pgx.configuration("own")
    assert pgx.configuration("own", config_dir=tmp_path)["gamma"] == 0.25
    with pytest.raises(pgx.ConfigError, match="did you mean 'own'"):
        pgx.configuration("owm", config_dir=tmp_path)
    monkeypatch.setenv("PGX_CONFIG_DIR", str(tmp_path))
    assert pgx.configuration("own")["gamma"] == 0.25


def test_a_program_of_hydras_around_us_stays_as_it_is():
    """Its search path, its version and its own configuration are not ours to change."""
    with initialize_config_dir(str(CONF), version_base="1.2"):
        around, base = GlobalHydra.instance().hydra, hydra.version.getbase()
        assert pgx.configuration("baseline", seed=3)["seed"] == 3
        assert GlobalHydra.instance().hydra is around and hydra.version.getbase() == base
        whole = compose("config", ["+variant=gae", "tracker=none", "episodes_per_update=2"])
        assert pgx.assemble(whole).config["variant"] == "gae"


@pytest.mark.parametrize(
    "first",
    ["", "import pgx.evaluate", "from pgx.evaluate import main", "import importlib; importlib.import_module('pgx.evaluate')"],
)
def test_evaluate_is_the_function_however_the_command_is_imported(first):
    code = f"{first}\nimport pgx, sys; from pgx import evaluate; import pgx.evaluate as third\n"
    code += "assert evaluate is pgx.evaluate is third is sys.modules['pgx.api'].evaluate\n"
    done = python(code + "assert callable(sys.modules['pgx.evaluate'].main) if 'pgx.evaluate' in sys.modules else True")
    assert done.returncode == 0, done.stderr


def test_the_public_names_are_there_and_no_others():
    assert set(pgx.__all__) <= set(dir(pgx)) and all(getattr(pgx, name) is not None for name in pgx.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        pgx.trian  # noqa: B018


def test_a_mistake_in_a_program_costs_no_jax():
    code = (
        "import sys, pgx\ntry: pgx.train('basline')\nexcept pgx.ConfigError as error: print(error)\nprint('jax' in sys.modules)"
    )
    done = python(code)
    assert done.stdout.splitlines()[1:] == ["False"] and "did you mean 'baseline'" in done.stdout and not done.stderr


def test_the_notebook_of_the_readme_runs(folder):
    """The first lines of pgx that anybody copies."""
    code = (ROOT / "README.md").read_text().partition("## In a notebook")[2].partition("```python\n")[2].partition("```")[0]
    assert code.count("pgx.") >= 5
    names = {}
    code = code.replace("num_updates=300", "num_updates=2, episodes_per_update=4, progress=False")
    exec(code.replace("outputs/2026-05-04/09-30-00", str(folder)), names)
    assert len(names["table"]) == 2 and names["run"].folder == folder and names["parts"].env.spec.id == "Acrobot-v1"
