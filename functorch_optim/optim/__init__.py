"""``torch.optim`` for JAX: the stateful face over the functional core."""

from functorch_optim.optim import lr_scheduler, swa_utils, utils
from functorch_optim.optim.bfgs import BFGS
from functorch_optim.optim.classes import (
    ASGD,
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Muon,
    NAdam,
    RAdam,
    RMSprop,
    Rprop,
    SparseAdam,
)
from functorch_optim.optim.lbfgs import LBFGS
from functorch_optim.optim.muon_adamw import MuonAdamW
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.swap import swap_in_optimizer_params_and_state

__all__ = [
    "ASGD",
    "BFGS",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Muon",
    "MuonAdamW",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
    "lr_scheduler",
    "swa_utils",
    "swap_in_optimizer_params_and_state",
    "utils",
]
