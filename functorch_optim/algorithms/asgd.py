"""Averaged stochastic gradient descent."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.core.lift import lift
from functorch_optim.core.numerics import decay_of, zeros_like
from functorch_optim.core.rule import Rule
from functorch_optim.core.scalar_math import as_float, maximum, single
from functorch_optim.hyperparams import AnyNumber, Hyperparameter, LearningRate, Maximize, WeightDecay
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class ASGDState(NamedTuple):
    """``step`` counts updates; ``eta`` and ``mu`` are float32 scalars for the next one; ``ax`` is the average."""

    step: PyTree
    eta: PyTree
    mu: PyTree
    ax: PyTree


class ASGDScalars(NamedTuple):
    decay: PyTree
    eta: PyTree
    mu: Numeric


class ASGD(Rule):
    title = "ASGD"
    state = ASGDState
    rate_is_factor = False
    elementwise = True
    carried = ("eta", "mu")
    needs_params = True
    starts_from_options = True

    lr: LearningRate
    lambd: Annotated[AnyNumber, "decay of the parameter"]
    alpha: Annotated[AnyNumber, "exponent of eta's decay"]
    t0: Annotated[AnyNumber, "the update at which averaging starts"]
    weight_decay: WeightDecay
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> ASGDState:
        return ASGDState(None, None, None, zeros_like(param))

    def start(self, hyperparams: PyTree) -> dict[str, PyTree]:
        return {"eta": hyperparams.lr, "mu": 1.0}

    def carry(
        self, step: Numeric, hyperparams: PyTree, carried: dict[str, PyTree]
    ) -> tuple[ASGDScalars, dict[str, PyTree]]:
        count, lr, eta = as_float(step), hyperparams.lr, as_float(carried["eta"])
        after = {
            "eta": single(lr / (1 + hyperparams.lambd * lr * count) ** hyperparams.alpha),
            "mu": single(1 / maximum(1.0, count - hyperparams.t0)),
        }
        return ASGDScalars(hyperparams.lambd * eta, eta, as_float(carried["mu"])), after

    def update(
        self, grad: jax.Array, param: Array, slots: ASGDState, scalars: ASGDScalars
    ) -> tuple[jax.Array, ASGDState]:
        delta = -decay_of(scalars.decay, param) - scalars.eta * grad
        after = param + delta
        ax = jnp.where(scalars.mu == 1, after, slots.ax + scalars.mu * (after - slots.ax))
        return delta, slots._replace(ax=ax)


@explains_names
def asgd(
    lr: Hyperparameter = 1e-2,
    lambd: Hyperparameter = 1e-4,
    alpha: Hyperparameter = 0.75,
    t0: Hyperparameter = 1e6,
    weight_decay: Hyperparameter = 0,
    maximize: bool = False,
    foreach: bool = False,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Averaged stochastic gradient descent, as in ``torch.optim.ASGD``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``, and t the number of the update::

        p  <- (1 - lambd * eta) * p - eta * g
        ax <- ax + mu * (p - ax)
        eta <- lr / (1 + lambd * lr * t)**alpha      for the next update; lr at the first
        mu  <- 1 / max(1, t - t0)                    for the next update; 1 at the first

    eta and mu are rounded to float32, whatever the parameters are, and a change of lr takes effect one update late, as
    in torch. ax is the result; it is the parameter itself until t exceeds t0 by more than 1.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        lambd: decay of the parameter.
        alpha: exponent of eta's decay.
        t0: the update at which averaging starts.
        weight_decay: coefficient of the L2 penalty, at least 0.
        maximize: whether to ascend.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`ASGDState`; ``update`` needs ``params``.

    Raises:
        ValueError: an option outside its range, with torch's message.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the schedules are
    Bottou's, as in torch.

    Example:
        >>> tx = asgd(lr=0.5, lambd=0.0, t0=0.0)
        >>> params = jnp.array([1.0])
        >>> updates, state = tx.update(jnp.array([1.0]), tx.init(params), params)
        >>> updates.tolist(), state.ax.tolist()
        ([-0.5], [0.5])
    """
    rule = ASGD(lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay, maximize=maximize)
    return lift(rule, foreach, decay_mask)
