"""Prodigy: Adam at a learning rate that it estimates from the distance to the first parameters."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.algorithms.distance import Distance, Leaf, bias_correction, larger, most
from functorch_optim.base import GradientTransformation, exportable, transformation
from functorch_optim.core.numerics import average, copy_of, sqrt, zeros_like
from functorch_optim.hyperparams import Beta, BetaOption, Hyperparameter, NonNegative, Option
from functorch_optim.labels import as_mask
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree

Beta3 = Annotated[
    BetaOption | None,
    Option("Invalid beta3 value: {}", low=0.0, high=1.0, beta=True, optional=True),
    "decay rate of the sums that estimate d; None for the root of the second beta",
]


@exportable
class ProdigyState(NamedTuple):
    """``step`` counts updates; ``d``, ``d_max`` and ``d_numerator`` are scalars; the slots are trees."""

    step: PyTree
    d: PyTree
    d_max: PyTree
    d_numerator: PyTree
    exp_avg: PyTree
    exp_avg_sq: PyTree
    s: PyTree
    p0: PyTree


class Numbers(NamedTuple):
    beta1: Beta
    beta2: Beta
    beta3: PyTree
    d: PyTree
    rate: PyTree
    share: PyTree  # of the gradient in s


class Prodigy(Distance):
    state = ProdigyState
    slots = ("exp_avg", "exp_avg_sq", "s", "p0")
    copies = ("p0",)
    scalars = ("d", "d_max", "d_numerator")

    beta3: Beta3
    safeguard_warmup: Annotated[bool, "whether to leave the learning rate out of s, for schedules that warm up"]
    d_coef: Annotated[NonNegative, "factor of the estimate"]

    def first_slots(self, param: Array) -> dict[str, PyTree]:
        return {**{name: zeros_like(param) for name in self.slots[:3]}, "p0": copy_of(param)}

    def first_estimate(self) -> dict[str, Numeric]:
        d0 = self.at(jnp.zeros((), jnp.int32)).d0
        return {"d": d0, "d_max": d0, "d_numerator": 0.0}

    def numbers(self, step: Numeric, state: ProdigyState, hyperparams: PyTree, lr: Numeric) -> Numbers:
        beta1, beta2 = hyperparams.betas
        beta3 = jnp.sqrt(beta2.value) if hyperparams.beta3 is None else hyperparams.beta3.value
        rate = state.d * lr * bias_correction(self.use_bias_correction, hyperparams.betas, step)
        share = state.d / hyperparams.d0 * (state.d if self.safeguard_warmup else rate)
        return Numbers(beta1, beta2, beta3, state.d, rate, share)

    def averaged(self, leaf: Leaf) -> tuple[dict[str, jax.Array], tuple[jax.Array, jax.Array]]:
        n, g, old = leaf.numbers, leaf.grad, leaf.slots
        s = n.beta3 * old["s"] + n.share * g
        slots = {
            "exp_avg": average(old["exp_avg"], n.d * g, n.beta1),
            "exp_avg_sq": n.beta2.value * old["exp_avg_sq"] + n.d * n.d * n.beta2.complement * g * g,
            "s": s,
            "p0": old["p0"],
        }
        return slots, (jnp.sum(g * (old["p0"] - leaf.param)), jnp.sum(jnp.abs(s)))

    def estimated(
        self, state: ProdigyState, hyperparams: PyTree, numbers: Numbers, sums: Sequence[jax.Array]
    ) -> dict[str, jax.Array]:
        d0, d = jnp.asarray(hyperparams.d0, state.d.dtype), state.d
        numerator = numbers.beta3 * state.d_numerator + d / d0 * numbers.rate * sums[0]
        d_hat = hyperparams.d_coef * numerator / sums[1]
        d_max = larger(state.d_max, d_hat)
        d = jnp.minimum(d_max, most(jnp.where(d == d0, larger(d, d_hat), d), hyperparams.growth_rate))
        return {"d": d, "d_max": d_max, "d_numerator": numerator}

    def moved(self, leaf: Leaf, distance: jax.Array) -> jax.Array:
        denominator = sqrt(leaf.slots["exp_avg_sq"]) + distance * leaf.part.eps
        momentum = jnp.where(leaf.numbers.beta1.value > 0, leaf.slots["exp_avg"], distance * leaf.grad)
        return -leaf.numbers.rate * momentum / denominator


@explains_names
def prodigy(
    lr: Hyperparameter = 1.0,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    beta3: BetaOption | None = None,
    eps: Hyperparameter = 1e-8,
    weight_decay: Hyperparameter = 0,
    decouple: bool = True,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: Hyperparameter = 1e-6,
    d_coef: Hyperparameter = 1.0,
    growth_rate: Hyperparameter = float("inf"),
    maximize: bool = False,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""Prodigy, as ``Prodigy`` of the authors' package ``prodigyopt``.

    With g the gradient (negated first if ``maximize``), p0 the first parameters, ``dot`` and ``abs`` summed over all
    parameters, and d the estimate so far, at first ``d0``::

        m <- beta1 * m + (1 - beta1) * d * g
        v <- beta2 * v + (1 - beta2) * d**2 * g**2
        s <- beta3 * s + d / d0 * d * lr * g
        r <- beta3 * r + d / d0 * d * lr * dot(g, p0 - p)
        h = d_coef * r / abs(s)
        p <- p - d * lr * m / (sqrt(v) + k * eps) - d * lr * weight_decay * p
        d <- k

    The next estimate k is the largest h so far, but at least d, and at most d times ``growth_rate``. As in the package,
    with ``beta1`` of 0 the gradient times k takes the place of m, and eps is multiplied by k, where the paper has d in
    both. Leave ``lr`` at 1, or let it be a schedule that ends there; scale with ``d_coef``.

    Args:
        lr: factor of the estimated learning rate, at least 0; like every number here, a Python number, a scalar array
            or a schedule. An update with 0 changes nothing.
        betas: decay rates of the two moments, each in [0, 1).
        beta3: decay rate of the sums that estimate d; None for the root of the second beta, in [0, 1].
        eps: added to the denominator, above 0.
        weight_decay: coefficient of the decay, at least 0.
        decouple: whether the decay acts on the parameter instead of the gradient.
        use_bias_correction: whether to correct the bias of the moments, as Adam does.
        safeguard_warmup: whether to leave the learning rate out of s, for schedules that warm up.
        d0: first estimate of d, above 0.
        d_coef: factor of the estimate, at least 0.
        growth_rate: the factor by which d may grow in an update.
        maximize: whether to ascend.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, how parameters are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Returns:
        A transformation with the state :class:`ProdigyState`, whose d multiplies the rate of the next update;
        ``update`` needs ``params``. If all gradients are zero, only the slots change, as in the package.

    Raises:
        ValueError: an option outside its range. RuntimeError: a parameter is complex.

    Source: Mishchenko and Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free Learner", 2023.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = prodigy(), jnp.array([1.0, -2.0])
        >>> state = tx.init(params)
        >>> for _ in range(150):
        ...     updates, state = tx.update(params, state, params)  # the gradient of half the square
        ...     params = fo.apply_updates(params, updates)
        >>> bool(jnp.all(jnp.abs(params) < 0.1)), state.d.item() > 0.1
        (True, True)
    """
    of = Prodigy(
        lr=lr,
        betas=betas,
        beta3=beta3,
        eps=eps,
        weight_decay=weight_decay,
        decouple=decouple,
        use_bias_correction=use_bias_correction,
        safeguard_warmup=safeguard_warmup,
        d0=d0,
        d_coef=d_coef,
        growth_rate=growth_rate,
        maximize=maximize,
        decay_mask=None if decay_mask is None else as_mask("decay_mask", decay_mask),
        axis_name=axes.as_axes(axis_name, "prodigy"),
        parts=(),
        part_of=(),
    )
    return transformation(of)
