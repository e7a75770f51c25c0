"""Clipping to a fixed bound: by the norm of the whole gradient or of each leaf, by root mean square, value by value."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, transformation
from functorch_optim.hyperparams import Hyperparameter, NonNegative
from functorch_optim.norms import leaf_norms, leaf_rms, norm_of
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.scaling import Scheduled, by_part, multiply
from functorch_optim.typing import Numeric, PyTree


def clip_coefficient(norm: jax.Array, max_norm: Numeric) -> jax.Array:
    """The factor that scales down to ``max_norm`` what has the norm ``norm``; 1 if it is small enough.

    It is torch's: the 1e-6 keeps a zero norm from dividing by zero.
    """
    return jnp.minimum(jnp.asarray(max_norm, norm.dtype) / (norm + 1e-6), 1.0)


def scale_to_norm(tree: PyTree, norm: jax.Array, max_norm: Numeric, who: str) -> PyTree:
    """Scale ``tree``, whose norm is ``norm``, down to ``max_norm`` if it is larger; errors name ``who``."""
    coefficient = clip_coefficient(norm, max_norm)
    return trees.map_dense(lambda x: multiply(x, coefficient), who, tree)


class ClipByGlobalNorm(Scheduled):
    entrywise: ClassVar[bool] = True

    max_norm: NonNegative
    axis_name: axes.Labels | None

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del params
        norm = norm_of(updates, self.axis_name, "clip_by_global_norm")
        return scale_to_norm(updates, norm, values.max_norm, "clip_by_global_norm")

    def norm_after(self, state: PyTree, norm: jax.Array) -> jax.Array:
        return jnp.minimum(norm, jnp.asarray(self.values(state).max_norm, norm.dtype))


@explains_names
def clip_by_global_norm(max_norm: Hyperparameter, axis_name: PyTree = None) -> GradientTransformation:
    """Scale all gradients together so that their Euclidean norm is at most ``max_norm``.

    ``g * min(1, max_norm / (norm + 1e-6))``, as in ``torch.nn.utils.clip_grad_norm_``. A NaN makes every gradient NaN.
    An infinite norm, also one whose squares overflow (float32 entries of about 1e19), makes every gradient zero, and
    infinite entries NaN.

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


class ClipByNorm(Scheduled):
    max_norm: NonNegative
    axis_name: axes.Labels | None

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del params
        norms = leaf_norms(updates, self.axis_name, "clip_by_norm")
        return trees.map_dense(
            lambda x, norm: multiply(x, clip_coefficient(norm, values.max_norm)), "clip_by_norm", updates, norms
        )


@explains_names
def clip_by_norm(max_norm: Hyperparameter, axis_name: PyTree = None) -> GradientTransformation:
    """Scale the gradient of each parameter so that its Euclidean norm is at most ``max_norm``.

    ``g * min(1, max_norm / (norm + 1e-6))`` with the norm of the parameter's own gradient: what
    ``torch.nn.utils.clip_grad_norm_`` does to a single tensor.

    Args:
        max_norm: at least 0; a number, a scalar array or a schedule.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Raises:
        ValueError: from ``update``, inside ``shard_map`` without ``axis_name``, a gradient varies or may vary over the
            mesh.

    Example:
        >>> tx = clip_by_norm(1.0)
        >>> grads = {"large": jnp.array([3.0, 4.0]), "small": jnp.array([0.5])}
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> [round(x, 4) for x in updates["large"].tolist()], updates["small"].tolist()
        ([0.6, 0.8], [0.5])
    """
    return transformation(ClipByNorm(max_norm, axes.as_axes(axis_name, "clip_by_norm")))


class ClipByBlockRms(Scheduled):
    threshold: NonNegative
    axis_name: axes.Labels | None

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del params

        def clip(x: jax.Array, rms: jax.Array) -> jax.Array:
            bound = jnp.asarray(values.threshold, rms.dtype)
            return multiply(x, jnp.minimum(bound / jnp.where(rms == 0, 1, rms), 1))

        rms = leaf_rms(updates, self.axis_name, "clip_by_block_rms")
        return trees.map_dense(clip, "clip_by_block_rms", updates, rms)


@explains_names
def clip_by_block_rms(threshold: Hyperparameter, axis_name: PyTree = None) -> GradientTransformation:
    """Scale the gradient of each parameter so that its root mean square is at most ``threshold``.

    ``g / max(1, rms(g) / threshold)``. A parameter of any size then moves equally far, per entry.

    Args:
        threshold: at least 0; a number, a scalar array or a schedule.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Raises:
        ValueError: from ``update``, inside ``shard_map`` without ``axis_name``, a gradient varies or may vary over the
            mesh.

    Source: ``optax.clip_by_block_rms``; Shazeer and Stern, "Adafactor", 2018, section 6.

    Example:
        >>> tx = clip_by_block_rms(1.0)
        >>> tx.update(jnp.array([2.0, -2.0]), tx.init(None))[0].tolist()
        [1.0, -1.0]
    """
    return transformation(ClipByBlockRms(threshold, axes.as_axes(axis_name, "clip_by_block_rms")))


class ClipByValue(Scheduled):
    entrywise: ClassVar[bool] = True

    max_value: NonNegative

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del params

        def clip(x: jax.Array) -> jax.Array:
            bound = jnp.asarray(values.max_value, jnp.real(x).dtype)
            return jnp.clip(x, -bound, bound)

        return trees.map_dense(by_part(clip), "clip_by_value", updates)


@explains_names
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
