"""Pytrees as the library sees them: named leaves, None and row-sparse gradients as leaves, errors with paths."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.sparse import BCOO, JAXSparse
from jax.tree_util import KeyPath
from jax.typing import DTypeLike

from functorch_optim import foreign_models
from functorch_optim.pages import see
from functorch_optim.typing import Array, PyTree, TreeDef

Names = list[str]


def is_leaf(node: PyTree) -> bool:
    """Whether a node is a leaf of a gradient tree: None is "no gradient", and a sparse array is never opened."""
    return node is None or isinstance(node, JAXSparse)


def is_sparse(node: PyTree) -> bool:
    """Whether a node is a sparse array."""
    return isinstance(node, JAXSparse)


def is_absent(leaf: PyTree) -> bool:
    """Whether a leaf of a gradient tree is not a gradient: None, or a float0, which ``jax.grad`` gives for integers."""
    return leaf is None or getattr(leaf, "dtype", None) == jax.dtypes.float0


def is_abstract(leaf: PyTree) -> bool:
    """Whether a leaf is only a shape and a dtype, as from ``jax.eval_shape``."""
    return isinstance(leaf, jax.ShapeDtypeStruct)


class Structure:
    """A tree's structure in a form that can be pickled and copied, whatever library its nodes are from.

    A PyTreeDef with nodes of other libraries refuses to be pickled, and copies of some are not equal to the original.
    """

    def __init__(self, treedef: TreeDef) -> None:
        self.treedef = treedef

    @classmethod
    def of(cls, tree: PyTree) -> "Structure":
        return cls(jax.tree.structure(tree))

    def unflatten(self, leaves: PyTree) -> PyTree:
        return self.treedef.unflatten(leaves)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self.treedef == other.treedef

    def __hash__(self) -> int:
        return hash(self.treedef)

    def __deepcopy__(self, memo: object) -> "Structure":
        return self  # it never changes

    def __reduce__(self) -> tuple[object, ...]:
        return Structure.of, (self.treedef.unflatten(range(self.treedef.num_leaves)),)


class Flat:
    """Base of a node whose leaves are joined: transformations cannot look at the single ones."""

    def spread(self) -> PyTree:
        """Return the tree that was joined, and at each of its leaves what stands for the array that holds it."""
        raise NotImplementedError


def is_flat(node: object) -> bool:
    """Whether a node of a tree is a :class:`Flat`."""
    return isinstance(node, Flat)


def has_flat(tree: PyTree) -> bool:
    """Whether some leaves of the tree are joined in a :class:`Flat` node."""
    return any(map(is_flat, jax.tree.leaves(tree, is_leaf=is_flat)))


def spread(tree: PyTree) -> PyTree:
    """Replace every :class:`Flat` node of a tree by :meth:`Flat.spread`."""
    return jax.tree.map(lambda node: node.spread() if isinstance(node, Flat) else node, tree, is_leaf=is_flat)


def path_name(path: KeyPath[Any]) -> str:
    """Format a key path as a dotted name, ``layers.0.weight``, without the attribute ``value`` of nnx's variables."""
    if path and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named_leaves(tree: PyTree, none_is_leaf: bool = False) -> tuple[Names, list[PyTree], PyTree]:
    """Flatten a tree into dotted names, leaves and structure."""
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf if none_is_leaf else is_sparse)
    return [path_name(path) for path, _ in flat], [leaf for _, leaf in flat], treedef


def quote(name: str) -> str:
    """Quote a parameter's name for a message; a tree that is one array has no name."""
    return f"'{name}'" if name else "(the only one)"


def align(reference: PyTree, tree: PyTree, what: str, of: str = "the parameters") -> list[PyTree]:
    """Return the nodes of ``tree`` at the places where ``reference`` has leaves.

    Raises:
        ValueError: ``tree`` has another structure; the message lists what is missing or unexpected.
    """
    try:
        return jax.tree.structure(reference).flatten_up_to(tree)
    except ValueError as error:
        expected, _, structure = named_leaves(reference)
        found, _, other = named_leaves(tree, none_is_leaf=True)
        missing = [quote(name) for name in expected if name not in found]
        unexpected = [quote(name) for name in found if name not in expected]
        lists = (("missing", missing), ("unexpected", unexpected))
        difference = "; ".join(f"{label} {', '.join(names)}" for label, names in lists if names)
        containers = f"the names are the same, but the containers are {other} instead of {structure}"
        raise ValueError(f"{what} do not have the structure of {of}: {difference or containers}") from error


