"""PPO on CartPole with PureJaxRL's settings, in turns with PureJaxRL itself: untrained to 500,000 env steps.

    mkdir purejaxrl; cp …/purejaxrl/{ppo,wrappers}.py purejaxrl/; pip install --no-deps --target purejaxrl gymnax==0.0.9
    PUREJAXRL=purejaxrl python -m experiments.speed --only ppo

Both have 64×64 tanh, 4 epochs, 4 minibatches and one gradient step of V for each of the policy's. Ours has them in a
batch of 10 whole episodes, theirs of 512 steps. Seconds are of CPU time, compilation apart.
"""

import json
import os
import sys
import time
import types
from pathlib import Path

from experiments.speed.common import Figure, assemble, child, interleave, ratios, skipped

ENV_STEPS = 500_000
MINIBATCH = 1250
"""A quarter of 10 episodes near the limit."""
OURS = (
    *("+variant=ppo", "update.stop_at_kl=null", f"num_env_steps={ENV_STEPS}"),
    *(f"{part}.{key}" for part in ("policy", "critic") for key in ("width=64", "activation=tanh")),
    *(f"{part}.minibatch_steps={MINIBATCH}" for part in ("update", "critic")),
)
THEIRS = {
    "LR": 2.5e-4, "NUM_ENVS": 4, "NUM_STEPS": 128, "TOTAL_TIMESTEPS": ENV_STEPS, "UPDATE_EPOCHS": 4, "NUM_MINIBATCHES": 4,
    "GAMMA": 0.99, "GAE_LAMBDA": 0.95, "CLIP_EPS": 0.2, "ENT_COEF": 0.01, "VF_COEF": 0.5, "MAX_GRAD_NORM": 0.5,
    "ACTIVATION": "tanh", "ENV_NAME": "CartPole-v1", "ANNEAL_LR": True, "DEBUG": False,
}  # fmt: skip
"""As its file has them."""


def run(repeat: int, seconds: float) -> list[Figure]:
    folder = os.environ.get("PUREJAXRL")
    contenders = {"ours": lambda: _child("ours")}
    if folder is not None:
        contenders["theirs"] = lambda: _child(str(Path(folder).absolute()))
    values = interleave(contenders, repeat)
    figures = [Figure("PPO, 64×64 tanh, 4 epochs × 4 minibatches", "env steps/s", values["ours"])]
    if folder is None:
        return [*figures, skipped("… PureJaxRL", "PUREJAXRL=FOLDER, see ppo.py")]
    figures.append(Figure("… PureJaxRL", "env steps/s", values["theirs"]))
    return [*figures, Figure("… ours / PureJaxRL", "", ratios(values["ours"], values["theirs"]), at_least=1.6)]


def _child(whose: str) -> float:
    return json.loads(child("-m", "experiments.speed.ppo", whose).last_line)


def _ours() -> float:
    """Env steps a second."""
    from pgx.build import limits
    from pgx.loop import train

    parts = assemble(*OURS)
    start = time.process_time()
    env_steps = sum(int(x.rows["env_steps"].sum()) for x in train(parts.runner, parts.state, **limits(parts.config, parts.env)))
    return env_steps / (time.process_time() - start)


def _theirs(folder: str) -> float:
    """The same of PureJaxRL's own program, without the packages that its wrappers import for other environments."""
    sys.path.insert(0, folder)
    for name in ("brax", "brax.envs", "brax.envs.wrappers", "brax.envs.wrappers.training", "navix"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["brax"].envs = sys.modules["brax.envs"]
    training = sys.modules["brax.envs.wrappers.training"]
    training.EpisodeWrapper = training.AutoResetWrapper = object
    import jax
    import ppo as purejaxrl

    key = jax.random.PRNGKey(0)
    program = jax.jit(purejaxrl.make_train(THEIRS)).lower(key).compile()
    start = time.process_time()
    jax.block_until_ready(program(key))
    return ENV_STEPS / (time.process_time() - start)


if __name__ == "__main__":
    print(json.dumps(_ours() if sys.argv[1] == "ours" else _theirs(sys.argv[1])))
