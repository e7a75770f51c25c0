"""The option ``state_dtype`` of a group: the dtypes in which it keeps its slots."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functorch_optim.core.rule import Rule
from functorch_optim.transforms.precision import floating_dtypes
from functorch_optim.typing import PyTree

SlotDtypes = tuple[tuple[str, str], ...]


def slot_dtypes(option: PyTree, rule: type[Rule]) -> SlotDtypes:
    """Return the name of each slot's dtype. The option is a dtype for all slots, or a dict of dtypes by slot.

    Raises:
        ValueError: there is no such slot. TypeError: a dtype is not floating.
    """
    if option is None:
        return ()
    slots = [name for name in rule.empty()._fields if name != "step" and name not in rule.carried]
    given = option if isinstance(option, Mapping) else dict.fromkeys(slots, option)
    unknown = [str(name) for name in given if name not in slots]
    if unknown:
        raise ValueError(
            f"state_dtype: the state of {rule.title} has no slot {', '.join(unknown)}; it has {', '.join(slots)}"
        )
    return floating_dtypes(given)


def plain_dtypes(option: PyTree) -> PyTree:
    """Replace dtypes in the option by their names, so that every file format can store it."""
    if isinstance(option, Mapping):
        return {name: plain_dtypes(dtype) for name, dtype in option.items()}
    return str(np.dtype(option)) if isinstance(option, np.dtype | type) else option


def cast_slots(row: PyTree, dtypes: SlotDtypes) -> PyTree:
    """Cast the real slots of one parameter's state to their ``dtypes``."""
    held = row._asdict()
    cast = {name: held[name].astype(_held_as(dtype)) for name, dtype in dtypes if is_real(held[name])}
    return row._replace(**cast) if cast else row


def slot_dtype(name: str, model: PyTree, dtypes: SlotDtypes) -> DTypeLike | None:
    """Find the dtype for a slot like ``model``; None if it is not real or the option does not name it."""
    return _held_as(dict(dtypes)[name]) if name in dict(dtypes) and is_real(model) else None


def is_real(slot: PyTree) -> bool:
    """Whether a slot is present and has a floating dtype: complex slots stay complex."""
    return slot is not None and bool(jnp.issubdtype(slot.dtype, jnp.floating))


def _held_as(dtype: str) -> DTypeLike:
    return jax.dtypes.canonicalize_dtype(jnp.dtype(dtype))
