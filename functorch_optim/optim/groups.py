"""The parameter groups of an optimizer: their options, checked and read, and groups that come later."""

import weakref
from collections.abc import Callable, Collection, Sequence

import numpy as np

from functorch_optim import trees
from functorch_optim.optim.engine.none import NoAlgorithm
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.slot_dtypes import plain_dtypes
from functorch_optim.optim.layout import GroupParams, Layout
from functorch_optim.optim.ownership import own
from functorch_optim.optim.param_groups import check_dense, extended
from functorch_optim.optim.values import Values
from functorch_optim.optim.views import added
from functorch_optim.typing import OptionValues, PyTree


class Grouped(Values):
    """The part of an optimizer that has the groups."""

    _given: list[Callable[[], PyTree]]  # weak references to the arrays that were given

    def _need_engine(self) -> None:
        if isinstance(self._engine, NoAlgorithm):
            self._engine.refuse()

    def _new_group(self, layout: Layout, index: int, given: OptionValues) -> dict[str, PyTree]:
        """A group's dict in torch's order: the user's keys, the names, the defaults that are left; checked."""
        group: dict[str, PyTree] = {"params": GroupParams(self, index), **given}
        if layout.names is not None:
            names = zip(layout.names, layout.group_of, strict=True)
            group["param_names"] = [name for name, own_group in names if own_group == index]
        group = {**group, **{key: value for key, value in self._defaults_of(given).items() if key not in group}}
        if "state_dtype" in group:
            group["state_dtype"] = plain_dtypes(group["state_dtype"])
        self._check_options(group, index)
        return group

    def _check_options(self, group: OptionValues, index: int, live: bool = False) -> None:
        """Raise unless the engine takes the options of a group, which is named; ``live`` ones each by itself."""
        try:
            if "frozen" not in self.defaults and not isinstance(group.get("frozen", False), bool | np.bool_):
                raise TypeError(f"frozen must be True or False, but it is {group['frozen']!r}")
            self._engine.check(group, live)
        except (TypeError, ValueError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{error}, in parameter group {index}") from error

    def add_param_group(self, param_group: OptionValues) -> None:
        """Take more parameters in, as a group of their own.

        Args:
            param_group: a dict with ``params``, in any form that a group has at construction, and options of its own.

        :attr:`params` becomes a list of the trees, the new one last, if it was not a list of groups before. What is
        known of the other parameters stays. The dict is not changed, other than in torch.

        Raises:
            TypeError, ValueError, KeyError: no dict, no ``params``, parameters that are here already or share a name,
                an option outside its range. Nothing has changed then.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.SGD({"head": jnp.zeros(1)}, lr=0.1)
            >>> optimizer.add_param_group({"params": {"backbone": jnp.ones(2)}, "lr": 0.01})
            >>> [(group["param_names"], group["lr"]) for group in optimizer.param_groups]
            [(['head'], 0.1), (['backbone'], 0.01)]
            >>> [sorted(tree) for tree in optimizer.params]
            [['head'], ['backbone']]
        """
        with self._transaction.changing:
            self._need_engine()
            self._refuse_tracing()
            index = len(self.param_groups)
            whole = extended(self._layout, index, param_group, self._known_options())
            check_dense(whole, type(self).__name__)
            self._refuse_traced(whole.leaves)
            self._check_new(index, whole.leaves)
            group = self._new_group(whole.layout, index, whole.options[0])
            leaves = [*self._leaves, *map(own, whole.leaves)]
            record = self._engine.record(self._read_options(group, 0, index), index)
            state = self._engine.extended(whole.layout, leaves, [*self._records(), record])
            held, given = Leaves(leaves), [*self._given, *map(weak, whole.leaves)]
            grads = None if self._gradients is None else [*self._gradients, *[None] * len(whole.leaves)]

            def commit() -> None:
                self._engine.commit(state)
                self._layout, self._held, self._given, self._grads = whole.layout, held, given, grads
                self._checked, self._handed, self._handed_grads = None, [], []
                self._counts.append(0)
                added(self.param_groups, group)

            self._transaction.commit(commit)

    def _check_new(self, index: int, leaves: Sequence[PyTree]) -> None:
        """Raise if an array of group ``index`` is one that the optimizer has."""
        held = {id(leaf): name for name, leaf in zip(self._layout.labels, self._leaves, strict=True)}
        given = zip(self._layout.labels, self._given, strict=False)  # a copy has none
        held |= {id(leaf): name for name, reference in given if (leaf := reference()) is not None}
        for leaf in leaves:
            if id(leaf) in held:
                raise ValueError(
                    "some parameters appear in more than one parameter group: group "
                    f"{index} has the parameter {trees.quote(held[id(leaf)])} of another"
                )

    def _known_options(self) -> Collection[str]:
        """The names of all options that a group may have."""
        return {*self.defaults, "frozen", "state_dtype"}

    def _defaults_of(self, group: OptionValues) -> OptionValues:
        """The options that a group has where it says nothing else."""
        del group
        return self.defaults


def weak(leaf: PyTree) -> Callable[[], PyTree]:
    """A reference that does not keep the array that was given."""
    try:
        return weakref.ref(leaf)
    except TypeError:  # a scalar of NumPy
        return lambda: None
