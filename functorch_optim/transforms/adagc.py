"""AdaGC: clip each parameter's gradient to a bound that follows its own norms so far."""

from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, Transform, exportable, transformation
from functorch_optim.core.numerics import coefficient, next_step
from functorch_optim.core.options import Options
from functorch_optim.core.scalar_math import as_float
from functorch_optim.hyperparams import Beta, Decay, Hyperparameter, NonNegative, Option, PositiveEpsilon
from functorch_optim.norms import leaf_norms, norm_dtype, norm_of
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.scaling import multiply
from functorch_optim.typing import Numeric, PyTree

Positive = Annotated[Hyperparameter, Option("Invalid value, it must be positive: {}", low=0.0, open_low=True)]


@exportable
class AdaGCState(NamedTuple):
    """``step`` counts updates; ``gamma`` is a tree with the bound's norm of each parameter, infinite at first."""

    step: PyTree
    gamma: PyTree


class AdaGC(Options, Transform):
    lambda_rel: Positive
    lambda_abs: Positive
    beta: Decay
    warmup_steps: NonNegative
    eps: PositiveEpsilon
    axis_name: axes.Labels | None

    @classmethod
    def _call_name(cls) -> str:
        return "clip_by_adagc"

    def init(self, params: PyTree) -> AdaGCState:
        def bound(leaf: jax.Array) -> jax.Array:
            return jnp.full((), jnp.inf, norm_dtype(leaf))

        return AdaGCState(jnp.zeros((), jnp.int32), trees.map_arrays(bound, params))

    def update(
        self, updates: PyTree, state: AdaGCState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, AdaGCState]:
        del params, extra
        leaves = trees.align(state.gamma, updates, "gradients")
        who, values, step = self._call_name(), self.at(state.step), next_step(state.step)
        whole, norms = norm_of(updates, self.axis_name, who), leaf_norms(updates, self.axis_name, who)
        early = as_float(step) < values.warmup_steps
        bounds, treedef = jax.tree.flatten(state.gamma)
        results = [
            (leaf, bound)
            if trees.is_absent(leaf)
            else _clipped(values, leaf, norm.astype(bound.dtype), whole.astype(bound.dtype), bound, early)
            for leaf, norm, bound in zip(leaves, treedef.flatten_up_to(norms), bounds, strict=True)
        ]
        clipped, gamma = ([result[index] for result in results] for index in range(2))
        return treedef.unflatten(clipped), AdaGCState(step, treedef.unflatten(gamma))

    def hyperparams(self, state: AdaGCState) -> dict[str, PyTree]:
        return self.hyperparams_at(state.step)


def _clipped(
    values: PyTree, grad: jax.Array, norm: jax.Array, whole: jax.Array, gamma: jax.Array, early: Numeric
) -> tuple[jax.Array, jax.Array]:
    """Return a parameter's clipped gradient, and its next gamma; a gradient with a norm that is not finite passes."""
    relative, absolute, eps = (
        coefficient(value, gamma.dtype) for value in (values.lambda_rel, values.lambda_abs, values.eps)
    )
    share = Beta(*(coefficient(half, gamma.dtype) for half in values.beta))
    first = early | jnp.isinf(gamma)
    held = jnp.where(first, 0, gamma)
    bound = relative * jnp.maximum(held, eps) / jnp.maximum(norm, eps)
    factor = jnp.minimum(jnp.where(first, absolute / (whole + eps), bound), 1)
    after = factor * norm
    moved = jnp.where(first, jnp.minimum(gamma, after), share.complement * after + share.value * held)
    passes = ~(jnp.isfinite(norm) & jnp.isfinite(whole))
    return multiply(grad, jnp.where(passes, 1, factor)), jnp.where(passes, gamma, moved)


@explains_names
def clip_by_adagc(
    lambda_rel: Hyperparameter = 1.05,
    lambda_abs: Hyperparameter = 1.0,
    beta: Hyperparameter | Beta = 0.98,
    warmup_steps: Hyperparameter = 100,
    eps: Hyperparameter = 1e-8,
    axis_name: PyTree = None,
) -> GradientTransformation:
    """Clip each parameter's gradient to ``lambda_rel`` times the average of its clipped norms (AdaGC).

    With n the norm of a parameter's gradient g, N that of all gradients, and t the number of the update, before
    ``warmup_steps``::

        g <- min(lambda_abs / (N + eps), 1) * g
        gamma <- min(gamma, norm(g))

    and from then on::

        g <- min(lambda_rel * gamma / n, 1) * g
        gamma <- beta * gamma + (1 - beta) * norm(g)

    gamma is at first the first clipped norm. Both gamma and n count as at least eps. A gradient passes, and changes
    nothing, if its norm or N is not finite: put :func:`functorch_optim.skip_nonfinite` around the optimizer. The
    authors' AdaGC is ``fo.chain(fo.clip_by_adagc(), fo.adamw(...))``.

    Args:
        lambda_rel: above 0; the bound over the average.
        lambda_abs: above 0; the bound of all gradients together in the first updates.
        beta: in [0, 1]; decay rate of the average.
        warmup_steps: at least 0; the number of the first update with the relative bound.
        eps: above 0; the least norm to divide by.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Returns:
        A transformation with the state :class:`AdaGCState`.

    Raises:
        TypeError, ValueError: an option is not a number, or is out of range. ValueError, from ``update``: inside
            ``shard_map`` without ``axis_name``, a gradient varies or may vary over the mesh.

    Source: Wang et al., "AdaGC: Improving Training Stability for Large Language Model Pretraining", 2025;
    ``pytorch_optimizer``'s AdaGC, the defaults of which these are.

    Example:
        >>> tx = clip_by_adagc(warmup_steps=2)
        >>> state = tx.init(jnp.zeros(1))
        >>> for grad in (0.5, 8.0):
        ...     updates, state = tx.update(jnp.array([grad]), state)
        >>> round(updates.item(), 4)
        0.525
    """
    named = axes.as_axes(axis_name, "clip_by_adagc")
    return transformation(AdaGC(lambda_rel, lambda_abs, beta, warmup_steps, eps, named))
