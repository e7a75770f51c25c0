"""RMSprop with the face of ``torch.optim.RMSprop``."""

from typing import Any

from functorch_optim.algorithms.rmsprop import rmsprop
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules


class RMSprop(Optimizer):
    """RMSprop, gradients over the root of their mean square; the equations are in :func:`functorch_optim.rmsprop`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr, alpha, eps, weight_decay, momentum, centered, maximize: as for :func:`functorch_optim.rmsprop`; a number
            may change in ``param_groups`` from step to step.
        foreach: whether small parameters are updated together; None decides by their number.
        capturable: stored in the groups and otherwise without effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is looked at.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = RMSprop([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    constructor = staticmethod(rmsprop)

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        alpha: Any = 0.99,
        eps: Any = 1e-8,
        weight_decay: Any = 0,
        momentum: Any = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        group_rules: GroupRules = (),
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, group_rules=group_rules)
