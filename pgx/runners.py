"""Runners: what turns a state into the next chunk, for one run on a device or on the host, or for a pack of runs.

They compile when they are told to, or at their first chunk.
"""

import math
import time
from collections.abc import Callable, Hashable, Sequence
from functools import cache, partial
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, PyTree

from pgx import memory
from pgx.algorithm import Algorithm
from pgx.device import on_cpu
from pgx.envs.base import HostEnv, JittedEnv
from pgx.evaluating import COLUMNS, Evaluation, common_key, summary
from pgx.loop import WATCHED, Chunk, Keys, Limits, advance, chunk
from pgx.rollout import HostRollout
from pgx.types import TrainState

STILL = Limits(updates=0, env_steps=0)
"""No update at all."""


class Program:
    """A function that is traced when this is made and compiled once for all that have its signature: runs that differ
    only in numbers share a program. One that needs more memory than there is for its `batch` is refused, by ConfigError."""

    _compiled: ClassVar[dict[Hashable, Callable]] = {}
    """The compiled programs of this process, by signature."""

    def __init__(
        self, signature: Hashable, lower: Callable[[], Any], batch: memory.Batch, options: dict[str, int] | None = None
    ):
        self._signature, self._batch, self._options, self._program = signature, batch, options, None
        if signature not in self._compiled:
            self._lowered = lower()

    def compile(self) -> None:
        """Compile, unless that is done."""
        if self._program is None:
            if self._signature not in self._compiled:
                self._compiled[self._signature] = self._lowered.compile(compiler_options=self._options)
            program = self._compiled[self._signature]
            memory.check_program(self._batch, getattr(program, "compiled", program))  # Equinox wraps jax's
            self._program = program

    def __call__(self, *arguments: PyTree) -> PyTree:
        self.compile()
        return self._program(*arguments)


class JittedRunner:
    """Chunks of a run whose environment compiles."""

    def __init__(self, state, algorithm, env, keys, *, num_episodes, max_updates, diagnose_every, evaluation=None):
        self._inputs = (algorithm, env, keys)
        self._schedule = jax.device_put(np.int32(diagnose_every)), evaluation
        self.max_updates = max_updates
        arguments = (state, *self._inputs, _traced(STILL), *self._schedule)
        one_chunk = eqx.filter_jit(partial(chunk, num_episodes=num_episodes, max_updates=max_updates))
        batch = batch_of(state, env, num_episodes, evaluation)
        lower = lambda: one_chunk.lower(*arguments)
        self._program = Program((signature(arguments), num_episodes, max_updates), lower, batch, compiler_options())

    def compile(self) -> None:
        """Compile now, so that the first chunk takes no longer than the others."""
        self._program.compile()

    def __call__(self, state: TrainState, limits: Limits = Limits()) -> Chunk:
        start = time.perf_counter()
        after, *told = self._run(state, limits)
        rows, done, finite = jax.device_get(told)
        if not finite.all():  # it is one update too far: once more, up to the last row
            after = self._run(state, Limits(int(done)))[0] if done else state
        return _chunk(lambda: after, rows, int(done), finite, time.perf_counter() - start)

    def _run(self, state: TrainState, limits: Limits) -> tuple:
        return self._program(state, *self._inputs, _traced(_within(limits, self.max_updates)), *self._schedule)


_advance = eqx.filter_jit(advance)
_fold_in = jax.jit(jax.random.fold_in)
_common_key = jax.jit(common_key)
_summary = jax.jit(summary)


class HostRunner:
    """Chunks of a run on the host, one update each: the host is involved in every step anyway.

    Evaluation has an environment of its own, which may keep what it likes from one episode to the next, with a lane for
    each episode: so all of them begin as the seed says, whatever became of those before.
    """

    max_updates = 1

    def __init__(self, state, algorithm, env, keys, *, num_episodes, diagnose_every, evaluation=None, evaluation_env=None):
        self._keys, self._algorithm, self._program = keys, algorithm, None
        self._diagnose_every = jax.device_put(np.int32(diagnose_every))
        self._batch = batch_of(state, env, num_episodes)
        self._rollout = HostRollout(env, num_episodes, group_size=algorithm.group_size)
        self._evaluation = evaluation
        if evaluation is not None:
            self._evaluate = HostRollout(evaluation_env, evaluation.episodes, greedy=evaluation.greedy)

    def compile(self) -> None:
        """Nothing to do: the first update compiles."""

    def __call__(self, state: TrainState, limits: Limits = Limits()) -> Chunk:
        start = time.perf_counter()
        count = None if state.num_episodes is None else int(state.num_episodes)
        episodes = self._rollout(state.actor, _fold_in(self._keys.train, state.update), count)
        arguments = (state, episodes, self._algorithm, self._keys.update, self._diagnose_every)
        if self._program is None:
            self._program = Program((signature(arguments), "advance"), lambda: _advance.lower(*arguments), self._batch)
        after, row, finite = self._program(*arguments)
        row, finite = jax.device_get((row, finite))
        rows = {name: x[None] for name, x in row.items()}
        done = int(finite.all())
        if self._evaluation is not None:
            rows |= self._evaluated(after, due=bool(done) and int(after.update) % int(self._evaluation.every) == 0)
        return _chunk(lambda: after if done else state, rows, done, finite, time.perf_counter() - start)

    def _evaluated(self, state: TrainState, *, due: bool) -> dict[str, np.ndarray]:
        if not due:
            return dict.fromkeys(COLUMNS, np.full(1, np.nan, np.float32))
        found = jax.device_get(_summary(self._evaluate(state.actor, _common_key(self._keys.evaluate)).reward))
        return {name: x[None] for name, x in zip(COLUMNS, found, strict=True)}


