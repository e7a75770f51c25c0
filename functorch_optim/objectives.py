"""The keywords of ``update``: who takes which, and the functions ``value_fn`` and ``grad_fn`` among them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from functorch_optim.typing import PyTree

Function = Callable[[PyTree], PyTree]

# Keywords that describe the objective, so they are not its arguments.
_OF_THE_OBJECTIVE = ("value", "grad", "value_fn", "grad_fn")


def with_arguments(function: Callable[..., PyTree], keywords: Mapping[str, PyTree]) -> Function:
    """Bind the keywords of ``update`` that the function's signature takes, which leaves ``function(params)``.

    Example:
        >>> with_arguments(lambda params, x, scale=1: params * x * scale, {"x": 3, "y": 4, "value": 5})(2)
        6
    """
    taken = accepted(function, keywords, 1)
    own = {name: value for name, value in taken.items() if name not in _OF_THE_OBJECTIVE}
    return functools.partial(function, **own) if own else function


def accepted(function: Callable[..., object], keywords: Mapping[str, PyTree], given: int) -> dict[str, PyTree]:
    """Select the keywords that the function's signature takes beside its first ``given`` arguments.

    Example:
        >>> accepted(lambda updates, state, params=None, *, value: None, {"value": 3.0, "x": 4.0}, 3)
        {'value': 3.0}
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a callable without a signature
        return {}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    first = {parameter.name for parameter in parameters[:given] if parameter.kind in positional}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = {parameter.name for parameter in parameters if parameter.kind in named} - first
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        taken |= keywords.keys() - {parameter.name for parameter in parameters}
    return {name: value for name, value in keywords.items() if name in taken}


def restricted(keywords: Mapping[str, PyTree], whole: Function, part: Function) -> dict[str, PyTree]:
    """Turn the functions among ``update``'s keywords into functions of some parameters only, and select their ``grad``.

    Args:
        keywords: the keywords of ``update``.
        whole: completes a tree of those parameters to a tree of all of them.
        part: selects the same leaves of a tree.
    """
    found: dict[str, PyTree] = {}
    if callable(keywords.get("value_fn")):
        value_fn = with_arguments(keywords["value_fn"], keywords)
        found["value_fn"] = lambda own: value_fn(whole(own))
    if callable(keywords.get("grad_fn")):
        grad_fn = with_arguments(keywords["grad_fn"], keywords)
        found["grad_fn"] = lambda own: part(grad_fn(whole(own)))
    if keywords.get("grad") is not None:  # optax's line searches take it
        found["grad"] = part(keywords["grad"])
    return found


def converted(keywords: dict[str, PyTree], convert: Function | None) -> dict[str, PyTree]:
    """Convert what ``grad_fn`` among ``update``'s keywords returns; without ``convert`` nothing changes."""
    if convert is None or not callable(keywords.get("grad_fn")):
        return keywords
    grad_fn = with_arguments(keywords["grad_fn"], keywords)
    return {**keywords, "grad_fn": lambda params: convert(grad_fn(params))}


def check_value(who: str, value: Any) -> None:
    """Raise TypeError unless the objective's value is a real scalar."""
    if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise TypeError(f"{who}: the objective must give a real scalar, but it gave {value!r:.100}")


def value_in(keywords: Mapping[str, PyTree], who: str, instead: str = "") -> PyTree:
    """Return the loss from ``update``'s keywords.

    Raises:
        ValueError: there is none; TypeError: it is not a real scalar.
    """
    value = keywords.get("value")
    if value is None:
        raise ValueError(
            f"{who} needs the loss: update(grads, state, params, value=loss){instead}. In optax.chain wrap it with "
            "fo.interop.to_optax, which passes the keyword on; in the torch face call step(closure)"
        )
    check_value(who, value)
    return value
