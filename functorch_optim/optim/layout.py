"""The layout of an optimizer's parameters: their tree, their names, their groups."""

import operator
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from functorch_optim import trees
from functorch_optim.optim.views import REFUSED, ParamGroups, refuse_edits
from functorch_optim.typing import OptionValues, PyTree


class Layout(NamedTuple):
    """How the parameters are organized: their tree, their names, and the group of each.

    If the tree is a list of trees, ``element_of`` has the index of each group's tree.
    """

    structure: trees.Structure
    names: list[str] | None
    group_of: list[int]
    element_of: tuple[int, ...] | None = None

    @property
    def labels(self) -> list[str]:
        """The name of each leaf in messages; its number if there are no names."""
        return self.names if self.names is not None else [str(index) for index in range(len(self.group_of))]

    @property
    def order(self) -> list[int]:
        """The leaves in the order in which torch numbers them: group by group."""
        return sorted(range(len(self.group_of)), key=lambda index: self.group_of[index])


class GroupParams(Sequence[jax.Array]):
    """The current parameters of one group, in order: ``group['params']``. You may assign to a single one."""

    def __init__(self, optimizer: object, index: int) -> None:
        self._owner = weakref.ref(optimizer)  # no cycle, so the arrays are freed with the optimizer
        self._index = index

    @property
    def _optimizer(self) -> PyTree:
        optimizer = self._owner()
        if optimizer is None:
            raise ReferenceError("the optimizer of this group is gone: keep it in a variable")
        return optimizer

    def is_of(self, optimizer: object, index: int) -> bool:
        """Whether these are the parameters of this group."""
        return self._owner() is optimizer and self._index == index

    def __deepcopy__(self, memo: object) -> list[jax.Array]:
        return list(self)

    def _members(self) -> list[int]:
        return [leaf for leaf, group in enumerate(self._optimizer._layout.group_of) if group == self._index]

    def _leaves(self) -> list[jax.Array]:
        optimizer = self._optimizer
        with optimizer._transaction.handoff_lock:
            leaves = optimizer._leaves
            return [leaves[member] for member in self._members()]

    def __setitem__(self, index: Any, array: PyTree) -> None:
        member = self._members()[operator.index(index)]
        self._optimizer.replace(self._optimizer._keys[member], array)

    def __len__(self) -> int:
        return self._optimizer._layout.group_of.count(self._index)

    def __getitem__(self, index: Any) -> PyTree:
        return self._leaves()[index]

    def __iter__(self) -> Iterator[jax.Array]:
        return iter(self._leaves())

    def __repr__(self) -> str:
        return f"<{len(self)} parameters>"


refuse_edits(GroupParams)


def check_groups(groups: Sequence[OptionValues], optimizer: object) -> None:
    """Raise unless the groups are those that the optimizer created."""
    if type(groups) is not ParamGroups:
        raise TypeError(f"param_groups was replaced by {type(groups).__name__}: {REFUSED}")
    for index, group in enumerate(groups):
        if not (isinstance(params := group.get("params"), GroupParams) and params.is_of(optimizer, index)):
            raise TypeError(f"'params' of parameter group {index} was written to: {REFUSED}")
