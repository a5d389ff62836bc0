"""Where does the variance of a policy gradient come from: the states, the actions, or what happens afterwards?

One step's term is X = ∇ log π(a|s) (G − φ(s)): s a state that the policy visits, a ~ π(·|s), G the return of one
continuation. By the law of total variance its covariance, of which the trace is taken, is Σ_s + Σ_a + Σ_τ (Tucker et
al. 2018, "The Mirage of Action-Dependent Baselines in Reinforcement Learning", section 3):

    Σ_s = Var_s( E_a[∇ log π(a|s) Q(s,a)] )                the same for any φ, as E_a[∇ log π(a|s)] = 0
    Σ_a = E_s Var_a( ∇ log π(a|s) (Q(s,a) − φ(s)) )         all that a baseline can change
    Σ_τ = E_s E_a Var_τ( ∇ log π(a|s) G | s, a )            what a baseline of states cannot

An environment in JAX can be restarted from any state. From each of M states actions are taken and L continuations are
played after each, all independent of each other; q is their mean, v the unbiased variance of one. What luck adds to
the squares of q is taken off again: all figures are unbiased, and may be negative. Each needs four numbers of a state,

    μ = E_a[S Q]      ‖μ‖²      E_a[‖S‖² (Q − φ)²]      E_a[‖S‖² Var_τ(G)]      with S = ∇ log π(a|s)

each of them unbiased; with hats for their estimates, and m̄ the mean over states that are independent draws:

    Σ_s = Σ_m ‖μ̂ − m̄‖² / (M − 1) − mean_m(‖μ̂‖² − ‖μ‖²^)      Σ_a = mean_m(E‖S(Q − φ)‖²^ − ‖μ‖²^)      Σ_τ = mean_m(…)

*Where all actions can be taken*, E_a is a sum with the weights π(a|s): μ̂ = Σ_a π S q, and as v/L is the variance of q,

    ‖μ‖²^ = ‖μ̂‖² − Σ_a π² ‖S‖² v/L      E_a[‖S‖² (Q − φ)²]^ = Σ_a π ‖S‖² ((q − φ)² − v/L)

*Otherwise* K ≥ 3 actions are drawn from π, independent of each other. As E_a[S] = 0, q may be counted from any number c
that does not depend on the very actions it is multiplied with, and the mean of the *other* actions' q is a good one:

    μ̂ = mean_k S_k (q_k − c_k)                                              c_k: the mean of all q but q_k
    ‖μ‖²^ = mean over pairs k ≠ j of S_k·S_j (q_k − c_kj)(q_j − c_kj)         c_kj: of all but these two
    E_a[‖S‖² (Q − φ)²]^ = mean_k ‖S_k‖² ((q_k − φ)² − v_k/L)

A product of two independent estimates is unbiased, and so nothing has to be taken off ‖μ‖²^. With the exact value
φ = E_a[Q], c_k stands for φ, and its own variance, that of the other q divided by K − 1, is taken off as well.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from pgx.device import of_each
from pgx.envs.base import JittedEnv
from pgx.lanes import largest
from pgx.rollout import act


class States(NamedTuple):
    """n states, with all that rolling on from them takes."""

    env_state: PyTree[Array]
    obs: Float[Array, "n O"]
    time: Int[Array, " n"]
    """Steps since the reset: the time limit is the caller's affair."""


def take(
    env: JittedEnv, states: States, action: Shaped[Array, "n *A"], key: PRNGKeyArray
) -> tuple[States, Float[Array, " n"], Bool[Array, " n"]]:
    """One step: (where it leads, reward, terminated)."""
    keys = jax.random.split(key, len(action))
    env_state, obs, reward, ended = jax.vmap(env.take)(keys, states.env_state, action)
    return States(env_state, obs, states.time + 1), reward, ended


Fold = Callable[[PyTree, States, Float[Array, " n"], Bool[Array, " n"], PRNGKeyArray], PyTree]
"""(what was seen so far, states, reward of the step from there, whether it is taken at all, key) → what is seen with it."""


