"""Schedule-Free AdamW: AdamW with an average in place of the first moment and of a schedule."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.algorithms.schedule_free import Moves, ScheduleFree, WarmupSteps, moved, warmed_up
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average_of_squares, copy_of, sqrt, zeros_like
from functorch_optim.core.scalar_math import one_minus_power
from functorch_optim.hyperparams import Beta, BetaOption, Betas, Epsilon, Hyperparameter
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class ScheduleFreeAdamWState(NamedTuple):
    """``step`` counts updates; ``weight_sum``, ``lr_max`` and ``momentum`` are scalars; the rest are trees."""

    step: PyTree
    weight_sum: PyTree
    lr_max: PyTree
    momentum: PyTree
    z: PyTree
    exp_avg_sq: PyTree


class Scalars(NamedTuple):
    moves: Moves
    beta2: Beta
    bias_correction2: Numeric
    eps: Numeric
    adaptive: Numeric | None = None  # if it is 0, the direction is the gradient


class WithSecondMoment(ScheduleFree, abstract=True):
    """Base of the Schedule-Free methods that divide by the root of the second moment."""

    state = ScheduleFreeAdamWState
    normalizes = True

    betas: Betas
    eps: Epsilon

    def init(self, param: Array, hyperparams: PyTree) -> ScheduleFreeAdamWState:
        return ScheduleFreeAdamWState(None, None, None, None, copy_of(param), zeros_like(param))

    def update(
        self,
        grad: jax.Array,
        param: jax.Array,
        slots: ScheduleFreeAdamWState,
        scalars: Scalars,
        decay: jax.Array | None = None,
    ) -> tuple[jax.Array, ScheduleFreeAdamWState]:
        exp_avg_sq = average_of_squares(slots.exp_avg_sq, grad, scalars.beta2)
        normalized = grad / (sqrt(exp_avg_sq / scalars.bias_correction2) + scalars.eps)
        direction = normalized if scalars.adaptive is None else jnp.where(scalars.adaptive > 0, normalized, grad)
        direction = direction if decay is None else direction + decay
        delta, z = moved(scalars.moves, direction, param, slots.z)
        return delta, slots._replace(z=z, exp_avg_sq=exp_avg_sq)


class ScheduleFreeAdamW(WithSecondMoment):
    title = "AdamWScheduleFree"

    warmup_steps: WarmupSteps

    def carry(
        self, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree]
    ) -> tuple[Scalars, dict[str, PyTree]]:
        beta1, beta2 = hyperparams.betas
        lr = warmed_up(hyperparams.lr, step, hyperparams.warmup_steps)
        moves, after = self.averaging(step, lr, beta1, hyperparams, carried)
        return Scalars(moves, beta2, one_minus_power(beta2, step), hyperparams.eps), after


@explains_names
def schedule_free_adamw(
    lr: Hyperparameter = 0.0025,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0,
    warmup_steps: Hyperparameter = 0,
    r: Hyperparameter = 0.0,
    weight_lr_power: Hyperparameter = 2.0,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Schedule-Free AdamW, as ``AdamWScheduleFree`` of the authors' package ``schedulefree``.

    The parameters are y, where gradients are taken. z starts as y. With g the gradient at y (negated first if
    ``maximize``), t the number of the update, ``lr(t)`` the rate after the warm-up and L the largest so far::

        v <- beta2 * v + (1 - beta2) * g**2
        d = g / (sqrt(v / (1 - beta2**t)) + eps) + weight_decay * y
        w = t**r * L**weight_lr_power;    W <- W + w;    c = w / W
        y <- (1 - c) * y + c * z + lr(t) * (beta1 * (1 - c) - 1) * d
        z <- z - lr(t) * d

    Evaluate the average x, of which y is ``beta1 * x + (1 - beta1) * z``: :func:`functorch_optim.eval_params`.
    Give it no schedule that falls; the average replaces it. Batch norm needs its statistics anew at x.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule. The
            authors take 1 to 10 times that of AdamW.
        betas: decay rates of the two moments, each in [0, 1); the first is the share of the average x in y, and 0
            leaves no way back from y to x.
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, which acts at y, at least 0.
        warmup_steps: number of updates over which the learning rate rises linearly, at least 0.
        r: power of the update's number in its weight in the average.
        weight_lr_power: power of the largest learning rate so far in the weight.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`ScheduleFreeAdamWState`; ``update`` needs ``params``. Keep bfloat16
        parameters in float32 as well, with :func:`functorch_optim.master_weights`: x is computed from y and z.

    Raises:
        ValueError: an option outside its range.

    Source: Defazio et al., "The Road Less Scheduled", 2024. The package scales z by the warmed-up rate as here; the
    paper's listing does too.

    Example:
        >>> import functorch_optim as fo
        >>> import jax.numpy as jnp
        >>> tx, y = schedule_free_adamw(lr=0.1), jnp.array([1.0])
        >>> state = tx.init(y)
        >>> for _ in range(40):
        ...     updates, state = tx.update(y, state, y)  # the gradient of y**2 / 2
        ...     y = fo.apply_updates(y, updates)
        >>> round(abs(fo.eval_params(state, y).item()), 2)
        0.08
    """
    rule = ScheduleFreeAdamW(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        r=r,
        weight_lr_power=weight_lr_power,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
