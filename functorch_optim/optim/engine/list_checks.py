"""Checks of the arguments of torch's functional optimizers, which are named in errors."""

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from functorch_optim import trees
from functorch_optim.hyperparams import Beta, Option
from functorch_optim.typing import PyTree


@contextmanager
def named(function: str) -> Generator[None]:
    """Let errors begin with the function's name."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError) as error:
        if type(error) not in (TypeError, ValueError, RuntimeError):  # JAX's own, which say what was traced
            raise
        raise type(error)(f"{function}: {error}") from error


def listed(name: str, given: PyTree) -> list[PyTree]:
    """Return an argument as a new list."""
    try:
        if not isinstance(given, str | bytes | Mapping):
            return list(given)
    except TypeError:
        pass
    raise TypeError(f"{name} must be a list of arrays, but it is {shown(given)}")


def flag(name: str, given: PyTree) -> bool:
    """Return an option that is on or off as True or False."""
    known = not isinstance(given, Tracer) and isinstance(given, bool | int | np.generic | np.ndarray | jax.Array)
    if not known or np.size(given) != 1:
        raise TypeError(f"{name} must be True or False, but it is {shown(given)}")
    return bool(scalar(name, given, flag=True))


def number(name: str, given: PyTree, option: Option) -> PyTree:
    """Convert a numeric option to a Python float if it is known, and one of several numbers to a tuple."""
    if length := option.length:
        if not isinstance(given, tuple | list) or len(given) != length:
            raise TypeError(f"{name} must hold {length} numbers, but it is {shown(given)}")
        one = replace(option, length=0)
        return tuple([number(f"{name}[{index}]", item, one) for index, item in enumerate(given)])
    if isinstance(given, Beta) and option.beta:
        plain = replace(option, beta=False)
        return Beta(number(name, given.value, plain), number(name, given.complement, plain))
    if given is None and name == "eps1":
        return None
    value = scalar(name, given)
    return value if isinstance(value, Tracer) else float(value)


def scalar(name: str, given: PyTree, flag: bool = False) -> PyTree:
    """Return a real scalar: traced without dimensions, of NumPy, or Python's; with ``flag`` it may be a boolean."""
    converts = callable(getattr(given, "__jax_array__", None))  # a tracer has it, but it is None
    value = given.__jax_array__() if converts else given
    if not isinstance(value, int | float | np.generic | np.ndarray | jax.Array) or (type(value) is bool and not flag):
        raise TypeError(f"{name} must be a number, but it is {shown(given)}")
    if isinstance(value, int | float) and not isinstance(value, np.generic):
        return value
    if value.size != 1:
        raise ValueError(f"{name} must be a number or an array of one element, but it has shape {value.shape}")
    kinds = (jnp.floating, jnp.integer, *([jnp.bool_] if flag else []))
    if not any(jnp.issubdtype(value.dtype, kind) for kind in kinds):
        raise TypeError(f"{name} must be a number, but it has dtype {value.dtype}")
    if isinstance(value, Tracer):
        return value if value.shape == () else value.reshape(())
    return np.asarray(value).reshape(())[()]


def carried_scalar(name: str, held: PyTree) -> PyTree:
    """Return a scalar that is carried from step to step: a Python float, or a scalar of a floating dtype."""
    value = scalar(name, held)
    if not hasattr(value, "dtype"):
        return float(value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name} is {value.dtype}, but it should be of a floating dtype")
    return value


def count(name: str, held: PyTree, least: int) -> PyTree:
    """Return a count as an integer if it is known."""
    value = scalar(name, held)
    if isinstance(value, Tracer):
        return value
    if not (math.isfinite(value) and value >= least and int(value) == value):
        raise ValueError(f"{name} must be a whole number, at least {least}, but it is {value}")
    return int(value)


def is_array(value: object) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic) or callable(getattr(value, "__jax_array__", None))


def check_array(name: str, value: PyTree) -> None:
    """Raise if something has a shape and a dtype, but no numbers that JAX can read."""
    looks_like_one = hasattr(value, "shape") and hasattr(value, "dtype")
    if looks_like_one and not trees.is_sparse(value) and not is_array(value):
        raise TypeError(f"{name} must be an array of JAX or NumPy, but it is {shown(value)}")


def check_slot(name: str, held: PyTree, like: PyTree, may_begin: bool) -> None:
    """Raise unless a slot has the shape of the one that the algorithm keeps, and is complex if that is."""
    missing = held is None
    if like is None or (missing and may_begin):
        return
    if not is_array(held) or held.shape != like.shape:
        found = f"has shape {held.shape}" if is_array(held) else f"is {shown(held)}"
        raise ValueError(f"{name} {found}, but it should be an array of shape {like.shape}")
    given, own = (jnp.issubdtype(each.dtype, jnp.complexfloating) for each in (held, like))
    if given != own or not jnp.issubdtype(held.dtype, jnp.inexact):
        raise TypeError(f"{name} is {held.dtype}, but it should be of a dtype like {like.dtype}")


def shown(value: object) -> str:
    """Print a wrong argument, a long one in part."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}... ({type(value).__name__})"
