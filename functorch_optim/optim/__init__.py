"""``torch.optim`` for JAX: the stateful face over the functional core."""

from functorch_optim.optim import lr_scheduler, swa_utils, utils
from functorch_optim.optim.adadelta import Adadelta
from functorch_optim.optim.adafactor import Adafactor
from functorch_optim.optim.adagrad import Adagrad
from functorch_optim.optim.adam import Adam, AdamW
from functorch_optim.optim.adamax import Adamax
from functorch_optim.optim.asgd import ASGD
from functorch_optim.optim.bfgs import BFGS
from functorch_optim.optim.lbfgs import LBFGS
from functorch_optim.optim.muon import Muon, MuonAdamW
from functorch_optim.optim.nadam import NAdam
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.radam import RAdam
from functorch_optim.optim.rmsprop import RMSprop
from functorch_optim.optim.rprop import Rprop
from functorch_optim.optim.sgd import SGD
from functorch_optim.optim.sparse_adam import SparseAdam
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
