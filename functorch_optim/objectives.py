"""The keywords of ``update``: who takes which, and the functions among them."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from functorch_optim.typing import PyTree

Function = Callable[[PyTree], PyTree]

# Keywords that describe the objective, so they are not its arguments.
_OF_THE_OBJECTIVE = ("value", "grad", "value_fn", "grad_fn", "curvature", "curvature_fn")


def with_arguments(
    function: Callable[..., PyTree], keywords: Mapping[str, PyTree], given: int = 1
) -> Callable[..., PyTree]:
    """Bind the keywords of ``update`` that the function's signature takes, which leaves ``function(params)``.

    ``given`` is the number of its first arguments that are left.

    Example:
        >>> with_arguments(lambda params, x, scale=1: params * x * scale, {"x": 3, "y": 4, "value": 5})(2)
        6
    """
    taken = accepted(function, keywords, given)
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


def required(function: Callable[..., object]) -> frozenset[str]:
    """Return the names of the function's keywords that have no default.

    Example:
        >>> sorted(required(lambda updates, state, *, value, grad=None: None))
        ['value']
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a callable without a signature
        return frozenset()
    named = [parameter for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    return frozenset(parameter.name for parameter in named if parameter.default is inspect.Parameter.empty)


def restricted(
    keywords: Mapping[str, PyTree], whole: Function, part: Function, curved: Function | None = None
) -> dict[str, PyTree]:
    """Turn the functions among ``update``'s keywords into functions of some parameters only, and select their ``grad``.

    The functions keep their further arguments, and the other keywords stay as they are.

    Args:
        keywords: the keywords of ``update``.
        whole: completes a tree of those parameters to a tree of all of them.
        part: selects the same leaves of a tree.
        curved: selects those of an estimate of the curvature, if not as ``part`` does.
    """
    curved = curved or part
    found = dict(keywords)
    if callable(keywords.get("value_fn")):
        found["value_fn"] = _around(keywords["value_fn"], before=whole)
    if callable(keywords.get("grad_fn")):
        found["grad_fn"] = _around(keywords["grad_fn"], before=whole, after=part)
    if keywords.get("grad") is not None:  # optax's line searches take it
        found["grad"] = part(keywords["grad"])
    if callable(keywords.get("curvature_fn")):
        found["curvature_fn"] = _around(keywords["curvature_fn"], before=whole, after=curved)
    if keywords.get("curvature") is not None and keywords["curvature"] is not False:
        found["curvature"] = curved(keywords["curvature"])
    return found


def converted(keywords: dict[str, PyTree], convert: Function | None) -> dict[str, PyTree]:
    """Convert what ``grad_fn`` among ``update``'s keywords returns; without ``convert`` nothing changes."""
    if convert is None or not callable(keywords.get("grad_fn")):
        return keywords
    return {**keywords, "grad_fn": _around(keywords["grad_fn"], after=convert)}


def _same(tree: PyTree) -> PyTree:
    return tree


def _around(
    function: Callable[..., PyTree], before: Function = _same, after: Function = _same
) -> Callable[..., PyTree]:
    """Convert a function's parameters and its result; its signature stays, and so its further arguments."""

    @functools.wraps(function, updated=())
    def converted_function(params: PyTree, *args: PyTree, **keywords: PyTree) -> PyTree:
        return after(function(before(params), *args, **keywords))

    return converted_function


def as_value(who: str, value: Any) -> jax.Array:
    """Convert the objective's value to an array; an integer or a boolean becomes JAX's default float.

    Raises:
        TypeError: it is not a real scalar.
    """
    dtype = jnp.result_type(value)
    is_whole = jnp.issubdtype(dtype, jnp.integer) or dtype == jnp.bool_
    if jnp.shape(value) != () or not (is_whole or jnp.issubdtype(dtype, jnp.floating)):
        raise TypeError(f"{who}: the objective must give a real scalar, but it gave {value!r:.100}")
    return jnp.asarray(value).astype(jnp.result_type(float)) if is_whole else jnp.asarray(value)


def value_in(keywords: Mapping[str, PyTree], who: str, instead: str = "") -> jax.Array:
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
    return as_value(who, value)
