"""How V is fitted: minibatch by minibatch against numpy, and every way to get a minibatch wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quick import quickly_compiled

from pgx import critics
from pgx.blocks import Blocks, deal, to_blocks
from pgx.critics import LeaveOneOut, NoCritic, ValueNetwork
from pgx.errors import ConfigError
from pgx.losses import clipped_value_loss
from pgx.networks import MLP
from pgx.optimiser import Optimiser
from pgx.types import Steps

RATE = 0.05
V = MLP(3, "scalar", width=1, depth=0, activation="tanh", key=jax.random.key(1))
KEY = jax.random.key(0)
rng = np.random.default_rng(0)


def critic(passes: int, minibatch_steps: int | None) -> ValueNetwork:
    return ValueNetwork(Optimiser("sgd", RATE), passes, minibatch_steps, width=1, depth=0, activation="tanh")


def batch(*lengths: int, padded_to: int) -> tuple[Blocks, np.ndarray, np.ndarray]:
    """(the steps as an update packs them, observations [n, 3], returns [n]); on padding both are 9."""
    mask = np.arange(padded_to)[:, None] < np.array(lengths)
    obs = np.where(mask[..., None], rng.normal(size=(*mask.shape, 3)), 9.0).astype(np.float32)
    returns = np.where(mask, rng.normal(2.0, 1.0, size=mask.shape), 9.0).astype(np.float32)
    arrays = (obs, np.zeros(mask.shape, np.int32), returns, returns, returns)
    packed = to_blocks(Steps(*map(jnp.asarray, arrays)), jnp.asarray(mask))
    return packed, *(np.concatenate([x[: lengths[b], b] for b in range(len(lengths))]) for x in (obs, returns))


def naive(obs, returns, passes, minibatch_steps) -> tuple[np.ndarray, float]:
    """(parameters after the fit, mean squared error of the last pass) with loops, in float64."""
    parameters = np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(V)])
    features = np.column_stack([obs, np.ones(len(obs))]).astype(np.float64)
    count = 1 if minibatch_steps is None else -(-len(obs) // minibatch_steps)
    for _ in range(passes):
        squares = 0.0
        for i in range(count):
            x, g = features[i::count], returns[i::count]
            error = x @ parameters - g
            squares += (error**2).sum()
            parameters = parameters - RATE * 2 * (error[:, None] * x).mean(0)
    return parameters, squares / len(obs)


def fitted(packed, passes, minibatch_steps) -> tuple[np.ndarray, float]:
    chosen = critic(passes, minibatch_steps)
    fit = quickly_compiled(lambda network: chosen.fit((network, chosen.optimiser.init(network)), packed, KEY))
    (network, _), loss = fit(V)
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(network)]), float(loss)


FITS = {
    "all steps at once, over several blocks": ((300, 10, 333), 400, 2, None),
    "a minibatch larger than a block": ((300, 10, 333, 100), 400, 2, 400),
    "more than there are steps": ((3, 1, 2), 9, 3, 80),
    "one step each": ((3, 1, 2), 5, 2, 1),
    "a number that divides nothing": ((50, 7, 31), 64, 3, 10),
}


@pytest.mark.parametrize("lengths, padded_to, passes, size", FITS.values(), ids=FITS)
def test_a_fit_is_what_numpy_makes_of_it(lengths, padded_to, passes, size):
    """One gradient step for every minibatch, each at the newest parameters; the loss is the last pass's."""
    packed, obs, returns = batch(*lengths, padded_to=padded_to)
    (parameters, loss), (expected, its_loss) = fitted(packed, passes, size), naive(obs, returns, passes, size)
    np.testing.assert_allclose(parameters, expected, rtol=1e-4, atol=1e-5)
    assert loss == pytest.approx(its_loss, rel=1e-4)


def in_order(blocks, hands, i, size):
    """One minibatch after the other: the last has what is left."""
    row = jnp.arange(size) + i * size
    pick = lambda x: jnp.take(x.reshape(*x.shape[:-2], -1), row, axis=-1, mode="clip")[..., None, :]
    return Blocks(jax.tree.map(pick, blocks.arrays), jnp.clip(blocks.steps - i * size, 0, size), blocks.length)


def repeated(blocks, hands, i, size):
    """The first hand again and again."""
    return deal(blocks, hands, i * 0, size)


def dropped(blocks, hands, i, size):
    """A step of every hand is lost."""
    hand = deal(blocks, hands, i, size)
    return hand._replace(steps=jnp.maximum(hand.steps - 1, 1))


def padded(blocks, hands, i, size):
    """Every hand is full: padding is taken for steps."""
    return deal(blocks, hands, i, size)._replace(steps=jnp.array(size))


def divided_by_the_batch(network, blocks, clip):
    """Σ over the minibatch, divided by another number than its own."""
    error, gradient = critics_value_gradient(network, blocks, clip)
    return error, jax.tree.map(lambda g: g * (blocks.steps / 88), gradient)


critics_value_gradient = critics._value_gradient
MUTANTS = [
    ("deal", in_order),
    ("deal", repeated),
    ("deal", dropped),
    ("deal", padded),
    ("_value_gradient", divided_by_the_batch),
]


