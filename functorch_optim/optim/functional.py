"""The functions of torch's ``torch.optim.functional`` (2.15): one update of lists of arrays and of their state.

Arguments and their order are torch's. torch changes parameters and state in place and returns nothing; arrays cannot
change, so each function returns a named tuple of the lists that torch changes, under the names of the arguments and in
their order. The steps are among them, except in :func:`sparse_adam`, whose caller counts. Everything may be traced:
arrays, counts and numbers.

Complex gradients are torch's, the conjugates of what :func:`jax.grad` returns. Ranges of options are not checked, as in
torch. ``grad_scale`` and ``found_inf`` act as in torch's fused functions: the first divides the gradients, and if
the second is not zero, nothing changes.

Example:
    >>> import jax.numpy as jnp
    >>> from functorch_optim.optim import functional
    >>> options = dict(amsgrad=False, beta1=0.9, beta2=0.999, lr=0.5, weight_decay=0.0, eps=1e-8, maximize=False)
    >>> params, averages, squares, steps = [jnp.ones(2)], [jnp.zeros(2)], [jnp.zeros(2)], [jnp.zeros(())]
    >>> for _ in range(2):
    ...     grads = params  # of sum(p**2) / 2
    ...     params, averages, squares, _, steps = functional.adam(
    ...         params, grads, averages, squares, [], steps, **options
    ...     )
    >>> [round(x, 4) for x in params[0].tolist()], steps[0].item()
    ([0.0339, 0.0339], 2.0)
"""

import functools

from functorch_optim.algorithms.adadelta import adadelta as _adadelta
from functorch_optim.algorithms.adafactor import adafactor as _adafactor
from functorch_optim.algorithms.adagrad import adagrad as _adagrad
from functorch_optim.algorithms.adam import adam as _adam
from functorch_optim.algorithms.adamax import adamax as _adamax
from functorch_optim.algorithms.adamw import adamw as _adamw
from functorch_optim.algorithms.asgd import asgd as _asgd
from functorch_optim.algorithms.muon import muon as _muon
from functorch_optim.algorithms.nadam import nadam as _nadam
from functorch_optim.algorithms.radam import radam as _radam
from functorch_optim.algorithms.rmsprop import rmsprop as _rmsprop
from functorch_optim.algorithms.rprop import rprop as _rprop
from functorch_optim.algorithms.sgd import sgd as _sgd
from functorch_optim.algorithms.sparse_adam import sparse_adam as _sparse_adam
from functorch_optim.optim.list_functions import list_function

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

_SPARSE = """\
    >>> import jax.numpy as jnp
    >>> import functorch_optim as fo
    >>> table, zeros = jnp.zeros((4, 2)), [jnp.zeros((4, 2))]
    >>> _, grads = fo.value_and_sparse_grad(lambda table: jnp.sum(table[jnp.array([1])]), sparse="")(table)
    >>> options = dict(eps=1e-8, beta1=0.9, beta2=0.999, lr=0.5, maximize=False)
    >>> new = sparse_adam([table], [grads], zeros, zeros, [1], **options)
    >>> new.params[0].round(4).tolist()
    [[0.0, 0.0], [-0.5, -0.5], [0.0, 0.0], [0.0, 0.0]]"""

adadelta, AdadeltaResult = list_function(
    "Adadelta",
    _adadelta,
    "params grads square_avgs acc_deltas state_steps capturable foreach differentiable has_complex * lr rho "
    "eps weight_decay maximize",
)

adafactor, AdafactorResult = list_function(
    "Adafactor",
    _adafactor,
    "params grads row_vars col_vars variances state_steps foreach grad_scale found_inf has_complex * d lr "
    "beta2_decay weight_decay eps1 eps2 maximize",
)

adagrad, AdagradResult = list_function(
    "Adagrad",
    _adagrad,
    "params grads state_sums state_steps fused grad_scale found_inf has_sparse_grad foreach differentiable "
    "has_complex * lr weight_decay lr_decay eps maximize",
)

adam, AdamResult = list_function(
    "Adam",
    _adam,
    "params grads exp_avgs exp_avg_sqs max_exp_avg_sqs state_steps foreach capturable differentiable fused "
    "grad_scale found_inf has_complex decoupled_weight_decay * amsgrad beta1 beta2 lr weight_decay eps "
    "maximize",
)

adamax, AdamaxResult = list_function(
    "Adamax",
    _adamax,
    "params grads exp_avgs exp_infs state_steps foreach maximize differentiable capturable has_complex * eps "
    "beta1 beta2 lr weight_decay",
)

adamw, AdamWResult = list_function(
    "AdamW",
    _adamw,
    "params grads exp_avgs exp_avg_sqs max_exp_avg_sqs state_steps foreach capturable differentiable fused "
    "grad_scale found_inf has_complex * amsgrad beta1 beta2 lr weight_decay eps maximize",
)

asgd, ASGDResult = list_function(
    "ASGD",
    _asgd,
    "params grads axs mus etas state_steps foreach maximize differentiable capturable has_complex * lambd lr "
    "t0 alpha weight_decay",
)

muon, MuonResult = list_function(
    "Muon",
    functools.partial(_muon, batched=False),
    "params grads muon_momentum_bufs * foreach lr weight_decay momentum nesterov ns_coefficients ns_steps eps "
    "adjust_lr_fn has_complex",
    refused={
        "foreach": RuntimeError("Foreach is not supported for Muon yet"),
        "has_complex": ValueError("Complex parameters are not supported"),
    },
)

nadam, NAdamResult = list_function(
    "NAdam",
    _nadam,
    "params grads exp_avgs exp_avg_sqs mu_products state_steps decoupled_weight_decay foreach capturable "
    "differentiable has_complex maximize * beta1 beta2 lr weight_decay momentum_decay eps",
)

radam, RAdamResult = list_function(
    "RAdam",
    _radam,
    "params grads exp_avgs exp_avg_sqs state_steps decoupled_weight_decay foreach differentiable capturable "
    "has_complex maximize * beta1 beta2 lr weight_decay eps",
)

rmsprop, RMSpropResult = list_function(
    "RMSprop",
    _rmsprop,
    "params grads square_avgs grad_avgs momentum_buffer_list state_steps foreach maximize differentiable "
    "capturable has_complex * lr alpha eps weight_decay momentum centered",
)

rprop, RpropResult = list_function(
    "Rprop",
    _rprop,
    "params grads prevs step_sizes state_steps foreach capturable maximize differentiable has_complex * "
    "step_size_min step_size_max etaminus etaplus",
)

sgd, SGDResult = list_function(
    "SGD",
    _sgd,
    "params d_p_list momentum_buffer_list has_sparse_grad foreach fused grad_scale found_inf * weight_decay "
    "momentum lr dampening nesterov maximize",
)

sparse_adam, SparseAdamResult = list_function(
    "SparseAdam",
    _sparse_adam,
    "params grads exp_avgs exp_avg_sqs state_steps * eps beta1 beta2 lr maximize",
    counts=False,
    example=_SPARSE,
)
