"""Gradient clipping as in ``torch.nn.utils``, with gradients as values."""

import functools

import jax
import jax.numpy as jnp

from functorch_optim import axes, parts, trees
from functorch_optim.transforms.clipping import clip_by_value, scale_to_norm
from functorch_optim.typing import Numeric, PyTree

__all__ = ["clip_grad_norm", "clip_grad_value", "total_norm"]


def clip_grad_norm(
    grads: PyTree,
    max_norm: Numeric,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    axis_name: PyTree = None,
) -> tuple[PyTree, jax.Array]:
    """Scale gradients together so that their norm is at most ``max_norm``.

    ``g * min(1, max_norm / (norm + 1e-6))``, with the norm of all entries as one vector.

    Args:
        grads: a pytree of gradients, None where there is none.
        max_norm: the largest norm, a number or a scalar array.
        norm_type: p of the p-norm; ``inf`` for the largest magnitude.
        error_if_nonfinite: whether to raise if the norm is inf or NaN; not inside a traced function.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`.

    Returns:
        The clipped gradients, in their dtypes, and the norm before clipping, at least float32.

    Raises:
        RuntimeError: the norm is not finite and ``error_if_nonfinite``; a sparse gradient. ValueError:
            inside ``shard_map`` without ``axis_name``, a gradient varies or may vary over the mesh.

    Source: ``torch.nn.utils.clip_grad_norm_``.

    Example:
        >>> grads, norm = clip_grad_norm({"w": jnp.array([3.0, 4.0])}, max_norm=1.0)
        >>> norm.item(), [round(x, 4) for x in grads["w"].tolist()]
        (5.0, [0.6, 0.8])
    """
    norm_type = float(norm_type)
    norm = total_norm(grads, norm_type, axes.as_axes(axis_name, "clip_grad_norm"))
    if error_if_nonfinite and not bool(jnp.isfinite(norm)):
        raise RuntimeError(
            f"The total norm of order {norm_type} for gradients from `parameters` is non-finite, so it cannot be "
            "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
            "`error_if_nonfinite=False`"
        )
    return _scaled(grads, norm, max_norm), norm


@functools.partial(jax.jit, static_argnames=("norm_type", "axis_name"))
def total_norm(grads: PyTree, norm_type: float = 2.0, axis_name: axes.Labels | None = None) -> jax.Array:
    """The p-norm of all entries of a tree as one vector, the norm of the leaves' norms; 0 for an empty tree.

    Example:
        >>> total_norm([jnp.array([3.0, -4.0]), None, jnp.array(1.0)], norm_type=float("inf")).item()
        4.0
    """
    norms: list[PyTree] = []

    def add(leaf: PyTree) -> None:
        magnitudes = jnp.abs(leaf.astype(trees.compute_dtype(leaf))).reshape(-1)
        norms.append(jnp.linalg.norm(magnitudes, norm_type) if leaf.size else jnp.zeros((), magnitudes.dtype))

    trees.map_dense(add, "clip_grad_norm", grads)
    if not norms:
        return jnp.zeros(())
    dtype, over = trees.compute_dtype(*norms), axes.over(axis_name, grads, "clip_grad_norm")
    if any(over):  # a leaf's norm is the norm of its shards' norms
        norms = [
            part for norm, own in zip(norms, over, strict=True) for part in parts.gathered(norm.reshape(1), (own,))
        ]
    return jnp.linalg.norm(jnp.stack([norm.astype(dtype) for norm in norms]), norm_type)


_scaled = jax.jit(functools.partial(scale_to_norm, who="clip_grad_norm"))


def clip_grad_value(grads: PyTree, clip_value: Numeric) -> PyTree:
    """Limit every entry of the gradients to ``[-clip_value, clip_value]``, real and imaginary parts apart.

    Source: ``torch.nn.utils.clip_grad_value_``.

    Example:
        >>> clip_grad_value([jnp.array([-3.0, 0.5]), None], 1.0)[0].tolist()
        [-1.0, 0.5]
    """
    tx = clip_by_value(clip_value)
    return tx.update(grads, tx.init(grads))[0]
