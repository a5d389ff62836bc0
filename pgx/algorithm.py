"""What makes a variant."""

import equinox as eqx
from jaxtyping import Array, Float

from pgx.batch import BySteps
from pgx.critics import Critic
from pgx.types import Estimator


class Algorithm(eqx.Module):
    """What makes a variant, and the numbers it runs with. Floats are traced: changing one compiles nothing."""

    estimator: Estimator
    critic: Critic
    update: eqx.Module
    """An `updates.base.Update`."""
    gamma: float | Float[Array, ""]
    whiten: bool = eqx.field(static=True)
    """A ← (A − mean A) / sd A over the steps of the batch: itself a baseline, and biased by the batch."""
    bootstrap_truncated: bool = eqx.field(static=True)
    """At a time limit the return is bootstrapped with V(s_L)."""
    discount_power: bool = eqx.field(static=True)
    """Weigh step t by γ^t, which the gradient of the discounted return has and usual code omits."""
    scale_observations: bool = eqx.field(static=True, default=False)
    """Policy and critic see observations by their running mean and standard deviation (`pgx.scaling`)."""
    reward_scale: float | Float[Array, ""] = 1.0
    """The learner sees r · reward_scale; what is reported is r."""
    batch: BySteps | None = None
    """How many episodes the next batch has; None: always the same number, which the rollout is given."""
    group_size: int | None = eqx.field(static=True, default=None)
    """Episodes of a batch come in groups of so many that begin in the same state; None: each begins where it will."""
    aggregation: str = eqx.field(static=True, default="sum")
    """Of the steps' weights: sum, own_mean or batch_mean (`advantages.aggregated`)."""
