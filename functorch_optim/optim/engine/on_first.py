"""Lay one state of all parameters out on the first of them, as torch's LBFGS does."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from functorch_optim import trees
from functorch_optim.algorithms.quasi_newton import flattened
from functorch_optim.optim.engine.protocol import Entry, Group, Reading
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.ownership import own
from functorch_optim.optim.state_dict import cast
from functorch_optim.placement import place, whole
from functorch_optim.typing import PyTree


class OnFirst:
    """The :class:`~functorch_optim.optim.engine.protocol.Codec` of quasi-Newton states; a subclass has the vectors."""

    together = True
    name: ClassVar[str]
    scalars: ClassVar[tuple[str, ...]] = ("t", "prev_loss")  # finite numbers of torch's state

    def entry(self, state: PyTree) -> Entry:
        """Return the first parameter's entry in torch's ``state_dict``, without counts."""
        raise NotImplementedError(f"{type(self).__name__} does not define entry")  # abstract: every subclass does

    def from_entry(self, params: PyTree, entry: Entry, fresh: PyTree) -> PyTree:
        """Build the state that an entry describes, from a new state ``fresh`` and the tree ``params``."""
        raise NotImplementedError(f"{type(self).__name__} does not define from_entry")  # abstract: every subclass does

    def resized(self, state: PyTree, options: Group) -> PyTree:
        """No option changes the shapes of a state."""
        del state, options

    def counters(self, state: PyTree) -> list[int]:
        """Return how often the state was updated."""
        return [int(state.step)]

    def behind(self, state: PyTree, counts: list[int]) -> int:
        """Return the lag of the state's own count, which restarts when a state is loaded."""
        return counts[0] - int(state.step)

    def entries(self, layout: Layout, state: PyTree, several: bool) -> list[Entry]:
        """Return the state on the first parameter; nothing before the first step."""
        del several
        counts = {"func_evals": int(state.func_evals), "n_iter": int(state.n_iter)}
        rest: list[Entry] = [{} for _ in layout.group_of[1:]]
        if counts["func_evals"] == 0:
            return [{}, *rest]
        careful = {"careful": True} if bool(state.careful) else {}  # torch has no such key
        return [{**counts, **(self.entry(state) if counts["n_iter"] else {}), **careful}, *rest]

    def read(self, layout: Layout, reading: Reading, fresh: PyTree, present: PyTree, several: bool) -> PyTree:
        """Return the state that the only entry describes; ``present`` if it does not fit."""
        del several
        try:
            return self._read(layout, reading, fresh)
        except (KeyError, TypeError, ValueError) as error:
            reading.refused[layout.labels[0]] = error
            return present

    def _read(self, layout: Layout, reading: Reading, fresh: PyTree) -> PyTree:
        params, loaded = reading.params, reading.loaded
        if loaded.missing or loaded.unexpected:
            raise ValueError("the state belongs to all parameters together, and fits no others")
        found = [_permuted(entry, loaded.order, params) for entry in loaded.entries if entry]
        if not found:
            return fresh
        if len(found) > 1 or not {"func_evals", "n_iter"} <= found[0].keys():
            raise KeyError(
                f"the state is not one of {self.name}, which stands on one parameter alone and has func_evals and "
                f"n_iter; it has {', '.join(found[0])}"
            )
        counts = {key: jnp.asarray(int(found[0][key]), jnp.int32) for key in ("func_evals", "n_iter")}
        counts["careful"] = jnp.asarray(bool(found[0].get("careful", False)))
        entry = {key: value for key, value in found[0].items() if value is not None}
        if int(entry["n_iter"]) == 0 or "d" not in entry:
            return fresh._replace(**{**counts, "n_iter": fresh.n_iter})
        for key in self.scalars:
            if key not in entry or jnp.shape(entry[key]) != () or not jnp.isfinite(jnp.asarray(entry[key], float)):
                raise ValueError(f"{key} of the state must be a finite number, but it is {entry.get(key)!r:.100}")
        own_dtype = _common_dtype(jax.tree.leaves(fresh.d))
        for key, value in entry.items():
            entry[key] = _mapped(lambda v, key=key: cast(v, own_dtype, reading.dtype, f"{key} of the state"), value)
        return self.from_entry(layout.structure.unflatten(params), entry, fresh)._replace(**counts)


