"""Parameters with their small leaves in flat buffers, for functional loops over many leaves."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.core.packing import Assembly, joined, packable, segments_of
from functorch_optim.typing import PyTree


class Form:
    """Where each leaf is, and the names of the arrays; quick to compare and to hash."""

    def __init__(self, assembly: Assembly, names: tuple[str, ...]) -> None:
        self.assembly = assembly
        self.names = names
        self._hash = hash((assembly, names))

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Form):
            return self is other
        return self._hash == other._hash and (self.assembly, self.names) == (other.assembly, other.names)

    def __hash__(self) -> int:
        return self._hash

    def models(self, arrays: list[PyTree]) -> list[PyTree]:
        """Return the shape and dtype of each leaf."""
        return self.assembly.leaves(
            [array if array is None else jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays],
            lambda flat, segments: [jax.ShapeDtypeStruct(shape, flat.dtype) for shape in segments.shapes],
        )

    def joined(self, leaves: list[PyTree]) -> list[PyTree]:
        """Return the arrays that hold these leaves."""
        columns = self.assembly.columns(leaves)
        return [(None if each[0] is None else _whole(each)) if isinstance(each, list) else each for each in columns]


@jax.tree_util.register_pytree_with_keys_class
class FlatParams(trees.Flat):
    """A tree whose small leaves are joined in flat buffers, one per dtype; :func:`flat_params` makes one.

    It is a pytree of the buffers and of the large leaves, so gradients, slots and averages have the same form.
    """

    def __init__(self, form: Form, arrays: list[PyTree]) -> None:
        self.form = form
        self.arrays = arrays

    def __repr__(self) -> str:
        return f"FlatParams({dict(zip(self.form.names, self.arrays, strict=True))!r})"

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, PyTree]], Form]:
        return list(zip(map(jax.tree_util.DictKey, self.form.names), self.arrays, strict=True)), self.form

    @classmethod
    def tree_unflatten(cls, form: Form, arrays: Any) -> "FlatParams":
        return cls(form, list(arrays))

    def tree(self) -> PyTree:
        """Split the buffers, and return the tree; leaves that stayed alone are the same arrays.

        Inside a loss the gradients are joined again, in one piece.

        It differentiates in reverse mode, and forward over reverse; :func:`jax.jvp` alone needs the tree itself.
        """
        assembly = self.form.assembly
        if any(array is None for array in self.arrays):  # a slot that only some parameters have
            leaves = assembly.leaves(self.arrays, lambda flat, segments: segments.cut(flat))
        else:
            leaves = _leaves(self.form, self.arrays)
        return assembly.structure.unflatten(leaves)

    def like(self, tree: PyTree) -> "FlatParams":
        """Join the leaves of another tree of the same structure and shapes, such as a slot, in the same form.

        Raises:
            ValueError: the tree has another structure, or a leaf another shape.
        """
        leaves = self.form.assembly.structure.treedef.flatten_up_to(tree)
        for model, leaf in zip(self.form.models(self.arrays), leaves, strict=True):
            shapes = [None if each is None else jnp.shape(each) for each in (leaf, model)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"a leaf has shape {shapes[0]}, but in this form it has shape {shapes[1]}")
        return FlatParams(self.form, self.form.joined(leaves))


def flat_params(params: PyTree) -> FlatParams:
    """Join the small leaves of a tree (at most 8192 entries) in flat buffers, for a loop that never splits them.

    Passing a buffer in and out of a compiled step takes longer than the arithmetic of a small leaf. Let the loop carry
    the flat parameters, and form the tree inside the loss::

        flat = fo.flat_params(params)
        state = tx.init(flat)
        grads = jax.grad(lambda flat, x: loss(flat.tree(), x))(flat, x)
        updates, state = tx.update(grads, state, flat)
        flat = fo.apply_updates(flat, updates)

    Every transformation works that treats all entries alike: algorithms that update each entry by itself, clipping by
    the global norm or by value, weight decay, accumulation, skips, averages, schedules. What looks at whole leaves or
    at their names (Muon, Adafactor, masks, partitions, trust ratios) is refused by ``init``; another library's
    transformation is not checked.

    Args:
        params: a tree of arrays, which are copied; integers, large leaves and leaves sharded over several devices stay
            alone.

    Returns:
        A :class:`FlatParams`, a pytree; its method ``tree()`` returns the tree. :func:`unflatten` converts a whole
        state, and :func:`flatten_like` converts it back.

    Example:
        >>> import functorch_optim as fo
        >>> flat = flat_params({"a": jnp.ones(2), "b": jnp.zeros((2, 2))})
        >>> tx = fo.sgd(lr=0.5)
        >>> grads = jax.grad(lambda flat: jnp.sum(flat.tree()["a"] ** 2))(flat)
        >>> updates, state = tx.update(grads, tx.init(flat), flat)
        >>> fo.apply_updates(flat, updates)
        FlatParams({'packed.float32': Array([0., 0., 0., 0., 0., 0.], dtype=float32)})
    """
    names, leaves, treedef = trees.named_leaves(params)
    for name, leaf in zip(names, leaves, strict=True):
        trees.check_array(name, leaf)
    fits = packable(leaves)
    small = [one and jnp.issubdtype(leaf.dtype, jnp.inexact) for one, leaf in zip(fits, leaves, strict=True)]
    segments = segments_of(leaves, small)
    alone = [index for index, packed in enumerate(small) if not packed]
    assembly = Assembly(trees.Structure(treedef), tuple(alone), tuple(segments.values()))
    form = Form(assembly, (*[names[index] for index in alone], *[f"packed.{key}" for key in segments]))
    return FlatParams(form, form.joined([jnp.array(leaf) for leaf in leaves]))


def unflatten(tree: PyTree) -> PyTree:
    """Replace every :class:`FlatParams` in a tree, such as a state, by its tree.

    The result is what the same transformation has without flat parameters, for checkpoints and for reading.

    Example:
        >>> import functorch_optim as fo
        >>> state = fo.adam().init(flat_params({"a": jnp.ones(2), "b": jnp.ones(1)}))
        >>> unflatten(state).exp_avg["b"].tolist()
        [0.0]
    """
    return jax.tree.map(lambda node: node.tree() if isinstance(node, FlatParams) else node, tree, is_leaf=trees.is_flat)


def flatten_like(tree: PyTree, like: PyTree) -> PyTree:
    """Undo :func:`unflatten`: join again what is joined in ``like``.

    Raises:
        ValueError: the tree does not fit ``like``.

    Example:
        >>> import functorch_optim as fo
        >>> state = fo.adam().init(flat_params({"a": jnp.ones(2), "b": jnp.ones(1)}))
        >>> flatten_like(unflatten(state), state).exp_avg.arrays[0].tolist()
        [0.0, 0.0, 0.0]
    """
    models, treedef = jax.tree.flatten(like, is_leaf=trees.is_flat)
    nodes = treedef.flatten_up_to(tree)
    pairs = zip(models, nodes, strict=True)
    return treedef.unflatten([model.like(node) if isinstance(model, FlatParams) else node for model, node in pairs])


@jax.jit
def _whole(leaves: list[jax.Array]) -> jax.Array:
    return joined(leaves, leaves[0].dtype)


@functools.partial(jax.jit, static_argnums=0)
def _split(form: Form, arrays: list[PyTree]) -> list[PyTree]:
    columns = arrays[len(form.assembly.alone) :]
    one = 1 + jnp.isnan(columns[0][0]).astype(jnp.int32) if columns else jnp.int32(1)  # positive, unknown to XLA
    return jax.tree.leaves(form.assembly.tree(arrays, one))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _leaves(form: Form, arrays: list[PyTree]) -> list[PyTree]:
    return _split(form, arrays)


def _forward(form: Form, arrays: list[PyTree]) -> tuple[list[PyTree], None]:
    return _split(form, arrays), None


def _backward(form: Form, _: None, grads: list[PyTree]) -> tuple[list[PyTree]]:
    return (form.joined(grads),)


_leaves.defvjp(_forward, _backward)
