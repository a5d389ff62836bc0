"""Updates by epochs on a few random steps, and the same by hand: lists of steps, loops, the objective as papers write it."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from estimands import GAMMA, KEY, VALUE, G, V, linear_policy
from jax.flatten_util import ravel_pytree
from quick import quickly_compiled

from pgx.algorithm import Algorithm
from pgx.blocks import to_blocks
from pgx.optimiser import Optimiser
from pgx.policies import MLPPolicy
from pgx.spaces import Box
from pgx.types import Episodes, Steps, TrainState
from pgx.update import update
from pgx.updates.ppo import CISPO, PPO, PPOKL

RATE, CLIP, BONUS = 0.05, 0.1, 0.02
SGD = Optimiser("sgd", RATE)
LENGTHS = (5, 11, 1, 7)
"""24 steps in all."""
POLICIES = {
    "categorical": linear_policy(),
    "gaussian": MLPPolicy(
        3,
        Box((-1.0, -2.0), (1.0, 2.0), "clip"),
        width=1,
        depth=0,
        activation="tanh",
        last_layer_scale=1.0,
        key=jax.random.key(0),
    ),
}
CRITIC = dataclasses.replace(VALUE, passes=2, minibatch_steps=10, optimiser=Optimiser("sgd", 0.1))
OFF = {"shuffle": False, "whiten_minibatches": False, "recompute_advantages": False, "stop_at_kl": None}


def ppo(kind=PPO, optimiser=SGD, entropy_coefficient=BONUS, epochs=3, minibatch_steps=7, **more):
    own = {"kl_coefficient": 0.5, "target_kl": 0.01} if kind is PPOKL else {"clip": CLIP, "adapt_to_kl": None}
    settings = {"epochs": epochs, "minibatch_steps": minibatch_steps} | OFF | own | more
    return kind(optimiser, entropy_coefficient, **settings)


def algorithm(step, critic=CRITIC, **switches) -> Algorithm:
    off = {"whiten": False, "bootstrap_truncated": False, "discount_power": False}
    return Algorithm(G, critic, step, GAMMA, **(off | switches))


def state_for(algorithm: Algorithm, policy) -> TrainState:
    critic = (V, algorithm.critic.optimiser.init(V)) if algorithm.critic.has_value else None
    recent = jnp.full(100, jnp.nan, jnp.float32)
    return TrainState(policy, algorithm.update.init(policy), critic, recent, jnp.zeros((), jnp.int32))


def played(policy: str, lengths=LENGTHS, padded_to=13, garbage=9.0) -> Episodes:
    """Random steps; what stands on padding would be seen by anybody who looks."""
    rng = np.random.default_rng(0)
    mask = np.arange(padded_to)[:, None] < np.array(lengths)
    obs = np.where(mask[..., None], rng.normal(size=(*mask.shape, 3)), garbage)
    action = rng.integers(0, 2, mask.shape) if policy == "categorical" else rng.normal(size=(*mask.shape, 2))
    return Episodes(
        obs=jnp.asarray(obs, jnp.float32),
        action=jnp.asarray(action, jnp.int32 if policy == "categorical" else jnp.float32),
        reward=jnp.asarray(np.where(mask, rng.normal(size=mask.shape), 0.0), jnp.float32),
        mask=jnp.asarray(mask),
        terminated=jnp.ones(len(lengths), bool),
        last_obs=jnp.zeros((len(lengths), 3)),
    )


def updated(chosen: Algorithm, policy: str, diagnose: bool = False, episodes: Episodes | None = None, key=KEY):
    """(the state after an update, its row)"""
    episodes = played(policy) if episodes is None else episodes
    one = quickly_compiled(lambda state, diagnose: update(state, episodes, chosen, key, diagnose))
    return one(state_for(chosen, POLICIES[policy]), jnp.array(diagnose))


def flat(tree) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0], np.float64)


# Loops, and the objective as the papers write it


def objective(step, ratio, weight, old, new):
    """Of the steps of a minibatch, to be ascended."""
    if isinstance(step, PPOKL):
        return ratio * weight - 0.5 * old.kl(new)
    if isinstance(step, CISPO):
        return jax.lax.stop_gradient(jnp.minimum(ratio, 1 + CLIP)) * weight * jnp.log(ratio)
    return jnp.minimum(ratio * weight, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * weight)


def loss(step, obs, action, weight, share, start, policy):
    """(to be descended, ρ) of a minibatch."""
    old, new = start(obs), policy(obs)
    ratio = jnp.exp(new.log_prob(action) - old.log_prob(action))
    return -share * (objective(step, ratio, weight, old, new) + BONUS * new.entropy()).sum(), ratio


@cache
def by_hand(name: str):
    """(policy, V, row) of a case after an update, with a list of steps and a loop over minibatches."""
    step, policy = CASES[name]
    episodes, start = played(policy), POLICIES[policy]
    where = [(t, b) for b, length in enumerate(LENGTHS) for t in range(length)]
    n, B = len(where), len(LENGTHS)
    pick = lambda x: jnp.stack([x[t, b] for t, b in where])
    obs, action = pick(episodes.obs).T, jnp.moveaxis(pick(episodes.action), 0, -1)
    reward = np.asarray(episodes.reward, np.float64)
    returns = np.array([sum(GAMMA**k * r for k, r in enumerate(reward[t:, b])) for t, b in where])
    old, new, value = start(obs), start, V
    targets = _put(returns, where, reward)
    packed = to_blocks(Steps(episodes.obs, episodes.action, targets, targets, targets), episodes.mask)
    count = -(-n // (step.minibatch_steps or n))
    clipped, ratios, done, optimiser_state = 0, [], 0, step.optimiser.init(start)
    critic = (V, CRITIC.optimiser.init(V))
    for _ in range(step.epochs):
        if done == 0 or step.recompute_advantages:
            advantage = returns - np.asarray(value(obs))
        for i in range(count):
            mine = np.arange(i, n, count)
            weight = advantage[mine]
            if step.whiten_minibatches:
                weight = (weight - weight.mean()) / weight.std()
            weight = jnp.asarray(weight, jnp.float32)
            gain = partial(loss, step, obs[:, mine], action[..., mine], weight, n / len(mine) / B, start)
            gradient, ratio = jax.grad(gain, has_aux=True)(new)
            new, optimiser_state = step.optimiser.step(new, gradient, optimiser_state)
            ratios += list(np.asarray(ratio))
            clipped += int(((ratio > 1 + CLIP) & (weight > 0) | (ratio < 1 - CLIP) & (weight < 0)).sum())
        done += 1
        critic, _ = CRITIC.fit(critic, packed, KEY)
        value = critic[0]
        kl = float(old.kl(new(obs)).mean())
        if step.stop_at_kl is not None and kl > step.stop_at_kl:
            break
    return new, value, {"kl": kl, "epochs": done, "ratio_max": max(ratios), "clip_share": clipped / (n * done)}


def _put(values, where, like):
    found = np.zeros_like(like)
    for x, (t, b) in zip(values, where, strict=True):
        found[t, b] = x
    return jnp.asarray(found, jnp.float32)


CASES = {
    "ppo": (ppo(), "categorical"),
    "ppo, gaussian": (ppo(), "gaussian"),
    "whitened, to stop": (ppo(whiten_minibatches=True, stop_at_kl=0.2, epochs=9), "gaussian"),
    "recomputed": (ppo(recompute_advantages=True), "categorical"),
    "clipped norm": (ppo(optimiser=Optimiser("sgd", RATE, clip_norm=1.0)), "categorical"),
    "cispo": (ppo(CISPO), "gaussian"),
    "ppo_kl": (ppo(PPOKL), "categorical"),
}
