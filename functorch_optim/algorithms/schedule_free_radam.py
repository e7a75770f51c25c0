"""Schedule-Free RAdam: RAdam with an average in place of the first moment and of a schedule."""

from typing import Annotated

from functorch_optim.algorithms.radam import rectification
from functorch_optim.algorithms.schedule_free_adamw import Scalars, WithSecondMoment
from functorch_optim.base import GradientTransformation
from functorch_optim.core.lift import lift
from functorch_optim.core.scalar_math import on_host, one_minus_power
from functorch_optim.hyperparams import BetaOption, Hyperparameter
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Numeric, PyTree


class ScheduleFreeRAdam(WithSecondMoment):
    title = "RAdamScheduleFree"

    silent_sgd_phase: Annotated[bool, "whether the first updates leave the parameters alone instead of being SGD"]

    def carry(
        self, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree]
    ) -> tuple[Scalars, dict[str, PyTree]]:
        beta1, beta2 = hyperparams.betas
        rectified = rectification(beta2, step, above=4)
        adaptive = float(rectified > 0) if on_host(rectified) else (rectified > 0).astype(rectified.dtype)
        lr = hyperparams.lr * (rectified + (1 - adaptive) * float(not self.silent_sgd_phase))
        moves, after = self.averaging(step, lr, beta1, hyperparams, carried)
        return Scalars(moves, beta2, one_minus_power(beta2, step), hyperparams.eps, adaptive), after


@explains_names
def schedule_free_radam(
    lr: Hyperparameter = 0.0025,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0,
    r: Hyperparameter = 0.0,
    weight_lr_power: Hyperparameter = 2.0,
    silent_sgd_phase: bool = True,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Schedule-Free RAdam, as ``RAdamScheduleFree`` of the authors' package ``schedulefree``.

    It is :func:`functorch_optim.schedule_free_adamw` with RAdam's rectification in place of a warm-up. With rho and the
    factor r as in :func:`functorch_optim.radam`, while rho is at most 4 the direction d is g alone, and the rate is 0,
    or without ``silent_sgd_phase`` ``lr``; afterwards the rate is ``r * lr``.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1); the first is the share of the average x in y, and 0
            leaves no way back from y to x.
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, which acts at y, at least 0.
        r: power of the update's number in its weight in the average.
        weight_lr_power: power of the largest learning rate so far in the weight.
        silent_sgd_phase: whether the first updates leave the parameters alone instead of being SGD.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`ScheduleFreeAdamWState`; ``update`` needs ``params``. Keep bfloat16
        parameters in float32 as well, with :func:`functorch_optim.master_weights`: x is computed from y and z.

    Raises:
        ValueError: an option outside its range.

    Source: Defazio et al., "The Road Less Scheduled", 2024; Liu et al., "On the Variance of the Adaptive Learning Rate
    and Beyond", 2019. The threshold of 4 is the package's; torch's RAdam takes 5.

    Example:
        >>> import jax.numpy as jnp
        >>> tx, y = schedule_free_radam(lr=0.1), jnp.array([1.0])
        >>> updates, state = tx.update(y, tx.init(y), y)
        >>> updates.tolist()
        [0.0]
    """
    rule = ScheduleFreeRAdam(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        r=r,
        weight_lr_power=weight_lr_power,
        silent_sgd_phase=silent_sgd_phase,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
