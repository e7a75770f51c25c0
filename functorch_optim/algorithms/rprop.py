"""Rprop: step sizes that grow while the gradient keeps its sign."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import full_like, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.hyperparams import AnyPair, Etas, Hyperparameter, LearningRate, Maximize, known
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class RpropState(NamedTuple):
    """``step`` counts updates; the last gradient and the step sizes are trees."""

    step: PyTree
    prev: PyTree
    step_size: PyTree


class RpropScalars(NamedTuple):
    shrink: Numeric
    grow: Numeric
    smallest: Numeric
    largest: Numeric


class Rprop(Rule):
    title = "Rprop"
    state = RpropState
    normalizes = True
    rate_is_factor = False
    elementwise = True
    starts_from_options = True

    lr: Annotated[LearningRate, "initial step size"]
    etas: Etas
    step_sizes: Annotated[AnyPair, "the smallest and the largest step size, enforced from the first update on"]
    maximize: Maximize

    def __post_init__(self) -> None:
        super().__post_init__()
        shrink, grow = map(known, self.etas)
        if (shrink is not None and not 0 < shrink < 1) or (grow is not None and not grow > 1):
            raise ValueError(f"Invalid eta values: {shrink}, {grow} (option 'etas')")

    def init(self, param: Array, hyperparams: PyTree) -> RpropState:
        return RpropState(None, zeros_like(param), full_like(param, hyperparams.lr))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> RpropScalars:
        return RpropScalars(*hyperparams.etas, *hyperparams.step_sizes)

    def update(
        self, grad: jax.Array, param: Array | None, slots: RpropState, scalars: RpropScalars
    ) -> tuple[jax.Array, RpropState]:
        agreement = grad * slots.prev
        factor = jnp.where(agreement > 0, scalars.grow, jnp.where(agreement < 0, scalars.shrink, 1))
        step_size = jnp.clip(slots.step_size * factor, scalars.smallest, scalars.largest)
        grad = jnp.where(agreement < 0, 0, grad)
        move = jnp.where(grad > 0, -step_size, jnp.where(grad < 0, step_size, 0))  # torch's sign of NaN is 0
        return move, RpropState(None, grad, step_size)


@explains_names
def rprop(
    lr: Hyperparameter = 1e-2,
    etas: tuple[Hyperparameter, Hyperparameter] = (0.5, 1.2),
    step_sizes: tuple[Hyperparameter, Hyperparameter] = (1e-6, 50),
    maximize: bool = False,
    foreach: bool = False,
) -> GradientTransformation:
    r"""Resilient backpropagation, as in ``torch.optim.Rprop``.

    With g the gradient (negated first if ``maximize``) and s the step size, entry by entry::

        s <- clip(s * eta_plus, smallest, largest)               if g * g_last > 0
        s <- clip(s * eta_minus, smallest, largest);  g <- 0     if g * g_last < 0
        s <- clip(s, smallest, largest)                          otherwise
        p <- p - sign(g) * s
        g_last <- g

    A NaN gradient has no sign: its entry stays unchanged, as in torch.

    Args:
        lr: initial step size, at least 0; later changes have no effect, as in torch.
        etas: (eta_minus, eta_plus), 0 < eta_minus < 1 < eta_plus.
        step_sizes: the smallest and the largest step size, enforced from the first update on.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`RpropState`.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Riedmiller and Braun, "A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP Algorithm",
    1993, in the variant without backtracking.

    Example:
        >>> tx = rprop(lr=0.5)
        >>> state = tx.init(jnp.array([1.0]))
        >>> for grad in (2.0, 3.0):
        ...     updates, state = tx.update(jnp.array([grad]), state)
        >>> [round(x, 6) for x in updates.tolist()]
        [-0.6]
    """
    return lift(Rprop(lr=lr, etas=etas, step_sizes=step_sizes, maximize=maximize), foreach)
