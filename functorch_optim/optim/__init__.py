"""``torch.optim`` for JAX: the stateful face over the functional core."""

from functorch_optim.optim import beyond_torch, classes, functional, lr_scheduler, swa_utils, utils
from functorch_optim.optim.beyond_torch import *  # noqa: F403 every other algorithm's class
from functorch_optim.optim.bfgs import BFGS
from functorch_optim.optim.classes import *  # noqa: F403 every algorithm's class in torch
from functorch_optim.optim.lbfgs import LBFGS
from functorch_optim.optim.muon_adamw import MuonAdamW
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.swap import swap_in_optimizer_params_and_state

__all__ = [
    "BFGS",
    "LBFGS",
    "MuonAdamW",
    "Optimizer",
    "functional",
    "lr_scheduler",
    "swa_utils",
    "swap_in_optimizer_params_and_state",
    "utils",
]
__all__ += [*classes.__all__, *beyond_torch.__all__]
