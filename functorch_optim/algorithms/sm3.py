"""SM3: Adagrad with one accumulator for each row, column, and slice along other dimensions."""

import functools
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import lerp, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    MomentumRate,
    is_static_zero,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class SM3State(NamedTuple):
    """``step`` counts updates; ``momentum_buffer`` is None without momentum.

    ``accumulator_0`` and so on, one for each dimension of a parameter, have size 1 in all other dimensions.
    """

    step: PyTree
    momentum_buffer: PyTree
    accumulator_0: PyTree = None
    accumulator_1: PyTree = None
    accumulator_2: PyTree = None
    accumulator_3: PyTree = None
    accumulator_4: PyTree = None
    accumulator_5: PyTree = None


_ACCUMULATORS = SM3State._fields[2:]


class SM3Scalars(NamedTuple):
    lr: Numeric
    momentum: Beta
    eps: Numeric


class SM3(Rule):
    title = "SM3"
    state = SM3State
    normalizes = True
    counts_steps = False
    needs_params = True  # for their shapes, which no slot has without momentum
    complex_hint = "SM3 does not support complex parameters"
    static_zeros = ("momentum",)
    replaced = _ACCUMULATORS

    lr: LearningRate
    momentum: Annotated[MomentumRate, "decay rate of the average of the directions"]
    eps: Annotated[Epsilon, "added under the root"]
    maximize: Maximize
    axis_name: PyTree

    def check_parameter(self, name: str, param: Array) -> None:
        super().check_parameter(name, param)
        if param.ndim > len(_ACCUMULATORS):
            raise RuntimeError(
                f"SM3 takes parameters of at most {len(_ACCUMULATORS)} dimensions: the parameter {trees.quote(name)} "
                f"has {param.ndim}"
            )

    def init(self, param: Array, hyperparams: PyTree) -> SM3State:
        zeros: PyTree = zeros_like(param)  # its sums keep what is left of the parameter's sharding
        own = [self._over(jnp.sum(zeros, others, zeros.dtype, keepdims=True), others) for others in _others(param)]
        buffer = None if is_static_zero(self.momentum) else zeros_like(param)
        return SM3State(None, buffer, **dict(zip(_ACCUMULATORS, own, strict=False)))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> SM3Scalars:
        return SM3Scalars(hyperparams.lr, hyperparams.momentum, hyperparams.eps)

    def update(
        self, grad: jax.Array, param: jax.Array | None, slots: SM3State, scalars: SM3Scalars
    ) -> tuple[jax.Array, SM3State]:
        old = [own for name in _ACCUMULATORS if (own := getattr(slots, name)) is not None]
        bound = functools.reduce(jnp.minimum, old) + grad * grad
        new = [self._over(jnp.max(bound, others, keepdims=True, initial=0), others) for others in _others(grad)]
        direction = grad / sqrt(bound + scalars.eps)
        buffer = slots.momentum_buffer
        if buffer is not None:
            direction = buffer = lerp(buffer, direction, scalars.momentum)
        return -scalars.lr * direction, SM3State(None, buffer, **dict(zip(_ACCUMULATORS, new, strict=False)))

    def _over(self, largest: jax.Array, dimensions: tuple[int, ...]) -> jax.Array:
        """The maxima over dimensions of the whole array, from those of its shards."""
        split = self.split or ((),) * largest.ndim
        return axes.max_over(largest, tuple(axis for dimension in dimensions for axis in split[dimension]))


def _others(array: Array) -> list[tuple[int, ...]]:
    """For each dimension of an array all others; for a scalar, once none."""
    return [tuple(d for d in range(array.ndim) if d != own) for own in range(max(array.ndim, 1))]


@explains_names
def sm3(
    lr: Hyperparameter = 0.1,
    momentum: BetaOption = 0.9,
    eps: Hyperparameter = 1e-30,
    maximize: bool = False,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""SM3-II, as in the authors' ``sm3.py``.

    With g the gradient (negated first if ``maximize``), and for a matrix an accumulator r of its rows and c of its
    columns::

        v = min(r, c) + g**2
        r <- max(v)      over columns
        c <- max(v)      over rows
        m <- momentum * m + (1 - momentum) * g / sqrt(v + eps)
        p <- p - lr * m

    A parameter of more dimensions has an accumulator for each; that of a vector or a scalar is v itself, so that it
    moves as with Adagrad. Without momentum no buffer is kept; only the Python number 0 counts as none.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule. The
            authors' code has no default; it needs a warmup.
        momentum: decay rate of the average of the directions, in [0, 1).
        eps: added under the root, at least 0.
        maximize: whether to ascend.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, or anything else that
            :mod:`functorch_optim.axes` describes. An accumulator is split like its dimension.

    Returns:
        A transformation with the state :class:`SM3State`; ``update`` needs ``params``.

    Raises:
        ValueError: an option outside its range; inside ``shard_map`` without ``axis_name``, an array that varies or
            may vary over the mesh.
        RuntimeError: a complex parameter, or one of more than six dimensions.

    Source: Anil et al., "Memory-Efficient Adaptive Optimization", 2019.

    Example:
        >>> tx, params = sm3(momentum=0), jnp.zeros((1, 2))
        >>> updates, state = tx.update(jnp.array([[3.0, -4.0]]), tx.init(params), params)
        >>> [round(x, 6) for x in updates[0].tolist()], state.accumulator_0.tolist(), state.accumulator_1.tolist()
        ([-0.1, 0.1], [[16.0]], [[9.0, 16.0]])
    """
    return lift(SM3(lr=lr, momentum=momentum, eps=eps, maximize=maximize, axis_name=axes.as_axes(axis_name, "sm3")))
