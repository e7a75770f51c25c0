"""Directions of the algorithms outside Adam's family: links without a learning rate."""

from collections.abc import Sequence

from functorch_optim.algorithms.adadelta import adadelta
from functorch_optim.algorithms.adagrad import adagrad
from functorch_optim.algorithms.muon import muon
from functorch_optim.algorithms.rmsprop import rmsprop
from functorch_optim.algorithms.sgd import sgd
from functorch_optim.base import GradientTransformation
from functorch_optim.hyperparams import BetaOption, Hyperparameter
from functorch_optim.newton_schulz import Polynomial
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.direction import scale_by
from functorch_optim.typing import PyTree


@explains_names
def scale_by_momentum(
    momentum: Hyperparameter = 0.9, dampening: Hyperparameter = 0, nesterov: bool = False, foreach: bool = False
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.sgd`, as :func:`functorch_optim.scale_by` does.

    With g the incoming gradient::

        b <- g                                   at the first update
        b <- momentum * b + (1 - dampening) * g  afterwards
        g + momentum * b                         if nesterov
        b                                        otherwise

    It is linear, so a learning rate may also come before it: the buffer then holds gradients that are multiplied by
    the rates of their updates. Without dampening it is optax's ``trace``.

    Args:
        momentum: factor of the buffer, at least 0; only the Python number 0 means no momentum, and no buffer.
        dampening: share of the gradient that is left out of the buffer, from the second update on.
        nesterov: whether to use Nesterov momentum; needs momentum and zero dampening.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`functorch_optim.SGDState`.

    Raises:
        ValueError: an option is out of range, with torch's message.

    Source: as for :func:`functorch_optim.sgd`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_momentum(0.5)
        >>> _, state = tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))
        >>> tx.update(jnp.array([2.0]), state)[0].tolist()
        [3.0]
    """
    return scale_by(sgd(momentum=momentum, dampening=dampening, nesterov=nesterov, foreach=foreach))


@explains_names
def scale_by_rms(
    alpha: BetaOption = 0.99,
    eps: Hyperparameter = 1e-8,
    centered: bool = False,
    momentum: Hyperparameter = 0,
    foreach: bool = False,
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.rmsprop`, as :func:`functorch_optim.scale_by` does.

    With g the incoming gradient::

        v <- alpha * v + (1 - alpha) * g**2
        a <- alpha * a + (1 - alpha) * g                     if centered
        d <- sqrt(v - a**2) + eps                            if centered
        d <- sqrt(v) + eps                                   otherwise
        b <- momentum * b + g / d

    b is the direction. eps is added outside the root, as in torch; optax adds it inside, unless ``eps_in_sqrt=False``.

    Args:
        alpha: decay rate of the averages, at least 0.
        eps: added to the denominator outside the root, at least 0.
        centered: whether to divide by the standard deviation instead of the root mean square.
        momentum: factor of the buffer, at least 0; only the Python number 0 means no momentum, and no buffer.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`functorch_optim.RMSpropState`.

    Raises:
        ValueError: an option is out of range, with torch's message.

    Source: as for :func:`functorch_optim.rmsprop`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_rms()
        >>> round(tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))[0].item(), 4)
        10.0
    """
    return scale_by(rmsprop(alpha=alpha, eps=eps, centered=centered, momentum=momentum, foreach=foreach))


@explains_names
def scale_by_adagrad(
    lr_decay: Hyperparameter = 0,
    initial_accumulator_value: Hyperparameter = 0,
    eps: Hyperparameter = 1e-10,
    foreach: bool = False,
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.adagrad`, as :func:`functorch_optim.scale_by` does.

    With g the incoming gradient, and t the number of the update::

        s <- s + g**2
        g / (sqrt(s) + eps) / (1 + (t - 1) * lr_decay)

    optax's ``scale_by_rss`` adds eps inside the root, and starts at 0.1.

    Args:
        lr_decay: how fast the direction shrinks, at least 0.
        initial_accumulator_value: first value of s, at least 0.
        eps: added to the denominator outside the root, at least 0.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`functorch_optim.AdagradState`.

    Raises:
        ValueError: an option is out of range, with torch's message.

    Source: as for :func:`functorch_optim.adagrad`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_adagrad()
        >>> tx.update(jnp.array([-2.0]), tx.init(jnp.zeros(1)))[0].tolist()
        [-1.0]
    """
    tx = adagrad(lr_decay=lr_decay, initial_accumulator_value=initial_accumulator_value, eps=eps, foreach=foreach)
    return scale_by(tx)


