"""Training in chunks of updates: the device works through a chunk, then the host looks at its rows."""

import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache, partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree, Shaped

from pgx.algorithm import Algorithm
from pgx.envs.base import EnvSpec, HostEnv, JittedEnv
from pgx.lanes import largest
from pgx.metrics import NO_GRADIENT_QUALITY
from pgx.rollout import HostRollout, rollout
from pgx.types import Episodes, Metrics, TrainState
from pgx.update import update

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

    rows: dict[str, Shaped[np.ndarray, " K"]]
    """One entry an update that was done."""
    not_finite: str | None
    """The first of WATCHED that was not finite, in the update after the last row."""
    seconds: float
    after: Callable[[], TrainState]

    @property
    def state(self) -> TrainState:
        """After the last row, and so always finite. In a pack it is fetched when it is asked for."""
        return self.after()


class Keys(NamedTuple):
    """The random streams of one run. Within a stream, fold in the number of the update."""

    init: PRNGKeyArray
    train: PRNGKeyArray
    """Of the episodes that training plays."""
    evaluate: PRNGKeyArray
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
    )


class Budget:
    """How far a run has come, and how far its next chunk may go: until a limit or a non-finite value ends the run.

    Limits may be infinite; `solved_at` is a mean return of the last 100 episodes. No chunk crosses a
    multiple of `pause_every` updates. Where chunks begin and end does not change a bit of the results.
    """

    def __init__(
        self,
        state: TrainState,
        *,
        env_steps: int,
        num_updates: float,
        num_env_steps: float,
        solved_at: float,
        pause_every: int,
    ):
        """`state` was reached after `env_steps`."""
        self._updates, self._env_steps = int(state.update), env_steps
        self._num_updates, self._num_env_steps, self._solved_at = num_updates, num_env_steps, solved_at
        self._pause_every = pause_every
        self._over = bool(np.asarray(state.recent_returns).mean() >= solved_at)  # jax would compile it

    def limits(self, max_updates: int) -> Limits | None:
        """Those of the next chunk, which has at most `max_updates`; None: the run has ended."""
        if self._over or self._updates >= self._num_updates or self._env_steps >= self._num_env_steps:
            return None
        until = self._pause_every - self._updates % self._pause_every
        size = min(max_updates, until, self._num_updates - self._updates)
        return Limits(int(size), self._num_env_steps - self._env_steps, self._solved_at)

    def count(self, chunk: Chunk) -> None:
        """`chunk` is done."""
        self._updates += len(chunk.rows["env_steps"])
        self._env_steps += int(chunk.rows["env_steps"].sum())
        self._over = chunk.not_finite is not None or bool(chunk.rows["return_recent"][-1] >= self._solved_at)


def train(runner: "JittedRunner | HostRunner", state: TrainState, **limits: float) -> Iterator[Chunk]:
    """Chunks from `state` until its Budget, which says what the limits are, ends."""
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
    keys: Keys,
    limits: Limits,
    diagnose_every: Int[Array, ""],
    *,
    num_episodes: int,
    max_updates: int,
) -> tuple[TrainState, dict[str, Shaped[Array, " K"]], Int[Array, ""], Bool[Array, "4"]]:
    """Up to `max_updates` of update ∘ rollout as one program: (state, rows, how many are filled, finite)."""

    @jax.jit  # traced once, for its shapes and for the loop
    def one(state, going):
        key = jax.random.fold_in(keys.train, state.update)
        episodes = rollout(env, state.policy, key, num_episodes, going=going)
        return advance(state, episodes, algorithm, keys.update, diagnose_every)

    def running(carry):
        state, rows, done, env_steps, finite = carry
        within = (done < limits.updates) & (env_steps < limits.env_steps)
        solved = state.recent_returns.mean() >= limits.return_recent
        return within & ~solved & finite.all()

    def step(carry):
        state, rows, done, env_steps, _ = carry
        # always going, but for a lane that has ended before the others: it must not hold them up
        state, row, finite = one(state, running(carry))
        vectors = [jnp.stack([row[name] for name in names]) for names in columns]
        rows = [jax.lax.dynamic_update_index_in_dim(xs, x, done, 0) for xs, x in zip(rows, vectors, strict=True)]
        return state, rows, done + finite.all().astype(done.dtype), env_steps + row["env_steps"], finite

    _, row, finite = jax.eval_shape(one, state, True)
    # numbers of one type are written together: a kernel each is two instead of eighteen
    types = dict.fromkeys(x.dtype for x in row.values())
    columns = [[name for name, x in row.items() if x.dtype == kind] for kind in types]
    rows = [jnp.zeros((max_updates, len(names)), kind) for kind, names in zip(types, columns, strict=True)]
    start = (state, rows, jnp.array(0), jnp.array(0), jnp.ones(finite.shape, bool))
    state, rows, done, _, finite = jax.lax.while_loop(running, step, start)
    rows = {name: x[:, i] for names, x in zip(columns, rows, strict=True) for i, name in enumerate(names)}
    return state, rows, done, finite


