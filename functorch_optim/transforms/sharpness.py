"""Sharpness-aware minimization: gradients at the worst point nearby."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, add_update, exportable, needs_of, transformation, update_of
from functorch_optim.combinators import Wrapper, check_at_each, current_hyperparams
from functorch_optim.core.numerics import next_step
from functorch_optim.core.options import Options
from functorch_optim.effects import Effects, Kind, Leaves
from functorch_optim.hyperparams import Hyperparameter, NonNegative, is_static_zero
from functorch_optim.labels import Labels, as_mask, flags_of, is_flag
from functorch_optim.norms import norm_of
from functorch_optim.objectives import with_arguments
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.scaling import multiply
from functorch_optim.typing import PyTree


@exportable
class SAMState(NamedTuple):
    """``step`` counts updates; ``inner`` is the state of the wrapped transformation."""

    step: PyTree
    inner: PyTree


class SAM(Options, Wrapper):
    rho: NonNegative
    adaptive: bool | Labels
    eta: NonNegative
    axis_name: axes.Labels | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if "grad_fn" in needs_of(self.inner):
            raise ValueError(
                "sam: inner computes gradients at another point itself, as sam does: leave one of them out"
            )

    @classmethod
    def _call_name(cls) -> str:
        return "sam"

    def init(self, params: PyTree) -> SAMState:
        check_at_each(self.effects, params)
        return SAMState(jnp.zeros((), jnp.int32), self.inner.init(params))

    def update(  # pyright: ignore[reportIncompatibleMethodOverride] it needs the gradient as a function
        self,
        updates: PyTree,
        state: SAMState,
        params: PyTree = None,
        *,
        grad_fn: Callable[..., PyTree] | None = None,
        **extra: object,
    ) -> tuple[PyTree, SAMState]:
        if params is None or not callable(grad_fn):
            missing = "the parameters" if params is None else "the gradient as a function"
            raise ValueError(
                f"sam needs {missing}: update(grads, state, params, grad_fn=jax.grad(loss)). In optax.chain wrap it "
                "with fo.interop.to_optax, which passes the keyword on; in the torch face call step(closure)"
            )
        there = self._worst(updates, params, self.at(state.step))
        _, found, _ = trees.pair(params, with_arguments(grad_fn, extra)(there), "sam")
        _, given, treedef = trees.pair(params, updates, "sam")
        sharp = [None if here is None else grad for here, grad in zip(given, found, strict=True)]
        keywords = {**extra, "grad_fn": grad_fn}
        new, inner = update_of(self.inner, treedef.unflatten(sharp), state.inner, params, keywords)
        return new, SAMState(next_step(state.step), inner)

    def _worst(self, grads: PyTree, params: PyTree, numbers: PyTree) -> PyTree:
        """Find the point at distance ``rho`` where the loss, taken as linear, is largest."""
        leaves, given, treedef = trees.pair(params, grads, "sam")
        mask = self.adaptive
        flags = [mask] * len(leaves) if isinstance(mask, bool) else flags_of("adaptive", mask, params)
        eta = None if is_static_zero(self.eta) else numbers.eta
        sizes = [_size(p, eta) if flag else _one for flag, p in zip(flags, leaves, strict=True)]
        along = [_sized(g, p, size) for g, p, size in zip(given, leaves, sizes, strict=True)]
        norm = norm_of(treedef.unflatten(along), self.axis_name, "sam")
        factor = jnp.asarray(numbers.rho, norm.dtype) / jnp.where(norm == 0, 1, norm)  # a zero gradient moves nothing
        moves = [
            None if way is None else _sized(multiply(way, factor), p, size)
            for way, p, size in zip(along, leaves, sizes, strict=True)
        ]
        return treedef.unflatten(list(map(add_update, leaves, moves)))

    def acts_by_leaf(self) -> bool:
        return not isinstance(self.adaptive, bool)

    def effects(self, at: Leaves | None) -> list[Effects]:
        return [renews + own for renews, own in zip(self.effect(Kind.RENEWS, at), super().effects(at), strict=True)]

    def needs(self) -> frozenset[str]:
        return super().needs() | {"grad_fn"}

    def hyperparams(self, state: SAMState) -> dict[Any, PyTree]:
        return {**current_hyperparams(self.inner, state.inner), **self.hyperparams_at(state.step)}


def _one(dtype: DTypeLike) -> None:
    """The size of a parameter that is not adaptive: 1, which needs no product."""
    del dtype


def _size(param: jax.Array, eta: PyTree) -> Callable[[DTypeLike], jax.Array]:
    """The magnitudes of a parameter's entries, plus ``eta``, as a function of the dtype."""

    def size(dtype: DTypeLike) -> jax.Array:
        magnitude = jnp.abs(param.astype(dtype))
        magnitude = magnitude if eta is None else magnitude + jnp.asarray(eta, magnitude.dtype)
        return magnitude.astype(dtype)

    return size


