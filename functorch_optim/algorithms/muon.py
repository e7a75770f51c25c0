"""Muon: momentum, orthogonalized by Newton-Schulz iterations."""

import math
from collections.abc import Sequence
from dataclasses import replace
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
from functorch_optim.matrices import Layout, MatrixAxes, Stacked, as_matrix_axes, matrix_axes_of
from functorch_optim.newton_schulz import Iterations, Polynomial, as_polynomials
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
    beta2: PyTree = None  # of NorMuon


class Asked(NamedTuple):
    """What a step asks for: the matrices orthogonalized, with the coefficients and eps."""

    stack: Stack
    numbers: PyTree


class Muon(Rule):
    title = "Muon"
    joint = True
    counts_steps = False
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
    matrix_axes: PyTree = None
    ns_polynomials: PyTree = None  # a triple for each iteration
    gram: bool = False

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
        object.__setattr__(self, "ns_polynomials", as_polynomials(self.ns_polynomials, self.ns_steps))
        if self.reshape not in (None, "out_first", "out_last"):
            raise ValueError(f"reshape must be None, 'out_first' or 'out_last', but it is {self.reshape!r}")

    def check_parameter(self, name: str, param: Array) -> None:
        super().check_parameter(name, param)
        if isinstance(self.matrix_axes, MatrixAxes):
            try:
                self.matrix_axes.layout(param.ndim)
            except ValueError as error:
                raise ValueError(f"matrix_axes of the parameter {trees.quote(name)}: {error}") from error
        elif param.ndim < 2 or (param.ndim > 2 and not self.batched and self.reshape is None):
            more = "" if param.ndim < 2 else ", batched=True takes stacks of matrices, reshape= kernels of convolutions"
            raise ValueError(
                f"Muon only supports 2D parameters whereas we found a parameter with size: {param.shape}: the "
                f"parameter {trees.quote(name)}; muon_adamw gives everything but matrices to AdamW{more}"
            )

    def options_of(self, places: PyTree) -> list[dict[str, PyTree]]:
        if self.matrix_axes is None:
            return super().options_of(places)
        return [{"matrix_axes": own} for own in matrix_axes_of(self.matrix_axes, places)]

    def detail(self, param: PyTree, options: dict[str, PyTree]) -> str:
        try:
            layout = replace(self, **options)._layout(getattr(param, "ndim", 0))
        except ValueError:
            return "which init refuses"
        outputs, inputs = layout.outputs_and_inputs(param.shape)
        number = param.size // max(outputs * inputs, 1)
        ratio = self._ratio(layout, param.shape)
        return f"{number} {'matrix' if number == 1 else 'matrices'} of {outputs} x {inputs}, lr times {ratio:.3g}"

    def init(self, param: Array, hyperparams: PyTree) -> PyTree:
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
        factor = scalars.lr * self._ratio(layout, stacked.whole_shape)
        own, slots = stacked.back(orthogonal.astype(grad.dtype)), slots._replace(momentum_buffer=average)
        direction, slots = self.finished(own, slots, layout, scalars)
        return -factor * direction, slots

    def together(self, asked: list[Asked]) -> list[jax.Array]:
        """Orthogonalize matrices, each on one device of their mesh."""
        iterations, stacks = Iterations(self.ns_steps, self.ns_polynomials, self.gram), [one.stack for one in asked]
        return dealt(iterations, stacks, asked[0].numbers, jnp.bfloat16)

    def finished(self, orthogonal: jax.Array, slots: PyTree, layout: Layout, scalars: MuonScalars) -> PyTree:
        """Return the direction, and the next slots, after the matrices are orthogonalized."""
        del layout, scalars
        return orthogonal, slots

    def _layout(self, ndim: int) -> Layout:
        """Which dimensions of a parameter are rows and columns."""
        if isinstance(self.matrix_axes, MatrixAxes):
            return self.matrix_axes.layout(ndim)
        if ndim < 2:
            raise ValueError(f"{self.title} takes no arrays of {ndim} dimensions")  # init has refused them
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
    matrix_axes: PyTree = None,
    ns_polynomials: str | Sequence[Polynomial] | None = None,
    gram: bool = False,
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
        matrix_axes: the dimensions that are a matrix's outputs and inputs, a :class:`functorch_optim.MatrixAxes` for
            all parameters, a tree of them, or a function of the dotted path; None where ``batched`` and ``reshape``
            say it. The ratio's A are the outputs, and B the inputs.
        ns_polynomials: the coefficients of each iteration instead of ``ns_coefficients``, a sequence of ``ns_steps``
            triples, or ``"polar_express"``, which comes closer to singular values of 1 in as many iterations.
        gram: whether to iterate on ``u u^T``, if one side of a matrix is at least twice the other: fewer operations,
            and other roundings.

    Returns:
        A transformation with the state :class:`MuonState`. :func:`functorch_optim.muon_adamw` leaves everything but
        matrices to AdamW.

    Raises:
        ValueError: an option outside its range, with torch's message; from ``init``, a parameter that is not a
            matrix; inside ``shard_map`` without ``axis_name``, an array that varies or may vary over the mesh.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; Liu et al., "Muon is
    Scalable for LLM Training", 2025; Amsel et al., "The Polar Express: Optimal Matrix Sign Methods and Their
    Application to the Muon Algorithm", 2025; for the unclamped ratio Bernstein, "Deriving Muon", 2025. With bfloat16
    parameters torch rounds u after every operation, and without Nesterov normalizes the buffer itself.

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
        matrix_axes=as_matrix_axes(matrix_axes),
        ns_polynomials=ns_polynomials,
        gram=gram,
    )
    return lift(rule, decay_mask=decay_mask)
