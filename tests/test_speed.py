"""experiments/speed for PPO and for continuous tasks, at a tiny scale: what is a row, a ratio to a peer, what is skipped."""

import json
import math
import os
import subprocess

import numpy as np
import pytest
from program import checked

from experiments.speed import (
    accelerator,
    common,
    evaluation,
    half_cheetah,
    host,
    pendulum,
    ppo,
    ppo_pendulum,
    ppo_seeds,
    purejaxrl,
    vmapped,
)
from experiments.speed.common import Child

TINY = (
    "updates_per_chunk=1",
    "episodes_per_update=2",
    "tracker=none",
    "diagnose_every=1000",
    "policy.width=2",
    "critic.width=2",
)


def test_a_peer_that_is_not_there_is_skipped(monkeypatch):
    """And the row says what it needs."""
    monkeypatch.delenv("REJAX", raising=False)
    for name in ("assemble", "at_the_limit"):
        monkeypatch.setattr(pendulum, name, lambda *_: None)
    monkeypatch.setattr(pendulum, "interleave", lambda contenders, _: {name: [6.0] for name in contenders})
    *_, cartpole, peer = pendulum.run(1, 0)
    assert cartpole.values == [1.0] and cartpole.at_least == 0.4
    assert not peer.values and "REJAX" in peer.note and peer.met is None
    monkeypatch.setattr(half_cheetah.importlib.util, "find_spec", lambda name: None)
    assert all("needs mujoco" in figure.note for figure in half_cheetah.run(1, 0))
    assert "stable_baselines3 and torch" in host.missing_for_a2c()


@pytest.mark.slow
def test_pendulum_beside_a_peer(monkeypatch, tmp_path):
    """Which is measured in a process of its own, in the same turn."""
    monkeypatch.setenv("REJAX", str(tmp_path))
    monkeypatch.setattr(pendulum, "child", lambda *arguments: Child(9.0, "2.0" if str(tmp_path) in arguments else ""))
    for name in ("LARGE", "SMALL", "CARTPOLE"):
        monkeypatch.setattr(pendulum, name, (*getattr(pendulum, name), *TINY, "+env.params.max_steps_in_episode=3"))
    monkeypatch.setattr(pendulum, "at_the_limit", common.assemble)
    figures = {figure.name: figure for figure in pendulum.run(1, 0)}
    ours, against = figures["gae, networks 64×64"], figures["gae, networks 64×64 / rejax's PPO, networks 64×64"]
    assert against.values == [ours.values[0] / 2] and against.at_least == 4


@pytest.mark.slow
def test_half_cheetah_beside_random_actions(monkeypatch):
    """As a share of what the environments alone make."""
    pytest.importorskip("mujoco")
    monkeypatch.setattr(half_cheetah, "missing_for_a2c", lambda: "SB3")
    monkeypatch.setattr(half_cheetah, "SETTINGS", (*half_cheetah.SETTINGS, *TINY, "episodes_per_update=8", "env.max_steps=3"))
    monkeypatch.setattr(half_cheetah, "STEPS", 3)
    ours, plain, _, share, _, a2c = half_cheetah.run(1, 0)
    assert share.values == [ours.values[0] / plain.values[0]] and share.at_least == 0.8
    assert "needs SB3" in a2c.note and not a2c.values


def test_flags_of_ours_are_not_the_peers(monkeypatch):
    """XLA reads a flag that it does not know as the end of the process, and an empty variable as the name of a file."""
    show = ("-c", "import os; print(os.environ.get('XLA_FLAGS'))")
    monkeypatch.setenv("XLA_FLAGS", f"{common.backend.ONE_KERNEL} ")
    assert common.child(*show).last_line == "None"
    monkeypatch.setenv("XLA_FLAGS", f"{common.backend.ONE_KERNEL} --theirs=1")
    assert common.child(*show).last_line == "--theirs=1"


# PPO, and evaluation


@pytest.fixture
def in_process(monkeypatch):
    """Children that train run in this process instead, and at a tiny scale; {module: what it was asked}."""
    asked = {}

    def install(part, measure):
        def child(_, module, *words, **how):
            asked.setdefault(module.removeprefix("experiments.speed."), []).append(words)
            return Child(3.0, json.dumps(measure(module.removeprefix("experiments.speed."), *words)))

        monkeypatch.setattr(part, "child", child)
        return asked

    return install


