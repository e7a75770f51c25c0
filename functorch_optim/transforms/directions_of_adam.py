"""Directions of Adam and its family: links without a learning rate."""

from functorch_optim.algorithms.adam import adam
from functorch_optim.algorithms.adamax import adamax
from functorch_optim.algorithms.nadam import nadam
from functorch_optim.algorithms.radam import radam
from functorch_optim.algorithms.sparse_adam import sparse_adam
from functorch_optim.base import GradientTransformation
from functorch_optim.hyperparams import BetaOption, Hyperparameter
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.direction import scale_by


@explains_names
def scale_by_adam(
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    amsgrad: bool = False,
    foreach: bool = False,
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.adam`, as :func:`functorch_optim.scale_by` does.

    With g the incoming gradient, and t the number of the update::

        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g**2
        m / (1 - beta1**t) / (sqrt(v) / sqrt(1 - beta2**t) + eps)

    With ``amsgrad`` the last line uses the largest v so far; optax's takes the maximum after the bias correction.

    Args:
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        amsgrad: whether to divide by the largest second moment so far.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`functorch_optim.AdamState`.

    Raises:
        ValueError: an option is out of range, with torch's message.

    Source: as for :func:`functorch_optim.adam`.

    Example:
        >>> import functorch_optim as fo, jax.numpy as jnp
        >>> adamw = fo.chain(scale_by_adam(), fo.add_decayed_weights(0.1), fo.scale_by_learning_rate(0.5))
        >>> params = jnp.array([2.0])
        >>> round(adamw.update(jnp.array([3.0]), adamw.init(params), params)[0].item(), 6)
        -0.6
    """
    return scale_by(adam(betas=betas, eps=eps, amsgrad=amsgrad, foreach=foreach))


@explains_names
def scale_by_adamax(
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999), eps: Hyperparameter = 1e-8, foreach: bool = False
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.adamax`, as :func:`functorch_optim.scale_by` does.

    With g the incoming gradient, and t the number of the update::

        m <- beta1 * m + (1 - beta1) * g
        u <- max(beta2 * u, abs(g) + eps)
        m / (1 - beta1**t) / u

    Args:
        betas: decay rates of the moment and of the norm, each in [0, 1).
        eps: added to the gradient's magnitude, inside the maximum, at least 0.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`functorch_optim.AdamaxState`.

    Raises:
        ValueError: an option is out of range, with torch's message.

    Source: as for :func:`functorch_optim.adamax`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_adamax()
        >>> round(tx.update(jnp.array([-3.0]), tx.init(jnp.zeros(1)))[0].item(), 6)
        -1.0
    """
    return scale_by(adamax(betas=betas, eps=eps, foreach=foreach))


@explains_names
def scale_by_nadam(
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999),
    eps: Hyperparameter = 1e-8,
    momentum_decay: Hyperparameter = 4e-3,
    foreach: bool = False,
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.nadam`, as :func:`functorch_optim.scale_by` does.

    With g, m, v, d, mu(t) and M as in its equations::

        (1 - mu(t)) / (1 - M) * g / d + mu(t+1) / (1 - M * mu(t+1)) * m / d

    optax's ``nadam`` has a constant mu instead.

    Args:
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        momentum_decay: how slowly mu rises to beta1, at least 0.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`functorch_optim.NAdamState`.

    Raises:
        ValueError: an option is out of range, with torch's message.

    Source: as for :func:`functorch_optim.nadam`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_nadam()
        >>> round(tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))[0].item(), 4)
        1.0565
    """
    return scale_by(nadam(betas=betas, eps=eps, momentum_decay=momentum_decay, foreach=foreach))


@explains_names
def scale_by_radam(
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999), eps: Hyperparameter = 1e-8, foreach: bool = False
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.radam`, as :func:`functorch_optim.scale_by` does.

    With m, v, rho and r as in its equations, and t the number of the update::

        m / (1 - beta1**t) * r * sqrt(1 - beta2**t) / (sqrt(v) + eps)     if rho > 5
        m / (1 - beta1**t)                                               otherwise

    Here eps is added before the bias correction, as in torch; optax's adds it after, and has the threshold as an
    option.

    Args:
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the denominator outside the root, at least 0.
        foreach: whether to update small parameters together (:func:`functorch_optim.lift`).

    Returns:
        A transformation with the state :class:`functorch_optim.RAdamState`.

    Raises:
        ValueError: an option is out of range, with torch's message.

    Source: as for :func:`functorch_optim.radam`.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = scale_by_radam()
        >>> round(tx.update(jnp.array([2.0]), tx.init(jnp.zeros(1)))[0].item(), 6)
        2.0
    """
    return scale_by(radam(betas=betas, eps=eps, foreach=foreach))


@explains_names
def scale_by_sparse_adam(
    betas: tuple[BetaOption, BetaOption] = (0.9, 0.999), eps: Hyperparameter = 1e-8
) -> GradientTransformation:
    r"""Return the direction of :func:`functorch_optim.sparse_adam`, as :func:`functorch_optim.scale_by` does.

    On the rows that the row-sparse g names, with m and v as in its equations, and t the number of the update::

        sqrt(1 - beta2**t) / (1 - beta1**t) * m / (sqrt(v) + eps)

    Args:
        betas: decay rates of the two averages, each in [0, 1).
        eps: added to the denominator, above 0.

    Returns:
        A transformation with the state :class:`functorch_optim.SparseAdamState`; its updates are row-sparse, and go
        through :func:`functorch_optim.scale_by_learning_rate`, :func:`functorch_optim.scale`,
        :func:`functorch_optim.scale_by_path` and :func:`functorch_optim.layerwise_decay`.

    Raises:
        ValueError: an option is out of range, with torch's message. RuntimeError: a gradient is dense.

    Source: as for :func:`functorch_optim.sparse_adam`.

    Example:
        >>> import functorch_optim as fo, jax.numpy as jnp
        >>> tx, table = fo.chain(scale_by_sparse_adam(), fo.scale_by_learning_rate(0.5)), jnp.zeros((4, 2))
        >>> _, grads = fo.value_and_sparse_grad(lambda table: jnp.sum(table[jnp.array([1, 1])]), sparse="")(table)
        >>> updates, state = tx.update(grads, tx.init(table), table)
        >>> fo.apply_updates(table, updates).round(4).tolist()
        [[0.0, 0.0], [-0.5, -0.5], [0.0, 0.0], [0.0, 0.0]]
    """
    return scale_by(sparse_adam(betas=betas, eps=eps))
