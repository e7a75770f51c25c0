"""Muon: momentum, orthogonalized by Newton-Schulz iterations."""

import math
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import lerp, zeros_like
from functorch_optim.core.rule import Rule, Steps, answered
from functorch_optim.dealing import Stack, dealt
from functorch_optim.hyperparams import (
    AnyNumber,
    Beta,
    BetaOption,
    Coefficients,
    Hyperparameter,
    MuonMomentum,
    MuonWeightDecay,
    NonNegativeLearningRate,
    as_count,
)
from functorch_optim.matrices import Layout, Stacked
from functorch_optim.newton_schulz import Iterations
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class MuonState(NamedTuple):
    """``step`` counts updates (torch keeps none); ``momentum_buffer`` is a tree of averages of the gradients."""

    step: PyTree
    momentum_buffer: PyTree


class MuonScalars(NamedTuple):
    lr: PyTree
    momentum: PyTree
    coefficients: Numeric
    eps: Numeric


class Asked(NamedTuple):
    """What a step asks for: the matrices orthogonalized, with the coefficients and eps."""

    stack: Stack
    numbers: PyTree


class Muon(Rule):
    title = "Muon"
    joint = True
    state = MuonState
    normalizes = True
    complex_hint = "Muon does not support complex parameters"
    decoupled_weight_decay = True

    lr: NonNegativeLearningRate
    momentum: MuonMomentum
    weight_decay: MuonWeightDecay
    nesterov: Annotated[bool, "whether to use Nesterov momentum"]
    ns_coefficients: Coefficients
    eps: Annotated[AnyNumber, "smallest norm to divide u by"]
    ns_steps: Annotated[int, "the number of iterations, below 100"]
    adjust_lr_fn: Annotated[str | None, '``"original"`` (also None), ``"match_rms_adamw"`` or ``"spectral_unclamped"``']
    batched: Annotated[bool, "whether a parameter of more than two dimensions is a stack of matrices"]
    reshape: Annotated[str | None, "how a parameter of more than two dimensions becomes one matrix instead"]
    axis_name: PyTree

    def __post_init__(self) -> None:
        if not isinstance(self.ns_coefficients, tuple | list) or len(self.ns_coefficients) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")
        super().__post_init__()
        if self.adjust_lr_fn not in (None, "original", "match_rms_adamw", "spectral_unclamped"):
            raise ValueError(f"Adjust learning rate function {self.adjust_lr_fn} is not supported")
        object.__setattr__(self, "ns_steps", as_count("ns_steps", self.ns_steps, 0))
        if self.ns_steps >= 100:
            raise ValueError(
                f"Number of steps must be less than 100 for computational efficiency, but ns_steps is {self.ns_steps}"
            )
        if self.reshape not in (None, "out_first", "out_last"):
            raise ValueError(f"reshape must be None, 'out_first' or 'out_last', but it is {self.reshape!r}")

    def check_parameter(self, name: str, param: Array) -> None:
        super().check_parameter(name, param)
        if param.ndim < 2 or (param.ndim > 2 and not self.batched and self.reshape is None):
            more = "" if param.ndim < 2 else ", batched=True takes stacks of matrices, reshape= kernels of convolutions"
            raise ValueError(
                f"Muon only supports 2D parameters whereas we found a parameter with size: {param.shape}: the "
                f"parameter {trees.quote(name)}; muon_adamw gives everything but matrices to AdamW{more}"
            )

    def init(self, param: Array, hyperparams: PyTree) -> MuonState:
        return MuonState(None, zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> MuonScalars:
        return MuonScalars(hyperparams.lr, hyperparams.momentum, hyperparams.ns_coefficients, hyperparams.eps)

    def update(
        self, grad: jax.Array, param: Array | None, slots: MuonState, scalars: MuonScalars
    ) -> tuple[jax.Array, MuonState]:
        return answered(self, [self.steps(grad, param, slots, scalars)])[0]

    def steps(self, grad: jax.Array, param: Array | None, slots: MuonState, scalars: MuonScalars) -> Steps:
        average = lerp(slots.momentum_buffer, grad, scalars.momentum)
        ahead = Beta(scalars.momentum.complement, scalars.momentum.value)
        direction = lerp(grad, average, ahead) if self.nesterov else average
        layout = self._layout(grad.ndim)
        stacked = Stacked(direction, layout, self.split)
        orthogonal = yield Asked(stacked.stack, (scalars.coefficients, scalars.eps))
        ratio = self._ratio(layout, stacked.whole_shape)
        return -(scalars.lr * ratio) * stacked.back(orthogonal.astype(grad.dtype)), MuonState(None, average)

    def together(self, asked: list[Asked]) -> list[jax.Array]:
        """Orthogonalize matrices, each on one device of their mesh."""
        return dealt(Iterations(self.ns_steps), [one.stack for one in asked], asked[0].numbers, jnp.bfloat16)

    def _layout(self, ndim: int) -> Layout:
        """Which dimensions of a parameter are rows and columns."""
        if self.reshape is None:
            return Layout((ndim - 2,), (ndim - 1,))
        split = 1 if self.reshape == "out_first" else ndim - 1
        return Layout(tuple(range(split)), tuple(range(split, ndim)), self.reshape == "out_last")

    def _ratio(self, layout: Layout, shape: tuple[int, ...]) -> float:
        """The factor of the learning rate for the matrices in a parameter of this shape."""
        outputs, inputs = layout.outputs_and_inputs(shape)
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * math.sqrt(max(outputs, inputs))
        if not inputs:
            return 1.0
        least = 0.0 if self.adjust_lr_fn == "spectral_unclamped" else 1.0
        return math.sqrt(max(least, outputs / inputs))


@explains_names
def muon(
    lr: Hyperparameter = 1e-3,
    weight_decay: Hyperparameter = 0.1,
    momentum: BetaOption = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[Hyperparameter, Hyperparameter, Hyperparameter] = (3.4445, -4.7750, 2.0315),
    eps: Hyperparameter = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    batched: bool = True,
    reshape: str | None = None,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""Muon, as in ``torch.optim.Muon`` for matrices, and also for stacks of matrices and convolution kernels.

    With g the gradient, an array of A rows and B columns::

        b <- momentum * b + (1 - momentum) * g
        u <- momentum * b + (1 - momentum) * g   if nesterov
        u <- b                                   otherwise
        O <- orthogonalize(u)                    by Newton-Schulz iterations, in bfloat16
        p <- p - lr * weight_decay * p - lr * ratio * O

    with the ratio ``sqrt(max(1, A / B))``; with ``adjust_lr_fn="match_rms_adamw"`` ``0.2 * sqrt(max(A, B))``, with
    ``"spectral_unclamped"`` ``sqrt(A / B)``, as in torch 2.14.

    On a mesh each matrix is computed on one device: equal shapes are dealt out over the devices, and travel there and
    back in bfloat16, the dtype of the iterations. The numbers are those of one device.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        weight_decay: coefficient of the decoupled decay, at least 0. Unless it is the number 0, ``update`` needs
            ``params``.
        momentum: decay rate of the average of the gradients, at least 0.
        nesterov: whether to use Nesterov momentum.
        ns_coefficients: the three coefficients of the Newton-Schulz polynomial.
        eps: smallest norm to divide u by.
        ns_steps: the number of iterations, below 100.
        adjust_lr_fn: ``"original"`` (also None), ``"match_rms_adamw"`` or ``"spectral_unclamped"``.
        batched: whether a parameter of more than two dimensions is a stack of matrices, in its last two dimensions;
            each is orthogonalized separately.
        reshape: how a parameter of more than two dimensions becomes one matrix instead: ``"out_first"`` (torch's
            kernels: outputs, inputs, height, width) or ``"out_last"`` (JAX's: height, width, inputs, outputs). With
            ``"out_last"``, A is the number of columns, which are the outputs, for matrices too.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, or anything else that
            :mod:`functorch_optim.axes` describes. On automatic axes, where a traced array does not say how it is split,
            the PartitionSpecs save sending; without them every matrix is gathered first.

    Returns:
        A transformation with the state :class:`MuonState`. :func:`functorch_optim.muon_adamw` leaves everything but
        matrices to AdamW.

    Raises:
        ValueError: an option outside its range, with torch's message; from ``init``, a parameter that is not a
            matrix; inside ``shard_map`` without ``axis_name``, an array that varies or may vary over the mesh.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is
    Scalable for LLM Training", 2025; for the unclamped ratio Bernstein, "Deriving Muon", 2025. With bfloat16 parameters
    torch rounds u after every operation, and without Nesterov normalizes the buffer itself.

    Example:
        >>> tx = muon(lr=0.1, weight_decay=0.0)
        >>> updates, state = tx.update(jnp.diag(jnp.array([4.0, -2.0])), tx.init(jnp.zeros((2, 2))))
        >>> [[round(x, 2) for x in row] for row in updates.tolist()]
        [[-0.07, -0.0], [-0.0, 0.11]]
    """
    rule = Muon(
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        nesterov=nesterov,
        ns_coefficients=ns_coefficients,
        eps=eps,
        ns_steps=ns_steps,
        adjust_lr_fn=adjust_lr_fn,
        batched=batched,
        reshape=reshape,
        axis_name=axes.as_axes(axis_name, "muon"),
    )
    return lift(rule, decay_mask=decay_mask)
