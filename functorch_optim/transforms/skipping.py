"""Skip bad updates: a gradient that is not finite or too large, or a spike in the loss."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import axes
from functorch_optim.base import Frozen, GradientTransformation, exportable, transformation
from functorch_optim.combinators import current_hyperparams
from functorch_optim.core.numerics import next_step
from functorch_optim.core.options import Options
from functorch_optim.hyperparams import Hyperparameter, NonNegative, as_count
from functorch_optim.norms import any_entry, norm_of
from functorch_optim.objectives import value_in
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.conditional import Skip
from functorch_optim.typing import PyTree


@exportable
class SkipNonfiniteState(NamedTuple):
    """``step`` counts updates, ``consecutive`` the non-finite since the last finite one, ``total`` all non-finite."""

    step: PyTree
    consecutive: PyTree
    total: PyTree
    inner: PyTree


@exportable
class SkipLargeUpdatesState(NamedTuple):
    """``step`` counts updates, ``consecutive`` the large ones since the last small one, ``total`` all large ones."""

    step: PyTree
    consecutive: PyTree
    total: PyTree
    inner: PyTree


@exportable
class SkipSpikesState(NamedTuple):
    """``losses`` and ``norms`` are ring buffers: value k of the ``recorded`` values is at index ``k % window``.

    The buffer of what is not watched is None. ``step`` counts updates, ``consecutive`` the spikes since the last
    ordinary one, ``total`` all spikes.
    """

    step: PyTree
    recorded: PyTree
    consecutive: PyTree
    total: PyTree
    losses: PyTree
    norms: PyTree
    inner: PyTree


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)


def _is_nonfinite(updates: PyTree, axis_name: axes.Labels | None, who: str) -> jax.Array:
    """Whether a gradient is not finite, on any device."""
    return any_entry(lambda x: ~jnp.isfinite(x), updates, axis_name, who)


def _is_large(updates: PyTree, max_norm: Any, axis_name: axes.Labels | None, who: str) -> jax.Array:
    """Whether the norm of all gradients is above ``max_norm``, or NaN."""
    norm = norm_of(updates, axis_name, who)
    return ~(norm <= jnp.asarray(max_norm, norm.dtype))


class IfNonfinite(Frozen):
    axis_name: axes.Labels | None

    def __call__(self, updates: PyTree, params: PyTree, step: PyTree) -> jax.Array:
        del params, step
        return _is_nonfinite(updates, self.axis_name, self._call_name())


@explains_names
def if_nonfinite(axis_name: PyTree = None) -> IfNonfinite:
    """Build ``skip`` for :func:`functorch_optim.accumulate`: leave out gradients with an infinity or a NaN.

    Args:
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Example:
        >>> if_nonfinite()({"w": jnp.array([1.0, jnp.nan])}, None, 0).item()
        True
    """
    return IfNonfinite(axes.as_axes(axis_name, "if_nonfinite"))


class IfLarge(Options):
    max_norm: NonNegative
    axis_name: axes.Labels | None

    def __call__(self, updates: PyTree, params: PyTree, step: PyTree) -> jax.Array:
        del params
        return _is_large(updates, self.at(step).max_norm, self.axis_name, self._call_name())


@explains_names
def if_large(max_norm: Hyperparameter, axis_name: PyTree = None) -> IfLarge:
    """Build ``skip`` for :func:`functorch_optim.accumulate`: leave out gradients whose norm is above ``max_norm``.

    The norm is that of all gradients together. A NaN norm counts as large.

    Args:
        max_norm: at least 0; a number, a scalar array or a schedule of the number of inner updates.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Example:
        >>> [if_large(5.0)({"w": jnp.array([3.0, y])}, None, 0).item() for y in (4.0, 5.0)]
        [False, True]
    """
    return IfLarge(max_norm, axes.as_axes(axis_name, "if_large"))


class SkipNonfinite(Skip):
    axis_name: axes.Labels | None

    def init(self, params: PyTree) -> SkipNonfiniteState:
        return SkipNonfiniteState(_zero(), _zero(), _zero(), self.inner.init(params))

    def judge(self, updates: PyTree, state: PyTree, extra: Mapping[str, PyTree]) -> tuple[jax.Array, PyTree]:
        del extra
        return _is_nonfinite(updates, self.axis_name, "skip_nonfinite"), state


@explains_names
def skip_nonfinite(
    inner: GradientTransformation, max_consecutive: int, axis_name: PyTree = None
) -> GradientTransformation:
    """Skip an update whose gradient holds an infinity or a NaN: only the counters change.

    After ``max_consecutive`` such gradients in a row the next one passes, so that a diverged run fails visibly instead
    of standing still. ``inner`` runs under ``lax.cond``, so its updates are written to memory of their own before they
    are added: on the CPU a step of AdamW alone takes 2.3 to 3 times as long.

    Args:
        inner: the transformation to guard.
        max_consecutive: how many non-finite gradients in a row to skip, at least 0.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`. If one
            shard is not finite, no shard is updated.

    Raises:
        ValueError: ``max_consecutive`` is not an integer of at least 0; ``inner`` contains
            :func:`functorch_optim.sam`, which applies another gradient (put the skip inside it); from ``update``,
            inside ``shard_map`` without ``axis_name``, a gradient varies or may vary over the mesh.

    Example:
        >>> import functorch_optim as fo
        >>> tx = skip_nonfinite(fo.sgd(lr=1.0), max_consecutive=3)
        >>> params = jnp.array([1.0])
        >>> updates, state = tx.update(jnp.array([jnp.nan]), tx.init(params), params)
        >>> fo.apply_updates(params, updates).item(), state.total.item()
        (1.0, 1)
    """
    return transformation(SkipNonfinite(inner, max_consecutive, axes.as_axes(axis_name, "skip_nonfinite")))


class SkipLargeUpdates(Skip):
    max_norm: NonNegative
    axis_name: axes.Labels | None

    def init(self, params: PyTree) -> SkipLargeUpdatesState:
        return SkipLargeUpdatesState(_zero(), _zero(), _zero(), self.inner.init(params))

    def judge(self, updates: PyTree, state: PyTree, extra: Mapping[str, PyTree]) -> tuple[jax.Array, PyTree]:
        del extra
        return _is_large(updates, self.at(state.step).max_norm, self.axis_name, "skip_large_updates"), state

    def hyperparams(self, state: PyTree) -> dict[Any, PyTree]:
        return {**current_hyperparams(self.inner, state.inner), **self.hyperparams_at(state.step)}


@explains_names
def skip_large_updates(
    inner: GradientTransformation, max_norm: Hyperparameter, max_consecutive: int, axis_name: PyTree = None
) -> GradientTransformation:
    """Skip an update whose gradients together have a Euclidean norm above ``max_norm``: only the counters change.

    A norm that is infinite or NaN is too large as well. After ``max_consecutive`` such gradients in a row the next one
    passes. It costs what :func:`skip_nonfinite` costs.

    Args:
        inner: the transformation to guard.
        max_norm: at least 0; a number, a scalar array or a schedule of the number of updates.
        max_consecutive: how many large gradients in a row to skip, at least 0.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Returns:
        A transformation with the state :class:`SkipLargeUpdatesState`.

    Raises:
        ValueError: an option is out of range; ``inner`` contains :func:`functorch_optim.sam`; from ``update``, inside
            ``shard_map`` without ``axis_name``, a gradient varies or may vary over the mesh.

    Source: ``optax.skip_large_updates``, a condition for ``optax.MultiSteps``. It takes the square of the norm, skips a
    norm of exactly the limit too, and never gives up.

    Example:
        >>> import functorch_optim as fo
        >>> tx = skip_large_updates(fo.sgd(lr=1.0), max_norm=10.0, max_consecutive=3)
        >>> params = jnp.array([1.0])
        >>> updates, state = tx.update(jnp.array([100.0]), tx.init(params), params)
        >>> fo.apply_updates(params, updates).item(), state.consecutive.item()
        (1.0, 1)
    """
    axis = axes.as_axes(axis_name, "skip_large_updates")
    return transformation(SkipLargeUpdates(inner, max_consecutive, max_norm, axis))


class SkipSpikes(Skip):
    window: int
    factor: NonNegative
    of: str
    axis_name: axes.Labels | None

    _NAMES: ClassVar[dict[str, tuple[str, ...]]] = {
        "loss": ("losses",),
        "norm": ("norms",),
        "both": ("losses", "norms"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "window", as_count("skip_spikes: window", self.window, 2))
        if self.of not in self._NAMES:
            raise ValueError(f"skip_spikes: of must be {' or '.join(map(repr, self._NAMES))}, but it is {self.of!r}")

    def judges_gradient(self) -> bool:
        return self.of != "loss"

    def init(self, params: PyTree) -> SkipSpikesState:
        windows = {name: jnp.zeros((self.window,), jnp.result_type(float)) for name in self._NAMES[self.of]}
        empty = SkipSpikesState(_zero(), _zero(), _zero(), _zero(), None, None, self.inner.init(params))
        return empty._replace(**windows)

    def judge(self, updates: PyTree, state: PyTree, extra: Mapping[str, PyTree]) -> tuple[jax.Array, PyTree]:
        seen = {name: self._seen(name, updates, extra) for name in self._NAMES[self.of]}
        windows = {name: getattr(state, name) for name in seen}
        factor, known = self.at(state.recorded).factor, state.recorded >= max(2, self.window // 2)
        bad, finite = jnp.asarray(False), jnp.asarray(True)
        for name, value in seen.items():
            bad |= known & (value > _limit(windows[name], state.recorded, factor))
            finite &= jnp.isfinite(value)
        place = state.recorded % self.window
        after = {name: jnp.where(finite, window.at[place].set(seen[name]), window) for name, window in windows.items()}
        recorded = jnp.where(finite, next_step(state.recorded), state.recorded)
        return bad | ~finite, state._replace(recorded=recorded, **after)

    def _seen(self, name: str, updates: PyTree, extra: Mapping[str, PyTree]) -> jax.Array:
        """Return the new value for a buffer."""
        if name == "norms":
            return norm_of(updates, self.axis_name, "skip_spikes").astype(jnp.result_type(float))
        value = value_in(extra, "skip_spikes", ', or watch the norm of the gradients with of="norm"')
        apart = axes.varying(value)
        if apart and self.axis_name != axes.as_axes((), "skip_spikes"):
            raise ValueError(
                f"skip_spikes: the loss varies over the axis {', '.join(map(repr, sorted(apart)))} of shard_map, but "
                "all devices must skip together: pass jax.lax.pmean of it"
            )
        return value.astype(jnp.result_type(float))

    def hyperparams(self, state: PyTree) -> dict[Any, PyTree]:
        return {**current_hyperparams(self.inner, state.inner), **self.hyperparams_at(state.recorded)}

    def needs(self) -> frozenset[str]:
        return super().needs() | (frozenset() if self.of == "norm" else frozenset({"value"}))


def _limit(window: jax.Array, recorded: jax.Array, factor: Any) -> jax.Array:
    """Compute the mean plus ``factor`` standard deviations of the window."""
    number = jnp.minimum(recorded, window.size)
    held = jnp.arange(window.size, dtype=jnp.int32) < number
    divisor = jnp.maximum(number, 2).astype(window.dtype)  # with fewer than 2 values the caller ignores the limit
    mean = jnp.sum(jnp.where(held, window, 0)) / divisor
    variance = jnp.sum(jnp.where(held, (window - mean) ** 2, 0)) / (divisor - 1)
    # Rounding alone must not turn equal values into a spike.
    deviation = jnp.maximum(jnp.sqrt(variance), jnp.finfo(window.dtype).eps * jnp.abs(mean))
    return mean + jnp.asarray(factor, window.dtype) * deviation


@explains_names
def skip_spikes(
    inner: GradientTransformation,
    window: int = 128,
    factor: Hyperparameter = 6.0,
    max_consecutive: int = 10,
    of: str = "loss",
    axis_name: PyTree = None,
) -> GradientTransformation:
    """Skip an update at which the loss, or the norm of the gradients, is far above its recent values.

    With the mean m and the standard deviation s (the sum of squares divided by n - 1) of the last ``window`` values
    before this one, the update is skipped if::

        value > m + factor * s

    or if the value is not finite. Every finite value enters the window, also that of a skipped update, so that a run
    whose loss stays high goes on. Nothing but a value that is not finite is skipped before half of the window, and at
    least 2 values, are known. After ``max_consecutive`` spikes in a row the next update runs. It costs what
    :func:`skip_nonfinite` costs.

    Args:
        inner: the transformation to guard.
        window: how many values to keep, at least 2.
        factor: at least 0; a number, a scalar array or a schedule of the number of recorded values.
        max_consecutive: how many spikes in a row to skip, at least 0.
        of: what to watch: ``"loss"``, which you pass as ``update(grads, state, params, value=loss)``; ``"norm"``, the
            Euclidean norm of all gradients; or ``"both"``, which skips an update if either of them spikes.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`. The loss
            must be the same on all devices.

    Returns:
        A transformation with the state :class:`SkipSpikesState`.

    Raises:
        ValueError: an option is out of range; unless it watches the loss alone, ``inner`` contains
            :func:`functorch_optim.sam`; from ``update``, ``value`` is missing; inside ``shard_map``, ``value`` varies
            over the mesh, or without ``axis_name`` a gradient varies or may vary.

    Source: MaxText's ``skip_step_on_spikes`` and Levanter's ``SkipStepConfig``, which watch the loss and the norm. The
    mean and the deviation are MaxText's; Levanter divides by n, and keeps one more value. As in Levanter, the first
    values pass. Both also put values that are not finite into the window, and neither gives up after some spikes in a
    row.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = skip_spikes(fo.sgd(lr=1.0), window=4), jnp.array([0.0])
        >>> state, moves = tx.init(params), []
        >>> for loss in (3.0, 2.0, 3.0, 900.0, 2.5):
        ...     updates, state = tx.update(jnp.ones(1), state, params, value=loss)
        ...     moves.append(updates.item())
        >>> moves, state.total.item()
        ([-1.0, -1.0, -1.0, -0.0, -1.0], 1)
    """
    axis = axes.as_axes(axis_name, "skip_spikes")
    return transformation(SkipSpikes(inner, max_consecutive, window, factor, of, axis))