_programs: dict[Hashable, Callable] = {}
"""The chunks that this process has compiled. Runs that differ only in numbers share one."""


class JittedRunner:
    """Chunks of a run whose environment compiles. Trace, then compile, then call as often as needed."""

    def __init__(self, state, algorithm, env, keys, *, num_episodes, max_updates, diagnose_every):
        self._inputs = (algorithm, env, keys)
        self._diagnose_every = jax.device_put(np.int32(diagnose_every))
        self.max_updates = max_updates
        arguments = (state, *self._inputs, _traced(Limits(0, 0, math.inf)), self._diagnose_every)
        self._signature = (_signature(arguments), num_episodes, max_updates)
        if self._signature not in _programs:
            program = eqx.filter_jit(partial(chunk, num_episodes=num_episodes, max_updates=max_updates))
            self._lowered = program.lower(*arguments)

    def compile(self) -> None:
        if self._signature not in _programs:
            _programs[self._signature] = self._lowered.compile(compiler_options=compiler_options())
        self._program = _programs[self._signature]

    def __call__(self, state: TrainState, limits: Limits) -> Chunk:
        start = time.perf_counter()
        after, *told = self._run(state, limits)
        rows, done, finite = jax.device_get(told)
        if not finite.all():  # it is one update too far: once more, up to the last row
            after = self._run(state, Limits(int(done), math.inf, math.inf))[0] if done else state
        return _chunk(lambda: after, rows, int(done), finite, time.perf_counter() - start)

    def _run(self, state: TrainState, limits: Limits) -> tuple:
        return self._program(state, *self._inputs, _traced(limits), self._diagnose_every)


_advance = eqx.filter_jit(advance)
_fold_in = jax.jit(jax.random.fold_in)


class HostRunner:
    """The same for an environment on the host, in chunks of one update: the host is there at every step anyway."""

    max_updates = 1

    def __init__(self, state, algorithm, env, keys, *, num_episodes, diagnose_every):
        self._keys, self._algorithm = keys, algorithm
        self._diagnose_every = jax.device_put(np.int32(diagnose_every))
        self._rollout = HostRollout(env, num_episodes)

    def compile(self) -> None:
        """Nothing to do: the first update compiles."""

    def __call__(self, state: TrainState, limits: Limits) -> Chunk:
        start = time.perf_counter()
        episodes = self._rollout(state.policy, _fold_in(self._keys.train, state.update))
        after, row, finite = _advance(state, episodes, self._algorithm, self._keys.update, self._diagnose_every)
        row, finite = jax.device_get((row, finite))
        rows = {name: x[None] for name, x in row.items()}
        done = int(finite.all())
        return _chunk(lambda: after if done else state, rows, done, finite, time.perf_counter() - start)


def make_runner(
    state: TrainState,
    algorithm: Algorithm,
    env: JittedEnv | HostEnv,
    keys: Keys,
    *,
    num_episodes: int,
    diagnose_every: int,
    max_updates: int,
) -> JittedRunner | HostRunner:
    """What makes chunks in this kind of environment, of at most `max_updates` where it compiles."""
    common = {"num_episodes": num_episodes, "diagnose_every": diagnose_every}
    if isinstance(env, HostEnv):
        return HostRunner(state, algorithm, env, keys, **common)
    return JittedRunner(state, algorithm, env, keys, **common, max_updates=max_updates)


class Lane(NamedTuple):
    """One run of a pack: what is a number of its own. Everything else is common to the pack."""

    state: TrainState
    algorithm: Algorithm
    env: JittedEnv
    keys: Keys
    diagnose_every: Int[Array, ""]


