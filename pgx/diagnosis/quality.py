"""How good is a gradient estimator at one frozen policy, and how much of the policy's network is in use?

From the gradients g_k of K independent batches, with mean ḡ:

    tr Σ = Σ_k ‖g_k − ḡ‖² / (K − 1)      ‖G‖² = ‖ḡ‖² − tr Σ / K, unbiased: may be negative      SNR = ‖G‖² / tr Σ

All estimators see the same policy and the same episodes. They differ in the weight of each step and nowhere else, and a
gradient is linear in the weights: so each episode's gradients are made once, and a batch of any size is a sum of them.
The bonus for entropy, the same for all, is left out. All have the plain score of an action; where actions may be scored
otherwise (CAPG), that is measured beside it, with the weights of `baseline`. `own` is the run's own way to weigh and to
score a batch, whatever it is: its estimator, its critic as it is now, its switches, its score.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from pgx.advantages import each_episode, weigh
from pgx.algorithm import Algorithm
from pgx.blocks import by_time, fold
from pgx.device import of_each
from pgx.diagnosis import pathwise
from pgx.diagnosis.decomposition import actions, continuations, decompose, scores, visited
from pgx.diagnosis.units import dead_units, effective_rank, some_states
from pgx.diagnosis.value import RidgeValue, Value, fit_value, own_value, values_of
from pgx.envs.base import JittedEnv
from pgx.estimators import lambda_return, reward_to_go, vanilla
from pgx.policies import Distribution
from pgx.rounding import differ, explained_variance
from pgx.types import Episodes, TrainState
from pgx.update import update


class Scored(eqx.Module):
    """A policy, with one of the scores that its actions may have (`Distribution.scores`)."""

    policy: PyTree
    score: str = eqx.field(static=True)

    def __call__(self, obs: Float[Array, "O N"]) -> Distribution:
        return self.policy(obs).scores()[self.score]

    @classmethod
    def others(cls, policy: Callable, obs: Float[Array, "O N"]) -> dict[str, "Scored"]:
        """All that are not the plain one, by name."""
        names = jax.eval_shape(lambda obs: policy(obs).scores(), obs)
        return {name: cls(policy, name) for name in names if name}


class Estimand(eqx.Module):
    """What a run's gradients estimate, with any estimator."""

    gamma: float | Float[Array, ""]
    lam: float | Float[Array, ""]
    """Of `gae`."""
    bootstrap_truncated: bool = eqx.field(static=True)
    discount_power: bool = eqx.field(static=True)


# Statistics of K gradients


def statistics(gradients: Float[Array, "K P"], reference: Float[Array, " P"]) -> dict[str, Float[Array, ""]]:
    """tr Σ, ‖G‖², SNR, the mean cosine between two batches and between a batch and the reference, which must be of other
    episodes, and the share of batches whose gradient is 0: these have no direction and no part in the cosines."""
    variance, signal = noise_and_signal(gradients)
    together, directed = _directions(gradients)
    return {
        "variance": variance,
        "signal": signal,
        "snr": signal / variance,
        # ‖Σ u‖² sums over all pairs: as many as there are batches are of a batch with itself
        "cosine": ((together**2).sum() - directed) / (directed * (directed - 1)),
        "cosine_reference": mean_cosine(gradients, reference),
        "no_gradient": (len(gradients) - directed) / len(gradients),
    }


