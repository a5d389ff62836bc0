"""Networks against Equinox's own, one observation at a time and many at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pgx.networks import ACTIVATIONS, MLP, matmul_in_loop


@pytest.mark.parametrize("out", [3, "scalar"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("depth", [0, 2])
def test_same_as_equinox(depth, activation, out):
    ours = MLP(4, out, width=8, depth=depth, activation=activation, key=jax.random.key(0))
    peer = eqx.nn.MLP(4, out, 8, depth, activation=ACTIVATIONS[activation], key=jax.random.key(1))
    arrays = lambda net: [x for layer in net.layers for x in (layer.weight, layer.bias)]
    peer = eqx.tree_at(arrays, peer, arrays(ours))
    obs = jax.random.normal(jax.random.key(2), (5, 4))
    wanted = jax.vmap(peer)(obs)
    assert wanted.shape == ((5,) if out == "scalar" else (5, 3))
    np.testing.assert_allclose(ours(obs.T), jnp.moveaxis(wanted, 0, -1), rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(ours)(obs), wanted, rtol=2e-6, atol=1e-6)


def test_initial_numbers_are_equinoxs():
    """U(−1/√I, 1/√I): bounds, spread, and no two layers or networks with the same numbers."""
    ours, other = (MLP(9, 50, width=100, depth=2, activation="relu", key=jax.random.key(k)) for k in (0, 1))
    peer = eqx.nn.MLP(9, 50, 100, 2, key=jax.random.key(2))
    for mine, theirs in zip(ours.layers, peer.layers, strict=True):
        bound = theirs.in_features**-0.5
        for x, like in ((mine.weight, theirs.weight), (mine.bias, theirs.bias)):
            assert x.shape == like.shape and abs(x).max() <= bound
            assert abs(x.mean()) < 0.2 * bound and abs(x.std() / bound - 3**-0.5) < 0.07
    numbers = np.concatenate([np.ravel(x) for net in (ours, other) for x in jax.tree.leaves(net)])
    assert len(np.unique(numbers)) > 0.99 * len(numbers)


@pytest.mark.parametrize("many", [1, 7, 31, 300])
@pytest.mark.parametrize("weight", [(2, 32), (32, 4), (32, 31), (1, 1)])
def test_product_in_a_loop(weight, many):
    """More columns than rows, fewer, as many, and a number of inputs that the loop's unrolling does not divide."""
    W, x = jax.random.normal(jax.random.key(0), weight), jax.random.normal(jax.random.key(1), (weight[1], many))
    np.testing.assert_allclose(matmul_in_loop(W, x), np.asarray(W, np.float64) @ np.asarray(x), rtol=1e-5, atol=1e-5)
