"""evaluate, play and resume: what one can do with a run once it has a folder. A number that cannot be had again, that
was trained on, or that comes silently from an older checkpoint would be worse than none."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from analysis.evaluations import read_evaluations, scores_of
from analysis.load import load
from pgx import evaluation, play, resume
from pgx.build import build, initial_state
from pgx.envs.gymnax import GymnaxEnv
from pgx.errors import ConfigError
from pgx.loop import Keys
from pgx.rollout import rollout
from pgx.runs.checkpoint import Checkpoints
from pgx.runs.record import run_hash
from pgx.runs.restore import Trained, trained
from pgx.types import Episodes

evaluate = importlib.import_module("pgx.evaluate")  # pgx.evaluate is the function
REPOSITORY = Path(__file__).resolve().parent.parent
TINY = ("+variant=baseline", "tracker=none", "episodes_per_update=4", "checkpoint_every=2", "updates_per_chunk=1")


def program(command: str, *words: object) -> subprocess.CompletedProcess:
    """`python -m pgx.COMMAND` on a machine without a display."""
    display = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    environment = {name: x for name, x in os.environ.items() if name not in display}
    return subprocess.run(
        [sys.executable, "-m", f"pgx.{command}", *map(str, words)],
        env=environment | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )


def train(folder: Path, *overrides: str) -> Path:
    done = program("run", *TINY, f"hydra.run.dir={folder}", *overrides)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Four updates of CartPole, compiled; checkpoints 2 and 4. Tests that change it take a copy."""
    return train(tmp_path_factory.mktemp("runs") / "run", "num_updates=4")


@pytest.fixture(scope="module")
def host_run(tmp_path_factory) -> Path:
    """FrozenLake on the host: its observations are whole numbers and must be flattened."""
    return train(tmp_path_factory.mktemp("runs") / "host", "num_updates=1", "env=gymnasium", "env.id=FrozenLake-v1")


@pytest.fixture(scope="module")
def mujoco_run(tmp_path_factory) -> Path:
    """Its observations are scaled, which whoever plays it must know."""
    chosen = ("env=mujoco", "env.id=InvertedPendulum-v5", "env.max_steps=20", "num_updates=1")
    return train(tmp_path_factory.mktemp("runs") / "mujoco", *chosen)


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


@pytest.fixture(scope="module")
def learnt(run) -> Trained:
    return trained(run, config(run), best=False)


def episodes_of(learnt: Trained, key: jax.Array, greedy: bool) -> Episodes:
    return eqx.filter_jit(rollout)(learnt.env, learnt.policy, key, num_episodes=EPISODES, greedy=greedy)


def config(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())["config"]


def flip_a_bit(step: Path) -> None:
    file = step / "state" / "bytes" / "0"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def one_line(capsys, *, code: int, call, arguments: list) -> str:
    """The one line with which a command refuses."""
    with pytest.raises(SystemExit) as refusal:
        call([str(argument) for argument in arguments])
    text = capsys.readouterr().err.splitlines()[-1]  # warnings may come before
    assert refusal.value.code == code
    assert text.startswith("pgx: ")
    return text


# evaluate

EPISODES = 12
"""The same number everywhere: one compilation serves all."""
COMPILED = {"env": {"_target_": "pgx.envs.gymnax.GymnaxEnv"}}


def test_evaluation_can_be_repeated_and_says_what_it_is_of(run, capsys):
    evaluate.main([str(run), "--episodes", str(EPISODES)])
    line = capsys.readouterr().out
    assert line.startswith("baseline on CartPole-v1, seed 0, update 4: return ")
    _, returns = evaluation.of_run(run, config(run), episodes=EPISODES)
    assert f"return {returns.mean():.4g} ± {np.std(returns, ddof=1):.4g} (mean ± sd of 12 fresh episodes)" in line
    assert line.endswith(f", {returns.min():g} to {returns.max():g}\n")


