"""The posts' way to learn, as an update of the harness: one optimiser step for every few consecutive steps.

Every defect is an option, so that each can be taken out of the published program and put into the correct one. With
all of them off this is `pgx.updates.gradient.GradientStep` up to rounding. literal.py is the oracle.
"""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from pgx.blocks import fold, to_blocks
from pgx.errors import ConfigError
from pgx.losses import policy_loss
from pgx.optimiser import Optimiser
from pgx.types import Episodes, Metrics, Steps
from pgx.updates.base import Learned, Moved, Update


class Minibatches(Update):
    """`algorithm` says Ψ and critic as everywhere; the fields say how they are fed. Letters: M minibatches of W steps,
    episode after episode."""

    optimiser: Optimiser
    entropy_coefficient: float | Float[Array, ""]
    window: int = eqx.field(static=True)
    """W, the consecutive steps in a minibatch; the posts have 4."""
    drop_last: bool = eqx.field(static=True)
    """Leave out an episode's last steps where they do not fill a minibatch. Otherwise the last one is smaller."""
    broadcast: bool = eqx.field(static=True)
    """(n,1) × (n,): every step of a minibatch gets the mean Ψ of its n steps, and so does V as its target."""
    average: bool = eqx.field(static=True)
    """A minibatch's objective is a mean over its steps; otherwise a sum."""
    optimiser_steps: Literal["minibatch", "frozen", "batch"] = eqx.field(static=True)
    """`minibatch`: one after every minibatch, each gradient at the newest parameters. `frozen`: as many, but each
    gradient at the parameters that acted. `batch`: one, of the sum over minibatches, mean over episodes."""
    returns: Literal["window", "episode"] = eqx.field(static=True)
    """Ψ sees only the `window`, as if each were an episode, or the whole `episode`."""
    value_target: Literal["psi", "reward"] = eqx.field(static=True)
    """What V is fitted to: `psi`, or the step's own `reward`. The second post can be read both ways."""

    def __check_init__(self):
        if self.window < 1:
            raise ConfigError("update.window", f"{self.window!r} is not allowed", "a whole number ≥ 1")

    def learn(self, state, episodes, algorithm, key, diagnose):
        """Policy and critic take turns, a minibatch at a time. The gradient's spread is not measured."""
        if algorithm.whiten or algorithm.bootstrap_truncated or algorithm.discount_power:
            raise ConfigError("update", "minibatches know neither whiten nor bootstrap_truncated nor discount_power")
        used, share, psi, target = self.weights(episodes, algorithm.estimator)
        learn = self._one_step if self.optimiser_steps == "batch" else self._many_steps
        policy, policy_opt_state, critic, value, (loss, value_loss, grad_norm) = learn(
            state, episodes, algorithm, key, used, share, psi, target
        )
        mean_entropy, mean_kl, of_actions = _moved(state.policy, policy, episodes)
        nan = jnp.array(jnp.nan)
        moved = Moved(loss, mean_entropy, grad_norm, nan, nan, mean_kl, of_actions)
        explained = algorithm.critic.explained_variance(target, value, used)
        return Learned(policy, policy_opt_state, critic, moved, value_loss, explained)

    def weights(
        self, episodes: Episodes, estimator: Callable
    ) -> tuple[Bool[Array, "T B"], Float[Array, "T B"], Float[Array, "T B"], Float[Array, "T B"]]:
        """What the minibatches are made of: the steps that are used, their share in their minibatch's objective,
        Ψ, and the target of V. 0 where not used."""
        T, W = episodes.mask.shape[0], self.window
        length, t = episodes.length[None, :], jnp.arange(T)[:, None]
        full = length - length % W
        used = t < full if self.drop_last else episodes.mask
        size = jnp.where(t < full, W, jnp.maximum(length - full, 1)).astype(jnp.float32)
        share = jnp.where(used, 1 / size if self.average else 1.0, 0.0)

        # a Ψ that looks at V would see another one at every minibatch: NaN ends the run
        no_value = jnp.full_like(episodes.reward, jnp.nan)
        series = (episodes.reward, no_value, episodes.mask)
        if self.returns == "window":
            series = self._cut(series)
            psi = self._join(_along_time(estimator, series), like=episodes.mask)
        else:
            psi = _along_time(estimator, series)
        target = psi if self.value_target == "psi" else episodes.reward
        psi, target = jnp.where(used, psi, 0.0), jnp.where(used, target, 0.0)
        if self.broadcast:  # mean_ij l_i (Ψ_j − V_i) = mean_i l_i (Ψ̄ − V_i), and likewise for V's squared error
            psi, target = (self._spread(x, used, size) for x in (psi, target))
        return used, share, psi, target

    def _spread(self, x: Float[Array, "T B"], used: Bool[Array, "T B"], size: Float[Array, "T B"]) -> Float[Array, "T B"]:
        """The mean of each minibatch at all of its steps."""
        windows = self._cut(x)
        total = self._join(jnp.broadcast_to(windows.sum(0), windows.shape), like=x)
        return jnp.where(used, total / size, 0.0)

    def _cut(self, tree: PyTree[Array]) -> PyTree[Array]:
        """[T, B, …] → [W, M, …], zeros after T; episode after episode."""

        def one(x):
            T, B, *rest = x.shape
            x = jnp.pad(x, [(0, -T % self.window)] + [(0, 0)] * (x.ndim - 1))
            x = jnp.moveaxis(x.reshape(-1, self.window, B, *rest), 0, 2)
            return x.reshape(self.window, -1, *rest)

        return jax.tree.map(one, tree)

    def _join(self, x: Array, like: Array) -> Array:
        """[W, M] → [T, B] as in `like`."""
        T, B = like.shape
        return jnp.moveaxis(x.reshape(self.window, B, -1), 2, 0).reshape(-1, B)[:T]

    def _many_steps(self, state, episodes, algorithm, key, used, share, psi, target):
        """One optimiser step a minibatch, in order; only minibatches that hold a step are visited."""
        columns = (episodes.obs, episodes.action, episodes.reward, used, share, psi, target)
        columns = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), self._cut(columns))  # [M, W, …]: one row a minibatch
        holds = columns[3].any(1)
        visited = jnp.nonzero(holds, size=len(holds), fill_value=0)[0]
        gradient_of = eqx.filter_value_and_grad(_loss)

        def step(i, carry):
            policy, policy_opt_state, critic, values, sums = carry
            obs, action, reward, used, share, psi, target = jax.tree.map(lambda x: x[visited[i]], columns)
            alone = _alone(obs, action, reward, used)
            value, critic, value_loss = _value_and_fit(
                algorithm.critic, critic, alone, target[:, None], jax.random.fold_in(key, i)
            )
            actor = state.policy if self.optimiser_steps == "frozen" else policy
            weight = share * (psi - value[:, 0])
            loss, gradient = gradient_of(actor, obs.T, action, weight, share, self.entropy_coefficient)
            policy, policy_opt_state = self.optimiser.step(policy, gradient, policy_opt_state)
            measured = jnp.stack([loss, value_loss, optax.global_norm(gradient)])
            return policy, policy_opt_state, critic, values.at[visited[i]].set(value[:, 0]), sums + measured

        count = holds.sum()
        start = (state.policy, state.policy_opt_state, state.critic, jnp.zeros_like(columns[-1]), jnp.zeros(3))
        policy, policy_opt_state, critic, values, sums = jax.lax.fori_loop(0, count, step, start)
        value = self._join(jnp.moveaxis(values, 1, 0), like=used)
        return policy, policy_opt_state, critic, value, sums / jnp.maximum(count, 1).astype(sums.dtype)

    def _one_step(self, state, episodes, algorithm, key, used, share, psi, target):
        """The same gradients, added up."""
        held = eqx.tree_at(lambda e: e.mask, episodes, used)
        value, critic, value_loss = _value_and_fit(algorithm.critic, state.critic, held, target, key)
        share = share / jnp.asarray(episodes.num_episodes, share.dtype)
        blocks = to_blocks((episodes.obs, episodes.action, share * (psi - value), share), episodes.mask)

        def of_block(block, _):
            return eqx.filter_value_and_grad(_loss)(state.policy, *block, self.entropy_coefficient), ()

        (loss, gradient), _ = fold(of_block, blocks)
        policy, policy_opt_state = self.optimiser.step(state.policy, gradient, state.policy_opt_state)
        return policy, policy_opt_state, critic, value, jnp.stack([loss, value_loss, optax.global_norm(gradient)])


