"""Training in chunks of updates: the device works through a chunk, then the host looks at its rows."""

import math
import time
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Shaped, UInt32

from pgx.backend import COMPILE_QUICKLY
from pgx.envs.base import EnvSpec, HostEnv, JittedEnv
from pgx.networks import MLP
from pgx.rollout import HostRollout, rollout
from pgx.types import Episodes, Metrics, TrainState
from pgx.update import Algorithm

WATCHED = ("policy_loss", "value_loss", "grad_norm", "parameters")
"""Quantities whose first non-finite value ends a run."""


class Limits(NamedTuple):
    """When a chunk ends. All traced: no budget compiles anything."""

    updates: int
    env_steps: float
    """The chunk ends with the first update that reaches it."""
    return_recent: float
    """… or with the first after which the last 100 episodes return this on average; infinity: never."""


class Chunk(NamedTuple):
    """What a chunk leaves behind."""

    state: TrainState
    rows: dict[str, Float[np.ndarray, " K"]]
    """One entry an update that was done."""
    not_finite: str | None
    """The first of WATCHED that was not finite, in the update after the last row; `state` is then of no use."""
    seconds: float


class Keys(NamedTuple):
    """The random streams of one run. Within a stream, fold in the number of the update."""

    init: PRNGKeyArray
    train: PRNGKeyArray
    evaluate: PRNGKeyArray

    @classmethod
    def of_seed(cls, seed: int | UInt32[Array, ""]) -> "Keys":
        return cls(*jax.random.split(jax.random.key(seed, impl="threefry2x32"), 3))


def init(algorithm: Algorithm, policy: dict, spec: EnvSpec, key: PRNGKeyArray) -> TrainState:
    """Fresh networks and optimiser states; `policy` is width, depth and activation."""
    policy_key, critic_key = jax.random.split(key)
    obs_size = math.prod(spec.obs_shape)
    network = MLP(obs_size, spec.num_actions, **policy, key=policy_key)
    return TrainState(
        policy=network,
        policy_opt_state=algorithm.optimiser.init(network),
        critic=algorithm.critic.init(obs_size, critic_key),
        recent_returns=jnp.full(100, jnp.nan, jnp.float32),
        update=jnp.zeros((), jnp.int32),
    )


def train(
    runner: "JittedRunner | HostRunner",
    state: TrainState,
    *,
    env_steps: int,
    num_updates: float,
    num_env_steps: float,
    solved_at: float,
    pause_every: int,
) -> Iterator[Chunk]:
    """Chunks from `state`, which was reached after `env_steps`, until a limit or a non-finite value ends the run.

    Limits may be infinite; `solved_at` is a mean return of the last 100 episodes. No chunk crosses a
    multiple of `pause_every` updates. Where chunks begin and end does not change a bit of the results.
    """
    updates = int(state.update)
    solved = bool(state.recent_returns.mean() >= solved_at)
    while updates < num_updates and env_steps < num_env_steps and not solved:
        size = min(runner.max_updates, pause_every - updates % pause_every, num_updates - updates)
        chunk = runner(state, Limits(int(size), num_env_steps - env_steps, solved_at))
        yield chunk
        if chunk.not_finite:
            return
        state = chunk.state
        updates += len(chunk.rows["env_steps"])
        env_steps += int(chunk.rows["env_steps"].sum())
        solved = chunk.rows["return_recent"][-1] >= solved_at


def advance(
    state: TrainState, episodes: Episodes, algorithm: Algorithm, diagnose_every: Int[Array, ""]
) -> tuple[TrainState, Metrics, Bool[Array, "4"]]:
    """One update, and which of WATCHED came out finite."""
    new, row = algorithm.update(state, episodes, algorithm, (state.update + 1) % diagnose_every == 0)
    parameters, _ = ravel_pytree(eqx.filter((new.policy, new.critic), eqx.is_inexact_array))
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
    key: PRNGKeyArray,
    limits: Limits,
    diagnose_every: Int[Array, ""],
    *,
    num_episodes: int,
    max_updates: int,
) -> tuple[TrainState, dict[str, Shaped[Array, " K"]], Int[Array, ""], Bool[Array, "4"]]:
    """Up to `max_updates` of update ∘ rollout as one program: (state, rows, how many are filled, finite)."""

    @jax.jit  # traced once, for its shapes and for the loop
    def one(state):
        episodes = rollout(env, state.policy, jax.random.fold_in(key, state.update), num_episodes)
        return advance(state, episodes, algorithm, diagnose_every)

    def running(carry):
        state, rows, done, env_steps, finite = carry
        within = (done < limits.updates) & (env_steps < limits.env_steps)
        solved = state.recent_returns.mean() >= limits.return_recent
        return within & ~solved & finite.all()

    def step(carry):
        state, rows, done, env_steps, _ = carry
        state, row, finite = one(state)
        rows = jax.tree.map(lambda xs, x: xs.at[done].set(x), rows, row)
        return state, rows, done + finite.all().astype(done.dtype), env_steps + row["env_steps"], finite

    _, row, finite = jax.eval_shape(one, state)
    rows = jax.tree.map(lambda x: jnp.zeros((max_updates, *x.shape), x.dtype), row)
    start = (state, rows, jnp.array(0), jnp.array(0), jnp.ones(finite.shape, bool))
    state, rows, done, _, finite = jax.lax.while_loop(running, step, start)
    return state, rows, done, finite


