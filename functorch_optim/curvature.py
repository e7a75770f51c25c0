"""Estimates of the curvature: of the Hessian's diagonal, and of the Gauss-Newton matrix's."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from functorch_optim import axes, trees
from functorch_optim.alike import beside, kept
from functorch_optim.hyperparams import as_count
from functorch_optim.typing import Array, PyTree

__all__ = ["gauss_newton_bartlett", "hutchinson"]


def hutchinson(
    loss: Callable[..., PyTree],
    params: PyTree,
    key: jax.Array,
    *args: PyTree,
    samples: int = 1,
    **keywords: PyTree,
) -> PyTree:
    """Estimate the diagonal of the Hessian: ``v * (H v)`` with entries of v that are 1 or -1 at random.

    The expectation over v is the diagonal of H, the Hessian of ``loss(params, *args, **keywords)``; if H is diagonal,
    so is every estimate without an error. It costs about two gradients: H v is the derivative of the gradient along v.
    :func:`functorch_optim.adahessian` and Sophia-H use it: ``curvature_fn=functools.partial(hutchinson, loss)``.

    Args:
        loss: the loss, a real scalar, which is differentiated twice.
        params: a pytree of real arrays.
        key: a key of :mod:`jax.random`. Inside ``shard_map`` fold the index of each axis into it that splits a
            parameter: else the shards of v are equal.
        *args: further arguments of the loss; keywords too.
        samples: how many v to average over, one after another.

    Returns:
        The estimate, with the structure, shapes and dtypes of the parameters.

    Raises:
        RuntimeError: a parameter is complex. TypeError, ValueError: ``samples`` is not an integer of at least 1.

    Source: Bekas et al., "An estimator for the diagonal of a matrix", 2007.

    Example:
        >>> loss = lambda params, scale: scale * jnp.sum(params["w"] ** 3)
        >>> hutchinson(loss, {"w": jnp.array([1.0, -2.0])}, jax.random.key(0), 0.5)["w"].tolist()
        [3.0, -6.0]
    """
    count = as_count("samples", samples, 1)
    names, leaves, treedef = trees.named_leaves(params)
    for name, leaf in zip(names, leaves, strict=True):
        trees.check_real(name, leaf, "hutchinson does not support complex parameters")
    slope = jax.grad(lambda point: loss(point, *args, **keywords))

    def sample(own: jax.Array) -> PyTree:
        signs = [_signs(each, leaf) for each, leaf in zip(_keys(own, len(leaves)), leaves, strict=True)]
        way = treedef.unflatten(signs)
        return jax.tree.map(jnp.multiply, way, jax.jvp(slope, (params,), (way,))[1])

    if count == 1:
        return sample(key)

    def add(total: PyTree, own: jax.Array) -> tuple[PyTree, None]:
        return jax.tree.map(lambda held, new: held + new.astype(held.dtype) / count, total, sample(own)), None

    own = jax.random.split(key, count)
    first = jax.tree.map(lambda x: x.astype(trees.compute_dtype(x)) / count, sample(own[0]))
    total, _ = jax.lax.scan(add, first, own[1:])
    return jax.tree.map(lambda x, param: x.astype(param.dtype), total, params)


def _keys(key: jax.Array, count: int) -> list[jax.Array]:
    """Return a key for each leaf."""
    return [jax.random.fold_in(key, index) for index in range(count)]


def _signs(key: jax.Array, param: Array) -> jax.Array:
    """Draw 1 or -1 for each entry of a parameter, where it is."""
    signs = kept(param, jax.random.rademacher(key, param.shape, param.dtype))
    return axes.vary_as(beside(param, signs), param)


def gauss_newton_bartlett(
    logits_fn: Callable[..., PyTree], params: PyTree, key: jax.Array, *args: PyTree, **keywords: PyTree
) -> PyTree:
    """Estimate the diagonal of the Gauss-Newton matrix of a cross-entropy, with labels drawn from the model: Sophia-G.

    With the logits z, B rows of which each is one prediction, labels y drawn from ``softmax(z)``, and the mean
    cross-entropy L of z and y::

        g = grad(L)
        h = B * g**2

    h is never negative. The data's own labels do not enter, and it costs one gradient.
    :func:`functorch_optim.sophia` uses it: ``curvature_fn=functools.partial(gauss_newton_bartlett, logits_fn)``.
    The authors' ``update_hessian`` leaves out B, and their ``step`` has it as ``bs``.

    Args:
        logits_fn: the model, ``logits_fn(params, *args, **keywords)``, whose result has the classes in its last
            dimension; the others together are the rows.
        params: a pytree of real arrays.
        key: a key of :mod:`jax.random`.
        *args: further arguments of the model; keywords too.

    Returns:
        The estimate, with the structure and shapes of the parameters.

    Raises:
        ValueError: the logits are a scalar, or there are none; it is called inside ``shard_map``, where a device has
            only part of the rows, and squares do not add up: call it under :func:`jax.jit`.
        RuntimeError: a parameter is complex.

    Source: Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model Pre-training", 2023.

    Example:
        >>> model = lambda params, x: x @ params["kernel"]
        >>> params, x = {"kernel": jnp.zeros((1, 2))}, jnp.array([[2.0], [2.0]])
        >>> found = gauss_newton_bartlett(model, params, jax.random.key(3), x)["kernel"]
        >>> bool(jnp.all((found == 0.0) | (found == 2.0)))  # two labels differ, or agree
        True
    """
    if axes.manual_axes():
        raise ValueError(
            "gauss_newton_bartlett squares the gradient of the whole batch, and inside shard_map a device has only its "
            "part: call it under jax.jit, or pass curvature= with your own estimate"
        )
    for name, leaf in zip(*trees.named_leaves(params)[:2], strict=True):
        trees.check_real(name, leaf, "gauss_newton_bartlett does not support complex parameters")
    logits, pull = jax.vjp(lambda point: logits_fn(point, *args, **keywords), params)
    rows = math.prod(logits.shape[:-1])
    if logits.ndim == 0 or logits.size == 0:
        raise ValueError(f"gauss_newton_bartlett needs logits with the classes last, but their shape is {logits.shape}")
    wide = jax.lax.stop_gradient(logits.astype(trees.compute_dtype(logits)))
    labels = jax.random.categorical(key, wide)
    slope = (jax.nn.softmax(wide) - jax.nn.one_hot(labels, wide.shape[-1], dtype=wide.dtype)) / rows
    (grads,) = pull(kept(logits, slope.astype(logits.dtype)))
    return jax.tree.map(lambda grad: rows * grad.astype(trees.compute_dtype(grad)) ** 2, grads)
