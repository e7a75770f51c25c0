"""Batch normalization statistics in the variables of a flax linen module."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.averaging.batch_norm import bessel, elements, mean_of
from functorch_optim.typing import PyTree


class _Call(NamedTuple):
    """The share of the batch that a layer's momentum leaves, and the factor that makes its variance unbiased."""

    share: float
    correction: float


def refreshed(
    batches: Iterator[PyTree], variables: Mapping[str, PyTree], apply_fn: Callable[..., PyTree]
) -> dict[str, PyTree]:
    """Return the variables with ``batch_stats`` averaged over the batches.

    A layer mixes ``momentum * before + (1 - momentum) * batch``: from zeros, only the batch's share results.
    """
    from flax import linen

    before = variables["batch_stats"]
    empty = {**variables, "batch_stats": _map_moments(lambda layer, key, leaf: jnp.zeros_like(leaf), before)}
    run = jax.jit(lambda variables, inputs: _statistics(apply_fn(variables, inputs)))
    calls: dict[Hashable, dict[tuple[str, ...], _Call]] = {}

    def statistics(inputs: PyTree) -> PyTree:
        key = str(jax.tree.map(jnp.shape, inputs))
        if key not in calls:
            calls[key] = _calls(apply_fn, empty, inputs)
        with linen.intercept_methods(_precisely):
            return _unbiased(run(empty, inputs), calls[key])

    average = mean_of(map(statistics, batches))
    kept = iter(jax.tree.leaves(average))
    merged = _map_moments(lambda layer, key, leaf: next(kept), before)  # everything else stays as it was
    return {**variables, "batch_stats": merged}


def _precisely(function: Any, args: PyTree, kwargs: Any, context: Any) -> PyTree:
    """Let batch normalization compute its variance in two passes: in one, most digits may cancel."""
    if type(context.module).__name__ == "BatchNorm" and hasattr(context.module, "use_fast_variance"):
        object.__setattr__(context.module, "use_fast_variance", False)  # on this call's copy of the module
    return function(*args, **kwargs)


def _map_moments(function: Callable[[tuple[str, ...], str, PyTree], PyTree], statistics: PyTree) -> PyTree:
    """Apply ``function(layer, "mean" or "var", leaf)`` to the moments in ``batch_stats``; keep the rest."""

    def at(path: Any, leaf: PyTree) -> PyTree:
        keys = tuple(str(part.key) for part in path)
        return function(keys[:-1], keys[-1], leaf) if keys[-1] in ("mean", "var") else leaf

    return jax.tree_util.tree_map_with_path(at, statistics)


def _statistics(result: PyTree) -> PyTree:
    """Extract ``batch_stats`` from what ``apply_fn`` returned."""
    if not (isinstance(result, tuple) and len(result) == 2 and "batch_stats" in result[1]):
        raise TypeError(
            'apply_fn must return a pair whose second part has "batch_stats", as module.apply does with '
            'mutable=["batch_stats"]'
        )
    return result[1]["batch_stats"]


def _calls(apply_fn: Callable[..., PyTree], variables: PyTree, inputs: PyTree) -> dict[tuple[str, ...], _Call]:
    """Find the layers that normalize with the batch when the variables are applied to such inputs."""
    from flax import linen

    calls: dict[tuple[str, ...], _Call] = {}

    def record(function: Any, args: PyTree, kwargs: Any, context: Any) -> PyTree:
        layer = context.module
        if isinstance(layer, linen.BatchNorm) and context.method_name == "__call__":
            _note(calls, layer, *args, **kwargs)
        return function(*args, **kwargs)

    with linen.intercept_methods(record):
        jax.eval_shape(lambda *given: apply_fn(*given), variables, inputs)  # a new function: no trace is cached
    return calls


def _note(
    calls: dict[tuple[str, ...], _Call],
    layer: Any,
    x: PyTree,
    use_running_average: bool | None = None,
    *,
    mask: PyTree = None,
) -> None:
    name = trees.quote(".".join(layer.path))
    if layer.use_running_average if use_running_average is None else use_running_average:
        return
    if mask is not None or layer.path in calls:
        what = "has a mask" if mask is not None else "is called more than once, or inside nn.scan"
        raise ValueError(f"the batch normalization {name} {what}: its statistics cannot be gathered from linen's")
    if layer.momentum == 1:
        raise ValueError(f"the batch normalization {name} has a momentum of 1, so it never uses a batch")
    size = elements(x.shape, layer.axis)
    if layer.axis_name is not None:
        size *= jax.lax.axis_size(layer.axis_name)
    calls[layer.path] = _Call(1 - layer.momentum, bessel(size, x.shape))


def _unbiased(statistics: PyTree, calls: Mapping[tuple[str, ...], _Call]) -> PyTree:
    """Return the batch's own means and unbiased variances as a list."""
    moments: list[PyTree] = []

    def at(layer: tuple[str, ...], key: str, leaf: PyTree) -> PyTree:
        if layer not in calls:
            raise ValueError(
                f"the batch normalisation {trees.quote('.'.join(layer))} did not normalise with the batch: "
                "apply_fn must run in training mode, and not be compiled"
            )
        moments.append(leaf / calls[layer].share * (calls[layer].correction if key == "var" else 1.0))

    _map_moments(at, statistics)
    return moments
