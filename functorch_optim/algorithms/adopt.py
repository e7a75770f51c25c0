"""ADOPT: Adam that divides by the second moment before the gradient enters it, and before the momentum."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average_of_squares, lerp, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, maximum, power
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
    DecoupledWeightDecay,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    Option,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class ADOPTState(NamedTuple):
    """``step`` counts updates; the moments are trees like the parameters."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree


class ADOPTScalars(NamedTuple):
    lr: Numeric
    beta1: Beta
    beta2: Beta
    eps: Numeric
    first: Numeric
    bound: Numeric | None


class ADOPT(Rule):
    title = "ADOPT"
    state = ADOPTState
    normalizes = True
    elementwise = True

    lr: LearningRate
    betas: Betas
    eps: Annotated[Epsilon, "the least denominator"]
    clip_exp: Annotated[
        Hyperparameter | None,
        Option("Invalid clip_exp value: {}", low=0.0, optional=True),
        "exponent of the bound of normalized gradients",
    ]
    weight_decay: Annotated[WeightDecay, "coefficient of the decay"]
    decoupled_weight_decay: DecoupledWeightDecay
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> ADOPTState:
        return ADOPTState(None, zeros_like(param), zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> ADOPTScalars:
        return ADOPTScalars(
            hyperparams.lr,
            *hyperparams.betas,
            eps=hyperparams.eps,
            first=as_float(step == 1),
            bound=None if self.clip_exp is None else power(maximum(as_float(step - 1), 1.0), hyperparams.clip_exp),
        )

    def decay_shares(self, step: Numeric, hyperparams: PyTree) -> tuple[Numeric, Numeric | None]:
        return hyperparams.lr * hyperparams.weight_decay * as_float(step != 1), None

    def update(
        self, grad: jax.Array, param: Array | None, slots: ADOPTState, scalars: ADOPTScalars
    ) -> tuple[jax.Array, ADOPTState]:
        first = scalars.first > 0
        direction = grad / jnp.where(first, 1, jnp.maximum(sqrt(slots.exp_avg_sq), scalars.eps))
        if scalars.bound is not None:
            direction = jnp.clip(direction, -scalars.bound, scalars.bound)
        exp_avg = jnp.where(first, slots.exp_avg, lerp(slots.exp_avg, direction, scalars.beta1))
        square = slots.exp_avg_sq + grad * grad
        exp_avg_sq = jnp.where(first, square, average_of_squares(slots.exp_avg_sq, grad, scalars.beta2))
        return jnp.where(first, 0, -scalars.lr * exp_avg), ADOPTState(None, exp_avg, exp_avg_sq)


@explains_names
def adopt(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.9999),
    eps: Hyperparameter = 1e-6,
    clip_exp: Hyperparameter | None = 0.25,
    weight_decay: Hyperparameter = 0.0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""ADOPT, as in the authors' ``adopt.py``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``, and t the number of the update::

        v <- g**2                                                          if t = 1, and nothing else
        c <- (t - 1)**clip_exp
        m <- beta1 * m + (1 - beta1) * clip(g / max(sqrt(v), eps), -c, c)
        p <- p - lr * m
        v <- beta2 * v + (1 - beta2) * g**2

    The first update moves nothing. With ``decoupled_weight_decay`` the gradient is left alone and
    ``lr * weight_decay * p`` is subtracted from p, from the second update on. The authors call that option
    ``decouple``, and ``clip_exp`` is their ``clip_lambda=lambda step: step**clip_exp``. With ``clip_exp=None`` there is
    no bound, which is the algorithm of the paper's first version.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: the least denominator, at least 0.
        clip_exp: exponent of the bound of normalized gradients, at least 0; None for no bound.
        weight_decay: coefficient of the decay, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`ADOPTState`, whose slots have their parameter's shape and dtype. The
        step counts calls of ``update``: a parameter whose first gradient comes after the first call begins with
        v = 0, so that only the bound limits its first update.

    Raises:
        ValueError: an option outside its range.

    Source: Taniguchi et al., "ADOPT: Modified Adam Can Converge with Any beta2 with the Optimal Rate", 2024.

    Example:
        >>> tx = adopt(lr=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(jnp.array([0.5, -1.0]), tx.init(params))
        >>> updates, state = tx.update(jnp.array([0.5, -0.5]), state)
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.01, 0.005]
    """
    rule = ADOPT(
        lr=lr,
        betas=betas,
        eps=eps,
        clip_exp=clip_exp,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
