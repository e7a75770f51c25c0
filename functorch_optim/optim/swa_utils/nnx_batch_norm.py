"""Batch normalization statistics in a flax nnx module."""

import functools
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.averaging.batch_norm import bessel, cumulative, elements
from functorch_optim.typing import PyTree
from functorch_optim.variables import nnx

_MODES = ("deterministic", "use_running_average")


def refresh(batches: Iterator[PyTree], module: PyTree, apply_fn: Callable[..., PyTree] | None) -> None:
    """Replace the statistics of every ``BatchNorm`` in ``module`` with averages over the batches."""
    everything = list(nnx().iter_modules(module))
    named = [(path, one) for path, one in everything if isinstance(one, nnx().BatchNorm)]
    modules, layers = [one for _, one in everything], [one for _, one in named]
    if not layers:
        return
    before = [(layer.mean[...], layer.var[...]) for layer in layers]
    run, seen = _compiled_call() if apply_fn is None else _compiled(apply_fn), False
    try:
        with _training(module, modules), _cumulative(layers):
            for inputs in batches:
                run(module, inputs)
                seen = True
            if not seen:
                raise ValueError("there are no batches to compute statistics of")
            for path, layer in named:
                _check(".".join(map(str, path)), layer)
    except BaseException:
        for layer, (mean, var) in zip(layers, before, strict=True):
            layer.mean[...], layer.var[...] = mean, var
        raise


def _compiled(apply_fn: Callable[..., PyTree]) -> PyTree:
    """Compile ``apply_fn`` without its result, which may be anything."""

    def run(module: PyTree, batch: PyTree) -> None:
        apply_fn(module, batch)

    return nnx().jit(run)


@functools.cache
def _compiled_call() -> PyTree:
    return _compiled(lambda module, inputs: module(inputs))


def _check(name: str, layer: Any) -> None:
    if not bool(jnp.all(layer.seen[...] > 0)):
        raise ValueError(
            f"the batch normalization {trees.quote(name)} was not called on the batches, or not in training mode"
        )
    if not bool(jnp.all(jnp.isfinite(layer.var[...]))):
        raise ValueError(
            f"the variance of the batch normalisation {trees.quote(name)} is not finite: a batch has a non-finite "
            "value, or a mask leaves one element of it"
        )


@contextmanager
def _training(module: PyTree, modules: list[object]) -> Generator[None]:
    """Put the module into training mode, and afterwards restore the mode of every part."""
    modes = [{name: vars(one)[name] for name in _MODES if name in vars(one)} for one in modules]
    module.train()
    try:
        yield
    finally:
        for one, mode in zip(modules, modes, strict=True):
            for name, value in mode.items():
                setattr(one, name, value)


@contextmanager
def _cumulative(layers: list[PyTree]) -> Generator[None]:
    """Turn the layers into :class:`Cumulative` ones that count their calls, and afterwards restore them."""
    kept = [(type(layer), layer.momentum, layer.use_fast_variance) for layer in layers]
    for layer in layers:
        layer.mean[...], layer.var[...] = jnp.zeros_like(layer.mean[...]), jnp.zeros_like(layer.var[...])
        layer.momentum, layer.use_fast_variance = 0.0, False
        layer.seen = nnx().BatchStat(jnp.zeros_like(layer.mean[...], dtype=jnp.int32))  # stacked if layers are
        layer.__class__ = _cumulative_kind(type(layer))
    try:
        yield
    finally:
        for layer, (kind, momentum, fast) in zip(layers, kept, strict=True):
            layer.__class__ = kind
            layer.momentum, layer.use_fast_variance = momentum, fast
            del layer.seen


@functools.cache
def _cumulative_kind(kind: type) -> type:
    """Create a class between ``kind`` and flax's, which sees what a subclass's ``__call__`` passes on."""
    plain = nnx().BatchNorm
    if kind is not plain:
        return type(kind.__name__, (kind, _cumulative_kind(plain)), {})

    class Cumulative(plain):
        """Averages over its calls with equal weights instead of momentum."""

        def __call__(
            self: Any, x: PyTree, use_running_average: bool | None = None, *, mask: PyTree = None, **options: object
        ) -> PyTree:
            before = self.mean[...], self.var[...]
            result = plain.__call__(self, x, use_running_average, mask=mask, **options)
            if self.use_running_average if use_running_average is None else use_running_average:
                return result
            size: Any = elements(x.shape, self.axis)
            if mask is not None:
                size = jnp.sum(jnp.broadcast_to(mask, x.shape)) / (x.size // size)
            if self.axis_name is not None:
                size = jax.lax.psum(size, self.axis_name)
            batch = self.mean[...], (self.var[...] * bessel(size, x.shape)).astype(self.var[...].dtype)
            self.mean[...], self.var[...] = cumulative(before, batch, self.seen[...])
            self.seen[...] += 1
            return result

    return Cumulative
