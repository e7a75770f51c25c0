"""Master weights: bfloat16 and float16 parameters that are kept in more bits as well."""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim import trees
from functorch_optim.alike import beside
from functorch_optim.base import GradientTransformation, add_update, exportable, transformation, update_of
from functorch_optim.combinators import Wrapper
from functorch_optim.effects import Effects, Kind, Leaves
from functorch_optim.option_names import explains_names
from functorch_optim.transforms.correction import joined, parts_of
from functorch_optim.typing import Array, PyTree


@exportable
class MasterWeightsState(NamedTuple):
    """``master`` has the parameters in float32; None for those that already are float32 or wider.

    With ``correction="int8"`` it has, for bfloat16 parameters, the next eight bits.
    """

    master: PyTree
    inner: PyTree


class MasterWeights(Wrapper):
    correction: str | None

    hands_on: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.correction not in (None, "int8"):
            raise ValueError(f"master_weights: correction must be None or 'int8', but it is {self.correction!r}")

    @classmethod
    def _call_name(cls) -> str:
        return "master_weights"

    def init(self, params: PyTree) -> MasterWeightsState:
        master = trees.map_arrays(self._master, params)
        return MasterWeightsState(master, self.inner.init(whole_of(params, master)))

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("master_weights needs the parameters: update(grads, state, params)")
        whole = whole_of(params, state.master)
        updates, inner = update_of(self.inner, updates, state.inner, whole, extra)
        leaves, own, treedef = trees.pair(params, updates, "master_weights", what="update")
        masters = treedef.flatten_up_to(state.master)
        wholes = jax.tree.leaves(whole)
        each = [_next(*one) for one in zip(leaves, own, masters, wholes, strict=True)]
        new, deltas = [master for master, _ in each], [delta for _, delta in each]
        return treedef.unflatten(deltas), MasterWeightsState(treedef.unflatten(new), inner)

    def _master(self, param: Array) -> jax.Array | None:
        if self.correction is not None and param.dtype == jnp.bfloat16:
            return beside(param, jnp.zeros_like(param, dtype=jnp.int8))
        return _widened(param) if trees.is_narrow(param) else None

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effects_and(Kind.FOLLOWS, at)


def _next(param: Array, update: PyTree, master: PyTree, whole: Array) -> tuple[PyTree, PyTree]:
    """The next master of a parameter, and the update that leads to its rounding."""
    if master is None or update is None:
        return master, update
    new = add_update(whole, update)
    if master.dtype != jnp.int8:
        return new, narrowed(new, param.dtype) - param.astype(new.dtype)
    high, low = parts_of(new)
    return low, high.astype(new.dtype) - param.astype(new.dtype)


def narrowed(array: jax.Array, dtype: DTypeLike | None) -> jax.Array:
    """Round numbers to a narrower dtype, finite ones to finite ones: no update could bring back an infinite parameter.

    XLA may drop a mere cast there and back.
    """
    narrow, wide = jnp.finfo(dtype), jnp.finfo(array.dtype)
    whole = jnp.where(jnp.isfinite(array), jnp.clip(array, float(narrow.min), float(narrow.max)), array)
    if narrow.nexp == wide.nexp:
        return jax.lax.reduce_precision(whole, narrow.nexp, narrow.nmant)
    return jax.lax.optimization_barrier(whole.astype(dtype)).astype(array.dtype)  # keeps subnormal numbers


def _widened(param: Array) -> jax.Array:
    if isinstance(param, jax.ShapeDtypeStruct):
        return jnp.zeros_like(param, dtype=jnp.float32)
    return param.astype(jnp.float32)


def whole_of(params: PyTree, master: PyTree) -> PyTree:
    """The parameters, with the master in place of each that has one."""
    leaves, treedef = jax.tree.flatten(params)

    def wide(param: Array, own: PyTree) -> Array:
        return param if own is None else joined(param, own) if own.dtype == jnp.int8 else own

    return treedef.unflatten(list(map(wide, leaves, treedef.flatten_up_to(master))))


@explains_names
def master_weights(inner: GradientTransformation, correction: str | None = None) -> GradientTransformation:
    """Keep bfloat16 and float16 parameters in float32 as well, and update those; the parameters are their rounding.

    The slots of ``inner`` are then float32. ``apply_updates`` gives exactly the rounded master; if a finite master is
    beyond the dtype's range, the dtype's largest number. The masters take precedence: other changes of the parameters
    have no effect, so create a new state for other parameters.

    Args:
        inner: the transformation, usually the whole chain; ``master_weights`` is outermost.
        correction: ``"int8"`` keeps only what the rounding of a bfloat16 parameter leaves out, the next eight bits of
            the float32 number: three bytes a parameter in all, instead of six. An update below 2**-17 of the parameter
            is lost then. Parameters of float16 have a float32 copy.

    Returns:
        A transformation with the state :class:`MasterWeightsState`; ``update`` needs ``params`` and dense updates.

    Raises:
        ValueError: ``correction`` is something else; from ``update``, there are no ``params``.

    Source: Micikevicius et al., "Mixed Precision Training", 2018.

    Example:
        >>> import functorch_optim as fo
        >>> params = jnp.ones(1, jnp.bfloat16)
        >>> tx = master_weights(fo.sgd(lr=1.0))
        >>> state = tx.init(params)
        >>> for _ in range(4):
        ...     updates, state = tx.update(jnp.full(1, -0.001, jnp.bfloat16), state, params)
        ...     params = fo.apply_updates(params, updates)
        >>> round(state.master.item(), 4), params.item()
        (1.004, 1.0078125)
    """
    return transformation(MasterWeights(inner, correction))
