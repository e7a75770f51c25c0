"""Generated from ``beyond_torch.py`` by ``make stubs``."""

from typing import Any

from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules

__all__ = [
    "LAMB",
    "LARS",
    "SM3",
    "Lion",
    "NovoGrad",
    "Signum",
]

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
        momentum: decay rate of the average of the gradients, in [0, 1).
        eps: added to the denominator outside the root, at least 0.
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
