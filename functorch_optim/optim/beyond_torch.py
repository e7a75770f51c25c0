"""The algorithms that torch does not have, as classes like those of ``torch.optim``."""

from functorch_optim.algorithms.lamb import lamb
from functorch_optim.algorithms.lars import lars
from functorch_optim.algorithms.lion import lion
from functorch_optim.optim.signatures import Declared

__all__ = ["LAMB", "LARS", "Lion"]


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
