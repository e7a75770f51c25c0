"""Directions of the algorithms whose learning rate is more than a factor: they keep it."""

from functorch_optim.algorithms.adafactor import adafactor
from functorch_optim.algorithms.asgd import asgd
from functorch_optim.algorithms.rprop import rprop
from functorch_optim.base import GradientTransformation
from functorch_optim.hyperparams import Hyperparameter
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.direction import scale_by
from functorch_optim.typing import PyTree


@explains_names
def scale_by_adafactor(
    lr: Hyperparameter = 1e-2,
    beta2_decay: Hyperparameter = -0.8,
    eps: tuple[Hyperparameter | None, Hyperparameter] = (None, 1e-3),
    d: Hyperparameter = 1.0,
    axis_name: PyTree = None,
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.adafactor`, as :func:`functorch_optim.scale_by` does.

    With u and t as in its equations::

        max(eps2, rms(p)) * min(1, 1 / (lr * sqrt(t))) / max(1, rms(u) / d) * u

    The rate of Adafactor is ``min(lr, 1 / sqrt(t))``, so the direction begins to shrink after ``1 / lr**2`` updates. In
    a chain that ends with ``scale_by_learning_rate(lr)`` of the same ``lr`` it is Adafactor. A small ``lr`` leaves the
    rate to the last link alone.

    Args:
        lr: the learning rate of the last link, above 0; a number, a scalar array or a schedule.
        beta2_decay: power of the step, at most 0.
        eps: (eps1, eps2), at least 0. None for eps1 is the machine epsilon of each parameter's own dtype.
        d: the threshold of the direction's root mean square, at least 1.
        axis_name: inside ``shard_map``, the tree of the parameters' PartitionSpecs, or anything else that
            :mod:`functorch_optim.axes` describes.

    Returns:
        A transformation with the state :class:`functorch_optim.AdafactorState`; ``update`` needs ``params``.

    Raises:
        ValueError: as for :func:`functorch_optim.adafactor`, and for an ``lr`` of 0.

    Source: as for :func:`functorch_optim.adafactor`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx, params = scale_by_adafactor(), jnp.full(2, 3.0)
        >>> updates, state = tx.update(jnp.array([2.0, -2.0]), tx.init(params), params)
        >>> [round(x, 4) for x in updates.tolist()]
        [3.0, -3.0]
    """
    return scale_by(adafactor(lr=lr, beta2_decay=beta2_decay, eps=eps, d=d, axis_name=axis_name))


@explains_names
def scale_by_asgd(
    lr: Hyperparameter = 1e-2,
    lambd: Hyperparameter = 1e-4,
    alpha: Hyperparameter = 0.75,
    t0: Hyperparameter = 1e6,
    foreach: bool = False,
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.asgd`, as :func:`functorch_optim.scale_by` does.

    With eta as in its equations::

        (lambd * p + g) * eta / lr

    In a chain that ends with ``scale_by_learning_rate(lr)`` of the same ``lr`` it is ASGD. The average ``ax`` is over
    the points that such a chain reaches: with another rate or a link between the two they are not the parameters.

    Args:
        lr: the learning rate of the last link, above 0; a number, a scalar array or a schedule.
        lambd: decay of the parameter.
        alpha: power of eta's decay.
        t0: the update at which averaging starts.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`functorch_optim.ASGDState`; ``update`` needs ``params``.

    Raises:
        ValueError: as for :func:`functorch_optim.asgd`, and for an ``lr`` of 0.

    Source: as for :func:`functorch_optim.asgd`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx, params = scale_by_asgd(lambd=0.5), jnp.array([2.0])
        >>> tx.update(jnp.array([3.0]), tx.init(params), params)[0].tolist()
        [4.0]
    """
    return scale_by(asgd(lr=lr, lambd=lambd, alpha=alpha, t0=t0, foreach=foreach))


@explains_names
def scale_by_rprop(
    lr: Hyperparameter = 1e-2,
    etas: tuple[Hyperparameter, Hyperparameter] = (0.5, 1.2),
    step_sizes: tuple[Hyperparameter, Hyperparameter] = (1e-6, 50),
    foreach: bool = False,
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.rprop`, as :func:`functorch_optim.scale_by` does.

    With s as in its equations: ``sign(g) * s / lr``, so step sizes are in units of the first one. In a chain that ends
    with ``scale_by_learning_rate(lr)`` of the same ``lr`` it is Rprop. A schedule in the last link multiplies all step
    sizes, which a schedule in Rprop itself does not. optax's ``scale_by_rprop`` is not divided by lr, and in version
    0.2.8 gives each update one step late.

    Args:
        lr: the first step size, and the learning rate of the last link, above 0.
        etas: (eta_minus, eta_plus), 0 < eta_minus < 1 < eta_plus.
        step_sizes: the smallest and the largest step size, which bind from the first update on.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`functorch_optim.RpropState`.

    Raises:
        ValueError: as for :func:`functorch_optim.rprop`, and for an ``lr`` of 0.

    Source: as for :func:`functorch_optim.rprop`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_rprop(lr=0.5)
        >>> state = tx.init(jnp.zeros(1))
        >>> for grad in (2.0, 3.0):
        ...     updates, state = tx.update(jnp.array([grad]), state)
        >>> [round(x, 6) for x in updates.tolist()]
        [1.2]
    """
    return scale_by(rprop(lr=lr, etas=etas, step_sizes=step_sizes, foreach=foreach))
