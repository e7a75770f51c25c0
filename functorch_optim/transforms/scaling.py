"""Multiply the updates by a number, fixed or scheduled; and the base of transforms that only need a step."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import rows, trees
from functorch_optim.base import EmptyState, GradientTransformation, Transform, exportable, transformation
from functorch_optim.core.numerics import coefficient, next_step
from functorch_optim.core.options import Options, data_options
from functorch_optim.effects import Effect, Effects, Kind, Leaves, for_each
from functorch_optim.hyperparams import AnyNumber, Hyperparameter, LearningRate, Schedule, known
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Numeric, PyTree


@exportable
class StepState(NamedTuple):
    """The number of updates so far."""

    step: PyTree


class Scheduled(Options, Transform):
    """A transform whose only memory is the step, which it keeps only if an option is a schedule."""

    def apply(self, values: object, updates: PyTree, params: PyTree) -> PyTree:
        """Return the new updates; ``values`` has the options' values."""
        raise NotImplementedError(f"{type(self).__name__} does not define apply")  # abstract: every subclass does

    def init(self, params: PyTree) -> PyTree:
        del params
        scheduled = any(callable(getattr(self, name)) for name in data_options(type(self)))
        return StepState(jnp.zeros((), jnp.int32)) if scheduled else EmptyState()

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        del extra
        after = StepState(next_step(state.step)) if isinstance(state, StepState) else state
        return self.apply(self.values(state), updates, params), after

    def values(self, state: PyTree) -> PyTree:
        """The options' values at the next update."""
        return self.at(state.step if isinstance(state, StepState) else 0)

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        return self.hyperparams_at(state.step if isinstance(state, StepState) else 0)


def with_params(who: str, updates: PyTree, params: PyTree, what: str = "gradient") -> tuple[PyTree, PyTree]:
    """Updates and parameters, checked, both with None where there is no update.

    Raises:
        ValueError: there are no parameters; TypeError, RuntimeError: as :func:`functorch_optim.trees.pair`.
    """
    if params is None:
        raise ValueError(f"{who} needs the parameters: update(updates, state, params)")
    leaves, own, treedef = trees.pair(params, updates, who, what=what)
    moved = [None if update is None else leaf for update, leaf in zip(own, leaves, strict=True)]
    return treedef.unflatten(own), treedef.unflatten(moved)


def by_part(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """A function of real arrays that takes complex ones too: real and imaginary parts separately."""

    def both(*arrays: jax.Array) -> jax.Array:
        if not jnp.iscomplexobj(arrays[0]):
            return function(*arrays)
        return jax.lax.complex(*(function(*map(part, arrays)) for part in (jnp.real, jnp.imag)))

    return both


def multiply(array: jax.Array, factor: Numeric) -> jax.Array:
    """``array * factor`` in the array's precision (float32 at least), rounded once to the array's dtype."""
    dtype = trees.compute_dtype(array)
    return (array.astype(dtype) * coefficient(factor, dtype)).astype(array.dtype)


def multiply_all(updates: PyTree, factor: Numeric, who: str) -> PyTree:
    """All updates times ``factor``, row-sparse ones too; errors name ``who``."""

    def each(name: str, leaf: PyTree) -> PyTree:
        del name
        return rows.map_values(lambda x: multiply(x, factor), leaf)

    return trees.map_updates(each, who, updates)


def effects_of_factor(factor: Any, who: str) -> Effects:
    """The effects of ``who``, which multiplies by an option as it is stored."""
    number = known(factor)
    if number is None:
        return (Effect(Kind.UNKNOWN, who), Effect(Kind.CHANGES, who))
    if number == 0:
        return (Effect(Kind.STOPS, who),)
    kinds = [Kind.NEGATES] * (number < 0) + [Kind.SCALES] * (abs(number) != 1)
    return tuple(Effect(kind, who) for kind in kinds)


class Scale(Scheduled):
    entrywise: ClassVar[bool] = True

    factor: AnyNumber

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del params

        return multiply_all(updates, values.factor, "scale")

    def effects(self, at: Leaves | None) -> list[Effects]:
        return for_each(at, effects_of_factor(self.factor, self._call_name()))


@explains_names
def scale(factor: Hyperparameter) -> GradientTransformation:
    """Multiply the updates by ``factor``: a number, a scalar array or a schedule.

    Example:
        >>> tx = scale(-0.5)
        >>> tx.update(jnp.array([2.0]), tx.init(None))[0].tolist()
        [-1.0]
    """
    return transformation(Scale(factor))


@explains_names
def scale_by_schedule(schedule: Schedule) -> GradientTransformation:
    """Multiply the updates by ``schedule(step)``; the first update uses ``schedule(0)``.

    Raises:
        TypeError: ``schedule`` is not callable.

    Example:
        >>> import functorch_optim as fo
        >>> tx = scale_by_schedule(fo.schedules.cosine_annealing(1.0, T_max=2))
        >>> _, state = tx.update(jnp.array([2.0]), tx.init(None))
        >>> round(tx.update(jnp.array([2.0]), state)[0].item(), 6)
        1.0
    """
    if not callable(schedule):
        raise TypeError(f"scale_by_schedule needs a function of the step, but it got {schedule!r}; use fo.scale")
    return scale(schedule)


class ScaleByLearningRate(Scheduled):
    entrywise: ClassVar[bool] = True

    lr: LearningRate

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del params
        return multiply_all(updates, -values.lr, self._call_name())

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effect(Kind.RATES, at)


@explains_names
def scale_by_learning_rate(lr: Hyperparameter) -> GradientTransformation:
    """Multiply the updates by ``-lr``: the last link of a chain of links without a rate.

    It turns a direction, such as that of :func:`functorch_optim.scale_by_adam`, or the gradient itself into what
    :func:`functorch_optim.apply_updates` adds. :func:`functorch_optim.chain` refuses it where it would come twice, come
    with an algorithm, which has a learning rate of its own, or come before a direction that normalizes.

    Args:
        lr: learning rate, at least 0; a number, a scalar array or a schedule.

    Raises:
        ValueError: ``lr`` is negative.

    Example:
        >>> import functorch_optim as fo
        >>> tx = fo.chain(fo.scale_by_adam(), fo.add_decayed_weights(0.1), scale_by_learning_rate(0.5))  # AdamW
        >>> params = jnp.array([2.0])
        >>> updates, state = tx.update(jnp.array([3.0]), tx.init(params), params)
        >>> [round(x, 6) for x in updates.tolist()], fo.current_hyperparams(tx, state)["lr"]
        ([-0.6], 0.5)
    """
    return transformation(ScaleByLearningRate(lr))
