"""SparseAdam with the face of ``torch.optim.SparseAdam``."""

from typing import Any

from functorch_optim.algorithms.sparse_adam import sparse_adam
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules


class SparseAdam(Optimizer):
    """Adam on the rows that row-sparse gradients name; the equations are in :func:`functorch_optim.sparse_adam`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes; dense and real.
        lr, betas, eps, maximize: as for :func:`functorch_optim.sparse_adam`; a number may change in ``param_groups``
            from step to step.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is looked at; a complex
            parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = SparseAdam({"table": jnp.zeros((4, 2))}, lr=0.5)
        >>> loss = lambda params, ids: jnp.sum(params["table"][ids])
        >>> optimizer.backward(loss, jnp.array([1, 1]), sparse="table").item()
        0.0
        >>> optimizer.step()
        >>> optimizer.params["table"].round(4).tolist()
        [[0.0, 0.0], [-0.5, -0.5], [0.0, 0.0], [0.0, 0.0]]
    """

    constructor = staticmethod(sparse_adam)

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: Any = (0.9, 0.999),
        eps: Any = 1e-8,
        maximize: bool = False,
        *,
        group_rules: GroupRules = (),
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize}, group_rules=group_rules)
