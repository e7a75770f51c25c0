"""ASGD with the face of ``torch.optim.ASGD``."""

from typing import Any

from functorch_optim.algorithms.asgd import asgd
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules


class ASGD(Optimizer):
    """ASGD, averaged stochastic gradient descent; the average is ``state[name]["ax"]``; the equations are in
    :func:`functorch_optim.asgd`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr, lambd, alpha, t0, weight_decay, maximize: as for :func:`functorch_optim.asgd`; a number may change in
            ``param_groups`` from step to step.
        foreach: whether small parameters are updated together; None decides by their number.
        capturable: stored in the groups and otherwise without effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is looked at.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = ASGD([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    constructor = staticmethod(asgd)

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        lambd: Any = 1e-4,
        alpha: Any = 0.75,
        t0: Any = 1e6,
        weight_decay: Any = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        group_rules: GroupRules = (),
    ) -> None:
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults, group_rules=group_rules)
