"""Clipping: by the norm of the whole gradient, or value by value."""

from typing import Any

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, transformation
from functorch_optim.core.numerics import sqrt
from functorch_optim.hyperparams import Hyperparameter, NonNegative
from functorch_optim.transforms.scaling import Scheduled, multiply
from functorch_optim.typing import Numeric, PyTree


def global_norm(tree: PyTree, axis_name: PyTree = None) -> jax.Array:
    """The Euclidean norm of all leaves together, summed in float32 or wider; None leaves are ignored.

    Args:
        tree: a pytree of dense arrays.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Raises:
        ValueError: inside ``shard_map`` without ``axis_name``, a leaf varies or may vary over the mesh.

    Example:
        >>> global_norm({"a": jnp.array([3.0]), "b": jnp.array([4.0]), "c": None}).item()
        5.0
    """
    return _norm(tree, axes.as_axes(axis_name, "global_norm"), "global_norm")


def _norm(tree: PyTree, axis_name: axes.Labels | None, who: str) -> jax.Array:
    squares: list[PyTree] = []

    def add(leaf: PyTree) -> None:
        wide = leaf.astype(trees.compute_dtype(leaf))
        squares.append(jnp.sum(jnp.real(wide) ** 2 + jnp.imag(wide) ** 2 if jnp.iscomplexobj(wide) else wide**2))

    trees.map_dense(add, who, tree)
    return sqrt(axes.total(squares, axes.over(axis_name, tree, who), trees.compute_dtype(*squares)))


def scale_to_norm(tree: PyTree, norm: jax.Array, max_norm: Numeric, who: str) -> PyTree:
    """Scale ``tree``, whose norm is ``norm``, down to ``max_norm`` if it is larger; errors name ``who``."""
    # torch's coefficient: the 1e-6 keeps a zero norm from dividing by zero.
    coefficient = jnp.minimum(jnp.asarray(max_norm, norm.dtype) / (norm + 1e-6), 1.0)
    return trees.map_dense(lambda x: multiply(x, coefficient), who, tree)


class ClipByGlobalNorm(Scheduled):
    max_norm: NonNegative
    axis_name: axes.Labels | None

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del params
        norm = _norm(updates, self.axis_name, "clip_by_global_norm")
        return scale_to_norm(updates, norm, values.max_norm, "clip_by_global_norm")


def clip_by_global_norm(max_norm: Hyperparameter, axis_name: PyTree = None) -> GradientTransformation:
    """Scale all gradients together so that their Euclidean norm is at most ``max_norm``.

    ``g * min(1, max_norm / (norm + 1e-6))``, as in ``torch.nn.utils.clip_grad_norm_``. A non-finite norm makes every
    gradient non-finite, as in torch.

    Args:
        max_norm: at least 0; a number, a scalar array or a schedule.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Raises:
        ValueError: from ``update``, inside ``shard_map`` without ``axis_name``, a gradient varies or may vary over the
            mesh.

    Example:
        >>> tx = clip_by_global_norm(1.0)
        >>> grads = jnp.array([3.0, 4.0])
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> [round(x, 4) for x in updates.tolist()]
        [0.6, 0.8]
    """
    return transformation(ClipByGlobalNorm(max_norm, axes.as_axes(axis_name, "clip_by_global_norm")))


class ClipByValue(Scheduled):
    max_value: NonNegative

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del params

        def clip(x: jax.Array) -> jax.Array:
            bound = jnp.asarray(values.max_value, jnp.real(x).dtype)
            return jnp.clip(x, -bound, bound)

        def each(x: jax.Array) -> jax.Array:
            return jax.lax.complex(clip(x.real), clip(x.imag)) if jnp.iscomplexobj(x) else clip(x)

        return trees.map_dense(each, "clip_by_value", updates)


def clip_by_value(max_value: Hyperparameter) -> GradientTransformation:
    """Limit every entry of the gradients to ``[-max_value, max_value]``, real and imaginary parts separately.

    Args:
        max_value: at least 0; a number, a scalar array or a schedule.

    Example:
        >>> tx = clip_by_value(1.0)
        >>> tx.update(jnp.array([-3.0, 0.5]), tx.init(None))[0].tolist()
        [-1.0, 0.5]
    """
    return transformation(ClipByValue(max_value))
