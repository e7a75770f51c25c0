"""Errors of losses and gradients that say what to write instead: habits of torch, and values read while tracing."""

import types
from typing import Any

import jax
import jax.numpy as jnp

from functorch_optim import trees, variables
from functorch_optim.pages import see
from functorch_optim.traced_reads import READS_A_TRACER, of_traced, told
from functorch_optim.typing import PyTree

_IN_COMPILED = of_traced(
    "the loss is compiled",
    "backward or step",
    ". optimizer.backward(loss_fn, *batch, jit=False) does not compile, so that `if` and .item() work",
)
_IN_DIFFERENTIATED = (
    "the loss is differentiated: float() and NumPy do not take its values. Read them with .item(), or return what you "
    "want to see, and print what backward returned"
)
_NOT_SCALAR = (
    "The loss must return one real number, as jnp.mean(...) does; with has_aux=True a pair of it and anything else. "
    "backward and step differentiate it themselves: pass the loss, not jax.grad(loss)"
)
_NOT_THE_MODULE = (
    "the loss gets the parameters, not the module. Put them into the module, and call that: "
    "nnx.merge(graph, params, rest, copy=True)(x) with graph, _, rest = nnx.split(model, nnx.Param, ...); "
    'eqx.combine(params, static)(x); model.apply({"params": params}, x)'
)


def check_loss(given: object) -> None:
    """Raise unless what :meth:`Optimizer.backward` got is a function.

    Raises:
        TypeError: it is the loss's value or the like; the message says what to pass.
    """
    if not callable(given):
        raise TypeError(
            f"Expected a callable value, got {given!r:.60}: pass the function and the batch, not the loss's value. "
            "optimizer.backward(loss_fn, *batch) calls loss_fn(params, *batch), and returns the value "
            f"({see('from-torch')})"
        )


def explained(error: TypeError, params: PyTree, compiled: bool = True) -> TypeError:
    """Return the error of a loss with what to write instead, if that is known; JAX's errors keep their types.

    ``params`` is a tree like the one that the loss got.
    """
    if isinstance(error, READS_A_TRACER):
        return told(error, _IN_COMPILED if compiled else _IN_DIFFERENTIATED)
    if type(error) is TypeError and str(error).startswith("Gradient only defined for scalar-output"):
        return TypeError(f"{error} {_NOT_SCALAR} ({see('fast-loop')}).")
    if type(error) is TypeError and str(error) == f"{type(params).__name__!r} object is not callable":
        return TypeError(f"{error}: {_NOT_THE_MODULE} ({see('networks')}).")
    if type(error) is TypeError and callable(params) and str(error) == "'NoneType' object is not callable":
        return TypeError(f"{error}: {_NOT_THE_MODULE} ({see('networks')}).")
    return error


def aligned(params: PyTree, grads: PyTree) -> list[PyTree]:
    """Return gradients of another structure than the parameters' in leaf order, if only the containers differ.

    Raises:
        ValueError: it cannot; the message says what is missing, and what a step takes.
    """
    try:
        return trees.align(params, variables.fitted(grads, params), "gradients")
    except ValueError as error:
        raise ValueError(f"{error}{_instead_of(grads)}") from error


def _instead_of(grads: Any) -> str:
    """Say what a step takes instead of what it got; starts with the punctuation."""
    step = f"optimizer.step(closure, *batch) with closure(params, *batch) ({see('from-torch')})"
    if jax.tree_util.all_leaves([grads]) and not isinstance(grads, str | types.NoneType) and jnp.ndim(grads) == 0:
        return f"; a step takes gradients or the loss as a function, not the loss's value: {step}"
    if isinstance(grads, tuple) and len(grads) == 2:
        return f"; of the pair that jax.value_and_grad returns pass the second, or the loss as a function, {step}"
    if jax.tree_util.all_leaves([grads]):
        return f"; a step takes gradients with the parameters' structure, or the loss as a function: {step}"
    return ""
