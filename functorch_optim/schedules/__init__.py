"""Schedules: pure functions of the step that give a hyperparameter's value."""

from functorch_optim.schedules.constant import constant
from functorch_optim.schedules.cosine import cosine_annealing, warmup_cosine

__all__ = ["constant", "cosine_annealing", "warmup_cosine"]
