"""The report of a monitored run, for any logger."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from functorch_optim import trees
from functorch_optim.monitoring.monitor import MonitorState
from functorch_optim.transforms.cleaning import ZeroNansState
from functorch_optim.transforms.skipping import SkipLargeUpdatesState, SkipNonfiniteState, SkipSpikesState
from functorch_optim.typing import PyTree

SKIPS = (SkipNonfiniteState, SkipLargeUpdatesState, SkipSpikesState)  # each counts its bad updates in total


def report(state: PyTree) -> dict[str, PyTree]:
    """Report what a :func:`functorch_optim.monitor` measured, as a flat dictionary of numbers for a logger.

    - ``step``: the number of updates; ``lr``: the last update's learning rate. In a named chain or a partition it is
      ``lr/NAME``, even if there is only one, and in a chain with several rates ``lr/INDEX``;
    - ``grad_norm``, ``update_norm``, ``param_norm``, and ``update_ratio``, the ratio of the last two; for a part of the
      tree ``grad_norm/PREFIX`` and so on;
    - ``clipped_share``: the share of updates whose gradient was clipped; ``skipped_share``: the share of bad updates,
      whether they ran or not, counted by :func:`functorch_optim.skip_nonfinite`,
      :func:`functorch_optim.skip_large_updates` or :func:`functorch_optim.skip_spikes`; ``nan_share``: the share of
      gradients with a NaN, counted by :func:`functorch_optim.zero_nans`. If several count side by side, as in a
      partition, the names end with the label: ``skipped_share/decay``.

    If there are several monitors, as in a partition, each name begins with the label: ``decay/grad_norm``.

    Args:
        state: a state that contains a monitor's, at any depth.

    Returns:
        Python numbers, fetched from the devices at once; NumPy arrays if the state is one of an ensemble. Inside a
        traced function, traced scalars.

    Raises:
        KeyError: the state has no monitor.

    Example:
        >>> import functorch_optim as fo
        >>> tx = fo.monitor(fo.adam(lr=0.25), every=None)
        >>> _, state = tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.zeros(2)))
        >>> report(state)
        {'step': 1, 'lr': 0.25, 'grad_norm': 5.0}
    """
    found = _found(state, (MonitorState,))
    if not found:
        raise KeyError("the state has no monitor: wrap the transformation in fo.monitor")
    is_traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(state))
    seen = [(one._replace(inner=()), _counts(state, one)) for _, one in found]
    seen = seen if is_traced else jax.device_get(seen)
    named = {
        f"{label}/{name}" if len(found) > 1 else name: value
        for (label, _), own in zip(found, seen, strict=True)
        for name, value in _read(*own)
    }
    return {name: value if is_traced or np.ndim(value) else np.asarray(value).item() for name, value in named.items()}


def _found(state: PyTree, kinds: tuple[type, ...]) -> list[tuple[str, PyTree]]:
    """Find the states of these kinds and their labels: the keys on the path to each, without names of attributes."""
    flat, _ = jax.tree_util.tree_flatten_with_path(state, is_leaf=lambda node: isinstance(node, kinds))
    return [
        (trees.path_name(tuple(key for key in path if not isinstance(key, jax.tree_util.GetAttrKey))), node)
        for path, node in flat
        if isinstance(node, kinds)
    ]


def _counts(state: PyTree, one: MonitorState) -> dict[str, tuple[PyTree, PyTree]]:
    """Map each name in the report to a count and the number of updates that it is a share of."""
    around = [
        (label, node)
        for label, node in _found(state, SKIPS)
        if any(inside is one for _, inside in _found(node, (MonitorState,)))
    ]
    skips, cleaned = around or _found(one.inner, SKIPS), _found(one.inner, (ZeroNansState,))
    return {
        f"{name}/{label}" if len(found) > 1 else name: (node.total, node.step)
        for name, found in (("skipped_share", skips), ("nan_share", cleaned))
        for label, node in found
    }


def _read(one: MonitorState, counts: dict[str, tuple[PyTree, PyTree]]) -> Iterator[tuple[str, PyTree]]:
    yield "step", one.step
    yield from one.lr.items()
    for suffix, norms in (("", one.norms), *((f"/{prefix}", norms) for prefix, norms in one.parts.items())):
        yield f"grad_norm{suffix}", norms.grad
        if norms.update is not None:
            yield f"update_norm{suffix}", norms.update
            yield f"param_norm{suffix}", norms.param
            yield f"update_ratio{suffix}", _share(norms.update, norms.param)
    if one.clipped is not None:
        yield "clipped_share", _share(one.clipped, one.step)
    for name, (count, among) in counts.items():
        yield name, _share(count, among)


def _share(part: PyTree, whole: PyTree) -> PyTree:
    """Divide one number by another; 0 if the divisor is 0."""
    if isinstance(whole, Tracer):
        dtype = part.dtype if jnp.issubdtype(part.dtype, jnp.inexact) else jnp.result_type(float)
        part, whole = part.astype(dtype), whole.astype(dtype)
        return jnp.where(whole == 0, jnp.zeros_like(part), part / jnp.where(whole == 0, jnp.ones_like(whole), whole))
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole != 0)
