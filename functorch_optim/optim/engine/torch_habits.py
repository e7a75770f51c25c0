"""What torch does with an algorithm's state and options besides the update; only the torch face imitates it."""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from functorch_optim.algorithms.adagrad import Adagrad
from functorch_optim.algorithms.sgd import SGD
from functorch_optim.algorithms.sparse_adam import SparseAdam
from functorch_optim.core.curved import CurvatureRule
from functorch_optim.core.rule import Rule

# arguments of an algorithm's function that no group has
FUNCTIONAL_ONLY = ("foreach", "decay_mask", "axis_name", "matrix_axes", "ns_polynomials", "gram", "estimator")


class Habits(NamedTuple):
    """What torch does with most algorithms."""

    integer_step: bool = False  # whether torch's step is a Python int
    starts_whole: bool = False  # whether torch creates the state at construction, not at the first update
    idle_flags: Mapping[str, str] = MappingProxyType({})  # flag -> the number without which it has no effect


_EXCEPTIONS: dict[type[Rule], Habits] = {
    Adagrad: Habits(starts_whole=True),
    CurvatureRule: Habits(starts_whole=True),  # an estimate is a slot before the first update
    SGD: Habits(idle_flags={"nesterov": "momentum"}),
    SparseAdam: Habits(integer_step=True),
}


@functools.cache
def habits_of(kind: type[Rule]) -> Habits:
    """Return torch's habits with a class of rules, or with one of its bases.

    Example:
        >>> habits_of(Adagrad).starts_whole, habits_of(Rule).starts_whole
        (True, False)
    """
    return next((_EXCEPTIONS[base] for base in kind.__mro__ if base in _EXCEPTIONS), Habits())
