"""Adam, with AMSGrad and with coupled or decoupled weight decay."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average_of_squares, lerp, sqrt, zeros_like
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
class AdamState(NamedTuple):
    """``step`` counts updates; the moments are trees like the parameters (the third only for AMSGrad)."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree
    max_exp_avg_sq: PyTree


class AdamScalars(NamedTuple):
    beta1: Beta
    beta2: Beta
    step_size: Numeric
    bias_correction2_sqrt: Numeric
    eps: Numeric


class Adam(Rule):
    title = "Adam"
    state = AdamState
    normalizes = True
    elementwise = True
    sparse_hint = ", please consider SparseAdam instead"

    lr: LearningRate
    betas: Betas
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decay"]
    amsgrad: Annotated[bool, "whether to divide by the largest second moment so far"]
    maximize: Maximize
    decoupled_weight_decay: DecoupledWeightDecay

    def init(self, param: Array, hyperparams: PyTree) -> AdamState:
        return AdamState(
            step=None,
            exp_avg=zeros_like(param),
            exp_avg_sq=zeros_like(param),
            max_exp_avg_sq=zeros_like(param) if self.amsgrad else None,
        )

    def scalars(self, step: Numeric, hyperparams: PyTree) -> AdamScalars:
        beta1, beta2 = hyperparams.betas
        return AdamScalars(
            beta1,
            beta2,
            step_size=hyperparams.lr / one_minus_power(beta1, step),
            bias_correction2_sqrt=scalar_sqrt(one_minus_power(beta2, step)),
            eps=hyperparams.eps,
        )

    def update(
        self, grad: jax.Array, param: jax.Array | None, slots: AdamState, scalars: AdamScalars
    ) -> tuple[jax.Array, AdamState]:
        exp_avg = lerp(slots.exp_avg, grad, scalars.beta1)
        exp_avg_sq = average_of_squares(slots.exp_avg_sq, grad, scalars.beta2)
        largest = jnp.maximum(slots.max_exp_avg_sq, exp_avg_sq) if self.amsgrad else exp_avg_sq
        denom = sqrt(largest) / scalars.bias_correction2_sqrt + scalars.eps
        delta = -scalars.step_size * exp_avg / denom
        return delta, AdamState(None, exp_avg, exp_avg_sq, largest if self.amsgrad else None)


@explains_names
def adam(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0,
    amsgrad: bool = False,
    maximize: bool = False,
    decoupled_weight_decay: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Adam, as in ``torch.optim.Adam``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``, and t the number of the update::

        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g**2
        p <- p - lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)

    With ``amsgrad`` the last line uses the largest v so far. With ``decoupled_weight_decay`` the gradient is left
    alone and ``lr * weight_decay * p`` is subtracted from p, which is :func:`functorch_optim.adamw`.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1). An array holds only beta's digits: inside a compiled
            function pass a :class:`functorch_optim.Beta` to keep those of 1 - beta.
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        amsgrad: whether to divide by the largest second moment so far.
        maximize: whether to ascend.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`AdamState`. Updates are float32 or wider; slots have their
        parameter's shape and dtype. The step counts calls of ``update``: a parameter whose gradient is None keeps
        its slots and its value while the step runs on.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2014; Reddi et al., "On the Convergence of
    Adam and Beyond", 2018 (torch, and so this function, takes the maximum before the bias correction).

    Example:
        >>> tx = adam(lr=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(jnp.array([0.5, -1.0]), tx.init(params))
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.1, 0.1]
    """
    rule = Adam(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        amsgrad=amsgrad,
        maximize=maximize,
        decoupled_weight_decay=decoupled_weight_decay,
    )
    return lift(rule, foreach, decay_mask)