def _permuted(entry: Entry, order: list[int | None], params: list[PyTree]) -> Entry:
    """Reorder an entry's flat vectors from the saved order of the parameters to their own."""
    if order == list(range(len(params))):
        return entry
    sizes = [param.size * (2 if jnp.iscomplexobj(param) else 1) for param in params]
    starts = np.cumsum([0, *[sizes[leaf] for leaf in order if leaf is not None]])
    start_of = dict(zip(order, starts, strict=False))
    places = np.concatenate([start_of[leaf] + np.arange(size) for leaf, size in enumerate(sizes)])

    def moved(value: Any) -> PyTree:
        for axis in range(value.ndim):
            if value.shape[axis] != len(places):
                raise ValueError(f"a vector of the state has {value.shape[axis]} entries, the parameters {len(places)}")
            value = np.take(np.asarray(value), places, axis)
        return value

    return {key: _mapped(moved, value) for key, value in entry.items()}


def _mapped(function: Callable[[PyTree], PyTree], value: object) -> PyTree:
    """Apply ``function`` to an array that is not a scalar, or to those in a list; return anything else as it is."""
    if isinstance(value, list):
        return [_mapped(function, item) for item in value]
    return function(value) if getattr(value, "ndim", 0) else value


def _common_dtype(leaves: list[PyTree]) -> DTypeLike:
    """Return the real dtype of one vector that holds all the leaves."""
    several = len({leaf.dtype for leaf in leaves}) > 1
    return jnp.finfo(trees.compute_dtype(*leaves) if several else leaves[0].dtype).dtype


def flat(vectors: PyTree, rows: PyTree) -> tuple[list[jax.Array], list[jax.Array]]:
    """Flatten trees as torch does: each into one vector, with complex entries as pairs.

    Args:
        vectors: a list of trees.
        rows: a list of trees whose leaves are stacked along a first axis; each becomes a matrix.

    It is one compiled call, whose results are whole on every device: split leaves are moved, and on a mesh of several
    processes many small programs that move something wait for each other.
    """
    leaves = jax.tree.leaves(vectors[0])
    sharding = leaves[0].sharding
    placed = NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else None
    return _flat(vectors, rows, jnp.dtype(_common_dtype(leaves)), placed)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _flat(
    vectors: PyTree, rows: PyTree, dtype: jnp.dtype, placed: NamedSharding | None
) -> tuple[list[jax.Array], list[jax.Array]]:
    def one(tree: PyTree) -> jax.Array:
        return flattened([whole(leaf, range(leaf.ndim)) for leaf in jax.tree.leaves(tree)], dtype)

    def stacked(tree: PyTree) -> jax.Array:
        leaves = [whole(leaf, range(leaf.ndim)) for leaf in jax.tree.leaves(tree)]
        return jax.vmap(lambda *parts: flattened(list(parts), dtype))(*leaves)

    found = [one(tree) for tree in vectors], [stacked(tree) for tree in rows]
    return found if placed is None else jax.lax.with_sharding_constraint(found, placed)


def unflat(vector: PyTree, like: PyTree, where: str) -> PyTree:
    """Convert a vector from :func:`flat` to a tree with the shapes, dtypes and placement of ``like``."""
    leaves, treedef = jax.tree.flatten(like)
    vector, result, start = np.asarray(vector), [], 0
    sizes = [leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in leaves]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"{where} has shape {vector.shape}, but it should have {(sum(sizes),)}")
    for leaf, size in zip(leaves, sizes, strict=True):
        part = vector[start : start + size]
        start += size
        if jnp.iscomplexobj(leaf):
            part = part[0::2] + 1j * part[1::2]
        result.append(own(place(part.reshape(leaf.shape).astype(leaf.dtype), leaf)))
    return treedef.unflatten(result)
