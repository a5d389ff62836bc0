"""Training in chunks of updates: the device works through a chunk, then the host looks at its rows."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from pgx.algorithm import Algorithm
from pgx.envs.base import EnvSpec, JittedEnv
from pgx.evaluating import COLUMNS, Evaluation
from pgx.lanes import largest
from pgx.metrics import NO_GRADIENT_QUALITY
from pgx.rollout import rollout
from pgx.scaling import Scaling
from pgx.types import Episodes, Metrics, TrainState
from pgx.update import update

WATCHED = ("policy_loss", "value_loss", "grad_norm", "parameters")
"""Quantities whose first non-finite value ends a run."""


class Limits(NamedTuple):
    """When a chunk ends, if its runner has not had enough before. All traced: no budget compiles anything."""

    updates: float = math.inf
    env_steps: float = math.inf
    """The chunk ends with the first update that reaches it."""
    return_recent: float = math.inf
    """… or with the first after which the last 100 episodes return this on average."""
    evaluation_return: float = math.inf
    """… or with the first whose evaluation does."""


class Chunk(NamedTuple):
    """What a chunk leaves behind."""

    rows: dict[str, Shaped[np.ndarray, " K"]]
    """One entry an update that was done."""
    not_finite: str | None
    """The first of WATCHED that was not finite, in the update after the last row."""
    seconds: float
    after: Callable[[], TrainState]

    @property
    def state(self) -> TrainState:
        """The state after the last finite update. Packs transfer it when it is first asked for."""
        return self.after()


@runtime_checkable
class Runner(Protocol):
    """What makes chunks: pgx.runners has one for each kind of environment."""

    max_updates: int
    """In a chunk."""

    def __call__(self, state: TrainState, limits: Limits) -> Chunk: ...


class Keys(NamedTuple):
    """The random streams of one run. Within a stream, fold in the number of the update."""

    init: PRNGKeyArray
    train: PRNGKeyArray
    """Of the episodes that training plays."""
    evaluate: PRNGKeyArray
    """Of those that a policy is judged by."""
    update: PRNGKeyArray
    """Of what an update draws once the episodes are there."""

    @classmethod
    def of_seed(cls, seed: int) -> "Keys":
        """Threefry's key is any 64 bits: the stream's number and the seed's 32. A split would have to be compiled."""
        key = lambda stream: jax.random.wrap_key_data(np.array([stream, seed], np.uint32), impl="threefry2x32")
        return cls(*map(key, range(len(cls._fields))))


def init(algorithm: Algorithm, make_policy: Callable, spec: EnvSpec, key: PRNGKeyArray) -> TrainState:
    """Fresh networks and optimiser states; `make_policy(obs_size, actions, key=key)` is what conf/policy/ names."""
    policy_key, critic_key = jax.random.split(key)
    policy = make_policy(spec.obs_size, spec.actions, key=policy_key)
    return TrainState(
        policy=policy,
        policy_opt_state=algorithm.update.init(policy),
        critic=algorithm.critic.init(spec.obs_size, critic_key),
        recent_returns=jnp.full(100, jnp.nan, jnp.float32),
        update=jnp.zeros((), jnp.int32),
        scaling=Scaling.fresh(spec.obs_size) if algorithm.scale_observations else None,
        num_episodes=None if algorithm.batch is None else algorithm.batch.first(spec.max_steps),
    )


class Budget:
    """How far a run has come, and how far its next chunk may go: until a limit or a non-finite value ends the run.

    `solved_at` is a mean return of the last 100 episodes, `evaluated_at` one of an evaluation. No chunk crosses a multiple
    of `pause_every` updates. Where chunks begin and end does not change a bit of the results.
    """

    def __init__(
        self,
        state: TrainState,
        *,
        env_steps: int = 0,
        evaluation: float = math.nan,
        num_updates: float = math.inf,
        num_env_steps: float = math.inf,
        solved_at: float = math.inf,
        evaluated_at: float = math.inf,
        pause_every: float = math.inf,
    ):
        """`state` was reached after `env_steps`, and its last `evaluation` returned that; NaN: there was none."""
        self._updates, self._env_steps = int(state.update), env_steps
        self._num_updates, self._num_env_steps = num_updates, num_env_steps
        self._solved_at, self._evaluated_at, self._pause_every = solved_at, evaluated_at, pause_every
        recent = np.asarray(state.recent_returns).mean()  # jax would compile it
        self._over = bool(recent >= solved_at) or evaluation >= evaluated_at

    def limits(self, max_updates: int) -> Limits | None:
        """Those of the next chunk, which has at most `max_updates`; None: the run has ended."""
        if self._over or self._updates >= self._num_updates or self._env_steps >= self._num_env_steps:
            return None
        until = self._pause_every - self._updates % self._pause_every
        size = min(max_updates, until, self._num_updates - self._updates)
        return Limits(int(size), self._num_env_steps - self._env_steps, self._solved_at, self._evaluated_at)

    def count(self, chunk: Chunk) -> None:
        """`chunk` is done."""
        self._updates += len(chunk.rows["env_steps"])
        self._env_steps += int(chunk.rows["env_steps"].sum())
        ends = {"return_recent": self._solved_at, "evaluation_return": self._evaluated_at}
        reached = [chunk.rows[name][-1:] >= end for name, end in ends.items() if name in chunk.rows]
        self._over = chunk.not_finite is not None or bool(np.any(reached))


