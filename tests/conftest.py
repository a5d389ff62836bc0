"""Every test runs under stricter rules than a run does: no array is broadcast to a higher rank or cast to another
dtype without being told to, and every annotation in pgx is checked where it is passed.

`(n,1) * (n,)` is the reason: it makes an (n,n) matrix without a word, and the learning curves do not show it.
Otherwise jax is set up as for a run, so that a program has the same bits here and in a process of its own.
"""

import gc
import logging
import os
import signal
from pathlib import Path

import absl.logging
import jax
import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

# An int passes for a float, as it does for every static checker (PEP 484).
STRICT = beartype(conf=BeartypeConf(is_pep484_tower=True))

jaxtyping.install_import_hook("pgx", "conftest.STRICT")
from program import XLA_CACHE

from pgx import backend
from pgx.runners import Program

os.environ["JAX_COMPILATION_CACHE_DIR"] = str(XLA_CACHE)
jax.config.update("jax_compilation_cache_dir", str(XLA_CACHE))
backend.prepare(1)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# absl's handler closes the stream that it was made with, unless that is sys.stderr just now: within a test that captures
# it is not, and Hydra, which closes every handler, would take away what pytest itself prints to.
absl.logging.PythonHandler.close = logging.StreamHandler.close

# In a background job SIGINT is ignored, and so it would be in every program that is started here to be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

MANY = 20_000


@pytest.fixture(scope="module", autouse=True)
def no_more_programs_than_there_is_room_for():
    """Every compiled program keeps a few pieces of memory of its own, of which Linux allows a process 65,530
    (vm.max_map_count): a worker that has been through all files is ended by XLA at the next one."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MANY:
        Program._compiled.clear()
        jax.clear_caches()
        gc.collect()
