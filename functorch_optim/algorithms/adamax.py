"""Adamax: Adam with the infinity norm instead of the second moment."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import lerp, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import one_minus_power
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
class AdamaxState(NamedTuple):
    """``step`` counts updates; the first moment and the decayed largest magnitude are trees."""

    step: PyTree
    exp_avg: PyTree
    exp_inf: PyTree


class AdamaxScalars(NamedTuple):
    beta1: Beta
    beta2: Numeric | None
    step_size: Numeric
    eps: Numeric


class Adamax(Rule):
    title = "Adamax"
    state = AdamaxState
    normalizes = True
    elementwise = True

    lr: LearningRate
    betas: Annotated[Betas, "decay rates of the moment and of the norm"]
    eps: Annotated[Epsilon, "added to the gradient's magnitude, inside the maximum"]
    weight_decay: WeightDecay
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> AdamaxState:
        return AdamaxState(None, zeros_like(param), zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> AdamaxScalars:
        beta1, beta2 = hyperparams.betas
        return AdamaxScalars(beta1, beta2.value, hyperparams.lr / one_minus_power(beta1, step), hyperparams.eps)

    def update(
        self, grad: jax.Array, param: Array | None, slots: AdamaxState, scalars: AdamaxScalars
    ) -> tuple[jax.Array, AdamaxState]:
        exp_avg = lerp(slots.exp_avg, grad, scalars.beta1)
        exp_inf = jnp.maximum(scalars.beta2 * slots.exp_inf, jnp.abs(grad) + scalars.eps)
        return -scalars.step_size * exp_avg / exp_inf, AdamaxState(None, exp_avg, exp_inf)


@explains_names
def adamax(
    lr: Hyperparameter = 2e-3,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Adamax, as in ``torch.optim.Adamax``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``, and t the number of the update::

        m <- beta1 * m + (1 - beta1) * g
        u <- max(beta2 * u, abs(g) + eps)
        p <- p - lr / (1 - beta1**t) * m / u

    With ``eps=0`` an entry whose gradients have all been zero becomes NaN, as in torch.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the moment and of the norm, each in [0, 1).
        eps: added to the gradient's magnitude, inside the maximum, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`AdamaxState`.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2014, section 7.1.

    Example:
        >>> tx = adamax(lr=0.5)
        >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.array([1.0])))
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.5]
    """
    rule = Adamax(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)
    return lift(rule, foreach, decay_mask)
