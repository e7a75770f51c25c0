"""Errors of losses and gradients that say what to write instead: habits of torch, and values read while tracing."""

import re
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
_SCALAR_ONLY = "Gradient only defined for scalar-output functions."
_A_COPY = (
    "The loss calls a module of flax that is made outside of it, and the call changes the module's random keys or "
    "statistics. Call a copy: module = nnx.merge(graph, params, rest, copy=True) in the loss, and return "
    "nnx.state(module, nnx.Not(nnx.Param)) beside the value, with has_aux=True"
)
_TORCH_INSIDE = "the loss reads a tensor of torch; tensors are converted if they are arguments, backward(loss, *batch)"
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


def explained(error: Exception, loss: object, params: PyTree, compiled: bool = True) -> Exception:
    """Return the error of a loss with what to write instead, if that is known; JAX's errors keep their types.

    ``params`` is a tree like the one that the loss got.
    """
    if isinstance(error, READS_A_TRACER):
        return told(error, _IN_COMPILED if compiled else _IN_DIFFERENTIATED)
    text = str(error)
    if type(error).__name__ == "TraceContextError":
        error.add_note(f"{_A_COPY} ({see('networks')}).")
    if type(error) is not TypeError:
        return error
    if text.startswith(_SCALAR_ONLY):
        rest = text.removeprefix(_SCALAR_ONLY)
        return TypeError(f"{_SCALAR_ONLY} {_NOT_SCALAR} ({see('fast-loop')}).{rest[:200]}{'...' * (len(rest) > 200)}")
    unmerged = {type(params).__name__, *["NoneType"] * callable(params)}
    if text in [f"{name!r} object is not callable" for name in unmerged]:
        return TypeError(f"{text}: {_NOT_THE_MODULE} ({see('networks')}).")
    if "Cannot interpret 'torch." in text or re.match("unsupported operand.*'Tensor'", text):
        return TypeError(f"{text}: {_TORCH_INSIDE} ({see('from-torch')}).")
    if re.match(rf"{re.escape(getattr(loss, '__qualname__', '?'))}\(\) .*positional argument", text):
        return TypeError(f"{text}: the loss is called as loss(params, *batch) ({see('from-torch')}).")
    return error


def aligned(params: PyTree, names: list[str] | None, grads: PyTree) -> list[PyTree]:
    """Return gradients of another structure than the parameters' in leaf order, if they have the parameters' names.

    Raises:
        ValueError: it cannot; the message says what is missing, and what a step takes.
    """
    found_names, leaves, _ = trees.named_leaves(variables.plain(grads), none_is_leaf=True)
    if names is not None and sorted(found_names) == sorted(names):
        found = dict(zip(found_names, leaves, strict=True))
        return [found[name] for name in names]
    try:
        return trees.align(params, variables.fitted(grads, params), "gradients")
    except ValueError as error:
        raise ValueError(f"{error}{_instead_of(grads)}") from error


def _instead_of(grads: Any) -> str:
    """Say what a step takes instead of what it got; starts with the punctuation."""
    step = f"optimizer.step(closure, *batch) with closure(params, *batch) ({see('from-torch')})"
    if jax.tree_util.all_leaves([grads]) and not isinstance(grads, str | types.NoneType) and jnp.ndim(grads) == 0:
        return f"; a step takes gradients or the loss as a function, not the loss's value: {step}"
    if type(grads) is tuple and len(grads) == 2:
        return f"; of the pair that jax.value_and_grad returns pass the second, or the loss as a function, {step}"
    if jax.tree_util.all_leaves([grads]):
        return f"; a step takes gradients with the parameters' structure, or the loss as a function: {step}"
    return ""
