"""A small state with leaves of every kind, and checkpoints of it, for the tests of checkpoints."""

import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from pgx.runs.checkpoint import Checkpoints


class State(eqx.Module):
    network: eqx.nn.MLP
    count: jax.Array
    flags: jax.Array
    nothing: None
    empty: jax.Array


@functools.cache
def network(width: int) -> eqx.nn.MLP:
    return eqx.filter_jit(eqx.nn.MLP)(3, 2, width, 1, key=jax.random.key(0))


def state(fill: float = 0.0, width: int = 4) -> State:
    filled = jax.tree.map(lambda x: jnp.full_like(x, fill) if eqx.is_array(x) else x, network(width))
    return State(filled, jnp.array(int(fill)), jnp.array([True, False]), None, jnp.zeros((0, 3)))


def saved(folder: Path, updates: list[int], **options) -> Checkpoints:
    with Checkpoints(folder, **options) as checkpoints:
        for update in updates:
            checkpoints.save(update, state(update), f"rows until {update}")
    return Checkpoints(folder, **options)


def assert_bits_equal(a, b):
    a, b = jax.tree.leaves(a), jax.tree.leaves(b)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        if eqx.is_array(x):
            assert (x.dtype, x.shape, np.asarray(x).tobytes()) == (y.dtype, y.shape, np.asarray(y).tobytes())
        else:
            assert x is y or x == y


def files(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


def truncate(path: Path):
    path.write_bytes(path.read_bytes()[:-1])
