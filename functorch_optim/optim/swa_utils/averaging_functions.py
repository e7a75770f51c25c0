"""The averaging functions of ``torch.optim.swa_utils``, for one array and for lists of arrays."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.averaging.average import mix
from functorch_optim.base import Frozen
from functorch_optim.hyperparams import Beta
from functorch_optim.typing import Numeric, PyTree

AvgFn = Callable[[PyTree, PyTree, PyTree], PyTree]
MultiAvgFn = Callable[[list[PyTree], list[PyTree], PyTree], Sequence[PyTree]]


class Averaging(Frozen):
    """Base class of this module's averaging functions: pure, so that one compiled call averages all parameters."""


class EmaAvg(Averaging):
    decay: float

    def __call__(self, averaged: jax.Array, current: jax.Array, num_averaged: Numeric) -> jax.Array:
        del num_averaged
        wide = trees.compute_dtype(averaged)
        keep, take = (jnp.asarray(share, wide) for share in (self.decay, 1 - self.decay))
        kept, taken = _rounded(keep * averaged.astype(wide)), _rounded(take * current.astype(wide))
        return (kept + taken).astype(averaged.dtype)


class SwaAvg(Averaging):
    def __call__(self, averaged: jax.Array, current: jax.Array, num_averaged: Numeric) -> jax.Array:
        wide = trees.compute_dtype(averaged)
        held, count = averaged.astype(wide), jnp.asarray(num_averaged + 1, wide)
        counts = jnp.where(held == held, count, jnp.nan)  # XLA multiplies by a scalar's reciprocal, rounding twice
        return (held + (current.astype(wide) - held) / counts).astype(averaged.dtype)


class EmaMultiAvg(Averaging):
    decay: float

    def __call__(self, averaged: list[jax.Array], current: list[jax.Array], num_averaged: Numeric) -> list[jax.Array]:
        del num_averaged
        weight = 1 - self.decay  # torch passes lerp this weight, and lerp uses one minus it
        return [mix(a, p, Beta(1 - weight, weight)) for a, p in zip(averaged, current, strict=True)]


class SwaMultiAvg(Averaging):
    def __call__(self, averaged: list[jax.Array], current: list[jax.Array], num_averaged: Numeric) -> list[jax.Array]:
        weight = (1 / jnp.asarray(num_averaged + 1, jnp.float32)).astype(jnp.result_type(float))
        return [mix(a, p, Beta(1 - weight, weight)) for a, p in zip(averaged, current, strict=True)]


def get_ema_avg_fn(decay: float = 0.999) -> AvgFn:
    """``f(averaged, current, num_averaged) = decay * averaged + (1 - decay) * current``, for one array.

    Args:
        decay: from 0 to 1.

    Raises:
        ValueError: ``decay`` is out of range.

    Example:
        >>> get_ema_avg_fn(0.75)(jnp.array([0.0]), jnp.array([4.0]), 1).tolist()
        [1.0]
    """
    return EmaAvg(_valid_decay(decay))


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAvgFn:
    """Exponential moving average for lists of arrays; it returns a new list.

    Args:
        decay: from 0 to 1.

    Raises:
        ValueError: ``decay`` is out of range.

    Example:
        >>> [a.tolist() for a in get_ema_multi_avg_fn(0.75)([jnp.array([0.0])], [jnp.array([4.0])], 1)]
        [[1.0]]
    """
    return EmaMultiAvg(_valid_decay(decay))


def get_swa_avg_fn() -> AvgFn:
    """``f(averaged, current, n) = averaged + (current - averaged) / (n + 1)``, for one array: all have equal weight.

    Example:
        >>> get_swa_avg_fn()(jnp.array([0.0]), jnp.array([4.0]), 1).tolist()
        [2.0]
    """
    return SwaAvg()


def get_swa_multi_avg_fn() -> MultiAvgFn:
    """Mean for lists of arrays; it returns a new list.

    As in torch, the share ``1 / (n + 1)`` has float32 precision; in float64 prefer :func:`get_swa_avg_fn`, which
    is exact and the default of :class:`functorch_optim.optim.swa_utils.AveragedModel`.

    Example:
        >>> [a.tolist() for a in get_swa_multi_avg_fn()([jnp.array([0.0])], [jnp.array([4.0])], 1)]
        [[2.0]]
    """
    return SwaMultiAvg()


def _rounded(product: jax.Array) -> jax.Array:
    """Return the product in a form that XLA does not fuse into a multiply-add, which torch does not use here."""
    return jnp.where(product == product, product, jnp.nan)


def _valid_decay(decay: float) -> float:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"Invalid decay value {decay} provided. Please provide a value in [0,1] range.")
    return float(decay)
