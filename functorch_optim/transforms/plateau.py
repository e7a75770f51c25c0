"""Scale the updates down when the loss stops improving."""

from types import SimpleNamespace
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, Transform, exportable, transformation
from functorch_optim.core.numerics import next_step
from functorch_optim.core.options import Options
from functorch_optim.effects import Effect, Effects, Kind, Leaves, for_each
from functorch_optim.hyperparams import Hyperparameter, NonNegative, Option, as_count
from functorch_optim.objectives import value_in
from functorch_optim.option_names import explains_names
from functorch_optim.schedules import plateau
from functorch_optim.schedules.schedule import check_choice
from functorch_optim.transforms.scaling import multiply_all
from functorch_optim.typing import PyTree


@exportable
class ReduceOnPlateauState(NamedTuple):
    """``step`` counts updates, ``average`` is the mean of the losses to judge next, and ``plateau.lr`` is the scale."""

    step: PyTree
    average: PyTree
    plateau: PyTree


class ReduceOnPlateau(Options, Transform):
    entrywise: ClassVar[bool] = True

    factor: Annotated[
        Hyperparameter,
        Option("Factor should be above 0 and below 1, but it is {}", low=0, high=1, open_low=True, open_high=True),
    ]
    patience: int
    threshold: NonNegative
    threshold_mode: str
    cooldown: int
    accumulation_size: int
    min_scale: NonNegative
    mode: str

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("patience", 0), ("cooldown", 0), ("accumulation_size", 1)):
            count = as_count(f"reduce_on_plateau: {name}", getattr(self, name), least)
            object.__setattr__(self, name, count)
        check_choice("reduce_on_plateau: mode", self.mode, ("min", "max"))
        check_choice("reduce_on_plateau: threshold_mode", self.threshold_mode, ("rel", "abs"))

    def init(self, params: PyTree) -> ReduceOnPlateauState:
        del params
        first = plateau.reduce_on_plateau(1.0, mode=self.mode).init()
        return ReduceOnPlateauState(jnp.zeros((), jnp.int32), jnp.zeros((), first.lr.dtype), first)

    def update(
        self, updates: PyTree, state: ReduceOnPlateauState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, ReduceOnPlateauState]:
        del params
        value = value_in(extra, "reduce_on_plateau").astype(state.average.dtype)
        place = state.step % self.accumulation_size
        before = place.astype(value.dtype)
        average = jnp.where(place == 0, value, (before * state.average + value) / (before + 1))
        numbers = self.numbers_at(state.step)
        options = SimpleNamespace(**{**vars(self), **numbers}, min_lr=numbers["min_scale"], eps=0.0)
        _, judged = plateau.next_plateau(options, average, state.plateau)
        whole = place + 1 == self.accumulation_size
        held = jax.tree.map(lambda new, old: jnp.where(whole, new, old), judged, state.plateau)
        return multiply_all(updates, held.lr, "reduce_on_plateau"), ReduceOnPlateauState(
            next_step(state.step), average, held
        )

    def effects(self, at: Leaves | None) -> list[Effects]:
        return for_each(at, (Effect(Kind.FACTORS, self._call_name(), shared=True),))

    def needs(self) -> frozenset[str]:
        return frozenset({"value"})

    def hyperparams(self, state: ReduceOnPlateauState) -> dict[str, Any]:
        return {**self.hyperparams_at(state.step), "scale": state.plateau.lr}


@explains_names
def reduce_on_plateau(
    factor: Hyperparameter = 0.1,
    patience: int = 10,
    threshold: Hyperparameter = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: Hyperparameter = 0.0,
    mode: str = "min",
) -> GradientTransformation:
    """Multiply the updates by a scale, which starts at 1 and falls when the loss stops improving.

    Pass the loss as ``update(grads, state, params, value=loss)``. The rules are those of
    :class:`functorch_optim.schedules.reduce_on_plateau`. A loss improves on the best one so far, b, if it is below
    ``b - threshold * |b|`` (``threshold_mode="rel"``) or ``b - threshold`` (``"abs"``). After more than ``patience``
    losses in a row without improvement, the scale falls to ``max(scale * factor, min_scale)``, already for this update.
    None of the next ``cooldown`` losses counts as bad. NaN never improves.

    Args:
        factor: above 0 and below 1; a number, a scalar array or a schedule of the number of updates.
        patience: number of losses without improvement to tolerate.
        threshold, threshold_mode: see above.
        cooldown: see above.
        accumulation_size: how many losses to average before each judgment; ``patience`` and ``cooldown`` count the
            averages.
        min_scale: the lowest scale.
        mode: ``"min"``, or ``"max"`` for a value that should rise.

    Returns:
        A transformation with the state :class:`ReduceOnPlateauState`. Put it after the algorithm. Before one that
        divides by the gradients' size, such as Adam, it would have no effect, so :func:`functorch_optim.chain` rejects
        that order.

    Raises:
        ValueError, TypeError: an option is out of range; from ``update``, there is no ``value``, or it is not a real
            scalar.

    Source: torch's ``ReduceLROnPlateau`` and ``optax.contrib.reduce_on_plateau``. The bookkeeping is torch's: optax
    reduces at loss number ``patience`` without improvement, we at the next one. For a best value below 0 optax's bound
    lies above it, so that an equal loss improves.

    Example:
        >>> import functorch_optim as fo
        >>> tx, params = fo.chain(fo.sgd(lr=1.0), reduce_on_plateau(factor=0.5, patience=1)), jnp.array([0.0])
        >>> state, moves = tx.init(params), []
        >>> for loss in (3.0, 2.0, 2.0, 2.0, 2.0):
        ...     updates, state = tx.update(jnp.ones(1), state, params, value=loss)
        ...     moves.append(updates.item())
        >>> moves
        [-1.0, -1.0, -1.0, -0.5, -0.5]
    """
    return transformation(
        ReduceOnPlateau(factor, patience, threshold, threshold_mode, cooldown, accumulation_size, min_scale, mode)
    )
