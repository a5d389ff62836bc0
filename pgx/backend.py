"""JAX, set up once a process, before its first use."""

import os
import subprocess
import sys
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

_ONE_KERNEL = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000"
"""On a CPU: a loop without products and other calls of libraries is one kernel, however much it reads (default:
1 kB). From kernel to kernel takes longer than what most of them do: see `networks.matmul_in_loop`."""


def prepare(threads: int) -> None:
    """Start jax with `threads` threads and a persistent compilation cache in the user's cache folder.

    The number of threads decides how XLA splits sums, and so their last bits: it is part of a run's
    configuration and not a property of the machine.
    """
    os.environ["PJRT_NPROC"] = str(threads)
    if _ONE_KERNEL not in (flags := os.environ.get("XLA_FLAGS", "")):
        os.environ["XLA_FLAGS"] = f"{_ONE_KERNEL} {flags}"  # a person's own come later and win
    import jax

    # every result is waited for, so handing calls to another thread only costs; it halves a small call
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "policy-gradient-harness" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@cache
def accelerator() -> bool:
    """Whether jax finds a GPU or a TPU here. Asked in another process, so that this one stays free of jax."""
    plugins = entry_points(group="jax_plugins") or find_spec("libtpu")
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not plugins:
        return False
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() not in ("", "cpu")
