"""Sophia: momentum divided by an average of the curvature, and clipped."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable, transformation
from functorch_optim.core.curved import CurvatureRule, Curved, Estimator
from functorch_optim.core.numerics import average, wide_zeros_like, zeros_like
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

SophiaRho = Annotated[
    Hyperparameter,
    Option("Invalid rho parameter at index 1: {}", low=0.0),
    "factor of the curvature: the larger, the fewer entries are clipped",
]


@exportable
class SophiaState(NamedTuple):
    """``step`` counts updates; ``hessian`` is the average of the estimates, at least float32."""

    step: PyTree
    exp_avg: PyTree
    hessian: PyTree


class SophiaScalars(NamedTuple):
    lr: Numeric
    beta1: Beta
    rho: Numeric
    eps: Numeric


class Sophia(CurvatureRule):
    title = "Sophia"
    state = SophiaState
    complex_hint = "Sophia does not support complex parameters"
    decoupled_weight_decay = True

    lr: LearningRate
    betas: Annotated[Betas, "decay rates of the averages of gradient and curvature"]
    rho: SophiaRho
    eps: Epsilon
    weight_decay: Annotated[WeightDecay, "coefficient of the decoupled decay"]
    maximize: Maximize

    def init(self, param: Array, hyperparams: PyTree) -> SophiaState:
        return SophiaState(None, zeros_like(param), wide_zeros_like(param))

    def scalars(self, step: Numeric, hyperparams: PyTree) -> SophiaScalars:
        return SophiaScalars(hyperparams.lr, hyperparams.betas[0], hyperparams.rho, hyperparams.eps)

    def refresh_scalars(self, hyperparams: PyTree) -> Beta:
        return hyperparams.betas[1]

    def refreshed(self, old: jax.Array, estimate: jax.Array, scalars: Beta) -> jax.Array:
        return average(old, estimate, scalars)

    def update(
        self, grad: jax.Array, param: Array | None, slots: SophiaState, scalars: SophiaScalars
    ) -> tuple[jax.Array, SophiaState]:
        exp_avg = average(slots.exp_avg, grad, scalars.beta1)
        denom = scalars.rho * jnp.maximum(slots.hessian, 0) + scalars.eps
        clipped = jnp.abs(exp_avg) >= denom  # not where either is NaN
        move = jnp.where(clipped, jnp.sign(exp_avg), exp_avg / jnp.where(clipped, 1, denom))
        return -scalars.lr * move, SophiaState(None, exp_avg, slots.hessian)


@explains_names
def sophia(
    lr: Hyperparameter = 1e-4,
    betas: tuple[BetaOption, BetaOption] = (0.965, 0.99),
    rho: Hyperparameter = 0.04,
    weight_decay: Hyperparameter = 0.1,
    update_period: Hyperparameter = 10.0,
    eps: Hyperparameter = 1e-15,
    maximize: bool = False,
    seed: int = 0,
    estimator: Estimator | None = None,
    decay_mask: PyTree = None,
) -> GradientTransformation:
    r"""Sophia, as in the authors' ``sophia.py``: momentum over curvature, with no entry larger than ``lr``.

    With g the gradient (negated first if ``maximize``), and d an estimate of the curvature::

        m <- beta1 * m + (1 - beta1) * g
        h <- beta2 * h + (1 - beta2) * d                 if there is an estimate
        p <- p - lr * weight_decay * p - lr * clip(m / (rho * max(h, 0) + eps), -1, 1)

    Where the curvature is zero or negative, the step is ``lr * sign(m)``.

    **The curvature.** ``update(grads, state, params, curvature_fn=f)`` calls ``f(params, key)`` at the updates t with
    ``(t - 1) % update_period == 0``, and only there, without compiling anew. With the model's logits as a function,
    ``f = functools.partial(fo.gauss_newton_bartlett, logits_fn)`` is Sophia-G; with the loss,
    ``f = functools.partial(fo.hutchinson, loss)`` is Sophia-H, for which the paper takes ``rho=0.01`` and
    ``betas=(0.96, 0.99)``. Further arguments of ``f`` are keywords of ``update``: ``curvature_fn=f, x=x`` calls
    ``f(params, key, x=x)``. Or pass the estimate itself, ``curvature=tree``, which is used at this update; None in it
    leaves a parameter's average as it is, and ``curvature=False`` all. The key of the update t is
    ``jax.random.fold_in(jax.random.key(seed), t)``, so a run that is resumed draws what it would have drawn.

    The authors' ``bs`` is the factor B of the estimator here: where they average g**2 over batches of B labels and
    divide by ``rho * bs * h``, the average here is of ``B * g**2``. Their training script has its first estimate after
    ``update_period`` updates; the paper, and we, at the first.

    Args:
        lr: learning rate, at least 0; like every number here, a Python number, a scalar array or a schedule.
        betas: decay rates of the averages of gradient and curvature, each in [0, 1).
        rho: factor of the curvature, at least 0; the larger, the fewer entries are clipped.
        weight_decay: coefficient of the decoupled weight decay, at least 0. ``update`` needs ``params`` unless it is
            the number 0 and the curvature is given.
        update_period: how many steps an estimate serves, at least 1; its fraction is left out.
        eps: added to the denominator, at least 0.
        maximize: whether to ascend. The curvature stays as it is, as in the authors' code: for Sophia-H give that of
            the negated objective.
        seed: of the estimator's keys, an integer of at least 0.
        estimator: the function that ``curvature_fn`` replaces, if ``update`` should not need it.
        decay_mask: where to decay, a mask as in :func:`functorch_optim.masked`.

    Returns:
        A transformation with the state :class:`SophiaState`.

    Raises:
        ValueError: an option outside its range; from ``update``, the curvature or ``params`` is missing.
        RuntimeError: a complex parameter. TypeError: ``seed`` is no integer, ``estimator`` no function.

    Source: Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training", 2023.

    Example:
        >>> import functools
        >>> import functorch_optim as fo
        >>> loss = lambda params: jnp.sum(jnp.array([-1.0, 100.0]) * params**2) / 2
        >>> tx, params = sophia(lr=0.1, betas=(0.0, 0.0), rho=2.0, weight_decay=0.0), jnp.array([1.0, 1.0])
        >>> curvature = functools.partial(fo.hutchinson, loss)
        >>> updates, state = tx.update(jax.grad(loss)(params), tx.init(params), params, curvature_fn=curvature)
        >>> [round(x, 4) for x in updates.tolist()]  # clipped; half of Newton's step
        [0.1, -0.05]
    """
    rule = Sophia(
        lr=lr,
        betas=betas,
        rho=rho,
        eps=eps,
        weight_decay=weight_decay,
        update_period=update_period,
        maximize=maximize,
        seed=seed,
        estimator=estimator,
    )
    return transformation(Curved(rule, None if decay_mask is None else as_mask("decay_mask", decay_mask)))
