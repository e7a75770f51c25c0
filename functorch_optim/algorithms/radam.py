"""RAdam: Adam whose first steps are rectified."""

import functools
import math
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average_of_squares, lerp, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, on_host, one_minus_power, scalar_sqrt
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
    DecoupledWeightDecay,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class RAdamState(NamedTuple):
    """``step`` counts updates; the moments are trees like the parameters."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree


class RAdamScalars(NamedTuple):
    beta1: Beta
    beta2: Beta
    step_size: Numeric
    rectification: Numeric  # times sqrt(1 - beta2**t); 0 if the step is not adaptive
    eps: Numeric


class RAdam(Rule):
    title = "RAdam"
    state = RAdamState
    normalizes = True
    elementwise = True

    lr: LearningRate
    betas: Betas
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decay"]
    decoupled_weight_decay: DecoupledWeightDecay
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> RAdamState:
        return RAdamState(None, zeros_like(param), zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> RAdamScalars:
        beta1, beta2 = hyperparams.betas
        return RAdamScalars(
            beta1,
            beta2,
            step_size=hyperparams.lr / one_minus_power(beta1, step),
            rectification=rectification(beta2, step) * scalar_sqrt(one_minus_power(beta2, step)),
            eps=hyperparams.eps,
        )

    def update(
        self, grad: jax.Array, param: Array | None, slots: RAdamState, scalars: RAdamScalars
    ) -> tuple[jax.Array, RAdamState]:
        exp_avg = lerp(slots.exp_avg, grad, scalars.beta1)
        exp_avg_sq = average_of_squares(slots.exp_avg_sq, grad, scalars.beta2)
        adaptive = scalars.rectification / (sqrt(exp_avg_sq) + scalars.eps)
        delta = -scalars.step_size * exp_avg * jnp.where(scalars.rectification > 0, adaptive, 1)
        return delta, RAdamState(None, exp_avg, exp_avg_sq)


def rectification(beta2: Beta, step: Numeric) -> PyTree:
    """Return ``sqrt((rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho))`` where rho > 5, else 0."""
    if on_host(beta2.value, step):
        rho_inf = 2 / (1 - beta2.value) - 1
        rho = rho_inf - 2 * step * beta2.value**step / (1 - beta2.value**step)
        if not rho > 5:
            return 0.0
        return ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
    rho_inf = (1 + beta2.value) / beta2.complement
    rho = _rho(beta2, as_float(step))
    first = _first_adaptive_step(beta2.value) if on_host(beta2.value) else None
    large = rho > 5 if first is None else step >= first
    safe = jnp.where(large, rho, 6.0)  # avoids a division by zero where the value is not used
    square = (safe - 4) / (rho_inf - 4) * ((safe - 2) / (rho_inf - 2)) * (rho_inf / safe)
    return jnp.where(large, jnp.sqrt(jnp.where(large, square, 1.0)), 0.0)


@functools.cache
def _first_adaptive_step(beta2: float) -> int:
    """The first update with rho > 5, decided in double precision; rho rises with the step."""
    rho_inf, step = 2 / (1 - beta2) - 1, 1
    while rho_inf > 5 and step < 10_000:
        if rho_inf - 2 * step * beta2**step / (1 - beta2**step) > 5:
            return step
        step += 1
    return np.iinfo(np.int32).max


def _rho(beta2: Beta, step: jax.Array) -> jax.Array:
    """``rho_inf - 2 t beta2**t / (1 - beta2**t)`` without its cancellation.

    With L = -log(beta2) and x = t L it is (2 / (1 - beta2) - 1 - 2 / L) + 2 / L * h(x), h(x) = 1 - x / expm1(x). The
    bracket is small, at most L/6, and for small L we compute it by its series.
    """
    if on_host(beta2.value):
        rate = -math.log1p(-beta2.complement) if beta2.complement < 1 else math.inf
        offset = 2 / beta2.complement - 1 - 2 / rate if rate > 0.1 else _offset(rate)
        if math.isinf(rate):  # beta2 = 0: nothing is remembered
            return jnp.full_like(step, 1.0)
    else:
        rate = -jnp.log1p(-beta2.complement)
        offset = jnp.where(rate > 0.1, 2 / beta2.complement - 1 - 2 / rate, _offset(rate))
    return offset + 2 / rate * _bernoulli(step * rate)


# -B(2k) / (2k)! with the Bernoulli numbers B: below x = 1 the next term is below a double's last digit.
_SERIES = (
    *(-1 / 12, 1 / 720, -1 / 30240, 1 / 1209600, -1 / 47900160, 691 / 1307674368000),
    *(-1 / 74724249600, 3617 / 10670622842880000, -43867 / 5109094217170944000),
)


def _bernoulli(x: jax.Array) -> jax.Array:
    """``1 - x / expm1(x)``; where that cancels, its series x/2 - y/12 + y**2/720 - ... with y = x * x."""
    y, tail = x * x, jnp.zeros_like(x)
    for factor in reversed(_SERIES):
        tail = factor + y * tail
    return jnp.where(x < 1, x / 2 + y * tail, 1 - x / jnp.expm1(jnp.maximum(x, 1)))


def _offset(rate: Numeric) -> PyTree:
    """``2 / (1 - exp(-L)) - 1 - 2 / L`` = coth(L / 2) - 2 / L for small L."""
    square = rate * rate
    return rate / 6 * (1 - square / 60 * (1 - square / 42 * (1 - square / 40)))


@explains_names
def radam(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Rectified Adam, as in ``torch.optim.RAdam``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``, and t the number of the update::

        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g**2
        rho_inf = 2 / (1 - beta2) - 1;    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        r = sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        p <- p - lr / (1 - beta1**t) * m * r * sqrt(1 - beta2**t) / (sqrt(v) + eps)     if rho > 5
        p <- p - lr / (1 - beta1**t) * m                                               otherwise

    With ``decoupled_weight_decay`` the gradient is left alone and ``lr * weight_decay * p`` is subtracted from p.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`RAdamState`.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Liu et al., "On the Variance of the Adaptive Learning Rate and Beyond", 2019; the threshold of 5 is torch's.

    Example:
        >>> tx = radam(lr=0.1)
        >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.array([1.0])))
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.2]
    """
    rule = RAdam(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
