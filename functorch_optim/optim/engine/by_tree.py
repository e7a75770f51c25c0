"""Steps a transformation of the whole tree: one state for all parameters, with the groups' numbers as data."""

import functools
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from functorch_optim import base, trees
from functorch_optim.base import GradientTransformation, Transform, transformation
from functorch_optim.combinators import NamedStates
from functorch_optim.core.packing import ForeachState
from functorch_optim.optim.engine.by_path import BY_PATH
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.protocol import Codec, Entry, Group, Reading
from functorch_optim.optim.engine.resting import resting
from functorch_optim.optim.engine.templates import Template, filled, template_of, types_of
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.losses import CompiledLosses
from functorch_optim.optim.options import delayed
from functorch_optim.optim.ownership import own
from functorch_optim.optim.transaction import Args, Call, Compiled, exclusive
from functorch_optim.selection import partition
from functorch_optim.transforms.conjugation import conjugate_leaf
from functorch_optim.typing import PyTree

Make = Callable[..., GradientTransformation]


class Grown(NamedTuple):
    """The first state that is a partition's: a group has come beside the only one."""

    state: NamedStates


class Within(Transform):
    """A transformation of one element of a list of trees: it sees that tree, whatever stands beside it."""

    of: GradientTransformation
    element: int

    def init(self, params: PyTree) -> PyTree:
        return self.of.init(params[self.element])

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: PyTree) -> tuple[PyTree, PyTree]:
        own = None if params is None else params[self.element]
        if callable(extra.get("value_fn")):
            extra["value_fn"] = self._of_element(extra["value_fn"], params)
        new, state = self.of.update(updates[self.element], state, own, **extra)
        return [new if index == self.element else each for index, each in enumerate(updates)], state

    def _of_element(self, value_fn: Callable[[PyTree], PyTree], params: PyTree) -> Callable[[PyTree], PyTree]:
        def of_element(own: PyTree) -> PyTree:
            return value_fn([own if index == self.element else each for index, each in enumerate(params)])

        return of_element


