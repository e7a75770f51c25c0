"""NAdam: Adam with Nesterov momentum."""

from typing import Annotated, NamedTuple

import jax

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average_of_squares, lerp, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, one_minus_power, power, times_in_place
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
    DecoupledWeightDecay,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    MomentumDecay,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class NAdamState(NamedTuple):
    """``step`` counts updates; ``mu_product`` is the float32 product of the momenta; the moments are trees."""

    step: PyTree
    mu_product: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree


class NAdamScalars(NamedTuple):
    beta1: Beta
    beta2: Beta
    bias_correction2: Numeric
    grad_size: Numeric
    momentum_size: Numeric
    eps: Numeric


class NAdam(Rule):
    title = "NAdam"
    state = NAdamState
    normalizes = True
    elementwise = True
    carried = ("mu_product",)

    lr: LearningRate
    betas: Betas
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decay"]
    momentum_decay: MomentumDecay
    decoupled_weight_decay: DecoupledWeightDecay
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> NAdamState:
        return NAdamState(None, None, zeros_like(param), zeros_like(param))

    def start(self, hyperparams: PyTree) -> dict[str, PyTree]:
        return {"mu_product": 1.0}

    def carry(
        self, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree]
    ) -> tuple[NAdamScalars, dict[str, PyTree]]:
        beta1, beta2 = hyperparams.betas
        mu, mu_next = (
            beta1.value * (1.0 - 0.5 * power(0.96, count * hyperparams.momentum_decay))
            for count in (as_float(step), as_float(step) + 1.0)  # an integer would overflow
        )
        product = times_in_place(carried["mu_product"], mu)
        so_far = as_float(product)
        scalars = NAdamScalars(
            beta1,
            beta2,
            bias_correction2=one_minus_power(beta2, step),
            grad_size=hyperparams.lr * (1.0 - mu) / (1.0 - so_far),
            momentum_size=hyperparams.lr * mu_next / (1.0 - so_far * mu_next),
            eps=hyperparams.eps,
        )
        return scalars, {"mu_product": product}

    def update(
        self, grad: jax.Array, param: Array | None, slots: NAdamState, scalars: NAdamScalars
    ) -> tuple[jax.Array, NAdamState]:
        exp_avg = lerp(slots.exp_avg, grad, scalars.beta1)
        exp_avg_sq = average_of_squares(slots.exp_avg_sq, grad, scalars.beta2)
        denom = sqrt(exp_avg_sq / scalars.bias_correction2) + scalars.eps
        delta = -(scalars.grad_size * grad / denom) - scalars.momentum_size * exp_avg / denom
        return delta, slots._replace(exp_avg=exp_avg, exp_avg_sq=exp_avg_sq)


@explains_names
def nadam(
    lr: Hyperparameter = 2e-3,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0,
    momentum_decay: Hyperparameter = 4e-3,
    decoupled_weight_decay: bool = False,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Adam with Nesterov momentum, as in ``torch.optim.NAdam``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``, t the number of the update,
    ``mu(t) = beta1 * (1 - 0.96**(t * momentum_decay) / 2)`` and M the product of all mu so far::

        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g**2
        d <- sqrt(v / (1 - beta2**t)) + eps
        p <- p - lr * (1 - mu(t)) / (1 - M) * g / d - lr * mu(t+1) / (1 - M * mu(t+1)) * m / d

    M is kept in float32, whatever the parameters are, as in torch. With ``decoupled_weight_decay`` the gradient is left
    alone and ``lr * weight_decay * p`` is subtracted from p.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0. Unless it is the number 0, ``update`` needs ``params``.
        momentum_decay: how fast mu rises to beta1, at least 0.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`NAdamState`.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Dozat, "Incorporating Nesterov Momentum into Adam", 2016.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = nadam(lr=0.1)
        >>> updates, state = tx.update(jnp.array([2.0]), tx.init(jnp.array([1.0])))
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.105645]
    """
    rule = NAdam(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        momentum_decay=momentum_decay,
        decoupled_weight_decay=decoupled_weight_decay,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
