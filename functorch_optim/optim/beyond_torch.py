"""The algorithms that torch does not have, as classes like those of ``torch.optim``."""

from functorch_optim.algorithms.adan import adan
from functorch_optim.algorithms.lion import lion
from functorch_optim.optim.signatures import Declared

__all__ = ["Adan", "Lion"]


class Adan(Declared, of=adan, args="lr betas eps weight_decay no_prox * foreach maximize differentiable"):
    """Adan, Adam with a Nesterov momentum from the differences of gradients."""


class Lion(Declared, of=lion, args="lr betas weight_decay * foreach maximize differentiable"):
    """Lion, the sign of an interpolation between the momentum and the gradient.

    It loads state dicts of ``lion_pytorch.Lion``, and makes such.
    """