def purejaxrl_in(folder, monkeypatch):
    """As far as anybody looks before it is run."""
    for name in ("ppo.py", "wrappers.py", "gymnax", "flax", "distrax"):
        (folder / name).touch()
    monkeypatch.setenv("PUREJAXRL", str(folder))


def test_ppo_beside_purejaxrl(monkeypatch, tmp_path, in_process):
    """Env steps as measured, seconds to solved seed by seed; what is never solved counts for neither."""
    told = iter([{"env_steps_per_second": 2.0, "solved": 10.0}, {"env_steps_per_second": 4.0, "solved": None}])
    measure = {"ppo": lambda *_: 6.0, "purejaxrl": lambda *_: next(told), "pgx.run": lambda *_: "solved at 7"}
    asked = in_process(ppo, lambda module, *words: measure[module](*words))
    purejaxrl_in(tmp_path, monkeypatch)
    ours, small, theirs, ratio, _, whole, peer, share = ppo.run(2, 0)
    assert (ours.values, small.values, theirs.values) == ([6.0, 6.0], [6.0, 6.0], [2.0, 4.0])
    assert ratio.values == [3.0, 1.5] and ratio.at_least == 1.6
    assert whole.values == [3.0, 3.0] and peer.values == [10.0] and share.values == [0.3] and share.at_most == 0.5
    assert "1 of 2 seeds" in peer.note
    assert [words[2] for words in asked["purejaxrl"]] == ["0", "1"], "every round has another seed"
    assert [[word for word in words if "seed" in word] for words in asked["pgx.run"]] == [["seed=0"], ["seed=1"]]
    checked(*ppo.settings(ppo.MINIBATCH))


def test_a_run_that_is_not_solved_is_no_figure(monkeypatch, in_process):
    monkeypatch.delenv("PUREJAXRL", raising=False)
    in_process(ppo, lambda module, *_: "return 12.0" if module == "pgx.run" else 6.0)
    with pytest.raises(RuntimeError, match=r"not solved: .*return 12"):
        ppo.run(1, 0)


def test_without_purejaxrl_its_rows_are_skipped(monkeypatch, tmp_path, in_process):
    """And say what is missing: the folder, or something in it."""
    monkeypatch.delenv("PUREJAXRL", raising=False)
    for part in (ppo, ppo_seeds):
        in_process(part, lambda module, *_: "solved at 7" if module == "pgx.run" else 6.0)
        *figures, theirs = part.run(1, 0)
        assert all(figure.values for figure in figures) and "PUREJAXRL=FOLDER" in theirs.note and theirs.met is None
    monkeypatch.setenv("PUREJAXRL", str(tmp_path))
    (tmp_path / "ppo.py").touch()
    assert "wrappers.py and gymnax" in ppo_seeds.run(1, 0)[-1].note


