"""experiments/speed for continuous tasks, at a tiny scale: what is a row, what is a ratio to a peer, what is skipped."""

import pytest

from experiments.speed import common, half_cheetah, host, pendulum
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
