"""A value, such as a learning rate, that falls when a metric stops improving."""

from math import isfinite
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from functorch_optim.base import Frozen, exportable
from functorch_optim.hyperparams import as_count
from functorch_optim.option_names import explain_constructor
from functorch_optim.schedules.schedule import check_number
from functorch_optim.typing import Numeric, PyTree


@exportable
class PlateauState(NamedTuple):
    """``lr`` is the value to use; ``best`` and the counters are torch's."""

    lr: PyTree
    best: PyTree
    num_bad_epochs: PyTree
    cooldown_counter: PyTree


class reduce_on_plateau(Frozen):
    """Multiplies a value by ``factor`` when a metric has not improved for more than ``patience`` updates.

    ``init()`` returns a state; ``update(metric, state)`` returns the value to use from then on and the next state. Both
    are pure and work inside a compiled function. A metric improves on the best one so far, b, if it is below
    ``b - threshold * |b|`` (``threshold_mode="rel"``) or ``b - threshold`` (``"abs"``); with ``mode="max"``, if it is
    above the mirrored bound. NaN never improves. For ``cooldown`` updates after a reduction, none counts as bad.

    Args:
        lr: the first value.
        mode: ``"min"`` or ``"max"``.
        factor: above 0 and below 1.
        patience: number of updates without improvement to tolerate.
        threshold, threshold_mode: see above.
        cooldown: see above.
        min_lr: the lowest value.
        eps: skip reductions no larger than this.

    Raises:
        ValueError, TypeError: an option is out of range, with torch's message if torch rejects it too.

    Source: torch's ``ReduceLROnPlateau``, which mistakes a constant negative metric for an improving one.

    Example:
        >>> schedule = reduce_on_plateau(1.0, factor=0.5, patience=1)
        >>> state = schedule.init()
        >>> for metric in (3.0, 2.0, 2.0, 2.0, 2.0):
        ...     lr, state = schedule.update(metric, state)
        >>> lr.item()
        0.5
    """

    lr: float
    mode: str = "min"
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: str = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        check_plateau(self)
        check_number("min_lr", self.min_lr)

    def init(self) -> PlateauState:
        """Return the state before the first metric."""
        dtype = jnp.result_type(float)
        worst = jnp.asarray(jnp.inf if self.mode == "min" else -jnp.inf, dtype)
        return PlateauState(jnp.asarray(self.lr, dtype), worst, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(self, metric: Numeric, state: PlateauState) -> tuple[PyTree, PlateauState]:
        """Return the value to use from now on, and the next state."""
        return next_plateau(self, metric, state)


explain_constructor(reduce_on_plateau)


def next_plateau(options: Any, metric: Numeric, state: PlateauState) -> tuple[PyTree, PlateauState]:
    """:meth:`reduce_on_plateau.update` with the attributes of ``options``, whose numbers may be traced."""
    metric = jnp.asarray(metric).astype(state.best.dtype)
    better = is_better(metric, state.best, options.mode, options.threshold, options.threshold_mode, jnp)
    cooling = state.cooldown_counter > 0
    bad = jnp.where(better | cooling, 0, state.num_bad_epochs + 1)
    reduce = bad > options.patience
    lower = jnp.maximum(state.lr * options.factor, options.min_lr)
    lr = jnp.where(reduce & (state.lr - lower > options.eps), lower, state.lr)
    cooldown = jnp.where(cooling, state.cooldown_counter - 1, state.cooldown_counter)
    return lr, PlateauState(
        lr,
        jnp.where(better, metric, state.best),
        jnp.where(reduce, 0, bad).astype(jnp.int32),
        jnp.where(reduce, options.cooldown, cooldown).astype(jnp.int32),
    )


def check_plateau(options: Any) -> None:
    """Raise unless an object's attributes named like :class:`reduce_on_plateau`'s options are in range."""
    check_number("factor", options.factor)
    if not options.factor < 1.0:
        raise ValueError("Factor should be < 1.0.")
    if not options.factor > 0.0:
        raise ValueError(f"Factor should be > 0.0, but it is {options.factor}")
    if options.mode not in ("min", "max"):
        raise ValueError(f"mode {options.mode} is unknown!")
    if options.threshold_mode not in ("rel", "abs"):
        raise ValueError(f"threshold mode {options.threshold_mode} is unknown!")
    as_count("patience", options.patience, 0)
    as_count("cooldown", options.cooldown, 0)
    check_number("threshold", options.threshold, 0)
    check_number("eps", options.eps, 0)


def is_better(
    metric: Numeric, best: Numeric, mode: str, threshold: Numeric, threshold_mode: str, xp: ModuleType
) -> PyTree:
    """Whether a metric improves on the best one so far by more than the threshold.

    Example:
        >>> import math, numpy as np
        >>> [bool(is_better(m, -1.0, "min", 0.1, "rel", np)) for m in (-1.0, -1.2, math.nan)]
        [False, True, False]
    """
    margin = threshold
    if threshold_mode == "rel":  # to the size of the best metric, which is 0 before there is one
        if xp is np:
            margin = threshold * abs(best) if isfinite(best) else 0.0
        else:
            margin = threshold * xp.where(xp.isfinite(best), xp.abs(best), 0.0)
    return metric < best - margin if mode == "min" else metric > best + margin