def test_seeds_that_do_not_end_in_time_are_reported(monkeypatch, tmp_path, in_process):
    """Not waited for, and no part of the ratio; both sides train as long and on the same cores."""
    purejaxrl_in(tmp_path, monkeypatch)
    wholes = iter([True, False])

    def measure(module, *words):
        if module == "purejaxrl" and words[3] == "128" and next(wholes):
            raise subprocess.TimeoutExpired("theirs", ppo_seeds.TIMEOUT)
        return sorted(os.sched_getaffinity(0))

    asked = in_process(ppo_seeds, measure)
    ours, default, theirs, ratio, _, halves, of_halves, _ = ppo_seeds.run(2, 0)
    assert len(ours.values) == len(default.values) == len(halves.values) == len(of_halves.values) == 2
    assert theirs.values == [3.0] and ratio.values == [1.0] and ratio.met is False and of_halves.met is None
    assert theirs.note == ratio.note == f"1 of 2 did not end within {ppo_seeds.TIMEOUT:g} s"
    seeds = [words[3] for words in asked["purejaxrl"]]
    cores = min(2, os.cpu_count())
    assert seeds == ["128", *[str(128 // cores)] * cores] * 2
    assert f"num_env_steps={asked['purejaxrl'][0][1]}" in asked["pgx.run"][0]
    assert f"seed=range(0,{asked['purejaxrl'][0][3]})" in asked["pgx.run"][0]


def test_when_theirs_is_solved():
    """The first update after which the last 100 episodes return 475 on average, in the order in which they end."""
    ended = np.zeros((5, 2, 30), bool)
    ended[:, 0] = True
    returns = np.where(np.arange(5)[:, None, None] < 1, 400.0, 500.0) * np.ones((5, 2, 30))
    returns[:, 1] = 0  # of no episode's end
    share = lambda: purejaxrl.solved_after({"returned_episode": ended, "returned_episode_returns": returns})
    assert share() == 4 / 5, "120 episodes, of the last 100 of which 10 return 400; after 90 there are none"
    returns[2] = 300
    assert share() is None


def test_a_child_is_ended_after_its_time_and_begins_on_so_many_cores():
    ours = os.sched_getaffinity(0)
    with common.on_cores(1):
        assert common.child("-c", "import os; print(len(os.sched_getaffinity(0)))").last_line == "1"
    assert os.sched_getaffinity(0) == ours
    with pytest.raises(subprocess.TimeoutExpired):
        common.child("-c", "import time; time.sleep(60)", timeout=0.1)


def test_pendulum_by_ppo_has_a_return_for_every_seed(monkeypatch, in_process):
    asked = in_process(ppo_pendulum, lambda _, seeds, *words: [(0.5, -150.0), (0.7, -180.0)])
    took, returned = ppo_pendulum.run(2, 0)
    assert took.values == [0.5, 0.7] and took.met and returned.values == [-150.0, -180.0] and "RLtools" in took.note
    config = checked(*asked["ppo_pendulum"][0][1:])
    steps = config["episodes_per_update"] * 200
    assert steps == config["update"]["minibatch_steps"] * 16 == 4000 and config["update"]["epochs"] == 2


@pytest.mark.slow
def test_ppo_and_evaluation_at_a_tiny_scale(monkeypatch, in_process):
    """What the children measure."""
    monkeypatch.setattr(evaluation, "CHUNKS", {"baseline": 1})
    monkeypatch.setattr(evaluation, "at_the_limit", lambda *words: common.assemble(*words, *TINY, "updates_per_chunk=20"))
    in_process(evaluation, lambda _, repeat, chunks, *words: evaluation._measure(int(repeat), 1, *words))
    figures = evaluation.run(1, 0)
    assert [figure.unit for figure in figures] == ["%", "×"] and all(len(figure.values) == 1 for figure in figures)
    assert 0 < figures[0].at_most and all(math.isfinite(figure.values[0]) for figure in figures)
    assert ppo._trained(*ppo.settings(16), *TINY, "num_updates=2") > 0
    short = "+env.params.max_steps_in_episode=3"
    ((seconds, returned),) = ppo_pendulum._trained(1, *ppo_pendulum.SETTINGS, *TINY, short, "num_updates=60")
    assert seconds > 0 and -60 < returned < 0


def test_what_is_for_an_accelerator_is_skipped_on_a_cpu(monkeypatch):
    monkeypatch.setattr(accelerator.backend, "accelerator", lambda: False)
    assert all("needs an accelerator" in figure.note and not figure.values for figure in accelerator.run(1, 0))


@pytest.mark.slow
def test_what_is_measured_on_an_accelerator_is_measured_at_a_small_scale(monkeypatch):
    """On a CPU that is taken for one; a small task in the place of the cheetah."""
    monkeypatch.setattr(accelerator.backend, "accelerator", lambda: True)
    monkeypatch.setattr(accelerator, "without_brax", lambda: False)
    monkeypatch.setattr(vmapped, "at_the_limit", lambda *words: common.assemble(*words, "tracker=none"))
    short = ("+variant=ppo", "env=pendulum", "tracker=none", "+env.params.max_steps_in_episode=5")
    for name, x in {"SEEDS": 3, "UPDATES": 2, "LANES": 4, "SETTINGS": short}.items():
        monkeypatch.setattr(accelerator, name, x)
    seeds, lanes = accelerator.run(1, 0)
    assert seeds.name.endswith("3 seeds in one program") and lanes.name.endswith("4 lanes")
    assert all(len(figure.values) == 1 and figure.values[0] > 0 and "cpu" in figure.note for figure in (seeds, lanes))
