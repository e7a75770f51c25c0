"""RMSprop: gradients over the root of their mean square."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average_of_squares, lerp, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.hyperparams import (
    Alpha,
    Beta,
    BetaOption,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    Momentum,
    WeightDecay,
    is_static_zero,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class RMSpropState(NamedTuple):
    """``step`` counts updates; the buffer is None without momentum, the mean gradient None unless centered."""

    step: PyTree
    square_avg: PyTree
    momentum_buffer: PyTree
    grad_avg: PyTree


class RMSpropScalars(NamedTuple):
    lr: PyTree
    alpha: Beta
    eps: Numeric
    momentum: Numeric | None


class RMSprop(Rule):
    title = "RMSprop"
    state = RMSpropState
    normalizes = True
    elementwise = True
    static_zeros = ("momentum",)

    lr: LearningRate
    alpha: Alpha
    eps: Epsilon
    weight_decay: WeightDecay
    momentum: Momentum
    centered: Annotated[bool, "whether to divide by the standard deviation instead of the root mean square"]
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> RMSpropState:
        return RMSpropState(
            step=None,
            square_avg=zeros_like(param),
            momentum_buffer=None if is_static_zero(self.momentum) else zeros_like(param),
            grad_avg=zeros_like(param) if self.centered else None,
        )

    def scalars(self, step: Numeric, hyperparams: PyTree) -> RMSpropScalars:
        return RMSpropScalars(hyperparams.lr, hyperparams.alpha, hyperparams.eps, hyperparams.momentum)

    def update(
        self, grad: jax.Array, param: Array | None, slots: RMSpropState, scalars: RMSpropScalars
    ) -> tuple[jax.Array, RMSpropState]:
        square_avg = average_of_squares(slots.square_avg, grad, scalars.alpha)
        slots = slots._replace(square_avg=square_avg)
        variance = square_avg
        if self.centered:
            grad_avg = lerp(slots.grad_avg, grad, scalars.alpha)
            slots = slots._replace(grad_avg=grad_avg)
            # Rounding may leave a negative variance; torch's root of it is NaN.
            variance = jnp.maximum(square_avg - grad_avg * grad_avg, 0)
        direction = grad / (sqrt(variance) + scalars.eps)
        if slots.momentum_buffer is not None:
            direction = scalars.momentum * slots.momentum_buffer + direction
            slots = slots._replace(momentum_buffer=direction)
        return -scalars.lr * direction, slots


@explains_names
def rmsprop(
    lr: Hyperparameter = 1e-2,
    alpha: BetaOption = 0.99,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0,
    momentum: Hyperparameter = 0,
    centered: bool = False,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""RMSprop, as in ``torch.optim.RMSprop``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``::

        v <- alpha * v + (1 - alpha) * g**2
        a <- alpha * a + (1 - alpha) * g                     if centered
        d <- sqrt(v - a**2) + eps                            if centered
        d <- sqrt(v) + eps                                   otherwise
        b <- momentum * b + g / d
        p <- p - lr * b

    Without momentum no buffer is kept. A variance ``v - a**2`` that rounding made negative counts as zero; torch gives
    NaN.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        alpha: decay rate of the averages, at least 0; as data preferably a :class:`functorch_optim.Beta`.
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        momentum: factor of the buffer, at least 0; only the Python number 0 means no momentum, and no buffer.
        centered: whether to divide by the standard deviation instead of the root mean square.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`RMSpropState`.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Hinton's lecture 6e, 2012; centered: Graves, "Generating Sequences With Recurrent Neural Networks", 2013.

    Example:
        >>> tx = rmsprop(lr=0.1)
        >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.array([1.0])))
        >>> [round(x, 6) for x in updates.tolist()]
        [-1.0]
    """
    rule = RMSprop(
        lr=lr,
        alpha=alpha,
        eps=eps,
        weight_decay=weight_decay,
        momentum=momentum,
        centered=centered,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
