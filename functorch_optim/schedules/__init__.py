"""Schedules: pure functions from the step to a hyperparameter's value."""

from functorch_optim.schedules.combinators import chained, sequential
from functorch_optim.schedules.constant import constant
from functorch_optim.schedules.cosine import cosine_annealing, cosine_annealing_warm_restarts, warmup_cosine
from functorch_optim.schedules.cyclic import cyclic, cyclic_momentum
from functorch_optim.schedules.decay import (
    constant_factor,
    exponential_decay,
    linear,
    multi_step_decay,
    multiplicative,
    polynomial_decay,
    step_decay,
)
from functorch_optim.schedules.one_cycle import one_cycle, one_cycle_momentum, swa_annealing
from functorch_optim.schedules.plateau import PlateauState, reduce_on_plateau
from functorch_optim.schedules.plot import plot
from functorch_optim.schedules.schedule import Schedule
from functorch_optim.schedules.warmup import inverse_sqrt, warmup, warmup_stable_decay

__all__ = [
    "PlateauState",
    "Schedule",
    "chained",
    "constant",
    "constant_factor",
    "cosine_annealing",
    "cosine_annealing_warm_restarts",
    "cyclic",
    "cyclic_momentum",
    "exponential_decay",
    "inverse_sqrt",
    "linear",
    "multi_step_decay",
    "multiplicative",
    "one_cycle",
    "one_cycle_momentum",
    "plot",
    "polynomial_decay",
    "reduce_on_plateau",
    "sequential",
    "step_decay",
    "swa_annealing",
    "warmup",
    "warmup_cosine",
    "warmup_stable_decay",
]