def check_parameter(name: str, param: Array) -> None:
    """Raise unless an optimizer can update ``param``: a dense floating or complex array."""
    if is_sparse(param):
        raise ValueError(
            f"Sparse params at indices [{quote(name)}]: optimizers require dense parameter tensors; gradients may be "
            "row-sparse"
        )
    check_array(name, param)
    if not jnp.issubdtype(param.dtype, jnp.inexact):
        raise TypeError(
            f"optimizer can only optimize floating and complex arrays, but the parameter {quote(name)} has dtype "
            f"{param.dtype}: keep it out of the tree, or use fo.masked"
        )


def check_array(name: str, node: PyTree, what: str = "", model: PyTree = None) -> None:
    """Raise unless ``node`` is an array: the parameter itself or, with ``what``, its gradient or the like.

    The message says what to pass instead of the ``node``, or of the ``model`` that it is from.
    """
    if foreign_models.is_array(node):
        return
    kind = foreign_models.kind(node)
    if what:
        hint = f"; pass JAX's arrays ({see('from-torch')})" if foreign_models.origin(node) else ""
        raise TypeError(f"{what} of the parameter {quote(name)} is not an array but {kind}{hint}")
    hint = foreign_models.instead_of(node) if model is None else foreign_models.instead_in(model)
    raise TypeError(
        f"optimizer can only optimize Tensors (here: arrays), but one of the params is {kind}: the parameter "
        f"{quote(name)}{hint}"
    )


def check_arrays(updates: PyTree, params: PyTree) -> None:
    """Raise unless gradients, and the parameters that have one, are arrays: tracing would turn numbers into arrays."""
    names, leaves, _ = named_leaves(updates, none_is_leaf=True)
    for name, leaf in zip(names, leaves, strict=True):
        if not is_absent(leaf):
            check_array(name, leaf, "the gradient")
    if params is not None:
        names, models, _ = named_leaves(params)
        for name, model, leaf in zip(names, models, align(params, updates, "gradients"), strict=True):
            if not is_absent(leaf):
                check_array(name, model)


def check_floating(name: str, array: Array, what: str, hint: str = "") -> None:
    """Raise unless ``array`` is an array of a floating or complex dtype."""
    check_array(name, array, what)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        raise TypeError(f"{what} of the parameter {quote(name)} has dtype {array.dtype}, which is not floating{hint}")


def check_real(name: str, array: Array, refusal: str) -> None:
    """Raise if ``array`` is complex: the message begins with ``refusal``."""
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise RuntimeError(f"{refusal}: the parameter {quote(name)}")


def check_like(name: str, array: PyTree, param: Array, what: str) -> None:
    """Raise unless ``array`` matches ``param``: an array of its shape, complex if and only if it is complex."""
    if array is None:
        return
    check_array(name, array, what)
    check_array(name, param)
    if array.shape != param.shape:
        raise ValueError(
            f"{what} of the parameter {quote(name)} has shape {array.shape}, the parameter has shape {param.shape}"
        )
    check_floating(name, array, what)
    if jnp.issubdtype(array.dtype, jnp.complexfloating) != jnp.issubdtype(param.dtype, jnp.complexfloating):
        raise TypeError(f"{what} of the parameter {quote(name)} is {array.dtype}, the parameter is {param.dtype}")


def check_dense(name: str, update: PyTree, who: str, hint: str = "") -> None:
    """Raise if ``update`` is sparse."""
    if is_sparse(update):
        raise RuntimeError(f"{who} does not support sparse gradients: the parameter {quote(name)}{hint}")


def pair(
    reference: PyTree, tree: PyTree, who: str, hint: str = "", what: str = "gradient", rows: bool = False
) -> tuple[list[PyTree], list[PyTree], PyTree]:
    """Return the leaves of ``reference``, the checked nodes of ``tree`` at them (None if absent), and the structure.

    Raises:
        ValueError: a structure or shape differs; TypeError: a node is not a floating array; RuntimeError: it is sparse
            or, with ``rows``, sparse in another way than by rows. All name the leaf.
    """
    names, models, treedef = named_leaves(reference)
    leaves = [None if is_absent(leaf) else leaf for leaf in align(reference, tree, f"{what}s")]
    for name, leaf, model in zip(names, leaves, models, strict=True):
        check_update(name, leaf, model, who, hint, what, rows)
    return models, leaves, treedef


