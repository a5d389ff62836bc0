"""Every run of the study: what is changed, from which program, and how far it goes. The one place that says so."""

from typing import NamedTuple


class Part(NamedTuple):
    """Runs of one scale. `names` maps each intervention to what it adds to the command line."""

    common: str
    names: dict[str, str]


FULL = {"episodes": 50_000}
"""50 epochs of 1,000 episodes, as published."""
SHORT = {"episodes": 10_000, "env_steps": 500_000}
"""An intervention ends with whichever comes first: where 17 of 20 runs as published have been above 100 and have fallen
to less than half of their best."""

POST, RIGHT = "+variant=published_1", "+variant=corrected"
TO_GO = "estimator=reward_to_go gamma=0.99"

PARTS = {
    "published": Part(f"num_updates={FULL['episodes']} checkpoints_kept=20", {"as published": POST}),
    "interventions": Part(
        f"num_updates={SHORT['episodes']} num_env_steps={SHORT['env_steps']}",
        {
            name: f"{POST} {overrides}"
            for name, overrides in {
                "one step an episode": "update.optimiser_steps=batch",
                "learning rate 3e-5": "optimiser.learning_rate=3e-5",
                "learning rate 1e-4": "optimiser.learning_rate=1e-4",
                "learning rate 1e-3": "optimiser.learning_rate=1e-3",
                "frozen gradients": "update.optimiser_steps=frozen",
                "true reward-to-go": "estimator=reward_to_go update.returns=episode update.broadcast=false",
                "true return": "estimator=vanilla update.returns=episode",
                "weight decay 1e-2": "optimiser.weight_decay=0.01",
                "weight decay 0": "optimiser.weight_decay=0",
                "Adam": "optimiser=adam",
                "SGD 0.01": "optimiser=sgd optimiser.momentum=0.0 optimiser.learning_rate=0.01",
                "SGD 0.1": "optimiser=sgd optimiser.momentum=0.0 optimiser.learning_rate=0.1",
                "no drop_last": "update.drop_last=false",
                "no drop_last, sums": "update.drop_last=false update.average=false",
                "window 1": "update.window=1",
                "window 2": "update.window=2",
                "window 8": "update.window=8",
                "window 16": "update.window=16",
                "window 32": "update.window=32",
                "entropy bonus 0.01": "entropy_coefficient=0.01",
                "entropy bonus 0.1": "entropy_coefficient=0.1",
                "broadcast fixed": "update.broadcast=false",
                "reward-to-go in the window": TO_GO,
            }.items()
        }
        | {
            "post 2, V of psi": "+variant=published_2",
            "post 2, V of the reward": "+variant=published_2 update.value_target=reward",
            "post 2, broadcast fixed": "+variant=published_2 update.broadcast=false",
        },
    ),
    "reverse": Part(
        f"num_updates={SHORT['episodes']} num_env_steps={SHORT['env_steps']}",
        {
            name: f"{RIGHT} {overrides}"
            for name, overrides in {
                "correct": "",
                "T/4 steps an episode": "update.window=4 update.optimiser_steps=minibatch",
                "step reward": "estimator=step_reward",
                "Ψ of a window": "update.returns=window",
                "drop_last": "update.drop_last=true",
                "broadcast over the episode": "update.window=500 update.broadcast=true",
                "mean over own steps": "update.window=500 update.average=true",
            }.items()
        },
    ),
    "full_scale": Part(
        f"num_updates={FULL['episodes']}",
        {
            "true reward-to-go": f"{POST} estimator=reward_to_go update.returns=episode update.broadcast=false",
            "one step an episode": f"{POST} update.optimiser_steps=batch",
            "correct": RIGHT,
        },
    ),
    "harness": Part(
        f"num_updates={SHORT['episodes'] // 10} num_env_steps={SHORT['env_steps']}",
        {name: f"+variant={name}" for name in ("vanilla", "reward_to_go", "baseline")},
    ),
}
"""`names` are in the order in which they run: first what the verdict hangs on."""

TORCH, TORCH_SEEDS = {"PyTorch": False, "PyTorch, one step an episode": True}, 5
"""Post 1 in PyTorch, at the interventions' scale: whether the optimiser steps once an episode."""
CHECKPOINTS = ((0, 5_000), (0, 15_000), (1, 25_000), (0, 20_000))
"""(seed, update) of the published runs at which the estimators are measured: before it learns, on the way up, near a
best, and as the policy dies."""
EPISODES = {"episodes": 10_000, "reference": 20_000, "walks": 400}


def folder_name(name: str) -> str:
    """What an intervention's sweep is called on disk."""
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in name.replace("Ψ", "psi").replace("/", "_"))