class PackRunner:
    """Chunks of many runs side by side, in one program of `width` lanes: `chunk` under vmap.

    The width is fixed, and lanes that nobody needs stand still, so that a run's bits depend neither on its companions
    nor on its place among them. Several devices share the lanes evenly, and none waits for another's loops.
    """

    def __init__(self, lanes: Sequence[Lane], *, width: int, num_episodes: int, max_updates: int):
        if len(lanes) > width:
            raise ValueError(f"{len(lanes)} runs do not fit into {width} lanes")
        if len(signatures := {_signature(lane) for lane in lanes}) > 1:
            raise ValueError(f"the {len(lanes)} runs of a pack need {len(signatures)} programs instead of one")
        devices = jax.local_devices()[: math.gcd(width, jax.local_device_count())]
        over_lanes, mesh = PartitionSpec("lanes"), Mesh(np.array(devices), ("lanes",))
        self._sharding = NamedSharding(mesh, over_lanes)
        numbers = [eqx.filter(lane, eqx.is_array) for lane in lanes]
        padding = [numbers[0]] * (width - len(lanes))
        self._numbers = jax.device_put(_stack([*numbers, *padding]), self._sharding)
        self._common = common = eqx.filter(lanes[0], eqx.is_array, inverse=True)
        self._width, self.max_updates = width, max_updates
        self._signature = (*signatures, width, num_episodes, max_updates)
        if self._signature not in _programs:

            def one(numbers, limits):
                state, *others, diagnose_every = eqx.combine(numbers, common)
                sizes = {"num_episodes": num_episodes, "max_updates": max_updates}
                state, *told = chunk(state, *others, limits, diagnose_every, **sizes)
                return eqx.filter(state, eqx.is_array), told

            sharded = {"mesh": mesh, "in_specs": over_lanes, "out_specs": over_lanes}
            side_by_side, on_each = jax.vmap(one), width // len(devices)
            if (group := _lanes_at_once(on_each)) < on_each:
                side_by_side = lambda *inputs: jax.lax.map(lambda lane: one(*lane), inputs, batch_size=group)
            program = jax.jit(jax.shard_map(side_by_side, **sharded, check_vma=False))
            self._lowered = program.lower(self._numbers, self._limits([]))

    def compile(self) -> None:
        if self._signature not in _programs:
            _programs[self._signature] = self._lowered.compile(compiler_options=compiler_options())
        self._program = _programs[self._signature]

    def __call__(self, limits: Sequence[Limits | None]) -> list[Chunk | None]:
        """The next chunk of every lane that has limits; the others stand still."""
        start = time.perf_counter()
        before = self._numbers
        after, told = self._program(before, self._limits(limits))
        self._numbers = before._replace(state=after)
        rows, done, finite = jax.device_get(told)
        after, good = cache(partial(jax.device_get, after)), finite.all(1)
        if not good.all():  # those lanes are one update too far: once more, up to the last row
            again = [None if fine else Limits(int(n), math.inf, math.inf) for fine, n in zip(good, done, strict=True)]
            until_last = cache(lambda: jax.device_get(self._program(before, self._limits(again))[0]))
        seconds = time.perf_counter() - start

        def of_lane(i: int) -> Chunk:
            state = partial(self._state, after if good[i] else until_last, i)
            return _chunk(state, {name: x[i] for name, x in rows.items()}, int(done[i]), finite[i], seconds)

        return [None if x is None else of_lane(i) for i, x in enumerate(limits)]

    def _limits(self, limits: Sequence[Limits | None]) -> Limits:
        still = Limits(0, 0, math.inf)
        every = [still if x is None else x for x in limits] + [still] * (self._width - len(limits))
        return _traced(Limits(*zip(*every, strict=True)), self._sharding)

    def _state(self, stacked: Callable[[], PyTree], i: int) -> TrainState:
        return eqx.combine(jax.tree.map(lambda x: jnp.asarray(x[i]), stacked()), self._common.state)


def _lanes_at_once(lanes: int) -> int:
    """How many of a device's lanes go through an operation together: on a CPU as many as fit into its cache, which is
    1.6 times as fast as 64 of them at once, and fewer that wait for each other. All groups have one size."""
    fitting = (size for size in range(8, 3, -1) if lanes % size == 0)
    return next(fitting, lanes) if jax.default_backend() == "cpu" else lanes


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
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None


def _signature(tree: PyTree) -> Hashable:
    """What decides how a function of `tree` compiles: its structure, the kinds of its arrays, and all that is not
    an array."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(jax.typeof(x) if eqx.is_array(x) else x for x in leaves)


def _traced(limits: Limits, sharding: NamedSharding | None = None) -> Limits:
    """As arrays: of numbers, or of one column a number for several runs."""
    counts = [np.minimum(x, 2**31 - 1).astype(np.int32) for x in (limits.updates, limits.env_steps)]
    return jax.device_put(Limits(*counts, np.asarray(limits.return_recent, np.float32)), sharding)


def _chunk(
    after: Callable[[], TrainState],
    rows: dict[str, np.ndarray],
    done: int,
    finite: Bool[np.ndarray, "4"],
    seconds: float,
) -> Chunk:
    not_finite = None if finite.all() else WATCHED[int(finite.argmin())]
    return Chunk({name: x[:done] for name, x in rows.items()}, not_finite, seconds, after)
