"""What torch does with an algorithm's state and options beside its update: nobody but the torch face acts like it."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from functorch_optim.algorithms.adagrad import Adagrad
from functorch_optim.algorithms.muon import Muon
from functorch_optim.algorithms.rmsprop import RMSprop
from functorch_optim.algorithms.sgd import SGD
from functorch_optim.algorithms.sparse_adam import SparseAdam
from functorch_optim.core.rule import Rule

FUNCTIONAL_ONLY = ("foreach", "decay_mask", "axis_name")  # arguments of an algorithm's function that no group has


class Habits(NamedTuple):
    """What torch does, most of the time."""

    counts_steps: bool = True  # whether torch keeps a step; if not, only the first update is special
    integer_step: bool = False  # whether torch's step is a Python int
    starts_whole: bool = False  # whether torch makes the state at construction, not at the first update
    idle_flags: Mapping[str, str] = MappingProxyType({})  # flag -> the number without which it means nothing
    static_zeros: tuple[str, ...] = ()  # the options for which the number 0 means another set of slots


_EXCEPTIONS: dict[type[Rule], Habits] = {
    Adagrad: Habits(starts_whole=True),
    Muon: Habits(counts_steps=False),
    RMSprop: Habits(static_zeros=("momentum",)),
    SGD: Habits(counts_steps=False, idle_flags={"nesterov": "momentum"}, static_zeros=("momentum",)),
    SparseAdam: Habits(integer_step=True),
}


@functools.cache
def habits_of(kind: type[Rule]) -> Habits:
    """torch's habits with a class of rules, or with what it is descended from.

    Example:
        >>> habits_of(SGD).counts_steps, habits_of(Rule).counts_steps
        (False, True)
    """
    return next((_EXCEPTIONS[base] for base in kind.__mro__ if base in _EXCEPTIONS), Habits())
