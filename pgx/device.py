"""The kind of device that programs are made for, asked here and nowhere else.

On a CPU what is small goes one after the other: a block of steps that a cache holds, an episode, a few lanes. On an
accelerator an operation costs as much for one as for a thousand: what is done to episodes or lanes is done to all of them
at once, and how many operations an update takes does not depend on how many there are.
"""

from collections.abc import Callable

import jax
from jaxtyping import PyTree


def on_cpu() -> bool:
    """Whether programs are made for a CPU."""
    return jax.default_backend() == "cpu"


def of_each(f: Callable[[PyTree], PyTree], xs: PyTree) -> PyTree:
    """f of each along the first axis: one after the other on a CPU, all at once on an accelerator."""
    return jax.lax.map(f, xs) if on_cpu() else jax.vmap(f)(xs)
