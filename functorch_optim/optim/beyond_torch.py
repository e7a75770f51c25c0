"""The algorithms that torch does not have, as classes like those of ``torch.optim``."""

from functorch_optim.algorithms.lion import lion
from functorch_optim.algorithms.schedule_free_adamw import schedule_free_adamw
from functorch_optim.algorithms.schedule_free_radam import schedule_free_radam
from functorch_optim.algorithms.schedule_free_sgd import schedule_free_sgd
from functorch_optim.optim.schedule_free import ScheduleFreeOptimizer
from functorch_optim.optim.signatures import Declared

__all__ = [
    "AdamWScheduleFree",
    "Lion",
    "RAdamScheduleFree",
    "SGDScheduleFree",
]


class Lion(Declared, of=lion, args="lr betas weight_decay * foreach maximize differentiable"):
    """Lion, the sign of an interpolation between the momentum and the gradient.

    It loads state dicts of ``lion_pytorch.Lion``, and makes such.
    """


class SGDScheduleFree(
    ScheduleFreeOptimizer,
    of=schedule_free_sgd,
    args="lr momentum weight_decay warmup_steps r weight_lr_power foreach * maximize differentiable",
):
    """Schedule-Free SGD: SGD with an average in place of momentum and of a schedule.

    Call ``eval()`` before you evaluate or save the parameters, and ``train()`` before you go on.
    """


class AdamWScheduleFree(
    ScheduleFreeOptimizer,
    of=schedule_free_adamw,
    args="lr betas eps weight_decay warmup_steps r weight_lr_power foreach * maximize differentiable",
):
    """Schedule-Free AdamW: AdamW with an average in place of the first moment and of a schedule.

    Call ``eval()`` before you evaluate or save the parameters, and ``train()`` before you go on.
    """


class RAdamScheduleFree(
    ScheduleFreeOptimizer,
    of=schedule_free_radam,
    args="lr betas eps weight_decay r weight_lr_power foreach silent_sgd_phase * maximize differentiable",
):
    """Schedule-Free RAdam: RAdam with an average in place of the first moment and of a schedule.

    Call ``eval()`` before you evaluate or save the parameters, and ``train()`` before you go on.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = RAdamScheduleFree([jnp.ones(2)], lr=0.1, betas=(0.9, 0.9))
        >>> for _ in range(8):
        ...     optimizer.step([jnp.ones(2)])
        >>> optimizer.eval()
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """
