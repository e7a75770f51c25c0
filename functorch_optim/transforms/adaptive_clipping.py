"""Clip to a bound that adapts to the run: to the parameters' norms, or to the norms of the gradients so far."""

from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, Transform, exportable, transformation
from functorch_optim.core.numerics import coefficient, lerp, next_step, sqrt
from functorch_optim.core.options import Options
from functorch_optim.hyperparams import Beta, Decay, Hyperparameter, NonNegative, Option, PositiveEpsilon, as_count
from functorch_optim.norms import bounded, norm_dtype, norm_of, squares
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.clipping import clip_coefficient
from functorch_optim.transforms.scaling import Scheduled, multiply, with_params
from functorch_optim.typing import PyTree
from functorch_optim.units import Shape, UnitAxes, as_unit_axes, sum_over_unit, unit_axes

Percentile = Annotated[Hyperparameter, Option("percentile should be in [0, 100] but is: {}", low=0.0, high=100.0)]


class AdaptiveGradClip(Scheduled):
    clipping: NonNegative
    eps: NonNegative
    axis: UnitAxes
    axis_name: axes.Labels | None

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        updates, params = with_params("adaptive_grad_clip", updates, params)
        names, leaves, treedef = trees.named_leaves(updates, none_is_leaf=True)
        splits = iter(axes.splits(self.axis_name, updates, "adaptive_grad_clip"))
        units = [
            None if trees.is_absent(leaf) else (self._unit(name, leaf.shape), next(splits))
            for name, leaf in zip(names, leaves, strict=True)
        ]

        def clip(update: jax.Array, param: jax.Array, unit: tuple[Shape, axes.Split]) -> jax.Array:
            dtype = trees.compute_dtype(update, param)
            norm, own = (sqrt(sum_over_unit(squares(x.astype(dtype)), *unit)) for x in (update, param))
            least = bounded(jnp.maximum(own, _constant(values.eps, norm)))
            bound = bounded(_constant(values.clipping, norm) * least)
            factor = jnp.where(norm < bound, 1, bound / jnp.maximum(norm, 1e-6))
            return (update.astype(dtype) * factor.astype(dtype)).astype(update.dtype)

        return trees.map_dense(clip, "adaptive_grad_clip", updates, params, treedef.unflatten(units))

    def _unit(self, name: str, shape: Shape) -> Shape:
        where = f"adaptive_grad_clip: the parameter {trees.quote(name)}"
        own = unit_axes(self.axis, shape, where)
        if own is not None:
            return own
        if sum(size != 1 for size in shape) <= 1:
            return tuple(range(len(shape)))
        if len(shape) > 5:
            raise ValueError(f"{where} has {len(shape)} dimensions: say with axis= which of them make up one unit")
        return (0,) if len(shape) < 4 else tuple(range(len(shape) - 1))


def _constant(value: Any, like: jax.Array) -> jax.Array:
    return jnp.asarray(coefficient(value, like.dtype))


@explains_names
def adaptive_grad_clip(
    clipping: Hyperparameter, eps: Hyperparameter = 1e-3, axis: PyTree = None, axis_name: PyTree = None
) -> GradientTransformation:
    """Scale the gradient of each unit, such as a neuron, to at most ``clipping`` times the norm of its weights.

    ``g * min(1, clipping * max(norm(p), eps) / norm(g))``, with norms over one unit; ``update`` needs ``params``. The
    divisor is at least 1e-6, as in optax, so that nothing is divided by zero: where the bound is below it, a larger
    gradient is scaled to less than the bound. If squares overflow (float32 entries of about 1e19), a gradient becomes
    zero, and the norm of weights counts as the largest finite number.

    By default units are those of JAX's layout, in which the output dimension is the last one:

    - scalars and vectors (also of shape ``(1, n)``): the whole array;
    - two dimensions ``(in, out)`` and three ``(in, heads, size)``: dimension 0;
    - kernels of convolutions, four dimensions ``(height, width, in, out)`` or five: all but the last.

    A kernel of a one-dimensional convolution, ``(width, in, out)``, has three dimensions too, and needs ``axis=(0, 1)``
    (use :func:`functorch_optim.partition` for several kinds). In torch's layout the output dimension is the first:
    ``axis=lambda shape: tuple(range(1, len(shape))) or None``.

    Args:
        clipping: at least 0, often 0.01 to 0.1; a number, a scalar array or a schedule.
        eps: at least 0; a lower bound on the norm of the weights, so that weights that start at zero can move.
        axis: the dimensions that make up one unit: an integer, a tuple, or a function of the shape that returns one,
            or None for the default.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs; see :mod:`functorch_optim.axes`.

    Raises:
        TypeError: ``axis`` is none of these. ValueError, from ``update``: there are no ``params``; a parameter has
            more than five dimensions, or does not have the one that ``axis`` names; inside ``shard_map`` without
            ``axis_name``, a gradient varies or may vary over the mesh.

    Source: Brock et al., "High-Performance Large-Scale Image Recognition Without Normalization", 2021;
    ``optax.adaptive_grad_clip``.

    Example:
        >>> tx = adaptive_grad_clip(0.5)
        >>> params, grads = jnp.array([[1.0, 4.0]] * 4), jnp.array([[2.0, 2.0]] * 4)
        >>> tx.update(grads, tx.init(params), params)[0][0].tolist()
        [0.5, 2.0]
    """
    named = axes.as_axes(axis_name, "adaptive_grad_clip")
    return transformation(AdaptiveGradClip(clipping, eps, as_unit_axes(axis, "adaptive_grad_clip"), named))


# The least standard deviation, as a share of the mean. A clipped norm of nearly equal ones would barely raise the mean,
# nor the deviation, and so all later norms would be clipped.
_LEAST_DEVIATION = 0.01


@exportable
class ClipByZscoreState(NamedTuple):
    """``step`` counts updates, ``n_norms`` those in the statistics: ``mean`` and ``variance`` of the clipped norms."""

    step: PyTree
    n_norms: PyTree
    mean: PyTree
    variance: PyTree


