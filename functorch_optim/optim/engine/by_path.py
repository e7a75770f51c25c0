"""Lay any state out in torch's ``state_dict``: each leaf goes to the parameters whose paths end its own path."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functorch_optim import trees
from functorch_optim.optim.engine.protocol import Entry, Group, Reading
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.state_dict import cast
from functorch_optim.placement import place
from functorch_optim.typing import PyTree


class View(NamedTuple):
    """A leaf of the state in ``state_dict``: the parameters whose entries contain it, and its key there."""

    members: list[int]
    key: str


class ByPath:
    """The :class:`~functorch_optim.optim.engine.protocol.Codec` of composed transformations."""

    together = False

    def entries(self, layout: Layout, state: PyTree, several: bool) -> list[Entry]:
        """Return the state by parameter."""
        views, leaves, _ = _views(layout, state, several)
        result: list[Entry] = [{} for _ in layout.group_of]
        for view, leaf in zip(views, leaves, strict=True):
            for index in view.members:
                result[index][view.key] = leaf if len(view.members) == 1 else np.asarray(leaf)
        return result

    def read(self, layout: Layout, reading: Reading, fresh: PyTree, present: PyTree, several: bool) -> PyTree:
        """An empty entry resets a parameter; a missing or refused entry keeps its current state."""
        views, leaves, treedef = _views(layout, fresh, several)
        found: list[dict[int, jax.Array]] = []
        for view, leaf in zip(views, leaves, strict=True):
            held = {index: entry for index in view.members if (entry := reading.loaded.entries[index])}
            found.append({})
            for index, entry in held.items():
                try:
                    found[-1][index] = shared(view.key, entry, held, leaf, layout.labels[index], reading.dtype)
                except (KeyError, TypeError, ValueError) as error:
                    reading.refused.setdefault(layout.labels[index], error)
        pairs = enumerate(zip(layout.labels, reading.loaded.entries, strict=True))
        stay = {index for index, (name, entry) in pairs if entry is None or name in reading.refused}
        filled = []
        for view, leaf, before, values in zip(views, leaves, jax.tree.leaves(present), found, strict=True):
            fits = [value for index, value in values.items() if index not in stay]
            value = fits[0] if fits else before if stay.intersection(view.members) else leaf
            filled.append(before if value is before else place(value, leaf))
        return treedef.unflatten(filled)

    def resized(self, state: PyTree, options: Group) -> None:
        """No option changes the shapes of a state."""
        del state, options

    def counters(self, state: PyTree) -> list[int]:
        """Return the integer scalars of a state: the update counts of its transformations."""
        leaves = jax.tree.leaves(state)
        return [int(leaf) for leaf in leaves if leaf.ndim == 0 and jnp.issubdtype(leaf.dtype, jnp.integer)]

    def behind(self, state: PyTree, counts: list[int]) -> int:
        """A group's schedules get the group's own count, so nothing lags."""
        del state, counts
        return 0


BY_PATH = ByPath()


def _views(layout: Layout, state: PyTree, several: bool) -> tuple[list[View], list[PyTree], PyTree]:
    """Return each leaf's parameters and key, the leaves, and the structure of the state.

    A leaf whose path ends with a parameter's path is a slot of that parameter. Any other scalar belongs to all
    parameters of the group, any other array to the first. The key is the rest of the path, or only its last part if
    that is unique.
    """
    numbered = layout.structure.unflatten(range(len(layout.group_of)))
    trees_of = [numbered if layout.element_of is None else numbered[n] for n in layout.element_of or (0,)]
    owners_of = [dict(jax.tree_util.tree_flatten_with_path(tree)[0]) for tree in trees_of]
    flat, treedef = jax.tree_util.tree_flatten_with_path(state)
    found = []
    for path, leaf in flat:
        label, path = (path[1].key, path[2:]) if several else ("group0", path)
        owners = owners_of[0 if layout.element_of is None else int(label[5:])]
        ends = [path[start:] for start in range(len(path)) if path[start:] in owners]
        members = [i for i, group in enumerate(layout.group_of) if label == f"group{group}"]
        if ends:
            members, path = [owners[ends[0]]], path[: len(path) - len(ends[0])]
        elif jnp.ndim(leaf):
            members = members[:1]
        found.append((members, (label, path)))
    short = {place: trees.path_name(place[1][-1:]) for _, place in found}
    counts = Counter((label, short[label, path]) for label, path in short)
    keys = {place: name if counts[place[0], name] == 1 else trees.path_name(place[1]) for place, name in short.items()}
    return [View(members, keys[place]) for members, place in found], [leaf for _, leaf in flat], treedef


def shared(
    key: str, entry: Entry, held: Mapping[int, Entry], leaf: PyTree, name: str, dtype: DTypeLike | None
) -> jax.Array:
    """The entry's value for ``key``; raises unless all entries that share this leaf agree.

    Raises:
        KeyError, ValueError, TypeError: the value is missing, has another shape or kind, or differs from the others.
    """
    where, value = f"of the parameter {trees.quote(name)}", entry.get(key)
    if value is None:
        more = "; add the number of updates so far: entry['step'] = 100" if key == "step" else ""
        raise KeyError(f"the state {where} has no {key!r}; it has {', '.join(entry)}{more}")
    if jnp.shape(value) != leaf.shape:
        raise ValueError(f"{key} {where} has shape {jnp.shape(value)}, not {leaf.shape}")
    first = next(iter(held.values()))
    if entry is not first and not np.array_equal(np.asarray(value), np.asarray(first.get(key)), equal_nan=True):
        raise ValueError(f"{key} {where} differs from the others', but here they share it")
    return cast(value, leaf.dtype, dtype, f"{key} {where}")
