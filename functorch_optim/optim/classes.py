"""The algorithms as the classes of ``torch.optim``."""

import functools

from functorch_optim.algorithms.adadelta import adadelta
from functorch_optim.algorithms.adafactor import adafactor
from functorch_optim.algorithms.adagrad import adagrad
from functorch_optim.algorithms.adam import adam
from functorch_optim.algorithms.adamax import adamax
from functorch_optim.algorithms.adamw import adamw
from functorch_optim.algorithms.asgd import asgd
from functorch_optim.algorithms.muon import muon
from functorch_optim.algorithms.nadam import nadam
from functorch_optim.algorithms.normuon import normuon
from functorch_optim.algorithms.radam import radam
from functorch_optim.algorithms.rmsprop import rmsprop
from functorch_optim.algorithms.rprop import rprop
from functorch_optim.algorithms.sgd import sgd
from functorch_optim.algorithms.sparse_adam import sparse_adam
from functorch_optim.optim.param_groups import GroupRules
from functorch_optim.optim.signatures import Declared
from functorch_optim.torch_tensors import is_tensor
from functorch_optim.typing import OptionValues, PyTree

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Muon",
    "NAdam",
    "NorMuon",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
]


class SGD(
    Declared,
    of=sgd,
    args="lr momentum dampening weight_decay nesterov * maximize foreach differentiable fused",
):
    """Stochastic gradient descent with momentum.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = SGD([jnp.array([1.0])], lr=0.1, momentum=0.9)
        >>> optimizer.step([jnp.array([2.0])])
        >>> optimizer.state[0]["momentum_buffer"].tolist()
        [2.0]
    """


class Adam(
    Declared,
    of=adam,
    args="lr betas eps weight_decay amsgrad * foreach maximize capturable differentiable fused decoupled_weight_decay",
    last="maximize foreach capturable differentiable fused decoupled_weight_decay",
):
    """Adam, with AMSGrad and with coupled or decoupled weight decay.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adam({"w": jnp.array([1.0])}, lr=0.1)
        >>> optimizer.step({"w": jnp.array([2.0])})
        >>> [round(x, 6) for x in optimizer.params["w"].tolist()]
        [0.9]
    """

    def _begin(self, params: PyTree, options: OptionValues, group_rules: GroupRules) -> None:
        """Apply torch's rules for arrays as options."""
        lr, betas, together = options["lr"], options["betas"], options["foreach"] and not options["capturable"]
        arrays = [is_tensor(beta) for beta in betas]
        if is_tensor(lr) and together:
            raise ValueError("lr as a Tensor is not supported for capturable=False and foreach=True")
        if any(arrays) and not all(arrays):
            raise ValueError("betas must be either both floats or both Tensors")
        if any(arrays) and together:
            raise ValueError("betas[0] as a Tensor is not supported for capturable=False and foreach=True")
        super()._begin(params, {**options, "betas": tuple(betas) if is_tensor(betas) else betas}, group_rules)


class AdamW(
    Adam,
    of=adamw,
    args="lr betas eps weight_decay amsgrad * maximize foreach capturable differentiable fused",
):
    """AdamW, Adam with decoupled weight decay.

    The decay stays decoupled when you load an Adam's state.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"bias": jnp.ones(1), "kernel": jnp.ones(1)}
        >>> optimizer = AdamW(params, lr=0.1, weight_decay=0.5, group_rules=[("bias", {"weight_decay": 0.0})])
        >>> optimizer.step({"bias": jnp.zeros(1), "kernel": jnp.zeros(1)})
        >>> [round(optimizer.params[name].item(), 6) for name in params]
        [1.0, 0.95]
    """

    constructor = adam  # as in torch, a write to the option in a group switches to coupled decay
    forced = {"decoupled_weight_decay": True}  # noqa: RUF012 a constant


class Adadelta(
    Declared,
    of=adadelta,
    args="lr rho eps weight_decay foreach * capturable maximize differentiable",
    last="maximize capturable foreach differentiable",
):
    """Adadelta, a step size from the ratio of two running averages."""


class Adafactor(Declared, of=adafactor, args="lr beta2_decay eps d weight_decay * foreach maximize"):
    """Adafactor, with the second moments of a matrix factored into a row and a column."""


class Adagrad(
    Declared,
    of=adagrad,
    args="lr lr_decay weight_decay initial_accumulator_value eps foreach * maximize differentiable fused",
    last="eps weight_decay initial_accumulator_value foreach maximize differentiable fused",
):
    """Adagrad, a step size that falls with the sum of squared gradients."""


class Adamax(Declared, of=adamax, args="lr betas eps weight_decay foreach * maximize differentiable capturable"):
    """Adamax, Adam with the infinity norm instead of the second moment."""


class ASGD(Declared, of=asgd, args="lr lambd alpha t0 weight_decay foreach maximize differentiable capturable"):
    """ASGD, averaged stochastic gradient descent; the average is ``state[name]["ax"]``."""


class NAdam(
    Declared,
    of=nadam,
    args="lr betas eps weight_decay momentum_decay decoupled_weight_decay * foreach maximize capturable differentiable",
    last="maximize foreach capturable differentiable",
):
    """NAdam, Adam with Nesterov momentum."""


class RAdam(
    Declared,
    of=radam,
    args="lr betas eps weight_decay decoupled_weight_decay * foreach maximize capturable differentiable",
    last="maximize foreach capturable decoupled_weight_decay differentiable",
):
    """RAdam, Adam with rectified first steps."""


class RMSprop(
    Declared,
    of=rmsprop,
    args="lr alpha eps weight_decay momentum centered capturable foreach maximize differentiable",
    last="momentum alpha eps centered weight_decay capturable foreach maximize differentiable",
):
    """RMSprop, gradients divided by their root mean square."""


class Rprop(
    Declared,
    of=rprop,
    args="lr etas step_sizes * capturable foreach maximize differentiable",
    last="foreach maximize differentiable capturable",
):
    """Rprop, step sizes that grow while the gradient keeps its sign; ``lr`` is the initial one."""


class SparseAdam(Declared, of=sparse_adam, args="lr betas eps maximize"):
    """Adam on the rows that row-sparse gradients name.

    The parameters are dense and real; a complex one raises a ValueError.

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


class Muon(
    Declared,
    of=functools.partial(muon, batched=False),
    args="lr weight_decay momentum nesterov ns_coefficients eps ns_steps adjust_lr_fn batched reshape",
):
    """Muon, momentum orthogonalized by Newton-Schulz iterations.

    All parameters are matrices, or with ``batched=True`` or ``reshape``, arrays of more than two dimensions; any other
    one raises a ValueError that names it. ``batched`` and ``reshape`` are in the groups only if you pass them.
    """

    def _begin(self, params: PyTree, options: OptionValues, group_rules: GroupRules) -> None:
        given = {k: v for k, v in options.items() if k not in ("batched", "reshape") or v not in (False, None)}
        super()._begin(params, given, group_rules)


class NorMuon(
    Muon,
    of=functools.partial(normuon, batched=False),
    args="lr weight_decay momentum beta2 nesterov ns_coefficients eps ns_steps adjust_lr_fn batched reshape",
):
    """Muon, with each output's row divided by the root mean square of its past updates.

    Parameters are as for :class:`Muon`. The state's keys are the authors'.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = NorMuon({"w": jnp.zeros((2, 3))}, lr=0.1)
        >>> optimizer.step({"w": jnp.ones((2, 3))})
        >>> {key: value.shape for key, value in optimizer.state["w"].items()}
        {'momentum_buffer': (2, 3), 'second_momentum_buffer': (2, 1)}
    """
