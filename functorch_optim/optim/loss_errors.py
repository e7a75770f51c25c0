"""Errors of losses and gradients that say what to write instead: habits of torch, and values read while tracing."""

import types
from typing import Any

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.pages import see
from functorch_optim.typing import PyTree

_READS_A_TRACER = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_IN_COMPILED = (
    "the loss is compiled: while it is traced its numbers are not known, so float(), .item(), NumPy and `if` fail in "
    "it. Return what you want to see, and print what backward or step returned; or print inside with "
    'jax.debug.print("{}", value); in place of `if` write jnp.where. optimizer.backward(loss_fn, *batch, jit=False) '
    "does not compile, so that `if` and .item() work"
)
_IN_DIFFERENTIATED = (
    "the loss is differentiated: float() and NumPy do not take its values. Read them with .item(), or return what you "
    "want to see, and print what backward returned"
)
_NOT_SCALAR = (
    "The loss must return one real number, as jnp.mean(...) does; with has_aux=True a pair of it and anything else. "
    "backward and step differentiate it themselves: pass the loss, not jax.grad(loss)"
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


def explained(error: TypeError, compiled: bool = True) -> TypeError:
    """Return the error of a loss with what to write instead, if that is known; JAX's errors keep their types."""
    if isinstance(error, _READS_A_TRACER):
        text = f"{_IN_COMPILED if compiled else _IN_DIFFERENTIATED} ({see('fast-loop')}).\n\n{error}"
        return _with_text(type(error), text)
    if type(error) is TypeError and str(error).startswith("Gradient only defined for scalar-output"):
        return TypeError(f"{error} {_NOT_SCALAR} ({see('fast-loop')}).")
    return error


def _with_text(kind: type[TypeError], text: str) -> TypeError:
    """Create one of JAX's errors, whose constructors take tracers, with a text of ours."""
    error = kind.__new__(kind, text)
    error.args = (text,)
    return error


def aligned(params: PyTree, grads: PyTree) -> list[PyTree]:
    """Return gradients of another structure than the parameters' in leaf order, if that can be.

    Raises:
        ValueError: it cannot; the message says what is missing, and what a step takes.
    """
    try:
        return trees.align(params, grads, "gradients")
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