class ByTree:
    """One state for all parameters; several groups are a partition.

    ``make`` is called with a group's options, of which those in ``static`` reach it as they are and the numbers among
    the others as traced scalars. ``codec`` lays the state out in torch's ``state_dict``.
    """

    one_by_one = False
    warm = None

    def __init__(
        self, make: Make, names: Sequence[str], static: Collection[str], codec: Codec = BY_PATH, strict: bool = False
    ) -> None:
        unknown = [name for name in static if name not in names]
        if unknown:
            raise ValueError(f"static names no options: {', '.join(unknown)}; the options are {', '.join(names)}")
        self.make = make
        self.option_names = tuple(names)
        self.static = frozenset(static)
        self.data_names = set(names) - self.static
        self.codec = codec
        self.strict = strict
        self.together = codec.together
        self._leaves: list[PyTree] = []
        self._structure = trees.Structure.of(())
        self._several = False
        self._exported: list[int] | None = None
        self._compiled: dict[Hashable, Compiled] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_compiled": {}, "_leaves": list(self._leaves)}

    @property
    def state(self) -> PyTree:
        """The transformation's state."""
        return self._structure.unflatten(self._leaves)

    def arrays(self) -> list[jax.Array]:
        """All arrays as they are kept."""
        return self._leaves

    def commit(self, state: PyTree) -> None:
        """Go on from ``state``."""
        several = self._several
        if isinstance(state, Grown):
            several, state = True, state.state
        leaves, treedef = jax.tree.flatten(state)
        self._leaves, self._structure, self._several = leaves, trees.Structure(treedef), several
        self._exported = None

    def takes_rows(self, options: Group) -> bool:
        """Whether gradients may be row-sparse: the transformation raises where they may not."""
        del options
        return True

    def reads(self, options: Group) -> tuple[tuple[str, ...], set[str]]:
        """The names of the options of a group that a step reads, and those among them that may be numbers."""
        return self._names(options), self.data_names

    def _names(self, options: Group) -> tuple[str, ...]:
        """The names of the options that the transformation is made of, and ``frozen`` where the group is."""
        return (*self.option_names, "frozen") if self._is_frozen(options) else self.option_names

    def _is_frozen(self, options: Group) -> bool:
        """Whether a group is frozen; ``frozen`` may also be an option of the transformation."""
        return bool(options.get("frozen")) and "frozen" not in self.option_names

    def record(self, options: Group, group: int) -> Group:
        """The record of a group: its options, which are numbers by now."""
        del group
        return options

    def check(self, options: Group, live: bool = False) -> None:
        """Raise unless the transformation can be made with these options."""
        if not live and "state_dtype" in options and "state_dtype" not in self.option_names:
            raise ValueError("this optimizer has no option state_dtype: wrap a composition in fo.state_dtype instead")
        self.made(options)

    def made(self, options: Group) -> GradientTransformation:
        """The transformation that a group's options make."""
        return self.make(**{name: options[name] for name in self.option_names})

    def start(self, layout: Layout, params: list[PyTree], records: Sequence[Group]) -> None:
        """The state before the first update."""
        self._several = len(records) > 1  # then the state is that of a partition
        state = self._whole(layout, records).init(layout.structure.unflatten(params))
        if any(isinstance(node, ForeachState) for node in jax.tree.leaves(state, is_leaf=_is_packed)):
            raise ValueError(
                "a transformation with foreach=True keeps the state of many parameters in one array, which has no "
                "place in a state_dict: leave foreach out here"
            )
        self.commit(state)

    def extended(self, layout: Layout, params: list[PyTree], records: Sequence[Group]) -> Grown:
        """The state for :meth:`commit` with further parameters: a group of their own, with a state of its own."""
        state = self.state
        fresh = self._whole(layout, records).init(layout.structure.unflatten(params))
        assert isinstance(fresh, NamedStates)
        known = state.states if self._several else {"group0": state}  # each in its own tree, which stays what it was
        return Grown(NamedStates({**fresh.states, **known}))

    def _whole(self, layout: Layout, options: Sequence[Group]) -> GradientTransformation:
        """The transformation of the whole tree; the options of each group as given."""
        members = [resting(self.made(one)) if self._is_frozen(one) else self.made(one) for one in options]
        if layout.element_of is not None:
            members = [transformation(Within(tx, n)) for tx, n in zip(members, layout.element_of, strict=True)]
        if len(members) == 1:
            return members[0]
        labels = layout.structure.unflatten([f"group{group}" for group in layout.group_of])
        return partition({f"group{index}": member for index, member in enumerate(members)}, labels)

    def step(
        self,
        layout: Layout,
        held: Leaves,
        grads: list[PyTree],
        records: Sequence[Group],
        in_place: bool = True,
    ) -> Call:
        """The call that updates the parameters; where there is no gradient the transformation gets None."""
        del in_place  # nothing is traced here
        templates, numbers = self._templates(records)
        key = (templates, types_of(templates), tuple(layout.group_of))
        if key not in self._compiled:
            self._compiled[key] = Compiled(self._update(layout, templates), (0, 1))
        return self._call(self._compiled[key], held, grads, numbers, records)

    def step_by_loss(
        self,
        layout: Layout,
        held: Leaves,
        losses: CompiledLosses,
        closure: Callable[..., PyTree],
        args: tuple[PyTree, ...],
        records: Sequence[Group],
    ) -> Call:
        """The call that updates the parameters with a transformation that evaluates ``closure(params, *args)``."""
        templates, numbers = self._templates(records)

        def make(loss: Callable[..., PyTree]) -> Callable[..., PyTree]:
            return self._update(layout, templates, loss)

        compiled = losses.compiled(
            closure, (templates, types_of(templates), tuple(layout.group_of)), make, donated=(0, 1)
        )
        return self._call(compiled, held, args, numbers, records)

    def _templates(self, records: Sequence[Group]) -> tuple[tuple[Template, ...], np.ndarray]:
        """The templates of all groups, and their numbers as one vector."""
        split = [template_of(self._names(options), self.static, options) for options in records]
        numbers = np.array([number for _, group in split for number in group], np.float64)
        return tuple(template for template, _ in split), numbers

    def _call(
        self, compiled: Compiled, held: Leaves, data: PyTree, numbers: np.ndarray, records: Sequence[Group]
    ) -> Call:
        """One call of what :meth:`_update` gave."""
        kept, structure = self._fitted(records)

        def arguments() -> Args:
            return exclusive(held.arrays()), structure.unflatten(exclusive(kept)), data, numbers

        def commit(result: PyTree) -> None:
            _, held.loose, leaves = result
            self._leaves, self._structure, self._exported = leaves, structure, None

        return Call(compiled, arguments, commit)

    def _fitted(self, records: Sequence[Group]) -> tuple[list[PyTree], trees.Structure]:
        """The leaves and the structure of the state as these options need it."""
        resized = self.codec.resized(self.state, records[0])
        if resized is None:
            return self._leaves, self._structure
        leaves, treedef = jax.tree.flatten(resized)
        return leaves, trees.Structure(treedef)

    def _update(
        self, layout: Layout, templates: tuple[Template, ...], loss: Callable[..., PyTree] | None = None
    ) -> Callable[..., PyTree]:
        """``(params, state, data, numbers) -> (loss, params, state)``; data are the gradients, or where the loss is
        given, its further arguments."""

        def optimizer_step(leaves: list[PyTree], state: PyTree, data: PyTree, numbers: jax.Array) -> PyTree:
            params, tx = layout.structure.unflatten(leaves), self._whole(layout, filled(templates, numbers))
            if loss is None:
                value, more = None, {}
                descent = layout.structure.unflatten([None if g is None else conjugate_leaf(g) for g in data])
            else:
                value_fn = functools.partial(_with_arguments, loss, data)
                value, grads = jax.value_and_grad(value_fn)(params)
                descent, more = jax.tree.map(conjugate_leaf, grads), {"value": value, "value_fn": value_fn}
            updates, after = tx.update(descent, state, params, **more)
            before, new = jax.tree.structure(state), jax.tree.structure(after)
            if before != new:  # found while tracing: nothing has changed
                raise TypeError(f"the transformation changed its state's structure, from {before} to {new}")
            return value, jax.tree.leaves(base.apply_updates(params, updates)), jax.tree.leaves(after)

        return optimizer_step

    def entries(self, layout: Layout) -> list[Entry]:
        """The state by parameter."""
        return self.codec.entries(layout, self.state, self._several)

    def read(self, layout: Layout, reading: Reading, records: Sequence[Group]) -> PyTree:
        """The state that a state dict tells, for :meth:`commit`."""
        fresh = self._whole(layout, records).init(layout.structure.unflatten(reading.params))
        return self.codec.read(layout, reading, fresh, self.state, self._several)

    def functional(
        self,
        layout: Layout,
        params: list[PyTree],
        options: Sequence[Group],
        records: Sequence[Group],
        counts: list[int],
    ) -> tuple[GradientTransformation, PyTree]:
        """``(transformation, state)`` that continue from here."""
        del params
        leaves, structure = self._fitted(records)
        state = structure.unflatten(leaves)
        late = self.codec.behind(state, counts)
        live = [
            {name: one[name] if name in self.static else delayed(one[name], late) for name in self._names(one)}
            for one in options
        ]
        self._exported = self.codec.counters(state)  # the state may be donated before it is restored
        return self._whole(layout, live), state

    def restored(
        self, layout: Layout, params: list[PyTree], state: PyTree, records: Sequence[Group], counts: list[int]
    ) -> tuple[PyTree, list[int]]:
        """The state for :meth:`commit` and the groups' counts, from a state as :meth:`functional` gives it."""
        del layout, params
        leaves, structure = self._fitted(records)
        present = structure.unflatten(leaves)
        after = _matched(present, state)
        before = self.codec.counters(present) if self._exported is None else self._exported
        done = max((b - a for a, b in zip(before, self.codec.counters(after), strict=True)), default=0)
        pairs = zip(counts, records, strict=True)
        return after, [count if self._is_frozen(record) else count + done for count, record in pairs]


def _is_packed(node: PyTree) -> bool:
    return isinstance(node, ForeachState)


def _with_arguments(loss: Callable[..., PyTree], args: tuple[PyTree, ...], params: PyTree) -> PyTree:
    return loss(params, *args)


def _matched(state: PyTree, given: object) -> PyTree:
    """A copy of ``given``, which must have the structure, shapes and dtypes of ``state``."""
    names, models, treedef = trees.named_leaves(state)
    leaves = trees.align(state, given, "the leaves of the state")
    for name, model, leaf in zip(names, models, leaves, strict=True):
        if getattr(leaf, "shape", None) != model.shape or leaf.dtype != model.dtype:
            raise ValueError(f"{trees.quote(name)} of the state is not {jax.typeof(model)}, but {leaf!r:.100}")
    return treedef.unflatten(map(own, leaves))
