"""Lion: the sign of an interpolation between the momentum and the gradient."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
    Hyperparameter,
    LearningRate,
    Maximize,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class LionState(NamedTuple):
    """``step`` counts updates; ``exp_avg`` is a tree like the parameters."""

    step: PyTree
    exp_avg: PyTree


class LionScalars(NamedTuple):
    lr: Numeric
    beta1: Beta
    beta2: Beta


class Lion(Rule):
    title = "Lion"
    state = LionState
    normalizes = True
    elementwise = True
    counts_steps = False
    decoupled_weight_decay = True

    lr: LearningRate
    betas: Annotated[Betas, "shares of the momentum in the update and in the next momentum"]
    weight_decay: Annotated[WeightDecay, "coefficient of the decoupled decay"]
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> LionState:
        return LionState(step=None, exp_avg=zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> LionScalars:
        return LionScalars(hyperparams.lr, *hyperparams.betas)

    def update(
        self, grad: jax.Array, param: jax.Array | None, slots: LionState, scalars: LionScalars
    ) -> tuple[jax.Array, LionState]:
        direction = jnp.sign(average(slots.exp_avg, grad, scalars.beta1))
        return -scalars.lr * direction, LionState(None, average(slots.exp_avg, grad, scalars.beta2))


@explains_names
def lion(
    lr: Hyperparameter = 1e-4,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.99),
    weight_decay: Hyperparameter = 0.0,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Lion, as in the authors' ``lion_pytorch.py`` and the package ``lion-pytorch``.

    With g the gradient (negated first if ``maximize``)::

        p <- p - lr * weight_decay * p
        p <- p - lr * sign(beta1 * m + (1 - beta1) * g)
        m <- beta2 * m + (1 - beta2) * g

    Every entry moves by ``lr``. The authors take a third to a tenth of AdamW's rate, and three to ten times its
    weight decay. The package's ``decoupled_weight_decay=True`` is ``weight_decay / lr`` here, with the first ``lr``.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: shares of the momentum in the update and in the next momentum, each in [0, 1).
        weight_decay: coefficient of the decoupled decay, at least 0. Unless it is the number 0, ``update`` needs
            ``params``.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`LionState`, one slot of the parameter's shape and dtype. The sign is
        taken of the real and of the imaginary part of a complex parameter.

    Raises:
        ValueError: an option outside its range.

    Source: Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023.

    Example:
        >>> tx = lion(lr=0.1)
        >>> params = jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(jnp.array([0.5, -1e-6]), tx.init(params))
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.1, 0.1]
    """
    return lift(Lion(lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize), foreach, decay_mask)