def noise_and_signal(gradients: Float[Array, "K P"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """tr Σ and ‖G‖²."""
    K, mean = len(gradients), gradients.mean(0)
    variance = ((gradients - mean[None]) ** 2).sum() / (K - 1)
    return variance, (mean**2).sum() - variance / K


def mean_cosine(gradients: Float[Array, "K P"], reference: Float[Array, " P"]) -> Float[Array, ""]:
    """Between a batch and the reference; batches whose gradient is 0 have no part in it."""
    together, directed = _directions(gradients)
    return together @ reference / (directed * jnp.linalg.norm(reference))


def _directions(gradients: Float[Array, "K P"]) -> tuple[Float[Array, " P"], Float[Array, ""]]:
    """The sum of all gradients made 1 long, and how many there are that have a direction."""
    norm = jnp.linalg.norm(gradients, axis=1, keepdims=True)
    return jnp.where(norm > 0, gradients / norm, 0.0).sum(0), (norm > 0).sum(dtype=norm.dtype)


def cosine(x: Float[Array, " P"], y: Float[Array, " P"]) -> Float[Array, ""]:
    return x @ y / (jnp.linalg.norm(x) * jnp.linalg.norm(y))


# One estimator on N episodes, and its gradient on batches of them


class Estimates(NamedTuple):
    """All estimators on the same N episodes."""

    advantage: dict[str, Float[Array, "T N"]]
    """A = Ψ − b, by estimator."""
    gradient: dict[str, Float[Array, "N P"]]
    """Σ_t ∇ log π(a_t|s_t) A_t of each episode."""
    score: Float[Array, "N P"]
    """Σ_t ∇ log π(a_t|s_t): what is added when every weight of an episode grows by one."""
    mask: Bool[Array, "T N"]


def advantages(
    episodes: Episodes, value: Float[Array, "T N"], after: Float[Array, " N"], estimand: Estimand
) -> dict[str, Float[Array, "T N"]]:
    """Ψ − b by estimator; `value` is V of every step, `after` that of s_L."""
    zeros = jnp.zeros_like(value)
    cut_off = jnp.where(episodes.terminated, 0.0, after) if estimand.bootstrap_truncated else jnp.zeros_like(after)

    psi = partial(each_episode, episodes=episodes, value=value, bootstrap=cut_off, gamma=estimand.gamma)
    return {
        "vanilla": psi(vanilla) - zeros,
        "reward_to_go": psi(reward_to_go) - zeros,
        "baseline": psi(reward_to_go) - value,
        "gae": psi(lambda_return, lam=estimand.lam) - value,
    }


def estimates(policy: Callable, episodes: Episodes, value: Value, own: Value | None, estimand: Estimand) -> Estimates:
    """`value` must not have been fitted to these episodes; `own` is the run's V, if it has one: nor was that."""
    found = advantages(episodes, *values_of(value, episodes), estimand)
    if own is not None:
        found["baseline, own V"] = advantages(episodes, *values_of(own, episodes), estimand)["baseline"]
    ones = jnp.ones_like(episodes.reward)
    weights = _on_steps(jnp.stack([ones, *found.values()]), episodes.mask, estimand)
    score, *gradients = gradient_of_each(policy, episodes, weights)
    return Estimates(found, dict(zip(found, gradients, strict=True)), score, episodes.mask)


def _on_steps(advantage: Float[Array, "E T N"], mask: Bool[Array, "T N"], estimand: Estimand) -> Float[Array, "E T N"]:
    """What multiplies ∇ log π: 0 on padding, with γ^t where the run has it."""
    if estimand.discount_power:
        advantage = advantage * estimand.gamma ** jnp.arange(mask.shape[0], dtype=advantage.dtype)[None, :, None]
    return jnp.where(mask[None], advantage, 0.0)


def gradient_of_each(policy: Callable, episodes: Episodes, weights: Float[Array, "E T N"]) -> Float[Array, "E N P"]:
    """Σ_t ∇ log π(a_t|s_t) w_t of each episode, for E sets of weights at the price of one forward pass."""
    num_episodes = episodes.mask.shape[1]
    blocks = by_time((episodes.obs, episodes.action, jnp.moveaxis(weights, 0, -1)), episodes.mask)

    def of_episode(obs, action, weight):
        _, pull_back = jax.vjp(lambda policy: policy(obs).log_prob(action), policy)
        return jax.vmap(lambda w: pull_back(w)[0])(weight)

    def of_block(block, _):
        apart = (x.reshape(*x.shape[:-1], -1, num_episodes) for x in block)
        return jax.vmap(of_episode, in_axes=-1, out_axes=1)(*apart), ()

    gradients, _ = fold(of_block, blocks)
    return jnp.concatenate([x.reshape(*x.shape[:2], -1) for x in jax.tree.leaves(gradients)], axis=2)


def own_gradients(
    policy: Callable, episodes: Episodes, critic_state: PyTree, algorithm: Algorithm, sizes: tuple[int, ...]
) -> list[Float[Array, "K P"]]:
    """The gradients of K = ⌊N / size⌋ batches of each size, weighed as the run weighs what it learns from."""
    if not sizes:
        return []
    weights = jnp.stack([_own_weights(episodes, critic_state, algorithm, size) for size in sizes])
    gradients = gradient_of_each(policy, episodes, weights)
    return [of_batches(gradient, size) for gradient, size in zip(gradients, sizes, strict=True)]


def sizes_in_groups(sizes: tuple[int, ...], episodes: Episodes) -> tuple[int, ...]:
    """Each size, or the few episodes more that make whole groups, as far as there are three batches of it."""
    G, most = episodes.group_size, episodes.mask.shape[1] // 3
    return tuple(size for size in dict.fromkeys(-(-size // G) * G for size in sizes) if size <= most)


def of_batches(gradients: Float[Array, "N P"], size: int) -> Float[Array, "K P"]:
    """Means over K = ⌊N / size⌋ batches of episodes."""
    N, P = gradients.shape
    return gradients[: N // size * size].reshape(-1, size, P).mean(1)


def _own_weights(episodes: Episodes, critic_state: PyTree, algorithm: Algorithm, size: int) -> Float[Array, "T N"]:
    """Of every step, batch by batch; 0 in the episodes that fill none."""
    T, N = episodes.mask.shape
    K = N // size

    def batch(k):
        cut = lambda x, axis=1: jax.lax.dynamic_slice_in_dim(x, k * size, size, axis)
        e = episodes
        columns = cut(e.obs), cut(e.action), cut(e.reward), cut(e.mask), cut(e.terminated, 0), cut(e.last_obs, 0)
        few = Episodes(*columns, group_size=e.group_size)
        return weigh(critic_state, few, algorithm).weight

    weights = jnp.moveaxis(of_each(batch, jnp.arange(K)), 0, 1).reshape(T, K * size)
    return jnp.pad(weights, ((0, 0), (0, N - K * size)))


def batches(estimates: Estimates, size: int) -> dict[str, Float[Array, "K P"]]:
    """The gradients of K = ⌊N / size⌋ batches by every estimator, plain and with the advantages whitened; and of
    `leave_one_out`, which needs two episodes."""
    names, K = list(estimates.gradient), estimates.score.shape[0] // size
    episodes, P = slice(K * size), estimates.score.shape[1]
    mask = estimates.mask[:, episodes].reshape(-1, K, size)
    each, score = (x[..., episodes, :].reshape(*x.shape[:-2], K, size, P) for x in (
        jnp.stack(list(estimates.gradient.values())), estimates.score))  # fmt: skip
    plain, of_ones = each.mean(-2), score.mean(-2)
    found = dict(zip(names, plain, strict=True))

    def whitened(gradient, advantage):
        """Of (A − m) / s."""
        a = advantage[:, episodes].reshape(-1, K, size)
        m, s = a.mean((0, 2), where=mask)[:, None], a.std((0, 2), where=mask)[:, None]
        return jnp.where(differ(a, mask, (0, 2))[:, None], (gradient - m * of_ones) / s, 0.0)

    advantage = jnp.stack([estimates.advantage[name] for name in names])
    found |= dict(zip([f"{name}, whitened" for name in names], jax.vmap(whitened)(plain, advantage), strict=True))
    if size > 1:
        # R − mean of the others = (R − mean of all) · size / (size − 1)
        returns = estimates.advantage["vanilla"][0, episodes].reshape(K, size)
        excess = (returns - returns.mean(1, keepdims=True)) * (size / (size - 1))
        excess = jnp.where(differ(returns, axis=1)[:, None], excess, 0.0)
        found["leave_one_out"] = (score * excess[..., None]).mean(1)
    return found


# All of it, as programs


class Row(NamedTuple):
    """What a number describes."""

    of: str
    """An estimator, a hidden layer, or empty."""
    quantity: str
    batch_size: int
    """Episodes; 0 where it does not matter."""
    n: int
    """Independent samples behind the number."""


STATES = 1024
"""Of these, hidden units are judged."""


def measure(
    policy: Callable,
    fitted: Episodes,
    far: Episodes,
    episodes: Episodes,
    critic_state: PyTree,
    algorithm: Algorithm,
    estimand: Estimand,
    key: PRNGKeyArray,
    paths: tuple[JittedEnv, PRNGKeyArray] | None,
    *,
    batch_sizes: tuple[int, ...],
    grouped: Episodes | None = None,
) -> tuple[dict[Row, Float[Array, ""]], RidgeValue]:
    """(gradient quality and hidden units, V) of one policy.

    It played sets of episodes that share nothing: V is fitted to the first, the second makes the reference, the third is
    measured, and `own` of a run that learns from groups in a fourth, `grouped`. They are given as the learner sees them.
    `paths` is the environment, which is given so as well, and a key for episodes that it is differentiated along, where it
    can be; None of an environment on the host.
    """
    num_episodes = episodes.mask.shape[1]
    own = own_value(algorithm.critic, critic_state)
    value = fit_value(fitted, estimand.gamma, key)
    plain, others = Scored(policy, ""), Scored.others(policy, episodes.obs[0].T)

    def by_baseline(scored, episodes, advantage):
        return gradient_of_each(scored, episodes, _on_steps(advantage[None], episodes.mask, estimand))[0]

    reference = by_baseline(plain, far, advantages(far, *values_of(value, far), estimand)["baseline"])
    found = estimates(plain, episodes, value, own, estimand)
    beside = {f"baseline, {name}": by_baseline(x, episodes, found.advantage["baseline"]) for name, x in others.items()}
    references = {"baseline": reference}
    if paths is not None and pathwise.possible(paths[0], policy, episodes.obs[0].T):
        after = value if estimand.bootstrap_truncated else None
        references["pathwise"] = pathwise.gradients(
            paths[0], policy, paths[1], num_episodes,
            gamma=estimand.gamma, discount_power=estimand.discount_power, after_limit=after,
        )  # fmt: skip
    beside |= {name: x for name, x in references.items() if name != "baseline"}
    mine, sizes = (episodes, batch_sizes) if grouped is None else (grouped, sizes_in_groups(batch_sizes, grouped))
    learned_from = dict(zip(sizes, own_gradients(policy, mine, critic_state, algorithm, sizes), strict=True))
    rows: dict[Row, Float[Array, ""]] = {}
    for size in batch_sizes:
        gradients = batches(found, size) | {name: of_batches(x, size) for name, x in beside.items()}
        gradients |= {"own": learned_from.pop(size)} if grouped is None else {}
        rows |= _of_batches(gradients, references, size, num_episodes // size)
    for size, gradient in learned_from.items():
        rows |= _of_batches({"own": gradient}, references, size, len(gradient))
    rows |= _of_references(references)
    for name in ("baseline", "baseline, own V"):
        if name in found.advantage:
            returns, left = found.advantage["reward_to_go"], found.advantage[name]
            explained = explained_variance(returns, returns - left, found.mask)
            rows[Row(name, "explained_variance", 0, num_episodes)] = explained
    hidden = getattr(policy, "hidden", lambda obs: [])  # of a policy that says what its layers put out
    for i, activation in enumerate(jax.vmap(hidden)(some_states(episodes, STATES)), 1):
        rows[Row(f"hidden {i}", "dead_units", 0, STATES)] = dead_units(activation)
        rows[Row(f"hidden {i}", "effective_rank", 0, STATES)] = effective_rank(activation)
    return rows, value


def _of_batches(
    gradients: dict[str, Float[Array, "K P"]], references: dict[str, Float[Array, "N P"]], size: int, count: int
) -> dict[Row, Float[Array, ""]]:
    """The statistics of every estimator's batches of this size, of which there are `count`."""
    # one under the other: a tenth of the compiling
    measured = jax.vmap(statistics, in_axes=(0, None))(jnp.stack(list(gradients.values())), references["baseline"].mean(0))
    rows = {
        Row(name, quantity, size, count): x for quantity, xs in measured.items() for name, x in zip(gradients, xs, strict=True)
    }
    if "pathwise" in references:
        by_score = {name: x for name, x in gradients.items() if name != "pathwise"}  # whose own episodes these are
        to_it = partial(mean_cosine, reference=references["pathwise"].mean(0))
        xs = jax.vmap(to_it)(jnp.stack(list(by_score.values())))
        rows |= {Row(name, "cosine_pathwise", size, count): x for name, x in zip(by_score, xs, strict=True)}
    return rows


def _of_references(references: dict[str, Float[Array, "N P"]]) -> dict[Row, Float[Array, ""]]:
    """How far each can be trusted, and whether two agree."""
    rows, signals = {}, {}
    for name, each in references.items():
        half = len(each) // 2
        rows[Row(name, "cosine_halves", 0, 2)] = cosine(each[:half].mean(0), each[half : 2 * half].mean(0))
        variance, signals[name] = noise_and_signal(each)
        rows[Row(name, "snr_reference", 0, len(each))] = signals[name] * len(each) / variance
        square = ((each - each.mean(0)[None]) ** 2).sum(1)
        rows[Row(name, "largest_share", 0, len(each))] = square.max() / square.sum()
    for name, each in references.items():
        if name != "baseline":
            both = each.mean(0) @ references["baseline"].mean(0)
            agreement = both / (jnp.sqrt(signals[name]) * jnp.sqrt(signals["baseline"]))
            rows[Row(name, "agreement", 0, len(each))] = agreement
    return rows


def decompositions(
    env: JittedEnv,
    policy: Callable,
    value: Value,
    critic_state: PyTree,
    algorithm: Algorithm,
    estimand: Estimand,
    key: PRNGKeyArray,
    *,
    num_episodes: int,
    num_states: int,
    num_draws: int,
    num_continuations: int,
) -> dict[Row, Float[Array, ""]]:
    """Σ_s, Σ_a and Σ_τ of one step's term: without a baseline, with V, with the run's own, with the exact one; and with V
    by every other score. `num_draws` are drawn in a state where not all can be taken."""
    of_states, of_returns, of_actions = jax.random.split(key, 3)
    states = visited(env, policy, of_states, num_states, num_episodes)
    taken, chance = actions(policy, states.obs, of_actions, num_draws)
    found = continuations(env, policy, states, taken, estimand.gamma, of_returns, num_continuations)
    factor = estimand.gamma ** states.time.astype(jnp.float32) if estimand.discount_power else jnp.ones(num_states)

    score_of = lambda scored: scores(scored, states.obs, taken) * factor[:, None, None]
    returns_with = found.bootstrapped if estimand.bootstrap_truncated else lambda value: found.total
    plain, by_value = score_of(Scored(policy, "")), value(states.obs.T)
    named = {"reward_to_go": jnp.zeros(num_states), "baseline": by_value, "exact V": None}
    rows = {name: decompose(plain, chance, returns_with(value), baseline) for name, baseline in named.items()}
    for name, scored in Scored.others(policy, states.obs.T).items():
        rows[f"baseline, {name}"] = decompose(score_of(scored), chance, returns_with(value), by_value)
    if (own := own_value(algorithm.critic, critic_state)) is not None:
        rows["baseline, own V"] = decompose(plain, chance, returns_with(own), own(states.obs.T))
    return {Row(name, quantity, 0, num_states): x for name, parts in rows.items() for quantity, x in parts.items()}


def updated(state: TrainState, algorithm: Algorithm, episodes: Episodes, key: PRNGKeyArray) -> tuple[Callable, Bool[Array, ""]]:
    """(what acts after one update by the run's own algorithm and optimiser, whether all of it is finite)."""
    new, _ = update(state, episodes, algorithm, key, jnp.array(False))
    finite = [jnp.isfinite(x).all() for x in jax.tree.leaves(eqx.filter(new.actor, eqx.is_inexact_array))]
    return new.actor, jnp.stack(finite).all()


def post_update_returns(
    play: Callable[..., Episodes],
    learn: Callable[..., tuple[Callable, Bool[Array, ""]]],
    state: TrainState,
    algorithm: Algorithm,
    key: PRNGKeyArray,
    *,
    num_episodes: int,
    num_updates: int,
    num_evaluations: int,
) -> list[Array]:
    """The mean return after each of `num_updates` single updates that all start here (Rahn et al. 2023); NaN where an
    update left parameters that are not finite.

    `play` is (policy, key, num_episodes, count, group_size) → Episodes, `learn` is `updated`; each learns from a batch as
    the next one is here.
    """
    found, batch = [], {"num_episodes": num_episodes, "count": state.num_episodes, "group_size": algorithm.group_size}
    for before, after, of_update in jax.vmap(partial(jax.random.split, num=3))(jax.random.split(key, num_updates)):
        policy, finite = learn(state, algorithm, play(state.actor, before, **batch), of_update)
        returns = play(policy, after, num_episodes=num_evaluations).reward.sum(0)
        found.append(jnp.where(finite, returns.mean(), jnp.nan))
    return found
