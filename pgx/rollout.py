"""Two doors to one Episodes: environments that compile, and environments on the host."""

from collections.abc import Callable, Hashable, Iterator
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, Shaped

from pgx.device import on_cpu
from pgx.envs.base import HostEnv, JittedEnv
from pgx.lanes import largest
from pgx.networks import matmul_in_loop
from pgx.types import Episodes

LANES = 16
"""Episodes side by side on a CPU, where not all that there is room for are played."""
AXES = (1, 1, 1, 1, 0, 0)
"""Where the episodes are in each array of Episodes."""


def act(
    policy: Callable, obs: Float[Array, "O B"], noise: Float[Array, "*A B"], matmul: Callable = jnp.matmul, *, greedy: bool
) -> Shaped[Array, "B *A"]:
    """Actions in B lanes, drawn by `noise`, or the most probable ones."""
    pi = policy(obs, matmul)
    return jnp.moveaxis(pi.mode() if greedy else pi.sample(noise), -1, 0)


def rollout(
    env: JittedEnv,
    policy: Callable,
    key: PRNGKeyArray,
    num_episodes: int,
    greedy: bool = False,
    going: bool | Bool[Array, ""] = True,
    count: Int[Array, ""] | None = None,
    group_size: int | None = None,
) -> Episodes:
    """`num_episodes` whole episodes side by side, in a loop that ends with the longest of them.

    Under vmap that is the longest of all lanes. With `going=False` all episodes are empty. `greedy` takes the most
    probable action everywhere. With a `count`, so many of the `num_episodes` are played, and the others are empty: a few
    side by side, then the next few, so that those that are not played cost little. With a `group_size`, which divides
    both numbers, each group's episodes begin with the same reset, and have keys of their own from then on.
    """
    play = partial(_side_by_side, env, policy, greedy=greedy, group_size=group_size)
    if count is None:
        return Episodes(*play(key, num_episodes, going=going), group_size=group_size)
    size = _lanes_at_once(num_episodes, group_size or 1)
    turns = -(-num_episodes // size)

    def turn(n):
        played = n * size + jnp.arange(size) < count
        return play(jax.random.fold_in(key, n), size, going=going & played)

    def put(n, columns):
        at = lambda axis, xs, x: jax.lax.dynamic_update_slice_in_dim(xs, x, n * size, axis)
        return jax.tree.map(at, AXES, columns, turn(n))

    widen = lambda axis, x: jnp.zeros((*x.shape[:axis], turns * size, *x.shape[axis + 1 :]), x.dtype)
    empty = jax.tree.map(widen, AXES, jax.eval_shape(turn, 0))
    episodes = jax.lax.fori_loop(0, largest(-(-count // size)), put, empty)
    return Episodes(*episodes, count=count, group_size=group_size)


def _lanes_at_once(num_episodes: int, group_size: int) -> int:
    """How many episodes are played side by side where not all may be wanted: whole groups. On an accelerator one costs as
    much as all."""
    few = max(1, LANES // group_size) * group_size
    return min(few, num_episodes) if on_cpu() else num_episodes


def _side_by_side(
    env: JittedEnv,
    policy: Callable,
    key: PRNGKeyArray,
    num_episodes: int,
    *,
    greedy: bool,
    going: bool | Bool[Array, "..."],
    group_size: int | None,
) -> tuple[Array, ...]:
    """The arrays of Episodes. Those that are not `going` are empty."""
    T, B = env.spec.max_steps, num_episodes
    keys = jax.random.split(key, 2 + B)
    step_key, action_key, reset_keys = keys[0], keys[1], keys[2:]
    if group_size is not None:
        reset_keys = jnp.repeat(reset_keys[::group_size], group_size)
    env_state, obs = jax.vmap(env.reset, out_axes=(0, -1))(reset_keys)
    noise = jax.eval_shape(policy, obs).noise(action_key, T)
    action = jax.eval_shape(partial(act, policy, greedy=greedy), obs, noise[0])
    record = (obs.T, action, jnp.zeros(B), jnp.zeros(B, bool))
    buffers = jax.tree.map(lambda x: jnp.zeros((T, *x.shape), x.dtype), record)

    def running(carry):
        t, _, _, alive, _, _ = carry
        return (t < T) & largest(alive.any())

    def step(carry):
        t, env_state, obs, alive, terminated, buffers = carry
        now = jax.lax.dynamic_index_in_dim(noise, t, keepdims=False)
        action = act(policy, obs, now, matmul_in_loop, greedy=greedy)
        keys = jax.random.split(jax.random.fold_in(step_key, t), B)
        env_state, next_obs, reward, ended = jax.vmap(env.take, out_axes=(0, -1, 0, 0))(keys, env_state, action)
        taken = (obs.T, action, jnp.where(alive, reward, 0.0), alive)
        buffers = jax.tree.map(lambda xs, x: jax.lax.dynamic_update_index_in_dim(xs, x, t, 0), buffers, taken)
        next_obs = jnp.where(alive[None], next_obs, obs)
        return t + 1, env_state, next_obs, alive & ~ended, terminated | (alive & ended), buffers

    start = (0, env_state, obs, jnp.full(B, going), jnp.zeros(B, bool), buffers)
    _, _, obs, _, terminated, buffers = jax.lax.while_loop(running, step, start)
    return *buffers, terminated, obs.T


@cache  # as an argument of a compiled function, the structure would be hashed at every step
def _act(structure, greedy):
    return jax.jit(lambda leaves, obs, noise: act(jax.tree.unflatten(structure, leaves), obs.T, noise, greedy=greedy))


@partial(jax.jit, static_argnames=("structure", "times"))
def _random_numbers(structure, times, leaves, obs, key, piece=None):
    """The seed of the environment's resets, and the noise of `times` steps: of all, or a `piece` of it. A piece has noise
    of its own, and the same seed."""
    reset_key, action_key = jax.random.split(key)
    if piece is not None:
        action_key = jax.random.fold_in(action_key, piece)
    pi = jax.eval_shape(jax.tree.unflatten(structure, leaves), obs.T)
    return jax.random.bits(reset_key, dtype=jnp.uint32), pi.noise(action_key, times)


class HostRollout:
    """The other door: the environment steps on the host, the policy is one compiled call a step.

    With fewer lanes than episodes, a lane that is done begins the next one, until all have begun. All that begin are
    played to their ends: stopping early would favour short ones. And lanes wait less for the longest.

    With a `group_size` each lane plays a group, one episode after the other, and before each the environment is reset
    with the same seed: so they begin in the same state, whatever the environment is. Lanes then wait for each other.
    """

    def __init__(self, env: HostEnv, num_episodes: int, *, greedy: bool = False, group_size: int | None = None):
        self.env, self.num_episodes, self.greedy, self.group_size = env, num_episodes, greedy, group_size

    def __call__(self, policy: Callable, key: PRNGKeyArray, count: int | None = None) -> Episodes:
        """Padded to the time limit, and with a `count` by empty episodes to `num_episodes`, so that no length of episode
        and no number of them compiles anything.

        Raises RuntimeError if an episode goes on beyond its limit where another has to begin, or one of a group begins
        where the others did not.
        """
        B = self.num_episodes if count is None else count
        play = partial(self._play, *jax.tree.flatten(policy))  # once, and not at every step
        if self.group_size is not None:
            arrays = self._groups(play, key, B // self.group_size)
        else:
            arrays = play(key, B, piece=None if count is None else 0)
        if count is not None:
            arrays = (*map(self._widened, arrays, AXES), np.int32(count))
        return Episodes(*jax.device_put(tuple(arrays)), group_size=self.group_size)

    def _groups(self, play: Callable, key: PRNGKeyArray, number: int) -> Iterator[np.ndarray]:
        """The arrays of the first fields of Episodes: so many groups, a few side by side, then the next few.

        Raises RuntimeError if the environment does not begin again as it began with the same seed.
        """
        lanes, G = self.env.num_lanes, self.group_size
        turns = [(jax.random.fold_in(key, first), min(lanes, number - first)) for first in range(0, number, lanes)]
        members = [[play(key, groups, piece=member) for key, groups in turns] for member in range(G)]
        starts = [np.concatenate([obs[0] for obs, *_ in each]) for each in members]
        if not all(np.array_equal(start, starts[0], equal_nan=True) for start in starts):
            raise RuntimeError(f"{self.env.spec.id} begins elsewhere with the same seed: its episodes make no groups")
        for x, axis in enumerate(AXES):
            of_member = [np.concatenate([turn[x] for turn in each], axis) for each in members]
            array = np.stack(of_member, axis + 1)
            yield array.reshape(*array.shape[:axis], number * G, *array.shape[axis + 2 :])

    def _play(
        self, leaves: list[Array], structure: Hashable, key: PRNGKeyArray, B: int, piece: int | None
    ) -> tuple[np.ndarray, ...]:
        """The arrays of the first fields of Episodes, of B of them. Their noise comes all at once, or, from a `piece` on,
        piece by piece of a size that does not follow B."""
        T, lanes = self.env.spec.max_steps, self.env.num_lanes
        to_env = self.env.spec.actions.to_env
        most = -(-B // lanes) * (T + 1) - 1  # to begin again takes a step
        like = np.zeros((lanes, self.env.spec.obs_size), np.float32)
        size = most if piece is None else T
        random_numbers = partial(_random_numbers, structure, size, leaves, like, key)
        seed, noise = jax.device_get(random_numbers(piece))
        choose = _act(structure, self.greedy)
        action = jax.eval_shape(choose, leaves, like, noise[0])
        obs = self.env.reset(int(seed))
        seen, actions = np.zeros((most, *obs.shape), np.float32), np.zeros((most, *action.shape), action.dtype)
        rewards = np.zeros((most, lanes), np.float32)
        terminated, last_obs = np.zeros(B, bool), np.zeros((B, *obs.shape[1:]), np.float32)
        lane, start, length = np.zeros((3, B), int)  # of each episode
        episode, since = np.arange(lanes), np.zeros(lanes, int)  # what each lane plays
        for n in range(most):
            if n > 0 and n % size == 0:
                _, noise = jax.device_get(random_numbers(n // size))
            seen[n] = obs
            actions[n] = action = np.asarray(choose(leaves, obs, noise[n % size]))
            obs, rewards[n], ended, cut = self.env.step(to_env(action))
            over = (ended | cut | (n + 1 - since == T)) & (episode < B)
            if over.any():
                done = episode[over]
                lane[done], start[done], length[done] = np.flatnonzero(over), since[over], n + 1 - since[over]
                terminated[done], last_obs[done] = ended[over], obs[over]
                if length.all():
                    break
                episode[over], since[over] = episode.max() + 1 + np.arange(len(done)), n + 2
                if (over & (episode < B) & ~(ended | cut)).any():
                    raise RuntimeError(f"{self.env.spec.id} goes on after its limit of {T} steps")
        step = np.arange(T)[:, None]
        mask = step < length
        played = np.where(mask, start + step, 0), lane
        return seen[played], actions[played], np.where(mask, rewards[played], 0), mask, terminated, last_obs

    def _widened(self, x: np.ndarray, axis: int) -> np.ndarray:
        """With nothing in the episodes that are not played."""
        wide = np.zeros((*x.shape[:axis], self.num_episodes, *x.shape[axis + 1 :]), x.dtype)
        wide[(slice(None),) * axis + (slice(x.shape[axis]),)] = x
        return wide
