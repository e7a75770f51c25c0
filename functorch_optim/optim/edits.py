"""Edit the state of single parameters: read it, write it, reset it, replace a parameter."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.optim.engine.packs import Leaves
from functorch_optim.optim.engine.protocol import Reading
from functorch_optim.optim.groups import Grouped
from functorch_optim.optim.ownership import own_beside
from functorch_optim.optim.state_dict import Loaded, Refused, check_strict
from functorch_optim.optim.views import Entry, State
from functorch_optim.torch_tensors import as_array
from functorch_optim.typing import OptionValues, PyTree


class Edited(Grouped):
    """The part of an optimizer that edits the state of single parameters."""

    @property
    def state(self) -> State:
        """The state of each parameter that has one, by name, or by number if there are no names.

        Writing works as in torch: ``state["w"]["exp_avg"] = array`` or ``*= 0`` sets a slot, ``state["w"] = slots``
        sets all of them, and ``del state["w"]``, ``pop`` and ``clear`` reset. What does not fit raises at once.
        """
        with self._transaction.handoff_lock:
            self._settle()
            self._check_alive(wait=False)
            entries = self._entries()
        pairs = zip(self._keys, entries, strict=True)
        found = {key: Entry(entry, functools.partial(self._change_entry, key)) for key, entry in pairs if entry}
        return State(found, self._change_state)

    def _entries(self) -> list[dict[str, PyTree]]:
        """Return the state of every parameter, empty if it has none."""
        return self._engine.entries(self._layout)

    @property
    def _keys(self) -> Sequence[PyTree]:
        """The keys of the parameters in :attr:`state`."""
        return self._layout.names if self._layout.names is not None else range(len(self._layout.group_of))

    def _index_of(self, key: PyTree) -> int:
        if key not in self._keys:
            known = ", ".join(map(repr, self._keys[:10]))
            raise KeyError(f"the optimizer has no parameter {key!r}; it has {known}{', ...' * (len(self._keys) > 10)}")
        return self._keys.index(key)

    def _change_entry(self, key: PyTree, change: Callable[[dict[str, PyTree]], Mapping[str, PyTree]]) -> OptionValues:
        index = self._index_of(key)
        with self._transaction.change_lock:
            before = self._entries()[index]
            self._rewrite({index: _like_before(before, change(dict(before)))})
            return self._entries()[index]

    def _change_state(
        self, change: Callable[[dict[PyTree, PyTree]], Mapping[PyTree, PyTree]]
    ) -> Mapping[Hashable, PyTree]:
        with self._transaction.change_lock:
            before = dict(self.state)
            after = change(dict(before))
            for key, entry in after.items():
                if not isinstance(entry, Mapping):
                    raise TypeError(f"the state of {key!r} must be a dict of slots, but it is {type(entry).__name__}")
            changed = {key: entry for key, entry in after.items() if entry is not before.get(key)}
            changed |= {key: {} for key in before if key not in after}
            self._rewrite({self._index_of(key): _like_before(before.get(key, {}), e) for key, e in changed.items()})
            return dict(self.state)

    def _rewrite(
        self,
        changes: Mapping[int, Mapping[str, PyTree]],
        parameters: tuple[list[PyTree], list[PyTree] | None] | None = None,
    ) -> None:
        """Replace the entries of some parameters, and with ``parameters``, the arrays and gradients of all."""
        self._need_engine()
        self._refuse_tracing()
        self._refuse_traced(jax.tree.leaves(list(changes.values())))
        present: list[PyTree] = self._entries()
        for index, entry in changes.items():
            unknown = [key for key in entry if present[index] and key not in present[index]]
            if unknown and not self._engine.one_by_one:  # if each is read by itself, read() rejects them
                raise KeyError(
                    f"the state of {self._keys[index]!r} has no slot {', '.join(map(repr, unknown))}; it has "
                    f"{', '.join(present[index])}"
                )
        if self._engine.one_by_one:
            present = [None] * len(present)
        entries: list[PyTree] = [changes.get(index, entry) for index, entry in enumerate(present)]
        loaded = Loaded(
            [entry if entry is None else {key: as_array(value) for key, value in entry.items()} for entry in entries],
            list(range(len(entries))), [], [], [], [], None, [],
        )  # fmt: skip
        refused: Refused = {}
        leaves, grads = parameters or (self._leaves, None)
        state = self._engine.read(self._layout, Reading(leaves, loaded, None, refused), self._records())
        check_strict([], [], refused)

        def commit() -> None:
            self._engine.commit(state)
            if parameters is not None:
                self._held, self._grads, self._checked, self._watched_params = Leaves(leaves), grads, None, []

        self._transaction.commit(commit)

    def reset_state(self, names: Any = None) -> None:
        """Reset the state of some or all parameters, both moments and step counts.

        A composition (``from_transform``) counts steps for all its parameters together: this count stays unless you
        reset all. L-BFGS and BFGS have one state, which is reset as a whole.

        Args:
            names: a name, or several; numbers if the parameters have no names. None means all.

        Raises:
            KeyError: there is no such parameter.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.Adam({"a": jnp.ones(1), "b": jnp.ones(1)})
            >>> optimizer.step({"a": jnp.ones(1), "b": jnp.ones(1)})
            >>> optimizer.reset_state("a")
            >>> list(optimizer.state)
            ['b']
        """
        if names is None:
            indices = list(range(len(self._layout.group_of)))
        else:
            indices = [self._index_of(n) for n in ([names] if isinstance(names, str | int) else names)]
        with self._transaction.change_lock:
            if self._engine.together:
                indices = list(range(len(self._layout.group_of)))
            self._rewrite({index: {} for index in indices})

    def replace(self, name: object, array: PyTree, state: PyTree = None) -> None:
        """Replace a parameter with another array, which may have another shape: to prune, or to grow an embedding.

        Args:
            name: the parameter's name, or its number if there are no names.
            array: the new array, in the parameter's dtype.
            state: what to do with its state. None keeps it, if the shape stays the same. A function is called with
                every slot that has the parameter's shape, and returns the new slot. A dict has slots that replace the
                present ones; an empty dict resets the state.

        If the shape changes, the parameter's accumulated gradient is dropped.

        Raises:
            KeyError: there is no such parameter.
            ValueError, TypeError: the array or a slot does not fit. The optimizer is left unchanged.

        Example:
            >>> import jax.numpy as jnp
            >>> from functorch_optim import optim
            >>> optimizer = optim.Adam({"points": jnp.array([1.0, 2.0, 3.0])}, lr=0.5)
            >>> optimizer.step({"points": jnp.array([1.0, 1.0, 1.0])})
            >>> keep = jnp.array([0, 2])
            >>> optimizer.replace("points", optimizer.params["points"][keep], state=lambda slot: slot[keep])
            >>> optimizer.state["points"]["exp_avg"].shape
            (2,)
        """
        with self._transaction.change_lock:
            index = self._index_of(name)
            before, label = self._leaves[index], self._layout.labels[index]
            array = as_array(array)
            trees.check_parameter(label, array)
            if array.dtype != before.dtype:
                raise TypeError(f"the parameter {trees.quote(label)} is {before.dtype}, the new value is {array.dtype}")
            leaves = list(self._leaves)
            leaves[index] = own_beside(array, before)
            entry = self._entries()[index]
            grads = self._gradients
            if array.shape != before.shape and grads is not None:
                grads = [None if number == index else grad for number, grad in enumerate(grads)]
            changes = {index: _carried(entry, before, array, state, label)} if entry else {}
            if self._engine.together and isinstance(state, Mapping) and not state:
                changes = {number: {} for number in range(len(leaves))}
            self._rewrite(changes, (leaves, grads))


def _like_before(before: Mapping[str, PyTree], entry: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Return the entry, with new arrays cast to the dtypes of those they replace."""
    result = {}
    for key, value in entry.items():
        held: PyTree = before.get(key)
        value = as_array(value)
        if value is not held and getattr(held, "ndim", 0) and jnp.shape(value) == held.shape:
            value = jnp.asarray(value).astype(held.dtype)
        result[key] = value
    return result


def _carried(
    entry: Mapping[str, PyTree], before: PyTree, array: PyTree, state: PyTree, label: str
) -> dict[str, PyTree]:
    """Return the new entry of a parameter that is replaced."""
    if state is None:
        if array.shape != before.shape:
            raise ValueError(
                f"the parameter {trees.quote(label)} has shape {before.shape}, the new array {array.shape}: say what "
                "becomes of its state, state=function of a slot, state=dict of slots, or state={} to reset it"
            )
        return dict(entry)
    if callable(state):
        return {key: state(v) if getattr(v, "shape", None) == before.shape else v for key, v in entry.items()}
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be None, a function or a dict of slots, but it is {type(state).__name__}")
    return {**entry, **state} if state else {}
