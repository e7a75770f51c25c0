"""Arrays that are gone: donated by the user, or lost with a device."""

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import jax
from jax.core import Tracer

from functorch_optim import trees
from functorch_optim.typing import PyTree


def check_alive(params: Mapping[str, PyTree], state: Sequence[PyTree], lent: bool, wait: bool = True) -> None:
    """Raise a clear error if an optimizer's arrays are gone, instead of JAX's.

    Args:
        params: the parameters by name.
        state: the arrays of the state.
        lent: whether the user may have donated them.
        wait: whether to wait for their computation, and to raise if it failed.

    Raises:
        RuntimeError: the message names the first parameter that is gone.
    """
    arrays = [array for array in [*params.values(), *state] if _is_concrete(array)]
    error = None
    gone = any(array.is_deleted() for array in arrays)
    if wait and not gone:
        try:
            jax.block_until_ready(arrays)
        except RuntimeError as failure:
            error = failure
    if gone and lent:
        raise RuntimeError(
            f"{_first_gone(params)} was donated to another function after functional(): "
            "give the optimizer the results with restore(params, state)"
        )
    if gone or error:
        raise RuntimeError(
            f"the optimizer is lost: the device failed in the middle of a step, and {_first_gone(params)} is gone. "
            "Create a new optimizer from saved parameters, and load the saved state with load_state_dict()"
        ) from error


def _is_concrete(array: PyTree) -> TypeGuard[jax.Array]:
    return isinstance(array, jax.Array) and not isinstance(array, Tracer)


def _first_gone(params: Mapping[str, PyTree]) -> str:
    """Describe the first parameter whose array is deleted."""
    for name, array in params.items():
        if _is_concrete(array) and array.is_deleted():
            return f"the parameter {trees.quote(name)}"
    return "the state"