def train(runner: Runner, state: TrainState, **limits: float) -> Iterator[Chunk]:
    """Chunks from `state` until its Budget, which says what the limits are, ends: without any, for ever."""
    budget = Budget(state, **limits)
    while (next_limits := budget.limits(runner.max_updates)) is not None:
        chunk = runner(state, next_limits)
        budget.count(chunk)
        yield chunk
        state = chunk.state


def advance(
    state: TrainState, episodes: Episodes, algorithm: Algorithm, key: PRNGKeyArray, diagnose_every: Int[Array, ""]
) -> tuple[TrainState, Metrics, Bool[Array, "4"]]:
    """One update, and which of WATCHED came out finite; `key` is the stream of updates."""
    diagnose = (state.update + 1) % diagnose_every == 0
    key = jax.random.fold_in(key, state.update)
    new, row = update(state, episodes, algorithm, key, largest(diagnose))
    row |= {name: jnp.where(diagnose, row[name], nothing) for name, nothing in NO_GRADIENT_QUALITY.items()}
    parameters, _ = ravel_pytree(eqx.filter((new.policy, new.critic, new.scaling), eqx.is_inexact_array))
    finite = [
        jnp.isfinite(row["policy_loss"]),
        # a critic that learns nothing has no loss: NaN means not applicable
        jnp.isfinite(row["value_loss"]) | (state.critic is None),
        jnp.isfinite(row["grad_norm"]),
        jnp.isfinite(parameters).all(),
    ]
    return new, row, jnp.stack(finite)


def chunk(
    state: TrainState,
    algorithm: Algorithm,
    env: JittedEnv,
    keys: Keys,
    limits: Limits,
    diagnose_every: Int[Array, ""],
    evaluation: Evaluation | None = None,
    *,
    num_episodes: int,
    max_updates: int,
) -> tuple[TrainState, dict[str, Shaped[Array, " K"]], Int[Array, ""], Bool[Array, "4"]]:
    """Up to `max_updates` of update ∘ rollout as one program: (state, rows, how many are filled, finite)."""

    @jax.jit  # traced once, for its shapes and for the loop
    def one(state, going):
        key = jax.random.fold_in(keys.train, state.update)
        size = {"count": state.num_episodes, "group_size": algorithm.group_size}
        episodes = rollout(env, state.actor, key, num_episodes, going=going, **size)
        return advance(state, episodes, algorithm, keys.update, diagnose_every)

    def running(carry):
        state, rows, done, env_steps, finite = carry
        within = (done < limits.updates) & (env_steps < limits.env_steps)
        solved = state.recent_returns.mean() >= limits.return_recent
        return within & ~solved & finite.all()

    _, row, finite = jax.eval_shape(one, state, True)
    # numbers of one type are written together: a kernel each is two instead of eighteen
    types = dict.fromkeys(x.dtype for x in row.values())
    columns = [[name for name, x in row.items() if x.dtype == kind] for kind in types]
    rows = [jnp.zeros((max_updates, len(names)), kind) for kind, names in zip(types, columns, strict=True)]
    carry = (state, rows, jnp.array(0), jnp.array(0), jnp.ones(finite.shape, bool))
    updates = partial(_updates, one, columns)
    if evaluation is None:
        carry, evaluated = updates(running, carry), []
    else:
        evaluate = partial(evaluation, env, keys.evaluate)
        unsolved = lambda returns: ~(returns >= limits.evaluation_return)
        carry, found = _with_evaluations(updates, evaluation.next_after, evaluate, running, unsolved, carry)
        evaluated = [(COLUMNS, found)]
    state, rows, done, _, finite = carry
    tables = [*zip(columns, rows, strict=True), *evaluated]
    rows = {name: x[:, i] for names, x in tables for i, name in enumerate(names)}
    return state, rows, done, finite


_Carry = tuple[TrainState, list[Shaped[Array, "K _"]], Int[Array, ""], Int[Array, ""], Bool[Array, "4"]]
"""State, rows, how many of them are filled, env steps, finite."""


def _updates(one: Callable, columns: list[list[str]], going: Callable, carry: _Carry) -> _Carry:
    """As many as are `going`, each with its row."""

    def step(carry):
        state, rows, done, env_steps, _ = carry
        # always going, but for a lane that has ended before the others: it must not hold them up
        state, row, finite = one(state, going(carry))
        vectors = [jnp.stack([row[name] for name in names]) for names in columns]
        rows = [jax.lax.dynamic_update_index_in_dim(xs, x, done, 0) for xs, x in zip(rows, vectors, strict=True)]
        return state, rows, done + finite.all().astype(done.dtype), env_steps + row["env_steps"], finite

    return jax.lax.while_loop(going, step, carry)


def _with_evaluations(
    updates: Callable, next_after: Callable, evaluate: Callable, running: Callable, unsolved: Callable, carry: _Carry
) -> tuple[_Carry, Float[Array, "K 2"]]:
    """A loop around that of `updates`, which goes as far as the next evaluation and is the same as without any, to the
    last bit; and what the evaluations found, in rows like its own."""
    size = len(carry[1][0])

    def going(both):
        carry, found = both
        return running(carry) & unsolved(found[carry[2] - 1, 0])

    def stretch(both):
        carry, found = both
        due_at = next_after(carry[0].update)
        state, _, done, _, finite = carry = updates(lambda carry: running(carry) & (carry[0].update < due_at), carry)
        due = finite.all() & (state.update == due_at)
        columns = evaluate(state.actor, due)
        return carry, found.at[jnp.where(due, done - 1, size)].set(columns, mode="drop")

    return jax.lax.while_loop(going, stretch, (carry, jnp.full((size, len(COLUMNS)), jnp.nan)))
