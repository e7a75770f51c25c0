"""Step a transformation of the whole tree, with one state for all parameters, and the groups' numbers as data."""

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from functorch_optim import base, trees
from functorch_optim.base import GradientTransformation, check_transformation, needs_of, transformation, update_of
from functorch_optim.combinators import NamedStates, check_outermost
from functorch_optim.core.options import Deferred
from functorch_optim.core.packing import ForeachState
from functorch_optim.optim.engine.assembly import Grads, leaves_of
from functorch_optim.optim.engine.by_path import BY_PATH
from functorch_optim.optim.engine.closures import PLAIN, Evaluation, Task, evaluate, functions_of
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.protocol import Codec, Entry, Group, Reading
from functorch_optim.optim.engine.resting import resting
from functorch_optim.optim.engine.templates import Template, fill, template_of, types_of
from functorch_optim.optim.engine.within import Within
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.losses import CompiledLosses
from functorch_optim.optim.options import delay
from functorch_optim.optim.ownership import own
from functorch_optim.optim.transaction import Args, Call, Compiled, exclusive
from functorch_optim.option_names import call_with
from functorch_optim.selection import partition
from functorch_optim.transforms.conjugation import conjugate_leaf
from functorch_optim.typing import PyTree

Make = Callable[..., GradientTransformation]


class Grown(NamedTuple):
    """The state of a partition after a group was added."""

    state: NamedStates