@explains_names
def scale_by_adadelta(
    rho: BetaOption = 0.9, eps: Hyperparameter = 1e-6, foreach: bool = False
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.adadelta`, as :func:`functorch_optim.scale_by` does.

    With g the incoming gradient::

        v <- rho * v + (1 - rho) * g**2
        d <- sqrt(u + eps) / sqrt(v + eps) * g
        u <- rho * u + (1 - rho) * d**2

    d is the direction, as in optax's ``scale_by_adadelta``.

    Args:
        rho: decay rate of both averages, in [0, 1].
        eps: added to both averages inside the roots, at least 0.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`functorch_optim.AdadeltaState`.

    Raises:
        ValueError: an option is out of range, with torch's message.

    Source: as for :func:`functorch_optim.adadelta`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_adadelta()
        >>> round(tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))[0].item(), 6)
        0.003162
    """
    return scale_by(adadelta(rho=rho, eps=eps, foreach=foreach))


@explains_names
def scale_by_muon(
    momentum: BetaOption = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[Hyperparameter, Hyperparameter, Hyperparameter] = (3.4445, -4.7750, 2.0315),
    eps: Hyperparameter = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    batched: bool = True,
    reshape: str | None = None,
    axis_name: PyTree = None,
    matrix_axes: PyTree = None,
    ns_polynomials: str | Sequence[Polynomial] | None = None,
    gram: bool = False,
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.muon`, as :func:`functorch_optim.scale_by` does: ``ratio * O``.

    The options, the ratio and O are those of :func:`functorch_optim.muon`.

    Args:
        momentum: decay rate of the average of the gradients, at least 0.
        nesterov: whether to use Nesterov momentum.
        ns_coefficients: the three coefficients of the Newton-Schulz polynomial.
        eps: lower bound on the norm that a matrix is divided by.
        ns_steps: the number of iterations, below 100.
        adjust_lr_fn: ``"original"`` (also None) or ``"match_rms_adamw"``, which give the ratio.
        batched: whether a parameter of more than two dimensions is a stack of matrices.
        reshape: how a parameter of more than two dimensions becomes one matrix instead, ``"out_first"`` or
            ``"out_last"``.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs.
        matrix_axes, ns_polynomials, gram: as for :func:`functorch_optim.muon`.

    Returns:
        A transformation with the state :class:`functorch_optim.MuonState`.

    Raises:
        ValueError: as for :func:`functorch_optim.muon`.

    Source: as for :func:`functorch_optim.muon`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_muon()
        >>> updates, state = tx.update(jnp.diag(jnp.array([4.0, -2.0])), tx.init(jnp.zeros((2, 2))))
        >>> [[round(x, 2) + 0.0 for x in row] for row in updates.tolist()]
        [[0.69, 0.0], [0.0, -1.12]]
    """
    tx = muon(
        weight_decay=0.0,
        momentum=momentum,
        nesterov=nesterov,
        ns_coefficients=ns_coefficients,
        eps=eps,
        ns_steps=ns_steps,
        adjust_lr_fn=adjust_lr_fn,
        batched=batched,
        reshape=reshape,
        axis_name=axis_name,
        matrix_axes=matrix_axes,
        ns_polynomials=ns_polynomials,
        gram=gram,
    )
    return scale_by(tx)
