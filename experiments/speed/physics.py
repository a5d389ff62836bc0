"""Physics that compiles: PPO on brax's halfcheetah (spring) in 64 lanes beside the same lanes with random actions and
nothing else, and beside the host's MuJoCo, which steps a cheetah of the same size."""

import importlib.util
import time
from collections.abc import Callable

from experiments.speed.common import Figure, assemble, interleave, ratios, skipped, throughput
from experiments.speed.half_cheetah import ID, random_actions
from experiments.speed.half_cheetah import LANES as HOST_LANES
from experiments.speed.half_cheetah import SETTINGS as ON_HOST

TASK, LANES = "halfcheetah", 64
SETTINGS = ("+variant=ppo", "env=brax", f"env.id={TASK}", "env.backend=spring", f"episodes_per_update={LANES}")
OF_ALONE = 0.85


def run(repeat: int, seconds: float) -> list[Figure]:
    ours, share, beside = f"pgx ppo 2×32, {LANES} lanes", "of brax with random actions", "against MuJoCo on the host"
    missing = [name for name in ("brax", "mujoco") if importlib.util.find_spec(name) is None]
    if missing:
        return [skipped(name, f"{' and '.join(missing)} (pip install '.[brax]')") for name in (ours, share, beside)]
    import gymnasium

    parts = assemble(*SETTINGS)
    one_update = _one_update(parts.runner)
    throughput(one_update, parts.untrained, 1)
    on_host = assemble(*ON_HOST)
    throughput(on_host.runner, on_host.untrained, 1)
    cheetahs = gymnasium.make_vec(ID, HOST_LANES, vectorization_mode="sync")
    alone = f"random actions, brax, {LANES} lanes"
    contenders = {
        ours: lambda: throughput(one_update, parts.untrained, 1).steps_per_second,
        alone: stepped_alone(parts.env.spec.max_steps),
        f"pgx gae 64×64 on the host's MuJoCo, {HOST_LANES} lanes": lambda: (
            throughput(on_host.runner, on_host.untrained, 1).steps_per_second
        ),
        f"random actions, the host's MuJoCo, {HOST_LANES} lanes": lambda: random_actions(cheetahs.step, cheetahs.reset(seed=0)),
    }
    values = interleave(contenders, repeat)
    mine, theirs, host, host_alone = values.values()
    return [
        *(Figure(name, "env steps/s", x) for name, x in values.items()),
        Figure(share, "×", ratios(mine, theirs), at_least=OF_ALONE),
        Figure(beside, "×", ratios(mine, host)),
        Figure("random actions: brax against MuJoCo on the host", "×", ratios(theirs, host_alone)),
    ]


def _one_update(runner: Callable) -> Callable:
    """A chunk of one update: fifty of them would take minutes."""
    from pgx.loop import Limits

    return lambda state: runner(state, Limits(updates=1))


def stepped_alone(steps: int) -> Callable[[], float]:
    """brax itself, without anything of pgx's but its settings of XLA: a scan of steps of all lanes."""
    import jax
    from brax import envs

    from pgx.envs.imports import without_warp
    from pgx.runners import compiler_options

    with without_warp():
        env = envs.get_environment(TASK, backend="spring")
    began = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), LANES))

    def step(state, key):
        action = jax.random.uniform(key, (LANES, env.action_size), minval=-1.0)
        state = jax.vmap(env.step)(state, action)
        return state, state.reward

    scan = jax.jit(lambda state, key: jax.lax.scan(step, state, jax.random.split(key, steps))[1].sum())
    scan = scan.lower(began, jax.random.key(1)).compile(compiler_options=compiler_options())

    def measure() -> float:
        start = time.perf_counter()
        scan(began, jax.random.key(1)).block_until_ready()
        return steps * LANES / (time.perf_counter() - start)

    measure()
    return measure
