"""Yogi: Adam whose second moment moves by no more than the squared gradient's share."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, full_like, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import one_minus_power, scalar_sqrt
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
    Epsilon,
    Hyperparameter,
    InitialAccumulatorValue,
    LearningRate,
    Maximize,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class YogiState(NamedTuple):
    """``step`` counts updates; the moments are trees like the parameters."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree


class YogiScalars(NamedTuple):
    beta1: Beta
    beta2: Beta
    step_size: Numeric
    eps: Numeric


class Yogi(Rule):
    title = "Yogi"
    state = YogiState
    normalizes = True
    elementwise = True
    starts_from_options = True

    lr: LearningRate
    betas: Betas
    eps: Epsilon
    initial_accumulator_value: Annotated[InitialAccumulatorValue, "initial value of v"]
    weight_decay: WeightDecay
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> YogiState:
        return YogiState(None, zeros_like(param), full_like(param, hyperparams.initial_accumulator_value))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> YogiScalars:
        beta1, beta2 = hyperparams.betas
        corrections = scalar_sqrt(one_minus_power(beta2, step)) / one_minus_power(beta1, step)
        return YogiScalars(beta1, beta2, hyperparams.lr * corrections, hyperparams.eps)

    def update(
        self, grad: jax.Array, param: Array | None, slots: YogiState, scalars: YogiScalars
    ) -> tuple[jax.Array, YogiState]:
        exp_avg = average(slots.exp_avg, grad, scalars.beta1)
        square = grad * grad
        exp_avg_sq = slots.exp_avg_sq - scalars.beta2.complement * (jnp.sign(slots.exp_avg_sq - square) * square)
        return -scalars.step_size * exp_avg / (sqrt(exp_avg_sq) + scalars.eps), YogiState(None, exp_avg, exp_avg_sq)


@explains_names
def yogi(
    lr: Hyperparameter = 1e-2,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-3,
    initial_accumulator_value: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Yogi, as in TensorFlow Addons.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``, and t the number of the update::

        m <- beta1 * m + (1 - beta1) * g
        v <- v - (1 - beta2) * sign(v - g**2) * g**2
        p <- p - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)

    The paper has no bias correction, and starts v from the squared gradients of a batch. The package
    ``torch-optimizer`` starts m, too, from ``initial_accumulator_value``, and adds eps after the bias correction of
    sqrt(v). The proximal penalties of TensorFlow Addons are left out.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        initial_accumulator_value: initial value of v, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`YogiState`, whose slots have their parameter's shape and dtype.

    Raises:
        ValueError: an option outside its range.

    Source: Zaheer et al., "Adaptive Methods for Nonconvex Optimization", 2018.

    Example:
        >>> tx = yogi(lr=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(jnp.array([0.5, -1.0]), tx.init(params))
        >>> [round(x, 4) for x in updates.tolist()]
        [-0.0939, 0.0969]
    """
    rule = Yogi(
        lr=lr,
        betas=betas,
        eps=eps,
        initial_accumulator_value=initial_accumulator_value,
        weight_decay=weight_decay,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
