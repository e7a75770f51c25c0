"""MADGRAD: dual averaging with momentum, divided by a cube root of summed squares."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import copy_of, decay_of, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, on_host, scalar_sqrt
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    DecoupledWeightDecay,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    MomentumRate,
    WeightDecay,
    is_static_zero,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class MADGRADState(NamedTuple):
    """``step`` counts updates; sums and the first parameters are trees like the parameters."""

    step: PyTree
    grad_sum_sq: PyTree
    s: PyTree
    x0: PyTree


class MADGRADScalars(NamedTuple):
    weight: Numeric
    momentum: Beta
    eps: Numeric


class MADGRAD(Rule):
    title = "MADGRAD"
    state = MADGRADState
    elementwise = True
    needs_params = True
    rate_is_factor = False
    static_zeros = ("momentum",)
    copies = ("x0",)

    lr: LearningRate
    momentum: Annotated[MomentumRate, "share of the former parameter"]
    weight_decay: Annotated[WeightDecay, "coefficient of the decay"]
    eps: Annotated[Epsilon, "added to the denominator outside the root, and to the learning rate"]
    decoupled_weight_decay: DecoupledWeightDecay
    maximize: Maximize

    def comes_last(self) -> bool:
        return is_static_zero(self.momentum)  # then x is computed from where the parameter is

    def init(self, param: Array, hyperparams: PyTree) -> MADGRADState:
        x0 = None if is_static_zero(self.momentum) else copy_of(param)
        return MADGRADState(None, zeros_like(param), zeros_like(param), x0)

    def scalars(self, step: Numeric, hyperparams: PyTree) -> MADGRADScalars:
        rate = _stable(hyperparams.lr, hyperparams.eps)
        return MADGRADScalars(rate * scalar_sqrt(as_float(step)), hyperparams.momentum, hyperparams.eps)

    def decay_shares(self, step: Numeric, hyperparams: PyTree) -> tuple[Numeric, Numeric | None]:
        return _stable(hyperparams.lr, hyperparams.eps) * hyperparams.weight_decay, None

    def update(
        self, grad: jax.Array, param: Array, slots: MADGRADState, scalars: MADGRADScalars
    ) -> tuple[jax.Array, MADGRADState]:
        grad_sum_sq = slots.grad_sum_sq + scalars.weight * grad * grad
        s = slots.s + scalars.weight * grad
        moved = s / _denominator(grad_sum_sq, scalars.eps)
        new = slots._replace(grad_sum_sq=grad_sum_sq, s=s)
        x0, share = slots.x0, scalars.momentum.complement
        if x0 is None:
            x0 = param + slots.s / _denominator(slots.grad_sum_sq, scalars.eps)
        return share * (x0 - moved) - decay_of(share, param), new


def _stable(lr: Numeric, eps: Numeric) -> Numeric:
    """``lr + eps``, but 0 at a rate of 0."""
    return jnp.where(lr == 0, 0.0, lr + eps) if not on_host(lr, eps) else lr + eps if lr != 0 else 0.0


def _denominator(squares: jax.Array, eps: Numeric) -> jax.Array:
    """The cube root plus eps, infinite where that is 0; the root's derivative at 0 is 0."""
    regular = (squares > 0) & (squares < jnp.inf)
    safe = jnp.where(regular, squares, 1)
    root = jnp.cbrt(safe)
    root -= (root - safe / (root * root)) / 3  # a compiled root may be 8 ulp away
    total = jnp.where(regular, root, squares) + eps
    return jnp.where(total == 0, jnp.inf, total)


@explains_names
def madgrad(
    lr: Hyperparameter = 1e-2,
    momentum: BetaOption = 0.9,
    weight_decay: Hyperparameter = 0.0,
    eps: Hyperparameter = 1e-6,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""MADGRAD, as in the authors' package ``madgrad``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``, x the parameter before the first
    update, and t the number of the update::

        l <- (lr + eps) * sqrt(t)
        v <- v + l * g**2
        s <- s + l * g
        z <- x - s / (v**(1/3) + eps)
        p <- momentum * p + (1 - momentum) * z

    A learning rate of 0 gives l = 0. With ``decoupled_weight_decay``, the package's ``decouple_decay``, the gradient is
    left alone and ``(lr + eps) * weight_decay * p`` is subtracted from p. Without momentum x is not kept, but computed
    from p: decoupled decay moves it too, as in the package, and nothing may change the update after it. A denominator
    of 0 counts as infinite; with neither eps nor momentum the package gives NaN there.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        momentum: share of the former parameter, in [0, 1); only the Python number 0 means no momentum, and no x.
        weight_decay: coefficient of the decay, at least 0.
        eps: added to the denominator outside the root, and to the learning rate, at least 0.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`MADGRADState`, whose slots have their parameter's shape and dtype. The
        package keeps those of half-precision parameters in float32: :func:`functorch_optim.state_dtype` does so here.
        ``update`` needs ``params``.

    Raises:
        ValueError: an option outside its range.

    Source: Defazio and Jelassi, "Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged Gradient Method
    for Stochastic Optimization", 2021.

    Example:
        >>> tx = madgrad(lr=0.1, momentum=0.0)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(jnp.array([0.5, -1.0]), tx.init(params), params)
        >>> [round(x, 4) for x in updates.tolist()]
        [-0.171, 0.2154]
    """
    rule = MADGRAD(
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        eps=eps,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
