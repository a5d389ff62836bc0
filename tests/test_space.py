"""The search space of a tuning, in the words that Hydra has for a sweep."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from pgx.errors import ConfigError
from pgx.sweep.space import space_of, words_of


def space(*words):
    return space_of(OverridesParser.create().parse_overrides(list(words)))


def test_the_space_is_written_as_hydra_writes_it():
    found = space(
        "+variant=ppo,gae", "gamma=interval(0,1)", "optimiser.b1=tag(log,interval(0.1,0.9))", "policy.depth=int(interval(1,3))",
        "policy.width=tag(log,range(16,129))", "critic.passes=range(1,9,2)", "optimiser.eps=range(0.1,0.5,0.1)",
        "policy.activation=choice(relu,tanh)", "whiten=true", "env.bound=clip,tanh", "critic.clip=null,0.2",
    )  # fmt: skip
    assert found.fixed == {"whiten": "whiten=true"}
    assert found.distributions == {
        "+variant": CategoricalDistribution(["ppo", "gae"]),
        "gamma": FloatDistribution(0.0, 1.0),
        "optimiser.b1": FloatDistribution(0.1, 0.9, log=True),
        "policy.depth": IntDistribution(1, 3),
        "policy.width": IntDistribution(16, 128, log=True),
        "critic.passes": IntDistribution(1, 7, step=2),
        "optimiser.eps": FloatDistribution(0.1, 0.4, step=0.1),
        "policy.activation": CategoricalDistribution(["relu", "tanh"]),
        "env.bound": CategoricalDistribution(["clip", "tanh"]),
        "critic.clip": CategoricalDistribution(["null", "0.2"]),
    }
    words = words_of(found, {"+variant": "gae", "gamma": 0.25}, seed=3, whiten="false")
    assert words == ["+variant=gae", "gamma=0.25", "seed=3", "whiten=false"]
    probed = {key: {corner[key] for corner in found.corners} for key in found.distributions}
    assert probed["+variant"] == {"ppo", "gae"} and {0.0, 1.0} < probed["gamma"] and probed["policy.depth"] == {1, 3}


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("seed=0,1", "seed: is not chosen: every trial has the same ones; allowed: hydra.sweeper.seeds=5"),
        ("num_updates=1,2", "num_updates: is not chosen"),
        ("tracker=none,wandb", "tracker: is not chosen"),
        ("env=cartpole,acrobot", "env: is not chosen: returns of different tasks cannot be compared"),
        ("evaluate_every=1,2", "evaluate_every: is not chosen"),
        ("gamma=tag(log,interval(0,1))", "gamma: tag(log,interval(0,1)) has no logarithm at 0.0"),
        ("gamma=tag(log,range(0.1,0.5,0.1))", "a logarithmic range has no step"),
        ("gamma=tag(log,choice(0.1,0.2))", "choices have no order"),
        ("gamma=tag(fast,interval(0,1))", "fast is no tag of a search space; allowed: log"),
        ("gamma=interval(1,0)", "gamma: interval(1,0) is empty"),
        ("gamma=range(1,1)", "gamma: range(1,1) is empty"),
        ("gamma=shuffle(range(1,5))", "the sampler decides the order"),
    ],
)
def test_what_cannot_be_chosen_is_refused(word, says):
    with pytest.raises(ConfigError) as error:
        space(word)
    assert says in str(error.value) and "\n" not in str(error.value)
