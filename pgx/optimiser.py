"""Optimisers as data: every number in them is a traced input, so changing it compiles nothing.

One of a person's own is a transformation of optax's, or any pytree with `init` and `step`.
"""

import abc
from collections.abc import Callable
from typing import Any, Literal, Protocol, runtime_checkable

import equinox as eqx
import jax
import optax
from jaxtyping import Array, Float, PyTree

METHODS = {"adam": optax.adam, "adamw": optax.adamw, "sgd": optax.sgd, "rmsprop": optax.rmsprop}


@runtime_checkable
class OptimiserLike(Protocol):
    """What an update and a critic ask of an optimiser."""

    def init(self, model: PyTree) -> PyTree: ...

    def step(self, model: PyTree, gradient: PyTree, opt_state: PyTree) -> tuple[PyTree, PyTree]: ...


class OfOptax(eqx.Module):
    """A transformation of gradients that is made anew wherever it is used, of numbers that may be traced."""

    @abc.abstractmethod
    def transformation(self) -> optax.GradientTransformation: ...

    def init(self, model: PyTree) -> optax.OptState:
        return self.transformation().init(eqx.filter(model, eqx.is_inexact_array))

    def step(self, model: PyTree, gradient: PyTree, opt_state: optax.OptState) -> tuple[PyTree, optax.OptState]:
        parameters = eqx.filter(model, eqx.is_inexact_array)
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integers, even where jax is told to refuse
            updates, opt_state = self.transformation().update(gradient, opt_state, parameters)
        return eqx.apply_updates(model, updates), opt_state


class Transformation(OfOptax):
    """Any of optax's, or of somebody's own: what `make` makes, of whatever kind it is."""

    make: Callable[[], optax.GradientTransformation]

    def transformation(self):
        return self.make()


def is_transformation(x: Any) -> bool:
    return isinstance(x, optax.GradientTransformation)


class Optimiser(OfOptax):
    """One of optax's optimisers, with optional clipping of the global norm and a schedule.

    `schedule` takes the learning rate to 0 over `decay_steps` gradient steps (linear or cosine).
    `settings` go to optax's constructor by name (b1, b2, eps, weight_decay, momentum …).
    """

    method: str = eqx.field(static=True)
    learning_rate: float | Float[Array, ""]
    clip_norm: float | Float[Array, ""] | None
    schedule: str = eqx.field(static=True)
    decay_steps: int | None = eqx.field(static=True)
    settings: dict[str, float | bool | None]

    def __init__(
        self,
        method: str,
        learning_rate: float,
        clip_norm: float | None = None,
        schedule: Literal["constant", "linear", "cosine"] = "constant",
        decay_steps: int | None = None,
        **settings: float | bool | None,
    ):
        self.method, self.learning_rate, self.clip_norm = method, learning_rate, clip_norm
        self.schedule, self.decay_steps, self.settings = schedule, decay_steps, settings

    def transformation(self):
        rate = self.learning_rate
        if self.schedule == "linear":
            rate = optax.linear_schedule(rate, 0.0, self.decay_steps)
        elif self.schedule == "cosine":
            rate = optax.cosine_decay_schedule(rate, self.decay_steps)
        method = METHODS[self.method](rate, **self.settings)
        if self.clip_norm is not None:
            method = optax.chain(optax.clip_by_global_norm(self.clip_norm), method)
        return optax.flatten(method)  # one vector instead of a leaf a layer: less to compile and to launch
