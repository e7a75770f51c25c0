"""The algorithms that torch does not have, as classes like those of ``torch.optim``."""

from functorch_optim.algorithms.adabelief import adabelief
from functorch_optim.algorithms.adan import adan
from functorch_optim.algorithms.ademamix import ademamix
from functorch_optim.algorithms.adopt import adopt
from functorch_optim.algorithms.laprop import laprop
from functorch_optim.algorithms.lion import lion
from functorch_optim.algorithms.madgrad import madgrad
from functorch_optim.algorithms.yogi import yogi
from functorch_optim.optim.signatures import Declared

__all__ = ["ADOPT", "MADGRAD", "AdEMAMix", "AdaBelief", "Adan", "LaProp", "Lion", "Yogi"]


class AdaBelief(
    Declared,
    of=adabelief,
    args="lr betas eps weight_decay amsgrad decoupled_weight_decay fixed_decay rectify degenerated_to_sgd "
    "* foreach maximize differentiable",
):
    """AdaBelief, Adam that divides by the deviation of the gradient from its average."""


class Adan(Declared, of=adan, args="lr betas eps weight_decay no_prox * foreach maximize differentiable"):
    """Adan, Adam with a Nesterov momentum from the differences of gradients."""


class AdEMAMix(
    Declared,
    of=ademamix,
    args="lr betas alpha beta3_warmup alpha_warmup eps weight_decay * foreach maximize differentiable",
):
    """AdEMAMix, Adam with a second, slower average of the gradients."""


class ADOPT(
    Declared,
    of=adopt,
    args="lr betas eps clip_exp weight_decay decoupled_weight_decay * foreach maximize differentiable",
):
    """ADOPT, Adam that divides by the second moment before the gradient enters it.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = ADOPT([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])  # moves nothing
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """


class LaProp(
    Declared,
    of=laprop,
    args="lr betas eps weight_decay amsgrad centered steps_before_using_centered * foreach maximize differentiable",
):
    """LaProp, momentum of gradients that are already divided by their root mean square."""


class Lion(Declared, of=lion, args="lr betas weight_decay * foreach maximize differentiable"):
    """Lion, the sign of an interpolation between the momentum and the gradient.

    It loads state dicts of ``lion_pytorch.Lion``, and makes such.
    """


class MADGRAD(
    Declared, of=madgrad, args="lr momentum weight_decay eps decoupled_weight_decay * foreach maximize differentiable"
):
    """MADGRAD, dual averaging with momentum, divided by a cube root of summed squares."""


class Yogi(
    Declared, of=yogi, args="lr betas eps initial_accumulator_value weight_decay * foreach maximize differentiable"
):
    """Yogi, Adam whose second moment moves by no more than the squared gradient's share."""
