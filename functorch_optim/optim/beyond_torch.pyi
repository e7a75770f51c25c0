"""Generated from ``beyond_torch.py`` by ``make stubs``."""

from typing import Any

from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules

__all__ = [
    "ADOPT",
    "MADGRAD",
    "AdEMAMix",
    "AdaBelief",
    "Adan",
    "LaProp",
    "Lion",
    "Yogi",
]

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
