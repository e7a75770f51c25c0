"""Adadelta: a step size from the ratio of two running averages."""

from typing import Annotated, NamedTuple

import jax

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average_of_squares, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    Rho,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class AdadeltaState(NamedTuple):
    """``step`` counts updates; the averages of squared gradients and of squared deltas are trees."""

    step: PyTree
    square_avg: PyTree
    acc_delta: PyTree


class AdadeltaScalars(NamedTuple):
    lr: PyTree
    rho: Beta
    eps: Numeric


class Adadelta(Rule):
    title = "Adadelta"
    state = AdadeltaState
    normalizes = True
    elementwise = True

    lr: Annotated[LearningRate, "factor of the delta"]
    rho: Rho
    eps: Annotated[Epsilon, "added to both averages inside the roots"]
    weight_decay: WeightDecay
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> AdadeltaState:
        return AdadeltaState(None, zeros_like(param), zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> AdadeltaScalars:
        return AdadeltaScalars(hyperparams.lr, hyperparams.rho, hyperparams.eps)

    def update(
        self, grad: jax.Array, param: Array | None, slots: AdadeltaState, scalars: AdadeltaScalars
    ) -> tuple[jax.Array, AdadeltaState]:
        square_avg = average_of_squares(slots.square_avg, grad, scalars.rho)
        above, below = slots.acc_delta + scalars.eps, square_avg + scalars.eps
        delta = sqrt(above) / sqrt(below) * grad
        # The square of delta without its roots: the compiler would write to memory what two results share.
        acc_delta = scalars.rho.complement * (above / below) * grad * grad + scalars.rho.value * slots.acc_delta
        return -scalars.lr * delta, AdadeltaState(None, square_avg, acc_delta)


@explains_names
def adadelta(
    lr: Hyperparameter = 1.0,
    rho: BetaOption = 0.9,
    eps: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Adadelta, as in ``torch.optim.Adadelta``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``::

        v <- rho * v + (1 - rho) * g**2
        d <- sqrt(u + eps) / sqrt(v + eps) * g
        u <- rho * u + (1 - rho) * d**2
        p <- p - lr * d

    Args:
        lr: factor of the delta, at least 0; like every number here, a Python number, a scalar array or a schedule.
        rho: decay rate of both averages, in [0, 1]; as data preferably a :class:`functorch_optim.Beta`.
        eps: added to both averages inside the roots, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`AdadeltaState`.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012; the lr is torch's.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adadelta(lr=1.0)
        >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.array([1.0])))
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.003162]
    """
    rule = Adadelta(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize)
    return lift(rule, foreach, decay_mask)