def test_a_sweep_is_evaluated_run_by_run_and_by_groups_of_replicates(run, tmp_path, capsys):
    """The numbers of each run are those that it has alone; one that has none does not keep the others from theirs."""
    sweep, seed = tmp_path / "sweep", ["--episodes", str(EPISODES), "--seed", "7"]
    for name in ("2", "10"):
        shutil.copytree(run, sweep / name)
    shutil.copytree(run, sweep / "broken", ignore=shutil.ignore_patterns("checkpoints"))
    with pytest.raises(SystemExit) as ended:
        evaluate.main([str(sweep), *seed])
    out, err = capsys.readouterr()
    assert ended.value.code == 1 and "broken has no checkpoint yet" in err
    evaluate.main([str(run), *seed])
    alone = capsys.readouterr().out
    _, returns = evaluation.of_run(run, config(run), episodes=EPISODES, seed=7)
    assert f"return {returns.mean():.4g} ±" in alone
    first, second, nothing, group = out.splitlines()
    assert [first, second, nothing] == [f"2       {alone.strip()}", f"10      {alone.strip()}", ""]
    assert group.startswith("baseline on CartPole-v1 ") and group.endswith(
        f"return {returns.mean():.4g} ± 0 (mean ± sd of 2 runs), {returns.mean():g} to {returns.mean():g}"
    )
    shutil.rmtree(sweep / "broken")
    with pytest.raises(SystemExit) as ended:
        evaluate.main([str(sweep), *seed, "--output", str(tmp_path / "evaluation.csv")])
    said = capsys.readouterr().out.splitlines()
    assert ended.value.code == 0 and said[0] == f"2   {alone.strip()}" and "--final" in said[-1]
    table = scores_of(read_evaluations([tmp_path / "evaluation.csv"]), load(sweep).runs)
    assert table["value"].tolist() == [returns.mean()] * 2
    with pytest.raises(SystemExit) as ended:
        evaluate.main([str(sweep), "--output", str(tmp_path / "nowhere" / "evaluation.csv")])
    assert ended.value.code == 2 and "cannot be written" in capsys.readouterr().err


def test_no_episode_of_an_evaluation_is_one_of_training(learnt, monkeypatch):
    monkeypatch.setattr(evaluation, "trained", lambda *_, **__: learnt)
    _, fresh = evaluation.of_run(Path(), COMPILED, episodes=EPISODES)
    for stream, is_it in zip(Keys.of_seed(0), (False, False, True, False), strict=True):
        episodes = episodes_of(learnt, jax.random.fold_in(stream, 0), greedy=False)
        assert np.array_equal(fresh, episodes.reward.sum(0)) == is_it


def test_greedy_takes_the_most_probable_action_whatever_the_random_numbers(learnt, monkeypatch):
    episodes = episodes_of(learnt, jax.random.fold_in(learnt.key, 0), greedy=True)
    logits = jax.jit(jax.vmap(lambda obs: learnt.policy(obs.T).logits.T))(episodes.obs)
    mask = np.asarray(episodes.mask)
    np.testing.assert_array_equal(np.asarray(episodes.action)[mask], np.asarray(logits).argmax(-1)[mask])
    monkeypatch.setattr(evaluation, "trained", lambda *_, **__: learnt)
    _, greedy = evaluation.of_run(Path(), COMPILED, episodes=EPISODES, greedy=True)
    np.testing.assert_array_equal(greedy, episodes.reward.sum(0))


def test_more_episodes_than_lanes_are_played_in_batches(learnt, host_run, monkeypatch):
    monkeypatch.setattr(evaluation, "HOST_LANES", 5)
    _, returns = evaluation.of_run(host_run, config(host_run), episodes=9)
    assert len(returns) == 9 and set(returns) <= {0.0, 1.0}
    monkeypatch.setattr(evaluation, "COMPILED_LANES", EPISODES)
    monkeypatch.setattr(evaluation, "trained", lambda *_, **__: learnt)
    _, returns = evaluation.of_run(Path(), COMPILED, episodes=2 * EPISODES - 1)
    assert len(returns) == 2 * EPISODES - 1
    assert not np.array_equal(returns[EPISODES:], returns[: EPISODES - 1])  # no batch repeats another


