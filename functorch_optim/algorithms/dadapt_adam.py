"""D-Adapt Adam: Adam at a learning rate that it estimates from the gradients so far."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.algorithms.distance import Distance, Leaf, bias_correction, larger, most
from functorch_optim.base import GradientTransformation, exportable, transformation
from functorch_optim.core.numerics import average_of_squares, sqrt, zeros_like
from functorch_optim.hyperparams import Beta, BetaOption, Hyperparameter
from functorch_optim.labels import as_mask
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree


@exportable
class DAdaptAdamState(NamedTuple):
    """``step`` counts updates; ``d`` and ``numerator_weighted`` are scalars; the slots are trees."""

    step: PyTree
    d: PyTree
    numerator_weighted: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree
    s: PyTree


class Numbers(NamedTuple):
    beta1: Beta
    beta2: Beta
    root: Beta  # of beta2
    rate: PyTree


class DAdaptAdam(Distance):
    state = DAdaptAdamState
    slots = ("exp_avg", "exp_avg_sq", "s")
    scalars = ("d", "numerator_weighted")

    @classmethod
    def _call_name(cls) -> str:
        return "dadapt_adam"

    def first_slots(self, param: Array) -> dict[str, PyTree]:
        return {name: zeros_like(param) for name in self.slots}

    def first_estimate(self) -> dict[str, Numeric]:
        return {"d": self.at(jnp.zeros((), jnp.int32)).d0, "numerator_weighted": 0.0}

    def numbers(self, step: Numeric, state: DAdaptAdamState, hyperparams: PyTree, lr: Numeric) -> Numbers:
        beta1, beta2 = hyperparams.betas
        rate = state.d * lr * bias_correction(self.use_bias_correction, hyperparams.betas, step)
        root = jnp.sqrt(beta2.value)
        return Numbers(beta1, beta2, Beta(root, beta2.complement / (1 + root)), rate)

    def averaged(self, leaf: Leaf) -> tuple[dict[str, jax.Array], tuple[jax.Array, jax.Array]]:
        n, g, old = leaf.numbers, leaf.grad, leaf.slots
        s = n.root.value * old["s"] + n.rate * n.root.complement * g
        slots = {
            "exp_avg": n.beta1.value * old["exp_avg"] + n.rate * n.beta1.complement * g,
            "exp_avg_sq": average_of_squares(old["exp_avg_sq"], g, n.beta2),
            "s": s,
        }
        past = n.rate * jnp.sum(g * (old["s"] / (sqrt(old["exp_avg_sq"]) + leaf.part.eps)))
        return slots, (past, jnp.sum(jnp.abs(s)))

    def estimated(
        self, state: DAdaptAdamState, hyperparams: PyTree, numbers: Numbers, sums: Sequence[jax.Array]
    ) -> dict[str, jax.Array]:
        root = numbers.root
        numerator = root.value * state.numerator_weighted + root.complement * sums[0]
        d_hat = numerator / (root.complement * sums[1])
        d = larger(state.d, jnp.minimum(d_hat, most(state.d, hyperparams.growth_rate)))
        return {"d": d, "numerator_weighted": numerator}

    def moved(self, leaf: Leaf, distance: jax.Array) -> jax.Array:
        return -leaf.slots["exp_avg"] / (sqrt(leaf.slots["exp_avg_sq"]) + leaf.part.eps)


@explains_names
def dadapt_adam(
    lr: Hyperparameter = 1.0,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0,
    decouple: bool = False,
    use_bias_correction: bool = False,
    d0: Hyperparameter = 1e-6,
    growth_rate: Hyperparameter = float("inf"),
    maximize: bool = False,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""D-Adapt Adam, as ``DAdaptAdam`` of the authors' package ``dadaptation``.

    With g the gradient (negated first if ``maximize``) plus ``weight_decay * p``, ``dot`` and ``abs`` summed over all
    parameters, ``b = sqrt(beta2)`` and d the estimate so far, at first ``d0``::

        r <- b * r + (1 - b) * d * lr * dot(g, s / (sqrt(v) + eps))
        m <- beta1 * m + (1 - beta1) * d * lr * g
        v <- beta2 * v + (1 - beta2) * g**2
        s <- b * s + (1 - b) * d * lr * g
        h = r / ((1 - b) * abs(s))
        p <- p - m / (sqrt(v) + eps)

    The next estimate is h, but at least d, and at most d times ``growth_rate``. With ``decouple`` the gradient is left
    alone and ``d * lr * weight_decay * p`` is subtracted from p. Leave ``lr`` at 1, or let it be a schedule that ends
    there.

    Args:
        lr: factor of the estimated learning rate, at least 0; like every number here, a Python number, a scalar array
            or a schedule. An update with 0 changes nothing.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator, above 0.
        weight_decay: coefficient of the decay, at least 0.
        decouple: whether the decay acts on the parameter instead of the gradient.
        use_bias_correction: whether to correct the bias of the moments, as Adam does.
        d0: first estimate of d, above 0.
        growth_rate: the factor by which d may grow in an update.
        maximize: whether to ascend.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, how parameters are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Returns:
        A transformation with the state :class:`DAdaptAdamState`, whose d multiplies the rate of the next update;
        ``update`` needs ``params``. If all gradients are zero, only the slots change, as in the package.

    Raises:
        ValueError: an option outside its range. RuntimeError: a parameter is complex.

    Source: Defazio and Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", 2023.

    Example:
        >>> tx, params = dadapt_adam(d0=0.5), jnp.array([1.0, -2.0])
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> [round(x, 4) for x in updates.tolist()], state.d.item()
        ([-1.5811, 1.5811], 0.5)
    """
    of = DAdaptAdam(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        decouple=decouple,
        use_bias_correction=use_bias_correction,
        d0=d0,
        growth_rate=growth_rate,
        maximize=maximize,
        decay_mask=None if decay_mask is None else as_mask("decay_mask", decay_mask),
        axis_name=axes.as_axes(axis_name, "dadapt_adam"),
        parts=(),
        part_of=(),
    )
    return transformation(of)
