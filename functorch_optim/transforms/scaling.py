"""Multiply the updates by a number, fixed or scheduled; and the base of transforms that only need a step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import rows, trees
from functorch_optim.base import EmptyState, GradientTransformation, Transform, exportable, transformation
from functorch_optim.core.numerics import coefficient, next_step
from functorch_optim.core.options import Options
from functorch_optim.effects import Effects, Kind, Leaves
from functorch_optim.hyperparams import AnyNumber, Hyperparameter, Schedule, known
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
        scheduled = any(callable(value) for value in vars(self).values())
        return StepState(jnp.zeros((), jnp.int32)) if scheduled else EmptyState()

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        del extra
        if isinstance(state, StepState):
            return self.apply(self.at(state.step), updates, params), StepState(next_step(state.step))
        return self.apply(self.at(0), updates, params), state

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        return self.hyperparams_at(state.step if isinstance(state, StepState) else 0)


def multiply(array: jax.Array, factor: Numeric) -> jax.Array:
    """``array * factor`` in the array's precision (float32 at least), rounded once to the array's dtype."""
    dtype = trees.compute_dtype(array)
    return (array.astype(dtype) * coefficient(factor, dtype)).astype(array.dtype)


def scaled(updates: PyTree, factor: Numeric, who: str) -> PyTree:
    """All updates times ``factor``, row-sparse ones too; errors name ``who``."""

    def each(name: str, leaf: PyTree) -> PyTree:
        del name
        return rows.map_values(lambda x: multiply(x, factor), leaf)

    return trees.map_updates(each, who, updates)


class Scale(Scheduled):
    factor: AnyNumber

    def apply(self, values: Any, updates: PyTree, params: PyTree) -> PyTree:
        del params
        return scaled(updates, values.factor, "scale")

    def effects(self, at: Leaves | None) -> list[Effects]:
        factor = known(self.factor)
        if factor is None:
            return self.effect(Kind.UNKNOWN, at)
        return self.effect(Kind.NEGATES, at) if factor < 0 else super().effects(at)


def scale(factor: Hyperparameter) -> GradientTransformation:
    """Multiply the updates by ``factor``: a number, a scalar array or a schedule.

    Example:
        >>> tx = scale(-0.5)
        >>> tx.update(jnp.array([2.0]), tx.init(None))[0].tolist()
        [-1.0]
    """
    return transformation(Scale(factor))


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