@pytest.mark.parametrize("name, mutant", MUTANTS, ids=[mutant.__name__ for _, mutant in MUTANTS])
def test_a_minibatch_that_is_wrong_is_seen(name, mutant, monkeypatch):
    packed, obs, returns = batch(50, 7, 31, padded_to=64)
    expected, _ = naive(obs, returns, 3, 10)
    monkeypatch.setattr(critics, name, mutant)
    parameters, _ = fitted(packed, 3, 10)
    assert np.abs(parameters - expected).max() > 1e-3


@pytest.mark.parametrize("n", [1, 2, 79, 80, 81, 200])
def test_all_steps_are_dealt_and_each_once(n):
    """Whatever their number; hands differ in size by one at most, and neighbours lie in different hands."""
    blocks = Blocks(jnp.arange(400).reshape(2, 200), jnp.array(n), jnp.array([n // 3, n - n // 3]))
    hands = -(-n // 80)
    dealt = [deal(blocks, jnp.array(hands), jnp.array(i), 80) for i in range(hands)]
    found = [np.ravel(hand.arrays)[: int(hand.steps)] for hand in dealt]
    assert sorted(np.concatenate(found)) == list(range(n))
    sizes = [len(x) for x in found]
    for hand, steps in zip(dealt, found, strict=True):  # of each episode as many as there are
        assert hand.length.tolist() == [(steps < n // 3).sum(), (steps >= n // 3).sum()]
    assert max(sizes) - min(sizes) <= 1
    assert hands == 1 or all((np.diff(x) > 1).all() for x in found)


def test_lanes_with_more_minibatches_do_not_hold_the_others_up():
    """Under vmap the loop is as long as the longest lane's; a lane that is done stays as it is, optimiser and all."""
    short, long = (batch(*lengths, padded_to=64)[0] for lengths in ((5, 3), (64, 60)))
    chosen = dataclasses.replace(critic(2, 10), optimiser=Optimiser("adam", 0.01))
    fit = lambda packed: chosen.fit((V, chosen.optimiser.init(V)), packed, KEY)
    together = quickly_compiled(jax.vmap(fit))(jax.tree.map(lambda *x: jnp.stack(x), short, long))
    for i, packed in enumerate((short, long)):
        alone = quickly_compiled(fit)(packed)
        for ours, theirs in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours[i], theirs, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("nothing", [NoCritic(), LeaveOneOut()])
def test_a_critic_that_learns_nothing_needs_only_a_baseline(nothing):
    packed, _, _ = batch(2, 3, padded_to=3)
    assert nothing.init(3, KEY) is None
    if isinstance(nothing, NoCritic):  # another constant would be unbiased, too
        assert not nothing.baseline(None, None, jnp.ones((3, 2))).any()
    state, loss = nothing.fit(None, packed, KEY)
    assert state is None and np.isnan(loss)
    with pytest.raises(ConfigError, match="no V"):
        nothing.bootstrap(None, jnp.zeros((2, 3)))


# A standardised target

ADAMW = Optimiser("adamw", 0.02, weight_decay=0.3)
PLAIN = ValueNetwork(ADAMW, 2, 40, width=6, depth=1, activation="tanh")
STANDARDISED = dataclasses.replace(PLAIN, standardise_target=True)
STILL = dataclasses.replace(STANDARDISED, optimiser=Optimiser("sgd", 0.0))


def of_another_size(packed: Blocks, size: float, offset: float) -> Blocks:
    """The same steps with other returns; what stands on padding is no 0."""
    return packed._replace(arrays=packed.arrays._replace(returns=packed.arrays.returns * size + offset))


@quickly_compiled
def refitted(state, packed):
    return STANDARDISED.fit(state, packed, KEY)


def test_a_standardised_fit_is_that_of_standardised_returns():
    """The first fit is in its own unit already: the network and its optimiser learn what they would from returns of mean
    0 and sd 1, and the moments are nobody's parameters."""
    packed, _, returns = batch(50, 7, 31, padded_to=64)
    large = of_another_size(packed, 300.0, -1500.0)
    *learner, target = STANDARDISED.init(3, KEY)
    *found, moments = (new := refitted((*learner, target), large))[0]
    assert float(moments.count) == len(returns)
    assert float(moments.mean[0]) == pytest.approx(300 * returns.mean() - 1500, rel=1e-5)
    assert float(moments.std[0]) == pytest.approx(300 * returns.std(), rel=1e-5)
    by_hand = of_another_size(packed, float(1 / returns.std()), float(-returns.mean() / returns.std()))
    expected, its_loss = quickly_compiled(lambda state: PLAIN.fit(state, by_hand, KEY))(tuple(learner))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5)
    assert float(new[1]) == pytest.approx(float(its_loss) * float(moments.std[0]) ** 2, rel=1e-3), "in the returns' unit"
    assert jax.tree.structure(tuple(found)) == jax.tree.structure(PLAIN.init(3, KEY))


def test_a_new_unit_changes_no_value():
    """When the moments move, V does not: only a fit moves it. Before the first batch there is nothing to keep, and V is
    then the mean of what was seen, not far off it."""
    packed, obs, returns = batch(50, 7, 31, padded_to=64)
    seen = jnp.asarray(obs)
    move = quickly_compiled(lambda state, packed: STILL.fit(state, packed, KEY)[0])
    start = STILL.init(3, KEY)
    first = move(start, of_another_size(packed, 300.0, -1500.0))
    value = STILL.bootstrap(first, seen)
    mean, std = 300 * returns.mean() - 1500, 300 * returns.std()
    np.testing.assert_allclose(value, mean + std * start[0](seen.T), rtol=1e-4)
    later = move(first, of_another_size(packed, 2.0, 900.0))
    assert abs(float(later[2].mean[0] - first[2].mean[0])) > 500 and float(later[2].std[0]) > 2 * float(first[2].std[0])
    np.testing.assert_allclose(STILL.bootstrap(later, seen), value, rtol=1e-4)
    # the same network in the new unit would say something else
    assert np.abs(STILL.bootstrap((first[0], *later[1:]), seen) - value).min() > 100


def test_a_large_return_is_learned_as_soon_as_a_small_one():
    """Adam's steps are of one size: without the standardisation V(s) ≈ −1,500 is a thousand steps away."""
    packed, obs, returns = batch(300, 100, 200, padded_to=300)
    packed = of_another_size(packed, 300.0, -1500.0)
    returns = 300 * returns - 1500

    def left(critic):
        state = critic.init(3, KEY)
        fit = quickly_compiled(lambda state: critic.fit(state, packed, KEY)[0])
        for _ in range(3):
            state = fit(state)
        return float(np.sqrt(np.mean((critic.bootstrap(state, jnp.asarray(obs)) - returns) ** 2)))

    assert left(STANDARDISED) < 1.1 * returns.std() < 0.5 * left(PLAIN)


def test_a_batch_of_no_steps_leaves_the_moments():
    """A lane of a pack that has ended plays empty episodes."""
    packed, _, _ = batch(5, 3, padded_to=8)
    moments = refitted(STANDARDISED.init(3, KEY), packed)[0][2]
    mask = jnp.zeros((8, 2), bool)
    unmoved = moments.after(jnp.full((8, 2, 1), 7.0), mask)
    for x, y in zip(jax.tree.leaves(unmoved), jax.tree.leaves(moments), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-9)


def clipped_by_hand(value, before, target, clip, of_two=np.maximum):
    """Of the published form, in float64: half of it is the mistake of taking the smaller."""
    error, held_back = value - target, before + np.clip(value - before, -clip, clip) - target
    return of_two(error**2, held_back**2)


def test_a_clipped_value_loss_is_the_larger_of_two_errors():
    """On both sides of both edges, from above and from below; the smaller one, a published mistake, is another number."""
    before, value = (np.repeat(x, 3) for x in (np.zeros(5), np.array([-0.5, -0.1, 0.0, 0.1, 0.5])))
    target, weight = np.tile([-1.0, 0.05, 1.0], 5), np.linspace(0.1, 1.0, 15)
    loss = lambda x: clipped_value_loss(x, *(jnp.asarray(y, jnp.float32) for y in (before, target, weight)), 0.2)
    found, slope = jax.value_and_grad(loss)(jnp.asarray(value, jnp.float32))
    expected = lambda x: (weight * clipped_by_hand(x, before, target, 0.2)).sum()
    assert float(found) == pytest.approx(expected(value), rel=1e-5)
    differences = [(expected(value + h) - expected(value - h)) / 2e-6 for h in 1e-6 * np.eye(15)]
    np.testing.assert_allclose(slope, differences, atol=1e-4)
    wrong = (weight * clipped_by_hand(value, before, target, 0.2, np.minimum)).sum()
    assert abs(float(found) - wrong) > 0.05
    # beyond the edge on the side of the target nothing is gained
    assert not np.asarray(slope)[[0, 14]].any()


def test_a_clipped_v_stays_near_what_it_was_before_the_fit():
    """Over all passes, and not from one to the next; a wide edge changes nothing."""
    packed, obs, _ = batch(50, 7, 31, padded_to=64)
    before = np.asarray(V(jnp.asarray(obs.T)))
    row = jnp.pad(jnp.asarray(before), (0, packed.arrays.returns.size - len(before))).reshape(packed.arrays.returns.shape)
    packed = packed._replace(arrays=packed.arrays._replace(baseline=row, returns=row + 1.0))
    moved = []
    for clip in (0.05, 100.0, None):
        chosen = dataclasses.replace(critic(40, 10), clip=clip)
        (network, _), _ = quickly_compiled(lambda v, c=chosen: c.fit((v, c.optimiser.init(v)), packed, KEY))(V)
        moved.append(np.asarray(network(jnp.asarray(obs.T))) - before)
    assert np.abs(moved[0]).mean() < 0.2 < 0.8 < moved[2].mean()
    np.testing.assert_allclose(moved[1], moved[2], rtol=1e-5, atol=1e-6)
