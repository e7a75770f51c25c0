"""Errors of functions that read a value while it is traced, with what to write instead."""

import functools
from collections.abc import Callable

import jax

from functorch_optim.pages import see
from functorch_optim.typing import PyTree

READS_A_TRACER = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_FAILS = "its numbers are not known, so float(), .item(), NumPy and `if` fail in it. Return what you want to see, and"


def of_traced(what: str, where: str, more: str = "") -> str:
    """Say what fails in a function that is traced; ``where`` is where its value is known, and ``more`` a way out."""
    return (
        f"{what}: while it is traced {_FAILS} print what {where} returned; or print inside with "
        f'jax.debug.print("{{}}", value); in place of `if` write jnp.where{more}'
    )


def told(error: TypeError, text: str) -> TypeError:
    """Create the same of JAX's errors, whose constructors take tracers, that begins with a text of ours."""
    message = f"{text} ({see('fast-loop')}).\n\n{error}"
    own = type(error).__new__(type(error), message)
    own.args = (message,)
    return own


def explaining(who: str, function: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
    """Wrap an objective that ``who`` evaluates: an error of a read says what to write instead."""

    @functools.wraps(function, updated=())
    def explained(params: PyTree) -> PyTree:
        try:
            return function(params)
        except READS_A_TRACER as error:
            text = of_traced(f"{who} differentiates and compiles value_fn", "update, or a call of the loss,")
            raise told(error, text) from error

    return explained
