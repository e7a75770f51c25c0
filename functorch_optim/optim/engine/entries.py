"""Convert the histories of parameters to entries of torch's ``state_dict``, and back."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functorch_optim import trees
from functorch_optim.core.rule import carried_dtype
from functorch_optim.optim.engine.histories import History, shapes_of, slots_of
from functorch_optim.optim.engine.protocol import Entry
from functorch_optim.optim.engine.slot_dtypes import SlotDtypes, slot_dtype
from functorch_optim.optim.engine.torch_habits import habits_of
from functorch_optim.optim.options import is_traced
from functorch_optim.optim.state_dict import cast, count_of
from functorch_optim.placement import sharding_of
from functorch_optim.typing import PyTree


def entries_of(histories: Collection[History], types: Collection[PyTree]) -> list[Entry]:
    """Return each parameter's entry in torch's ``state_dict``; ``types`` are the rules in use."""
    counting = {rule.state: carried_dtype(rule) for rule in types if rule.counts_steps}
    integers = {rule.state for rule in types if habits_of(rule).integer_step}
    result = []
    for history in histories:
        slots = {**slots_of(history.row), **history.idle} if history.row is not None else {}
        if type(history.row) in counting:
            wide = counting[type(history.row)]
            carried = {key: v if is_traced(v) else np.asarray(v, wide) for key, v in history.carried.items()}
            step = history.step if is_traced(history.step) else np.asarray(history.step, np.float32)
            slots = {"step": step, **carried, **slots}
            if type(history.row) in integers:
                slots["step"] = history.step
        result.append(slots)
    return result


def history_of(
    entry: Entry,
    rule: Any,
    param: PyTree,
    name: str,
    dtypes: SlotDtypes,
    dtype: DTypeLike | None = None,
    live: PyTree = None,
) -> History:
    """Build the history that an entry describes.

    Its slots have the ``dtypes`` of their group; without any, they are at least as wide as in ``live``, or else as new
    ones.
    """
    given = {key: value for key, value in entry.items() if value is not None}
    if not given:
        return History()
    expected, quoted = shapes_of(rule, param.shape, param.dtype), trees.quote(name)
    needed = [*(["step"] if rule.counts_steps else []), *rule.carried, *slots_of(expected)]
    missing = [key for key in needed if key not in given]
    unknown = [key for key in given if key not in expected._fields]
    if unknown or (missing and rule.counts_steps):
        raise KeyError(
            f"the state of the parameter {quoted} is not one of {rule.title}: "
            f"it has {', '.join(given)}, it should have {', '.join(needed) or 'nothing'}"
        )
    try:
        step = count_of(given.pop("step", 1))
    except ValueError as error:
        raise ValueError(f"step of the parameter {quoted} {error}") from error
    carried = {key: given.pop(key) for key in rule.carried}
    wide = carried_dtype(rule)
    carried = {key: v if is_traced(v) else float(wide.type(v)) for key, v in carried.items()}
    placed = {}
    for slot, value in given.items():
        where = f"{slot} of the parameter {quoted}"
        model = (live or {}).get(slot, getattr(expected, slot))
        shape, own = (param.shape, trees.slot_dtype(param)) if model is None else (model.shape, model.dtype)
        asked = slot_dtype(slot, jax.ShapeDtypeStruct(shape, own), dtypes) or dtype
        array = value if hasattr(value, "dtype") else np.asarray(value).astype(own)
        if array.shape != shape:
            raise ValueError(f"{where} has shape {array.shape}, but it should have {shape}")
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise TypeError(f"{where} is not floating")
        slot_array = cast(array, _slot_dtype(array.dtype, own, asked), asked, where)
        sharding = None if is_traced(param) else sharding_of(param, shape)
        placed[slot] = slot_array if sharding is None else jax.device_put(slot_array, sharding)
    return History(rule.empty()._replace(**placed), step, carried, dtypes=dtypes)


def _slot_dtype(saved: PyTree, own: PyTree, dtype: DTypeLike | None) -> DTypeLike:
    """Return a slot's dtype after loading: the wider of ``own`` and ``saved``, or ``dtype``; complex if ``own`` is."""
    real = trees.wider_dtype(own, saved) if dtype is None else jnp.finfo(dtype).dtype
    if jnp.issubdtype(own, jnp.complexfloating):
        real = jnp.dtype(jnp.complex128 if real == jnp.float64 else jnp.complex64)
    return jax.dtypes.canonicalize_dtype(real)
