"""AdEMAMix: Adam with a second, slower average of the gradients."""

import math
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, average_of_squares, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, minimum, on_host, one_minus_power, scalar_sqrt
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    Option,
    ThreeBetas,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree

Warmup = Annotated[
    Hyperparameter | None, Option("Invalid warmup value: {}", low=0.0, open_low=True, optional=True), "steps of warm-up"
]


@exportable
class AdEMAMixState(NamedTuple):
    """``step`` counts updates; the three averages are trees like the parameters."""

    step: PyTree
    exp_avg_fast: PyTree
    exp_avg_slow: PyTree
    exp_avg_sq: PyTree


class AdEMAMixScalars(NamedTuple):
    lr: Numeric
    beta1: Beta
    beta2: Beta
    beta3: Beta
    alpha: Numeric
    bias_correction1: Numeric
    bias_correction2_sqrt: Numeric
    eps: Numeric


class AdEMAMix(Rule):
    title = "AdEMAMix"
    state = AdEMAMixState
    normalizes = True
    elementwise = True
    decoupled_weight_decay = True

    lr: LearningRate
    betas: Annotated[ThreeBetas, "decay rates of the fast average, of the squares and of the slow average"]
    alpha: Annotated[Hyperparameter, Option("Invalid alpha value: {}", low=0.0), "weight of the slow average"]
    beta3_warmup: Annotated[Warmup, "updates in which beta3 rises from beta1"]
    alpha_warmup: Annotated[Warmup, "updates in which alpha rises from 0"]
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decoupled decay"]
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> AdEMAMixState:
        return AdEMAMixState(None, zeros_like(param), zeros_like(param), zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> AdEMAMixScalars:
        (beta1, beta2, beta3), alpha = hyperparams.betas, hyperparams.alpha
        if self.alpha_warmup is not None:
            alpha = minimum(as_float(step) / hyperparams.alpha_warmup, 1.0) * alpha
        if self.beta3_warmup is not None:
            beta3 = _warmed_up(beta1, beta3, minimum(as_float(step) / hyperparams.beta3_warmup, 1.0))
        return AdEMAMixScalars(
            hyperparams.lr,
            beta1,
            beta2,
            beta3,
            alpha,
            bias_correction1=one_minus_power(beta1, step),
            bias_correction2_sqrt=scalar_sqrt(one_minus_power(beta2, step)),
            eps=hyperparams.eps,
        )

    def update(
        self, grad: jax.Array, param: Array | None, slots: AdEMAMixState, scalars: AdEMAMixScalars
    ) -> tuple[jax.Array, AdEMAMixState]:
        fast = average(slots.exp_avg_fast, grad, scalars.beta1)
        slow = average(slots.exp_avg_slow, grad, scalars.beta3)
        exp_avg_sq = average_of_squares(slots.exp_avg_sq, grad, scalars.beta2)
        denom = sqrt(exp_avg_sq) / scalars.bias_correction2_sqrt + scalars.eps
        mixed = fast / scalars.bias_correction1 + scalars.alpha * slow
        return -scalars.lr * (mixed / denom), AdEMAMixState(None, fast, slow, exp_avg_sq)


def _warmed_up(start: Beta, end: Beta, done: Numeric) -> Beta:
    """The rate whose half-life is between those of two rates: the share ``done`` of the way; ``end`` at 1."""
    half_life = (1 - done) * _half_life(start) + done * _half_life(end)
    if on_host(half_life):
        return end if done >= 1 else Beta.of(0.5 ** (1 / half_life))
    log = -math.log(2) / half_life
    return Beta(jnp.where(done >= 1, end.value, jnp.exp(log)), jnp.where(done >= 1, end.complement, -jnp.expm1(log)))


def _half_life(beta: Beta, eps: float = 1e-8) -> PyTree:
    """``log(0.5) / log(beta + eps)``, the authors'; traced, it keeps its digits for beta near 1."""
    if on_host(beta.value):
        return math.log(0.5) / math.log(beta.value + eps)
    small = beta.value < 0.5
    small_log = jnp.log(jnp.where(small, beta.value, 0.5) + eps)
    return math.log(0.5) / jnp.where(small, small_log, jnp.log1p(jnp.where(small, 0.5, eps - beta.complement)))


@explains_names
def ademamix(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption, BetaOption] = (0.9, 0.999, 0.9999),
    alpha: Hyperparameter = 2.0,
    beta3_warmup: Hyperparameter | None = None,
    alpha_warmup: Hyperparameter | None = None,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""AdEMAMix, as in the authors' ``ademamix.py`` for PyTorch.

    With g the gradient (negated first if ``maximize``), and t the number of the update::

        f <- beta1 * f + (1 - beta1) * g
        s <- beta3 * s + (1 - beta3) * g
        v <- beta2 * v + (1 - beta2) * g**2
        u <- (f / (1 - beta1**t) + alpha * s) / (sqrt(v) / sqrt(1 - beta2**t) + eps)
        p <- p - lr * (u + weight_decay * p)

    In the first ``alpha_warmup`` updates, alpha is ``alpha * t / alpha_warmup``. In the first ``beta3_warmup`` updates,
    beta3 rises from beta1, so that its half-life ``log(0.5) / log(beta3)`` grows by the same amount in each. The paper
    takes the number of all updates for both, and an alpha of 4 to 10; 2, and no warm-up, are defaults of the authors'
    code. A long run without them may diverge.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the fast average, of the squares and of the slow average, each in [0, 1).
        alpha: weight of the slow average, at least 0.
        beta3_warmup: updates in which beta3 rises from beta1, above 0; None for none.
        alpha_warmup: updates in which alpha rises from 0, above 0; None for none.
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decoupled decay, at least 0. Unless it is the number 0, ``update`` needs
            ``params``.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`AdEMAMixState`, whose three slots have their parameter's shape and
        dtype. With beta1 = 0 too there is a fast average, which is the gradient.

    Raises:
        ValueError: an option outside its range.

    Source: Pagliardini et al., "The AdEMAMix Optimizer: Better, Faster, Older", 2024.

    Example:
        >>> tx = ademamix(lr=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(jnp.array([0.5, -1.0]), tx.init(params))
        >>> [round(x, 5) for x in updates.tolist()]
        [-0.10002, 0.10002]
    """
    rule = AdEMAMix(
        lr=lr,
        betas=betas,
        alpha=alpha,
        beta3_warmup=beta3_warmup,
        alpha_warmup=alpha_warmup,
        eps=eps,
        weight_decay=weight_decay,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
