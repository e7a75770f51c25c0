"""The algorithms that torch does not have, as classes like those of ``torch.optim``."""

from functorch_optim.algorithms.adabelief import adabelief
from functorch_optim.algorithms.adan import adan
from functorch_optim.algorithms.ademamix import ademamix
from functorch_optim.algorithms.adopt import adopt
from functorch_optim.algorithms.dadapt_adam import dadapt_adam
from functorch_optim.algorithms.grams import grams
from functorch_optim.algorithms.kron import kron
from functorch_optim.algorithms.lamb import lamb
from functorch_optim.algorithms.laprop import laprop
from functorch_optim.algorithms.lars import lars
from functorch_optim.algorithms.lion import lion
from functorch_optim.algorithms.madgrad import madgrad
from functorch_optim.algorithms.mars import mars
from functorch_optim.algorithms.novograd import novograd
from functorch_optim.algorithms.prodigy import prodigy
from functorch_optim.algorithms.schedule_free_adamw import schedule_free_adamw
from functorch_optim.algorithms.schedule_free_radam import schedule_free_radam
from functorch_optim.algorithms.schedule_free_sgd import schedule_free_sgd
from functorch_optim.algorithms.signum import signum
from functorch_optim.algorithms.sm3 import sm3
from functorch_optim.algorithms.yogi import yogi
from functorch_optim.optim.distance import DistanceOptimizer
from functorch_optim.optim.schedule_free import ScheduleFreeOptimizer
from functorch_optim.optim.signatures import Declared

__all__ = [
    "ADOPT",
    "LAMB",
    "LARS",
    "MADGRAD",
    "MARS",
    "SM3",
    "AdEMAMix",
    "AdaBelief",
    "AdamWScheduleFree",
    "Adan",
    "DAdaptAdam",
    "Grams",
    "Kron",
    "LaProp",
    "Lion",
    "NovoGrad",
    "Prodigy",
    "RAdamScheduleFree",
    "SGDScheduleFree",
    "Signum",
    "Yogi",
]


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


class Prodigy(
    DistanceOptimizer,
    of=prodigy,
    args="lr betas beta3 eps weight_decay decouple use_bias_correction safeguard_warmup d0 d_coef growth_rate "
    "* maximize",
):
    """Prodigy, Adam at a learning rate that it estimates from the distance to the first parameters.

    All groups share the estimate; their ``lr`` is the same, or 0. State dicts cross with ``prodigyopt.Prodigy``.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Prodigy({"w": jnp.array([1.0, -2.0])})
        >>> for _ in range(150):
        ...     optimizer.step(optimizer.params)  # the gradient of half the square
        >>> bool(jnp.all(jnp.abs(optimizer.params["w"]) < 0.1))
        True
    """

    same = {"fsdp_in_use": False, "slice_p": 1}  # noqa: RUF012 a constant
    flat = ("s", "p0")


class DAdaptAdam(
    DistanceOptimizer,
    of=dadapt_adam,
    args="lr betas eps weight_decay decouple use_bias_correction d0 growth_rate * maximize",
):
    """D-Adapt Adam, Adam at a learning rate that it estimates from the gradients so far.

    All groups share the estimate; their ``lr`` is the same, or 0. State dicts cross with ``dadaptation.DAdaptAdam``.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = DAdaptAdam({"w": jnp.array([1.0, -2.0])})
        >>> for _ in range(150):
        ...     optimizer.step(optimizer.params)  # the gradient of half the square
        >>> bool(jnp.all(jnp.abs(optimizer.params["w"]) < 0.1))
        True
    """

    same = {"fsdp_in_use": False, "layer_scale": 1.0}  # noqa: RUF012 a constant
    forgotten = {"log_every": 0}  # noqa: RUF012 a constant


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


class Grams(Declared, of=grams, args="lr betas eps weight_decay correct_bias * foreach maximize differentiable"):
    """Grams, steps of AdamW's size in the direction of the gradient's sign."""


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


class AdaBelief(
    Declared,
    of=adabelief,
    args="lr betas eps weight_decay amsgrad decoupled_weight_decay fixed_decay rectify degenerated_to_sgd "
    "* foreach maximize differentiable",
):
    """AdaBelief, Adam that divides by the deviation of the gradient from its average."""


class LaProp(
    Declared,
    of=laprop,
    args="lr betas eps weight_decay amsgrad centered steps_before_using_centered * foreach maximize differentiable",
):
    """LaProp, momentum of gradients that are already divided by their root mean square."""


class MADGRAD(
    Declared, of=madgrad, args="lr momentum weight_decay eps decoupled_weight_decay * foreach maximize differentiable"
):
    """MADGRAD, dual averaging with momentum, divided by a cube root of summed squares."""


class Yogi(
    Declared, of=yogi, args="lr betas eps initial_accumulator_value weight_decay * foreach maximize differentiable"
):
    """Yogi, Adam whose second moment moves by no more than the squared gradient's share."""


class Kron(
    Declared,
    of=kron,
    args="lr b1 weight_decay preconditioner_update_probability max_size_triangular min_ndim_triangular memory_save_mode"
    " momentum_into_precond_update precond_lr precond_init_scale merge_dims balance_probability key"
    " * maximize differentiable",
):
    """PSGD-Kron, momentum that is preconditioned by a Kronecker product of triangular matrices, so that it is white."""
