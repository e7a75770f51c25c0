"""Steps an algorithm that treats every parameter alone: one history a parameter, as torch keeps it.

The scalars of a step are formed on the host in doubles and go into the compiled update as one small array. Parameters
of a group with the same number of updates share their scalars; a parameter without a gradient is left out of the call.
"""

from collections.abc import Sequence

import jax

from functorch_optim import rows
from functorch_optim.base import GradientTransformation
from functorch_optim.optim.engine import handover
from functorch_optim.optim.engine.entries import entries_of, history_of
from functorch_optim.optim.engine.histories import Histories, History, fitted
from functorch_optim.optim.engine.kinds import Algorithms, Record
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.prepared import Prepared
from functorch_optim.optim.engine.protocol import Entry, Group, Reading
from functorch_optim.optim.engine.torch_habits import habits_of
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.transaction import Call
from functorch_optim.typing import PyTree


class ByParameter:
    """The histories of the parameters, and the step."""

    strict = True  # every option of ``data_names`` must be a number
    one_by_one = True  # whether a parameter's state can be read without the others'
    together = False  # whether a state is one of all parameters

    def __init__(self, algorithms: Algorithms) -> None:
        self.algorithms = algorithms
        self.data_names = algorithms.data_names
        self.warm: Prepared | None = None  # the last step, which the next one may be like
        self._known = Histories()

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_known": self._known.snapshot(), "warm": None}

    @property
    def histories(self) -> list[History]:
        """The history of every parameter; nothing is packed any more."""
        return self._known.each()

    @histories.setter
    def histories(self, histories: list[History]) -> None:
        self._known, self.warm = Histories(histories), None

    def reads(self, options: Group) -> tuple[tuple[str, ...], set[str]]:
        """The names of the options of a group that a step reads, and those among them that are numbers."""
        return self.algorithms.reads(options)

    def check(self, options: Group, live: bool = False) -> None:
        """Raise unless the algorithm takes these options; of ``live`` ones it takes more combinations."""
        self.algorithms.check(options, live)

    def takes_rows(self, options: Group) -> bool:
        """Whether the gradients of a group may be row-sparse."""
        return self.algorithms.kind(options).rule_type.takes_rows

    def record(self, options: Group, group: int) -> Record:
        """What a step reads of a group, whose options are numbers by now."""
        return self.algorithms.record(options, group)

    def start(self, layout: Layout, params: list[PyTree], records: Sequence[Record]) -> None:
        """Take up parameters that have no history."""
        self.histories = []
        self.commit(self.extended(layout, params, records))

    def extended(self, layout: Layout, params: list[PyTree], records: Sequence[Record]) -> list[History]:
        """The state for :meth:`commit` with the further parameters that ``layout`` has after the known ones."""
        histories = list(self.histories)
        everything = list(zip(params, layout.labels, layout.group_of, strict=True))
        for param, name, group in everything[len(histories) :]:
            rule, history = records[group].algorithm.rule, History()
            rule.check_parameter(name, param)
            whole = habits_of(type(rule)).starts_whole
            histories.append(fitted(history, records[group], param) if whole else history)
        return histories

    def step(
        self,
        layout: Layout,
        held: Leaves,
        grads: list[PyTree],
        records: Sequence[Record],
        in_place: bool = True,
    ) -> Call:
        """The call that updates the parameters where there is a gradient; see :meth:`Engine.step`."""
        prepared = self._prepared(layout, held, grads, records, in_place)
        self.warm = prepared if in_place and not any(map(rows.is_rows, grads)) else None
        return prepared.call(held, grads, records)

    def _prepared(
        self, layout: Layout, held: Leaves, grads: list[PyTree], records: Sequence[Record], in_place: bool
    ) -> Prepared:
        """Which parameters these gradients update, with which histories; small ones packed."""
        known, group_of, made = self._known, layout.group_of, {}

        def as_needed(index: int, param: PyTree) -> History:
            return fitted(known[index], records[group_of[index]], param)

        if in_place:
            odd = {index for index, grad in enumerate(grads) if grad is None or rows.is_rows(grad)}
            made = known.pack(held, odd, group_of, records, as_needed)
        active = [index for index, grad in enumerate(grads) if grad is not None and index not in known.packed]
        histories = [made.pop(i, None) or as_needed(i, held.loose[i]) for i in active]
        for i in active:
            group = records[group_of[i]]
            if group.algorithm.rule.takes_rows and (rows.is_rows(grads[i]) or group.algorithm.rule.needs_rows):
                group.algorithm.check_gradient(layout.labels[i], grads[i], group.decays)
        anew = [history is not known[i] for i, history in zip(active, histories, strict=True)]
        member_groups = [*[group_of[i] for i in active], *[pack.group for pack in known.packs]]
        everyone = [*histories, *[pack.history for pack in known.packs]]
        kinds, algorithms = list(map(type, grads)), [group.algorithm for group in records]
        return Prepared(held, known, algorithms, kinds, active, anew, everyone, member_groups, in_place)

    def entries(self, layout: Layout) -> list[Entry]:
        """What torch's ``state_dict`` has of each parameter."""
        del layout
        return entries_of(self._known.read(), [kind.rule_type for kind in self.algorithms.kinds.values()])

    def read(self, layout: Layout, reading: Reading, records: Sequence[Record]) -> PyTree:
        """The histories that a state dict tells, for :meth:`commit`; where it tells none, those that are here."""
        histories = list(self.histories)
        everything = zip(reading.loaded.entries, layout.group_of, reading.params, layout.labels, strict=True)
        for index, (entry, group, param, name) in enumerate(everything):
            if entry is not None:
                rule, dtypes = records[group].algorithm.rule, records[group].dtypes
                try:
                    history = history_of(entry, rule, param, name, dtypes, reading.dtype)
                    begins = history.row is None and habits_of(type(rule)).starts_whole
                    histories[index] = fitted(history, records[group], param) if begins else history
                except (KeyError, TypeError, ValueError) as error:
                    reading.refused[name] = error
        return histories

    def arrays(self) -> list[jax.Array]:
        """All arrays as they are kept."""
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
        """``(transformation, state)`` that continue from here; a partition where histories or groups differ."""
        return handover.functional(self.algorithms, layout, self._fitted(layout, params, records), options, counts)

    def restored(
        self, layout: Layout, params: list[PyTree], state: PyTree, records: Sequence[Record], counts: list[int]
    ) -> tuple[list[History], list[int]]:
        """The histories for :meth:`commit` and the groups' counts, from a state as :meth:`functional` gives it."""
        histories = self._fitted(layout, params, records)
        return handover.restored(layout, params, histories, state, records, counts)

    def _fitted(self, layout: Layout, params: list[PyTree], records: Sequence[Record]) -> list[History]:
        """The histories as the next step would find them."""
        return [
            fitted(history, records[group], param)
            for history, group, param in zip(self.histories, layout.group_of, params, strict=True)
        ]