def roll_on(
    env: JittedEnv, policy: Callable, states: States, going: Bool[Array, " n"], key: PRNGKeyArray, fold: Fold, seen: PyTree
) -> tuple[PyTree, Float[Array, "n O"], Bool[Array, " n"]]:
    """Play on from these states until all episodes have ended or are cut off: (what was seen, last observations,
    terminated)."""
    T = env.spec.max_steps
    of_actions, of_steps, of_fold = jax.random.split(key, 3)
    noise = jax.eval_shape(policy, states.obs.T).noise(of_actions, T)

    def step(carry):
        i, states, alive, terminated, seen = carry
        action = act(policy, states.obs.T, noise[i], greedy=False)
        new, reward, ended = take(env, states, action, jax.random.fold_in(of_steps, i))
        seen = fold(seen, states, reward, alive, jax.random.fold_in(of_fold, i))
        new = new._replace(obs=jax.vmap(jnp.where)(alive, new.obs, states.obs))
        return i + 1, new, alive & ~ended & (new.time < T), terminated | (alive & ended), seen

    start = (0, states, going & (states.time < T), ~going, seen)
    _, last, _, terminated, seen = jax.lax.while_loop(lambda carry: largest(carry[2].any()), step, start)
    return seen, last.obs, terminated


def visited(env: JittedEnv, policy: Callable, key: PRNGKeyArray, num_states: int, num_episodes: int) -> States:
    """M draws from all steps of N fresh episodes, where every step counts alike: s ~ d(s) ∝ Σ_t P(s_t = s, t < L).

    By reservoirs, so that no state is kept for later: at each step, each draw becomes one of the c episodes that are
    still going with probability c / (all steps until now).
    """
    of_reset, of_play = jax.random.split(key)
    env_state, obs = jax.vmap(env.reset)(jax.random.split(of_reset, num_episodes))
    start = States(env_state, obs, jnp.zeros(num_episodes, jnp.int32))

    def draw(seen, states, _, alive, key):
        drawn, steps = seen
        steps = steps + alive.sum(dtype=jnp.float32)
        of_which, of_whether = jax.random.split(key)
        which = jax.random.choice(of_which, num_episodes, (num_states,), p=alive.astype(jnp.float32))
        now = jax.random.bernoulli(of_whether, alive.sum(dtype=jnp.float32) / steps, (num_states,))
        return jax.tree.map(lambda old, x: jax.vmap(jnp.where)(now, x[which], old), drawn, states), steps

    first = jax.tree.map(lambda x: jnp.broadcast_to(x[0], (num_states, *x.shape[1:])), start)  # replaced at once
    (drawn, _), _, _ = roll_on(env, policy, start, jnp.ones(num_episodes, bool), of_play, draw, (first, jnp.zeros(())))
    return drawn


class Actions(NamedTuple):
    """What is done in each of M states."""

    taken: Shaped[Array, "M K *A"]
    chance: Float[Array, "M K"] | None
    """π(a|s), where these are all actions there are; None: they are K draws from π."""


def actions(policy: Callable, obs: Float[Array, "M O"], key: PRNGKeyArray, num: int) -> Actions:
    """All there are, or else `num` draws."""
    pi, M = policy(obs.T), len(obs)
    every = pi.support()
    if every is None:
        return Actions(jnp.moveaxis(jax.vmap(pi.sample)(pi.noise(key, num)), -1, 0), None)
    each = jnp.broadcast_to(every[..., None], (*every.shape, M))
    return Actions(jnp.moveaxis(each, -1, 0), jnp.exp(jax.vmap(pi.log_prob)(each)).T)


class Continuations(NamedTuple):
    """L returns of each of K actions in M states."""

    total: Float[Array, "M K L"]
    """Σ_k γ^k r_k from the state on."""
    cut_off: Float[Array, "M K L"]
    """γ^k where the time limit came after k more steps; 0 where the environment ended the episode."""
    last_obs: Float[Array, "M K L O"]

    def bootstrapped(self, value: Callable[[Float[Array, "O N"]], Float[Array, " N"]]) -> Float[Array, "M K L"]:
        """The returns, bootstrapped with V(s_L) at the time limit."""
        after = value(self.last_obs.reshape(-1, self.last_obs.shape[-1]).T)
        return self.total + self.cut_off * after.reshape(self.total.shape)


def continuations(
    env: JittedEnv,
    policy: Callable,
    states: States,
    taken: Shaped[Array, "M K *A"],
    gamma: float | Float[Array, ""],
    key: PRNGKeyArray,
    num: int,
) -> Continuations:
    """After each action, taken `num` times in its state, roll on by the policy."""
    M, K = taken.shape[:2]
    of_first, of_rest = jax.random.split(key)
    each = jax.tree.map(lambda x: jnp.repeat(x, K * num, axis=0), states)
    first = jnp.repeat(taken.reshape(M * K, *taken.shape[2:]), num, axis=0)
    after, reward, ended = take(env, each, first, of_first)

    def add(seen, _, reward, alive, key):
        total, discount = seen
        return total + jnp.where(alive, discount * reward, 0.0), jnp.where(alive, discount * gamma, discount)

    seen = (reward, jnp.broadcast_to(jnp.asarray(gamma, jnp.float32), reward.shape))
    (total, discount), last_obs, terminated = roll_on(env, policy, after, ~ended, of_rest, add, seen)
    found = (total, jnp.where(terminated, 0.0, discount), last_obs)
    return Continuations(*(x.reshape(M, K, num, *x.shape[1:]) for x in found))


