"""What is known of every parameter: one history each, as torch keeps it, and one for all of a pack."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax

from functorch_optim.core.lifted import Lifted
from functorch_optim.core.packing import packable
from functorch_optim.core.scalar_math import single
from functorch_optim.optim.engine.packs import Leaves, Pack, cut_all, join_all
from functorch_optim.optim.engine.torch_habits import habits_of
from functorch_optim.optim.options import is_traced
from functorch_optim.typing import Numeric, PyTree

FEWEST = 256  # with foreach=None so many small parameters are packed; a hundred cost as much to cut as they save


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

    def age(self) -> tuple[int, tuple[Numeric, ...]]:
        """What it has to do with a step's scalars: parameters of which it is equal share them."""
        assert self.algorithm is not None
        counts_steps = habits_of(type(self.algorithm.rule)).counts_steps
        step = self.step if counts_steps else min(self.step, 1)
        return step, tuple([id(value) if is_traced(value) else value for value in self.carried.values()])


def fitted(history: History, algorithm: Lifted, param: PyTree, options: Any) -> History:
    """The history with the slots that the algorithm uses in its row.

    A slot that is not there yet starts as the algorithm starts it; where torch counts no steps, the count does too.
    """
    if history.algorithm is algorithm:
        return history
    rule, hyperparams = algorithm.rule, algorithm.rule.at(options)
    if history.row is None:
        carried = {name: single(value) for name, value in rule.start(hyperparams).items()}
        return History(rule.init(param, hyperparams), 0, carried, {}, algorithm)
    held = {**history.idle, **slots_of(history.row)}
    whole = all(name in held for name in algorithm.slot_names)
    row = rule.empty() if whole else rule.init(param, hyperparams)
    row = row._replace(**{name: held.pop(name) for name in algorithm.slot_names if name in held})
    restarts = not whole and not habits_of(type(rule)).counts_steps
    return History(row, 0 if restarts else history.step, history.carried, held, algorithm)


def slots_of(row: PyTree) -> dict[str, PyTree]:
    """The slots of one parameter's state that are there."""
    return {name: value for name, value in row._asdict().items() if name != "step" and value is not None}


class Histories:
    """The histories of an optimizer's parameters. Those of a pack share one, until they are asked for one by one."""

    def __init__(self, histories: Iterable[History] = ()) -> None:
        self._alone: list[PyTree] = list(histories)  # None in the place of what is packed
        self.packs: list[Pack] = []
        self.packed: frozenset[int] = frozenset()
        self._owner: Leaves | None = None  # what has the packed parameters
        self._loose = True  # whether parameters may be packed that are not
        self._apart: set[int] = set()  # parameters that were skipped while they were packed
        self.prepared: Any = None  # the step made last, while the next one may be like it

    def __getitem__(self, index: int) -> History:
        """The history of a parameter that is not packed."""
        return self._alone[index]

    def __setitem__(self, index: int, history: History) -> None:
        self._alone[index] = history

    def read(self) -> list[History]:
        """The history of every parameter, with its own arrays; what is packed stays so."""
        alone = list(self._alone)
        for pack in self.packs:
            shared = pack.history
            for index, row in zip(pack.indices, cut_all(shared.row, pack.shapes), strict=True):
                alone[index] = replace(shared, row=row, carried=dict(shared.carried), idle={})
        return alone

    def snapshot(self) -> "Histories":
        """The same with containers of its own, so that a step overwrites none of its arrays; nothing is packed."""
        return Histories(
            replace(each, row=jax.tree.map(lambda x: x, each.row), carried=dict(each.carried), idle=dict(each.idle))
            for each in self.read()
        )

    def arrays(self) -> list[jax.Array]:
        """All arrays as they are kept."""
        rows = [history.row for history in self._alone if history is not None]
        return jax.tree.leaves((rows, [(pack.param, pack.history.row) for pack in self.packs]))

    def each(self) -> list[History]:
        """:meth:`read`, and nothing is packed any more."""
        if self._owner is not None:
            self._owner.arrays()
        alone = self.read()
        # One line: an exception comes before all of it or after.
        self._alone, self.packs, self.packed, self._owner, self._loose, self.prepared = (
            alone, [], frozenset(), None, True, None
        )  # fmt: skip
        return alone

    def pack(
        self,
        held: Leaves,
        odd: set[int],
        groups: Sequence[int],
        algorithms: Sequence[Lifted],
        wanted: Sequence[bool | None],
        fitted: Callable[[int, jax.Array], History],
    ) -> dict[int, History]:
        """Pack what may be, and nothing else; ``odd`` are the parameters that a pack cannot have now.

        ``groups`` has the group of each parameter, ``algorithms`` and ``wanted`` the algorithm and the option
        ``foreach`` of each group. Returns what ``fitted`` made of histories that stay alone.
        """
        if self.packs:
            same = all(pack.history.algorithm is algorithms[pack.group] for pack in self.packs)
            if same and self._owner is held and odd.isdisjoint(self.packed):
                return {}
            self._apart |= odd & self.packed
            self.each()
        if not self._loose:
            return {}
        if len(held) < 2 or all(want is False for want in wanted):
            self._loose = False
            return {}
        arrays, apart = held.arrays(), odd | self._apart
        found = {i: fitted(i, array) for i, array in enumerate(arrays) if i not in apart}
        alone, packs = list(self._alone), []
        for indices in together(arrays, found, groups, wanted):
            members = [found.pop(i) for i in indices]
            own = [arrays[i] for i in indices]
            shared = replace(members[0], row=join_all([history.row for history in members]))
            packs.append(Pack(indices, own, groups[indices[0]], shared))
            for index in indices:
                alone[index] = None
        packed, owner = frozenset(index for pack in packs for index in pack.indices), held if packs else None
        # One line: an exception comes before all of it or after.
        self._alone, self.packs, self.packed, self._owner, self._loose, self.prepared = (
            alone, packs, packed, owner, False, None
        )  # fmt: skip
        return found


def together(
    arrays: Sequence[jax.Array], histories: dict[int, History], groups: Sequence[int], wanted: Sequence[bool | None]
) -> list[list[int]]:
    """Which of the parameters with a history form packs: those with equal histories, dtypes and devices."""
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
