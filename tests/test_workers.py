"""What a command takes for its members: workers, cores, open files, one working folder."""

import contextlib
import logging
import math
import os
from pathlib import Path

import pytest
import sweeps
from hydra._internal.callbacks import Callbacks
from hydra.types import HydraContext
from sweeps import Trainer, composed_in

from pgx.sweep import members, pack, pool

command = pytest.fixture(sweeps.command)


def test_no_more_workers_than_members_and_none_for_nothing(command, monkeypatch):
    monkeypatch.setattr(pool, "cores", lambda: 64)
    monkeypatch.setattr("pgx.sweep.launch.cores", lambda: 64)
    command("-m", "+variant=vanilla", "seed=0,1", "hydra.sweep.dir=s")
    assert Trainer.sizes == [2]
    command("-m", "+variant=vanilla", "seed=0,1", "hydra.sweep.dir=s")
    command("-m", "+variant=vanilla", "seed=0,1,2", "hydra.sweep.dir=s")
    assert Trainer.sizes == [2, 0, 1]


def test_cores_where_nobody_binds_processes_to_them(monkeypatch, tmp_path):
    """macOS has no affinity; a container may have a share of the cores' time."""
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert 1 <= pool.cores() <= 6
    file = tmp_path / "cpu.max"
    for text, cores in (("max 100000\n", None), ("150000 100000\n", 2), ("50000 100000\n", 1), ("odd", None)):
        file.write_text(text)
        assert pool._quota(file) == cores
    assert pool._quota(tmp_path / "nothing") is None


def test_files_where_there_is_no_limit(monkeypatch):
    """On macOS the hard limit is infinite by name only."""
    asked = []

    def refuse(_, limits):
        asked.append(limits)
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(pack.resource, "getrlimit", lambda _: (256, pack.resource.RLIM_INFINITY))
    monkeypatch.setattr(pack.resource, "setrlimit", refuse)
    pack._open_many_files()
    assert asked == [(10240, pack.resource.RLIM_INFINITY)]


def test_a_pack_stays_where_it_is(tmp_path, monkeypatch):
    """hydra.job.chdir is one folder, and its members are many: nested, one would lie in another's."""
    monkeypatch.chdir(tmp_path)
    found = members.placed(composed_in("s", *(f"+variant=vanilla seed={i} hydra.job.chdir=true" for i in range(3))))
    seen = []

    class Recorded(contextlib.nullcontext):
        needs_more, summary = False, {"status": "diverged"}

        def __init__(self, config, folder, **_):
            super().__init__(self)
            seen.append((folder, Path.cwd()))

    monkeypatch.setattr(pack, "Recording", Recorded)
    context = HydraContext(config_loader=None, callbacks=Callbacks())
    handlers = logging.root.handlers[:]
    try:
        told = pack.Pack([(x.number, x.hydra_config) for x in found], 4, lambda *_: None).run(context)
    finally:
        logging.root.handlers[:] = handlers
    assert seen == [(tmp_path / "s" / str(i), tmp_path) for i in range(3)] and Path.cwd() == tmp_path
    assert [x.return_value for x in told.values()] == [-math.inf] * 3
