"""``torch.optim`` for JAX: the stateful face over the functional core."""

from functorch_optim.optim import lr_scheduler, utils
from functorch_optim.optim.adam import Adam, AdamW
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler", "utils"]
