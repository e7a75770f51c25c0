"""LaProp: momentum of gradients that are already divided by their root mean square."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, average_of_squares, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, one_minus_power, ratio, single
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
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
class LaPropState(NamedTuple):
    """``step`` counts updates; ``exp_avg_lr_1`` is the float32 average of the rates; the others are trees."""

    step: PyTree
    exp_avg_lr_1: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree
    exp_mean_avg_beta2: PyTree
    max_exp_avg_sq: PyTree


class LaPropScalars(NamedTuple):
    beta1: Beta
    beta2: Beta
    grad_size: Numeric
    step_size: Numeric
    bias_correction2: Numeric
    centers: Numeric
    eps: Numeric


class LaProp(Rule):
    title = "LaProp"
    state = LaPropState
    normalizes = True
    elementwise = True
    decoupled_weight_decay = True
    rate_is_factor = False
    carried = ("exp_avg_lr_1",)

    lr: LearningRate
    betas: Betas
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "share of the parameter that each update takes away"]
    amsgrad: Annotated[bool, "whether to divide by the largest second moment so far"]
    centered: Annotated[bool, "whether to divide by the standard deviation instead of the root mean square"]
    steps_before_using_centered: Annotated[
        Hyperparameter, Option("Invalid number of steps: {}", low=0.0), "updates before ``centered`` begins"
    ]
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> LaPropState:
        return LaPropState(
            step=None,
            exp_avg_lr_1=None,
            exp_avg=zeros_like(param),
            exp_avg_sq=zeros_like(param),
            exp_mean_avg_beta2=zeros_like(param) if self.centered else None,
            max_exp_avg_sq=zeros_like(param) if self.amsgrad else None,
        )

    def start(self, hyperparams: PyTree) -> dict[str, PyTree]:
        return {"exp_avg_lr_1": 0.0}

    def carry(
        self, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree]
    ) -> tuple[LaPropScalars, dict[str, PyTree]]:
        (beta1, beta2), lr = hyperparams.betas, hyperparams.lr
        average_rate = as_float(carried["exp_avg_lr_1"]) * beta1.value + beta1.complement * lr
        scalars = LaPropScalars(
            beta1,
            beta2,
            grad_size=beta1.complement * lr,
            step_size=1 / ratio(average_rate, lr, 1.0),
            bias_correction2=one_minus_power(beta2, step),
            centers=as_float(as_float(step) > hyperparams.steps_before_using_centered),
            eps=hyperparams.eps,
        )
        return scalars, {"exp_avg_lr_1": single(average_rate)}

    def decay_shares(self, step: Numeric, hyperparams: PyTree) -> tuple[Numeric, Numeric | None]:
        return hyperparams.weight_decay, 1 - hyperparams.weight_decay

    def update(
        self, grad: jax.Array, param: Array | None, slots: LaPropState, scalars: LaPropScalars
    ) -> tuple[jax.Array, LaPropState]:
        variance = average_of_squares(slots.exp_avg_sq, grad, scalars.beta2)
        slots, centers = slots._replace(exp_avg_sq=variance), scalars.centers > 0
        if self.centered:
            mean = average(slots.exp_mean_avg_beta2, grad, scalars.beta2)
            slots = slots._replace(exp_mean_avg_beta2=mean)
            variance = jnp.where(centers, _less(variance, mean * mean), variance)
        if self.amsgrad:
            largest = jnp.maximum(slots.max_exp_avg_sq, variance)
            if self.centered:
                largest = jnp.where(centers, largest, slots.max_exp_avg_sq)
                variance = jnp.where(centers, largest, variance)
            else:
                variance = largest
            slots = slots._replace(max_exp_avg_sq=largest)
        direction = grad / (sqrt(variance / scalars.bias_correction2) + scalars.eps)
        exp_avg = scalars.beta1.value * slots.exp_avg + scalars.grad_size * direction
        return -scalars.step_size * exp_avg, slots._replace(exp_avg=exp_avg)


def _less(squares: jax.Array, square: jax.Array) -> jax.Array:
    """The difference, NaN if a square overflows, which a fused multiply-add would not notice."""
    return jnp.where(square == jnp.inf, jnp.nan, squares - square)


@explains_names
def laprop(
    lr: Hyperparameter = 4e-4,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-15,
    weight_decay: Hyperparameter = 0.0,
    amsgrad: bool = False,
    centered: bool = False,
    steps_before_using_centered: Hyperparameter = 10,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""LaProp, as in the authors' ``laprop.py``.

    With g the gradient (negated first if ``maximize``), and t the number of the update::

        v <- beta2 * v + (1 - beta2) * g**2
        a <- beta2 * a + (1 - beta2) * g                                                 if centered
        d <- sqrt((v - a**2) / (1 - beta2**t)) + eps                                     if centered, in later updates
        d <- sqrt(v / (1 - beta2**t)) + eps                                              otherwise
        l <- beta1 * l + (1 - beta1) * lr
        m <- beta1 * m + (1 - beta1) * lr * g / d
        p <- p - lr / l * m
        p <- p - weight_decay * p

    Later updates are those after ``steps_before_using_centered``. With ``amsgrad`` the denominator uses the largest
    variance so far; if centered, only in later updates. While lr stays the same, ``lr / l`` is ``1 / (1 - beta1**t)``.
    At a rate of 0 it counts as 1, so that the momentum still moves p.

    The decay is neither multiplied by lr nor before the update: give AdamW's coefficient times lr. A variance that
    rounding made negative gives NaN. ``1 - beta2**t`` takes the present beta2; the authors average over former ones.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: share of the parameter that each update takes away, at least 0. Unless it is the number 0,
            ``update`` needs ``params``.
        amsgrad: whether to divide by the largest second moment so far.
        centered: whether to divide by the standard deviation instead of the root mean square.
        steps_before_using_centered: updates before ``centered`` begins, at least 0.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`LaPropState`. Slots have their parameter's shape and dtype; the average
        of the rates is float32.

    Raises:
        ValueError: an option outside its range.

    Source: Ziyin et al., "LaProp: Separating Momentum and Adaptivity in Adam", 2020.

    Example:
        >>> tx = laprop(lr=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(jnp.array([0.5, -1.0]), tx.init(params))
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.1, 0.1]
    """
    rule = LaProp(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        centered=centered,
        steps_before_using_centered=steps_before_using_centered,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
