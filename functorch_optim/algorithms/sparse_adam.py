"""SparseAdam: Adam on the rows that a row-sparse gradient touches."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import sqrt, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import one_minus_power, scalar_sqrt
from functorch_optim.hyperparams import (
    BetaOption,
    Betas,
    Hyperparameter,
    Maximize,
    PositiveEpsilon,
    PositiveLearningRate,
)
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class SparseAdamState(NamedTuple):
    """``step`` counts updates; the other fields are dense trees like the parameters."""

    step: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree


class SparseAdamScalars(NamedTuple):
    step_size: Numeric
    gain1: Numeric
    gain2: Numeric
    eps: Numeric


class SparseAdam(Rule):
    title = "SparseAdam"
    state = SparseAdamState
    normalizes = True
    takes_rows = True
    needs_rows = "please consider Adam instead, or take the gradient by value_and_sparse_grad or backward(..., sparse=)"

    lr: PositiveLearningRate
    eps: PositiveEpsilon
    betas: Annotated[Betas, "decay rates of the two averages"]
    maximize: Maximize

    @classmethod
    def _call_name(cls) -> str:
        return "sparse_adam"

    def check_parameter(self, name: str, param: Array) -> None:
        if jnp.issubdtype(param.dtype, jnp.complexfloating):
            raise ValueError(
                f"Complex params at indices [{trees.quote(name)}]: SparseAdam does not support complex parameters"
            )

    def init(self, param: Array, hyperparams: PyTree) -> SparseAdamState:
        return SparseAdamState(None, zeros_like(param), zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> SparseAdamScalars:
        beta1, beta2 = hyperparams.betas
        corrected = scalar_sqrt(one_minus_power(beta2, step)) / one_minus_power(beta1, step)
        return SparseAdamScalars(hyperparams.lr * corrected, beta1.complement, beta2.complement, hyperparams.eps)

    def update(
        self, grad: jax.Array, param: Array | None, slots: SparseAdamState, scalars: SparseAdamScalars
    ) -> tuple[jax.Array, SparseAdamState]:
        average = slots.exp_avg + scalars.gain1 * (grad - slots.exp_avg)
        squares = slots.exp_avg_sq + scalars.gain2 * (grad * grad - slots.exp_avg_sq)
        return -scalars.step_size * (average / (sqrt(squares) + scalars.eps)), SparseAdamState(None, average, squares)


@explains_names
def sparse_adam(
    lr: Hyperparameter = 1e-3,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    maximize: bool = False,
) -> GradientTransformation:
    r"""Adam for row-sparse gradients, as in ``torch.optim.SparseAdam``.

    On the rows that the gradient g names (its duplicates summed; negated first if ``maximize``), with t the number of
    the update::

        m <- m + (1 - beta1) * (g - m)
        v <- v + (1 - beta2) * (g**2 - v)
        p <- p - lr * sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)

    All other rows of p, m and v stay. Unlike in Adam, ``eps`` is added before the bias correction.

    Args:
        lr: learning rate, above 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two averages, each in [0, 1).
        eps: added to the denominator, above 0.
        maximize: whether to ascend.

    Returns:
        A transformation with the state :class:`SparseAdamState`. Gradients are ``BCOO`` arrays with one sparse
        dimension, as :func:`functorch_optim.value_and_sparse_grad` returns them; so are updates, with as many entries,
        and :func:`functorch_optim.apply_updates` adds them. In a compiled step with donated buffers time and memory
        traffic grow with the rows named, not with the table.

    Raises:
        ValueError: an option outside its range, with torch's message; a complex parameter.
        RuntimeError: a dense gradient; the message names its parameter.

    Source: ``torch.optim.SparseAdam``; Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Example:
        >>> import functorch_optim as fo
        >>> tx, table = sparse_adam(lr=0.5), jnp.zeros((4, 2))
        >>> state = tx.init(table)
        >>> _, grads = fo.value_and_sparse_grad(lambda table: jnp.sum(table[jnp.array([1, 1])]), sparse="")(table)
        >>> updates, state = tx.update(grads, state, table)
        >>> fo.apply_updates(table, updates).round(4).tolist()
        [[0.0, 0.0], [-0.5, -0.5], [0.0, 0.0], [0.0, 0.0]]
    """
    return lift(SparseAdam(lr=lr, betas=betas, eps=eps, maximize=maximize))
