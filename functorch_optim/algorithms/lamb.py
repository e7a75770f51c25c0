"""LAMB: Adam's direction, scaled to the norm of each parameter."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import average, average_of_squares, sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import one_minus_power, scalar_sqrt
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
from functorch_optim.norms import trust_ratio
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class LAMBState(NamedTuple):
    """``step`` counts updates; ``exp_avg`` and ``exp_avg_sq`` are trees like the parameters."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree


class LAMBScalars(NamedTuple):
    lr: Numeric
    beta1: Beta
    beta2: Beta
    eps: Numeric
    correction1: Numeric
    root_correction2: Numeric


class LAMB(Rule):
    title = "LAMB"
    state = LAMBState
    normalizes = True
    needs_params = True
    decays_direction = True
    complex_as_pairs = True

    lr: LearningRate
    betas: Betas
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decay"]
    bias_correction: Annotated[bool, "whether to divide the moments by 1 - beta**t"]
    trust_clip: Annotated[bool, "whether to limit the trust ratio to 1"]
    always_adapt: Annotated[bool, "whether parameters that do not decay have a trust ratio too"]
    maximize: Maximize
    axis_name: PyTree

    def init(self, param: Array, hyperparams: PyTree) -> LAMBState:
        return LAMBState(step=None, exp_avg=zeros_like(param), exp_avg_sq=zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> LAMBScalars:
        beta1, beta2 = hyperparams.betas
        corrections = (1.0, 1.0)
        if self.bias_correction:
            corrections = (one_minus_power(beta1, step), scalar_sqrt(one_minus_power(beta2, step)))
        return LAMBScalars(hyperparams.lr, beta1, beta2, hyperparams.eps, *corrections)

    def update(
        self, grad: jax.Array, param: jax.Array, slots: LAMBState, scalars: LAMBScalars, decay: jax.Array | None = None
    ) -> tuple[jax.Array, LAMBState]:
        exp_avg = average(slots.exp_avg, grad, scalars.beta1)
        exp_avg_sq = average_of_squares(slots.exp_avg_sq, grad, scalars.beta2)
        denominator = sqrt(exp_avg_sq) / scalars.root_correction2 + scalars.eps
        direction = exp_avg / scalars.correction1 / denominator
        if decay is not None:
            direction = direction + decay
        if decay is not None or self.always_adapt:
            ratio = trust_ratio(self.norm(param), self.norm(direction))
            direction = (jnp.minimum(ratio, 1) if self.trust_clip else ratio) * direction
        return -scalars.lr * direction, LAMBState(None, exp_avg, exp_avg_sq)


@explains_names
def lamb(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-6,
    weight_decay: Hyperparameter = 0.0,
    bias_correction: bool = False,
    trust_clip: bool = False,
    always_adapt: bool = True,
    maximize: bool = False,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""LAMB, as the authors' ``LAMBOptimizer`` for BERT.

    With g the gradient (negated first if ``maximize``), t the number of the update and ``norm`` the Euclidean norm of
    a whole parameter::

        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g**2
        u = m / (sqrt(v) + eps) + weight_decay * p
        p <- p - lr * norm(p) / norm(u) * u

    The ratio of the norms, the trust ratio, is 1 where one of them is zero, or NaN. With ``bias_correction``, m and v
    are divided by ``1 - beta1**t`` and ``1 - beta2**t`` before u: Algorithm 2 of the paper, whose appendix leaves it
    out as the authors' code does, because a warmup of ``lr`` has the same effect. Also TensorFlow Addons,
    ``optax.lamb`` and timm correct. Other implementations differ too: timm, apex and NVIDIA's LAMB divide all gradients
    by their global norm if it is above 1 (:func:`functorch_optim.clip_by_global_norm` before this),
    ``pytorch_optimizer`` and ``torch_optimizer`` limit ``norm(p)`` to 10.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0, which the trust ratio scales too.
        bias_correction: whether to divide the moments by 1 - beta**t.
        trust_clip: whether to limit the trust ratio to 1 (LAMBC).
        always_adapt: whether parameters that do not decay have a trust ratio too. False is the authors' default for
            parameters excluded from weight decay (``decay_mask``), and timm's. A parameter counts as decaying unless
            ``weight_decay`` is the number 0.
        maximize: whether to ascend.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, or anything else that
            :mod:`functorch_optim.axes` describes.

    Returns:
        A transformation with the state :class:`LAMBState`; ``update`` needs ``params``. The norm of a complex
        parameter is that of the complex array; the rest acts on the real and the imaginary part.

    Raises:
        ValueError: an option outside its range; inside ``shard_map`` without ``axis_name``, an array that varies or
            may vary over the mesh.

    Source: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", 2019.

    Example:
        >>> tx = lamb(lr=0.1)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = tx.update(jnp.array([0.0, -2.0]), tx.init(params), params)
        >>> [round(x, 5) for x in updates.tolist()]
        [-0.0, 0.5]
    """
    rule = LAMB(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        bias_correction=bias_correction,
        trust_clip=trust_clip,
        always_adapt=always_adapt,
        maximize=maximize,
        axis_name=axes.as_axes(axis_name, "lamb"),
    )
    return lift(rule, decay_mask=decay_mask)
