"""Schedules and clipping, step by step, by the definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from pgx.optimiser import Optimiser

AT = np.arange(6) / 4
"""Of a schedule of 4 gradient steps, how much was over at each of 6."""


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", np.full(6, 0.5)),
        ("linear", 0.5 * np.maximum(1 - AT, 0)),
        ("cosine", 0.25 * (1 + np.cos(np.pi * np.minimum(AT, 1)))),
    ],
)
def test_the_learning_rate_falls_from_its_value_to_zero(schedule: str, rates: np.ndarray):
    """… in `decay_steps` gradient steps, the first of which has all of it."""
    optimiser = Optimiser("sgd", 0.5, schedule=schedule, decay_steps=4)
    x, gradient, moves = jnp.zeros(2), jnp.array([1.0, -2.0]), []
    state = optimiser.init(x)
    for _ in rates:
        new, state = optimiser.step(x, gradient, state)
        moves.append(new - x)
        x = new
    np.testing.assert_allclose(moves, -rates[:, None] * np.array([1.0, -2.0]), atol=1e-6)


def test_a_gradient_is_clipped_by_its_norm_over_all_arrays():
    optimiser = Optimiser("sgd", 1.0, clip_norm=2.5)
    for scale, expected in ((1.0, 0.5), (0.1, 0.1)):
        gradient = (jnp.array([3.0]) * scale, jnp.array([0.0, 4.0]) * scale)
        model = (jnp.zeros(1), jnp.zeros(2))
        new, _ = optimiser.step(model, gradient, optimiser.init(model))
        np.testing.assert_allclose(np.concatenate(new), -expected * np.array([3.0, 0, 4]), rtol=1e-6)
