"""Recomputes batch normalization statistics, for averaged parameters."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax

from functorch_optim.optim.swa_utils import linen_batch_norm, nnx_batch_norm
from functorch_optim.optim.swa_utils.averaged_model import AveragedModel
from functorch_optim.optim.swa_utils.models import on_device
from functorch_optim.torch_tensors import arrays_in
from functorch_optim.typing import PyTree
from functorch_optim.variables import is_nnx

_jitted = jax.jit(lambda: None)


def update_bn(
    loader: Iterable[PyTree], model: PyTree, apply_fn: Callable[..., PyTree] | None = None, device: PyTree = None
) -> PyTree:
    """Compute the running means and variances of batch normalization from the batches of ``loader``.

    As in torch, the statistics are reset and become the mean over the batches of each batch's mean and unbiased
    variance, whatever the layers' momentum (:func:`functorch_optim.batch_statistics`). flax itself keeps the biased
    variance.

    Args:
        loader: yields batches: arrays, or lists or tuples starting with one; with a module and ``apply_fn``, anything.
            torch's tensors become arrays.
        model: a flax nnx module; the ``variables`` of a flax linen module; or an
            :class:`functorch_optim.optim.swa_utils.AveragedModel` of either.
        apply_fn: for nnx, ``apply_fn(module, batch)`` calls the module with what it needs from the loader's batch:
            ``lambda module, batch: module(batch["image"], batch["mask"])``. Without it the module is called with the
            batch, or with its first part. For linen, ``apply_fn(variables, inputs)`` runs in training mode, uncompiled,
            and returns a pair whose second part has the new ``batch_stats``:
            ``lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"])``.
        device: where to put the batches: a device, its platform's name, or a sharding.

    Returns:
        None for a module or an average, which are updated in place; for ``variables``, the new ones.

    Without batch normalization it returns at once. It restores the module's mode, training or evaluation, and after an
    error the statistics too.

    Raises:
        ValueError: ``loader`` is empty; a batch has one element per channel; a layer did not normalize with the batch.
        TypeError: a tree comes without ``apply_fn``.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> module = nnx.BatchNorm(1, rngs=nnx.Rngs(0))
        >>> update_bn([jnp.array([[0.0], [2.0]]), jnp.array([[4.0], [8.0]])], module)
        >>> module.mean[...].tolist(), module.var[...].tolist()
        ([3.5], [5.0])
    """
    if apply_fn is not None and not callable(apply_fn):
        raise TypeError("the third argument is apply_fn; a device is given as device=")
    subject = model.module if isinstance(model, AveragedModel) else model
    batches = _inputs(loader, device, whole=is_nnx(subject) and apply_fn is not None)
    if is_nnx(subject):
        return nnx_batch_norm.refresh(batches, subject, apply_fn)
    if isinstance(model, AveragedModel):
        if not model.buffers:
            return None if isinstance(subject, Mapping | list | tuple) else _refreshed(batches, subject, apply_fn)
        variables = {"params": subject, "batch_stats": model.buffers}
        model._replace_buffers(_refreshed(batches, variables, apply_fn)["batch_stats"])
        return None
    return _refreshed(batches, model, apply_fn)


def _refreshed(batches: Iterator[PyTree], variables: PyTree, apply_fn: Callable[..., PyTree] | None) -> PyTree:
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"update_bn takes a flax nnx module, the variables of a linen module or an AveragedModel of these, not "
            f"{type(variables).__name__}; for others use fo.batch_statistics, which computes the same"
        )
    if not variables.get("batch_stats"):
        return variables
    if apply_fn is None:
        raise TypeError(
            "a tree of variables needs the function that applies them in training mode: update_bn(loader, variables, "
            'lambda v, x: module.apply(v, x, train=True, mutable=["batch_stats"]))'
        )
    plain: Any = apply_fn
    while isinstance(plain, type(_jitted)):  # layers are observed only while traced anew
        plain = getattr(plain, "__wrapped__")  # noqa: B009 unknown to the type checker
    return linen_batch_norm.refreshed(batches, variables, plain)


def _inputs(loader: Iterable[PyTree], device: PyTree, whole: bool) -> Iterator[PyTree]:
    """Yield the model's inputs, batch by batch."""
    for batch in loader:
        inputs = batch[0] if isinstance(batch, list | tuple) and not whole else batch
        yield on_device(arrays_in(inputs), device)