def _sized(vector: PyTree, param: PyTree, size: Callable[[DTypeLike], PyTree]) -> PyTree:
    """Cast a gradient or a move to at least float32, and multiply it by the size of its entries."""
    if vector is None:
        return None
    wide = vector.astype(trees.compute_dtype(vector, param))
    factor = size(wide.dtype)
    return wide if factor is None else wide * factor


@explains_names
def sam(
    inner: GradientTransformation,
    rho: Hyperparameter = 0.05,
    adaptive: PyTree = False,
    axis_name: PyTree = None,
    eta: Hyperparameter = 0.0,
) -> GradientTransformation:
    """Sharpness-aware minimization: give ``inner`` the gradient at the worst point nearby, and so prefer flat minima.

    With the gradient g at the parameters p, ``inner`` gets the gradient at ``p + e``::

        e = rho * g / norm(g)
        e = rho * T**2 * g / norm(T * g)                  if adaptive
        T = abs(p) + eta

    The norm is that of all parameters together. If its squares overflow (float32 entries of about 1e19), e is 0;
    each ``T * g`` must be finite. ``update(grads, state, params, grad_fn=f)`` needs the gradient as a function,
    ``f(params) -> grads``, which it calls once. Further arguments of ``f`` are keywords of ``update``:
    ``grad_fn=jax.grad(loss), x=x, y=y`` calls ``f(params, x=x, y=y)``. In the torch face ``step(closure)`` does it all.

    Args:
        inner: the transformation that makes the updates, usually the whole chain. Wrap
            :func:`functorch_optim.accumulate` in ``sam``, and not the other way round: ``f`` knows only one batch.
        rho: the distance, at least 0; a number, a scalar array or a schedule of the number of updates. The papers use
            0.05, and 0.5 to 2 if adaptive.
        adaptive: whether to scale each entry's distance with its parameter (ASAM), so that the result does not depend
            on how the network's layers are scaled; or a mask as in :func:`functorch_optim.masked`, where to do so.
            Elsewhere T is 1.
        axis_name: inside ``shard_map``, how arrays are spread over mesh axes; see :mod:`functorch_optim.axes`. ``f``
            gets this device's shards.
        eta: what is added to the magnitudes if adaptive, so that entries of zero move too; at least 0, like ``rho``.

    The authors' ``asam.py`` is ``sam(inner, rho=0.5, adaptive=re.compile("weight|kernel|scale|embedding"), eta=0.01)``:
    it is adaptive where a name in torch holds "weight", which leaves out biases. ``adaptive=True`` alone is the ``SAM``
    of other packages, for all parameters and without ``eta``.

    Returns:
        A transformation with the state :class:`SAMState`; ``update`` needs ``params`` and dense gradients. If all
        gradients are zero, p + e is p. A parameter whose gradient is None is left out. For complex parameters
        put :func:`functorch_optim.conjugate` before it, ``fo.chain(fo.conjugate(), fo.sam(...))``, and pass
        :func:`jax.grad`'s gradients and function; or pass the conjugates of both.

    Raises:
        ValueError: an option is out of range or has no effect; ``inner`` computes gradients at another point too; from
            ``init``, ``inner`` conjugates the gradient of a complex parameter, which is too late for the way to the
            worst point; from ``update``, ``params`` or ``grad_fn`` is missing, or inside ``shard_map`` without
            ``axis_name`` a gradient varies or may vary over the mesh.

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", 2021; Kwon et al.,
    "ASAM: Adaptive Sharpness-Aware Minimization", 2021. ``optax.contrib.sam`` with ``opaque_mode=True`` is the same.

    Example:
        >>> import jax, functorch_optim as fo
        >>> loss = lambda params: jnp.sum(params**4)
        >>> tx, params = sam(fo.sgd(lr=0.1), rho=1.0), jnp.array([1.0])
        >>> updates, state = tx.update(jax.grad(loss)(params), tx.init(params), params, grad_fn=jax.grad(loss))
        >>> round(updates.item(), 4)  # -0.1 * 4 * (1 + 1)**3
        -3.2
    """
    where = bool(adaptive) if is_flag(adaptive) else as_mask("adaptive", adaptive)
    if where is False and not is_static_zero(eta):
        raise ValueError(f"sam: eta has no effect unless adaptive, but it is {eta!r:.80}")
    return transformation(SAM(inner, rho, where, eta, axes.as_axes(axis_name, "sam")))
