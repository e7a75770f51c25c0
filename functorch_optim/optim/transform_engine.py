"""Steps any composed transformation: the functional one, over the whole tree, with the groups' numbers as data."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef

from functorch_optim import base, trees
from functorch_optim.base import GradientTransformation, Transform, transformation
from functorch_optim.combinators import NamedStates, partition
from functorch_optim.core.packing import ForeachState
from functorch_optim.optim.options import delayed, is_number
from functorch_optim.optim.ownership import exclusive, own
from functorch_optim.optim.packs import Leaves
from functorch_optim.optim.param_groups import Layout
from functorch_optim.optim.state_dict import Loaded, Refused, kept
from functorch_optim.optim.transaction import Args, Compiled
from functorch_optim.placement import placed
from functorch_optim.transforms.conjugation import conjugate_leaf

Entry = dict[str, Any]
Make = Callable[..., GradientTransformation]


def _is_packed(node: Any) -> bool:
    return isinstance(node, ForeachState)


def matched(state: Any, given: Any) -> Any:
    """A copy of ``given``, which must have the structure, shapes and dtypes of ``state``."""
    names, models, treedef = trees.named_leaves(state)
    leaves = trees.align(state, given, "the leaves of the state")
    for name, model, leaf in zip(names, models, leaves, strict=True):
        if getattr(leaf, "shape", None) != model.shape or leaf.dtype != model.dtype:
            raise ValueError(f"{trees.quote(name)} of the state is not {jax.typeof(model)}, but {leaf!r:.100}")
    return treedef.unflatten(map(own, leaves))


class View(NamedTuple):
    """A leaf of the state as ``state_dict`` has it: the parameters whose entries it stands in, and its key there."""

    members: list[int]
    key: str


class Grown(NamedTuple):
    """The first state that is a partition's: a group has come beside the only one."""

    state: NamedStates


