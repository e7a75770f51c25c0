"""AdaHessian: Adam whose second moment is that of the Hessian's diagonal."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.base import GradientTransformation, exportable, transformation
from functorch_optim.core.curved import CurvatureRule, Curved, Estimator
from functorch_optim.core.numerics import average, average_of_squares, sqrt, wide_zeros_like, zeros_like
from functorch_optim.core.scalar_math import one_minus_power
from functorch_optim.hyperparams import (
    Beta,
    BetaOption,
    Betas,
    Epsilon,
    Hyperparameter,
    LearningRate,
    Maximize,
    Option,
    WeightDecay,
)
from functorch_optim.labels import as_mask
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, Numeric, PyTree
from functorch_optim.units import UnitAxes, as_unit_axes, sum_over_unit, unit_axes, unit_size

HessianPower = Annotated[
    Hyperparameter,
    Option("Invalid Hessian power value: {}", low=0.0, high=1.0),
    "the exponent of the root of the second moment",
]


@exportable
class AdaHessianState(NamedTuple):
    """``step`` counts updates; ``hessian`` is the last estimate, averaged over blocks. These are like the parameters.

    What comes of the curvature is at least float32.
    """

    step: PyTree
    exp_avg: PyTree
    exp_hessian_diag_sq: PyTree
    hessian: PyTree


class AdaHessianScalars(NamedTuple):
    lr: Numeric
    beta1: Beta
    beta2: Beta
    correction1: Numeric
    correction2: Numeric
    eps: Numeric
    power: Numeric


class AdaHessian(CurvatureRule):
    title = "AdaHessian"
    state = AdaHessianState
    complex_hint = "AdaHessian does not support complex parameters"
    decoupled_weight_decay = True

    lr: LearningRate
    betas: Betas
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decoupled decay"]
    hessian_power: HessianPower
    block_axes: Annotated[UnitAxes, "the dimensions over which to average the curvature"]
    maximize: Maximize
    axis_name: PyTree

    def init(self, param: Array, hyperparams: PyTree) -> AdaHessianState:
        return AdaHessianState(None, zeros_like(param), wide_zeros_like(param), wide_zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> AdaHessianScalars:
        beta1, beta2 = hyperparams.betas
        corrections = one_minus_power(beta1, step), one_minus_power(beta2, step)
        return AdaHessianScalars(hyperparams.lr, beta1, beta2, *corrections, hyperparams.eps, hyperparams.hessian_power)

    def refreshed(self, old: jax.Array, estimate: jax.Array, scalars: PyTree) -> jax.Array:
        del old, scalars
        size = jnp.abs(estimate)
        block = unit_axes(self.block_axes, size.shape, "adahessian: block_axes: the parameter")
        if not block:
            return size
        mean = sum_over_unit(size, block, self.split) / max(unit_size(size, block, self.split), 1)
        return jnp.broadcast_to(mean, size.shape)

    def update(
        self, grad: jax.Array, param: Array | None, slots: AdaHessianState, scalars: AdaHessianScalars
    ) -> tuple[jax.Array, AdaHessianState]:
        s = scalars
        exp_avg = average(slots.exp_avg, grad, s.beta1)
        square = average_of_squares(slots.exp_hessian_diag_sq, slots.hessian, s.beta2)
        denom = _power(sqrt(square / s.correction2), s.power) + s.eps
        return -s.lr * (exp_avg / s.correction1 / denom), AdaHessianState(None, exp_avg, square, slots.hessian)


def _power(root: jax.Array, exponent: Numeric) -> jax.Array:
    """Return ``root**exponent``, the root itself at 1, with a derivative of zero at a root of zero."""
    positive = root > 0
    safe = jnp.where(positive, root, 1)
    raised = jnp.where(positive, safe**exponent, jnp.where(exponent == 0, 1, 0).astype(root.dtype))
    return jnp.where((exponent == 1) | jnp.isnan(root), root, raised)


@explains_names
def adahessian(
    lr: Hyperparameter = 0.15,
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-4,
    weight_decay: Hyperparameter = 0.0,
    hessian_power: Hyperparameter = 1.0,
    update_period: Hyperparameter = 1.0,
    block_axes: PyTree = None,
    maximize: bool = False,
    seed: int = 0,
    estimator: Estimator | None = None,
    decay_mask: PyTree = None,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""AdaHessian, as in the authors' ``optim_adahessian.py``: Adam that divides by the curvature, not the gradient.

    With g the gradient (negated first if ``maximize``), D the last estimate of the Hessian's diagonal, and t the number
    of the update::

        H <- abs(D)
        H <- mean(abs(D))                                if block_axes
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * H**2
        p <- p - lr * weight_decay * p - lr / (1 - beta1**t) * m / (sqrt(v / (1 - beta2**t))**hessian_power + eps)

    **The curvature.** ``update(grads, state, params, curvature_fn=f)`` calls ``f(params, key)`` at the updates t with
    ``(t - 1) % update_period == 0``, and only there, without compiling anew; in between H stays. Use
    ``f = functools.partial(fo.hutchinson, loss)``. Further arguments of ``f`` are keywords of ``update``:
    ``curvature_fn=f, x=x, y=y`` calls ``f(params, key, x=x, y=y)``. Or pass the estimate itself,
    ``curvature=tree``, which is used at this update; None in it leaves a parameter's as it is, and ``curvature=False``
    all. The key of the update t is ``jax.random.fold_in(jax.random.key(seed), t)``, so a run that is resumed draws what
    it would have drawn. In the torch face ``step(closure)`` does it all.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decoupled weight decay, at least 0. ``update`` needs ``params`` unless it is
            the number 0.
        hessian_power: the exponent of the root of the second moment, in [0, 1]; 0 is momentum.
        update_period: how many steps an estimate serves, at least 1; its fraction is left out.
        block_axes: the dimensions over which to average the curvature: an integer, a tuple, or a function of the shape
            that returns one; None for no average. The authors average over a convolution kernel's spatial dimensions:
            ``lambda shape: (0, 1) if len(shape) == 4 else ()`` in JAX's layout (height, width, in, out), and ``(2, 3)``
            in torch's. Nothing tells the two layouts apart, so there is no such default.
        maximize: whether to ascend. The curvature's sign does not matter.
        seed: of the estimator's keys, an integer of at least 0.
        estimator: the function that ``curvature_fn`` replaces, if ``update`` should not need it.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.
        axis_name: inside ``shard_map``, needed for ``block_axes``: the tree of the parameters' PartitionSpecs; see
            :mod:`functorch_optim.axes`.

    Returns:
        A transformation with the state :class:`AdaHessianState`.

    Raises:
        ValueError: an option outside its range; from ``update``, the curvature or ``params`` is missing, or a parameter
            has not the dimensions that ``block_axes`` names. RuntimeError: a complex parameter. TypeError: ``seed`` is
            no integer, ``estimator`` no function.

    Source: Yao et al., "ADAHESSIAN: An Adaptive Second Order Optimizer for Machine Learning", 2021. The estimate that
    stays for several steps is that of ``update_each`` in davda54's ``ada_hessian.py``.

    Example:
        >>> import functools
        >>> import functorch_optim as fo
        >>> loss = lambda params: jnp.sum(jnp.array([1.0, 100.0]) * params**2) / 2
        >>> tx, params = adahessian(lr=0.1, eps=0.0), jnp.array([1.0, 1.0])
        >>> curvature = functools.partial(fo.hutchinson, loss)
        >>> updates, state = tx.update(jax.grad(loss)(params), tx.init(params), params, curvature_fn=curvature)
        >>> [round(x, 4) for x in updates.tolist()], state.hessian.tolist()  # a tenth of Newton's step
        ([-0.1, -0.1], [1.0, 100.0])
    """
    if block_axes is None and axis_name is None:
        axis_name = ()  # it looks at single entries only
    rule = AdaHessian(
        lr=lr,
        betas=betas,
        eps=eps,
        weight_decay=weight_decay,
        hessian_power=hessian_power,
        update_period=update_period,
        block_axes=as_unit_axes(block_axes, "adahessian"),
        maximize=maximize,
        seed=seed,
        estimator=estimator,
        axis_name=axes.as_axes(axis_name, "adahessian"),
    )
    return transformation(Curved(rule, None if decay_mask is None else as_mask("decay_mask", decay_mask)))