def _along_time(estimator, series):
    """Ψ of every column."""
    return jax.vmap(lambda *column: estimator(*column, jnp.zeros(())), in_axes=1, out_axes=1)(*series)


def _value_and_fit(critic, state, episodes, target, key):
    """(V of every step before the fit, what the critic is after it, its loss)."""
    value = critic.baseline(state, episodes, target)
    steps = to_blocks(Steps(episodes.obs, episodes.action, target - value, target, value), episodes.mask)
    return value, *critic.fit(state, steps, key)


def _alone(obs: Float[Array, "W O"], action: Int[Array, " W"], reward: Float[Array, " W"], used: Bool[Array, " W"]) -> Episodes:
    """A minibatch as the one episode that a critic takes it for."""
    obs, action, reward, used = (x[:, None] for x in (obs, action, reward, used))
    return Episodes(obs, action, reward, used, terminated=jnp.ones(1, bool), last_obs=obs[-1])


def _loss(policy, obs, action, weight, share, entropy_coefficient) -> Float[Array, ""]:
    """−Σ log π(a|s) · weight − c Σ share · H over N steps."""
    pi = policy(obs)
    return policy_loss(pi.log_prob(action), weight) - entropy_coefficient * (share * pi.entropy()).sum()


def _moved(before: PyTree, after: PyTree, episodes: Episodes) -> tuple[Float[Array, ""], Float[Array, ""], Metrics]:
    """(entropy of `before`, KL(before ‖ after), means over the steps of the batch; columns of the actions)."""
    blocks = to_blocks((episodes.obs, episodes.action), episodes.mask)

    def of_block(block, position):
        old, new = before(block[0]), after(block[0])
        return jnp.stack([jnp.where(position < blocks.steps, x, 0.0).sum() for x in (old.entropy(), old.kl(new))]), old

    sums, old = fold(of_block, blocks)
    mean_entropy, mean_kl = sums / blocks.steps.astype(jnp.float32)
    return mean_entropy, mean_kl, old.columns(blocks.arrays[1], blocks.taken)
