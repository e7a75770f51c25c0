"""The histories of parameters: one each, as in torch, or one for a whole pack."""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
from jax.typing import DTypeLike

from functorch_optim.core.lifted import Lifted
from functorch_optim.core.packing import packable
from functorch_optim.core.rule import carried_dtype
from functorch_optim.core.scalar_math import rounded
from functorch_optim.optim.engine.kinds import Record
from functorch_optim.optim.engine.packs import Leaves, Pack, cut_all, join_all
from functorch_optim.optim.engine.slot_dtypes import SlotDtypes, cast_slots, widen_slots
from functorch_optim.typing import Numeric, PyTree

FEWEST = 64  # small parameters to pack with foreach=None, at least; fewer gain nothing if they are read every step
FEW_BREAKS = 2  # packs that missing gradients break up more often are left alone unless foreach=True


@dataclass(slots=True)
class History:
    """One parameter's state: its slots (None before the first update), and how often it was updated.

    ``carried`` has the scalars carried from step to step, as numbers that their dtype can hold; ``idle`` has the slots
    that the current options do not use, which torch keeps too; ``row`` was created for ``algorithm``, with the
    ``dtypes`` of the option ``state_dtype``.
    """

    row: PyTree = None
    step: int = 0
    carried: dict[str, Numeric] = field(default_factory=dict)
    idle: dict[str, PyTree] = field(default_factory=dict)
    algorithm: Lifted | None = None
    dtypes: SlotDtypes = ()


def fit(history: History, record: Record, param: PyTree) -> History:
    """Return the history with a row of the slots that the group's algorithm uses.

    A missing slot gets its initial value; then the count restarts too, if torch does not store it.
    """
    algorithm = record.algorithm
    if history.algorithm is algorithm:
        return history
    rule, hyperparams = algorithm.rule, record.numbers
    if history.row is None:
        return _first(record, _first_row(record, param))
    held = {**history.idle, **slots_of(history.row)}
    whole = all(name in held for name in algorithm.slot_names)
    row = rule.empty() if whole else rule.init(param, hyperparams)
    row = row._replace(**{name: held.pop(name) for name in algorithm.slot_names if name in held})
    restarts = not whole and not rule.counts_steps
    if history.dtypes and not record.dtypes:
        row = widen_slots(row, shapes_of(rule, param.shape, param.dtype))
    row = cast_slots(row, record.dtypes)
    return History(row, 0 if restarts else history.step, history.carried, held, algorithm, record.dtypes)


def _first_row(record: Record, param: PyTree) -> PyTree:
    """Return a parameter's slots before its first update."""
    return cast_slots(record.algorithm.rule.init(param, record.numbers), record.dtypes)


def _first(record: Record, row: PyTree) -> History:
    """Return the history before the first update; ``row`` has the slots, or their shapes."""
    rule = record.algorithm.rule
    carried = {name: rounded(value, carried_dtype(rule)) for name, value in rule.start(record.numbers).items()}
    return History(row, 0, carried, {}, record.algorithm, record.dtypes)


@functools.lru_cache(maxsize=1024)
def shapes_of(rule: Any, shape: tuple[int, ...], dtype: DTypeLike | None) -> PyTree:
    """The first slots of a parameter, as shapes and dtypes."""
    return rule.shapes(jax.ShapeDtypeStruct(shape, dtype))


def slots_of(row: PyTree) -> dict[str, PyTree]:
    """Return the slots of one parameter's state that are not None."""
    return {name: value for name, value in row._asdict().items() if name != "step" and value is not None}


class Arrangement(NamedTuple):
    """Which parameters have a history alone, and which share one: all of :class:`Histories`, replaced as a whole."""

    alone: list[PyTree]  # each parameter's history, or None if it is packed
    packs: tuple[Pack, ...] = ()
    packed: frozenset[int] = frozenset()
    owner: Leaves | None = None  # the holder of the packed parameters
    final: bool = False  # whether nothing more can be packed