def test_one_episode_has_no_standard_deviation():
    assert evaluate.describe(np.array([21.0])) == "return 21 in 1 fresh episode"


def test_the_best_checkpoint_can_be_asked_for(copy, capsys):
    assert "has a score" in one_line(capsys, code=2, call=evaluate.main, arguments=[copy, "--best"])
    env, algorithm = build(config(copy))
    state, _ = initial_state(config(copy), env, algorithm)
    with Checkpoints(copy / "checkpoints", run=run_hash(config(copy))) as checkpoints:
        checkpoints.save(6, state, score=30.0)
        checkpoints.save(8, state, score=20.0)
    evaluate.main([str(copy), "--best", "--episodes", str(EPISODES)])
    assert "update 6:" in capsys.readouterr().out


def test_a_defective_checkpoint_is_announced_and_the_one_before_is_used(copy, capsys):
    flip_a_bit(copy / "checkpoints" / "4")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    done = program("evaluate", copy, "--episodes", EPISODES)
    assert done.returncode == 0 and "update 2:" in done.stdout
    assert "4 is defective: state/bytes/0 is altered; not used" in done.stderr and len(done.stderr.splitlines()) == 1
    assert before == {path: path.stat().st_mtime_ns for path in copy.rglob("*")}  # it only reads

    flip_a_bit(copy / "checkpoints" / "2")
    assert "can be used" in one_line(capsys, code=1, call=evaluate.main, arguments=[copy])


# play


def frames(path: Path) -> tuple[list[np.ndarray], int]:
    """(pictures, milliseconds of the whole film)"""
    with Image.open(path) as film:
        pictures, duration = [], 0
        for i in range(film.n_frames):
            film.seek(i)
            pictures.append(np.asarray(film.convert("RGB")).astype(int))
            duration += film.info["duration"]
        assert film.info["loop"] == 0
    return pictures, duration


