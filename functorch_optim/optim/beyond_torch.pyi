"""Generated from ``beyond_torch.py`` by ``make stubs``."""

from typing import Any

from functorch_optim.optim.distance import DistanceOptimizer
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules
from functorch_optim.optim.schedule_free import ScheduleFreeOptimizer

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

class Adan(Optimizer):
    """Adan, Adam with a Nesterov momentum from the differences of gradients.

    The equations are in :func:`functorch_optim.adan`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the gradients, of their differences and of the squares, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decoupled decay, at least 0.
        no_prox: whether to decay as AdamW does, before the update.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adan([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any, Any] = (0.98, 0.92, 0.99),
        eps: Any = 1e-08,
        weight_decay: Any = 0.0,
        no_prox: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class AdEMAMix(Optimizer):
    """AdEMAMix, Adam with a second, slower average of the gradients.

    The equations are in :func:`functorch_optim.ademamix`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the fast average, of the squares and of the slow average, each in [0, 1).
        alpha: weight of the slow average, at least 0.
        beta3_warmup: updates in which beta3 rises from beta1, above 0.
        alpha_warmup: updates in which alpha rises from 0, above 0.
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decoupled decay, at least 0.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = AdEMAMix([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any, Any] = (0.9, 0.999, 0.9999),
        alpha: Any = 2.0,
        beta3_warmup: Any = None,
        alpha_warmup: Any = None,
        eps: Any = 1e-08,
        weight_decay: Any = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class ADOPT(Optimizer):
    """ADOPT, Adam that divides by the second moment before the gradient enters it.

    The equations are in :func:`functorch_optim.adopt`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: the least denominator, at least 0.
        clip_exp: exponent of the bound of normalized gradients, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = ADOPT([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])  # moves nothing
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any] = (0.9, 0.9999),
        eps: Any = 1e-06,
        clip_exp: Any = 0.25,
        weight_decay: Any = 0.0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Lion(Optimizer):
    """Lion, the sign of an interpolation between the momentum and the gradient.

    The equations are in :func:`functorch_optim.lion`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: shares of the momentum in the update and in the next momentum, each in [0, 1).
        weight_decay: coefficient of the decoupled decay, at least 0.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    It loads state dicts of ``lion_pytorch.Lion``, and makes such.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Lion([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.0001,
        betas: tuple[Any, Any] = (0.9, 0.99),
        weight_decay: Any = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class SGDScheduleFree(ScheduleFreeOptimizer):
    """Schedule-Free SGD: SGD with an average in place of momentum and of a schedule.

    The equations are in :func:`functorch_optim.schedule_free_sgd`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        momentum: share of the average x in y, in (0, 1).
        weight_decay: coefficient of the decay, which acts at y, at least 0.
        warmup_steps: number of updates over which the learning rate rises linearly, at least 0.
        r: power of the update's number in its weight in the average.
        weight_lr_power: power of the largest learning rate so far in the weight.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Call ``eval()`` before you evaluate or save the parameters, and ``train()`` before you go on.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = SGDScheduleFree([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        momentum: Any = 0.9,
        weight_decay: Any = 0,
        warmup_steps: Any = 0,
        r: Any = 0.0,
        weight_lr_power: Any = 2.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class AdamWScheduleFree(ScheduleFreeOptimizer):
    """Schedule-Free AdamW: AdamW with an average in place of the first moment and of a schedule.

    The equations are in :func:`functorch_optim.schedule_free_adamw`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, which acts at y, at least 0.
        warmup_steps: number of updates over which the learning rate rises linearly, at least 0.
        r: power of the update's number in its weight in the average.
        weight_lr_power: power of the largest learning rate so far in the weight.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Call ``eval()`` before you evaluate or save the parameters, and ``train()`` before you go on.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = AdamWScheduleFree([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.0025,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-08,
        weight_decay: Any = 0,
        warmup_steps: Any = 0,
        r: Any = 0.0,
        weight_lr_power: Any = 2.0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class RAdamScheduleFree(ScheduleFreeOptimizer):
    """Schedule-Free RAdam: RAdam with an average in place of the first moment and of a schedule.

    The equations are in :func:`functorch_optim.schedule_free_radam`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, which acts at y, at least 0.
        r: power of the update's number in its weight in the average.
        weight_lr_power: power of the largest learning rate so far in the weight.
        foreach: whether to update small parameters together; None decides by their number.
        silent_sgd_phase: whether the first updates leave the parameters alone instead of being SGD.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Call ``eval()`` before you evaluate or save the parameters, and ``train()`` before you go on.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = RAdamScheduleFree([jnp.ones(2)], lr=0.1, betas=(0.9, 0.9))
        >>> for _ in range(8):
        ...     optimizer.step([jnp.ones(2)])
        >>> optimizer.eval()
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.0025,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-08,
        weight_decay: Any = 0,
        r: Any = 0.0,
        weight_lr_power: Any = 2.0,
        foreach: bool | None = None,
        silent_sgd_phase: bool = True,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Prodigy(DistanceOptimizer):
    """Prodigy, Adam at a learning rate that it estimates from the distance to the first parameters.

    The equations are in :func:`functorch_optim.prodigy`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: factor of the estimated learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        beta3: decay rate of the sums that estimate d; None for the root of the second beta, in [0, 1].
        eps: added to the denominator, above 0.
        weight_decay: coefficient of the decay, at least 0.
        decouple: whether the decay acts on the parameter instead of the gradient.
        use_bias_correction: whether to correct the bias of the moments, as Adam does.
        safeguard_warmup: whether to leave the learning rate out of s, for schedules that warm up.
        d0: first estimate of d, above 0.
        d_coef: factor of the estimate, at least 0.
        growth_rate: the factor by which d may grow in an update.
        maximize: whether to ascend.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    All groups share the estimate; their ``lr`` is the same, or 0. State dicts cross with ``prodigyopt.Prodigy``.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Prodigy({"w": jnp.array([1.0, -2.0])})
        >>> for _ in range(150):
        ...     optimizer.step(optimizer.params)  # the gradient of half the square
        >>> bool(jnp.all(jnp.abs(optimizer.params["w"]) < 0.1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        betas: tuple[Any, Any] = (0.9, 0.999),
        beta3: Any = None,
        eps: Any = 1e-08,
        weight_decay: Any = 0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: Any = 1e-06,
        d_coef: Any = 1.0,
        growth_rate: Any = float("inf"),
        *,
        maximize: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class DAdaptAdam(DistanceOptimizer):
    """D-Adapt Adam, Adam at a learning rate that it estimates from the gradients so far.

    The equations are in :func:`functorch_optim.dadapt_adam`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: factor of the estimated learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator, above 0.
        weight_decay: coefficient of the decay, at least 0.
        decouple: whether the decay acts on the parameter instead of the gradient.
        use_bias_correction: whether to correct the bias of the moments, as Adam does.
        d0: first estimate of d, above 0.
        growth_rate: the factor by which d may grow in an update.
        maximize: whether to ascend.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    All groups share the estimate; their ``lr`` is the same, or 0. State dicts cross with ``dadaptation.DAdaptAdam``.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = DAdaptAdam({"w": jnp.array([1.0, -2.0])})
        >>> for _ in range(150):
        ...     optimizer.step(optimizer.params)  # the gradient of half the square
        >>> bool(jnp.all(jnp.abs(optimizer.params["w"]) < 0.1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-08,
        weight_decay: Any = 0,
        decouple: bool = False,
        use_bias_correction: bool = False,
        d0: Any = 1e-06,
        growth_rate: Any = float("inf"),
        *,
        maximize: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class LAMB(Optimizer):
    """LAMB, Adam's direction scaled to the norm of each parameter.

    The equations are in :func:`functorch_optim.lamb`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        bias_correction: whether to divide the moments by 1 - beta**t.
        trust_clip: whether to limit the trust ratio to 1.
        always_adapt: whether parameters that do not decay have a trust ratio too.
        foreach: stored in the groups, without any other effect.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = LAMB([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-06,
        weight_decay: Any = 0.0,
        bias_correction: bool = False,
        trust_clip: bool = False,
        always_adapt: bool = True,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class LARS(Optimizer):
    """LARS, SGD with steps in proportion to the norm of each parameter.

    The equations are in :func:`functorch_optim.lars`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        momentum: factor of the buffer, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        trust_coefficient: factor of the trust ratio, at least 0.
        nesterov: whether to use Nesterov momentum.
        always_adapt: whether parameters that do not decay have a trust ratio too.
        foreach: stored in the groups, without any other effect.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = LARS([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        momentum: Any = 0.9,
        weight_decay: Any = 0.0,
        trust_coefficient: Any = 0.001,
        nesterov: bool = False,
        always_adapt: bool = True,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class NovoGrad(Optimizer):
    """NovoGrad, momentum of gradients that are divided by an average of their norms.

    The equations are in :func:`functorch_optim.novograd`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        grad_averaging: whether the first moment is an average instead of a sum.
        amsgrad: whether to divide by the largest second moment so far.
        foreach: stored in the groups, without any other effect.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    It loads state dicts of ``torch_optimizer.NovoGrad``, and makes such.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = NovoGrad([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any] = (0.95, 0.98),
        eps: Any = 1e-08,
        weight_decay: Any = 0.0,
        grad_averaging: bool = False,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class SM3(Optimizer):
    """SM3, Adagrad with an accumulator for each row, column, and slice along other dimensions.

    The equations are in :func:`functorch_optim.sm3`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        momentum: decay rate of the average of the directions, in [0, 1).
        eps: added under the root, at least 0.
        foreach: stored in the groups, without any other effect.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = SM3([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.1,
        momentum: Any = 0.9,
        eps: Any = 1e-30,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Signum(Optimizer):
    """Signum, the sign of the momentum.

    The equations are in :func:`functorch_optim.signum`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        momentum: decay rate of the average of the gradients, in [0, 1).
        weight_decay: coefficient of the decoupled decay, at least 0.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    It loads state dicts of ``pytorch_optimizer.SignSGD``, and makes such.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Signum([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        momentum: Any = 0.9,
        weight_decay: Any = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Grams(Optimizer):
    """Grams, steps of AdamW's size in the direction of the gradient's sign.

    The equations are in :func:`functorch_optim.grams`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decoupled decay, at least 0.
        correct_bias: whether to correct the bias of the moments.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Grams([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-06,
        weight_decay: Any = 0.0,
        correct_bias: bool = True,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class MARS(Optimizer):
    """MARS, AdamW or Lion with a gradient whose variance is reduced by the last one.

    The equations are in :func:`functorch_optim.mars`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decoupled decay of the matrices, at least 0.
        amsgrad: whether to divide by the largest second moment so far.
        gamma: how much of the difference of two gradients is added, at least 0.
        mars_type: ``"adamw"`` or ``"lion"``.
        optimize_1d: whether to treat all parameters as matrices are.
        lr_1d_factor: the learning rate of AdamW for the others, as a factor of ``lr``, at least 0.
        betas_1d: decay rates of the two moments of the others, each in [0, 1).
        weight_decay_1d: coefficient of the decoupled decay of the others, at least 0.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    The last gradient is that of another batch. For the exact form, whose closure is evaluated twice, use
    :meth:`from_transform` with :func:`functorch_optim.exact_mars`.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = MARS([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.003,
        betas: tuple[Any, Any] = (0.95, 0.99),
        eps: Any = 1e-08,
        weight_decay: Any = 0.0,
        amsgrad: bool = False,
        gamma: Any = 0.025,
        mars_type: str = "adamw",
        optimize_1d: bool = False,
        lr_1d_factor: Any = 1.0,
        betas_1d: tuple[Any, Any] = (0.9, 0.95),
        weight_decay_1d: Any = 0.1,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class AdaBelief(Optimizer):
    """AdaBelief, Adam that divides by the deviation of the gradient from its average.

    The equations are in :func:`functorch_optim.adabelief`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, and to the variance at each update, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        amsgrad: whether to divide by the largest variance so far, without ``rectify``.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        fixed_decay: whether decoupled decay is not multiplied by the learning rate.
        rectify: whether to rectify the first steps as RAdam does.
        degenerated_to_sgd: whether the steps before are those of SGD with momentum, not none.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = AdaBelief([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-16,
        weight_decay: Any = 0.0,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = True,
        fixed_decay: bool = False,
        rectify: bool = True,
        degenerated_to_sgd: bool = True,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class LaProp(Optimizer):
    """LaProp, momentum of gradients that are already divided by their root mean square.

    The equations are in :func:`functorch_optim.laprop`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: share of the parameter that each update takes away, at least 0.
        amsgrad: whether to divide by the largest second moment so far.
        centered: whether to divide by the standard deviation instead of the root mean square.
        steps_before_using_centered: updates before ``centered`` begins, at least 0.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = LaProp([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.0004,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-15,
        weight_decay: Any = 0.0,
        amsgrad: bool = False,
        centered: bool = False,
        steps_before_using_centered: Any = 10,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class MADGRAD(Optimizer):
    """MADGRAD, dual averaging with momentum, divided by a cube root of summed squares.

    The equations are in :func:`functorch_optim.madgrad`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        momentum: share of the former parameter, in [0, 1).
        weight_decay: coefficient of the decay, at least 0.
        eps: added to the denominator outside the root, and to the learning rate, at least 0.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = MADGRAD([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.01,
        momentum: Any = 0.9,
        weight_decay: Any = 0.0,
        eps: Any = 1e-06,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Yogi(Optimizer):
    """Yogi, Adam whose second moment moves by no more than the squared gradient's share.

    The equations are in :func:`functorch_optim.yogi`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        initial_accumulator_value: initial value of v, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Yogi([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.01,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 0.001,
        initial_accumulator_value: Any = 1e-06,
        weight_decay: Any = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Kron(Optimizer):
    """PSGD-Kron, momentum that is preconditioned by a Kronecker product of triangular matrices, so that it is white.

    The equations are in :func:`functorch_optim.kron`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        b1: decay rate of the average of the gradients, in [0, 1).
        weight_decay: coefficient of the decoupled decay, at least 0.
        preconditioner_update_probability: the share of the updates that update the preconditioner, in [0, 1].
        max_size_triangular: the largest dimension with a triangular factor.
        min_ndim_triangular: the fewest dimensions of a parameter with triangular factors.
        memory_save_mode: which factors are diagonal to save memory.
        momentum_into_precond_update: whether to fit the preconditioner to u instead of g.
        precond_lr: learning rate of the preconditioner, in [0, 1).
        precond_init_scale: scale of the first preconditioner, above 0.
        merge_dims: whether all dimensions but the last become one.
        balance_probability: the share of the preconditioner's updates that first balance factors, in [0, 1].
        key: the key of v.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Kron([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.0003,
        b1: Any = 0.9,
        weight_decay: Any = 0.0,
        preconditioner_update_probability: Any = None,
        max_size_triangular: int = 8192,
        min_ndim_triangular: int = 2,
        memory_save_mode: str | None = None,
        momentum_into_precond_update: bool = True,
        precond_lr: Any = 0.1,
        precond_init_scale: Any = 1.0,
        merge_dims: bool = True,
        balance_probability: Any = 0.01,
        key: Any = 0,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...
