"""The types that the annotations of the library are made of."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import jax

Array = jax.Array

PyTree = Any
"""A tree of arrays, or what stands at a leaf of one: an array, None, a sparse array, a scalar of Python or NumPy. jax
knows which containers are nodes only when it runs, so there is no static type that says more."""

Numeric = float | Array
"""A number as coefficients are made of it: of Python where it is known, else a scalar array, which may be traced."""

StepFunction = Callable[[Any], Any]
"""A number for every step: of Python for a step of Python, an array for an array."""

OptionValues = Mapping[str, Any]
"""Options of an optimizer or of a parameter group by name, as torch has them: numbers, switches, functions."""


class TreeDef(Protocol):
    """The structure of a tree, as ``jax.tree.structure`` gives it; jax has no type for those who check statically."""

    @property
    def num_leaves(self) -> int: ...

    def unflatten(self, leaves: Iterable[PyTree], /) -> PyTree: ...

    def flatten_up_to(self, tree: PyTree, /) -> list[PyTree]: ...