class ByTree:
    """The engine with one state for all parameters; several groups form a partition.

    ``make`` gets a group's options: those in ``static`` as they are, numbers among the others as traced scalars.
    ``codec`` lays the state out in torch's ``state_dict``.
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
        self._needs: dict[Hashable, frozenset[str]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_compiled": {}, "_needs": {}, "_leaves": list(self._leaves)}

    @property
    def state(self) -> PyTree:
        """The transformation's state."""
        return self._structure.unflatten(self._leaves)

    def arrays(self) -> list[jax.Array]:
        """Return all arrays as they are stored."""
        return self._leaves

    def commit(self, state: PyTree) -> None:
        """Continue from ``state``."""
        several = self._several
        if isinstance(state, Grown):
            several, state = True, state.state
        leaves, treedef = jax.tree.flatten(state)
        self._leaves, self._structure, self._several = leaves, trees.Structure(treedef), several
        self._exported = None

    def takes_rows(self, options: Group) -> bool:
        """Return True: a transformation that takes no row-sparse gradients raises by itself."""
        del options
        return True

    def reads(self, options: Group) -> tuple[tuple[str, ...], set[str]]:
        """Return the names of the options of a group that a step reads, and which of them may be numbers."""
        return self._names(options), self.data_names

    def _names(self, options: Group) -> tuple[str, ...]:
        """Return the names of the options that build the transformation, and ``frozen`` if the group is."""
        return (*self.option_names, "frozen") if self._is_frozen(options) else self.option_names

    def _is_frozen(self, options: Group) -> bool:
        """Whether a group is frozen; ``frozen`` may also be an option of the transformation."""
        return bool(options.get("frozen")) and "frozen" not in self.option_names

    def record(self, options: Group, group: int) -> Group:
        """Return the record of a group: its options, which are numbers by now."""
        del group
        return options

    def check(self, options: Group, live: bool = False) -> None:
        """Raise unless the transformation can be built with these options."""
        if not live and "state_dtype" in options and "state_dtype" not in self.option_names:
            raise ValueError("this optimizer has no option state_dtype: wrap a composition in fo.state_dtype instead")
        self.build(options)

    def build(self, options: Group) -> GradientTransformation:
        """Build the transformation of a group's options."""
        tx = call_with(self.make, {name: options[name] for name in self.option_names})
        check_transformation("what make returns", tx)
        return tx

    def start(self, layout: Layout, params: list[PyTree], records: Sequence[Group]) -> None:
        """Create the state before the first update."""
        self._several = len(records) > 1  # then the state is a partition's
        tx, tree = self._whole(layout, records), layout.structure.unflatten(params)
        state = tx.init(tree)
        check_outermost(tx, tree)
        if any(isinstance(node, ForeachState) for node in jax.tree.leaves(state, is_leaf=_is_packed)):
            raise ValueError(
                "a transformation with foreach=True stores the state of many parameters in one array, which has no "
                "place in a state_dict: leave foreach out here"
            )
        self.commit(state)

    def extend(self, layout: Layout, params: list[PyTree], records: Sequence[Group]) -> Grown:
        """Return the state for :meth:`commit`, extended to new parameters: a new group with its own state."""
        state = self.state
        fresh = self._whole(layout, records).init(layout.structure.unflatten(params))
        assert isinstance(fresh, NamedStates)
        known = state.states if self._several else {"group0": state}  # each has its own tree, which does not change
        return Grown(NamedStates({**fresh.states, **known}))

    def _whole(self, layout: Layout, options: Sequence[Group]) -> GradientTransformation:
        """Build the transformation of the whole tree from the options of each group."""
        members = [resting(self.build(one)) if self._is_frozen(one) else self.build(one) for one in options]
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
        grads: Grads,
        records: Sequence[Group],
        in_place: bool = True,
    ) -> Call:
        """Return the call that updates the parameters; the transformation gets None for a missing gradient."""
        del in_place  # nothing is traced here
        templates, numbers = self._templates(records)
        key = (templates, types_of(templates), tuple(layout.group_of))
        if key not in self._compiled:
            self._compiled[key] = Compiled(self._update(layout, templates), (0, 1))
        return self._call(self._compiled[key], held, leaves_of(grads), numbers, records)

    def needs_of_loss(self, records: Sequence[Group]) -> frozenset[str]:
        """Return the keywords of the loss without which an update raises."""
        templates = self._templates(records)[0]
        key = templates, types_of(templates)
        if key not in self._needs:
            self._needs[key] = frozenset().union(*(needs_of(self.build(self._unchecked(one))) for one in records))
        return self._needs[key]

    def _unchecked(self, options: Group) -> Group:
        """Return the options with stand-ins for numbers, whose values in a group are taken as they are."""
        return {**options, **{name: Deferred() for name in self.data_names}} if self.strict else options

    def step_by_loss(
        self,
        layout: Layout,
        held: Leaves,
        losses: CompiledLosses,
        task: Task,
        records: Sequence[Group],
    ) -> Call:
        """Return the call that updates the parameters by a closure; see :meth:`Engine.step_by_loss`.

        The transformation may evaluate the closure too.
        """
        if self.strict:  # checks the options that are not numbers before anything is compiled
            self.build(self._unchecked(records[0]))
        templates, numbers = self._templates(records)

        def make(loss: Callable[..., PyTree]) -> Callable[..., PyTree]:
            return self._update(layout, templates, loss, task.how, needs)

        needs = self.needs_of_loss(records)
        kind = templates, types_of(templates), tuple(layout.group_of), task.how
        compiled = losses.compiled(task.closure, kind, make, donated=(0, 1))
        return self._call(compiled, held, task.data, numbers, records)

    def packed(self, layout: Layout, held: Leaves, records: object) -> None:
        """Return None: nothing is packed."""
        del layout, held, records

    def evaluates(self, groups: Sequence[Group]) -> bool:
        """Whether :meth:`step_by_loss` works: always."""
        del groups
        return True

    def _templates(self, records: Sequence[Group]) -> tuple[tuple[Template, ...], np.ndarray]:
        """Return the templates of all groups, and their numbers as one vector."""
        split = [template_of(self._names(options), self.static, options) for options in records]
        numbers = np.array([number for _, group in split for number in group], np.float64)
        return tuple(template for template, _ in split), numbers

    def _call(
        self, compiled: Compiled, held: Leaves, data: PyTree, numbers: np.ndarray, records: Sequence[Group]
    ) -> Call:
        """Return one call of a compiled :meth:`_update`."""
        state_leaves, structure = self._fit(records)

        def arguments() -> Args:
            return exclusive(held.arrays()), structure.unflatten(exclusive(state_leaves)), data, numbers

        def commit(result: PyTree) -> None:
            _, held.loose, leaves = result
            self._leaves, self._structure, self._exported = leaves, structure, None

        return Call(compiled, arguments, commit)

    def _fit(self, records: Sequence[Group]) -> tuple[list[PyTree], trees.Structure]:
        """Return the leaves and the structure of the state, resized for these options."""
        resized = self.codec.resized(self.state, records[0])
        if resized is None:
            return self._leaves, self._structure
        leaves, treedef = jax.tree.flatten(resized)
        return leaves, trees.Structure(treedef)

    def _update(
        self,
        layout: Layout,
        templates: tuple[Template, ...],
        loss: Callable[..., PyTree] | None = None,
        how: Evaluation = PLAIN,
        needs: frozenset[str] = frozenset(),
    ) -> Callable[..., PyTree]:
        """Return ``(params, state, data, numbers) -> (outcome, params, state)``.

        ``data`` are the gradients, or with a ``loss``, its :class:`Data`. Then the transformation gets the keywords of
        the loss too; the functions only if the closure is plain.
        """

        def optimizer_step(leaves: list[PyTree], state: PyTree, data: PyTree, numbers: jax.Array) -> PyTree:
            params, tx = layout.structure.unflatten(leaves), self._whole(layout, fill(templates, numbers))
            if loss is None:
                outcome, grads = None, data
            else:
                outcome, grads = evaluate(loss, how, params, data)
            descent = layout.structure.unflatten([None if grad is None else conjugate_leaf(grad) for grad in grads])
            more: dict[str, PyTree] = {} if outcome is None else {"value": outcome.value, "grad": descent}
            if loss is not None and how.is_plain:
                more |= functions_of(loss, data.args, needs)
            updates, after = update_of(tx, descent, state, params, more)
            before, new = jax.tree.structure(state), jax.tree.structure(after)
            if before != new:  # raised while tracing: nothing has changed
                raise TypeError(f"the transformation changed its state's structure, from {before} to {new}")
            return outcome, jax.tree.leaves(base.apply_updates(params, updates)), jax.tree.leaves(after)

        return optimizer_step

    def entries(self, layout: Layout) -> list[Entry]:
        """Return the state by parameter."""
        return self.codec.entries(layout, self.state, self._several)

    def read(self, layout: Layout, reading: Reading, records: Sequence[Group]) -> PyTree:
        """Return the state that a state dict describes, for :meth:`commit`."""
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
        """Return ``(transformation, state)`` that continue from here."""
        del params
        leaves, structure = self._fit(records)
        state = structure.unflatten(leaves)
        late = self.codec.behind(state, counts)
        live = [
            {name: one[name] if name in self.static else delay(one[name], late) for name in self._names(one)}
            for one in options
        ]
        self._exported = self.codec.counters(state)  # the state may be donated before it is restored
        return self._whole(layout, live), state

    def restore(
        self, layout: Layout, params: list[PyTree], state: PyTree, records: Sequence[Group], counts: list[int]
    ) -> tuple[PyTree, list[int]]:
        """Return the state for :meth:`commit` and the groups' counts, from a state like :meth:`functional`'s."""
        del layout, params
        leaves, structure = self._fit(records)
        present = structure.unflatten(leaves)
        after = _matched(present, state)
        before = self.codec.counters(present) if self._exported is None else self._exported
        done = max((b - a for a, b in zip(before, self.codec.counters(after), strict=True)), default=0)
        pairs = zip(counts, records, strict=True)
        return after, [count if self._is_frozen(record) else count + done for count, record in pairs]


def _is_packed(node: PyTree) -> bool:
    return isinstance(node, ForeachState)


def _matched(state: PyTree, given: object) -> PyTree:
    """Copy ``given``, which must have the structure, shapes and dtypes of ``state``."""
    names, models, treedef = trees.named_leaves(state)
    leaves = trees.align(state, given, "the leaves of the state")
    for name, model, leaf in zip(names, models, leaves, strict=True):
        if getattr(leaf, "shape", None) != model.shape or leaf.dtype != model.dtype:
            raise ValueError(f"{trees.quote(name)} of the state must be {jax.typeof(model)}, but it is {leaf!r:.100}")
    return treedef.unflatten(map(own, leaves))
