"""RAdam with the face of ``torch.optim.RAdam``."""

from typing import Any

from functorch_optim.algorithms.radam import radam
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules


class RAdam(Optimizer):
    """RAdam, Adam whose first steps are rectified; the equations are in :func:`functorch_optim.radam`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr, betas, eps, weight_decay, decoupled_weight_decay, maximize: as for :func:`functorch_optim.radam`; a
            number may change in ``param_groups`` from step to step.
        foreach: whether small parameters are updated together; None decides by their number.
        capturable: stored in the groups and otherwise without effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is looked at.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = RAdam([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    constructor = staticmethod(radam)

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        group_rules: GroupRules = (),
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, group_rules=group_rules)
