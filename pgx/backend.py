"""JAX, set up once a process, before its first use."""

import os
import subprocess
import sys
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from pgx.errors import ConfigError

ONE_KERNEL = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000"
"""On a CPU: a loop without products and other calls of libraries is one kernel, however much it reads (default:
1 kB). From kernel to kernel takes longer than what most of them do: see `networks.matmul_in_loop`."""
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
"""On a GPU: no sum in whichever order its parts arrive, and no kernel chosen by a race, so that a seed gives the same bits
twice."""

PINNED = {
    # what decides numbers
    "jax_enable_x64": False,
    "jax_threefry_partitionable": True,
    "jax_default_prng_impl": "threefry2x32",
    "jax_random_seed_offset": 0,
    "jax_default_matmul_precision": "highest",  # float32: a GPU would round factors to 10 bits (TF32), physics included
    "jax_softmax_custom_jvp": False,
    "jax_high_dynamic_range_gumbel": False,
    "jax_use_direct_linearize": True,
    "jax_disable_most_optimizations": False,
    "jax_optimization_level": "UNKNOWN",
    "jax_exec_time_optimization_effort": 0.0,
    # what would end a run: NaN stands for "not applicable" here, and nothing runs outside of jit
    "jax_debug_nans": False,
    "jax_debug_infs": False,
    "jax_disable_jit": False,
    "jax_no_execution": False,
    "jax_no_tracing": False,
    "jax_legacy_prng_key": "allow",
}
"""Settings of JAX that a run does not take from the environment: JAX_ENABLE_X64 and the like are for other programs."""


def check_platforms() -> None:
    """Raise ConfigError if JAX_PLATFORMS asks for what this installation has no plugin for. Does not import jax."""
    names = os.environ.get("JAX_PLATFORMS", "").split(",")
    if names[0] not in ("", "cpu") and not _plugins():
        raise _no_platform()


def _no_platform() -> ConfigError:
    asked = os.environ.get("JAX_PLATFORMS")
    return ConfigError(
        "JAX_PLATFORMS", f"jax finds no {asked!r} here", hint="unset it, or pip install '.[cuda]' for a GPU of NVIDIA's"
    )


def _plugins() -> bool:
    """Whether a plugin of jax for an accelerator is installed."""
    return bool(entry_points(group="jax_plugins") or find_spec("jax_plugins") or find_spec("libtpu"))


def prepare(threads: int) -> None:
    """Start jax with `threads` threads, our own settings and a persistent compilation cache in the user's cache folder.

    The number of threads decides how XLA splits sums, and so their last bits: it is part of a run's
    configuration and not a property of the machine. Raises ConfigError if JAX_PLATFORMS names what is not there.
    """
    os.environ["PJRT_NPROC"] = str(threads)
    ours = [ONE_KERNEL, DETERMINISTIC] if _plugins() else [ONE_KERNEL]
    os.environ["XLA_FLAGS"] = " ".join([*ours, persons_flags()])  # which come later and win
    import jax

    for name, value in PINNED.items():
        jax.config.update(name, value)
    # every result is waited for, so handing calls to another thread only costs; it halves a small call
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "policy-gradient-harness" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    if os.environ.get("JAX_PLATFORMS", "cpu") not in ("", "cpu"):
        try:
            jax.devices()
        except (RuntimeError, AssertionError) as error:
            raise _no_platform() from error


def persons_flags() -> str:
    """XLA_FLAGS without ours."""
    return " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag not in (ONE_KERNEL, DETERMINISTIC))


@cache
def accelerator() -> bool:
    """Whether jax finds a GPU or a TPU here. Asked in another process, so that this one stays free of jax."""
    if os.environ.get("JAX_PLATFORMS") == "cpu" or not _plugins():
        return False
    command = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() not in ("", "cpu")