_programs: dict[Hashable, Callable] = {}
"""The chunks that this process has compiled. Runs that differ only in numbers share one."""


class JittedRunner:
    """Chunks of a run whose environment compiles. Trace, then compile, then call as often as needed."""

    def __init__(self, state, algorithm, env, key, *, num_episodes, max_updates, diagnose_every):
        self._inputs = (algorithm, env, key)
        self._diagnose_every = jnp.array(diagnose_every)
        self.max_updates = max_updates
        arguments = (state, *self._inputs, _traced(Limits(0, 0, math.inf)), self._diagnose_every)
        self._signature = (_signature(arguments), num_episodes, max_updates)
        if self._signature not in _programs:
            program = eqx.filter_jit(partial(chunk, num_episodes=num_episodes, max_updates=max_updates))
            self._lowered = program.lower(*arguments)

    def compile(self) -> None:
        if self._signature not in _programs:
            # on a CPU, LLVM's level 1 compiles a quarter faster than its default, and what it makes runs a tenth faster
            options = COMPILE_QUICKLY | {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
            _programs[self._signature] = self._lowered.compile(compiler_options=options)
        self._program = _programs[self._signature]

    def __call__(self, state: TrainState, limits: Limits) -> Chunk:
        start = time.perf_counter()
        outputs = self._program(state, *self._inputs, _traced(limits), self._diagnose_every)
        state, rows, done, finite = outputs
        rows, done, finite = jax.device_get((rows, done, finite))
        return Chunk(
            state, {name: x[:done] for name, x in rows.items()}, _not_finite(finite), time.perf_counter() - start
        )


_advance = eqx.filter_jit(advance)
_fold_in = jax.jit(jax.random.fold_in)


class HostRunner:
    """The same for an environment on the host, in chunks of one update: the host is there at every step anyway."""

    max_updates = 1

    def __init__(self, state, algorithm, env, key, *, num_episodes, diagnose_every):
        self._key, self._algorithm = key, algorithm
        self._diagnose_every = jnp.array(diagnose_every)
        self._rollout = HostRollout(env, num_episodes)

    def compile(self) -> None:
        """Nothing to do: the first update compiles."""

    def __call__(self, state: TrainState, limits: Limits) -> Chunk:
        start = time.perf_counter()
        episodes = self._rollout(state.policy, _fold_in(self._key, state.update))
        state, row, finite = _advance(state, episodes, self._algorithm, self._diagnose_every)
        row, finite = jax.device_get((row, finite))
        rows = {name: np.array([x] if finite.all() else []) for name, x in row.items()}
        return Chunk(state, rows, _not_finite(finite), time.perf_counter() - start)


def make_runner(
    state: TrainState,
    algorithm: Algorithm,
    env: JittedEnv | HostEnv,
    key: PRNGKeyArray,
    *,
    num_episodes: int,
    diagnose_every: int,
    max_updates: int,
) -> JittedRunner | HostRunner:
    """What makes chunks in this kind of environment, of at most `max_updates` where it compiles."""
    common = {"num_episodes": num_episodes, "diagnose_every": diagnose_every}
    if isinstance(env, HostEnv):
        return HostRunner(state, algorithm, env, key, **common)
    return JittedRunner(state, algorithm, env, key, **common, max_updates=max_updates)


def _signature(tree: PyTree) -> Hashable:
    """What decides how a function of `tree` compiles: its structure, the kinds of its arrays, and all that is not
    an array."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.typeof(x) if eqx.is_array(x) else x for x in leaves)


def _traced(limits: Limits) -> Limits:
    counts = [jnp.array(min(x, 2**31 - 1), jnp.int32) for x in (limits.updates, limits.env_steps)]
    return Limits(*counts, jnp.array(limits.return_recent, jnp.float32))


def _not_finite(finite: Bool[np.ndarray, "4"]) -> str | None:
    return None if finite.all() else WATCHED[int(finite.argmin())]