def check_update(
    name: str, leaf: PyTree, model: PyTree, who: str, hint: str = "", what: str = "gradient", rows: bool = False
) -> None:
    """Raise unless ``leaf`` is None or an array that matches ``model``: dense or, with ``rows``, row-sparse."""
    if not rows:
        check_dense(name, leaf, who, hint)
    elif is_sparse(leaf) and not (isinstance(leaf, BCOO) and leaf.n_sparse == 1 and leaf.n_batch == 0):
        kind = (
            f"{type(leaf).__name__}({leaf.n_sparse} sparse, {leaf.n_batch} batch dimensions)"
            if isinstance(leaf, BCOO)
            else type(leaf).__name__
        )
        raise RuntimeError(
            f"{who} supports sparse gradients that are BCOO arrays with one sparse dimension, the rows; the {what} of "
            f"the parameter {quote(name)} is {kind}"
        )
    check_like(name, leaf, model, f"the {what}")


def map_arrays(function: Callable[..., PyTree], tree: PyTree, what: str = "") -> PyTree:
    """Apply ``function`` to every leaf of ``tree``, sparse ones too; None stays.

    Raises:
        TypeError: a leaf is not an array; as :func:`check_array`.
    """

    def at(path: KeyPath[Any], leaf: PyTree) -> PyTree:
        check_array(path_name(path), leaf, what)
        return function(leaf)

    return jax.tree_util.tree_map_with_path(at, tree, is_leaf=is_sparse if what else None)


def map_dense(function: Callable[..., PyTree], who: str, updates: PyTree, *rest: object) -> PyTree:
    """Apply ``function`` to every leaf of ``updates``; keep what is not a gradient.

    Raises:
        TypeError: a leaf is not floating; RuntimeError: it is sparse. Both name the leaf.
    """

    def dense(name: str, update: PyTree, *others: object) -> PyTree:
        check_dense(name, update, who)
        return function(update, *others)

    return map_updates(dense, who, updates, *rest)


def map_updates(function: Callable[..., PyTree], who: str, updates: PyTree, *rest: object) -> PyTree:
    """Apply ``function(name, leaf)`` to every leaf of ``updates``, sparse ones too; keep what is not a gradient.

    Raises:
        TypeError: a leaf is not floating; the message names it.
    """

    def at(path: KeyPath[Any], update: PyTree, *others: object) -> PyTree:
        if is_absent(update):
            return update
        name = path_name(path)
        check_floating(name, update, f"{who}: the gradient", ": keep it out of the tree, or use fo.masked")
        return function(name, update, *others)

    return jax.tree_util.tree_map_with_path(at, updates, *rest, is_leaf=is_leaf)


# One rule for how narrow a number may be. Arithmetic, and what sums or averages over many steps outside an algorithm,
# uses :func:`compute_dtype`. An algorithm's slots use :func:`slot_dtype`, which is torch's if that has float32's range.
# What is loaded is never narrower than what would be created here: :func:`wider_dtype`. Only ``state_dtype`` and an
# option ``dtype=`` override this.


def is_narrow(array: Array) -> bool:
    """Whether an array is real floating and narrower than float32."""
    return bool(jnp.issubdtype(array.dtype, jnp.floating) and jnp.finfo(array.dtype).bits < 32)


def compute_dtype(*arrays: PyTree) -> DTypeLike:
    """Return the dtype to compute in: wide enough for all arrays, and at least float32; ignore None."""
    dtypes = [array.dtype for array in arrays if array is not None]
    double = any(jnp.finfo(dtype).bits == 64 for dtype in dtypes)
    if any(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in dtypes):
        return jnp.dtype(jnp.complex128 if double else jnp.complex64)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def slot_dtype(param: Array) -> DTypeLike:
    """Return the dtype of a parameter's slots: its own, as in torch, or float32 if its range is smaller (float16).

    In such a range the squares of ordinary gradients are zero or infinite, and an epsilon of 1e-8 is zero.
    """
    small = jnp.finfo(param.dtype).maxexp < jnp.finfo(jnp.bfloat16).maxexp
    return jnp.dtype(jnp.float32) if small else jnp.dtype(param.dtype)


def holds(dtype: DTypeLike, other: PyTree) -> bool:
    """Whether ``dtype`` represents every number of the floating dtype ``other``."""
    wide, narrow = jnp.finfo(dtype), jnp.finfo(other)
    return wide.nmant >= narrow.nmant and wide.maxexp >= narrow.maxexp and wide.minexp <= narrow.minexp


def wider_dtype(dtype: DTypeLike, other: PyTree) -> DTypeLike:
    """Return the real floating dtype that holds the numbers of both; float32 if neither holds the other's.

    Example:
        >>> str(wider_dtype(jnp.bfloat16, jnp.float32)), str(wider_dtype(jnp.float16, jnp.bfloat16))
        ('float32', 'float32')
    """
    one, two = jnp.finfo(dtype).dtype, jnp.finfo(other).dtype
    return one if holds(one, two) else two if holds(two, one) else jnp.dtype(jnp.float32)
