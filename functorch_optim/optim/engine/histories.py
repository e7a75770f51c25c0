"""What is known of every parameter: one history each, as torch keeps it, and one for all of a pack."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax

from functorch_optim.core.lifted import Lifted
from functorch_optim.core.packing import packable
from functorch_optim.core.scalar_math import single
from functorch_optim.optim.engine.kinds import Record
from functorch_optim.optim.engine.packs import Leaves, Pack, cut_all, join_all
from functorch_optim.optim.engine.slot_dtypes import cast_slots
from functorch_optim.optim.engine.torch_habits import habits_of
from functorch_optim.typing import Numeric, PyTree

FEWEST = 64  # small parameters that are packed with foreach=None; fewer gain nothing where they are read every step


@dataclass(slots=True)
class History:
    """What is known of one parameter: its slots (None before the first update) and how often it was updated.

    ``carried`` has the scalars that go from step to step, as numbers that float32 holds; ``idle`` the slots that the
    present options do not use, which torch keeps too; ``row`` was made for ``algorithm``.
    """

    row: PyTree = None
    step: int = 0
    carried: dict[str, Numeric] = field(default_factory=dict)
    idle: dict[str, PyTree] = field(default_factory=dict)
    algorithm: Lifted | None = None


def fitted(history: History, record: Record, param: PyTree) -> History:
    """The history with a row that has the slots which the group's algorithm uses.

    A missing slot starts as the algorithm starts it, and so does the count where torch keeps none.
    """
    algorithm = record.algorithm
    if history.algorithm is algorithm:
        return history
    rule, hyperparams = algorithm.rule, record.numbers
    if history.row is None:
        carried = {name: single(value) for name, value in rule.start(hyperparams).items()}
        return History(cast_slots(rule.init(param, hyperparams), record.dtypes), 0, carried, {}, algorithm)
    held = {**history.idle, **slots_of(history.row)}
    whole = all(name in held for name in algorithm.slot_names)
    row = rule.empty() if whole else rule.init(param, hyperparams)
    row = row._replace(**{name: held.pop(name) for name in algorithm.slot_names if name in held})
    restarts = not whole and not habits_of(type(rule)).counts_steps
    row = cast_slots(row, record.dtypes)
    return History(row, 0 if restarts else history.step, history.carried, held, algorithm)


def slots_of(row: PyTree) -> dict[str, PyTree]:
    """The slots of one parameter's state that are there."""
    return {name: value for name, value in row._asdict().items() if name != "step" and value is not None}


class Arrangement(NamedTuple):
    """Which histories stand alone, and which share one: the whole state of :class:`Histories`, replaced as one."""

    alone: list[PyTree]  # the history of each parameter, None where it is packed
    packs: tuple[Pack, ...] = ()
    packed: frozenset[int] = frozenset()
    owner: Leaves | None = None  # what has the packed parameters
    final: bool = False  # whether nothing else can be packed


class Histories:
    """The histories of an optimizer's parameters. Those of a pack share one, until somebody asks for them singly."""

    def __init__(self, histories: Iterable[History] = ()) -> None:
        self.arrangement = Arrangement(list(histories))
        self._apart: set[int] = set()  # parameters that were skipped while they were packed

    @property
    def packs(self) -> tuple[Pack, ...]:
        return self.arrangement.packs

    @property
    def packed(self) -> frozenset[int]:
        """The positions of the packed parameters."""
        return self.arrangement.packed

    def __getitem__(self, index: int) -> History:
        """The history of a parameter that is not packed."""
        return self.arrangement.alone[index]

    def __setitem__(self, index: int, history: History) -> None:
        self.arrangement.alone[index] = history

    def read(self) -> list[History]:
        """The history of every parameter, with arrays of its own; packs stay packed."""
        alone = list(self.arrangement.alone)
        for pack in self.packs:
            shared = pack.history
            for index, row in zip(pack.indices, cut_all(shared.row, pack.segments), strict=True):
                alone[index] = replace(shared, row=row, carried=dict(shared.carried), idle={})
        return alone

    def snapshot(self) -> "Histories":
        """A copy with containers of its own and nothing packed, so that a step overwrites none of its arrays."""
        return Histories(
            replace(each, row=jax.tree.map(lambda x: x, each.row), carried=dict(each.carried), idle=dict(each.idle))
            for each in self.read()
        )

    def arrays(self) -> list[jax.Array]:
        """All arrays as they are stored."""
        rows = [history.row for history in self.arrangement.alone if history is not None]
        return jax.tree.leaves((rows, [(pack.param, pack.history.row) for pack in self.packs]))

    def each(self) -> list[History]:
        """Unpack everything; returns the history of every parameter."""
        if self.arrangement.owner is not None:
            self.arrangement.owner.arrays()
        self.arrangement = Arrangement(self.read())
        return self.arrangement.alone

    def pack(
        self,
        held: Leaves,
        odd: set[int],
        groups: Sequence[int],
        records: Sequence[Record],
        fitted: Callable[[int, jax.Array], History],
    ) -> dict[int, History]:
        """Pack whatever can be packed.

        Args:
            held: the parameters.
            odd: the parameters that no pack can hold now.
            groups: the group of each parameter.
            records: what a step reads of each group.
            fitted: gives a parameter's history as the step needs it.

        Returns:
            What ``fitted`` gave for the parameters that stay alone.
        """
        if self.packs:
            same = all(pack.history.algorithm is records[pack.group].algorithm for pack in self.packs)
            if same and self.arrangement.owner is held and odd.isdisjoint(self.packed):
                return {}
            self._apart |= odd & self.packed
            self.each()
        if self.arrangement.final:
            return {}
        if len(held) < 2 or all(group.foreach is False for group in records):
            self.arrangement = self.arrangement._replace(final=True)
            return {}
        arrays, apart = held.arrays(), odd | self._apart
        found = {i: fitted(i, array) for i, array in enumerate(arrays) if i not in apart}
        alone, packs = list(self.arrangement.alone), []
        for indices in together(arrays, found, groups, records):
            members = [found.pop(i) for i in indices]
            own = [arrays[i] for i in indices]
            shared = replace(members[0], row=join_all([history.row for history in members]))
            packs.append(Pack(indices, own, groups[indices[0]], shared))
            for index in indices:
                alone[index] = None
        packed = frozenset(index for pack in packs for index in pack.indices)
        self.arrangement = Arrangement(alone, tuple(packs), packed, held if packs else None, final=True)
        return found


def together(
    arrays: Sequence[jax.Array], histories: dict[int, History], groups: Sequence[int], records: Sequence[Record]
) -> list[list[int]]:
    """Which of these parameters form packs: those with equal histories, dtypes and devices."""
    parts: dict[Any, list[int]] = {}
    small = packable([arrays[index] for index in histories])
    for (index, history), fits in zip(histories.items(), small, strict=True):
        assert history.algorithm is not None
        group, rule = groups[index], history.algorithm.rule
        if not fits or records[group].foreach is False or history.idle or not rule.elementwise or rule.needs_rows:
            continue
        slots = jax.tree.leaves(history.row)
        if not slots or any(slot.shape != arrays[index].shape for slot in slots):
            continue
        kinds = tuple(str(slot.dtype) for slot in slots)
        carried = tuple(history.carried.items())
        key = (group, id(history.algorithm), history.step, carried, str(arrays[index].dtype), kinds)
        parts.setdefault(key, []).append(index)
    return [part for (group, *_), part in parts.items() if len(part) >= (2 if records[group].foreach else FEWEST)]
