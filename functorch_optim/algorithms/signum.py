"""Signum: the sign of the momentum."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import lerp, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Hyperparameter,
    LearningRate,
    Maximize,
    MomentumRate,
    WeightDecay,
    is_static_zero,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class SignumState(NamedTuple):
    """``step`` counts updates; ``momentum_buffer`` is None without momentum."""

    step: PyTree
    momentum_buffer: PyTree


class SignumScalars(NamedTuple):
    lr: Numeric
    momentum: Beta


class Signum(Rule):
    title = "Signum"
    state = SignumState
    normalizes = True
    elementwise = True
    counts_steps = False
    decoupled_weight_decay = True
    static_zeros = ("momentum",)

    lr: LearningRate
    momentum: MomentumRate
    weight_decay: Annotated[WeightDecay, "coefficient of the decoupled decay"]
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> SignumState:
        return SignumState(step=None, momentum_buffer=None if is_static_zero(self.momentum) else zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> SignumScalars:
        return SignumScalars(hyperparams.lr, hyperparams.momentum)

    def update(
        self, grad: jax.Array, param: jax.Array | None, slots: SignumState, scalars: SignumScalars
    ) -> tuple[jax.Array, SignumState]:
        buffer = slots.momentum_buffer
        if buffer is not None:
            grad = buffer = lerp(buffer, grad, scalars.momentum)
        return -scalars.lr * jnp.sign(grad), SignumState(None, buffer)


@explains_names
def signum(
    lr: Hyperparameter = 1e-3,
    momentum: BetaOption = 0.9,
    weight_decay: Hyperparameter = 0.0,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Signum, and without momentum signSGD, as ``pytorch_optimizer.SignSGD``.

    With g the gradient (negated first if ``maximize``)::

        p <- p - lr * weight_decay * p
        m <- momentum * m + (1 - momentum) * g
        p <- p - lr * sign(m)

    The decay is that of the paper, and ``wd_lh`` of the authors' ``Signum`` in MXNet. Its ``wd``, which is added to
    the gradient, is :func:`functorch_optim.add_decayed_weights` before ``fo.scale_by(fo.signum())``. Without momentum
    no buffer is kept; only the Python number 0 counts as none.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        momentum: decay rate of the average of the gradients, in [0, 1).
        weight_decay: coefficient of the decoupled decay, at least 0. Unless it is the number 0, ``update`` needs
            ``params``.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`SignumState`. The sign is taken of the real and of the imaginary part
        of a complex parameter.

    Raises:
        ValueError: an option outside its range.

    Source: Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", 2018.

    Example:
        >>> tx = signum(lr=0.1)
        >>> updates, state = tx.update(jnp.array([0.5, -1e-6]), tx.init(jnp.zeros(2)))
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.1, 0.1]
    """
    return lift(Signum(lr=lr, momentum=momentum, weight_decay=weight_decay, maximize=maximize), foreach, decay_mask)
