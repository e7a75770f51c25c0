"""AdaBelief: Adam that divides by the deviation of the gradient from its average."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.algorithms.radam import rectification
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, average_of_squares, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import one_minus_power, scalar_sqrt
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
class AdaBeliefState(NamedTuple):
    """``step`` counts updates; the moments are trees like the parameters (the third only for AMSGrad)."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_var: PyTree
    max_exp_avg_var: PyTree


class AdaBeliefScalars(NamedTuple):
    beta1: Beta
    beta2: Beta
    step_size: Numeric
    bias_correction2_sqrt: Numeric
    rectification: Numeric  # 0 if the step is not adaptive
    eps: Numeric


class AdaBelief(Rule):
    title = "AdaBelief"
    state = AdaBeliefState
    normalizes = True
    elementwise = True

    lr: LearningRate
    betas: Betas
    eps: Annotated[Epsilon, "added to the denominator outside the root, and to the variance at each update"]
    weight_decay: Annotated[WeightDecay, "coefficient of the decay"]
    amsgrad: Annotated[bool, "whether to divide by the largest variance so far, without ``rectify``"]
    decoupled_weight_decay: DecoupledWeightDecay
    fixed_decay: Annotated[bool, "whether decoupled decay is not multiplied by the learning rate"]
    rectify: Annotated[bool, "whether to rectify the first steps as RAdam does"]
    degenerated_to_sgd: Annotated[bool, "whether the steps before are those of SGD with momentum, not none"]
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> AdaBeliefState:
        largest = zeros_like(param) if self.amsgrad else None
        return AdaBeliefState(None, zeros_like(param), zeros_like(param), largest)

    def scalars(self, step: Numeric, hyperparams: PyTree) -> AdaBeliefScalars:
        beta1, beta2 = hyperparams.betas
        return AdaBeliefScalars(
            beta1,
            beta2,
            step_size=hyperparams.lr / one_minus_power(beta1, step),
            bias_correction2_sqrt=scalar_sqrt(one_minus_power(beta2, step)),
            rectification=rectification(beta2, step) if self.rectify else 1.0,
            eps=hyperparams.eps,
        )

    def decay_shares(self, step: Numeric, hyperparams: PyTree) -> tuple[Numeric, Numeric | None]:
        decay = hyperparams.weight_decay
        return decay if self.fixed_decay else hyperparams.lr * decay, None

    def update(
        self, grad: jax.Array, param: Array | None, slots: AdaBeliefState, scalars: AdaBeliefScalars
    ) -> tuple[jax.Array, AdaBeliefState]:
        exp_avg = average(slots.exp_avg, grad, scalars.beta1)
        variance = average_of_squares(slots.exp_avg_var, grad - exp_avg, scalars.beta2) + scalars.eps
        largest = jnp.maximum(slots.max_exp_avg_var, variance) if self.amsgrad else None
        if self.rectify:
            adaptive = scalars.rectification * scalars.bias_correction2_sqrt / (sqrt(variance) + scalars.eps)
            plain = exp_avg if self.degenerated_to_sgd else jnp.zeros_like(exp_avg)
            direction = jnp.where(scalars.rectification > 0, exp_avg * adaptive, plain)
        else:
            root = sqrt(variance if largest is None else largest)
            direction = exp_avg / (root / scalars.bias_correction2_sqrt + scalars.eps)
        return -scalars.step_size * direction, AdaBeliefState(None, exp_avg, variance, largest)


@explains_names
def adabelief(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-16,
    weight_decay: Hyperparameter = 0.0,
    amsgrad: bool = False,
    decoupled_weight_decay: bool = True,
    fixed_decay: bool = False,
    rectify: bool = True,
    degenerated_to_sgd: bool = True,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""AdaBelief, as in the authors' package ``adabelief-pytorch`` 0.2.

    With g the gradient (negated first if ``maximize``), t the number of the update, and rho and r as in
    :func:`functorch_optim.radam`::

        m <- beta1 * m + (1 - beta1) * g
        s <- beta2 * s + (1 - beta2) * (g - m)**2 + eps
        p <- p - lr / (1 - beta1**t) * m * r * sqrt(1 - beta2**t) / (sqrt(s) + eps)     if rho >= 5
        p <- p - lr / (1 - beta1**t) * m                                                otherwise

    Without ``degenerated_to_sgd`` the last line is left out. Without ``rectify``, which is the paper's algorithm::

        p <- p - lr / (1 - beta1**t) * m / (sqrt(s) / sqrt(1 - beta2**t) + eps)

    With ``amsgrad`` this line uses the largest s so far; with ``rectify`` it has no effect, as in the package. First
    ``lr * weight_decay * p`` is subtracted from p, ``weight_decay * p`` with ``fixed_decay``; without
    ``decoupled_weight_decay``, the package's ``weight_decouple``, ``weight_decay * p`` is added to g instead. For image
    classifiers the authors take an eps of 1e-8.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, and to the variance at each update, at least 0.
        weight_decay: coefficient of the decay, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        amsgrad: whether to divide by the largest variance so far, without ``rectify``.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        fixed_decay: whether decoupled decay is not multiplied by the learning rate.
        rectify: whether to rectify the first steps as RAdam does.
        degenerated_to_sgd: whether the steps before are those of SGD with momentum, not none.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`AdaBeliefState`, whose slots have their parameter's shape and dtype.

    Raises:
        ValueError: an option outside its range.

    Source: Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients", 2020.

    Example:
        >>> tx = adabelief(lr=0.1, rectify=False)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(jnp.array([0.5, -1.0]), tx.init(params))
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.111111, 0.111111]
    """
    rule = AdaBelief(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        decoupled_weight_decay=decoupled_weight_decay,
        fixed_decay=fixed_decay,
        rectify=rectify,
        degenerated_to_sgd=degenerated_to_sgd,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
