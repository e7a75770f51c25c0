"""The algorithms that torch does not have, as classes like those of ``torch.optim``."""

from functorch_optim.algorithms.grams import grams
from functorch_optim.algorithms.lion import lion
from functorch_optim.algorithms.mars import mars
from functorch_optim.optim.signatures import Declared

__all__ = ["MARS", "Grams", "Lion"]


class Grams(Declared, of=grams, args="lr betas eps weight_decay correct_bias * foreach maximize differentiable"):
    """Grams, steps of AdamW's size in the direction of the gradient's sign."""


class Lion(Declared, of=lion, args="lr betas weight_decay * foreach maximize differentiable"):
    """Lion, the sign of an interpolation between the momentum and the gradient.

    It loads state dicts of ``lion_pytorch.Lion``, and makes such.
    """


class MARS(
    Declared,
    of=mars,
    args="lr betas eps weight_decay amsgrad gamma mars_type optimize_1d lr_1d_factor betas_1d weight_decay_1d"
    " * maximize differentiable",
):
    """MARS, AdamW or Lion with a gradient whose variance is reduced by the last one.

    The last gradient is that of another batch. For the exact form, whose closure is evaluated twice, use
    :meth:`from_transform` with :func:`functorch_optim.exact_mars`.
    """
