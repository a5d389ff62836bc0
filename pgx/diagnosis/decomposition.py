"""Where does the variance of a policy gradient come from: the states, the actions, or what happens afterwards?

One step's term is X = ∇ log π(a|s) (G − φ(s)): s a state that the policy visits, a ~ π(·|s), G the return of one
continuation. By the law of total variance its covariance, of which the trace is taken, is Σ_s + Σ_a + Σ_τ (Tucker et
al. 2018, "The Mirage of Action-Dependent Baselines in Reinforcement Learning", section 3):

    Σ_s = Var_s( E_a[∇ log π(a|s) Q(s,a)] )                the same for any φ, as E_a[∇ log π(a|s)] = 0
    Σ_a = E_s Var_a( ∇ log π(a|s) (Q(s,a) − φ(s)) )         all that a baseline can change
    Σ_τ = E_s E_a Var_τ( ∇ log π(a|s) G | s, a )            what a baseline of states cannot

An environment in JAX can be gone on with from any state. From each of M states every action is taken, so that E_a is
exact, and K continuations are played after it, whose mean q(s,a) stands for Q(s,a). What luck, v(s,a)/K, adds to the
square of q is taken off again: the figures are unbiased, and may be negative.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped

from pgx.envs.base import JittedEnv
from pgx.lanes import largest
from pgx.rollout import act


class States(NamedTuple):
    """n states, with all that it takes to go on from them."""

    env_state: PyTree[Array]
    obs: Float[Array, "n O"]
    time: Int[Array, " n"]
    """Steps since the reset: the time limit is the caller's affair."""


def take(
    env: JittedEnv, states: States, action: Int[Array, " n"], key: PRNGKeyArray
) -> tuple[States, Float[Array, " n"], Bool[Array, " n"]]:
    """One step: (where it leads, reward, terminated)."""
    keys = jax.random.split(key, len(action))
    env_state, obs, reward, ended = jax.vmap(env.step)(keys, states.env_state, action)
    return States(env_state, obs, states.time + 1), reward, ended


Watch = Callable[[PyTree, States, Float[Array, " n"], Bool[Array, " n"], PRNGKeyArray], PyTree]
"""(what was seen so far, states, reward of the step from there, whether it is taken at all, key) → what is seen now."""


def go_on(
    env: JittedEnv, policy: Callable, states: States, going: Bool[Array, " n"], key: PRNGKeyArray, watch: Watch, seen: PyTree
) -> tuple[PyTree, Float[Array, "n O"], Bool[Array, " n"]]:
    """The policy plays on until all have ended or are cut off: (what was seen, last observations, terminated)."""
    T = env.spec.max_steps
    of_actions, of_steps, of_watch = jax.random.split(key, 3)
    noise = jax.eval_shape(policy, states.obs.T).noise(of_actions, T)

    def step(carry):
        i, states, alive, terminated, seen = carry
        action = act(policy, states.obs.T, noise[i], greedy=False)
        new, reward, ended = take(env, states, action, jax.random.fold_in(of_steps, i))
        seen = watch(seen, states, reward, alive, jax.random.fold_in(of_watch, i))
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
    (drawn, _), _, _ = go_on(env, policy, start, jnp.ones(num_episodes, bool), of_play, draw, (first, jnp.zeros(())))
    return drawn


def support(policy: Callable, obs: Float[Array, "n O"]) -> Shaped[Array, "A *A"]:
    """Every action that the policy may take."""
    return policy(obs[:1].T).support()


class Continuations(NamedTuple):
    """K returns of every action in M states."""

    total: Float[Array, "M A K"]
    """Σ_k γ^k r_k from the state on."""
    cut_off: Float[Array, "M A K"]
    """γ^k where the time limit came after k more steps; 0 where the environment ended the episode."""
    last_obs: Float[Array, "M A K O"]

    def bootstrapped(self, value: Callable[[Float[Array, "O N"]], Float[Array, " N"]]) -> Float[Array, "M A K"]:
        """At the time limit the return goes on with V(s_L)."""
        after = value(self.last_obs.reshape(-1, self.last_obs.shape[-1]).T)
        return self.total + self.cut_off * after.reshape(self.total.shape)


def continuations(
    env: JittedEnv, policy: Callable, states: States, gamma: float | Float[Array, ""], key: PRNGKeyArray, num: int
) -> Continuations:
    """After each action, taken `num` times in each state, the policy goes on."""
    actions = support(policy, states.obs)
    M, A = len(states.time), len(actions)
    of_first, of_rest = jax.random.split(key)
    each = jax.tree.map(lambda x: jnp.repeat(x, A * num, axis=0), states)
    after, reward, ended = take(env, each, jnp.tile(jnp.repeat(actions, num), M), of_first)

    def add(seen, _, reward, alive, key):
        total, discount = seen
        return total + jnp.where(alive, discount * reward, 0.0), jnp.where(alive, discount * gamma, discount)

    seen = (reward, jnp.broadcast_to(jnp.asarray(gamma, jnp.float32), reward.shape))
    (total, discount), last_obs, terminated = go_on(env, policy, after, ~ended, of_rest, add, seen)
    found = (total, jnp.where(terminated, 0.0, discount), last_obs)
    return Continuations(*(x.reshape(M, A, num, *x.shape[1:]) for x in found))


def scores(policy: Callable, obs: Float[Array, "M O"]) -> tuple[Float[Array, "M A P"], Float[Array, "M A"]]:
    """(∇ log π(a|s), π(a|s)) of every action."""
    actions = support(policy, obs)

    def of_state(obs):
        log_probs = lambda policy: jax.vmap(lambda a: policy(obs[:, None]).log_prob(a[None])[0])(actions)
        gradient = jax.tree.leaves(jax.jacrev(log_probs)(policy))
        flat = [x.reshape(x.shape[0], -1) for x in gradient]
        return jnp.concatenate(flat, axis=1), jnp.exp(log_probs(policy))

    return jax.lax.map(of_state, obs)


def decompose(
    score: Float[Array, "M A P"],
    chance: Float[Array, "M A"],
    returns: Float[Array, "M A K"],
    value: Float[Array, " M"] | None,
) -> dict[str, Float[Array, ""]]:
    """Σ_s, Σ_a and Σ_τ with the baseline φ = `value`; None: φ(s) = E_a[Q(s,a)], the policy's exact value.

    `score` may hold a factor of the step, as γ^t.
    """
    q, luck = returns.mean(2), returns.var(2, ddof=1) / returns.shape[2]  # Var(q(s,a))
    length = (score**2).sum(2)
    mean = jnp.einsum("ma,ma,map->mp", chance, q, score)
    square_of_mean = (mean**2).sum(1) - (chance**2 * length * luck).sum(1)
    if value is None:
        # Var(q_a − Σ_b π_b q_b), as the actions' continuations are independent
        value, doubt = (chance * q).sum(1), (1 - 2 * chance) * luck + (chance**2 * luck).sum(1, keepdims=True)
    else:
        doubt = luck
    mean_square = (chance * length * ((q - value[:, None]) ** 2 - doubt)).sum(1)
    spread = ((mean - mean.mean(0)[None]) ** 2).sum() / (len(mean) - 1)
    return {
        "variance_state": spread - ((mean**2).sum(1) - square_of_mean).mean(),
        "variance_action": (mean_square - square_of_mean).mean(),
        "variance_return": (chance * length * luck).sum(1).mean() * returns.shape[2],
    }
