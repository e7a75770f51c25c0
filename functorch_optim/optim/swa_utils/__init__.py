"""Averages of a model's parameters with the interface of ``torch.optim.swa_utils``."""

from functorch_optim.optim.swa_utils.averaged_model import AveragedModel
from functorch_optim.optim.swa_utils.averaging_functions import (
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
)
from functorch_optim.optim.swa_utils.swalr import SWALR
from functorch_optim.optim.swa_utils.update_bn import update_bn

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]
