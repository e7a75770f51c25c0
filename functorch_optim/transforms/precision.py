"""Reduced precision: slots in a narrower dtype, and stochastic rounding of bfloat16 parameters."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import axes, trees
from functorch_optim.base import GradientTransformation, clips_of, exportable, transformation, update_of
from functorch_optim.combinators import Wrapper, current_hyperparams
from functorch_optim.core.rule import statistics_in
from functorch_optim.effects import Effects, Kind, Leaves
from functorch_optim.keys import as_key, hashed, of_shard
from functorch_optim.option_names import explains_names
from functorch_optim.typing import Array, PyTree

SlotDtypes = tuple[tuple[str, str], ...]


class StateDtype(Wrapper):
    dtypes: SlotDtypes | str  # by slot, or one for every slot of an algorithm

    @classmethod
    def _call_name(cls) -> str:
        return "state_dtype"

    def init(self, params: PyTree) -> PyTree:
        state = self.inner.init(params)
        if isinstance(self.dtypes, str):
            return _with_slots_in(state, self.dtypes)
        dtypes = dict(self.dtypes)
        leaves, treedef = jax.tree_util.tree_flatten_with_path(state, is_leaf=lambda x: x is None)
        slots: dict[str, None] = {}
        cast = []
        for path, leaf in leaves:
            # A slot is a tree like the parameters. A lone leaf in a field is a number (such as the step count), a slot
            # that these options do not have, or the slot of parameters that are a single array.
            beneath = path if _is_slot_of_one(leaf, params) else path[:-1]
            own = [key.name for key in beneath if isinstance(key, jax.tree_util.GetAttrKey)]
            slots |= dict.fromkeys(own)
            wanted = [dtypes[name] for name in own if name in dtypes]
            cast.append(_as(wanted[-1], leaf) if wanted else leaf)
        missing = [name for name in dtypes if name not in slots]
        if missing and jax.tree.leaves(params):
            raise ValueError(f"state_dtype: the state has no slot {', '.join(missing)}; it has {', '.join(slots)}")
        return treedef.unflatten(cast)

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        return update_of(self.inner, updates, state, params, extra)

    def hyperparams(self, state: PyTree) -> dict[str, PyTree]:
        return current_hyperparams(self.inner, state)

    def clips(self, state: PyTree, norm: jax.Array, new: PyTree) -> jax.Array | None:
        return clips_of(self.inner, state, norm, new)


def _with_slots_in(state: PyTree, dtype: str) -> PyTree:
    """The state with the slots of every algorithm in it in this dtype; averages, sums and copies stay as they are."""
    found = []

    def narrowed_slots(node: PyTree) -> PyTree:
        slots = statistics_in(type(node))
        if slots is None:
            return node
        found.append(node)
        return node._replace(**{name: jax.tree.map(lambda x: _as(dtype, x), getattr(node, name)) for name in slots})

    new = jax.tree.map(narrowed_slots, state, is_leaf=lambda node: statistics_in(type(node)) is not None)
    if not found:
        raise ValueError(
            f"state_dtype: the state is of no algorithm that has slots, but of type {type(state).__name__}; a dict "
            'names what to narrow, {"slot": "bfloat16"}'
        )
    return new


def _as(dtype: str, leaf: PyTree) -> PyTree:
    """A leaf in this dtype if it is a real floating one."""
    real = leaf is not None and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(leaf, dtype) if real else leaf


def _is_slot_of_one(leaf: PyTree, params: PyTree) -> bool:
    """Whether a leaf may be a slot of parameters that are a single array."""
    if leaf is None or not jax.tree_util.all_leaves([params]):
        return False
    return leaf.shape != () or jnp.shape(params) == ()


@explains_names
def state_dtype(inner: GradientTransformation, dtypes: PyTree) -> GradientTransformation:
    """Keep slots of ``inner`` in another floating dtype; the arithmetic stays in float32.

    Args:
        inner: a transformation whose slots keep their dtype, as those of this library do.
        dtypes: slot -> dtype: ``{"exp_avg": "bfloat16"}``; or one dtype, for all slots of the algorithms in ``inner``.
            Then copies of the parameters, such as z of a Schedule-Free method, stay as they are, and so does what other
            transformations keep (averages, accumulated gradients); so do numbers such as NAdam's ``mu_product``, and
            slots of complex parameters.

    Raises:
        TypeError: a dtype is not floating. ValueError, from ``init``: the state has no such slot, or no algorithm's.

    Example:
        >>> import functorch_optim as fo
        >>> tx = state_dtype(fo.adam(lr=0.1), {"exp_avg": "bfloat16"})
        >>> state = tx.init(jnp.ones(2))
        >>> state.exp_avg.dtype.name, state.exp_avg_sq.dtype.name
        ('bfloat16', 'float32')
        >>> state_dtype(fo.adam(lr=0.1), "bfloat16").init(jnp.ones(2)).exp_avg_sq.dtype.name
        'bfloat16'
    """
    return transformation(StateDtype(inner, floating_dtypes(dtypes, "state_dtype")))


def floating_dtypes(dtypes: PyTree, where: str) -> SlotDtypes | str:
    """The names of the dtypes by slot, or the name of the only one.

    Raises:
        TypeError: one is no floating dtype; the message begins with ``where``.
    """
    if isinstance(dtypes, Mapping):
        return tuple((str(slot), _floating(dtype, f"{where}: the dtype of {slot}")) for slot, dtype in dtypes.items())
    return _floating(dtypes, f"{where}: the dtype")


def _floating(dtype: PyTree, what: str) -> str:
    known = as_dtype(dtype)
    found = repr(dtype) if known is None else str(known)
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise TypeError(
            f"{what} must be a floating one, but it is {found}; write a dtype for all "
            "slots, such as 'bfloat16', 'float16' or jnp.float32, or a dict of them by slot"
        )
    return found


def as_dtype(given: PyTree) -> np.dtype[Any] | None:
    """The dtype that a name, a dtype or a class of scalars means; None if it means none."""
    try:
        return jnp.dtype(given) if isinstance(given, str | np.dtype | type) else None
    except (TypeError, ValueError):
        return None


@exportable
class StochasticRoundingState(NamedTuple):
    """``key`` is the data of the next random key."""

    key: PyTree
    inner: PyTree


class StochasticRounding(Wrapper):
    key: tuple[int, ...]
    impl: str
    axis_name: axes.Labels | None

    hands_on: ClassVar[bool] = True

    @classmethod
    def _call_name(cls) -> str:
        return "stochastic_rounding"

    def init(self, params: PyTree) -> StochasticRoundingState:
        return StochasticRoundingState(jnp.asarray(self.key, jnp.uint32), self.inner.init(params))

    def update(self, updates: PyTree, state: PyTree, params: PyTree = None, **extra: object) -> tuple[PyTree, PyTree]:
        if params is None:
            raise ValueError("stochastic_rounding needs the parameters: update(grads, state, params)")
        updates, inner = update_of(self.inner, updates, state.inner, params, extra)
        now, later = jax.random.split(jax.random.wrap_key_data(state.key, impl=self.impl))
        leaves, own, treedef = trees.pair(params, updates, "stochastic_rounding", what="update")
        over = axes.over_or_varying(self.axis_name, params, "stochastic_rounding")
        rounded = [
            update
            if update is None or param.dtype != jnp.bfloat16
            else _rounded(param, update, of_shard(jax.random.fold_in(now, index), split))
            for index, (param, update, split) in enumerate(zip(leaves, own, over, strict=True))
        ]
        return treedef.unflatten(rounded), StochasticRoundingState(jax.random.key_data(later), inner)

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self.effects_and(Kind.FOLLOWS, at)


def _rounded(param: Array, update: PyTree, key: PyTree) -> jax.Array:
    """The update to one of the two bfloat16 numbers around the sum, the nearer one more often."""
    wide = jnp.asarray(param, jnp.float32)
    whole = wide + jnp.asarray(update, jnp.float32)
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    places = jax.lax.iota(jnp.uint32, whole.size).reshape(whole.shape)
    noise = hashed(hashed(places + first) ^ second) >> 16
    bits = jax.lax.bitcast_convert_type(whole, jnp.uint32) + noise
    chosen = jax.lax.bitcast_convert_type(bits & jnp.uint32(0xFFFF0000), jnp.float32)
    # If the sum is infinite or NaN, no difference leads to it: return the update itself.
    return jnp.where(jnp.isfinite(whole), chosen - wide, jnp.asarray(update, jnp.float32))


@explains_names
def stochastic_rounding(inner: GradientTransformation, key: PyTree, axis_name: PyTree = None) -> GradientTransformation:
    """Round bfloat16 parameters up or down at random, so that on average no part of an update is lost.

    A sum ``p + u`` between two neighboring bfloat16 numbers rounds up with a probability equal to its distance from
    the lower one, relative to the gap. Rounding to nearest loses every update below half a unit in the last place,
    1/512 of the parameter. Parameters of other dtypes are left alone.

    Args:
        inner: the transformation, usually the whole chain; ``stochastic_rounding`` is outermost.
        key: a concrete key of :mod:`jax.random`, or an integer to create one from. Runs with the same key are equal.
        axis_name: inside ``shard_map(check_vma=False)``, how arrays are spread over mesh axes; see
            :mod:`functorch_optim.axes`. Every shard draws its own bits; replicas of a parameter draw the same. With
            ``check_vma`` the parameters already carry this information.

    Returns:
        A transformation with the state :class:`StochasticRoundingState`; ``update`` needs ``params`` and dense
        updates.

    Raises:
        TypeError: the key is neither, or it is traced. ValueError, from ``update``: inside
            ``shard_map(check_vma=False)`` without ``axis_name``.

    Source: Zamirai et al., "Revisiting BFloat16 Training", 2020.

    Example:
        >>> import functorch_optim as fo
        >>> params = jnp.ones(1000, jnp.bfloat16)
        >>> tx = stochastic_rounding(fo.sgd(lr=1.0), 0)
        >>> updates, _ = tx.update(jnp.full(1000, -0.001), tx.init(params), params)
        >>> abs(fo.apply_updates(params, updates).astype("float32").mean().item() - 1.001) < 3e-4
        True
    """
    own = as_key(key, "stochastic_rounding")
    return transformation(StochasticRounding(inner, *own, axes.as_axes(axis_name, "stochastic_rounding")))
