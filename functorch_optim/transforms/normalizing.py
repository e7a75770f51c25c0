"""Scale the updates by their own norms or those of the parameters."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import EmptyState, GradientTransformation, Transform, transformation
from functorch_optim.effects import Effect, Effects, Kind, Leaves, for_each
from functorch_optim.hyperparams import Hyperparameter, NonNegative
from functorch_optim.norms import bounded, leaf_norms, leaf_rms, norm_of
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.scaling import Scheduled, multiply, with_params
from functorch_optim.typing import Numeric, PyTree


class Normalizing(Transform):
    """Base of links that give the updates a size of their own and keep their sign."""

    shared: ClassVar[bool] = False  # whether that is one size for all parameters together

    def effects(self, at: Leaves | None) -> list[Effects]:
        who = self._call_name()
        return for_each(at, (Effect(Kind.NORMALIZES, who, self.shared), Effect(Kind.DIRECTS, who)))


class Normalize(Normalizing, Scheduled):
    entrywise: ClassVar[bool] = True
    shared: ClassVar[bool] = True

    eps: NonNegative
    axis_name: axes.Labels | None

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del params
        norm = norm_of(updates, self.axis_name, "normalize")
        divisor = norm + jnp.asarray(values.eps, norm.dtype)
        factor = 1 / jnp.where(divisor == 0, 1, divisor)
        return trees.map_dense(lambda x: multiply(x, factor), "normalize", updates)


@explains_names
def normalize(eps: Hyperparameter = 1e-6, axis_name: PyTree = None) -> GradientTransformation:
    """Scale all updates together so that their Euclidean norm is 1: ``g / (norm + eps)``; zeros stay zero.

    If the squares overflow (float32 entries of about 1e19), all become zero.

    Args:
        eps: at least 0; added to the norm.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Raises:
        ValueError: from ``update``, inside ``shard_map`` without ``axis_name``, a gradient varies or may vary over the
            mesh.

    Source: ``optax.normalize_by_update_norm``.

    Example:
        >>> tx = normalize(eps=0.0)
        >>> [round(x, 6) for x in tx.update(jnp.array([3.0, 4.0]), tx.init(None))[0].tolist()]
        [0.6, 0.8]
    """
    return transformation(Normalize(eps, axes.as_axes(axis_name, "normalize")))


class ScaleBySign(Normalizing):
    entrywise: ClassVar[bool] = True

    def update(
        self, updates: PyTree, state: EmptyState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, EmptyState]:
        del params, extra
        return trees.map_dense(jnp.sign, "scale_by_sign", updates), state


def scale_by_sign() -> GradientTransformation:
    """Replace every entry by its sign: -1, 0 or 1; a complex number z by ``z / abs(z)``.

    Source: ``optax.scale_by_sign``; Bernstein et al., "signSGD", 2018.

    Example:
        >>> tx = scale_by_sign()
        >>> tx.update(jnp.array([-3.0, 0.0, 0.5]), tx.init(None))[0].tolist()
        [-1.0, 0.0, 1.0]
    """
    return transformation(ScaleBySign())


class ScaleByTrustRatio(Normalizing, Scheduled):
    min_norm: NonNegative
    trust_coefficient: NonNegative
    eps: NonNegative
    axis_name: axes.Labels | None

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        who = "scale_by_trust_ratio"
        updates, params = with_params(who, updates, params)

        def each(update: jax.Array, update_norm: jax.Array, param_norm: jax.Array) -> jax.Array:
            dtype = trees.wider_dtype(update_norm.dtype, param_norm.dtype)
            numbers = (values.min_norm, values.trust_coefficient, values.eps)
            low, trust, eps = (jnp.asarray(number, dtype) for number in numbers)
            own, whole = (jnp.maximum(norm.astype(dtype), low) for norm in (update_norm, param_norm))
            is_zero = (own == 0) | (whole == 0)
            ratio = bounded(trust * bounded(whole)) / jnp.where(is_zero, 1, own + eps)
            return multiply(update, jnp.where(is_zero, 1, bounded(ratio)))

        norms = (leaf_norms(tree, self.axis_name, who) for tree in (updates, params))
        return trees.map_dense(each, who, updates, *norms)


@explains_names
def scale_by_trust_ratio(
    min_norm: Hyperparameter = 0.0,
    trust_coefficient: Hyperparameter = 1.0,
    eps: Hyperparameter = 0.0,
    axis_name: PyTree = None,
) -> GradientTransformation:
    """Scale the update of each parameter to the parameter's norm; ``update`` needs ``params``.

    ``u * trust_coefficient * norm(p) / (norm(u) + eps)``, with norms of whole arrays, at least ``min_norm``. Where one
    of the norms is zero the update passes unchanged, so that parameters that start at zero can move. If squares
    overflow (float32 entries of about 1e19), an update becomes zero, and the parameter's norm counts as the largest
    finite number. This is the layerwise step of LARS and LAMB.

    Args:
        min_norm: at least 0; the least norm of parameter and update.
        trust_coefficient: at least 0; factor of the ratio.
        eps: at least 0; added to the update's norm.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Raises:
        ValueError: from ``update``, there are no ``params``; inside ``shard_map`` without ``axis_name``, an array
            varies or may vary over the mesh.

    Source: You et al., "Large Batch Training of Convolutional Networks", 2017; ``optax.scale_by_trust_ratio``.

    Example:
        >>> tx = scale_by_trust_ratio(trust_coefficient=0.1)
        >>> params, updates = jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0])
        >>> tx.update(updates, tx.init(params), params)[0].tolist()
        [0.0, 0.5]
    """
    named = axes.as_axes(axis_name, "scale_by_trust_ratio")
    return transformation(ScaleByTrustRatio(min_norm, trust_coefficient, eps, named))


class ScaleByParam(Scheduled):
    """Base of links that scale each update by a size of its parameter."""

    min_scale: NonNegative
    axis_name: axes.Labels | None

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effect(Kind.FACTORS, at)


class ScaleByParamNorm(ScaleByParam):
    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        updates, params = with_params("scale_by_param_norm", updates, params)
        norms = leaf_norms(params, self.axis_name, "scale_by_param_norm")
        return _scaled(updates, norms, values.min_scale, "scale_by_param_norm")


class ScaleByParamRms(ScaleByParam):
    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        updates, params = with_params("scale_by_param_rms", updates, params)
        rms = leaf_rms(params, self.axis_name, "scale_by_param_rms")
        return _scaled(updates, rms, values.min_scale, "scale_by_param_rms")


def _scaled(updates: PyTree, sizes: PyTree, least: Numeric, who: str) -> PyTree:
    """Multiply the updates by the sizes, each at least ``least``."""
    return trees.map_dense(
        lambda x, size: multiply(x, bounded(jnp.maximum(size, jnp.asarray(least, size.dtype)))), who, updates, sizes
    )


@explains_names
def scale_by_param_norm(min_scale: Hyperparameter = 1e-3, axis_name: PyTree = None) -> GradientTransformation:
    """Multiply the update of each parameter by the parameter's norm, or by ``min_scale`` if that is larger.

    A norm whose squares overflow (float32 entries of about 1e19) counts as the largest finite number.

    Args:
        min_scale: at least 0; the least factor, with which parameters that start at zero can move.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Raises:
        ValueError: from ``update``, there are no ``params``; inside ``shard_map`` without ``axis_name``, a parameter
            varies or may vary over the mesh.

    Source: ``optax.scale_by_param_block_norm``.

    Example:
        >>> tx = scale_by_param_norm()
        >>> tx.update(jnp.array([1.0, 0.5]), tx.init(None), jnp.array([3.0, 4.0]))[0].tolist()
        [5.0, 2.5]
    """
    return transformation(ScaleByParamNorm(min_scale, axes.as_axes(axis_name, "scale_by_param_norm")))


@explains_names
def scale_by_param_rms(min_scale: Hyperparameter = 1e-3, axis_name: PyTree = None) -> GradientTransformation:
    """Multiply the update of each parameter by the parameter's root mean square, or by ``min_scale`` if larger.

    Steps are then relative to the parameters' size, as in Adafactor. A size whose squares overflow (float32 entries of
    about 1e19) counts as the largest finite number.

    Args:
        min_scale: at least 0; the least factor, with which parameters that start at zero can move.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Raises:
        ValueError: from ``update``, there are no ``params``; inside ``shard_map`` without ``axis_name``, a parameter
            varies or may vary over the mesh.

    Source: ``optax.scale_by_param_block_rms``; Shazeer and Stern, "Adafactor", 2018.

    Example:
        >>> tx = scale_by_param_rms()
        >>> tx.update(jnp.array([1.0, 0.5]), tx.init(None), jnp.array([2.0, -2.0]))[0].tolist()
        [2.0, 1.0]
    """
    return transformation(ScaleByParamRms(min_scale, axes.as_axes(axis_name, "scale_by_param_rms")))
