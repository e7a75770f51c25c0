"""NorMuon: Muon, with each output's row divided by the root mean square of its past updates."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, parts
from functorch_optim.algorithms.muon import Muon, MuonScalars
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import lerp, sqrt, zeros_like
from functorch_optim.hyperparams import BetaOption, Hyperparameter, Option
from functorch_optim.matrices import Layout, as_matrix_axes
from functorch_optim.newton_schulz import Polynomial
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class NorMuonState(NamedTuple):
    """``step`` counts updates; ``momentum_buffer`` and ``second_momentum_buffer`` are trees of averages.

    The first averages the gradients, the second the mean square of each output's row, with 1 for the inputs' sizes.
    """

    step: PyTree
    momentum_buffer: PyTree
    second_momentum_buffer: PyTree


class NorMuon(Muon):
    title = "NorMuon"
    state = NorMuonState

    beta2: Annotated[BetaOption, Option("Invalid beta2: {}", low=0.0, beta=True), "decay rate of the squares"] = 0.95

    def init(self, param: Array, hyperparams: PyTree) -> NorMuonState:
        zeros: PyTree = zeros_like(param)  # its sums keep what is left of the parameter's sharding
        try:
            inputs = self._layout(param.ndim).inputs
        except ValueError:  # not a shape that check_parameter lets through
            inputs = ()
        return NorMuonState(None, zeros, self._summed(zeros, inputs))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> MuonScalars:
        return super().scalars(step, hyperparams)._replace(beta2=hyperparams.beta2)

    def finished(self, orthogonal: jax.Array, slots: PyTree, layout: Layout, scalars: MuonScalars) -> PyTree:
        squares = orthogonal * orthogonal
        split = self.split if axes.is_manual(self.split, squares) else ()
        number = layout.size_of(layout.inputs, parts.whole_shape(squares.shape, split))
        rows = self._summed(squares, layout.inputs) / number
        average = lerp(slots.second_momentum_buffer, rows, scalars.beta2)
        normalized = orthogonal / (sqrt(average) + 1e-10)
        before, after = (sqrt(self._summed(x, layout.sides)) for x in (squares, normalized * normalized))
        return normalized * (before / (after + 1e-10)), slots._replace(second_momentum_buffer=average)

    def _summed(self, x: jax.Array, dimensions: tuple[int, ...]) -> jax.Array:
        """The sums over dimensions of the whole array."""
        is_part = axes.is_manual(self.split, x)
        over = tuple(axis for d in dimensions for axis in self.split[d]) if is_part else ()
        return axes.sum_over(jnp.sum(x, dimensions, keepdims=True, dtype=x.dtype), over)


@explains_names
def normuon(
    lr: Hyperparameter = 0.02,
    weight_decay: Hyperparameter = 0.0,
    momentum: BetaOption = 0.95,
    beta2: BetaOption = 0.95,
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
    r"""NorMuon: Muon, with each output's row divided by the root mean square of its past updates.

    With O, b, ratio and the options of :func:`functorch_optim.muon`, n the number of inputs, and norms of matrices::

        v <- beta2 * v + (1 - beta2) * sum(O**2) / n    over the inputs of each output
        N <- O / sqrt(v)                                each output's row by its own
        p <- p - lr * weight_decay * p - lr * ratio * N * norm(O) / norm(N)

    Rows of O have unequal sizes, since its singular values are only about 1 and a tall matrix has more rows than they
    are. N evens them out. The memory is a number for each output more than Muon's.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        beta2: decay rate of the average of the squares, at least 0.
        weight_decay, momentum, nesterov: as for :func:`functorch_optim.muon`; the defaults are the authors'.
        ns_coefficients, eps, ns_steps, ns_polynomials, gram: as for :func:`functorch_optim.muon`.
        adjust_lr_fn, batched, reshape, matrix_axes, decay_mask, axis_name: as for :func:`functorch_optim.muon`.

    Returns:
        A transformation with the state :class:`NorMuonState`.

    Raises:
        ValueError: as for :func:`functorch_optim.muon`.

    Source: Li et al., "NorMuon: Making Muon more efficient and scalable", 2025.

    Example:
        >>> tx = normuon(lr=0.1)
        >>> updates, state = tx.update(jnp.diag(jnp.array([4.0, -2.0])), tx.init(jnp.zeros((2, 2))))
        >>> [[round(x, 2) + 0.0 for x in row] for row in updates.tolist()]
        [[-0.09, 0.0], [0.0, 0.09]]
    """
    rule = NorMuon(
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
        axis_name=axes.as_axes(axis_name, "normuon"),
        matrix_axes=as_matrix_axes(matrix_axes),
        ns_polynomials=ns_polynomials,
        gram=gram,
        beta2=beta2,
    )
    return lift(rule, decay_mask=decay_mask)
