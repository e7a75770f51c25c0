"""Schedule-Free SGD: SGD with an average in place of momentum and of a schedule."""

from typing import Annotated, NamedTuple

import jax

from functorch_optim.algorithms.schedule_free import Moves, ScheduleFree, WarmupSteps, moved, warmed_up
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import copy_of
from functorch_optim.hyperparams import BetaOption, Hyperparameter, Option
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree

Momentum = Annotated[
    BetaOption,
    Option("Momentum must be between 0 and 1 exclusive: {}", 0.0, 1.0, open_low=True, open_high=True, beta=True),
    "share of the average x in y",
]


@exportable
class ScheduleFreeSGDState(NamedTuple):
    """``step`` counts updates; ``weight_sum``, ``lr_max`` and ``momentum`` are scalars; ``z`` is a tree."""

    step: PyTree
    weight_sum: PyTree
    lr_max: PyTree
    momentum: PyTree
    z: PyTree


class ScheduleFreeSGD(ScheduleFree):
    title = "SGDScheduleFree"
    state = ScheduleFreeSGDState

    momentum: Momentum
    warmup_steps: WarmupSteps

    def init(self, param: Array, hyperparams: PyTree) -> ScheduleFreeSGDState:
        return ScheduleFreeSGDState(None, None, None, None, copy_of(param))

    def carry(self, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree]) -> tuple[Moves, dict[str, PyTree]]:
        lr = warmed_up(hyperparams.lr, step, hyperparams.warmup_steps)
        return self.averaging(step, lr, hyperparams.momentum, hyperparams, carried)

    def update(
        self,
        grad: jax.Array,
        param: jax.Array,
        slots: ScheduleFreeSGDState,
        scalars: Moves,
        decay: jax.Array | None = None,
    ) -> tuple[jax.Array, ScheduleFreeSGDState]:
        direction = grad if decay is None else grad + decay
        delta, z = moved(scalars, direction, param, slots.z)
        return delta, slots._replace(z=z)


@explains_names
def schedule_free_sgd(
    lr: Hyperparameter = 1.0,
    momentum: BetaOption = 0.9,
    weight_decay: Hyperparameter = 0,
    warmup_steps: Hyperparameter = 0,
    r: Hyperparameter = 0.0,
    weight_lr_power: Hyperparameter = 2.0,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Schedule-Free SGD, as ``SGDScheduleFree`` of the authors' package ``schedulefree``.

    The parameters are y, where gradients are taken. z starts as y. With g the gradient at y (negated first if
    ``maximize``) plus ``weight_decay * y``, t the number of the update, ``lr(t)`` the rate after the warm-up and
    L the largest so far::

        w = t**r * L**weight_lr_power;    W <- W + w;    c = w / W
        y <- (1 - c) * y + c * z + lr(t) * (momentum * (1 - c) - 1) * g
        z <- z - lr(t) * g

    Evaluate the average x, of which y is ``momentum * x + (1 - momentum) * z``: :func:`functorch_optim.eval_params`.
    Give it no schedule that falls; the average replaces it. Batch norm needs its statistics anew at x.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule. The
            authors' default fits few problems: they take 10 to 50 times that of SGD with momentum.
        momentum: share of the average x in y, in (0, 1).
        weight_decay: coefficient of the decay, which acts at y, at least 0.
        warmup_steps: number of updates over which the learning rate rises linearly, at least 0.
        r: power of the update's number in its weight in the average.
        weight_lr_power: power of the largest learning rate so far in the weight.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`ScheduleFreeSGDState`; ``update`` needs ``params``. Keep bfloat16
        parameters in float32 as well, with :func:`functorch_optim.master_weights`: x is computed from y and z.

    Raises:
        ValueError: an option outside its range.

    Source: Defazio et al., "The Road Less Scheduled", 2024.

    Example:
        >>> import functorch_optim as fo
        >>> import jax.numpy as jnp
        >>> tx, y = schedule_free_sgd(lr=0.5), jnp.array([1.0])
        >>> state = tx.init(y)
        >>> for _ in range(20):
        ...     updates, state = tx.update(y, state, y)  # the gradient of y**2 / 2
        ...     y = fo.apply_updates(y, updates)
        >>> round(abs(fo.eval_params(state, y).item()), 2)
        0.03
    """
    rule = ScheduleFreeSGD(
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        warmup_steps=warmup_steps,
        r=r,
        weight_lr_power=weight_lr_power,
        maximize=maximize,
    )
    return lift(rule, foreach, decay_mask)