def make_runner(
    state: TrainState,
    algorithm: Algorithm,
    env: JittedEnv | HostEnv,
    keys: Keys,
    *,
    num_episodes: int,
    diagnose_every: int,
    max_updates: int,
    evaluation: Evaluation | None = None,
    evaluation_env: HostEnv | None = None,
) -> JittedRunner | HostRunner:
    """The runner for this kind of environment; where it compiles, a chunk has at most `max_updates`, and on the host an
    `evaluation` needs an environment of its own."""
    common = {"num_episodes": num_episodes, "diagnose_every": diagnose_every, "evaluation": evaluation}
    if isinstance(env, HostEnv):
        return HostRunner(state, algorithm, env, keys, **common, evaluation_env=evaluation_env)
    return JittedRunner(state, algorithm, env, keys, **common, max_updates=max_updates)


class Lane(NamedTuple):
    """One run of a pack: what is a number of its own. Everything else is common to the pack."""

    state: TrainState
    algorithm: Algorithm
    env: JittedEnv
    keys: Keys
    diagnose_every: Int[Array, ""]
    evaluation: Evaluation | None = None


class PackRunner:
    """Chunks of many runs side by side, in one program of `width` lanes: `chunk` under vmap.

    The width is fixed, and lanes that nobody needs stand still, so that a run's bits depend neither on its companions
    nor on its place among them. Several devices share the lanes evenly, and none waits for another's loops.
    """

    def __init__(self, lanes: Sequence[Lane], *, width: int, num_episodes: int, max_updates: int):
        if len(lanes) > width:
            raise ValueError(f"{len(lanes)} runs do not fit into {width} lanes")
        if len(signatures := {signature(lane) for lane in lanes}) > 1:
            raise ValueError(f"the {len(lanes)} runs of a pack need {len(signatures)} programs instead of one")
        devices = jax.local_devices()[: _shared_by(width)]
        over_lanes, mesh = PartitionSpec("lanes"), Mesh(np.array(devices), ("lanes",))
        self._sharding = NamedSharding(mesh, over_lanes)
        numbers = [eqx.filter(lane, eqx.is_array) for lane in lanes]
        padding = [numbers[0]] * (width - len(lanes))
        self._numbers = jax.device_put(_stack([*numbers, *padding]), self._sharding)
        self._common = common = eqx.filter(lanes[0], eqx.is_array, inverse=True)
        self._width, self.max_updates = width, max_updates

        def one(numbers, limits):
            state, algorithm, env, keys, *schedule = eqx.combine(numbers, common)
            sizes = {"num_episodes": num_episodes, "max_updates": max_updates}
            state, *told = chunk(state, algorithm, env, keys, limits, *schedule, **sizes)
            return eqx.filter(state, eqx.is_array), told

        sharded = {"mesh": mesh, "in_specs": over_lanes, "out_specs": over_lanes}
        side_by_side, group = jax.vmap(one), lanes_at_once(width)
        if group < width // len(devices):
            side_by_side = lambda *inputs: jax.lax.map(lambda lane: one(*lane), inputs, batch_size=group)
        every_chunk = jax.jit(jax.shard_map(side_by_side, **sharded, check_vma=False))
        lower = lambda: every_chunk.lower(self._numbers, self._limits([]))
        batch = batch_of(lanes[0].state, lanes[0].env, num_episodes, lanes[0].evaluation, group)
        self._program = Program((*signatures, width, num_episodes, max_updates), lower, batch, compiler_options())

    def compile(self) -> None:
        """Compile now, so that the first chunk takes no longer than the others."""
        self._program.compile()

    def __call__(self, limits: Sequence[Limits | None]) -> list[Chunk | None]:
        """The next chunk of every lane that has limits; the others stand still."""
        start = time.perf_counter()
        before = self._numbers
        after, told = self._program(before, self._limits(limits))
        self._numbers = before._replace(state=after)
        rows, done, finite = jax.device_get(told)
        after, good = cache(partial(jax.device_get, after)), finite.all(1)
        if not good.all():  # those lanes are one update too far: once more, up to the last row
            again = [None if fine else Limits(int(n)) for fine, n in zip(good, done, strict=True)]
            until_last = cache(lambda: jax.device_get(self._program(before, self._limits(again))[0]))
        seconds = time.perf_counter() - start

        def of_lane(i: int) -> Chunk:
            state = partial(self._state, after if good[i] else until_last, i)
            return _chunk(state, {name: x[i] for name, x in rows.items()}, int(done[i]), finite[i], seconds)

        return [None if x is None else of_lane(i) for i, x in enumerate(limits)]

    def _limits(self, limits: Sequence[Limits | None]) -> Limits:
        every = [STILL if x is None else _within(x, self.max_updates) for x in limits]
        every += [STILL] * (self._width - len(limits))
        return _traced(Limits(*zip(*every, strict=True)), self._sharding)

    def _state(self, stacked: Callable[[], PyTree], i: int) -> TrainState:
        return eqx.combine(jax.tree.map(lambda x: jnp.asarray(x[i]), stacked()), self._common.state)


