"""Step an algorithm that updates each parameter independently, with one history per parameter, as in torch.

The host computes a step's scalars in doubles, and passes them to the compiled update as one small array. Parameters of
a group with equal update counts share scalars; a parameter without a gradient is left out of the call.
"""

import operator
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax

from functorch_optim import rows
from functorch_optim.base import GradientTransformation
from functorch_optim.core.packing import Assembly, Segments
from functorch_optim.optim.engine import handover
from functorch_optim.optim.engine.assembly import Grads
from functorch_optim.optim.engine.closures import Task
from functorch_optim.optim.engine.entries import entries_of, history_of
from functorch_optim.optim.engine.histories import Histories, History, fit
from functorch_optim.optim.engine.kinds import Algorithms, Record
from functorch_optim.optim.engine.packs import Leaves, Pack, join_all
from functorch_optim.optim.engine.prepared import Prepared
from functorch_optim.optim.engine.protocol import Entry, Group, Reading
from functorch_optim.optim.engine.torch_habits import habits_of
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.losses import CompiledLosses
from functorch_optim.optim.transaction import Call
from functorch_optim.typing import PyTree

_GRADIENT = object()  # stands for a gradient that the compiled function forms


class _Ahead(NamedTuple):
    """The form of parameters that the next step will pack, and what it follows from."""

    held: weakref.ref[Leaves]  # weak, so that replaced arrays are freed at once
    key: list[object]
    assembly: Assembly


def _assembly(layout: Layout, packs: Sequence[Segments]) -> Assembly:
    """Return the form of parameters of which ``packs`` are joined."""
    joined = {index for segments in packs for index in segments.indices}
    alone = tuple([index for index in range(len(layout.group_of)) if index not in joined])
    return Assembly(layout.structure, alone, tuple(packs))


