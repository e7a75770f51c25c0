"""SGD with the face of ``torch.optim.SGD``."""

from typing import Any

from functorch_optim.algorithms.sgd import sgd
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules


class SGD(Optimizer):
    """Stochastic gradient descent with momentum; the equations are in :func:`functorch_optim.sgd`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr, momentum, dampening, weight_decay, nesterov, maximize: as for :func:`functorch_optim.sgd`; a number may
            change in ``param_groups`` from step to step.
        foreach: whether small parameters are updated together; None decides by their number.
        fused: stored in the groups and otherwise without effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is looked at.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = SGD([jnp.array([1.0])], lr=0.1, momentum=0.9)
        >>> optimizer.step([jnp.array([2.0])])
        >>> optimizer.state[0]["momentum_buffer"].tolist()
        [2.0]
    """

    constructor = staticmethod(sgd)

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        momentum: Any = 0,
        dampening: Any = 0,
        weight_decay: Any = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        group_rules: GroupRules = (),
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults, group_rules=group_rules)
