"""Bridges to optax."""

from typing import Any

from functorch_optim.base import GradientTransformation, check_transformation

__all__ = ["to_optax"]


def to_optax(tx: GradientTransformation) -> Any:
    """The transformation as optax's class, to which ``optax.chain`` passes keywords on.

    Every transformation of this library goes into ``optax.chain`` as it is; only those whose ``update`` needs a keyword
    must be wrapped: :func:`functorch_optim.lbfgs` and :func:`functorch_optim.bfgs` need ``value_fn``,
    :func:`functorch_optim.sam` ``grad_fn``, :func:`functorch_optim.reduce_on_plateau` and
    :func:`functorch_optim.skip_spikes` ``value``.

    Raises:
        ImportError: optax is not installed. TypeError: ``tx`` is no transformation.

    Example:
        >>> import optax, jax.numpy as jnp, functorch_optim as fo
        >>> tx, p = optax.chain(to_optax(fo.lbfgs())), jnp.array([3.0])
        >>> updates, _ = tx.update(2 * p, tx.init(p), p, value_fn=lambda p: jnp.sum(p**2))
        >>> (p + updates).round(3).tolist()
        [0.0]
    """
    import optax

    check_transformation("to_optax: tx", tx)
    init: Any = tx.init  # optax names its positional arguments
    return optax.GradientTransformationExtraArgs(init, tx.update)
