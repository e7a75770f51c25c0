"""Adagrad: a step size that falls with the sum of squared gradients."""

from typing import NamedTuple

import jax

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import full_like, sqrt
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float
from functorch_optim.hyperparams import (
    Epsilon,
    Hyperparameter,
    InitialAccumulatorValue,
    LearningRate,
    LearningRateDecay,
    Maximize,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class AdagradState(NamedTuple):
    """``step`` counts updates; ``sum`` is a tree of the sums of squared gradients."""

    step: PyTree
    sum: PyTree


class AdagradScalars(NamedTuple):
    step_size: Numeric
    eps: Numeric


class Adagrad(Rule):
    title = "Adagrad"
    state = AdagradState
    normalizes = True
    elementwise = True
    takes_rows = True
    starts_from_options = True

    lr: LearningRate
    lr_decay: LearningRateDecay
    weight_decay: WeightDecay
    initial_accumulator_value: InitialAccumulatorValue
    eps: Epsilon
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> AdagradState:
        return AdagradState(None, full_like(param, hyperparams.initial_accumulator_value))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> AdagradScalars:
        return AdagradScalars(hyperparams.lr / (1 + as_float(step - 1) * hyperparams.lr_decay), hyperparams.eps)

    def update(
        self, grad: jax.Array, param: Array | None, slots: AdagradState, scalars: AdagradScalars
    ) -> tuple[jax.Array, AdagradState]:
        total = slots.sum + grad * grad
        return -scalars.step_size * grad / (sqrt(total) + scalars.eps), AdagradState(None, total)


@explains_names
def adagrad(
    lr: Hyperparameter = 1e-2,
    lr_decay: Hyperparameter = 0,
    weight_decay: Hyperparameter = 0,
    initial_accumulator_value: Hyperparameter = 0,
    eps: Hyperparameter = 1e-10,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Adagrad, as in ``torch.optim.Adagrad``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``, and t the number of the update::

        s <- s + g**2
        p <- p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        lr_decay: how fast the learning rate falls, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        initial_accumulator_value: initial value of s, at least 0 (in both parts of complex parameters).
        eps: added to the denominator outside the root, at least 0.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Gradients may be row-sparse if there is no weight decay; then only the rows they name are touched.

    Returns:
        A transformation with the state :class:`AdagradState`.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic Optimization",
    JMLR 2011.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adagrad(lr=0.5)
        >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.array([1.0])))
        >>> updates.tolist(), state.sum.tolist()
        ([-0.5], [4.0])
    """
    rule = Adagrad(
        lr=lr,
        lr_decay=lr_decay,
        weight_decay=weight_decay,
        initial_accumulator_value=initial_accumulator_value,
        eps=eps,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