def test_play_makes_a_film_in_which_something_moves_without_a_display(copy):
    done = program("play", copy)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"film in {copy}/play.webp" in done.stdout
    pictures, duration = frames(copy / "play.webp")
    steps = int(done.stdout.split(" steps")[0].split()[-1])
    assert f"return {steps} in {steps} steps ({steps / 50:.1f} s)" in done.stdout
    height, width, _ = pictures[0].shape  # CartPole's own are of 600 by 400, half of them empty
    assert len(pictures) > 1 and width == play.WIDTH and height < 0.6 * width
    # a CartPole step takes 20 ms; an odd last step has a frame of its own, and the end is held
    assert duration == 40 * (steps // 2 + 1 + steps % 2) + play.PAUSE
    assert (abs(pictures[-1] - pictures[0]) > 64).sum() > 200
    assert 1000 < (copy / "play.webp").stat().st_size < 500_000


def test_a_film_has_no_empty_margins_and_loses_nothing_that_is_drawn():
    """Whatever is drawn in any of its pictures stays; all are cut alike, and one without a drawing is left alone."""
    empty = Image.new("RGB", (200, 100), "white")
    left, right = empty.copy(), empty.copy()
    left.putpixel((50, 60), (0, 0, 0))
    right.putpixel((150, 99), (0, 0, 0))
    found = play.cut([empty, left, right])
    assert {picture.size for picture in found} == {(101 + 2 * play.MARGIN, 40 + play.MARGIN)}
    assert [np.asarray(picture).min() for picture in found] == [255, 0, 0]
    assert play.cut([empty, empty])[0].size == empty.size


def test_the_same_seed_gives_the_same_film_and_another_seed_another(run, learnt, tmp_path, monkeypatch):
    monkeypatch.setattr(play, "trained", lambda *_, **__: learnt)
    films = [tmp_path / f"{name}.gif" for name in "abc"]
    for film, seed in zip(films, (1, 1, 2**32 - 1), strict=True):
        play.main([str(run), "--greedy", "--seed", str(seed), "--out", str(film)])
    assert films[0].read_bytes() == films[1].read_bytes() != films[2].read_bytes()
    pictures, _ = frames(films[0])
    assert len(pictures) > 1 and (pictures[0][0, 0] >= 254).all()  # white stays white
    assert sorted(tmp_path.iterdir()) == films


def test_play_on_the_host_flattens_observations_as_training_does(host_run, tmp_path):
    _, total, film = play.play(host_run, config(host_run))
    assert total in (0.0, 1.0) and len(film.frames) == film.steps + 1
    play.save(film, tmp_path / "film.gif")
    assert frames(tmp_path / "film.gif")[1] == 250 * (film.steps + 1) + play.PAUSE  # four steps a second


@pytest.mark.parametrize("id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_gymnasium_shows_what_the_compiled_environment_does(id):
    """Every number that a compiled environment can be given is obeyed; all are changed a little here."""
    defaults = dataclasses.asdict(GymnaxEnv(id).params)
    del defaults["max_steps_in_episode"]
    params = {name: 1.1 * x for name, x in defaults.items() if isinstance(x, float) and name != "torque_noise_max"}
    compiled = GymnaxEnv(id, params=params)
    drawn = play.make({"id": id, "params": params | {"max_steps_in_episode": 33.0}})
    assert drawn.spec.max_episode_steps == 33
    expected, _ = drawn.reset(seed=1)
    state, _ = compiled.reset(jax.random.key(0))
    names = [field.name for field in dataclasses.fields(state) if field.name != "time"]
    state = dataclasses.replace(state, **dict(zip(names, map(jnp.float32, drawn.unwrapped.state), strict=True)))
    for action in (0, 1, 1):
        state, obs, *_ = compiled.step(jax.random.key(0), state, jnp.array(action))
        expected, *_ = drawn.step(action)
        np.testing.assert_allclose(obs, expected, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="Catch-bsuite has no renderer"):
        play.make({"id": "Catch-bsuite", "params": {}})
    with pytest.raises(ConfigError, match=r"env\.params\.mass"):
        play.make({"id": "CartPole-v1", "params": {"mass": 2.0}})


# resume


def test_a_killed_run_goes_on_to_what_it_would_have_been(run, copy):
    shutil.rmtree(copy / "checkpoints" / "4")
    with open(copy / "metrics.csv", "a") as file:
        file.write("5,99,1")  # torn
    summary = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(summary | {"status": "running", "finished": None}))
    overrides = (copy / resume.OVERRIDES).read_text()

    done = program("resume", copy)
    assert done.returncode == 0 and "already" not in done.stdout
    assert (copy / "metrics.csv").read_bytes() == (run / "metrics.csv").read_bytes()
    assert json.loads((copy / "run.json").read_text())["status"] == "completed"

    again = program("resume", copy)
    assert again.returncode == 0 and "already finished" in again.stdout
    other = program("resume", copy, "seed=1")
    assert other.returncode == 2 and other.stderr.startswith("pgx: seed: 0 → 1: ")
    assert (copy / resume.OVERRIDES).read_text() == overrides


def test_a_member_of_a_sweep_goes_on_with_a_larger_budget(run, tmp_path):
    subdir = "hydra.sweep.subdir='${hydra.job.override_dirname}'"  # a name full of = and ,
    done = program("run", "--multirun", *TINY, "seed=0", "num_updates=2", f"hydra.sweep.dir={tmp_path}", subdir)
    assert done.returncode == 0, done.stderr
    (member,) = (path.parent for path in tmp_path.glob("*/run.json"))
    assert "," in member.name

    done = program("resume", member, "num_updates=4")
    assert done.returncode == 0, done.stderr
    assert (member / "metrics.csv").read_bytes() == (run / "metrics.csv").read_bytes()
    assert sorted(OmegaConf.load(member / resume.OVERRIDES)) == sorted([*TINY, "seed=0", "num_updates=4"])


@pytest.mark.parametrize("name", ["run", "a b", "gamma=0.9,seed=1", "it's", "[x]{y}", "é:#%"])
def test_any_folder_name_survives_hydras_grammar(name, tmp_path):
    folder = tmp_path / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / resume.OVERRIDES).write_text("- +variant=baseline\n- optimiser=sgd\n- seed=1\n")
    words = resume.command(folder, ["optimiser=adam", "seed=2"])
    assert words[:-1] == ["+variant=baseline", "optimiser=adam", "seed=2"]
    parsed = OverridesParser.create().parse_override(words[-1])
    assert (parsed.get_key_element(), parsed.value()) == ("hydra.run.dir", str(folder))


