"""Rprop with the face of ``torch.optim.Rprop``."""

from typing import Any

from functorch_optim.algorithms.rprop import rprop
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules


class Rprop(Optimizer):
    """Rprop, step sizes that grow while the gradient keeps its sign; ``lr`` is the first of them; the equations are
    in :func:`functorch_optim.rprop`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr, etas, step_sizes, maximize: as for :func:`functorch_optim.rprop`; a number may change in
            ``param_groups`` from step to step.
        foreach: whether small parameters are updated together; None decides by their number.
        capturable: stored in the groups and otherwise without effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is looked at.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Rprop([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    constructor = staticmethod(rprop)

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        etas: tuple[Any, Any] = (0.5, 1.2),
        step_sizes: tuple[Any, Any] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        group_rules: GroupRules = (),
    ) -> None:
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
        }
        super().__init__(params, defaults, group_rules=group_rules)
