"""PPO on CartPole with PureJaxRL's settings, on one core, in turns with PureJaxRL itself: untrained to 500,000 env steps,
and from the start of the process to solved.

Both have 64×64 tanh, 4 epochs, 4 minibatches and one gradient step of V for each of the policy's. Ours has them in a
batch of 10 whole episodes, theirs of 512 steps. Env steps are by second of CPU time, compilation apart. Solved is a mean
return of 475 over the last 100 episodes; both compile on the way there, without a cache. Ours is a run that writes its
folder, and ends; theirs need not even look at what it found (see purejaxrl.py). Every round has another seed.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from experiments.speed import purejaxrl
from experiments.speed.common import Figure, assemble, child, interleave, on_cores, ratios, skipped

ENV_STEPS = 500_000
MINIBATCH, THEIR_MINIBATCH = 1250, 128
"""A quarter of 10 episodes near the limit, and of 512 steps."""
OURS = (
    *("+variant=ppo", "update.stop_at_kl=null", f"num_env_steps={ENV_STEPS}", "tracker=none"),
    *(f"{part}.{key}" for part in ("policy", "critic") for key in ("width=64", "activation=tanh")),
)
RATIO, SHARE = 1.6, 0.5


def settings(minibatch_steps: int) -> tuple[str, ...]:
    return (*OURS, *(f"{part}.minibatch_steps={minibatch_steps}" for part in ("update", "critic")))


def run(repeat: int, seconds: float) -> list[Figure]:
    with tempfile.TemporaryDirectory() as scratch, on_cores(1):
        return _run(repeat, Path(scratch))


def _run(repeat: int, scratch: Path) -> list[Figure]:
    theirs: list[dict] = []
    count = iter(range(10**6))

    def trained(minibatch_steps: int) -> float:
        return json.loads(child("-m", "experiments.speed.ppo", *settings(minibatch_steps)).last_line)

    def solved() -> float:
        seed = next(count)
        words = (*settings(MINIBATCH), "stop_when_solved=true", f"seed={seed}", f"hydra.run.dir={scratch}/run-{seed}")
        done = child("-m", "pgx.run", *words, cache=scratch / f"cache-{seed}")
        if "solved at" not in done.last_line:
            raise RuntimeError(f"not solved: {done.last_line}")
        return done.seconds

    def peer() -> float:
        words = (os.environ["PUREJAXRL"], ENV_STEPS, len(theirs), 1, time.time())
        theirs.append(json.loads(child("-m", "experiments.speed.purejaxrl", *map(str, words)).last_line))
        return theirs[-1]["env_steps_per_second"]

    contenders = {"ours": lambda: trained(MINIBATCH), "small": lambda: trained(THEIR_MINIBATCH), "solved": solved}
    absent = purejaxrl.missing()
    values = interleave(contenders | ({} if absent else {"theirs": peer}), repeat)
    name, small = "PPO, 64×64 tanh, 4 epochs × 4 minibatches", f"… with their minibatches of {THEIR_MINIBATCH} steps"
    ours = [Figure(name, "env steps/s", values["ours"]), Figure(small, "env steps/s", values["small"])]
    whole = Figure("… process start → solved → exit", "s", values["solved"])
    if absent:
        return [*ours, whole, skipped("… PureJaxRL", absent)]
    pairs = [(s, x["solved"]) for s, x in zip(values["solved"], theirs, strict=True) if x["solved"] is not None]
    unsolved = f"{repeat - len(pairs)} of {repeat} seeds of theirs are never solved" if len(pairs) < repeat else ""
    return [
        *ours,
        Figure("… PureJaxRL", "env steps/s", values["theirs"]),
        Figure("… ours / PureJaxRL", "×", ratios(values["ours"], values["theirs"]), at_least=RATIO),
        Figure("… with their minibatches / PureJaxRL", "×", ratios(values["small"], values["theirs"])),
        whole,
        Figure("… PureJaxRL, process start → solved", "s", [x for _, x in pairs], note=unsolved),
        Figure("… solved, ours / PureJaxRL", "×", [x / y for x, y in pairs], at_most=SHARE),
    ]


def _trained(*words: str) -> float:
    """Env steps a second of CPU time."""
    from pgx.build import limits
    from pgx.loop import train

    parts = assemble(*words)
    start = time.process_time()
    env_steps = sum(int(x.rows["env_steps"].sum()) for x in train(parts.runner, parts.state, **limits(parts.config, parts.env)))
    return env_steps / (time.process_time() - start)


if __name__ == "__main__":
    print(json.dumps(_trained(*sys.argv[1:])))
