"""What adapters of physics written in JAX by others have in common."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


@contextlib.contextmanager
def as_others_write() -> Iterator[None]:
    """In here integers may be added to floats and vectors to matrices, also where jax is told to refuse."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def strongly_typed(tree: PyTree) -> PyTree:
    """With types of its own: what a Python number has made would be traced a second time in a loop."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), tree)


def held(step: Callable[[PyTree], tuple], state: PyTree, times: int) -> tuple:
    """(state, what was seen, reward, whether the episode ended) after so many of `step`, which gives the same of one: an
    action is held. Rewards are added until the episode ends."""

    def once(so_far, _):
        state, total, ended = so_far
        state, seen, reward, ends = step(state)
        return (state, total + jnp.where(ended, 0.0, reward), ended | ends), seen

    start = state, jnp.float32(0), jnp.asarray(False)
    (state, reward, ended), seen = jax.lax.scan(once, start, length=times)
    return state, jax.tree.map(lambda x: x[-1], seen), reward, ended
