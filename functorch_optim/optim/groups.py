"""The parameter groups of an optimizer: their options, checked and read, and groups that come later."""

import weakref
from collections.abc import Callable, Collection, Sequence

from functorch_optim import trees
from functorch_optim.optim import options as group_options
from functorch_optim.optim.engine.none import NoAlgorithm
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.layout import GroupParams, Layout
from functorch_optim.optim.options import Record
from functorch_optim.optim.ownership import own
from functorch_optim.optim.param_groups import check_dense, extended
from functorch_optim.optim.values import Values
from functorch_optim.optim.views import REFUSED, ParamGroups, added
from functorch_optim.typing import OptionValues, PyTree


class Grouped(Values):
    """The part of an optimizer that has the groups."""

    _given: list[Callable[[], PyTree]]  # weak references to the arrays that were given
    _counts: list[int]  # the updates of each group
    _records: list[Record]  # what was read out of the groups last

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
        self._check_options(group, index)
        return group

    def _check_options(self, group: OptionValues, index: int, live: bool = False) -> None:
        """Raise unless the engine takes the options of a group, which is named; ``live`` ones each by itself."""
        try:
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
            state = self._engine.extended(whole.layout, leaves, [*self._settings(), self._numbers(group, 0, index)])
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
        return self.defaults.keys()

    def _defaults_of(self, group: OptionValues) -> OptionValues:
        """The options that a group has where it says nothing else."""
        del group
        return self.defaults

    def _settings(self) -> list[dict[str, PyTree]]:
        """The options of every group as they stand now; the same dict as before where they are the same."""
        groups, records = self.param_groups, self._records
        if len(records) == len(groups) and type(groups) is ParamGroups and all(map(Record.holds, records, groups)):
            return [record.options for record in records]
        self._check_groups()
        pairs = zip(self.param_groups, self._counts, strict=True)
        settings = [self._numbers(group, count, index) for index, (group, count) in enumerate(pairs)]
        read = [group[name] for group, options in zip(self.param_groups, settings, strict=True) for name in options]
        constant = all(map(group_options.is_constant, read))
        self._records = list(map(Record, self.param_groups, settings)) if constant else []
        return settings

    def _check_groups(self) -> None:
        """Raise if the groups are not those that the optimizer made."""
        if type(self.param_groups) is not ParamGroups:
            raise TypeError(f"param_groups was replaced by {type(self.param_groups).__name__}: {REFUSED}")
        for index, group in enumerate(self.param_groups):
            if not (isinstance(params := group.get("params"), GroupParams) and params.is_of(self, index)):
                raise TypeError(f"'params' of parameter group {index} was written to: {REFUSED}")

    def _numbers(self, group: OptionValues, count: int, index: int) -> dict[str, PyTree]:
        """The options of one group that the engine reads."""
        engine = self._engine
        names, numbers = engine.reads(group)
        values = group_options.read(group, names, numbers, engine.strict, count, index)
        self._refuse_traced(list(values.values()))
        return values


def weak(leaf: PyTree) -> Callable[[], PyTree]:
    """A reference that does not keep the array that was given."""
    try:
        return weakref.ref(leaf)
    except TypeError:  # a scalar of NumPy
        return lambda: None