class ByParameter:
    """The engine with one history per parameter."""

    strict = True  # every option of ``data_names`` must be a number
    one_by_one = True  # whether a parameter's state can be read independently of the others'
    together = False  # whether all parameters share one state

    def __init__(self, algorithms: Algorithms) -> None:
        self.algorithms = algorithms
        self.data_names = algorithms.data_names
        self.warm: Prepared | None = None  # the last step, which the next one may repeat
        self._known = Histories()
        self._form: tuple[Sequence[Pack], Assembly] | None = None  # of packed parameters
        self._ahead: _Ahead | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_known": self._known.snapshot(), "warm": None, "_form": None, "_ahead": None}

    @property
    def histories(self) -> list[History]:
        """The history of every parameter; reading it unpacks all."""
        return self._known.each()

    @histories.setter
    def histories(self, histories: list[History]) -> None:
        self._known, self.warm = Histories(histories), None

    def reads(self, options: Group) -> tuple[tuple[str, ...], set[str]]:
        """Return the names of the options of a group that a step reads, and which of them are numbers."""
        return self.algorithms.reads(options)

    def check(self, options: Group, live: bool = False) -> None:
        """Raise unless the algorithm accepts these options; it accepts more combinations of ``live`` ones."""
        self.algorithms.check(options, live)

    def takes_rows(self, options: Group) -> bool:
        """Whether the gradients of a group may be row-sparse."""
        return self.algorithms.kind(options).rule_type.takes_rows

    def record(self, options: Group, group: int) -> Record:
        """Build the record of a group from its options, which are numbers by now."""
        return self.algorithms.record(options, group)

    def start(self, layout: Layout, params: list[PyTree], records: Sequence[Record]) -> None:
        """Start with parameters that have no history."""
        self.histories = []
        self.commit(self.extend(layout, params, records))

    def extend(self, layout: Layout, params: list[PyTree], records: Sequence[Record]) -> list[History]:
        """Return the state for :meth:`commit`, extended to the new parameters in ``layout``."""
        histories = list(self.histories)
        everything = list(zip(params, layout.labels, layout.group_of, strict=True))
        for param, name, group in everything[len(histories) :]:
            rule, history = records[group].algorithm.rule, History()
            rule.check_parameter(name, param)
            whole = habits_of(type(rule)).starts_whole
            histories.append(fit(history, records[group], param) if whole else history)
        return histories

    def step(
        self,
        layout: Layout,
        held: Leaves,
        grads: Grads,
        records: Sequence[Record],
        in_place: bool = True,
    ) -> Call:
        """Return the call that updates the parameters that have a gradient; see :meth:`Engine.step`."""
        marks = grads if isinstance(grads, list) else grads.marks()
        prepared = self._prepared(layout, held, marks, records, in_place)
        reusable = in_place and not any(map(rows.is_rows, marks))
        return self._keeping(prepared if reusable else None, prepared.call(held, grads, records))

    def step_by_loss(
        self,
        layout: Layout,
        held: Leaves,
        losses: CompiledLosses,
        task: Task,
        records: Sequence[Record],
    ) -> Call:
        """Return the call that updates the parameters by a closure; see :meth:`Engine.step_by_loss`."""
        marks = [None if leaf in task.how.dropped else _GRADIENT for leaf in range(len(held))]
        prepared = self.warm
        if prepared is None or not prepared.serves(held, marks, records):
            prepared = self._prepared(layout, held, marks, records, True)
        return self._keeping(prepared, prepared.call_by_loss(layout.structure, held, losses, task, records))

    def _keeping(self, prepared: Prepared | None, call: Call) -> Call:
        """Return the call that also keeps, once it is made, what the next step may repeat."""

        def commit(result: PyTree) -> None:
            call.commit(result)
            self.warm = prepared

        return call._replace(commit=commit)

    def packed(
        self, layout: Layout, held: Leaves, records: Callable[[], Sequence[Record]]
    ) -> tuple[Assembly, list[PyTree]] | None:
        """Return the parameters as the next step stores them, if it packs some of them; see :meth:`Engine.packed`."""
        arrangement = self._known.arrangement
        if not arrangement.packs and not arrangement.final:
            return self._packed_ahead(layout, held, records())
        if not arrangement.packs or arrangement.owner is not held:
            return None
        if self._form is None or self._form[0] is not arrangement.packs:
            self._form = arrangement.packs, _assembly(layout, [pack.segments for pack in arrangement.packs])
        assembly = self._form[1]
        arrays = [*[held.loose[i] for i in assembly.alone], *[pack.param for pack in arrangement.packs]]
        return assembly, arrays

    def _packed_ahead(
        self, layout: Layout, held: Leaves, records: Sequence[Record]
    ) -> tuple[Assembly, list[PyTree]] | None:
        """Return what :meth:`packed` returns, before the step that forms the packs."""
        arrays, key = held.arrays(), list[object]([self._known.arrangement])
        for record in records:
            key += [record.algorithm, record.foreach]
        ahead = self._ahead
        if ahead is None or ahead.held() is not held or not all(map(operator.is_, ahead.key, key)):
            packs = [
                Segments(tuple(indices), tuple([arrays[i].shape for i in indices]))
                for indices in self._known.expected(held, layout.group_of, records)
            ]
            ahead = self._ahead = _Ahead(weakref.ref(held), key, _assembly(layout, packs))
        assembly = ahead.assembly
        if not assembly.packs:
            return None
        return assembly, [*[arrays[i] for i in assembly.alone], *[join_all(each.of(arrays)) for each in assembly.packs]]

    def evaluates(self, groups: Sequence[Group]) -> bool:
        """Whether :meth:`step_by_loss` works: not for rules that take row-sparse gradients only."""
        return not any(self.algorithms.kind(options).rule_type.needs_rows for options in groups)

    def _prepared(
        self, layout: Layout, held: Leaves, grads: list[PyTree], records: Sequence[Record], in_place: bool
    ) -> Prepared:
        """Find the parameters that these gradients update, and their histories; pack small ones."""
        known, group_of = self._known, layout.group_of
        arrangement, cache = known.arrangement, {}

        def as_needed(index: int, param: PyTree) -> History:
            return fit(known[index], records[group_of[index]], param)

        if in_place:
            odd = {index for index, grad in enumerate(grads) if grad is None or rows.is_rows(grad)}
            arrangement, cache = known.packed(held, odd, group_of, records, as_needed)
        packs = arrangement.packs
        active = [index for index, grad in enumerate(grads) if grad is not None and index not in arrangement.packed]
        histories = [cache.pop(i, None) or as_needed(i, held.loose[i]) for i in active]
        for i in active:
            group = records[group_of[i]]
            if group.algorithm.rule.takes_rows and (rows.is_rows(grads[i]) or group.algorithm.rule.needs_rows):
                group.algorithm.check_gradient(layout.labels[i], grads[i], group.decays)
        shares_arrays = [history is not known[i] for i, history in zip(active, histories, strict=True)]
        member_groups = [*[group_of[i] for i in active], *[pack.group for pack in packs]]
        all_histories = [*histories, *[pack.history for pack in packs]]
        kinds, algorithms = list(map(type, grads)), [group.algorithm for group in records]
        return Prepared(
            held, known, arrangement, algorithms, kinds, active, shares_arrays, all_histories, member_groups, in_place
        )

    def entries(self, layout: Layout) -> list[Entry]:
        """Return each parameter's entry in torch's ``state_dict``."""
        del layout
        return entries_of(self._known.read(), [kind.rule_type for kind in self.algorithms.kinds.values()])

    def read(self, layout: Layout, reading: Reading, records: Sequence[Record]) -> PyTree:
        """Return the histories that a state dict describes, for :meth:`commit`; others stay."""
        histories = list(self.histories)
        everything = zip(reading.loaded.entries, layout.group_of, reading.params, layout.labels, strict=True)
        for index, (entry, group, param, name) in enumerate(everything):
            if entry is not None:
                rule, dtypes = records[group].algorithm.rule, records[group].dtypes
                try:
                    history = history_of(entry, rule, param, name, dtypes, reading.dtype)
                    begins = history.row is None and habits_of(type(rule)).starts_whole
                    histories[index] = fit(history, records[group], param) if begins else history
                except (KeyError, TypeError, ValueError) as error:
                    reading.refused[name] = error
        return histories

    def arrays(self) -> list[jax.Array]:
        """Return all arrays as they are stored."""
        return self._known.arrays()

    def commit(self, state: PyTree) -> None:
        self.histories = state

    def functional(
        self,
        layout: Layout,
        params: list[PyTree],
        options: Sequence[Group],
        records: Sequence[Record],
        counts: list[int],
    ) -> tuple[GradientTransformation, PyTree]:
        """Return ``(transformation, state)`` that continue from here; a partition if histories or groups differ."""
        return handover.functional(self.algorithms, layout, self._fit(layout, params, records), options, counts)

    def restore(
        self, layout: Layout, params: list[PyTree], state: PyTree, records: Sequence[Record], counts: list[int]
    ) -> tuple[list[History], list[int]]:
        """Return the histories for :meth:`commit` and the groups' counts, from a state like :meth:`functional`'s."""
        histories = self._fit(layout, params, records)
        return handover.restore(layout, params, histories, state, records, counts)

    def _fit(self, layout: Layout, params: list[PyTree], records: Sequence[Record]) -> list[History]:
        """Return the histories as the next step needs them."""
        return [
            fit(history, records[group], param)
            for history, group, param in zip(self.histories, layout.group_of, params, strict=True)
        ]
