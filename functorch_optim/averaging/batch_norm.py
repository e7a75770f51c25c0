"""Batch normalization statistics over many batches, with equal weights."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.base import exportable
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Numeric, PyTree


@exportable
class BatchStatistics(NamedTuple):
    """Means and unbiased variances of the features, in the structure of a batch."""

    mean: object
    var: object


@explains_names
def batch_statistics(batches: Iterable[PyTree], axis: int | tuple[int, ...] = -1) -> BatchStatistics:
    r"""Average each batch's mean and unbiased variance over the batches.

    Torch's batch normalization accumulates this with ``momentum=None``: for batches :math:`x_1, ..., x_k`, each with n
    elements per feature, :math:`\frac1k \sum_i \mathrm{mean}(x_i)` and
    :math:`\frac1k \sum_i \frac{n}{n-1} \mathrm{mean}((x_i - \mathrm{mean}(x_i))^2)`.

    Args:
        batches: the inputs of the normalization: arrays, or trees of arrays.
        axis: the feature axis, or several; the means are over all others.

    Returns:
        Arrays with the shape of the features, at least float32.

    Raises:
        TypeError: a batch holds something that is not a floating array.
        ValueError: there are no batches; a batch has one element per feature, whose variance is undefined; or the
            batches' features differ.

    Source: torch's ``update_bn``.

    Example:
        >>> batches = [jnp.array([[0.0], [2.0]]), jnp.array([[4.0], [8.0]])]
        >>> mean, var = batch_statistics(batches)
        >>> mean.tolist(), var.tolist()
        ([3.5], [5.0])
    """
    if isinstance(batches, Mapping):
        raise TypeError("batch_statistics: batches must be an iterable of batches, but it is a dict: pass [batch]")
    return mean_of(_of_one(batch, axis) for batch in batches)


def mean_of(statistics: Iterable[PyTree]) -> PyTree:
    """Average trees that arrive one by one.

    Raises:
        ValueError: none arrived, or their structures or shapes differ.
    """
    average = None
    for count, new in enumerate(statistics):
        if average is not None:
            _check_alike(new, average, count)
        average = new if average is None else cumulative(average, new, count)
    if average is None:
        raise ValueError("there are no batches to compute statistics of")
    return average


def _check_alike(new: PyTree, average: PyTree, count: int) -> None:
    names, averages, _ = trees.named_leaves(average)
    leaves = trees.align(average, new, f"the statistics of batch {count}", "those of batch 0")
    for name, leaf, expected in zip(names, leaves, averages, strict=True):
        if jnp.shape(leaf) != expected.shape:
            raise ValueError(
                f"the statistics of batch {count} have shape {jnp.shape(leaf)} at {trees.quote(name)}, those of "
                f"batch 0 have {expected.shape}: all batches need the same features"
            )


def cumulative(average: PyTree, new: PyTree, count: Numeric) -> PyTree:
    """Add one more tree to ``average``, the mean of ``count`` trees."""
    return jax.tree.map(lambda a, x: a + (x - a) / jnp.asarray(count + 1, a.dtype), average, new)


def bessel(size: Numeric, shape: tuple[int, ...]) -> PyTree:
    """Return the factor that makes a variance over ``size`` elements unbiased, n / (n - 1).

    Raises:
        ValueError: there is one element; the message shows the batch's ``shape``.
    """
    if isinstance(size, int) and size < 2:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {shape}")
    return size / (size - 1)


def elements(shape: tuple[int, ...], axis: int | tuple[int, ...]) -> int:
    """Count the elements of an array per feature."""
    return math.prod(shape[index] for index in _others(len(shape), axis))


def _others(ndim: int, axis: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return all axes except the feature axes."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if any(not -ndim <= a < ndim for a in axes):
        raise ValueError(f"axis {axis} is out of bounds for a batch with {ndim} dimensions")
    features = {a % ndim for a in axes}
    return tuple(index for index in range(ndim) if index not in features)


def _of_one(batch: PyTree, axis: int | tuple[int, ...]) -> BatchStatistics:
    names, leaves, treedef = trees.named_leaves(batch)
    pairs = [_moments(name, leaf, axis) for name, leaf in zip(names, leaves, strict=True)]
    return BatchStatistics(*(treedef.unflatten([pair[index] for pair in pairs]) for index in range(2)))


def _moments(name: str, x: PyTree, axis: int | tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    where = f" at {trees.quote(name)}" if name else ""
    if not (hasattr(x, "dtype") and hasattr(x, "shape")):
        raise TypeError(f"batch_statistics: a batch must be a floating array, but it is {type(x).__name__}{where}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"batch_statistics: a batch must be floating, but it is {x.dtype}{where}")
    others = _others(x.ndim, axis)
    wide = x.astype(trees.compute_dtype(x))
    return jnp.mean(wide, others), jnp.var(wide, others) * bessel(elements(x.shape, axis), x.shape)
