"""The losses against rlax, against finite differences, and what no gradient flows through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax
from mdp import finite_difference

from pgx import losses
from pgx.policies import Categorical


@pytest.fixture
def steps():
    rng = np.random.default_rng(3)
    logits, advantage = rng.normal(size=(9, 4)), rng.normal(size=9)
    return logits, rng.integers(0, 4, 9), advantage


def loss_of_logits(logits, action, advantage):
    """As the update calls it: actions first."""
    return losses.policy_loss(Categorical(logits.T).log_prob(action), advantage)


def test_policy_loss_is_rlaxs(steps):
    """rlax takes the mean over steps, here it is the sum: the caller knows what to divide by."""
    logits, action, advantage = (jnp.asarray(x, d) for x, d in zip(steps, ("float32", "int32", "float32"), strict=True))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = jax.value_and_grad(rlax.policy_gradient_loss)(logits, action, advantage, jnp.ones(9))
    ours = jax.value_and_grad(loss_of_logits)(logits, action, advantage)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 9 * b, rtol=1e-5, atol=1e-6), ours, theirs)


def test_losses_against_finite_differences(steps):
    """Gradients of the policy loss, the entropy and the value loss, differenced in float64 numpy."""
    logits, action, advantage = steps

    def log_softmax(x):
        x = x.reshape(logits.shape)
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    def policy_loss(x):
        return -sum(log_softmax(x)[n, action[n]] * advantage[n] for n in range(9))

    def entropy(x):
        return -(np.exp(log_softmax(x)) * log_softmax(x)).sum()

    single = jnp.asarray(logits, jnp.float32)
    ours = jax.grad(loss_of_logits)(single, jnp.asarray(action, jnp.int32), jnp.asarray(advantage, jnp.float32))
    np.testing.assert_allclose(ours.ravel(), finite_difference(policy_loss, logits.ravel()), rtol=1e-4, atol=1e-6)
    ours = jax.grad(lambda x: Categorical(x.T).entropy().sum())(single)
    np.testing.assert_allclose(ours.ravel(), finite_difference(entropy, logits.ravel()), rtol=1e-4, atol=1e-6)

    target, weight = np.linspace(-1, 2, 9), np.linspace(0, 1, 9)
    arrays = [jnp.asarray(x, jnp.float32) for x in (advantage, target, weight)]
    ours = jax.grad(losses.value_loss)(*arrays)
    theirs = finite_difference(lambda v: (weight * (v - target) ** 2).sum(), advantage)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_no_gradient_flows_through_what_is_given(steps):
    """The advantage and the target are numbers: a gradient through them would train V on the policy's loss."""
    logits, action, advantage = (jnp.asarray(x, d) for x, d in zip(steps, ("float32", "int32", "float32"), strict=True))
    assert not jax.grad(loss_of_logits, argnums=2)(logits, action, advantage).any()
    assert not jax.grad(losses.value_loss, argnums=1)(advantage, 2 * advantage, jnp.ones(9)).any()


def test_shapes_that_would_broadcast_are_refused():
    """(n,1) · (n,) is an error in tests, twice: by annotation and by jax itself."""
    with pytest.raises(Exception, match="type-check|Type-check"):
        losses.policy_loss(jnp.zeros(5), jnp.zeros((5, 1)))
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.zeros((5, 1)) * jnp.zeros(5)
