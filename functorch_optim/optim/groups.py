"""The parameter groups of an optimizer: check and read their options, and add groups later."""

import weakref
from collections.abc import Callable, Collection, Sequence

import numpy as np

from functorch_optim import trees
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.slot_dtypes import plain_dtypes
from functorch_optim.optim.layout import GroupParams, Layout
from functorch_optim.optim.ownership import own
from functorch_optim.optim.param_groups import check_dense, extended
from functorch_optim.optim.values import Values
from functorch_optim.optim.views import added
from functorch_optim.typing import OptionValues, PyTree


class Grouped(Values):
    """The part of an optimizer that manages the groups."""

    _given: list[Callable[[], PyTree]]  # weak references to the arrays that the user passed

    def _new_group(self, layout: Layout, index: int, given: OptionValues) -> dict[str, PyTree]:
        """Build and check a group's dict, in torch's order: the user's keys, the names, the remaining defaults."""
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
        """Raise, naming the group, unless the engine accepts its options; ``live`` ones each by itself."""
        try:
            if "frozen" not in self.defaults and not isinstance(group.get("frozen", False), bool | np.bool_):
                raise TypeError(f"frozen must be True or False, but it is {group['frozen']!r}")
            self._engine.check(group, live)
        except (TypeError, ValueError) as error:
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{error}, in parameter group {index}") from error

    def add_param_group(self, param_group: OptionValues) -> None:
        """Add parameters as a new group.

        Args:
            param_group: a dict with ``params``, in any form that a group takes at construction, and its own options.

        :attr:`params` becomes a list of the trees, the new one last, if it was not a list of groups before. The state
        of the other parameters stays. Unlike torch, we do not modify the dict.

        Raises:
            TypeError, ValueError, KeyError: it is not a dict, has no ``params``, has parameters that the optimizer
                already has or that share a name, or an option outside its range. The optimizer is left unchanged.

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
        with self._transaction.change_lock:
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
            state = self._engine.extend(whole.layout, leaves, [*self._records(), record])
            held, given = Leaves(leaves), [*self._given, *map(weak, whole.leaves)]
            grads = None if self._gradients is None else [*self._gradients, *[None] * len(whole.leaves)]

            def commit() -> None:
                self._engine.commit(state)
                self._layout, self._held, self._given, self._grads = whole.layout, held, given, grads
                self._checked, self._watched_params, self._watched_grads = None, [], []
                self._counts.append(0)
                added(self.param_groups, group)

            self._transaction.commit(commit)

    def _check_new(self, index: int, leaves: Sequence[PyTree]) -> None:
        """Raise if the optimizer already has an array of group ``index``."""
        held = {id(leaf): name for name, leaf in zip(self._layout.labels, self._leaves, strict=True)}
        given = zip(self._layout.labels, self._given, strict=False)  # a copied optimizer has none
        held |= {id(leaf): name for name, reference in given if (leaf := reference()) is not None}
        for leaf in leaves:
            if id(leaf) in held:
                raise ValueError(
                    "some parameters appear in more than one parameter group: group "
                    f"{index} has the parameter {trees.quote(held[id(leaf)])} of another"
                )

    def _known_options(self) -> Collection[str]:
        """Return the names of all options that a group may have."""
        return {*self.defaults, "frozen", "state_dtype"}

    def _defaults_of(self, group: OptionValues) -> OptionValues:
        """Return the options that a group has by default."""
        del group
        return self.defaults


def weak(leaf: PyTree) -> Callable[[], PyTree]:
    """Return a reference that does not keep an array alive."""
    try:
        return weakref.ref(leaf)
    except TypeError:  # a NumPy scalar
        return lambda: None