class Histories:
    """The histories of an optimizer's parameters; those of a pack share one, until someone asks for a single one."""

    def __init__(self, histories: Iterable[History] = ()) -> None:
        self.arrangement = Arrangement(list(histories))
        self._apart: set[int] = set()  # parameters that were skipped while packed
        self._broken = 0  # how often gradients have broken packs up

    @property
    def packs(self) -> tuple[Pack, ...]:
        return self.arrangement.packs

    def __getitem__(self, index: int) -> History:
        """Return the history of a parameter that is not packed."""
        return self.arrangement.alone[index]

    def __setitem__(self, index: int, history: History) -> None:
        self.arrangement.alone[index] = history

    def read(self) -> list[History]:
        """Return every parameter's history, with its own arrays; packs stay packed."""
        arrangement = self.arrangement  # read once: another thread may replace it
        alone = list(arrangement.alone)
        for pack in arrangement.packs:
            shared = pack.history
            for index, row in zip(pack.indices, cut_all(shared.row, pack.segments), strict=True):
                alone[index] = replace(shared, row=row, carried=dict(shared.carried), idle={})
        return alone

    def snapshot(self) -> "Histories":
        """Return a copy with its own containers and nothing packed, so that a step overwrites none of its arrays."""
        return Histories(
            replace(each, row=jax.tree.map(lambda x: x, each.row), carried=dict(each.carried), idle=dict(each.idle))
            for each in self.read()
        )

    def arrays(self) -> list[jax.Array]:
        """Return all arrays as they are stored."""
        arrangement = self.arrangement
        rows = [history.row for history in arrangement.alone if history is not None]
        return jax.tree.leaves((rows, [(pack.param, pack.history.row) for pack in arrangement.packs]))

    def each(self) -> list[History]:
        """Unpack everything, and return every parameter's history."""
        if self.arrangement.owner is not None:
            self.arrangement.owner.arrays()
        self.arrangement = Arrangement(self.read())
        return self.arrangement.alone

    def packed(
        self,
        held: Leaves,
        odd: set[int],
        groups: Sequence[int],
        records: Sequence[Record],
        fit: Callable[[int, jax.Array], History],
    ) -> tuple[Arrangement, dict[int, History]]:
        """Find the arrangement of the next step, with everything packed that can be; commit it with the step's results.

        Args:
            held: the parameters.
            odd: the parameters that cannot be in a pack now.
            groups: the group of each parameter.
            records: the record of each group.
            fit: returns a parameter's history as the step needs it.

        Returns:
            The arrangement, and fitted histories of parameters that stay alone.
        """
        now = self.arrangement
        if now.packs:
            same = all(pack.history.algorithm is records[pack.group].algorithm for pack in now.packs)
            if same and now.owner is held and odd.isdisjoint(now.packed):
                return now, {}
            self._apart |= odd & now.packed
            self._broken += not odd.isdisjoint(now.packed)
            self.each()
            now = self.arrangement
        if now.final:
            return now, {}
        wanted = self._wanted(records)
        if len(held) < 2 or all(want is False for want in wanted):
            return now._replace(final=True), {}
        arrays, apart = held.arrays(), odd | self._apart
        candidates = {i: fit(i, array) for i, array in enumerate(arrays) if i not in apart}
        alone, packs = list(now.alone), []
        for indices in together(arrays, candidates, groups, wanted):
            members = [candidates.pop(i) for i in indices]
            own = [arrays[i] for i in indices]
            shared = replace(members[0], row=join_all([history.row for history in members]))
            packs.append(Pack(indices, own, groups[indices[0]], shared))
            for index in indices:
                alone[index] = None
        positions = frozenset(index for pack in packs for index in pack.indices)
        return Arrangement(alone, tuple(packs), positions, held if packs else None, final=True), candidates

    def _wanted(self, records: Sequence[Record]) -> list[bool | None]:
        """Return for each group whether to pack it; None packs many parameters only."""
        return [group.foreach if self._broken < FEW_BREAKS else bool(group.foreach) for group in records]

    def expected(self, held: Leaves, groups: Sequence[int], records: Sequence[Record]) -> list[list[int]]:
        """Return the parameters of each pack that a step would form now if all of them had gradients.

        No slots are created for this: shapes and dtypes decide.
        """
        wanted, arrays = self._wanted(records), held.arrays()
        if len(arrays) < (2 if any(wanted) else FEWEST):
            return []
        shapes: dict[Any, PyTree] = {}
        candidates: dict[int, History] = {}
        for index, array in enumerate(arrays):
            history, record = self[index], records[groups[index]]
            if index in self._apart:
                continue
            if history.row is not None:
                candidates[index] = fit(history, record, array)
            else:
                key = groups[index], array.shape, array.dtype
                if key not in shapes:
                    shapes[key] = jax.eval_shape(functools.partial(_first_row, record), array)
                candidates[index] = _first(record, shapes[key])
        return together(arrays, candidates, groups, wanted)


def together(
    arrays: Sequence[jax.Array], histories: dict[int, History], groups: Sequence[int], wanted: Sequence[bool | None]
) -> list[list[int]]:
    """Return which of these parameters form packs: those with equal histories, dtypes and devices.

    ``wanted`` has the option ``foreach`` of each group.
    """
    parts: dict[Any, list[int]] = {}
    small = packable([arrays[index] for index in histories])
    for (index, history), fits in zip(histories.items(), small, strict=True):
        assert history.algorithm is not None
        group, rule = groups[index], history.algorithm.rule
        if not fits or wanted[group] is False or history.idle or not rule.elementwise or rule.needs_rows:
            continue
        slots = jax.tree.leaves(history.row)
        if not slots or any(slot.shape != arrays[index].shape for slot in slots):
            continue
        kinds = tuple(str(slot.dtype) for slot in slots)
        carried = tuple(history.carried.items())
        key = (group, id(history.algorithm), history.step, carried, str(arrays[index].dtype), kinds)
        parts.setdefault(key, []).append(index)
    return [part for (group, *_), part in parts.items() if len(part) >= (2 if wanted[group] else FEWEST)]
