"""Adafactor with the face of ``torch.optim.Adafactor``."""

from typing import Any

from functorch_optim.algorithms.adafactor import adafactor
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules


class Adafactor(Optimizer):
    """Adafactor, second moments of matrices as the product of a row and a column; the equations are in
    :func:`functorch_optim.adafactor`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr, beta2_decay, eps, d, weight_decay, maximize: as for :func:`functorch_optim.adafactor`; a number may
            change in ``param_groups`` from step to step.
        foreach: stored in the groups and otherwise without effect.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is looked at.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adafactor([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    constructor = staticmethod(adafactor)

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-2,
        beta2_decay: Any = -0.8,
        eps: Any = (None, 1e-3),
        d: Any = 1.0,
        weight_decay: Any = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        group_rules: GroupRules = (),
    ) -> None:
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults, group_rules=group_rules)
