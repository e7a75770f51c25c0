"""The types for the library's annotations."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax

Array = jax.Array

PyTree = Any
"""A tree of arrays, or anything at one of its leaves: an array, None, a sparse array, a Python or NumPy scalar. JAX
knows only at run time which containers are nodes, so no static type can say more."""

Numeric = float | Array
"""A number to compute coefficients from: a Python number if it is known, else a scalar array, which may be traced."""

StepFunction = Callable[[Any], Any]
"""A function that returns a number for a step: a Python number for a Python number, an array for an array."""

OptionValues = Mapping[str, Any]
"""Options of an optimizer or of a parameter group by name, as in torch: numbers, switches, functions."""


class TreeDef(Protocol):
    """The structure of a tree, as ``jax.tree.structure`` returns it; JAX has no static type for it."""

    @property
    def num_leaves(self) -> int: ...

    def unflatten(self, leaves: Iterable[PyTree], /) -> PyTree: ...

    def flatten_up_to(self, tree: PyTree, /) -> list[PyTree]: ...
