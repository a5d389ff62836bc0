"""Nearly all the time of the tests of the maths goes into compiling what runs once."""

from functools import partial

import jax

quickly_compiled = partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
)
"""`jax.jit` with a quarter of the compiling; what comes out is slower, and right."""
