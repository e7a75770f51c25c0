"""Gradients of embedding tables that name only the looked-up rows, and never take the table's size."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import axes, rows, trees
from functorch_optim.option_names import explains_names
from functorch_optim.placement import whole
from functorch_optim.tracing import trace_state
from functorch_optim.typing import PyTree

Sparse = str | Collection[str] | Callable[[str], bool]


class Table:
    """Stands for a table while the loss is differentiated; it only looks rows up, ``table[ids]``.

    Each lookup adds an addend of zeros to its rows, and the loss is differentiated with respect to the addends. It is
    no array, so what a function does with the arrays of a tree alone leaves it out.
    """

    def __init__(self, name: str, array: jax.Array, addends: list[jax.Array] | None) -> None:
        self._name, self._array, self._addends, self._trace = name, array, addends, trace_state()
        self.looked_up: list[jax.Array] = []
        self.found: list[jax.Array] = []

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> Any:
        return self._array.dtype

    @property
    def ndim(self) -> int:
        return self._array.ndim

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, ids: Any) -> jax.Array:
        if trace_state() != self._trace:
            raise TypeError(self._refused("look it up outside of what the loss compiles, scans or maps"))
        plain = isinstance(ids, jax.Array | np.ndarray | np.integer | int | list) and not isinstance(ids, bool)
        ids = jnp.asarray(ids) if plain else ids
        if not plain or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise TypeError(f"the table {trees.quote(self._name)} is looked up with an array of integers, not {ids!r}")
        size = len(self)
        if jnp.issubdtype(ids.dtype, jnp.unsignedinteger):
            ids = jnp.minimum(ids, jnp.asarray(min(size, jnp.iinfo(ids.dtype).max), ids.dtype))
        ids = ids if ids.dtype.itemsize > 4 else ids.astype(jnp.int32)
        wrapped = jnp.where(ids < 0, ids + size, ids)
        self.looked_up.append(jnp.where(wrapped < 0, size, wrapped))  # out of range: no row
        found = rows.look_up(self._array, ids)
        self.found.append(found)
        return found if self._addends is None else found + self._addends[len(self.looked_up) - 1]

    def _refused(self, what: str) -> str:
        name = trees.quote(self._name)
        return f"the table {name} has a row-sparse gradient and can only be looked up, table[ids]; {what}"

    def __repr__(self) -> str:
        return f"the table {trees.quote(self._name)}, which can only be looked up, table[ids]"

    def __getattr__(self, name: str) -> PyTree:
        if name.startswith("_"):  # copy asks before there is anything, and libraries whether there is a protocol
            raise AttributeError(name)
        raise AttributeError(self._refused(f"it has no {name!r}"))

    def __iter__(self) -> Iterator[object]:  # without it Python would try table[0], table[1], ... forever
        raise TypeError(self._refused("its rows cannot be iterated over"))

    def __array__(self, *args: object, **keywords: object) -> PyTree:
        raise TypeError(self._refused("it is not an array"))

    __array_ufunc__ = None


def _refusing(method: str) -> Callable[..., PyTree]:
    def refuse(self: Table, *_: object) -> PyTree:
        raise TypeError(self._refused(f"it is no operand ({method})"))

    return refuse


_BINARY = "add sub mul truediv floordiv mod divmod pow matmul and or xor lshift rshift"
_OTHERS = "eq ne lt le gt ge bool int float complex index neg pos abs invert round contains setitem delitem call"
for _name in (*_BINARY.split(), *(f"r{name}" for name in _BINARY.split()), *_OTHERS.split()):
    # object's own == would be False, and its truth True, whatever the table holds
    setattr(Table, f"__{_name}__", _refusing(f"__{_name}__"))


def named(sparse: Sparse, params: PyTree) -> Sparse:
    """Resolve ``sparse`` to names, if it is a function of them."""
    if not callable(sparse):
        return sparse
    return tuple(name for name in trees.named_leaves(params)[0] if sparse(name))


def _chosen(sparse: Sparse, names: list[str]) -> list[bool]:
    """Return for each parameter whether it is a table."""
    if callable(sparse):
        return [bool(sparse(name)) for name in names]
    wanted = {sparse} if isinstance(sparse, str) else set(sparse)
    unknown = sorted(wanted - set(names))
    if unknown:
        raise ValueError(
            f"sparse names {', '.join(map(trees.quote, unknown))}, which no parameter is called; "
            f"they are {', '.join(map(trees.quote, names))}"
        )
    return [name in wanted for name in names]


@explains_names
def value_and_sparse_grad(loss: Callable[..., PyTree], sparse: Sparse, has_aux: bool = False) -> Callable[..., PyTree]:
    """``jax.value_and_grad`` of a loss whose tables get row-sparse gradients.

    Args:
        loss: ``loss(params, *args)`` returns a real scalar or, with ``has_aux``, a pair of it and anything. It may only
            look a table up, ``params["table"][ids]`` with an integer array of any shape, any number of times, but not
            inside a function that ``loss`` compiles, scans or maps. Flax's ``Embed`` does more with its table; an
            ``nnx.Param`` looked up as ``embedding[ids]`` works. While ``loss`` runs a table is no array: a sum over
            "all leaves that are arrays", such as a penalty, leaves it out. ``loss`` is traced even outside ``jit``.
        sparse: which parameters are tables: a dotted path (``"embed.table"``; ``""`` if the parameters are one array),
            several of them, or a function of the path.
        has_aux: whether ``loss`` returns something in addition to its value.

    Returns:
        A function that returns the value and the gradients. A table's gradient is a ``BCOO`` array with one entry per
        looked-up row, duplicates included; nothing of the table's size is formed. The other gradients are dense.

    Raises:
        ValueError: ``sparse`` has a name that no parameter has.
        TypeError, AttributeError: the loss does anything else with a table.

    Example:
        >>> def loss(params, ids):
        ...     return jnp.sum(params["table"][ids] @ params["weights"])
        >>> params = {"table": jnp.ones((1000, 2)), "weights": jnp.ones(2)}
        >>> value, grads = value_and_sparse_grad(loss, "table")(params, jnp.array([3, 7, 3]))
        >>> value.item(), grads["table"].indices[:, 0].tolist(), grads["weights"].tolist()
        (6.0, [3, 7, 3], [3.0, 3.0])
    """

    def value_and_grad(params: PyTree, *args: object) -> PyTree:
        names, leaves, treedef = trees.named_leaves(params)
        chosen = _chosen(sparse, names)
        for name, leaf, is_table in zip(names, leaves, chosen, strict=True):
            if is_table and not jnp.ndim(leaf):
                raise ValueError(f"the table {trees.quote(name)} has no rows, it is a scalar")
        leaves = [jnp.asarray(leaf) if is_table else leaf for leaf, is_table in zip(leaves, chosen, strict=True)]

        def run(dense: list[PyTree], addends: list[PyTree] | None, leaves: list[PyTree]) -> PyTree:
            given, added = iter(dense), iter(addends or [None] * len(leaves))
            mixed = [
                Table(name, leaf, next(added)) if is_table else next(given)
                for name, leaf, is_table in zip(names, leaves, chosen, strict=True)
            ]
            result = loss(treedef.unflatten(mixed), *args)
            value, aux = result if has_aux else (result, None)
            used = [leaf for leaf, is_table in zip(mixed, chosen, strict=True) if is_table]
            return value, (aux, [table.looked_up for table in used], [table.found for table in used])

        tables = [leaf for leaf, is_table in zip(leaves, chosen, strict=True) if is_table]
        dense = [leaf for leaf, is_table in zip(leaves, chosen, strict=True) if not is_table]
        _, (_, _, shapes) = jax.eval_shape(lambda dense, leaves: run(dense, None, leaves), dense, leaves)
        addends = jax.tree.map(_zeros, shapes)
        differentiate = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)
        (value, (aux, looked_up, _)), (dense_grads, added) = differentiate(dense, addends, leaves)
        of_tables = iter([_rows(table, *pair) for table, *pair in zip(tables, looked_up, added, strict=True)])
        of_others = iter(dense_grads)
        grads = treedef.unflatten([next(of_tables) if is_table else next(of_others) for is_table in chosen])
        return ((value, aux) if has_aux else value), grads

    return value_and_grad


def _zeros(found: jax.ShapeDtypeStruct) -> jax.Array:
    """Create zeros that are sharded and vary as the found rows, so that every device has its own gradients."""
    return axes.vary_as(jnp.zeros(found.shape, found.dtype, device=found.sharding), found)


def _rows(table: jax.Array, looked_up: list[jax.Array], grads: list[jax.Array]) -> PyTree:
    """Assemble a table's gradient from the gradients of what was looked up."""
    row = table.shape[1:]
    looked_up = [whole(ids, range(ids.ndim)) for ids in looked_up]
    grads = [whole(grad, range(ids.ndim)) for grad, ids in zip(grads, looked_up, strict=True)]
    data = [grad.reshape(-1, *row) for grad in grads] or [jnp.zeros((0, *row), table.dtype)]
    indices = [ids.reshape(-1).astype(jnp.int32) for ids in looked_up] or [jnp.zeros(0, jnp.int32)]
    return rows.make(jnp.concatenate(data), jnp.concatenate(indices), table.shape)