class Within(Transform):
    """A transformation of one element of a list of trees: it sees that tree, whatever stands beside it."""

    of: GradientTransformation
    element: int

    def init(self, params: Any) -> Any:
        return self.of.init(params[self.element])

    def update(self, updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        own = None if params is None else params[self.element]
        if callable(extra.get("value_fn")):
            extra["value_fn"] = self._of_element(extra["value_fn"], params)
        new, state = self.of.update(updates[self.element], state, own, **extra)
        return [new if index == self.element else each for index, each in enumerate(updates)], state

    def _of_element(self, value_fn: Callable[[Any], Any], params: Any) -> Callable[[Any], Any]:
        def of_element(own: Any) -> Any:
            return value_fn([own if index == self.element else each for index, each in enumerate(params)])

        return of_element


def _shared(key: str, entry: Entry, held: Mapping[int, Entry], leaf: Any, name: str, dtype: Any) -> jax.Array:
    """The value under ``key`` that an entry has, and with it all others that stand for this leaf of a state.

    Raises:
        KeyError, ValueError, TypeError: it has none, one of another shape or kind, or another than the others.
    """
    where, value = f"of the parameter {trees.quote(name)}", entry.get(key)
    if value is None:
        raise KeyError(f"the state {where} has no {key!r}; it has {', '.join(entry)}")
    if jnp.shape(value) != leaf.shape:
        raise ValueError(f"{key} {where} has shape {jnp.shape(value)}, not {leaf.shape}")
    first = next(iter(held.values()))
    if entry is not first and not np.array_equal(np.asarray(value), np.asarray(first.get(key)), equal_nan=True):
        raise ValueError(f"{key} {where} differs from the others', but here they share it")
    return kept(value, leaf.dtype, dtype, f"{key} {where}")


class TransformEngine:
    """One state for all parameters; several groups are a partition. ``make`` is called with a group's options."""

    strict = False  # an option may be anything; the numbers are data
    one_by_one = False  # whether a parameter's state can be read without the others'
    together = False  # whether a state is one of all parameters

    def __init__(self, make: Make, names: Sequence[str], static: Collection[str]) -> None:
        unknown = [name for name in static if name not in names]
        if unknown:
            raise ValueError(f"static names no options: {', '.join(unknown)}; the options are {', '.join(names)}")
        self.make = make
        self.option_names = tuple(names)
        self.static = frozenset(static)
        self.data_names = set(names) - self.static
        self._leaves: list[Any] = []
        self._structure = trees.Structure.of(())
        self._several = False
        self._exported: list[int] | None = None
        self._compiled: dict[Any, Compiled] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_compiled": {}, "_leaves": list(self._leaves)}

    @property
    def state(self) -> Any:
        """The transformation's state."""
        return self._structure.unflatten(self._leaves)

    def arrays(self) -> list[jax.Array]:
        """All arrays as they are kept."""
        return self._leaves

    def commit(self, state: Any) -> None:
        """Go on from ``state``."""
        several = self._several
        if isinstance(state, Grown):
            several, state = True, state.state
        leaves, treedef = jax.tree.flatten(state)
        self._leaves, self._structure, self._several = leaves, trees.Structure(treedef), several
        self._exported = None

    def takes_rows(self, options: Mapping[str, Any]) -> bool:
        """Whether gradients may be row-sparse: the transformation raises where they may not."""
        del options
        return True

    def reads(self, options: Mapping[str, Any]) -> tuple[tuple[str, ...], set[str]]:
        """The names of the options of a group that a step reads, and those among them that may be numbers."""
        del options
        return self.option_names, self.data_names

    def check(self, options: Mapping[str, Any], live: bool = False) -> None:
        """Raise unless the transformation can be made with these options."""
        del live
        self.make(**{name: options[name] for name in self.option_names})

    def start(self, layout: Layout, params: list[Any], settings: list[Any]) -> None:
        """The state before the first update."""
        self._several = len(settings) > 1  # then the state is that of a partition
        state = self._whole(layout, settings).init(layout.structure.unflatten(params))
        if any(isinstance(node, ForeachState) for node in jax.tree.leaves(state, is_leaf=_is_packed)):
            raise ValueError(
                "a transformation with foreach=True keeps the state of many parameters in one array, which has no "
                "place in a state_dict: leave foreach out here"
            )
        self.commit(state)

    def extended(self, layout: Layout, params: list[Any], settings: list[Any]) -> "Grown":
        """The state for :meth:`commit` with further parameters: a group of their own, with a state of its own."""
        state = self.state
        fresh = self._whole(layout, settings).init(layout.structure.unflatten(params))
        assert isinstance(fresh, NamedStates)
        known = state.states if self._several else {"group0": state}  # each in its own tree, which stays what it was
        return Grown(NamedStates({**fresh.states, **known}))

    def _whole(self, layout: Layout, options: Sequence[Mapping[str, Any]]) -> GradientTransformation:
        """The transformation of the whole tree; the options of each group as given."""
        members = [self.make(**{name: one[name] for name in self.option_names}) for one in options]
        if layout.element_of is not None:
            members = [transformation(Within(tx, n)) for tx, n in zip(members, layout.element_of, strict=True)]
        if len(members) == 1:
            return members[0]
        labels = layout.structure.unflatten([f"group{group}" for group in layout.group_of])
        return partition({f"group{index}": member for index, member in enumerate(members)}, labels)

    def _split(self, options: Mapping[str, Any]) -> tuple[tuple[tuple[str, Any], ...], list[float]]:
        """A group's options with the structure of the numbers in their place, and the numbers."""
        template, numbers = [], []
        for name in self.option_names:
            value = options[name]
            if name not in self.static and is_number(value):
                leaves, value = jax.tree.flatten(value)
                numbers += leaves
            template.append((name, value))
        return tuple(template), numbers

    def step(
        self,
        layout: Layout,
        held: Leaves,
        grads: list[Any],
        settings: list[Any],
        run: Callable[..., Any],
        in_place: bool = True,
    ) -> None:
        """Update the parameters; where there is no gradient the transformation gets None."""
        del in_place  # nothing is traced here
        split = [self._split(options) for options in settings]
        key = (tuple(template for template, _ in split), tuple(layout.group_of))
        if key not in self._compiled:
            self._compiled[key] = self._compile(layout, key[0])
        numbers = np.array([number for _, group in split for number in group], np.float64)

        def arguments() -> Args:
            before = self._structure.unflatten(exclusive(self._leaves))
            return exclusive(held.arrays()), before, grads, numbers

        def commit(result: Any) -> None:
            params, self._leaves = result
            self._exported = None
            held.put_all(params)

        run(self._compiled[key], arguments, commit)

    def _compile(self, layout: Layout, templates: Any) -> Compiled:
        def optimizer_step(leaves: Any, state: Any, grads: Any, numbers: jax.Array) -> Any:
            position = iter(range(len(numbers)))
            options = [
                {
                    name: held.unflatten([numbers[next(position)] for _ in range(held.num_leaves)])
                    if isinstance(held, PyTreeDef)
                    else held
                    for name, held in template
                }
                for template in templates
            ]
            params = layout.structure.unflatten(leaves)
            descent = layout.structure.unflatten([None if grad is None else conjugate_leaf(grad) for grad in grads])
            updates, after = self._whole(layout, options).update(descent, state, params)
            before, new = jax.tree.structure(state), jax.tree.structure(after)
            if before != new:  # found while tracing: nothing has changed
                raise TypeError(f"the transformation changed its state's structure, from {before} to {new}")
            return jax.tree.leaves(base.apply_updates(params, updates)), jax.tree.leaves(after)

        return Compiled(optimizer_step, (0, 1))

    def _views(self, layout: Layout, state: Any) -> tuple[list[View], list[Any], Any]:
        """To which parameters each leaf of the state belongs and under which key; the leaves; the structure.

        A leaf whose path ends with a parameter's path is a slot of it. Of the others each parameter of the group has
        the scalars, the first has the arrays. The rest of the path, shortened to its last part where that says enough,
        is the key.
        """
        numbered = layout.structure.unflatten(range(len(layout.group_of)))
        trees_of = [numbered if layout.element_of is None else numbered[n] for n in layout.element_of or (0,)]
        owners_of = [dict(jax.tree_util.tree_flatten_with_path(tree)[0]) for tree in trees_of]
        flat, treedef = jax.tree_util.tree_flatten_with_path(state)
        found = []
        for path, leaf in flat:
            label, path = (path[1].key, path[2:]) if self._several else ("group0", path)
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
        keys = {
            place: name if counts[place[0], name] == 1 else trees.path_name(place[1]) for place, name in short.items()
        }
        return [View(members, keys[place]) for members, place in found], [leaf for _, leaf in flat], treedef

    def entries(self, layout: Layout) -> list[Entry]:
        """The state by parameter."""
        views, leaves, _ = self._views(layout, self.state)
        result: list[Entry] = [{} for _ in layout.group_of]
        for view, leaf in zip(views, leaves, strict=True):
            for index in view.members:
                result[index][view.key] = leaf if len(view.members) == 1 else np.asarray(leaf)
        return result

    def read(
        self, layout: Layout, params: list[Any], loaded: Loaded, settings: list[Any], dtype: Any, refused: Refused
    ) -> Any:
        """The state that a state dict tells, for :meth:`commit`. That of a parameter with an empty entry is the first,
        that of one without an entry, or whose entry is refused, is the present one."""
        fresh = self._whole(layout, settings).init(layout.structure.unflatten(params))
        views, leaves, treedef = self._views(layout, fresh)
        found: list[dict[int, jax.Array]] = []
        for view, leaf in zip(views, leaves, strict=True):
            held = {index: entry for index in view.members if (entry := loaded.entries[index])}
            found.append({})
            for index, entry in held.items():
                try:
                    found[-1][index] = _shared(view.key, entry, held, leaf, layout.labels[index], dtype)
                except (KeyError, TypeError, ValueError) as error:
                    refused.setdefault(layout.labels[index], error)
        pairs = enumerate(zip(layout.labels, loaded.entries, strict=True))
        stay = {index for index, (name, entry) in pairs if entry is None or name in refused}
        filled = []
        for view, leaf, before, values in zip(views, leaves, jax.tree.leaves(self.state), found, strict=True):
            fits = [value for index, value in values.items() if index not in stay]
            value = fits[0] if fits else before if stay.intersection(view.members) else leaf
            filled.append(before if value is before else placed(value, leaf))
        return treedef.unflatten(filled)

    def functional(
        self, layout: Layout, params: list[Any], options: list[Any], settings: list[Any], counts: list[int]
    ) -> Any:
        """``(transformation, state)`` that continue from here."""
        del params, settings, counts
        live = [
            {name: one[name] if name in self.static else delayed(one[name], 0) for name in self.option_names}
            for one in options
        ]
        self._exported = self._counters(self._leaves)  # the state may be donated before it is restored
        return self._whole(layout, live), self.state

    def _counters(self, leaves: list[Any]) -> list[int]:
        """The integer scalars of a state: how often its transformations were updated."""
        return [int(leaf) for leaf in leaves if leaf.ndim == 0 and jnp.issubdtype(leaf.dtype, jnp.integer)]

    def restored(
        self, layout: Layout, params: list[Any], state: Any, settings: list[Any], counts: list[int]
    ) -> tuple[Any, list[int]]:
        """The state for :meth:`commit` and the groups' counts, from a state as :meth:`functional` gives it."""
        del layout, params, settings
        after = matched(self.state, state)
        leaves = jax.tree.leaves(after)
        before = self._counters(self._leaves) if self._exported is None else self._exported
        done = max((b - a for a, b in zip(before, self._counters(leaves), strict=True)), default=0)
        return after, [count + done for count in counts]
