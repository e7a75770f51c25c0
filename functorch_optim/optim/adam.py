"""Adam and AdamW with the face of ``torch.optim``."""

from typing import Any

from functorch_optim.algorithms.adam import adam
from functorch_optim.algorithms.adamw import adamw
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules
from functorch_optim.torch_tensors import is_tensor


class Adam(Optimizer):
    """Adam; the equations are in :func:`functorch_optim.adam`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr, betas, eps, weight_decay, amsgrad, maximize, decoupled_weight_decay: as for :func:`functorch_optim.adam`; a
            number may change in ``param_groups`` from step to step.
        foreach: whether small parameters are updated together; None decides by their number.
        capturable, fused: stored in the groups and otherwise without effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is looked at.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adam({"w": jnp.array([1.0])}, lr=0.1)
        >>> optimizer.step({"w": jnp.array([2.0])})
        >>> [round(x, 6) for x in optimizer.params["w"].tolist()]
        [0.9]
    """

    constructor = staticmethod(adam)

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        group_rules: GroupRules = (),
    ) -> None:
        _check_tensors(lr, betas, foreach, capturable)
        defaults = {
            "lr": lr,
            "betas": tuple(betas) if is_tensor(betas) else betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, group_rules=group_rules)


class AdamW(Adam):
    """AdamW; the equations are in :func:`functorch_optim.adamw`.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr, betas, eps, weight_decay, amsgrad, maximize: as for :func:`functorch_optim.adamw`; a number may change in
            ``param_groups`` from step to step. The decay is decoupled also after an Adam's state was loaded.
        foreach: whether small parameters are updated together; None decides by their number.
        capturable, fused: stored in the groups and otherwise without effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is looked at.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"bias": jnp.ones(1), "kernel": jnp.ones(1)}
        >>> optimizer = AdamW(params, lr=0.1, weight_decay=0.5, group_rules=[("bias", {"weight_decay": 0.0})])
        >>> optimizer.step({"bias": jnp.zeros(1), "kernel": jnp.zeros(1)})
        >>> [round(optimizer.params[name].item(), 6) for name in params]
        [1.0, 0.95]
    """

    constructor = staticmethod(adamw)
    forced = {"decoupled_weight_decay": True}  # noqa: RUF012 a constant

    def __init__(
        self,
        params: Any,
        lr: Any = 1e-3,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-8,
        weight_decay: Any = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        group_rules: GroupRules = (),
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
            group_rules=group_rules,
        )


def _check_tensors(lr: Any, betas: Any, foreach: Any, capturable: Any) -> None:
    """torch's rules for arrays as options."""
    arrays = [is_tensor(beta) for beta in betas]
    if is_tensor(lr) and foreach and not capturable:
        raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
    if any(arrays) and not all(arrays):
        raise ValueError("betas must be either both floats or both Tensors")
    if any(arrays) and foreach and not capturable:
        raise ValueError("betas[0] as a Tensor is not supported for capturable=False and foreach=True")
