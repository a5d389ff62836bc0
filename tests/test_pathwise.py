"""Derivatives through the dynamics of environments that say that they have them, against differences; elsewhere there are
none. On a problem where all is known: test_linear_quadratic.py."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from quick import quickly_compiled

from pgx.diagnosis import pathwise
from pgx.diagnosis.seen import SeenEnv
from pgx.envs.checks import GYMNAX
from pgx.envs.gymnax import SMOOTH, GymnaxEnv
from pgx.policies import MLPPolicy
from pgx.scaling import Scaling

STEPS, EPISODES = 12, 8


@pytest.mark.parametrize(("id", "bound"), [("Pendulum-v1", "clip"), ("Reacher-misc", "tanh"), ("Swimmer-misc", "tanh")])
def test_it_is_the_derivative_of_the_return_with_the_noise_held(id, bound):
    """In a random direction of the parameters; with scaled observations and rewards. The reward is far from the action:
    what a detached transition hands on would not do."""
    inner = GymnaxEnv(id, params={"max_steps_in_episode": STEPS}, bound=bound)
    O = inner.spec.obs_size
    scaling = Scaling(jnp.float32(9.0), jnp.full(O, 0.1), jnp.zeros(O), jnp.full(O, 4.0))
    env = SeenEnv(inner, scaling, 0.5)
    make = partial(MLPPolicy, width=8, depth=1, activation="tanh", std=0.3, last_layer_scale=0.5)
    policy = make(O, env.spec.actions, key=jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)
    env_state, obs = jax.vmap(env.reset)(jax.random.split(keys[0], EPISODES))
    noise = jax.random.normal(keys[1], (EPISODES, STEPS, env.spec.actions.size))
    step_keys = jax.random.split(keys[2], (EPISODES, STEPS))
    leaves, structure = jax.tree.flatten(policy)
    direction = [
        jax.random.normal(key, x.shape) for key, x in zip(jax.random.split(jax.random.key(2), len(leaves)), leaves, strict=True)
    ]

    def mean_return(h):
        moved = jax.tree.unflatten(structure, [x + h * d for x, d in zip(leaves, direction, strict=True)])
        one = lambda *episode: pathwise.objective(moved, env, *episode, 0.9, True, None)
        return jax.vmap(one)(env_state, obs, noise, step_keys).mean()

    value_and_slope = quickly_compiled(jax.value_and_grad(mean_return))
    h = 1e-2
    difference = float(value_and_slope(h)[0] - value_and_slope(-h)[0]) / (2 * h)
    assert abs(difference) > 1e-2
    assert float(value_and_slope(0.0)[1]) == pytest.approx(difference, rel=2e-2)


def test_who_can_be_differentiated():
    """gymnax would hand derivatives on in five; in two of them the reward jumps, and its expectation would be missed."""
    envs = {id: GymnaxEnv(id) for id in GYMNAX}
    assert {id for id, env in envs.items() if env.differentiable} == set(SMOOTH)
    make = lambda env: MLPPolicy(
        env.spec.obs_size, env.spec.actions, width=4, depth=1, activation="tanh", key=jax.random.key(0)
    )
    for id, env in envs.items():
        given = SeenEnv(env, None, 1.0), make(env), jnp.zeros((env.spec.obs_size, 2))
        assert pathwise.possible(*given) == (id in SMOOTH), id
    assert not pathwise.possible(None, *given[1:]), "an environment on the host"


def test_an_action_that_is_cut_off_has_no_derivative():
    """A little more of it changes nothing."""
    env = GymnaxEnv("Pendulum-v1", params={"max_steps_in_episode": 3})
    policy = MLPPolicy(3, env.spec.actions, width=4, depth=1, activation="tanh", key=jax.random.key(0))
    far = eqx.tree_at(lambda p: p.network.layers[-1].bias, policy, jnp.array([9.0]))
    given = jax.random.key(1), 4
    gradients = quickly_compiled(lambda policy: pathwise.gradients(env, policy, *given, gamma=1.0, discount_power=False))
    assert not gradients(far).any() and gradients(policy).any()
