"""Parameter averages as the last link of a chain, and how to read them out."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.typing import DTypeLike

from functorch_optim import trees
from functorch_optim.alike import beside, kept
from functorch_optim.base import GradientTransformation, Transform, add_update, exportable
from functorch_optim.combinators import find_state
from functorch_optim.core.numerics import lerp, next_step
from functorch_optim.core.options import Options
from functorch_optim.effects import Effects, Kind, Leaves
from functorch_optim.hyperparams import Beta, as_count
from functorch_optim.typing import Numeric, PyTree


@exportable
class AverageState(NamedTuple):
    """The state of an average.

    ``step`` counts updates, ``n_averaged`` those averaged into ``average``. If it started at zeros, ``weight`` is the
    parameters' share of it; ``trained`` holds the parameters while they are swapped.
    """

    step: PyTree
    n_averaged: PyTree
    average: PyTree
    weight: PyTree = None
    trained: PyTree = None


class Average(Options, Transform):
    """Base class of averages; a subclass defines how much of the average to keep."""

    entrywise: ClassVar[bool] = True

    start_step: int
    every: int
    dtype: DTypeLike | None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "start_step", as_count("start_step", self.start_step, 0))
        object.__setattr__(self, "every", as_count("every", self.every, 1))
        if self.dtype is not None:
            object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
            if not jnp.issubdtype(self.dtype, jnp.floating):
                raise TypeError(f"dtype must be a floating one, but it is {self.dtype}")

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effect(Kind.FOLLOWS, at)

    def keep(self, n_averaged: Numeric) -> Beta:
        """Return the share of the average to keep when parameters enter after ``n_averaged`` earlier ones."""
        raise NotImplementedError(f"{type(self).__name__} does not define keep")  # abstract: every subclass does

    @property
    def from_zero(self) -> bool:
        """Whether the average starts at zeros, whose share is removed on reading."""
        return False

    def init(self, params: PyTree) -> AverageState:
        count, first = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        names, leaves, treedef = trees.named_leaves(params)
        for name, leaf in zip(names, leaves, strict=True):
            trees.check_parameter(name, leaf)
        empty = [beside(leaf, jnp.zeros_like(leaf, dtype=self._dtype_of(leaf))) for leaf in leaves]
        average = treedef.unflatten(empty)
        return AverageState(first, count, average, jnp.zeros((), jnp.result_type(float)) if self.from_zero else None)

    def _dtype_of(self, param: PyTree) -> DTypeLike:
        wide = trees.compute_dtype(param) if self.dtype is None else self.dtype
        if jnp.issubdtype(param.dtype, jnp.complexfloating) and self.dtype is not None:
            return jnp.dtype(jnp.complex128 if jnp.finfo(wide).bits == 64 else jnp.complex64)
        return wide

    def update(
        self, updates: PyTree, state: AverageState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, AverageState]:
        del extra
        if params is None:
            raise ValueError(f"{self._call_name()} needs the parameters: update(grads, state, params)")
        if state.trained is not None:
            raise ValueError(f"{self._call_name()}: the parameters are swapped; swap them back before the next update")
        models, moves, treedef = trees.pair(params, updates, self._call_name(), what="update", rows=True)
        held = trees.align(params, state.average, "the averages")
        enter = (state.step >= self.start_step) & ((state.step - self.start_step) % self.every == 0)
        keep = self.keep(state.n_averaged)
        first = state.n_averaged == 0
        averages = [
            _next_average(average, add_update(model, move), keep, enter, first, self.from_zero)
            for model, move, average in zip(models, moves, held, strict=True)
        ]
        weight = state.weight
        if weight is not None:
            weight = _next_average(weight, jnp.ones_like(weight), keep, enter, first, self.from_zero)
        return updates, AverageState(
            next_step(state.step),
            jnp.where(enter, next_step(state.n_averaged), state.n_averaged),
            treedef.unflatten(averages),
            weight,
        )

    def hyperparams(self, state: AverageState) -> dict[str, PyTree]:
        return self.hyperparams_at(state.n_averaged)

    def norm_after(self, state: AverageState, norm: jax.Array) -> jax.Array:
        del state
        return norm


def _next_average(
    average: jax.Array, param: jax.Array, keep: Beta, enter: jax.Array, first: jax.Array, from_zero: bool
) -> jax.Array:
    """Compute the next average of one parameter, in the average's dtype.

    Until the first parameters enter, the average is the parameter; the first are mixed into zeros, or copied.
    """
    wide = kept(average, param.astype(average.dtype))
    if from_zero:
        mixed = mix(jnp.where(first, jnp.zeros_like(average), average), wide, keep)
        return jnp.where(enter, mixed, jnp.where(first, wide, average))
    return jnp.where(first, wide, jnp.where(enter, mix(average, wide, keep), average))


def mix(average: jax.Array, param: jax.Array, keep: Beta) -> jax.Array:
    """``keep * average + (1 - keep) * param`` in the average's dtype, computed in at least float32."""
    real = jnp.finfo(trees.compute_dtype(average)).dtype
    share = Beta(*(jnp.asarray(half, real) for half in keep))
    if jnp.iscomplexobj(average):
        parts = (lerp(part(average), part(param), share) for part in (jnp.real, jnp.imag))
        return jax.lax.complex(*parts)
    return lerp(average.astype(real), param.astype(real), share).astype(average.dtype)


