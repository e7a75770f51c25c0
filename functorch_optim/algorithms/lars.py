"""LARS: SGD with steps in proportion to the norm of each parameter."""

from typing import Annotated, NamedTuple

import jax

from functorch_optim import axes
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.hyperparams import (
    Hyperparameter,
    LearningRate,
    Maximize,
    Momentum,
    TrustCoefficient,
    WeightDecay,
    is_static_zero,
)
from functorch_optim.norms import trust_ratio
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class LARSState(NamedTuple):
    """``step`` counts updates; ``momentum_buffer`` is None without momentum."""

    step: PyTree
    momentum_buffer: PyTree


class LARSScalars(NamedTuple):
    lr: Numeric
    momentum: Numeric
    trust_coefficient: Numeric


class LARS(Rule):
    title = "LARS"
    state = LARSState
    normalizes = True
    needs_params = True
    counts_steps = False
    rate_is_factor = False
    decays_direction = True
    complex_as_pairs = True
    static_zeros = ("momentum",)

    lr: LearningRate
    momentum: Momentum
    weight_decay: Annotated[WeightDecay, "coefficient of the decay"]
    trust_coefficient: TrustCoefficient
    nesterov: Annotated[bool, "whether to use Nesterov momentum"]
    always_adapt: Annotated[bool, "whether parameters that do not decay have a trust ratio too"]
    maximize: Maximize
    axis_name: PyTree

    def init(self, param: Array, hyperparams: PyTree) -> LARSState:
        return LARSState(step=None, momentum_buffer=None if is_static_zero(self.momentum) else zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> LARSScalars:
        return LARSScalars(hyperparams.lr, hyperparams.momentum, hyperparams.trust_coefficient)

    def update(
        self, grad: jax.Array, param: jax.Array, slots: LARSState, scalars: LARSScalars, decay: jax.Array | None = None
    ) -> tuple[jax.Array, LARSState]:
        rate = scalars.lr
        if decay is not None or self.always_adapt:
            of = self.norm(grad) if decay is None else self.norm(grad) + self.norm(decay)
            rate = rate * trust_ratio(self.norm(param), of, scalars.trust_coefficient)
        grad = grad if decay is None else grad + decay
        move = rate * grad
        if slots.momentum_buffer is None:
            return -move, slots
        buffer = scalars.momentum * slots.momentum_buffer + move
        return -(scalars.momentum * buffer + move if self.nesterov else buffer), LARSState(None, buffer)


@explains_names
def lars(
    lr: Hyperparameter = 1.0,
    momentum: Hyperparameter = 0.9,
    weight_decay: Hyperparameter = 0.0,
    trust_coefficient: Hyperparameter = 1e-3,
    nesterov: bool = False,
    always_adapt: bool = True,
    maximize: bool = False,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""LARS, as in the paper and TensorFlow's ``LARSOptimizer``, which takes the gradient with its weight decay.

    With g the gradient (negated first if ``maximize``) and ``norm`` the Euclidean norm of a whole parameter::

        d = lr * trust_coefficient * norm(p) / (norm(g) + weight_decay * norm(p)) * (g + weight_decay * p)
        b <- momentum * b + d
        p <- p - (momentum * b + d)      if nesterov
        p <- p - b                       otherwise

    The trust ratio, what stands between ``lr`` and the gradient, is 1 where the norm of p or the denominator is zero,
    or NaN. Other implementations differ: timm, ``torch_optimizer`` and ``pytorch_optimizer`` multiply b by ``lr``
    instead of d, the last one leaves scalars and vectors to plain SGD, and ``optax.lars`` divides by
    ``norm(g + weight_decay * p)``. Without momentum no buffer is kept; only the Python number 0 counts as none.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule. The
            authors' code has no default.
        momentum: factor of the buffer, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        trust_coefficient: factor of the trust ratio, at least 0.
        nesterov: whether to use Nesterov momentum.
        always_adapt: whether parameters that do not decay have a trust ratio too. False is SimCLR's default for
            parameters excluded from weight decay (``decay_mask``), such as biases. A parameter counts as decaying
            unless ``weight_decay`` is the number 0.
        maximize: whether to ascend.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, or anything else that
            :mod:`functorch_optim.axes` describes.

    Returns:
        A transformation with the state :class:`LARSState`; ``update`` needs ``params``. The norm of a complex
        parameter is that of the complex array.

    Raises:
        ValueError: an option outside its range; inside ``shard_map`` without ``axis_name``, an array that varies or
            may vary over the mesh.

    Source: You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks", 2017.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = lars(trust_coefficient=0.1)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, state = tx.update(jnp.array([0.0, -2.0]), tx.init(params), params)
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.0, 0.5]
    """
    rule = LARS(
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        trust_coefficient=trust_coefficient,
        nesterov=nesterov,
        always_adapt=always_adapt,
        maximize=maximize,
        axis_name=axes.as_axes(axis_name, "lars"),
    )
    return lift(rule, decay_mask=decay_mask)
