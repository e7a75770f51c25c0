"""Parameters with their small leaves in flat buffers, for functional loops over many leaves."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from functorch_optim import axes, trees
from functorch_optim.core.packing import Assembly, Segments, joined, packable, segments_of
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

    def __repr__(self) -> str:
        names = trees.named_leaves(
            self.assembly.structure.unflatten(range(self.assembly.structure.treedef.num_leaves))
        )[0]
        parts = [
            ", ".join(f"{names[i]} {shape}" for i, shape in zip(*pack, strict=True)) for pack in self.assembly.packs
        ]
        return repr(dict(zip(self.names[len(self.assembly.alone) :], parts, strict=True)))

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[object, ...]:
        return Form, (self.assembly, self.names)  # another process hashes strings otherwise

    def buffers(self, arrays: list[PyTree]) -> list[PyTree]:
        """Return the buffers of ``arrays``.

        Raises:
            ValueError: the last axis of one has another size.
        """
        loose = len(self.assembly.alone)
        for name, array, pack in zip(self.names[loose:], arrays[loose:], self.assembly.packs, strict=True):
            if array is not None:
                pack.check(f"{name} of the flat parameters", array)
        return arrays[loose:]

    def leaves(self, arrays: list[PyTree], pieces: list[PyTree]) -> list[PyTree]:
        """Return all leaves: those of ``arrays`` that stayed alone, and the pieces of each buffer."""
        return self.assembly.leaves([*arrays[: len(self.assembly.alone)], *pieces], lambda parts, _: parts)

    def shapes(self, arrays: list[PyTree]) -> list[tuple[int, ...] | None]:
        """Return the shape of each leaf, None where there is none."""
        fronts = [None if array is None else jnp.shape(array)[:-1] for array in self.buffers(arrays)]
        pairs = zip(self.assembly.packs, fronts, strict=True)
        pieces = [None if front is None else [(*front, *shape) for shape in pack.shapes] for pack, front in pairs]
        return self.leaves([None if array is None else jnp.shape(array) for array in arrays], pieces)

    def cut(self, arrays: list[PyTree]) -> list[PyTree]:
        """Return each leaf; of an abstract buffer, abstract leaves."""
        buffers = self.buffers(arrays)
        pieces: Any = _pieces(self, [None if trees.is_abstract(array) else array for array in buffers])
        triples = zip(self.assembly.packs, buffers, pieces, strict=True)
        return self.leaves(arrays, [pack.cut(a) if trees.is_abstract(a) else parts for pack, a, parts in triples])

    def joined(self, leaves: list[PyTree]) -> list[PyTree]:
        """Return the arrays that hold these leaves."""
        columns, loose = self.assembly.columns(leaves), len(self.assembly.alone)
        return [*columns[:loose], *map(_joined, self.assembly.packs, columns[loose:])]


@jax.tree_util.register_pytree_with_keys_class
class FlatParams(trees.Flat):
    """A tree whose small leaves are joined in flat buffers, one per dtype; :func:`flat_params` makes one.

    It is a pytree of the buffers and of the large leaves, so gradients, slots and averages have the same form.

    Example:
        >>> flat = flat_params({"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))})
        >>> [array.shape for array in flat.arrays], flat.tree()["kernel"].shape
        ([(6,)], (2, 2))
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

    def spread(self) -> PyTree:
        assembly = self.form.assembly
        leaves = assembly.leaves(self.arrays, lambda array, segments: [array] * len(segments.indices))
        return assembly.structure.unflatten(leaves)

    def tree(self) -> PyTree:
        """Split the buffers, and return the tree.

        Axes in front of a buffer, such as those of a stack from ``jax.vmap`` or ``jax.lax.scan``, become axes in front
        of every leaf. Of ``jax.ShapeDtypeStruct`` it returns the same.

        Inside a loss the gradients are joined again, in one piece. It differentiates in reverse mode, and forward over
        reverse; :func:`jax.jvp` alone needs the tree itself.

        Leaves that stayed alone are not copied: a later call that donates the flat parameters deletes these leaves, and
        no others. To keep a tree beyond such a call, copy it: ``jax.tree.map(jnp.copy, flat.tree())``.

        Raises:
            ValueError: the last axis of a buffer has another size than its leaves, such as that of shards put together.
        """
        return self.form.assembly.structure.unflatten(self.form.cut(self.arrays))

    def like(self, tree: PyTree) -> "FlatParams":
        """Join the leaves of another tree of the same structure and shapes, such as a slot, in the same form.

        The leaves in one buffer may have another dtype than here, but must share it. Leaves that stay alone are not
        copied.

        Raises:
            ValueError: the tree has another structure; a leaf has another shape; leaves in one buffer have different
                dtypes, or only some of them are None.
            TypeError: a leaf is not an array.
        """
        places = FlatParams(self.form, list(range(len(self.arrays)))).spread()
        names, _, _ = trees.named_leaves(places)
        leaves = trees.align(places, tree, "the leaves", "the flat parameters")
        for name, expected, leaf in zip(names, self.form.shapes(self.arrays), leaves, strict=True):
            if leaf is not None:
                trees.check_array(name, leaf, "the value")
            shape = None if leaf is None else leaf.shape
            if shape != expected:
                where = trees.quote(name)
                raise ValueError(f"the leaf {where} has shape {shape}, but in this form it has shape {expected}")
        for pack in self.form.assembly.packs:
            pack.dtype_of(leaves, names)
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
    the global norm or by value, weight decay, accumulation, skips, averages, schedules. What looks at whole leaves, or
    at their names or places (Muon, Adafactor, BFGS, masks, partitions, trust ratios), is refused by ``init`` and
    ``update``; another library's transformation is not checked.

    Args:
        params: a tree of arrays, which are copied, or of ``jax.ShapeDtypeStruct``. Integers, large leaves and leaves
            sharded over several devices stay alone. Call it outside ``jit``: inside, arrays on a mesh do not show
            whether they are sharded unless its axes are explicit.

    Returns:
        A :class:`FlatParams`, a pytree; its method ``tree()`` returns the tree. :func:`unflatten` converts a whole
        state, and :func:`flatten_like` converts it back.

    Raises:
        TypeError: a leaf is not an array.
        ValueError: a leaf is sparse; some leaves are in flat buffers already; inside ``shard_map(check_vma=False)``,
            where no array says whether it is sharded.

    Example:
        >>> import functorch_optim as fo
        >>> flat = flat_params({"a": jnp.ones(2), "b": jnp.zeros((2, 2))})
        >>> tx = fo.sgd(lr=0.5)
        >>> grads = jax.grad(lambda flat: jnp.sum(flat.tree()["a"] ** 2))(flat)
        >>> updates, state = tx.update(grads, tx.init(flat), flat)
        >>> fo.apply_updates(flat, updates)
        FlatParams({'packed.float32': Array([0., 0., 0., 0., 0., 0.], dtype=float32)})
    """
    if trees.has_flat(params):
        raise ValueError("the params are in fo.flat_params already: fo.unflatten returns their tree")
    names, leaves, treedef = trees.named_leaves(params)
    for name, leaf in zip(names, leaves, strict=True):
        trees.check_array(name, leaf)
        if trees.is_sparse(leaf):
            kind = type(leaf).__name__
            raise ValueError(f"the parameter {trees.quote(name)} is a {kind}, and flat_params joins dense arrays")
    unknown = axes.unknown()
    if unknown and any(isinstance(leaf, Tracer) for leaf in leaves):
        raise ValueError(
            "flat_params joins leaves that are whole on every device, and inside shard_map(check_vma=False) no array "
            f"says whether it is split over the axis {unknown}: call it outside shard_map, set check_vma=True, or keep "
            "the tree"
        )
    fits = packable(leaves)
    small = [one and jnp.issubdtype(leaf.dtype, jnp.inexact) for one, leaf in zip(fits, leaves, strict=True)]
    segments = segments_of(leaves, small)
    alone = [index for index, packed in enumerate(small) if not packed]
    assembly = Assembly(trees.Structure(treedef), tuple(alone), tuple(segments.values()))
    form = Form(assembly, (*[names[index] for index in alone], *[f"packed.{key}" for key in segments]))
    return FlatParams(form, form.joined([leaf if trees.is_abstract(leaf) else jnp.array(leaf) for leaf in leaves]))


def unflatten(tree: PyTree) -> PyTree:
    """Replace every :class:`FlatParams` in a tree, such as a state, by its tree.

    The result is what the same transformation has without flat parameters, for checkpoints and for reading. Leaves that
    stayed alone are not copied, as :meth:`FlatParams.tree` says.

    Raises:
        ValueError: as :meth:`FlatParams.tree`.

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
        ValueError: the tree does not fit ``like``; as :meth:`FlatParams.like`.
        TypeError: a leaf is not an array.

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


def _joined(pack: Segments, leaves: list[PyTree]) -> PyTree:
    """Join the leaves of one buffer, which are arrays, abstract arrays, or absent."""
    if trees.is_absent(leaves[0]):
        return None
    whole = joined if any(map(trees.is_abstract, leaves)) else _whole
    return whole(leaves, leaves[0].dtype, len(leaves[0].shape) - len(pack.shapes[0]))


_whole = jax.jit(joined, static_argnums=(1, 2))


@functools.partial(jax.jit, static_argnums=0)
def _split(form: Form, buffers: list[PyTree]) -> list[PyTree]:
    """Return the pieces of each buffer, or None."""
    flat = next((array for array in buffers if array is not None and array.ndim == 1), None)
    one = None if flat is None else 1 + jnp.isnan(flat[0]).astype(jnp.int32)  # positive, unknown to XLA
    pairs = zip(form.assembly.packs, buffers, strict=True)
    return [None if array is None else pack.cut(array, one if array.ndim == 1 else None) for pack, array in pairs]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pieces(form: Form, buffers: list[PyTree]) -> list[PyTree]:
    return _split(form, buffers)


def _forward(form: Form, buffers: list[PyTree]) -> tuple[list[PyTree], None]:
    return _split(form, buffers), None


def _backward(form: Form, _: None, grads: list[PyTree]) -> tuple[list[PyTree]]:
    pairs = zip(form.assembly.packs, grads, strict=True)
    return ([None if pieces is None else _joined(pack, pieces) for pack, pieces in pairs],)


_pieces.defvjp(_forward, _backward)
