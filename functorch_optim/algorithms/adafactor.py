"""Adafactor: second moments of matrices as the product of a row and a column."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functorch_optim import axes
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, minimum, power
from functorch_optim.hyperparams import (
    Beta2Decay,
    ClippingThreshold,
    Epsilons,
    Hyperparameter,
    Maximize,
    NonNegativeLearningRate,
    NonNegativeWeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class AdafactorState(NamedTuple):
    """``step`` counts updates. Leaves of two or more dimensions have row and column, others the whole variance."""

    step: PyTree
    row_var: PyTree
    col_var: PyTree
    variance: PyTree


class AdafactorScalars(NamedTuple):
    weight: Numeric | None  # of the new statistics: 1 - beta2 of this step
    relative_size: Numeric
    eps1: PyTree  # None: the machine epsilon of the parameter's dtype
    eps2: Numeric
    threshold: Numeric


class Adafactor(Rule):
    title = "Adafactor"
    state = AdafactorState
    normalizes = True
    rate_is_factor = False
    complex_hint = "Adafactor does not support complex parameters"
    needs_params = True
    decoupled_weight_decay = True

    lr: Annotated[NonNegativeLearningRate, "upper bound of the relative step size"]
    beta2_decay: Beta2Decay
    eps: Epsilons
    d: ClippingThreshold
    weight_decay: NonNegativeWeightDecay
    maximize: Maximize
    axis_name: PyTree

    def init(self, param: Array, hyperparams: PyTree) -> AdafactorState:
        if param.ndim < 2:
            return AdafactorState(None, None, None, zeros_like(param))
        zeros: Any = zeros_like(param)  # its sums keep what is left of the parameter's sharding
        row, col = (self._over(jnp.sum(zeros, axis, keepdims=True, dtype=zeros.dtype), axis) for axis in (-1, -2))
        return AdafactorState(None, row, col, None)

    def scalars(self, step: Numeric, hyperparams: PyTree) -> AdafactorScalars:
        count = as_float(step)
        return AdafactorScalars(
            weight=power(count, hyperparams.beta2_decay),
            relative_size=minimum(hyperparams.lr, power(count, -0.5)),
            eps1=hyperparams.eps[0],
            eps2=hyperparams.eps[1],
            threshold=hyperparams.d,
        )

    def at_dtype(self, scalars: AdafactorScalars, dtype: DTypeLike | None) -> AdafactorScalars:
        return scalars if scalars.eps1 is not None else scalars._replace(eps1=float(jnp.finfo(dtype).eps))

    def update(
        self, grad: jax.Array, param: Array, slots: AdafactorState, scalars: AdafactorScalars
    ) -> tuple[jax.Array, AdafactorState]:
        if grad.size == 0:
            return grad, slots
        step_size = _at_least(scalars.eps2, self._root_mean_square(param)) * scalars.relative_size
        squares = grad * grad
        if grad.ndim < 2:
            estimate = _mix(slots.variance, squares, scalars.weight)
            slots = slots._replace(variance=estimate)
        else:
            row = _mix(slots.row_var, self._mean(squares, -1), scalars.weight)
            col = _mix(slots.col_var, self._mean(squares, -2), scalars.weight)
            estimate = row * col / jnp.maximum(self._mean(row, -2), scalars.eps1)
            slots = slots._replace(row_var=row, col_var=col)
        update = grad * jax.lax.rsqrt(jnp.maximum(estimate, scalars.eps1 * scalars.eps1))
        clipped = _at_least(1, self._root_mean_square(update) / scalars.threshold)
        return -(step_size / clipped) * update, slots

    def _over(self, sums: jax.Array, dimension: int) -> jax.Array:
        """Sums over a dimension of the whole array, from the sums of its shards."""
        return axes.sum_over(sums, self.split[dimension]) if self.split else sums

    def _mean(self, x: jax.Array, dimension: int) -> jax.Array:
        """The mean over a dimension of the whole array."""
        mean = self._over(jnp.mean(x, dimension, keepdims=True), dimension)
        return mean / axes.shards(self.split[dimension]) if self.split else mean

    def _root_mean_square(self, x: jax.Array) -> jax.Array:
        """The root mean square of the whole array."""
        everywhere = tuple(axis for axes_of_one in self.split for axis in axes_of_one)
        size = x.size * axes.shards(everywhere)
        return self.norm(x) / np.sqrt(size).astype(x.dtype)


def _at_least(floor: Any, value: jax.Array) -> jax.Array:
    """The larger of two scalars; the floor for NaN, as with Python's ``max`` in torch: so NaN stays in its entries."""
    return jnp.where(value > floor, value, floor)


def _mix(old: jax.Array, new: jax.Array, weight: Any) -> jax.Array:
    """torch's lerp, which at weight 1 returns exactly ``new``."""
    return jnp.where(weight < 0.5, old + weight * (new - old), new - (new - old) * (1 - weight))


@explains_names
def adafactor(
    lr: Hyperparameter = 1e-2,
    beta2_decay: Hyperparameter = -0.8,
    eps: tuple[Hyperparameter | None, Hyperparameter] = (None, 1e-3),
    d: Hyperparameter = 1.0,
    weight_decay: Hyperparameter = 0.0,
    maximize: bool = False,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""Adafactor, as in ``torch.optim.Adafactor``.

    With g the gradient (negated first if ``maximize``), t the number of the update and rms the root mean square of all
    entries of an array::

        w = t**beta2_decay;    a = max(eps2, rms(p)) * min(lr, 1 / sqrt(t))
        R <- (1 - w) * R + w * mean(g**2)      over columns
        C <- (1 - w) * C + w * mean(g**2)      over rows
        V = R * C / max(mean(R), eps1)
        V <- (1 - w) * V + w * g**2            for a parameter of one dimension or none
        u = g / sqrt(max(V, eps1**2))
        p <- p - lr * weight_decay * p - a / max(1, rms(u) / d) * u

    The last two dimensions are factored, those before them are a batch; root mean squares are over the whole array.

    Args:
        lr: upper bound of the relative step size, at least 0; like every number here, a Python number, a scalar array
            or a schedule.
        beta2_decay: exponent of the step, at most 0.
        eps: (eps1, eps2), at least 0. None for eps1 is the machine epsilon of each parameter's own dtype (torch uses
            that of a group's first parameter for all).
        d: the threshold of the update's root mean square, at least 1.
        weight_decay: coefficient of the decoupled decay, at least 0.
        maximize: whether to ascend.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, or anything else that
            :mod:`functorch_optim.axes` describes. Row statistics are split like the rows, column statistics like the
            columns.

    Returns:
        A transformation with the state :class:`AdafactorState`; ``update`` needs ``params``.

    Raises:
        ValueError: an option outside its range, with torch's message.
        RuntimeError: a complex parameter. ValueError: inside ``shard_map`` without ``axis_name``, an array that varies
            or may vary over the mesh.

    Source: Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", 2018, without momentum.

    Example:
        >>> tx = adafactor(lr=0.5)
        >>> params = jnp.ones((2, 2))
        >>> updates, state = tx.update(jnp.ones((2, 2)), tx.init(params), params)
        >>> [round(x, 6) for x in updates[0].tolist()], state.row_var.shape
        ([-0.5, -0.5], (2, 1))
    """
    rule = Adafactor(
        lr=lr,
        beta2_decay=beta2_decay,
        eps=eps,
        d=d,
        weight_decay=weight_decay,
        maximize=maximize,
        axis_name=axes.as_axes(axis_name, "adafactor"),
    )
    return lift(rule, decay_mask=decay_mask)
