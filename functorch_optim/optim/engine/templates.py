"""The options of groups as a compiled step takes them: static ones as they are, numbers as traced scalars."""

from collections.abc import Collection, Sequence
from typing import Any

import jax
from jax.core import Tracer
from jax.tree_util import PyTreeDef

from functorch_optim.optim.engine.protocol import Group
from functorch_optim.optim.options import is_number
from functorch_optim.typing import PyTree

Template = tuple[tuple[str, PyTree], ...]  # a group's options, with structures in place of numbers


def template_of(names: Sequence[str], static: Collection[str], options: Group) -> tuple[Template, list[float]]:
    """Split a group's options into a template, with structures in place of numbers, and the numbers."""
    template, numbers = [], []
    for name in names:
        value = options[name]
        if name in static:
            value = hashable(name, value)
        elif is_number(value):
            leaves, value = jax.tree.flatten(value)
            numbers += leaves
        template.append((name, value))
    return tuple(template), numbers


def types_of(templates: tuple[Template, ...]) -> tuple[tuple[type, ...], ...]:
    """Return the types of the options: ``True``, ``1`` and ``1.0`` are equal, but differ for a transformation."""
    return tuple(tuple(type(value) for _, value in template) for template in templates)


def hashable(name: str, value: Any) -> PyTree:
    """Return a static option as it is, but a JAX scalar, which has no hash, as a Python number."""
    try:
        hash(value)
    except TypeError as error:
        if isinstance(value, Tracer) or getattr(value, "shape", None) != ():
            raise TypeError(f"the static option {name!r} must have a hash, but it is {value!r}") from error
        return value.item()
    return value


def fill(templates: tuple[Template, ...], numbers: jax.Array) -> list[dict[str, PyTree]]:
    """Return the groups' options with the numbers filled in."""
    position = iter(range(len(numbers)))
    return [
        {
            name: value.unflatten([numbers[next(position)] for _ in range(value.num_leaves)])
            if isinstance(value, PyTreeDef)
            else value
            for name, value in template
        }
        for template in templates
    ]
