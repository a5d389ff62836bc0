"""What a run was made with: without it, nobody can tell why two runs of one configuration differ."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pgx import backend
from pgx.runs.provenance import PACKAGES, environment, made_with, own_code, repository, stretches


@pytest.fixture
def tree(tmp_path) -> Path:
    """A repository with a commit."""
    files = {"lab/a.py": "x = 1", "conf/variant/a.yaml": "x: 1", "results.csv": "1", ".gitignore": "outputs/\n"}
    for name, text in files.items():
        write(tmp_path / name, text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first")
    return tmp_path


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(folder), *words], check=True, capture_output=True)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def state(folder: Path) -> tuple[bool, str | None]:
    found = repository.__wrapped__(folder)
    assert len(found["git_commit"]) == 40
    return found["git_dirty"], found["git_changes"]


@pytest.mark.parametrize(
    "name", ["results.csv", "new.csv", "outputs/run/conf.yaml", "here/.hydra/config.yaml", "here/multirun.yaml", "a_note.md"]
)
def test_what_no_run_is_made_of_is_no_change(name, tree):
    """Running a study made every later run one `with changes`."""
    write(tree / name, "2")
    assert state(tree) == (False, None)


def test_what_a_run_may_be_made_of_is_a_change_tracked_or_not(tree):
    """A module or a variant that was never committed looked exactly reproducible. And two changes are not the same."""
    sums = {state(tree)[1]}
    for name in ("lab/a.py", "lab/new one.py", "conf/variant/mine.yaml"):
        write(tree / name, "x = 2")
        dirty, changes = state(tree)
        assert dirty
        sums.add(changes)
    write(tree / "lab/a.py", "x = 3")
    sums.add(state(tree)[1])
    git(tree, "mv", "-f", "lab/a.py", "lab/b.py")
    sums.add(state(tree)[1])
    assert len(sums) == 6


def test_without_git_nothing_is_claimed(tmp_path, monkeypatch):
    nothing = {"git_commit": None, "git_dirty": None, "git_changes": None}
    assert repository.__wrapped__(tmp_path) == nothing
    monkeypatch.setenv("PATH", "")
    assert repository.__wrapped__(tmp_path) == nothing


@pytest.mark.parametrize("config", [{"critic": {"_target_": "mylab.critics.Mine"}}, {"env": {"id": "mylab.critics:X-v0"}}])
def test_code_outside_of_the_repository_is_summed(config, tmp_path, monkeypatch):
    """A run of one's own code had the commit of pgx, without changes: as if that were all."""
    write(tmp_path / "mylab/__init__.py", "")
    write(tmp_path / "mylab/critics.py", "import beside")
    write(tmp_path / "beside.py", "x = 1")
    write(tmp_path / "unused.py", "x = 1")
    monkeypatch.syspath_prepend(str(tmp_path))
    import mylab.critics  # noqa: F401

    try:
        first = own_code(config)
        write(tmp_path / "unused.py", "x = 2")
        assert own_code(config) == first and first.keys() == {"mylab", "beside"}
        write(tmp_path / "beside.py", "x = 2")
        second = own_code(config)
        assert second["mylab"] == first["mylab"] and second["beside"] != first["beside"]
    finally:
        for name in ("mylab", "mylab.critics", "beside"):
            sys.modules.pop(name)


def test_code_of_the_repository_and_of_packages_is_known_otherwise():
    config = {"critic": {"_target_": "pgx.critics.NoCritic"}, "env": {"_target_": "gymnasium.make", "id": "json:x"}}
    assert own_code(config) == {}


def test_what_in_the_environment_decides_bits_is_kept_and_nothing_else(monkeypatch):
    """XLA_FLAGS are a person's to set, by design: then the numbers are of those flags. What we pin does not matter."""
    for name in [name for name in os.environ if name.startswith("JAX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XLA_FLAGS", f"{backend.ONE_KERNEL} ")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/tmp/x")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_ENABLE_X64", "1")
    assert environment() == {}
    monkeypatch.setenv("XLA_FLAGS", f"{backend.ONE_KERNEL} --xla_cpu_enable_fast_math=true")
    monkeypatch.setenv("JAX_NUMPY_RANK_PROMOTION", "raise")
    assert environment() == {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true", "JAX_NUMPY_RANK_PROMOTION": "raise"}


def test_stretches_follow_each_other_and_what_is_made_again_is_of_the_new_one():
    a, b, c = ({"git_commit": x * 40, "git_dirty": False, "versions": {"jax": "1"}} for x in "abc")
    made, changes = stretches(None, 0, a)
    assert (made, changes) == ([{"from_update": 1} | a], [])
    before = {"made_with": made}
    assert stretches(before, 30, a) == (made, [])
    made, changes = stretches(before, 30, b)
    assert made == [{"from_update": 1} | a, {"from_update": 31} | b]
    assert changes == [f"git_commit {'a' * 12} → {'b' * 12}"]
    before = {"made_with": made}
    assert [x["from_update"] for x in stretches(before, 40, c)[0]] == [1, 31, 41]
    assert stretches(before, 20, c)[0] == [{"from_update": 1} | a, {"from_update": 21} | c]  # an older checkpoint
    assert stretches(before, 0, c) == ([{"from_update": 1} | c], [])
    assert json.loads(json.dumps(made)) == made


def test_a_run_of_an_older_version_keeps_what_it_knew():
    now = {"git_commit": "b" * 40, "git_changes": None, "versions": {"jax": "2"}}
    made, changes = stretches({"git_commit": "a" * 40, "versions": {"jax": "1"}}, 5, now)
    assert made[0] == {"from_update": 1, "git_commit": "a" * 40, "versions": {"jax": "1"}} and made[1]["from_update"] == 6
    assert changes == [f"git_commit {'a' * 12} → {'b' * 12}", "jax 1 → 2"]


@pytest.mark.parametrize(
    ("target", "id", "has"),
    [
        ("pgx.envs.gymnasium.GymnasiumEnv", "HalfCheetah-v5", {"mujoco"}),
        ("pgx.envs.gymnasium.GymnasiumEnv", "CartPole-v1", set()),
        ("pgx.envs.gymnax.GymnaxEnv", "Pendulum-v1", set()),
        ("pgx.envs.playground.PlaygroundEnv", "CheetahRun", {"playground", "mujoco", "mujoco-mjx"}),
    ],
)
def test_the_version_of_what_moves_an_environment_is_kept(target, id, has):
    """A robot's returns are those of a version of MuJoCo."""
    found = made_with({"env": {"_target_": target, "id": id}}, "cpu")["versions"]
    assert found.keys() - set(PACKAGES) == has
