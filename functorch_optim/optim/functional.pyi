"""Made of ``functional.py`` by ``make stubs``."""

from collections.abc import Sequence
from typing import Any, NamedTuple

__all__ = [
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "asgd",
    "muon",
    "nadam",
    "radam",
    "rmsprop",
    "rprop",
    "sgd",
    "sparse_adam",
]

class AdadeltaResult(NamedTuple):
    """What :func:`adadelta` changes, in the order of its arguments."""

    params: list[Any]
    square_avgs: list[Any]
    acc_deltas: list[Any]
    state_steps: list[Any]

def adadelta(
    params: Sequence[Any],
    grads: Sequence[Any],
    square_avgs: Sequence[Any],
    acc_deltas: Sequence[Any],
    state_steps: Sequence[Any],
    capturable: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    has_complex: bool = False,
    *,
    lr: Any,
    rho: Any,
    eps: Any,
    weight_decay: Any,
    maximize: bool,
) -> AdadeltaResult:
    """Update lists of parameters and of their state by Adadelta.

    The equations are in :func:`functorch_optim.adadelta`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        square_avgs: ``square_avg`` of each parameter.
        acc_deltas: ``acc_delta`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        capturable: no effect: it says how torch computes, not what.
        foreach: no effect: it says how torch computes, not what.
        differentiable: no effect: it says how torch computes, not what.
        has_complex: no effect: it says how torch computes, not what.
        lr: factor of the delta, at least 0.
        rho: decay rate of both averages, in [0, 1].
        eps: added to both averages inside the roots, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0.
        maximize: whether to ascend.

    Returns:
        ``AdadeltaResult(params, square_avgs, acc_deltas, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = adadelta(
        ...     ones, ones, zeros, zeros, number, lr=1.0, rho=0.9, eps=1e-06, weight_decay=0, maximize=False
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class AdafactorResult(NamedTuple):
    """What :func:`adafactor` changes, in the order of its arguments."""

    params: list[Any]
    row_vars: list[Any]
    col_vars: list[Any]
    variances: list[Any]
    state_steps: list[Any]

def adafactor(
    params: Sequence[Any],
    grads: Sequence[Any],
    row_vars: Sequence[Any],
    col_vars: Sequence[Any],
    variances: Sequence[Any],
    state_steps: Sequence[Any],
    foreach: bool | None = None,
    grad_scale: Any = None,
    found_inf: Any = None,
    has_complex: bool = False,
    *,
    d: Any,
    lr: Any,
    beta2_decay: Any,
    weight_decay: Any,
    eps1: Any,
    eps2: Any,
    maximize: bool,
) -> AdafactorResult:
    """Update lists of parameters and of their state by Adafactor.

    The equations are in :func:`functorch_optim.adafactor`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        row_vars: ``row_var`` of each parameter.
        col_vars: ``col_var`` of each parameter.
        variances: ``variance`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        foreach: no effect: it says how torch computes, not what.
        grad_scale: the number to divide the gradients by.
        found_inf: if it is not zero, nothing changes.
        has_complex: no effect: it says how torch computes, not what.
        d: the threshold of the update's root mean square, at least 1.
        lr: upper bound of the relative step size, at least 0.
        beta2_decay: exponent of the step, at most 0.
        weight_decay: coefficient of the decoupled decay, at least 0.
        eps1: the first of ``eps``, (eps1, eps2), at least 0.
        eps2: the second of ``eps``, (eps1, eps2), at least 0.
        maximize: whether to ascend.

    Returns:
        ``AdafactorResult(params, row_vars, col_vars, variances, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = adafactor(
        ...     ones, ones, [], [], zeros, number, d=1.0, lr=0.01, beta2_decay=-0.8, weight_decay=0.0, eps1=None,
        ...     eps2=0.001, maximize=False
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class AdagradResult(NamedTuple):
    """What :func:`adagrad` changes, in the order of its arguments."""

    params: list[Any]
    state_sums: list[Any]
    state_steps: list[Any]

def adagrad(
    params: Sequence[Any],
    grads: Sequence[Any],
    state_sums: Sequence[Any],
    state_steps: Sequence[Any],
    fused: bool | None = None,
    grad_scale: Any = None,
    found_inf: Any = None,
    has_sparse_grad: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    has_complex: bool = False,
    *,
    lr: Any,
    weight_decay: Any,
    lr_decay: Any,
    eps: Any,
    maximize: bool,
) -> AdagradResult:
    """Update lists of parameters and of their state by Adagrad.

    The equations are in :func:`functorch_optim.adagrad`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        state_sums: ``sum`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        fused: no effect: it says how torch computes, not what.
        grad_scale: the number to divide the gradients by.
        found_inf: if it is not zero, nothing changes.
        has_sparse_grad: no effect: it says how torch computes, not what.
        foreach: no effect: it says how torch computes, not what.
        differentiable: no effect: it says how torch computes, not what.
        has_complex: no effect: it says how torch computes, not what.
        lr: learning rate, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0.
        lr_decay: how fast the learning rate falls, at least 0.
        eps: added to the denominator outside the root, at least 0.
        maximize: whether to ascend.

    Returns:
        ``AdagradResult(params, state_sums, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = adagrad(
        ...     ones, ones, zeros, number, lr=0.01, weight_decay=0, lr_decay=0, eps=1e-10, maximize=False
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class AdamResult(NamedTuple):
    """What :func:`adam` changes, in the order of its arguments."""

    params: list[Any]
    exp_avgs: list[Any]
    exp_avg_sqs: list[Any]
    max_exp_avg_sqs: list[Any]
    state_steps: list[Any]

def adam(
    params: Sequence[Any],
    grads: Sequence[Any],
    exp_avgs: Sequence[Any],
    exp_avg_sqs: Sequence[Any],
    max_exp_avg_sqs: Sequence[Any],
    state_steps: Sequence[Any],
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    grad_scale: Any = None,
    found_inf: Any = None,
    has_complex: bool = False,
    decoupled_weight_decay: bool = False,
    *,
    amsgrad: bool,
    beta1: Any,
    beta2: Any,
    lr: Any,
    weight_decay: Any,
    eps: Any,
    maximize: bool,
) -> AdamResult:
    """Update lists of parameters and of their state by Adam.

    The equations are in :func:`functorch_optim.adam`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        exp_avgs: ``exp_avg`` of each parameter.
        exp_avg_sqs: ``exp_avg_sq`` of each parameter.
        max_exp_avg_sqs: ``max_exp_avg_sq`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        foreach: no effect: it says how torch computes, not what.
        capturable: no effect: it says how torch computes, not what.
        differentiable: no effect: it says how torch computes, not what.
        fused: no effect: it says how torch computes, not what.
        grad_scale: the number to divide the gradients by.
        found_inf: if it is not zero, nothing changes.
        has_complex: no effect: it says how torch computes, not what.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        amsgrad: whether to divide by the largest second moment so far.
        beta1: the first of ``betas``, decay rates of the two moments, each in [0, 1).
        beta2: the second of ``betas``, decay rates of the two moments, each in [0, 1).
        lr: learning rate, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        eps: added to the denominator outside the root, at least 0.
        maximize: whether to ascend.

    Returns:
        ``AdamResult(params, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = adam(
        ...     ones, ones, zeros, zeros, [], number, amsgrad=False, beta1=0.9, beta2=0.999, lr=0.001,
        ...     weight_decay=0, eps=1e-08, maximize=False
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class AdamaxResult(NamedTuple):
    """What :func:`adamax` changes, in the order of its arguments."""

    params: list[Any]
    exp_avgs: list[Any]
    exp_infs: list[Any]
    state_steps: list[Any]

def adamax(
    params: Sequence[Any],
    grads: Sequence[Any],
    exp_avgs: Sequence[Any],
    exp_infs: Sequence[Any],
    state_steps: Sequence[Any],
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    *,
    eps: Any,
    beta1: Any,
    beta2: Any,
    lr: Any,
    weight_decay: Any,
) -> AdamaxResult:
    """Update lists of parameters and of their state by Adamax.

    The equations are in :func:`functorch_optim.adamax`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        exp_avgs: ``exp_avg`` of each parameter.
        exp_infs: ``exp_inf`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        foreach: no effect: it says how torch computes, not what.
        maximize: whether to ascend.
        differentiable: no effect: it says how torch computes, not what.
        capturable: no effect: it says how torch computes, not what.
        has_complex: no effect: it says how torch computes, not what.
        eps: added to the gradient's magnitude, inside the maximum, at least 0.
        beta1: the first of ``betas``, decay rates of the moment and of the norm, each in [0, 1).
        beta2: the second of ``betas``, decay rates of the moment and of the norm, each in [0, 1).
        lr: learning rate, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0.

    Returns:
        ``AdamaxResult(params, exp_avgs, exp_infs, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = adamax(
        ...     ones, ones, zeros, zeros, number, eps=1e-08, beta1=0.9, beta2=0.999, lr=0.002, weight_decay=0
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class AdamWResult(NamedTuple):
    """What :func:`adamw` changes, in the order of its arguments."""

    params: list[Any]
    exp_avgs: list[Any]
    exp_avg_sqs: list[Any]
    max_exp_avg_sqs: list[Any]
    state_steps: list[Any]

def adamw(
    params: Sequence[Any],
    grads: Sequence[Any],
    exp_avgs: Sequence[Any],
    exp_avg_sqs: Sequence[Any],
    max_exp_avg_sqs: Sequence[Any],
    state_steps: Sequence[Any],
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    fused: bool | None = None,
    grad_scale: Any = None,
    found_inf: Any = None,
    has_complex: bool = False,
    *,
    amsgrad: bool,
    beta1: Any,
    beta2: Any,
    lr: Any,
    weight_decay: Any,
    eps: Any,
    maximize: bool,
) -> AdamWResult:
    """Update lists of parameters and of their state by AdamW.

    The equations are in :func:`functorch_optim.adamw`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        exp_avgs: ``exp_avg`` of each parameter.
        exp_avg_sqs: ``exp_avg_sq`` of each parameter.
        max_exp_avg_sqs: ``max_exp_avg_sq`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        foreach: no effect: it says how torch computes, not what.
        capturable: no effect: it says how torch computes, not what.
        differentiable: no effect: it says how torch computes, not what.
        fused: no effect: it says how torch computes, not what.
        grad_scale: the number to divide the gradients by.
        found_inf: if it is not zero, nothing changes.
        has_complex: no effect: it says how torch computes, not what.
        amsgrad: whether to divide by the largest second moment so far.
        beta1: the first of ``betas``, decay rates of the two moments, each in [0, 1).
        beta2: the second of ``betas``, decay rates of the two moments, each in [0, 1).
        lr: learning rate, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        eps: added to the denominator outside the root, at least 0.
        maximize: whether to ascend.

    Returns:
        ``AdamWResult(params, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = adamw(
        ...     ones, ones, zeros, zeros, [], number, amsgrad=False, beta1=0.9, beta2=0.999, lr=0.001,
        ...     weight_decay=0.01, eps=1e-08, maximize=False
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class ASGDResult(NamedTuple):
    """What :func:`asgd` changes, in the order of its arguments."""

    params: list[Any]
    axs: list[Any]
    mus: list[Any]
    etas: list[Any]
    state_steps: list[Any]

def asgd(
    params: Sequence[Any],
    grads: Sequence[Any],
    axs: Sequence[Any],
    mus: Sequence[Any],
    etas: Sequence[Any],
    state_steps: Sequence[Any],
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    *,
    lambd: Any,
    lr: Any,
    t0: Any,
    alpha: Any,
    weight_decay: Any,
) -> ASGDResult:
    """Update lists of parameters and of their state by ASGD.

    The equations are in :func:`functorch_optim.asgd`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        axs: ``ax`` of each parameter.
        mus: ``mu`` of each parameter.
        etas: ``eta`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        foreach: no effect: it says how torch computes, not what.
        maximize: whether to ascend.
        differentiable: no effect: it says how torch computes, not what.
        capturable: no effect: it says how torch computes, not what.
        has_complex: no effect: it says how torch computes, not what.
        lambd: decay of the parameter.
        lr: learning rate, at least 0.
        t0: the update at which averaging starts.
        alpha: exponent of eta's decay.
        weight_decay: coefficient of the L2 penalty, at least 0.

    Returns:
        ``ASGDResult(params, axs, mus, etas, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = asgd(
        ...     ones, ones, zeros, number, number, number, lambd=0.0001, lr=0.01, t0=1000000.0, alpha=0.75,
        ...     weight_decay=0
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class MuonResult(NamedTuple):
    """What :func:`muon` changes, in the order of its arguments."""

    params: list[Any]
    muon_momentum_bufs: list[Any]

def muon(
    params: Sequence[Any],
    grads: Sequence[Any],
    muon_momentum_bufs: Sequence[Any],
    *,
    foreach: bool | None = None,
    lr: Any,
    weight_decay: Any,
    momentum: Any,
    nesterov: bool,
    ns_coefficients: Any,
    ns_steps: int,
    eps: Any,
    adjust_lr_fn: str | None,
    has_complex: bool,
) -> MuonResult:
    """Update lists of parameters and of their state by Muon.

    The equations are in :func:`functorch_optim.muon`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        muon_momentum_bufs: ``momentum_buffer`` of each parameter.
        foreach: no effect: it says how torch computes, not what.
        lr: learning rate, at least 0.
        weight_decay: coefficient of the decoupled decay, at least 0.
        momentum: decay rate of the average of the gradients, at least 0.
        nesterov: whether to use Nesterov momentum.
        ns_coefficients: the three coefficients of the Newton-Schulz polynomial.
        ns_steps: the number of iterations, below 100.
        eps: smallest norm to divide u by.
        adjust_lr_fn: ``"original"`` (also None), ``"match_rms_adamw"`` or ``"spectral_unclamped"``.
        has_complex: no effect: it says how torch computes, not what.

    Returns:
        ``MuonResult(params, muon_momentum_bufs)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2, 2))], [jnp.zeros((2, 2))], [jnp.ones(())]
        >>> new = muon(
        ...     ones, ones, zeros, lr=0.001, weight_decay=0.1, momentum=0.95, nesterov=True,
        ...     ns_coefficients=(3.4445, -4.775, 2.0315), ns_steps=5, eps=1e-07, adjust_lr_fn=None,
        ...     has_complex=False
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class NAdamResult(NamedTuple):
    """What :func:`nadam` changes, in the order of its arguments."""

    params: list[Any]
    exp_avgs: list[Any]
    exp_avg_sqs: list[Any]
    mu_products: list[Any]
    state_steps: list[Any]

def nadam(
    params: Sequence[Any],
    grads: Sequence[Any],
    exp_avgs: Sequence[Any],
    exp_avg_sqs: Sequence[Any],
    mu_products: Sequence[Any],
    state_steps: Sequence[Any],
    decoupled_weight_decay: bool = False,
    foreach: bool | None = None,
    capturable: bool = False,
    differentiable: bool = False,
    has_complex: bool = False,
    maximize: bool = False,
    *,
    beta1: Any,
    beta2: Any,
    lr: Any,
    weight_decay: Any,
    momentum_decay: Any,
    eps: Any,
) -> NAdamResult:
    """Update lists of parameters and of their state by NAdam.

    The equations are in :func:`functorch_optim.nadam`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        exp_avgs: ``exp_avg`` of each parameter.
        exp_avg_sqs: ``exp_avg_sq`` of each parameter.
        mu_products: ``mu_product`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        foreach: no effect: it says how torch computes, not what.
        capturable: no effect: it says how torch computes, not what.
        differentiable: no effect: it says how torch computes, not what.
        has_complex: no effect: it says how torch computes, not what.
        maximize: whether to ascend.
        beta1: the first of ``betas``, decay rates of the two moments, each in [0, 1).
        beta2: the second of ``betas``, decay rates of the two moments, each in [0, 1).
        lr: learning rate, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        momentum_decay: how fast mu rises to beta1, at least 0.
        eps: added to the denominator outside the root, at least 0.

    Returns:
        ``NAdamResult(params, exp_avgs, exp_avg_sqs, mu_products, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = nadam(
        ...     ones, ones, zeros, zeros, number, number, beta1=0.9, beta2=0.999, lr=0.002, weight_decay=0,
        ...     momentum_decay=0.004, eps=1e-08
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class RAdamResult(NamedTuple):
    """What :func:`radam` changes, in the order of its arguments."""

    params: list[Any]
    exp_avgs: list[Any]
    exp_avg_sqs: list[Any]
    state_steps: list[Any]

def radam(
    params: Sequence[Any],
    grads: Sequence[Any],
    exp_avgs: Sequence[Any],
    exp_avg_sqs: Sequence[Any],
    state_steps: Sequence[Any],
    decoupled_weight_decay: bool = False,
    foreach: bool | None = None,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    maximize: bool = False,
    *,
    beta1: Any,
    beta2: Any,
    lr: Any,
    weight_decay: Any,
    eps: Any,
) -> RAdamResult:
    """Update lists of parameters and of their state by RAdam.

    The equations are in :func:`functorch_optim.radam`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        exp_avgs: ``exp_avg`` of each parameter.
        exp_avg_sqs: ``exp_avg_sq`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        foreach: no effect: it says how torch computes, not what.
        differentiable: no effect: it says how torch computes, not what.
        capturable: no effect: it says how torch computes, not what.
        has_complex: no effect: it says how torch computes, not what.
        maximize: whether to ascend.
        beta1: the first of ``betas``, decay rates of the two moments, each in [0, 1).
        beta2: the second of ``betas``, decay rates of the two moments, each in [0, 1).
        lr: learning rate, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        eps: added to the denominator outside the root, at least 0.

    Returns:
        ``RAdamResult(params, exp_avgs, exp_avg_sqs, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = radam(
        ...     ones, ones, zeros, zeros, number, beta1=0.9, beta2=0.999, lr=0.001, weight_decay=0, eps=1e-08
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class RMSpropResult(NamedTuple):
    """What :func:`rmsprop` changes, in the order of its arguments."""

    params: list[Any]
    square_avgs: list[Any]
    grad_avgs: list[Any]
    momentum_buffer_list: list[Any]
    state_steps: list[Any]

def rmsprop(
    params: Sequence[Any],
    grads: Sequence[Any],
    square_avgs: Sequence[Any],
    grad_avgs: Sequence[Any],
    momentum_buffer_list: Sequence[Any],
    state_steps: Sequence[Any],
    foreach: bool | None = None,
    maximize: bool = False,
    differentiable: bool = False,
    capturable: bool = False,
    has_complex: bool = False,
    *,
    lr: Any,
    alpha: Any,
    eps: Any,
    weight_decay: Any,
    momentum: Any,
    centered: bool,
) -> RMSpropResult:
    """Update lists of parameters and of their state by RMSprop.

    The equations are in :func:`functorch_optim.rmsprop`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        square_avgs: ``square_avg`` of each parameter.
        grad_avgs: ``grad_avg`` of each parameter.
        momentum_buffer_list: ``momentum_buffer`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        foreach: no effect: it says how torch computes, not what.
        maximize: whether to ascend.
        differentiable: no effect: it says how torch computes, not what.
        capturable: no effect: it says how torch computes, not what.
        has_complex: no effect: it says how torch computes, not what.
        lr: learning rate, at least 0.
        alpha: decay rate of the averages, at least 0.
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0.
        momentum: factor of the buffer, at least 0.
        centered: whether to divide by the standard deviation instead of the root mean square.

    Returns:
        ``RMSpropResult(params, square_avgs, grad_avgs, momentum_buffer_list, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = rmsprop(
        ...     ones, ones, zeros, [], [], number, lr=0.01, alpha=0.99, eps=1e-08, weight_decay=0, momentum=0,
        ...     centered=False
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class RpropResult(NamedTuple):
    """What :func:`rprop` changes, in the order of its arguments."""

    params: list[Any]
    prevs: list[Any]
    step_sizes: list[Any]
    state_steps: list[Any]

def rprop(
    params: Sequence[Any],
    grads: Sequence[Any],
    prevs: Sequence[Any],
    step_sizes: Sequence[Any],
    state_steps: Sequence[Any],
    foreach: bool | None = None,
    capturable: bool = False,
    maximize: bool = False,
    differentiable: bool = False,
    has_complex: bool = False,
    *,
    step_size_min: Any,
    step_size_max: Any,
    etaminus: Any,
    etaplus: Any,
) -> RpropResult:
    """Update lists of parameters and of their state by Rprop.

    The equations are in :func:`functorch_optim.rprop`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        prevs: ``prev`` of each parameter.
        step_sizes: ``step_size`` of each parameter.
        state_steps: how often each parameter has been updated: arrays of one element, or integers.
        foreach: no effect: it says how torch computes, not what.
        capturable: no effect: it says how torch computes, not what.
        maximize: whether to ascend.
        differentiable: no effect: it says how torch computes, not what.
        has_complex: no effect: it says how torch computes, not what.
        step_size_min: the first of ``step_sizes``, the smallest and the largest step size, enforced from the first
            update on.
        step_size_max: the second of ``step_sizes``, the smallest and the largest step size, enforced from the first
            update on.
        etaminus: the first of ``etas``, (eta_minus, eta_plus), 0 < eta_minus < 1 < eta_plus.
        etaplus: the second of ``etas``, (eta_minus, eta_plus), 0 < eta_minus < 1 < eta_plus.

    Returns:
        ``RpropResult(params, prevs, step_sizes, state_steps)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = rprop(
        ...     ones, ones, zeros, zeros, number, step_size_min=1e-06, step_size_max=50, etaminus=0.5, etaplus=1.2
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class SGDResult(NamedTuple):
    """What :func:`sgd` changes, in the order of its arguments."""

    params: list[Any]
    momentum_buffer_list: list[Any]

def sgd(
    params: Sequence[Any],
    d_p_list: Sequence[Any],
    momentum_buffer_list: Sequence[Any],
    has_sparse_grad: bool = False,
    foreach: bool | None = None,
    fused: bool | None = None,
    grad_scale: Any = None,
    found_inf: Any = None,
    *,
    weight_decay: Any,
    momentum: Any,
    lr: Any,
    dampening: Any,
    nesterov: bool,
    maximize: bool,
) -> SGDResult:
    """Update lists of parameters and of their state by SGD.

    The equations are in :func:`functorch_optim.sgd`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        d_p_list: their gradients; None leaves a parameter and its state as they are.
        momentum_buffer_list: ``momentum_buffer`` of each parameter.
        has_sparse_grad: no effect: it says how torch computes, not what.
        foreach: no effect: it says how torch computes, not what.
        fused: no effect: it says how torch computes, not what.
        grad_scale: the number to divide the gradients by.
        found_inf: if it is not zero, nothing changes.
        weight_decay: coefficient of the L2 penalty, at least 0.
        momentum: factor of the buffer, at least 0.
        lr: learning rate, at least 0.
        dampening: share of the gradient to leave out of the buffer, from the second update on.
        nesterov: whether to use Nesterov momentum; needs momentum and zero dampening.
        maximize: whether to ascend.

    Returns:
        ``SGDResult(params, momentum_buffer_list)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> ones, zeros, number = [jnp.ones((2,))], [jnp.zeros((2,))], [jnp.ones(())]
        >>> new = sgd(
        ...     ones, ones, [], weight_decay=0, momentum=0, lr=0.001, dampening=0, nesterov=False, maximize=False
        ... )
        >>> bool(jnp.all(new.params[0] < 1))
        True
    """

class SparseAdamResult(NamedTuple):
    """What :func:`sparse_adam` changes, in the order of its arguments."""

    params: list[Any]
    exp_avgs: list[Any]
    exp_avg_sqs: list[Any]

def sparse_adam(
    params: Sequence[Any],
    grads: Sequence[Any],
    exp_avgs: Sequence[Any],
    exp_avg_sqs: Sequence[Any],
    state_steps: Sequence[Any],
    *,
    eps: Any,
    beta1: Any,
    beta2: Any,
    lr: Any,
    maximize: bool,
) -> SparseAdamResult:
    """Update lists of parameters and of their state by SparseAdam.

    The equations are in :func:`functorch_optim.sparse_adam`. As in torch, numbers outside their ranges
    are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

    Args:
        params: the parameters.
        grads: their gradients; None leaves a parameter and its state as they are.
        exp_avgs: ``exp_avg`` of each parameter.
        exp_avg_sqs: ``exp_avg_sq`` of each parameter.
        state_steps: the number of this update for each parameter, from 1; the caller counts.
        eps: added to the denominator, above 0.
        beta1: the first of ``betas``, decay rates of the two averages, each in [0, 1).
        beta2: the second of ``betas``, decay rates of the two averages, each in [0, 1).
        lr: learning rate, above 0.
        maximize: whether to ascend.

    Returns:
        ``SparseAdamResult(params, exp_avgs, exp_avg_sqs)``, all lists.

    Raises:
        ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
            option that is not a number. The message names the function, the list and the place.

    Example:
        >>> import jax.numpy as jnp
        >>> import functorch_optim as fo
        >>> table, zeros = jnp.zeros((4, 2)), [jnp.zeros((4, 2))]
        >>> _, grads = fo.value_and_sparse_grad(lambda table: jnp.sum(table[jnp.array([1])]), sparse="")(table)
        >>> options = dict(eps=1e-8, beta1=0.9, beta2=0.999, lr=0.5, maximize=False)
        >>> new = sparse_adam([table], [grads], zeros, zeros, [1], **options)
        >>> new.params[0].round(4).tolist()
        [[0.0, 0.0], [-0.5, -0.5], [0.0, 0.0], [0.0, 0.0]]
    """