def scores(policy: Callable, obs: Float[Array, "M O"], taken: Shaped[Array, "M K *A"]) -> Float[Array, "M K P"]:
    """∇ log π(a|s) of each action."""

    def of_state(state):
        obs, actions = state
        log_probs = lambda policy: jax.vmap(lambda a: policy(obs[:, None]).log_prob(a[..., None])[0])(actions)
        gradient = jax.tree.leaves(jax.jacrev(log_probs)(policy))
        return jnp.concatenate([x.reshape(x.shape[0], -1) for x in gradient], axis=1)

    return of_each(of_state, (obs, taken))


class Moments(NamedTuple):
    """What is known of M states from the actions taken there; see the top of this file."""

    mean: Float[Array, "M P"]
    """μ̂."""
    square_of_mean: Float[Array, " M"]
    """‖μ‖²^."""
    value: Float[Array, "M #K"]
    """What stands for E_a[Q] beside each action …"""
    doubt: Float[Array, "M K"]
    """… and the variance of q − value that is luck."""


def of_all_actions(
    score: Float[Array, "M K P"], chance: Float[Array, "M K"], q: Float[Array, "M K"], luck: Float[Array, "M K"]
) -> Moments:
    """Sums over all actions; `luck` is Var(q)."""
    length = (score**2).sum(2)
    mean = jnp.einsum("ma,ma,map->mp", chance, q, score)
    square_of_mean = (mean**2).sum(1) - (chance**2 * length * luck).sum(1)
    # Var(q_a − Σ_b π_b q_b), as the actions' continuations are independent
    doubt = (1 - 2 * chance) * luck + (chance**2 * luck).sum(1, keepdims=True)
    return Moments(mean, square_of_mean, (chance * q).sum(1, keepdims=True), doubt)


def of_drawn_actions(score: Float[Array, "M K P"], q: Float[Array, "M K"], luck: Float[Array, "M K"]) -> Moments:
    """Means over K draws, in which no draw is multiplied with itself."""
    K = q.shape[1]
    excess = q - q.mean(1, keepdims=True)
    squares = (excess**2).sum(1, keepdims=True)
    # q_k minus the mean of all others; minus the mean of all but k and j; and the variance of q among the others
    beside_one = excess * (K / (K - 1))
    beside_two = excess[:, :, None] + (excess[:, :, None] + excess[:, None, :]) / (K - 2)
    spread = (squares - excess**2 * (K / (K - 1))) / (K - 2)
    mean = jnp.einsum("mk,mkp->mp", beside_one, score) / K
    products = jnp.einsum("mkp,mjp->mkj", score, score) * beside_two * beside_two.swapaxes(1, 2)
    square_of_mean = jnp.where(jnp.eye(K, dtype=bool), 0.0, products).sum((1, 2)) / (K * (K - 1))
    return Moments(mean, square_of_mean, q - beside_one, luck + spread / (K - 1))


def decompose(
    score: Float[Array, "M K P"],
    chance: Float[Array, "M K"] | None,
    returns: Float[Array, "M K L"],
    value: Float[Array, " M"] | None,
) -> dict[str, Float[Array, ""]]:
    """Σ_s, Σ_a and Σ_τ with the baseline φ = `value`; None: φ(s) = E_a[Q(s,a)], the policy's exact value.

    `chance` is π(a|s) of all actions there are, or None of draws. `score` may hold a factor of the step, as γ^t.
    """
    (M, K, L), length = returns.shape, (score**2).sum(2)
    q, luck = returns.mean(2), returns.var(2, ddof=1) / L  # Var(q(s,a))
    of = of_drawn_actions(score, q, luck) if chance is None else of_all_actions(score, chance, q, luck)
    chance = jnp.full((M, K), 1 / K) if chance is None else chance
    value, doubt = (of.value, of.doubt) if value is None else (value[:, None], luck)
    mean_square = (chance * length * ((q - value) ** 2 - doubt)).sum(1)
    spread = ((of.mean - of.mean.mean(0)[None]) ** 2).sum() / (M - 1)
    return {
        "variance_state": spread - ((of.mean**2).sum(1) - of.square_of_mean).mean(),
        "variance_action": (mean_square - of.square_of_mean).mean(),
        "variance_return": (chance * length * luck).sum(1).mean() * L,
    }
