"""JAX as a run starts it: what a person has set for other programs neither changes a number nor ends a run."""

import os

import jax
import pytest
from program import checked, gate, pgx, summary, train_here

from pgx import backend
from pgx.errors import ConfigError

RUN = ("+variant=baseline", "env=catch", "num_updates=3", "episodes_per_update=4", "checkpoint_every=3", "tracker=none")
THEIRS = {
    "JAX_ENABLE_X64": "1",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_DEBUG_NANS": "1",
    "JAX_DISABLE_JIT": "1",
}


def test_settings_of_jax_in_the_environment_change_no_number_and_end_no_run(tmp_path):
    """JAX_THREEFRY_PARTITIONABLE=0 in a profile gave another run of the same hash; JAX_ENABLE_X64, JAX_DEBUG_NANS
    and JAX_DISABLE_JIT ended every run with a bare TypeError."""
    done = pgx(*RUN, "hydra.run.dir=theirs", cwd=tmp_path, **THEIRS)
    assert done.returncode == 0, done.stderr
    train_here(*RUN, folder=tmp_path / "ours")
    assert (tmp_path / "theirs/metrics.csv").read_bytes() == (tmp_path / "ours/metrics.csv").read_bytes()
    assert [summary(tmp_path / name)["made_with"][0]["matmul_precision"] for name in ("theirs", "ours")] == ["highest"] * 2


def test_flags_of_a_person_come_after_ours_which_are_the_device_s(monkeypatch):
    """What comes later wins. A GPU is told to give the same bits twice, and a CPU, which does, is told nothing new."""
    monkeypatch.setenv("XLA_FLAGS", "--theirs=1")
    for plugins, ours in (
        (False, ""),
        (True, "--xla_gpu_deterministic_ops=true "),
        (True, "--xla_gpu_deterministic_ops=true "),
    ):
        monkeypatch.setattr(backend, "_plugins", lambda plugins=plugins: plugins)
        backend.prepare(1)
        assert os.environ["XLA_FLAGS"] == f"{backend.ONE_KERNEL} {ours}--theirs=1"
    assert backend.persons_flags() == "--theirs=1"


def test_a_platform_that_is_not_there_is_named_in_one_line(tmp_path, monkeypatch, capsys):
    """JAX_PLATFORMS=cuda on a machine without: "AssertionError:" was all that was said."""
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backend, "_plugins", lambda: False)
    with pytest.raises(SystemExit) as end:
        gate("+variant=baseline")  # before anything is imported, and a folder exists
    assert end.value.code == 2 and not list(tmp_path.iterdir())
    assert (
        capsys.readouterr().err
        == "pgx: JAX_PLATFORMS: jax finds no 'cuda' here; unset it, or pip install '.[cuda]' for a GPU of NVIDIA's\n"
    )

    def broken():
        raise AssertionError

    monkeypatch.setattr(backend, "_plugins", lambda: True)  # installed, but there is no card
    monkeypatch.setattr(jax, "devices", broken)
    with pytest.raises(ConfigError, match="JAX_PLATFORMS: jax finds no 'cuda' here"):
        backend.prepare(checked(*RUN)["xla_threads"])
