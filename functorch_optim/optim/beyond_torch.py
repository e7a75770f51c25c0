"""The algorithms that torch does not have, as classes like those of ``torch.optim``."""

from functorch_optim.algorithms.lamb import lamb
from functorch_optim.algorithms.lars import lars
from functorch_optim.algorithms.lion import lion
from functorch_optim.algorithms.novograd import novograd
from functorch_optim.algorithms.signum import signum
from functorch_optim.algorithms.sm3 import sm3
from functorch_optim.optim.signatures import Declared

__all__ = ["LAMB", "LARS", "SM3", "Lion", "NovoGrad", "Signum"]


class LAMB(
    Declared,
    of=lamb,
    args="lr betas eps weight_decay bias_correction trust_clip always_adapt * foreach maximize differentiable",
):
    """LAMB, Adam's direction scaled to the norm of each parameter."""


class LARS(
    Declared,
    of=lars,
    args="lr momentum weight_decay trust_coefficient nesterov always_adapt * foreach maximize differentiable",
):
    """LARS, SGD with steps in proportion to the norm of each parameter."""


class Lion(Declared, of=lion, args="lr betas weight_decay * foreach maximize differentiable"):
    """Lion, the sign of an interpolation between the momentum and the gradient.

    It loads state dicts of ``lion_pytorch.Lion``, and makes such.
    """


class NovoGrad(
    Declared,
    of=novograd,
    args="lr betas eps weight_decay grad_averaging amsgrad * foreach maximize differentiable",
):
    """NovoGrad, momentum of gradients that are divided by an average of their norms.

    It loads state dicts of ``torch_optimizer.NovoGrad``, and makes such.
    """


class SM3(Declared, of=sm3, args="lr momentum eps * foreach maximize differentiable"):
    """SM3, Adagrad with an accumulator for each row, column, and slice along other dimensions."""


class Signum(Declared, of=signum, args="lr momentum weight_decay * foreach maximize differentiable"):
    """Signum, the sign of the momentum.

    It loads state dicts of ``pytorch_optimizer.SignSGD``, and makes such.
    """
