"""Generated from ``beyond_torch.py`` by ``make stubs``."""

from typing import Any

from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules

__all__ = [
    "ADOPT",
    "AdEMAMix",
    "Adan",
    "Lion",
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