def averaged_params(state: PyTree, params: PyTree = None) -> PyTree:
    """Return the averaged parameters from a state, however nested.

    Args:
        state: a state with one average in it.
        params: the parameters; the result has their dtypes, and their values where a mask excludes them from the
            average. Without them it has the average's own dtypes, and None there.

    Returns:
        A tree with the structure of the parameters; its arrays are copies, so the state may be donated.

    Raises:
        KeyError: the state has no average, or several. ValueError: nothing was averaged yet.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = fo.chain(fo.sgd(lr=1.0), fo.ema(decay=0.5)), jnp.array([1.0])
        >>> state = tx.init(params)
        >>> for _ in range(2):
        ...     updates, state = tx.update(jnp.array([1.0]), state, params)
        ...     params = fo.apply_updates(params, updates)
        >>> params.tolist(), averaged_params(state).tolist()
        ([-1.0], [-0.5])
    """
    one = find_state(state, AverageState)
    if not isinstance(one.step, Tracer) and bool(jnp.any(one.step == 0)):
        raise ValueError("nothing was averaged yet")
    average = one.average
    if one.weight is not None:
        average = jax.tree.map(lambda a: a / one.weight.astype(jnp.finfo(a.dtype).dtype), average)
    if params is None:
        return jax.tree.map(jnp.copy, average)  # the state may be donated
    names, models, treedef = trees.named_leaves(params)
    leaves = trees.align(params, average, "the averages")
    for name, leaf, model in zip(names, leaves, models, strict=True):
        if hasattr(leaf, "dtype"):
            trees.check_like(name, leaf, model, "the average")
    pairs = zip(leaves, models, strict=True)  # a parameter that a mask excludes is returned as it is
    return treedef.unflatten(
        [jnp.array(leaf, model.dtype, copy=True) if hasattr(leaf, "dtype") else model for leaf, model in pairs]
    )


def swap_params(params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """Swap the parameters for their averages, for evaluation; a second call swaps them back.

    Args:
        params: the parameters, as trained or as the previous call returned them.
        state: the state with the average; while the parameters are swapped, it stores them and has another structure.

    Returns:
        The averaged parameters in the dtypes of ``params``, or the trained ones bit for bit; and the new state.

    Raises:
        KeyError: the state has no average, or several. ValueError: nothing was averaged yet.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = fo.chain(fo.sgd(lr=1.0), fo.swa()), jnp.array([1.0])
        >>> updates, state = tx.update(jnp.array([1.0]), tx.init(params), params)
        >>> averaged, state = swap_params(params, state)
        >>> trained, state = swap_params(averaged, state)
        >>> averaged.tolist(), trained.tolist()
        ([0.0], [1.0])
    """
    one = find_state(state, AverageState)
    if one.trained is not None:
        return one.trained, _replaced(state, one._replace(trained=None))
    averaged = averaged_params(one, params)
    return averaged, _replaced(state, one._replace(trained=params))


def _replaced(state: PyTree, new: AverageState) -> PyTree:
    """Replace the average in a state."""

    def is_average(node: PyTree) -> bool:
        return isinstance(node, AverageState)

    return jax.tree.map(lambda node: new if is_average(node) else node, state, is_leaf=is_average)


def update_average(average: GradientTransformation, state: PyTree, params: PyTree) -> PyTree:
    """Update the state of a standalone average; ``average`` comes from :func:`ema` or :func:`swa`.

    Example:
        >>> import functorch_optim as fo
        >>> average = fo.swa()
        >>> state = average.init(jnp.zeros(1))
        >>> for value in (1.0, 2.0, 6.0):
        ...     state = update_average(average, state, jnp.array([value]))
        >>> averaged_params(state).tolist()
        [3.0]
    """
    return average.update(jax.tree.map(lambda p: None, params), state, params)[1]
