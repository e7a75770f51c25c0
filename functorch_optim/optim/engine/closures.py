"""A step's closure: evaluate and differentiate it inside a compiled function, over micro-batches, and clip."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.core.numerics import wide_zeros_like
from functorch_optim.curvature import hutchinson
from functorch_optim.optim.utils import clip_grad_norm
from functorch_optim.transforms.conjugation import conjugate_leaf
from functorch_optim.typing import PyTree


class Evaluation(NamedTuple):
    """How a step evaluates its closure; part of the compiled function's key.

    ``dropped`` has the leaves whose gradients nobody takes.
    """

    has_aux: bool = False
    clips: bool = False
    in_batches: bool = False
    dropped: frozenset[int] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether the closure returns the loss of one batch, and nothing is clipped."""
        return not (self.has_aux or self.clips or self.in_batches)


PLAIN = Evaluation()


class Data(NamedTuple):
    """What a closure gets besides the parameters: arguments, and those with an axis of micro-batches in front."""

    args: tuple[PyTree, ...]
    batches: PyTree
    clip_norm: PyTree


class Task(NamedTuple):
    """A closure, what it gets, and how to evaluate it."""

    closure: Callable[..., PyTree]
    data: Data
    how: Evaluation


class Outcome(NamedTuple):
    """What a step returns of its closure, and the norm of its gradients before clipping."""

    value: jax.Array
    aux: PyTree
    grad_norm: jax.Array | None


def evaluate(
    closure: Callable[..., PyTree], how: Evaluation, params: PyTree, data: Data
) -> tuple[Outcome, list[PyTree]]:
    """Return what a closure returns at ``params``, and its gradients in leaf order."""
    function = jax.value_and_grad(closure, has_aux=how.has_aux)
    if how.in_batches:
        found, grads = _mean_of_batches(function, how.has_aux, params, data)
    else:
        found, grads = function(params, *data.args)
    value, aux = found if how.has_aux else (found, None)
    taken = [None if leaf in how.dropped else grad for leaf, grad in enumerate(jax.tree.leaves(grads))]
    if not how.clips:
        return Outcome(value, aux, None), taken
    clipped, norm = clip_grad_norm(taken, data.clip_norm)
    return Outcome(value, aux, norm), clipped


def _mean_of_batches(function: Callable[..., PyTree], has_aux: bool, params: PyTree, data: Data) -> PyTree:
    """Return ``function``'s result over all micro-batches: means of losses and gradients, and every ``aux``."""
    shapes = jax.eval_shape(
        lambda: _of_batch(function, has_aux, params, data, jax.tree.map(lambda x: x[0], data.batches))
    )

    def add(total: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
        own, aux = _of_batch(function, has_aux, params, data, batch)
        return jax.tree.map(lambda held, new: held + new.astype(held.dtype), total, own), aux

    count = jax.tree.leaves(data.batches)[0].shape[0]
    total, aux = jax.lax.scan(add, jax.tree.map(wide_zeros_like, shapes[0]), data.batches)
    value, grads = jax.tree.map(lambda x, model: (x / count).astype(model.dtype), total, shapes[0])
    return (value, aux) if has_aux else value, grads


def _of_batch(function: Callable[..., PyTree], has_aux: bool, params: PyTree, data: Data, batch: PyTree) -> PyTree:
    """Return ``((loss, gradients), aux)`` of one micro-batch."""
    found, grads = function(params, *data.args, *(batch if type(batch) is tuple else (batch,)))
    value, aux = found if has_aux else (found, None)
    return (value, grads), aux


def functions_of(
    closure: Callable[..., PyTree], args: tuple[PyTree, ...], needs: frozenset[str]
) -> dict[str, Callable[..., PyTree]]:
    """The loss, the gradient to descend along, and the curvature, as functions; by the names of keywords.

    All but the loss only if needed: optax's line searches refuse ``grad_fn``.
    """

    def value_fn(params: PyTree) -> PyTree:
        return closure(params, *args)

    def grad_fn(params: PyTree) -> PyTree:
        return jax.tree.map(conjugate_leaf, jax.grad(closure)(params, *args))

    def curvature_fn(params: PyTree, key: PyTree) -> PyTree:
        return hutchinson(closure, params, key, *args)

    more = {"grad_fn": grad_fn, "curvature_fn": curvature_fn}
    return {"value_fn": value_fn, **{name: function for name, function in more.items() if name in needs}}


def check_batches(batches: PyTree, who: str) -> None:
    """Raise unless all arrays have as many micro-batches, at least one.

    Raises:
        ValueError: an array has no axis, or another number of micro-batches, or there are none.
    """
    leaves = jax.tree.leaves(batches)
    lengths = [jnp.shape(leaf)[0] if jnp.ndim(leaf) else None for leaf in leaves]
    if not leaves or None in lengths or len(set(lengths)) > 1 or lengths[0] == 0:
        raise ValueError(
            f"{who}: batches need arrays whose first axes count the micro-batches, equal in all and at least 1, but "
            f"the lengths are {', '.join(map(str, lengths)) or 'those of no array'}"
        )
