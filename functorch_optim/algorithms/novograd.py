"""NovoGrad: momentum of gradients that are divided by an average of their norms."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import sqrt, wide_zeros_like, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    WeightDecay,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class NovoGradState(NamedTuple):
    """``step`` counts updates. ``exp_avg_sq`` and ``max_exp_avg_sq``, None without amsgrad, are scalars."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree
    max_exp_avg_sq: PyTree


class NovoGradScalars(NamedTuple):
    lr: Numeric
    beta1: Beta
    beta2: Beta
    eps: Numeric


class NovoGrad(Rule):
    title = "NovoGrad"
    state = NovoGradState
    normalizes = True
    decays_direction = True
    complex_as_pairs = True

    lr: LearningRate
    betas: Betas
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decay"]
    grad_averaging: Annotated[bool, "whether the first moment is an average instead of a sum"]
    amsgrad: Annotated[bool, "whether to divide by the largest second moment so far"]
    maximize: Maximize
    axis_name: PyTree

    def init(self, param: Array, hyperparams: PyTree) -> NovoGradState:
        wide: PyTree = wide_zeros_like(param)  # its sum is where the parameter is, in at least float32 as NVIDIA's
        zero, other = (self.sum_over_parameter(jnp.sum(jnp.real(wide))) for _ in range(2))
        return NovoGradState(None, zeros_like(param), zero, other if self.amsgrad else None)

    def scalars(self, step: Numeric, hyperparams: PyTree) -> NovoGradScalars:
        beta1, beta2 = hyperparams.betas
        return NovoGradScalars(hyperparams.lr, beta1, beta2, hyperparams.eps)

    def update(
        self,
        grad: jax.Array,
        param: jax.Array | None,
        slots: NovoGradState,
        scalars: NovoGradScalars,
        decay: jax.Array | None = None,
    ) -> tuple[jax.Array, NovoGradState]:
        square = self.sum_over_parameter(jnp.sum(grad * grad))
        old = slots.exp_avg_sq
        moment = jnp.where(old == 0, square, scalars.beta2.value * old + scalars.beta2.complement * square)
        largest = jnp.maximum(slots.max_exp_avg_sq, moment) if self.amsgrad else None
        direction = grad / (sqrt(moment if largest is None else largest) + scalars.eps)
        if decay is not None:
            direction = direction + decay
        if self.grad_averaging:
            direction = scalars.beta1.complement * direction
        exp_avg = scalars.beta1.value * slots.exp_avg + direction
        return -scalars.lr * exp_avg, NovoGradState(None, exp_avg, moment, largest)


@explains_names
def novograd(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption] = (0.95, 0.98),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0.0,
    grad_averaging: bool = False,
    amsgrad: bool = False,
    maximize: bool = False,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""NovoGrad, as NVIDIA's PyTorch code for Jasper, which ``torch_optimizer`` and timm's ``NvNovoGrad`` follow.

    With g the gradient (negated first if ``maximize``), sum over a whole parameter, and one scalar v for each::

        v <- sum(g**2)                                 at the first update
        v <- beta2 * v + (1 - beta2) * sum(g**2)       afterwards
        u = g / (sqrt(v) + eps) + weight_decay * p
        m <- beta1 * m + u                             or beta1 * m + (1 - beta1) * u if grad_averaging
        p <- p - lr * m

    With ``amsgrad``, the largest v so far stands under the root. An update counts as the first one as long as v is
    zero. The default of beta2 is that of the paper and of NVIDIA's TensorFlow code; that for PyTorch has 0. The former
    has ``sqrt(v + eps)``, and ``lr`` in front of u. ``pytorch_optimizer`` does not average the first u.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        grad_averaging: whether the first moment is an average instead of a sum.
        amsgrad: whether to divide by the largest second moment so far.
        maximize: whether to ascend.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, or anything else that
            :mod:`functorch_optim.axes` describes.

    Returns:
        A transformation with the state :class:`NovoGradState`: one slot of the parameter's shape and dtype, and one or
        two scalars in float32 or wider. The sum is over the real and the imaginary part of a complex parameter.

    Raises:
        ValueError: an option outside its range; inside ``shard_map`` without ``axis_name``, an array that varies or
            may vary over the mesh.

    Source: Ginsburg et al., "Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep
    Networks", 2019.

    Example:
        >>> tx = novograd(lr=0.5)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([3.0, -4.0]), tx.init(params))
        >>> [round(x, 6) for x in updates.tolist()], state.exp_avg_sq.item()
        ([-0.3, 0.4], 25.0)
    """
    rule = NovoGrad(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        grad_averaging=grad_averaging,
        amsgrad=amsgrad,
        maximize=maximize,
        axis_name=axes.as_axes(axis_name, "novograd"),
    )
    return lift(rule, decay_mask=decay_mask)