class ClipByZscore(Options, Transform):
    entrywise: ClassVar[bool] = True

    z: NonNegative
    decay: Decay
    warmup: int
    eps: PositiveEpsilon
    axis_name: axes.Labels | None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "warmup", as_count("clip_by_zscore: warmup", self.warmup, 2))

    def init(self, params: PyTree) -> ClipByZscoreState:
        mean, variance = (jnp.zeros((), norm_dtype(params)) for _ in range(2))
        return ClipByZscoreState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), mean, variance)

    def update(
        self, updates: PyTree, state: ClipByZscoreState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, ClipByZscoreState]:
        del params, extra
        norm = norm_of(updates, self.axis_name, "clip_by_zscore")
        is_spike, target = self._find_spike(state, norm)
        factor = jnp.where(is_spike, clip_coefficient(norm, target.astype(norm.dtype)), 1)
        updates = trees.map_dense(lambda x: multiply(x, factor), "clip_by_zscore", updates)
        return updates, self._record(state, jnp.where(is_spike, target, norm.astype(target.dtype)))

    def norm_after(self, state: ClipByZscoreState, norm: jax.Array) -> jax.Array:
        is_spike, target = self._find_spike(state, norm)
        return jnp.where(is_spike, target.astype(norm.dtype), norm)

    def _find_spike(self, state: ClipByZscoreState, norm: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Decide whether to clip, and to what norm."""
        values, std = self.at(state.step), jnp.maximum(sqrt(state.variance), _LEAST_DEVIATION * state.mean)
        bound, eps = (_constant(value, std) for value in (values.z, values.eps))
        score = (norm.astype(std.dtype) - state.mean) / (std + eps)
        is_spike = (state.n_norms >= self.warmup) & (score > bound) & jnp.isfinite(norm)
        return is_spike, state.mean + bound * bound / jnp.where(is_spike, score, 1) * std

    def _record(self, state: ClipByZscoreState, norm: jax.Array) -> ClipByZscoreState:
        """Compute the state after an update whose clipped norm is ``norm``."""
        n_norms = next_step(state.n_norms)
        count, is_late = n_norms.astype(norm.dtype), n_norms > self.warmup
        decay = self.at(state.step).decay
        pairs = zip(decay, (1 - 1 / count, 1 / count), strict=True)
        share = Beta(*(jnp.where(is_late, _constant(later, norm), first) for later, first in pairs))
        mean = lerp(state.mean, norm, share)
        spread = (norm - jnp.where(is_late, mean, state.mean)) * (norm - mean)  # during the warmup it is Welford's rule
        after = n_norms, mean, lerp(state.variance, spread, share)
        enters = jnp.isfinite(norm) & ((norm > 0) | (state.n_norms > 0))  # zeros at the start tell nothing
        kept = [jnp.where(enters, new, old) for new, old in zip(after, state[1:], strict=True)]
        return ClipByZscoreState(next_step(state.step), *kept)

    def hyperparams(self, state: ClipByZscoreState) -> dict[str, PyTree]:
        return self.hyperparams_at(state.step)


@explains_names
def clip_by_zscore(
    z: Hyperparameter = 2.5,
    decay: Hyperparameter | Beta = 0.97,
    warmup: int = 25,
    eps: Hyperparameter = 1e-6,
    axis_name: PyTree = None,
) -> GradientTransformation:
    """Clip spikes: gradients whose norm is far above the recent ones, measured in standard deviations (ZClip).

    With n the norm of the whole gradient, mean that of the recent norms, and std their standard deviation, but at least
    0.01 * mean::

        score = (n - mean) / (std + eps)
        target = mean + z**2 / score * std
        g <- target / n * g                         if score > z

    So the larger the spike, the closer the target is to the mean (the paper's reciprocal rule). Then the clipped norm m
    enters the statistics::

        mean = decay * mean + (1 - decay) * m
        std**2 = decay * std**2 + (1 - decay) * (m - mean)**2

    The first ``warmup`` gradients are not clipped; the first mean and variance are theirs. To bound these and ordinary
    gradients too, put :func:`functorch_optim.clip_by_global_norm` after it. A gradient with a non-finite norm passes,
    and does not enter the statistics, nor do zero gradients before the first other one.

    The bound follows norms that grow by up to 0.002 of their size per update. If they rise at once to another level,
    they are clipped for a long time: at twice the old level, for up to 16 thousand updates.

    Args:
        z: at least 0; how many standard deviations a norm may lie above the mean.
        decay: in [0, 1]; decay rate of the statistics.
        warmup: at least 2; the number of gradients from which the first statistics are taken.
        eps: above 0; added to the standard deviation.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Returns:
        A transformation with the state :class:`ClipByZscoreState`.

    Raises:
        TypeError, ValueError: an option is not a number, or is out of range. ValueError, from ``update``: inside
            ``shard_map`` without ``axis_name``, a gradient varies or may vary over the mesh.

    Source: Kumar et al., "ZClip: Adaptive Spike Mitigation for LLM Pre-Training", 2025. The authors' code has no least
    std: there, after equal norms every larger one is clipped to their mean, for ever.

    Example:
        >>> tx = clip_by_zscore(warmup=3)
        >>> state = tx.init(jnp.zeros(1))
        >>> for grad in (0.75, 1.0, 1.25, 100.0):
        ...     updates, state = tx.update(jnp.array([grad]), state)
        >>> 1.0 < updates.item() < 1.01
        True
    """
    return transformation(ClipByZscore(z, decay, warmup, eps, axes.as_axes(axis_name, "clip_by_zscore")))


@exportable
class ClipByPercentileState(NamedTuple):
    """``step`` counts updates, ``n_norms`` the finite norms; ``norms`` is a ring buffer of the last ones."""

    step: PyTree
    n_norms: PyTree
    norms: PyTree


class ClipByPercentile(Options, Transform):
    entrywise: ClassVar[bool] = True

    percentile: Percentile
    history: int
    axis_name: axes.Labels | None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "history", as_count("clip_by_percentile: history", self.history, 1))

    def init(self, params: PyTree) -> ClipByPercentileState:
        norms = jnp.zeros(self.history, norm_dtype(params))
        return ClipByPercentileState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32), norms)

    def update(
        self, updates: PyTree, state: ClipByPercentileState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, ClipByPercentileState]:
        del params, extra
        norm = norm_of(updates, self.axis_name, "clip_by_percentile")
        after = self._record(state, norm)
        factor = clip_coefficient(norm, self._threshold(after, self.at(state.step)).astype(norm.dtype))
        factor = jnp.where(jnp.isfinite(norm), factor, 1)
        return trees.map_dense(lambda x: multiply(x, factor), "clip_by_percentile", updates), after

    def norm_after(self, state: ClipByPercentileState, norm: jax.Array) -> jax.Array:
        threshold = self._threshold(self._record(state, norm), self.at(state.step)).astype(norm.dtype)
        return jnp.where(jnp.isfinite(norm), jnp.minimum(norm, threshold), norm)

    def _record(self, state: ClipByPercentileState, norm: jax.Array) -> ClipByPercentileState:
        """Compute the state after an update with this norm."""
        finite = jnp.isfinite(norm)
        place = state.n_norms % self.history
        new = state.norms.at[place].set(jnp.where(finite, norm.astype(state.norms.dtype), state.norms[place]))
        n_norms = jnp.where(finite, next_step(state.n_norms), state.n_norms)
        return ClipByPercentileState(next_step(state.step), n_norms, new)

    def _threshold(self, state: ClipByPercentileState, values: Any) -> jax.Array:
        """Compute the percentile of the norms, interpolated as in NumPy."""
        count = jnp.clip(state.n_norms, 1, self.history)
        ordered = jnp.sort(jnp.where(jnp.arange(self.history, dtype=count.dtype) < count, state.norms, jnp.inf))
        place = _constant(values.percentile, ordered) / 100 * (count - 1).astype(ordered.dtype)
        below = jnp.floor(place)
        index = below.astype(count.dtype)
        low, high = ordered[index], ordered[jnp.minimum(index + 1, count - 1)]
        return low + (place - below) * (high - low)

    def hyperparams(self, state: ClipByPercentileState) -> dict[str, PyTree]:
        return self.hyperparams_at(state.step)


@explains_names
def clip_by_percentile(
    percentile: Hyperparameter = 10.0, history: int = 1000, axis_name: PyTree = None
) -> GradientTransformation:
    """Scale all gradients together so that their norm is at most a percentile of the norms so far (AutoClip).

    ``g * min(1, threshold / (norm + 1e-6))``, where ``threshold`` is the ``percentile``-th percentile of the last
    ``history`` norms, this one included, with NumPy's linear interpolation. A gradient with a non-finite norm passes,
    and does not enter the history.

    Args:
        percentile: in [0, 100]; a number, a scalar array or a schedule. At 10, the paper's choice, nine of ten
            gradients are clipped.
        history: at least 1; how many norms to remember. The paper remembers all.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Returns:
        A transformation with the state :class:`ClipByPercentileState`.

    Raises:
        TypeError, ValueError: an option is not a number, or is out of range. ValueError, from ``update``: inside
            ``shard_map`` without ``axis_name``, a gradient varies or may vary over the mesh.

    Source: Seetharaman et al., "AutoClip: Adaptive Gradient Clipping for Source Separation Networks", 2020.

    Example:
        >>> tx = clip_by_percentile(50.0)
        >>> state = tx.init(jnp.zeros(1))
        >>> for grad in (1.0, 2.0, 3.0):
        ...     updates, state = tx.update(jnp.array([grad]), state)
        >>> round(updates.item(), 4)
        2.0
    """
    return transformation(ClipByPercentile(percentile, history, axes.as_axes(axis_name, "clip_by_percentile")))
