"""Step one algorithm for the parameters of all groups, whose state has scalars that all of them share."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import jax
import numpy as np

from functorch_optim.algorithms.distance import Distance
from functorch_optim.base import GradientTransformation, Update, transformation
from functorch_optim.optim.engine.by_path import ByPath, shared
from functorch_optim.optim.engine.by_tree import ByTree, Make
from functorch_optim.optim.engine.protocol import Entry, Group, Reading
from functorch_optim.optim.engine.templates import Template
from functorch_optim.optim.layout import Layout
from functorch_optim.placement import place
from functorch_optim.typing import PyTree


class JointCodec(ByPath):
    """Each parameter's entry has its slots, the count of updates and the scalars; there is none before the first."""

    def __init__(self, slots: Sequence[str], scalars: Sequence[str]) -> None:
        self.slots, self.scalars = tuple(slots), tuple(scalars)

    def entries(self, layout: Layout, state: PyTree, several: bool) -> list[Entry]:
        """Return the state by parameter."""
        del several
        if int(state.step) == 0:
            return [{} for _ in layout.group_of]
        scalars = {name: np.asarray(getattr(state, name)) for name in ("step", *self.scalars)}
        rows = {name: _leaves(layout, getattr(state, name)) for name in self.slots}
        return [{**scalars, **{name: row[i] for name, row in rows.items()}} for i in range(len(layout.group_of))]

    def read(self, layout: Layout, reading: Reading, fresh: PyTree, present: PyTree, several: bool) -> PyTree:
        """An empty entry resets a parameter; a missing or refused entry keeps its current state."""
        del several
        new, old = ({name: _leaves(layout, getattr(state, name)) for name in self.slots} for state in (fresh, present))
        entries, scalars = reading.loaded.entries, dict[str, PyTree]()
        held = {index: entry for index, entry in enumerate(entries) if entry}
        for index, (label, entry) in enumerate(zip(layout.labels, entries, strict=True)):
            try:
                if entry:
                    own = self._slots_of(entry, {name: row[index] for name, row in new.items()}, label, reading)
                    common = ("step", *self.scalars)
                    scalars |= {key: shared(key, entry, held, getattr(fresh, key), label, None) for key in common}
                    for name, value in own.items():
                        new[name][index] = value
            except (KeyError, TypeError, ValueError) as error:
                reading.refused.setdefault(label, error)
            if entry is None or label in reading.refused:
                for name in self.slots:
                    new[name][index] = old[name][index]
        rest = present if any(entry is None for entry in entries) or reading.refused else fresh
        kept = {name: scalars.get(name, getattr(rest, name)) for name in ("step", *self.scalars)}
        return fresh._replace(**kept, **{name: layout.structure.unflatten(row) for name, row in new.items()})

    def _slots_of(self, entry: Entry, like: Entry, label: str, reading: Reading) -> Entry:
        """Return the slots in an entry, placed as those that they replace."""
        return {
            name: place(shared(name, entry, {0: entry}, like[name], label, reading.dtype), like[name])
            for name in self.slots
        }


def _leaves(layout: Layout, tree: PyTree) -> list[PyTree]:
    return layout.structure.treedef.flatten_up_to(tree)


class JointTree(ByTree):
    """The engine of a :class:`functorch_optim.algorithms.distance.Distance`: the groups share the estimate."""

    def __init__(self, make: Make, names: Sequence[str], static: Collection[str], kind: type[Distance]) -> None:
        super().__init__(make, names, static, JointCodec(kind.slots, kind.scalars), strict=True)
        self.slots, self.scalars = kind.slots, kind.scalars

    def _whole(self, layout: Layout, options: Sequence[Group]) -> GradientTransformation:
        """Build the transformation of all parameters; each has its own group's ``lr``, ``eps`` and ``weight_decay``."""
        parts = [_distance(self.build(one)) for one in options]
        return transformation(replace(parts[0], parts=tuple(parts), part_of=tuple(layout.group_of)))

    def start(self, layout: Layout, params: list[PyTree], records: Sequence[Group]) -> None:
        """Create the state before the first update."""
        self.commit(self._whole(layout, records).init(layout.structure.unflatten(params)))

    def extend(self, layout: Layout, params: list[PyTree], records: Sequence[Group]) -> PyTree:
        """Return the state extended to the new parameters, which come last."""
        fresh, grown = self._whole(layout, records).init(layout.structure.unflatten(params)), {}
        for name in self.slots:
            known = jax.tree.leaves(getattr(self.state, name))
            new = _leaves(layout, getattr(fresh, name))[len(known) :]
            grown[name] = layout.structure.unflatten([*known, *new])
        return self.state._replace(**grown)

    def _unchecked(self, options: Group) -> Group:
        """Return the options as they are: they are numbers, which are checked together."""
        return options

    def _templates(self, records: Sequence[Group]) -> tuple[tuple[Template, ...], np.ndarray]:
        rates = [record["lr"] for record in records]
        if any(rate not in (0.0, max(rates)) for rate in rates):
            raise RuntimeError(
                "Setting different lr values in different parameter groups is only supported for values of 0, but they "
                f"are {rates}: the groups share the estimate that lr multiplies"
            )
        return super()._templates(records)


def _distance(tx: GradientTransformation) -> Distance:
    update = tx.update
    assert isinstance(update, Update) and isinstance(update.of, Distance)
    return update.of
