"""Grams: steps of AdamW's size in the direction of the gradient's sign."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, average_of_squares, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import one_minus_power, scalar_sqrt
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class GramsState(NamedTuple):
    """``step`` counts updates; the moments are trees like the parameters."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree


class GramsScalars(NamedTuple):
    beta1: Beta
    beta2: Beta
    step_size: Numeric
    eps: Numeric


class Grams(Rule):
    title = "Grams"
    state = GramsState
    normalizes = True
    elementwise = True
    decoupled_weight_decay = True

    lr: LearningRate
    betas: Betas
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decoupled decay"]
    correct_bias: Annotated[bool, "whether to correct the bias of the moments"]
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> GramsState:
        return GramsState(step=None, exp_avg=zeros_like(param), exp_avg_sq=zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> GramsScalars:
        beta1, beta2 = hyperparams.betas
        step_size = hyperparams.lr
        if self.correct_bias:
            step_size = step_size * scalar_sqrt(one_minus_power(beta2, step)) / one_minus_power(beta1, step)
        return GramsScalars(beta1, beta2, step_size, hyperparams.eps)

    def update(
        self, grad: jax.Array, param: jax.Array | None, slots: GramsState, scalars: GramsScalars
    ) -> tuple[jax.Array, GramsState]:
        exp_avg = average(slots.exp_avg, grad, scalars.beta1)
        exp_avg_sq = average_of_squares(slots.exp_avg_sq, grad, scalars.beta2)
        direction = jnp.sign(grad) * jnp.abs(exp_avg)
        return -scalars.step_size * direction / (sqrt(exp_avg_sq) + scalars.eps), GramsState(None, exp_avg, exp_avg_sq)


@explains_names
def grams(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
    correct_bias: bool = True,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Grams, as in the authors' package ``grams-pytorch``.

    With g the gradient (negated first if ``maximize``) and t the number of the update::

        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g**2
        p <- p - lr * weight_decay * p
        p <- p - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * sign(g) * abs(m) / (sqrt(v) + eps)

    The momentum gives only the size of a step, and the current gradient its sign. As in the authors' code ``eps`` is
    added before the bias correction; in the paper after it.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decoupled decay, at least 0. Unless it is the number 0, ``update`` needs
            ``params``.
        correct_bias: whether to correct the bias of the moments; if not, the step's factor is ``lr``.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`GramsState`. The real and the imaginary part of a complex parameter
        have a sign each.

    Raises:
        ValueError: an option outside its range.

    Source: Cao, Li and Song, "Grams: Gradient Descent with Adaptive Momentum Scaling", 2024.

    Example:
        >>> tx = grams(lr=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(jnp.array([0.5, -1.0]), tx.init(params))
        >>> [round(x, 4) for x in updates.tolist()]
        [-0.1, 0.1]
    """
    rule = Grams(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, correct_bias=correct_bias, maximize=maximize)
    return lift(rule, foreach, decay_mask)
