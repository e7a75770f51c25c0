"""Generated from ``classes.py`` by ``make stubs``."""

from typing import Any

from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules

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

class SGD(Optimizer):
    """Stochastic gradient descent with momentum.

    The equations are in :func:`functorch_optim.sgd`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        momentum: factor of the buffer, at least 0.
        dampening: share of the gradient to leave out of the buffer, from the second update on.
        weight_decay: coefficient of the L2 penalty, at least 0.
        nesterov: whether to use Nesterov momentum; needs momentum and zero dampening.
        maximize: whether to ascend.
        foreach: whether to update small parameters together; None decides by their number.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        fused: stored in the groups, without any other effect.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = SGD([jnp.array([1.0])], lr=0.1, momentum=0.9)
        >>> optimizer.step([jnp.array([2.0])])
        >>> optimizer.state[0]["momentum_buffer"].tolist()
        [2.0]
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        momentum: Any = 0,
        dampening: Any = 0,
        weight_decay: Any = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Adam(Optimizer):
    """Adam, with AMSGrad and with coupled or decoupled weight decay.

    The equations are in :func:`functorch_optim.adam`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        amsgrad: whether to divide by the largest second moment so far.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        capturable: stored in the groups, without any other effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        fused: stored in the groups, without any other effect.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adam({"w": jnp.array([1.0])}, lr=0.1)
        >>> optimizer.step({"w": jnp.array([2.0])})
        >>> [round(x, 6) for x in optimizer.params["w"].tolist()]
        [0.9]
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-08,
        weight_decay: Any = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class AdamW(Adam):
    """AdamW, Adam with decoupled weight decay.

    The equations are in :func:`functorch_optim.adamw`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        amsgrad: whether to divide by the largest second moment so far.
        maximize: whether to ascend.
        foreach: whether to update small parameters together; None decides by their number.
        capturable: stored in the groups, without any other effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        fused: stored in the groups, without any other effect.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    The decay stays decoupled when you load an Adam's state.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"bias": jnp.ones(1), "kernel": jnp.ones(1)}
        >>> optimizer = AdamW(params, lr=0.1, weight_decay=0.5, group_rules=[("bias", {"weight_decay": 0.0})])
        >>> optimizer.step({"bias": jnp.zeros(1), "kernel": jnp.zeros(1)})
        >>> [round(optimizer.params[name].item(), 6) for name in params]
        [1.0, 0.95]
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-08,
        weight_decay: Any = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Adadelta(Optimizer):
    """Adadelta, a step size from the ratio of two running averages.

    The equations are in :func:`functorch_optim.adadelta`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: factor of the delta, at least 0.
        rho: decay rate of both averages, in [0, 1].
        eps: added to both averages inside the roots, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0.
        foreach: whether to update small parameters together; None decides by their number.
        capturable: stored in the groups, without any other effect.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adadelta([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 1.0,
        rho: Any = 0.9,
        eps: Any = 1e-06,
        weight_decay: Any = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Adafactor(Optimizer):
    """Adafactor, with the second moments of a matrix factored into a row and a column.

    The equations are in :func:`functorch_optim.adafactor`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: upper bound of the relative step size, at least 0.
        beta2_decay: exponent of the step, at most 0.
        eps: (eps1, eps2), at least 0.
        d: the threshold of the update's root mean square, at least 1.
        weight_decay: coefficient of the decoupled decay, at least 0.
        foreach: stored in the groups, without any other effect.
        maximize: whether to ascend.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adafactor([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.01,
        beta2_decay: Any = -0.8,
        eps: tuple[Any, Any] = (None, 0.001),
        d: Any = 1.0,
        weight_decay: Any = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Adagrad(Optimizer):
    """Adagrad, a step size that falls with the sum of squared gradients.

    The equations are in :func:`functorch_optim.adagrad`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        lr_decay: how fast the learning rate falls, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0.
        initial_accumulator_value: initial value of s, at least 0.
        eps: added to the denominator outside the root, at least 0.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        fused: stored in the groups, without any other effect.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adagrad([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.01,
        lr_decay: Any = 0,
        weight_decay: Any = 0,
        initial_accumulator_value: Any = 0,
        eps: Any = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Adamax(Optimizer):
    """Adamax, Adam with the infinity norm instead of the second moment.

    The equations are in :func:`functorch_optim.adamax`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the moment and of the norm, each in [0, 1).
        eps: added to the gradient's magnitude, inside the maximum, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        capturable: stored in the groups, without any other effect.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Adamax([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.002,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-08,
        weight_decay: Any = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class ASGD(Optimizer):
    """ASGD, averaged stochastic gradient descent; the average is ``state[name]["ax"]``.

    The equations are in :func:`functorch_optim.asgd`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        lambd: decay of the parameter.
        alpha: exponent of eta's decay.
        t0: the update at which averaging starts.
        weight_decay: coefficient of the L2 penalty, at least 0.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        capturable: stored in the groups, without any other effect.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = ASGD([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.01,
        lambd: Any = 0.0001,
        alpha: Any = 0.75,
        t0: Any = 1000000.0,
        weight_decay: Any = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class NAdam(Optimizer):
    """NAdam, Adam with Nesterov momentum.

    The equations are in :func:`functorch_optim.nadam`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        momentum_decay: how fast mu rises to beta1, at least 0.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        capturable: stored in the groups, without any other effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = NAdam([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.002,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-08,
        weight_decay: Any = 0,
        momentum_decay: Any = 0.004,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class RAdam(Optimizer):
    """RAdam, Adam with rectified first steps.

    The equations are in :func:`functorch_optim.radam`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the decay, at least 0.
        decoupled_weight_decay: whether the decay acts on the parameter instead of the gradient.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        capturable: stored in the groups, without any other effect.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = RAdam([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-08,
        weight_decay: Any = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class RMSprop(Optimizer):
    """RMSprop, gradients divided by their root mean square.

    The equations are in :func:`functorch_optim.rmsprop`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        alpha: decay rate of the averages, at least 0.
        eps: added to the denominator outside the root, at least 0.
        weight_decay: coefficient of the L2 penalty, at least 0.
        momentum: factor of the buffer, at least 0.
        centered: whether to divide by the standard deviation instead of the root mean square.
        capturable: stored in the groups, without any other effect.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = RMSprop([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.01,
        alpha: Any = 0.99,
        eps: Any = 1e-08,
        weight_decay: Any = 0,
        momentum: Any = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Rprop(Optimizer):
    """Rprop, step sizes that grow while the gradient keeps its sign; ``lr`` is the initial one.

    The equations are in :func:`functorch_optim.rprop`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: initial step size, at least 0.
        etas: (eta_minus, eta_plus), 0 < eta_minus < 1 < eta_plus.
        step_sizes: the smallest and the largest step size, enforced from the first update on.
        capturable: stored in the groups, without any other effect.
        foreach: whether to update small parameters together; None decides by their number.
        maximize: whether to ascend.
        differentiable: whether a step may be traced, as for :class:`functorch_optim.optim.Optimizer`.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Rprop([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.01,
        etas: tuple[Any, Any] = (0.5, 1.2),
        step_sizes: tuple[Any, Any] = (1e-06, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class SparseAdam(Optimizer):
    """Adam on the rows that row-sparse gradients name.

    The equations are in :func:`functorch_optim.sparse_adam`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, above 0.
        betas: decay rates of the two averages, each in [0, 1).
        eps: added to the denominator, above 0.
        maximize: whether to ascend.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    The parameters are dense and real; a complex one raises a ValueError.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

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

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        betas: tuple[Any, Any] = (0.9, 0.999),
        eps: Any = 1e-08,
        maximize: bool = False,
        *,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class Muon(Optimizer):
    """Muon, momentum orthogonalized by Newton-Schulz iterations.

    The equations are in :func:`functorch_optim.muon`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        weight_decay: coefficient of the decoupled decay, at least 0.
        momentum: decay rate of the average of the gradients, at least 0.
        nesterov: whether to use Nesterov momentum.
        ns_coefficients: the three coefficients of the Newton-Schulz polynomial.
        eps: smallest norm to divide u by.
        ns_steps: the number of iterations, below 100.
        adjust_lr_fn: ``"original"`` (also None), ``"match_rms_adamw"`` or ``"spectral_unclamped"``.
        batched: whether a parameter of more than two dimensions is a stack of matrices.
        reshape: how a parameter of more than two dimensions becomes one matrix instead.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    All parameters are matrices, or with ``batched=True`` or ``reshape``, arrays of more than two dimensions; any other
    one raises a ValueError that names it. ``batched`` and ``reshape`` are in the groups only if you pass them.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Muon([jnp.ones((2, 2))])
        >>> optimizer.step([jnp.ones((2, 2))])
        >>> bool(jnp.all(optimizer.params[0] < 1))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.001,
        weight_decay: Any = 0.1,
        momentum: Any = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[Any, Any, Any] = (3.4445, -4.775, 2.0315),
        eps: Any = 1e-07,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        batched: bool = False,
        reshape: str | None = None,
        *,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...

class NorMuon(Muon):
    """Muon, with each output's row divided by the root mean square of its past updates.

    The equations are in :func:`functorch_optim.normuon`, with more about the options.

    Args:
        params: the parameters, in any form that :class:`functorch_optim.optim.Optimizer` takes.
        lr: learning rate, at least 0.
        weight_decay: coefficient of the decoupled decay, at least 0.
        momentum: decay rate of the average of the gradients, at least 0.
        beta2: decay rate of the squares, at least 0.
        nesterov: whether to use Nesterov momentum.
        ns_coefficients: the three coefficients of the Newton-Schulz polynomial.
        eps: smallest norm to divide u by.
        ns_steps: the number of iterations, below 100.
        adjust_lr_fn: ``"original"`` (also None), ``"match_rms_adamw"`` or ``"spectral_unclamped"``.
        batched: whether a parameter of more than two dimensions is a stack of matrices.
        reshape: how a parameter of more than two dimensions becomes one matrix instead.
        state_dtype: the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`.
        group_rules: ``(regular expression, options)`` pairs, as for :class:`functorch_optim.optim.Optimizer`.

    A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.

    Parameters are as for :class:`Muon`. The state's keys are the authors'.

    Raises:
        ValueError: an option outside its range, with torch's message, before ``params`` is read.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = NorMuon({"w": jnp.zeros((2, 3))}, lr=0.1)
        >>> optimizer.step({"w": jnp.ones((2, 3))})
        >>> {key: value.shape for key, value in optimizer.state["w"].items()}
        {'momentum_buffer': (2, 3), 'second_momentum_buffer': (2, 1)}
    """

    def __init__(
        self,
        params: Any,
        lr: Any = 0.02,
        weight_decay: Any = 0.0,
        momentum: Any = 0.95,
        beta2: Any = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[Any, Any, Any] = (3.4445, -4.775, 2.0315),
        eps: Any = 1e-07,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        batched: bool = False,
        reshape: str | None = None,
        *,
        state_dtype: Any = None,
        group_rules: GroupRules = (),
    ) -> None: ...
