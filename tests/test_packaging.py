"""The lock is complete and names no host; `import pgx` is light; the other pgx is refused."""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

PROJECT_VERSION = re.search(r'__version__ = "(.*)"', (ROOT / "pgx/__init__.py").read_text())[1]


def locked() -> dict[str, list[str]]:
    """Name → the versions in the lock (several where they differ between Pythons)."""
    versions: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", LOCK, flags=re.MULTILINE):
        versions.setdefault(name, []).append(version)
    return versions


def python(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess:
    """Run Python at the top of the repository, with `path` in the place of site-packages: after the current folder."""
    environment = os.environ if path is None else os.environ | {"PYTHONPATH": str(path)}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_every_requirement_is_pinned_and_hashed():
    blocks = [block for block in re.split(r"\n(?=\S)", LOCK.strip()) if not block.startswith("#")]  # what is left out
    assert len(blocks) > 50
    for block in blocks:
        assert re.match(r"[a-z0-9.-]+==\S+( ; [^\\]+)? \\\n    --hash=sha256:[0-9a-f]{64}\b", block), block


def test_lock_names_no_host():
    for line in LOCK.splitlines():
        assert re.match(r"[a-z0-9]|    --hash=sha256:|    # |# |$", line), line  # no option such as an index
        assert "://" not in line and not re.search(r"https?:|@ |\.(org|com|io|net)\b", line), line


def test_lock_follows_pyproject():
    """Somebody who edits pyproject.toml must also run `make lock`."""
    project, versions = PROJECT["project"], locked()
    extras = project["optional-dependencies"]
    wanted = (
        project["dependencies"] + extras["test"] + extras["slurm"] + extras["optuna"] + PROJECT["dependency-groups"]["install"]
    )
    for requirement in map(Requirement, wanted):
        pins = versions.get(canonicalize_name(requirement.name), [])
        assert pins and all(requirement.specifier.contains(pin) for pin in pins), f"{requirement}: the lock has {pins}"
    assert not {"torch", "pgx"} & versions.keys()


def test_the_cuda_extra_is_the_plugin_of_the_locked_jax():
    """jax's own metadata pin it, so that a new lock brings the plugin along; the lock itself is for CPUs."""
    [extra] = map(Requirement, PROJECT["project"]["optional-dependencies"]["cuda"])
    [name], [version] = extra.extras, locked()["jax"]
    assert extra.name == "jax" and metadata.version("jax") == version
    of_extra = [Requirement(line) for line in metadata.requires("jax") if f'extra == "{name}"' in line]
    [plugin] = [requirement for requirement in of_extra if requirement.name.endswith("-plugin")]
    assert "with-cuda" in plugin.extras and str(plugin.specifier) in (f"<={version},>={version}", f"=={version}")
    assert not [name for name in locked() if "cuda" in name or name.startswith("nvidia")]


def test_import_is_light():
    code = "import sys; before = set(sys.modules); import pgx; print(*(set(sys.modules) - before))"
    new = set(python("-c", code).stdout.split())
    assert new - sys.stdlib_module_names == {"pgx"} and len(new) < 20


@pytest.fixture
def board_games(tmp_path: Path) -> Path:
    """A site-packages folder with PyPI's pgx in it."""
    (tmp_path / "pgx").mkdir()
    (tmp_path / "pgx" / "__init__.py").touch()
    (tmp_path / "pgx-2.0.dist-info").mkdir()
    return tmp_path


def test_namesake_ends_the_command_in_one_line(board_games: Path):
    ended = python("-m", "pgx.run", "+variant=baseline", path=board_games)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"pgx: pgx-2\.0 .* is installed beside this harness .*\n", ended.stderr)


def test_namesake_is_an_import_error_in_a_library(board_games: Path):
    code = "try: import pgx\nexcept ImportError as error: print(error)"
    assert python("-c", code, path=board_games).stdout.startswith("pgx: pgx-2.0 ")


def test_a_relative_of_the_namesake_is_no_clash(tmp_path: Path):
    (tmp_path / "pgx_minatar-0.5.1.dist-info").mkdir()
    assert python("-c", "import pgx", path=tmp_path).returncode == 0


def test_an_old_python_is_told_so(tmp_path: Path):
    old = tmp_path / "python3.10"
    old.write_text("#!/bin/sh\nexit 1\n")  # what the check of the version gives there
    old.chmod(0o755)
    make = ["make", "install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    alone = {name: x for name, x in os.environ.items() if not name.startswith("MAKE")}  # not a part of `make test`
    ended = subprocess.run(make, cwd=ROOT, env=alone, capture_output=True, text=True)
    assert ended.returncode != 0 and "needs Python 3.11" in ended.stderr and not (tmp_path / "venv").exists()


def test_a_plain_install_has_the_configuration_and_the_command(tmp_path: Path):
    """Without conf/ beside it, Hydra would find nothing to compose."""
    source = tmp_path / "source"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for file in filter(None, files):
        if file.startswith(("pgx/", "analysis/", "conf/", "hydra_plugins/")) or "/" not in file:
            target = source / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to("../conf") if (ROOT / file).is_dir() else target.write_bytes((ROOT / file).read_bytes())
    build = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    assert python(*build).returncode == 0
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    wanted = {f"pgx/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert wanted <= set(names) and "pgx/py.typed" in names and "analysis/report/stability.ipynb" in names
    assert {name.split("/")[0].rpartition(".")[0] or name.split("/")[0] for name in names} <= {
        "pgx", "analysis", "hydra_plugins", f"policy_gradient_harness-{PROJECT_VERSION}",
    }  # fmt: skip
    shared = {name for name in names if name.startswith("hydra_plugins/")}  # Hydra's own place: see docs/decisions.md
    assert shared == {f"hydra_plugins/pgx_{name}.py" for name in ("launcher", "optuna", "search_path")}
    assert PROJECT["project"]["scripts"] == {"pgx": "pgx.cli:main"}
