"""The option ``state_dtype`` of a group: the dtypes in which it keeps its slots."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functorch_optim import trees
from functorch_optim.core.rule import Rule, slots_in, statistics_in
from functorch_optim.transforms.precision import as_dtype, floating_dtypes
from functorch_optim.typing import PyTree

SlotDtypes = tuple[tuple[str, str], ...]


def slot_dtypes(option: PyTree, rule: type[Rule], title: str) -> SlotDtypes:
    """The name of the dtype of each slot, as the option has it: one for each by name, or a single one.

    A single one is that of all slots but copies of the parameters. Messages name the class ``title``.

    Raises:
        ValueError: there is no such slot. TypeError: what is given is no floating dtype, or no dict of them.
    """
    if option is None:
        return ()
    slots, where = slots_in(rule.state) or (), f"state_dtype of {title}"
    dtypes = floating_dtypes(option, where)
    if isinstance(dtypes, str):
        return tuple([(name, dtypes) for name in statistics_in(rule.state) or ()])
    unknown = [name for name, _ in dtypes if name not in slots]
    if unknown:
        raise ValueError(f"{where}: the state has no slot {', '.join(unknown)}; it has {', '.join(slots)}")
    return dtypes


def plain_dtypes(option: PyTree) -> PyTree:
    """Replace dtypes in the option by their names, so that every file format can store it."""
    if isinstance(option, Mapping):
        return {name: plain_dtypes(dtype) for name, dtype in option.items()}
    dtype = as_dtype(option) if isinstance(option, np.dtype | type) else None
    return option if dtype is None else str(dtype)


def cast_slots(row: PyTree, dtypes: SlotDtypes) -> PyTree:
    """Cast the real slots of one parameter's state to their ``dtypes``."""
    held = row._asdict()
    cast = {name: held[name].astype(_held_as(dtype)) for name, dtype in dtypes if is_real(held[name])}
    return row._replace(**cast) if cast else row


def widen_slots(row: PyTree, fresh: PyTree) -> PyTree:
    """Cast real slots that a former option narrowed to the dtypes of ``fresh`` ones; wider ones stay."""
    held = {name: slot for name, slot in row._asdict().items() if is_real(slot) and is_real(getattr(fresh, name))}
    wide = {name: trees.wider_dtype(getattr(fresh, name).dtype, slot.dtype) for name, slot in held.items()}
    return row._replace(**{name: held[name].astype(dtype) for name, dtype in wide.items() if held[name].dtype != dtype})


def slot_dtype(name: str, model: PyTree, dtypes: SlotDtypes) -> DTypeLike | None:
    """Find the dtype for a slot like ``model``; None if it is not real or the option does not name it."""
    return _held_as(dict(dtypes)[name]) if name in dict(dtypes) and is_real(model) else None


def is_real(slot: PyTree) -> bool:
    """Whether a slot is present and has a floating dtype: complex slots stay complex."""
    return slot is not None and bool(jnp.issubdtype(slot.dtype, jnp.floating))


def _held_as(dtype: str) -> DTypeLike:
    return jax.dtypes.canonicalize_dtype(jnp.dtype(dtype))