def _shared_by(width: int) -> int:
    """How many devices share the lanes of a pack."""
    return math.gcd(width, jax.local_device_count())


def lanes_at_once(width: int) -> int:
    """How many of a pack's lanes go through an operation together on a device: on a CPU as many as fit into its cache,
    which is 1.6 times as fast as 64 of them at once, and fewer that wait for each other. All groups have one size."""
    lanes = width // _shared_by(width)
    fitting = (size for size in range(8, 3, -1) if lanes % size == 0)
    return next(fitting, lanes) if on_cpu() else lanes


def batch_of(
    state: TrainState, env: JittedEnv | HostEnv, num_episodes: int, evaluation: Evaluation | None = None, lanes: int = 1
) -> memory.Batch:
    """The largest batch that a run plays."""
    key = "episodes_per_update" if state.num_episodes is None else "max_episodes_per_update"
    if evaluation is not None and evaluation.episodes > num_episodes:
        key, num_episodes = "evaluate_episodes", evaluation.episodes
    return memory.Batch(key, num_episodes, env.spec.max_steps, lanes)


def _stack(trees: Sequence[PyTree]) -> PyTree:
    """Leaf by leaf, on the host: XLA would compile a program for every shape."""

    def one(*xs):
        if jax.dtypes.issubdtype(xs[0].dtype, jax.dtypes.prng_key):
            data = np.stack(jax.device_get([jax.random.key_data(x) for x in xs]))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(xs[0]))
        return np.stack(jax.device_get(xs))

    return jax.tree.map(one, *trees)


def compiler_options() -> dict[str, int] | None:
    """On a CPU, LLVM's level 1 compiles a quarter faster than its default, and what it makes runs a tenth faster."""
    return {"xla_backend_optimization_level": 1} if on_cpu() else None


def signature(tree: PyTree) -> Hashable:
    """What decides how a function of `tree` compiles: its structure, the kinds of its arrays, and all that is not
    an array."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.typeof(x) if eqx.is_array(x) else x for x in leaves)


def _within(limits: Limits, max_updates: int) -> Limits:
    """No more updates than a chunk has rows for."""
    return limits._replace(updates=min(limits.updates, max_updates))


def _traced(limits: Limits, sharding: NamedSharding | None = None) -> Limits:
    """As arrays: of numbers, or of one column a number for several runs."""
    counts = [np.minimum(x, 2**31 - 1).astype(np.int32) for x in (limits.updates, limits.env_steps)]
    returns = [np.asarray(x, np.float32) for x in (limits.return_recent, limits.evaluation_return)]
    return jax.device_put(Limits(*counts, *returns), sharding)


def _chunk(
    after: Callable[[], TrainState],
    rows: dict[str, np.ndarray],
    done: int,
    finite: Bool[np.ndarray, "4"],
    seconds: float,
) -> Chunk:
    not_finite = None if finite.all() else WATCHED[int(finite.argmin())]
    return Chunk({name: x[:done] for name, x in rows.items()}, not_finite, seconds, after)