# What is wrong is said in one line, at once.


@pytest.mark.parametrize("command", [evaluate, play, resume])
def test_a_folder_without_a_run_is_refused_with_the_nearest_run(command, run, tmp_path, capsys):
    beside = run.with_name("rum")
    line = one_line(capsys, code=2, call=command.main, arguments=[beside])
    assert f"there is no folder {beside}; the newest run near it is {run}" in line
    if command is not evaluate:  # which takes a folder of many runs
        line = one_line(capsys, code=2, call=command.main, arguments=[run.parent])
        assert f"{run.parent} holds no run" in line and f"is {run}" in line
    assert "required: RUN_DIR" in one_line(capsys, code=2, call=command.main, arguments=[])
    assert "--frob" in one_line(capsys, code=2, call=command.main, arguments=[run, "--frob"])


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (evaluate, ["--episodes", "0"], "--episodes: '0' is not allowed; allowed: a whole number ≥ 1"),
        (evaluate, ["--episodes", "2.5"], "--episodes: '2.5' is not allowed"),
        (play, ["--seed", "-1"], "--seed: '-1' is not allowed"),
        (play, ["--out", "film.mp4"], "allowed: a name that ends in .webp or .gif"),
        (play, ["--out", "nowhere/film.gif"], "--out: cannot write nowhere/film.gif"),
        (resume, ["hydra.run.dir=elsewhere"], "hydra.run.dir: a run is resumed where it is"),
    ],
)
def test_wrong_arguments_are_refused(command, arguments, says, run, capsys):
    assert says in one_line(capsys, code=2, call=command.main, arguments=[run, *arguments])


def test_a_run_without_a_checkpoint_or_with_a_damaged_summary_is_refused(copy, capsys):
    shutil.rmtree(copy / "checkpoints")
    line = one_line(capsys, code=2, call=play.main, arguments=[copy])
    assert f"{copy} has no checkpoint yet; one is written every 2 updates" in line
    (copy / "run.json").write_text('{"status"')
    assert "run.json: cannot be read" in one_line(capsys, code=2, call=evaluate.main, arguments=[copy])


def test_refusals_do_not_wait_for_jax():
    code = "import sys, pgx.evaluate, pgx.play, pgx.resume; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
    start = time.perf_counter()
    assert program("evaluate", "nowhere").returncode == 2
    assert time.perf_counter() - start < 5  # 0.4 s on an idle machine


def test_mujoco_is_evaluated_and_drawn_or_says_what_it_would_take(mujoco_run, tmp_path, capsys):
    """Without a display, MuJoCo draws by EGL, a library that not every machine has."""
    evaluate.main([str(mujoco_run), "--episodes", "3", "--greedy"])
    assert "greedy: return " in capsys.readouterr().out
    film = tmp_path / "film.webp"
    with_egl = program("play", mujoco_run, "--out", film)
    if with_egl.returncode:
        assert with_egl.returncode == 2 and "MUJOCO_GL=egl needs libEGL" in with_egl.stderr
    else:
        assert Image.open(film).n_frames >= 2 and not with_egl.stderr


def test_where_no_display_and_no_library_is_one_line_says_so(mujoco_run, tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    done = program("play", mujoco_run, "--out", tmp_path / "film.webp")
    assert done.returncode == 2 and done.stderr.startswith("pgx: env.id: InvertedPendulum-v5 cannot be drawn: ")
    assert done.stderr.count("\n") == 1 and "Debian: libegl1" in done.stderr and not list(tmp_path.iterdir())
