"""Stochastic gradient descent with momentum."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import on_host
from functorch_optim.hyperparams import (
    AnyNumber,
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
class SGDState(NamedTuple):
    """``step`` counts updates (torch keeps none); ``momentum_buffer`` is None without momentum."""

    step: PyTree
    momentum_buffer: PyTree


class SGDScalars(NamedTuple):
    lr: PyTree
    momentum: Numeric | None
    gain: Numeric


class SGD(Rule):
    title = "SGD"
    state = SGDState
    counts_steps = False
    elementwise = True
    takes_rows = True
    static_zeros = ("momentum",)

    lr: LearningRate
    momentum: Momentum
    dampening: Annotated[AnyNumber, "share of the gradient to leave out of the buffer, from the second update on"]
    weight_decay: WeightDecay
    nesterov: Annotated[bool, "whether to use Nesterov momentum; needs momentum and zero dampening"]
    maximize: Maximize

    def __post_init__(self) -> None:
        super().__post_init__()
        damped = isinstance(self.dampening, float) and self.dampening != 0.0
        if self.nesterov and (is_static_zero(self.momentum) or damped):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def init(self, param: Array, hyperparams: PyTree) -> SGDState:
        return SGDState(step=None, momentum_buffer=None if is_static_zero(self.momentum) else zeros_like(param))

    def is_linear(self) -> bool:
        return is_static_zero(self.momentum)

    def moves_all_rows(self) -> bool:
        return not is_static_zero(self.momentum)

    def scalars(self, step: Numeric, hyperparams: PyTree) -> SGDScalars:
        # torch starts the buffer as a copy of the gradient, without dampening.
        gain = 1.0 - hyperparams.dampening
        if not is_static_zero(self.dampening):
            gain = (1.0 if step == 1 else gain) if on_host(step, gain) else jnp.where(step == 1, 1.0, gain)
        return SGDScalars(hyperparams.lr, hyperparams.momentum, gain)

    def update(
        self, grad: jax.Array, param: jax.Array | None, slots: SGDState, scalars: SGDScalars
    ) -> tuple[jax.Array, SGDState]:
        if slots.momentum_buffer is None:
            return -scalars.lr * grad, slots
        # The gradient's product comes first: a fused multiply-add leaves that one unrounded, as in torch.
        buffer = scalars.gain * grad + scalars.momentum * slots.momentum_buffer
        direction = grad + scalars.momentum * buffer if self.nesterov else buffer
        return -scalars.lr * direction, slots._replace(momentum_buffer=buffer)


@explains_names
def sgd(
    lr: Hyperparameter = 1e-3,
    momentum: Hyperparameter = 0,
    dampening: Hyperparameter = 0,
    weight_decay: Hyperparameter = 0,
    nesterov: bool = False,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Stochastic gradient descent, as in ``torch.optim.SGD``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``::

        b <- g                                   at the first update
        b <- momentum * b + (1 - dampening) * g  afterwards
        p <- p - lr * (g + momentum * b)         if nesterov
        p <- p - lr * b                          otherwise

    Without momentum no buffer is kept and ``p <- p - lr * g``. Momentum counts as zero, and changes the state's
    structure, only as the Python number 0; an array or a schedule that returns 0 keeps its buffer.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        momentum: factor of the buffer, at least 0.
        dampening: share of the gradient to leave out of the buffer, from the second update on.
        weight_decay: coefficient of the L2 penalty, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        nesterov: whether to use Nesterov momentum; needs momentum and zero dampening.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Gradients may be row-sparse if there is no weight decay. Without momentum only the rows they name are touched; with
    momentum all rows move, and the gradient is made dense.

    Returns:
        A transformation with the state :class:`SGDState`. Updates are float32 or wider; slots have their
        parameter's shape and dtype. The step counts calls of ``update``: a parameter whose gradient is None keeps
        its slots while the step runs on, so the first buffer of one that gets its first gradient later is damped.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML 2013; torch's
    Nesterov term uses the updated buffer.

    Example:
        >>> tx = sgd(lr=0.1, momentum=0.9)
        >>> params = jnp.array([1.0])
        >>> updates, state = tx.update(jnp.array([2.0]), tx.init(params), params)
        >>> state.momentum_buffer.tolist()
        [2.0]
    """
    rule = SGD(
        lr=lr,
        momentum=momentum,
        dampening=dampening,
        weight_decay=weight_decay,
        nesterov=nesterov,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
