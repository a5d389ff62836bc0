"""How many operations a program executes: what stands in a loop as often as it goes round.

The program is interpreted once, and beside every number stands what it took: loops carry a counter. All else that comes
out is thrown away, so that XLA has little to compile.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from quick import quickly_compiled

WRAPPED = ("jaxpr", "call_jaxpr", "call")
"""Where an operation that is a program of its own, and nothing else, has it."""


def operations(f: Callable, *arguments: Any) -> int:
    """How many `f` executes on these arguments. On an accelerator each is a few kernels at most, however long its arrays
    are."""
    program = jax.make_jaxpr(lambda *arguments: f(*arguments))(*arguments)  # jax would remember how it traced f itself
    return int(quickly_compiled(lambda leaves: _count(program, leaves)[1])(jax.tree.leaves(arguments)))


def _count(program: ClosedJaxpr | Jaxpr, inputs: Sequence[Any]) -> tuple[list[Any], Any]:
    """(what comes out, how many operations that took)."""
    jaxpr = getattr(program, "jaxpr", program)
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*getattr(program, "consts", ()), *inputs], strict=True))
    read = lambda x: x.val if isinstance(x, Literal) else known[x]
    total = 0
    for equation in jaxpr.eqns:
        outputs, count = _count_one(equation, [read(x) for x in equation.invars])
        known |= zip(equation.outvars, outputs, strict=True)
        total = total + count
    return [read(x) for x in jaxpr.outvars], total


def _count_one(equation: Any, inputs: list[Any]) -> tuple[list[Any], Any]:
    of, params = equation.primitive, equation.params
    if of.name in LOOPS:
        return LOOPS[of.name](params, inputs)
    if inner := [params[key] for key in WRAPPED if isinstance(params.get(key), ClosedJaxpr | Jaxpr)]:
        return _count(inner[0], inputs)
    outputs = of.bind(*inputs, **params)
    return outputs if of.multiple_results else [outputs], 1


def _while(params: dict[str, Any], inputs: list[Any]) -> tuple[list[Any], Any]:
    a, b = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_cond, of_body, carry = inputs[:a], inputs[a:b], inputs[b:]

    def body(both):
        before, total = both
        carry, of_body_itself = _count(params["body_jaxpr"], [*of_body, *before])
        return carry, total + of_body_itself + _count(params["cond_jaxpr"], [*of_cond, *before])[1]

    going = lambda both: _count(params["cond_jaxpr"], [*of_cond, *both[0]])[0][0]
    return jax.lax.while_loop(going, body, (carry, jnp.array(0)))


def _scan(params: dict[str, Any], inputs: list[Any]) -> tuple[list[Any], Any]:
    a, b = params["num_consts"], params["num_consts"] + params["num_carry"]
    consts, carry, xs = inputs[:a], inputs[a:b], inputs[b:]

    def body(both, x):
        out, count = _count(params["jaxpr"], [*consts, *both[0], *x])
        return (out[: len(carry)], both[1] + count), out[len(carry) :]

    how = {"length": params["length"], "reverse": params["reverse"]}
    (carry, total), rows = jax.lax.scan(body, (carry, jnp.array(0)), xs, **how)
    return [*carry, *rows], total


def _cond(params: dict[str, Any], inputs: list[Any]) -> tuple[list[Any], Any]:
    def counted(branch):
        def run(*inputs):
            out, count = _count(branch, inputs)
            return out, jnp.asarray(count)

        return run

    which, *inputs = inputs
    out, count = jax.lax.switch(which, [counted(branch) for branch in params["branches"]], *inputs)
    return out, count + 1


LOOPS = {"while": _while, "scan": _scan, "cond": _cond}
