"""Adan: Adam with a Nesterov momentum that is estimated from the differences of gradients."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, average_of_squares, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, one_minus_power, scalar_sqrt
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    ThreeBetas,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class AdanState(NamedTuple):
    """``step`` counts updates; the averages and minus the last gradient are trees like the parameters."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree
    exp_avg_diff: PyTree
    neg_pre_grad: PyTree


class AdanScalars(NamedTuple):
    betas: tuple[Beta, Beta, Beta]
    first: Numeric
    step_size: Numeric
    diff_step_size: Numeric
    bias_correction3_sqrt: Numeric
    eps: Numeric


class Adan(Rule):
    title = "Adan"
    state = AdanState
    normalizes = True
    elementwise = True
    decoupled_weight_decay = True
    replaced = ("neg_pre_grad",)

    lr: LearningRate
    betas: Annotated[ThreeBetas, "decay rates of the gradients, of their differences and of the squares"]
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decoupled decay"]
    no_prox: Annotated[bool, "whether to decay as AdamW does, before the update"]
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> AdanState:
        return AdanState(None, *(zeros_like(param) for _ in range(4)))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> AdanScalars:
        beta1, beta2, beta3 = hyperparams.betas
        return AdanScalars(
            hyperparams.betas,
            first=as_float(step == 1),
            step_size=hyperparams.lr / one_minus_power(beta1, step),
            diff_step_size=hyperparams.lr * beta2.value / one_minus_power(beta2, step),
            bias_correction3_sqrt=scalar_sqrt(one_minus_power(beta3, step)),
            eps=hyperparams.eps,
        )

    def decay_shares(self, step: Numeric, hyperparams: PyTree) -> tuple[Numeric, Numeric | None]:
        decay = hyperparams.lr * hyperparams.weight_decay
        return (decay, None) if self.no_prox else (decay / (1 + decay), 1 / (1 + decay))

    def update(
        self, grad: jax.Array, param: Array | None, slots: AdanState, scalars: AdanScalars
    ) -> tuple[jax.Array, AdanState]:
        beta1, beta2, beta3 = scalars.betas
        diff = jnp.where(scalars.first > 0, -grad, slots.neg_pre_grad) + grad
        exp_avg = average(slots.exp_avg, grad, beta1)
        exp_avg_diff = average(slots.exp_avg_diff, diff, beta2)
        exp_avg_sq = average_of_squares(slots.exp_avg_sq, beta2.value * diff + grad, beta3)
        denom = sqrt(exp_avg_sq) / scalars.bias_correction3_sqrt + scalars.eps
        delta = -scalars.step_size * exp_avg / denom - scalars.diff_step_size * exp_avg_diff / denom
        return delta, AdanState(None, exp_avg, exp_avg_sq, exp_avg_diff, -grad)


@explains_names
def adan(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption, BetaOption] = (0.98, 0.92, 0.99),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    no_prox: bool = False,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Adan, as in the authors' ``adan.py``.

    With g the gradient (negated first if ``maximize``), h the one before it (at the first update g itself), and t the
    number of the update::

        m <- beta1 * m + (1 - beta1) * g
        d <- beta2 * d + (1 - beta2) * (g - h)
        n <- beta3 * n + (1 - beta3) * (g + beta2 * (g - h))**2
        u <- m / (1 - beta1**t) + beta2 * d / (1 - beta2**t)
        p <- p - lr * u / (sqrt(n) / sqrt(1 - beta3**t) + eps)
        p <- p / (1 + lr * weight_decay)

    With ``no_prox`` the last line is left out, and ``lr * weight_decay * p`` is subtracted before the update, as in
    AdamW. The paper's betas are one minus these. The authors' ``max_grad_norm`` is
    ``fo.chain(fo.clip_by_global_norm(max_grad_norm), fo.adan(...))``.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the gradients, of their differences and of the squares, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decoupled decay, at least 0. Unless it is the number 0, ``update`` needs
            ``params``.
        no_prox: whether to decay as AdamW does, before the update.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`AdanState`, whose four slots have their parameter's shape and dtype.
        The step counts calls of ``update``: to a parameter whose first gradient comes after the first call, the one
        before it is zero.

    Raises:
        ValueError: an option outside its range.

    Source: Xie et al., "Adan: Adaptive Nesterov Momentum Algorithm for Faster Optimizing Deep Models", 2022.

    Example:
        >>> tx = adan(lr=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(jnp.array([0.5, -1.0]), tx.init(params))
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.1, 0.1]
    """
    rule = Adan(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, no_prox=no_prox, maximize=maximize)
    return lift(rule, foreach, decay_mask)
