"""``state_dict`` in torch's layout: written from the live groups and entries, and read back."""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from functorch_optim import trees
from functorch_optim.optim.engine.slot_dtypes import plain_dtypes
from functorch_optim.optim.layout import Layout
from functorch_optim.optim.loaded_options import COUNT, loaded_options, merged_options
from functorch_optim.optim.options import is_schedule, plain, scalar_or_same
from functorch_optim.optim.ownership import own
from functorch_optim.torch_tensors import as_array
from functorch_optim.typing import Numeric, OptionValues, PyTree

Entry = dict[str, PyTree]
Refused = dict[str, Exception]  # why a state does not fit, by parameter

_SHOWN = 10  # reasons in a message, at most


class NotLoaded(NamedTuple):
    """What :meth:`functorch_optim.optim.Optimizer.load_state_dict` left out.

    ``missing`` has the names of parameters that the state dict lacks (numbers if there are no names), ``unexpected``
    those that the optimizer lacks, and ``refused`` the reason why a state does not fit, by parameter.
    """

    missing: list[str]
    unexpected: list[str]
    refused: dict[str, str]


class Loaded(NamedTuple):
    """The contents of a ``state_dict``, for the leaves and groups of an optimizer.

    There is an entry per leaf, None if it is missing; the leaf of each parameter in the saved order; the groups'
    options and counts; the missing and unexpected parameters; a warning if needed; and for each group the saved groups
    that it comes from.
    """

    entries: list[Entry | None]
    order: list[int | None]
    groups: list[dict[str, PyTree]]
    counts: list[int]
    missing: list[str]
    unexpected: list[str]
    warning: str | None
    sources: list[list[int]]


class _Pairing(NamedTuple):
    """The match of saved parameters: each leaf's number, and for each group the saved groups that it comes from."""

    number_of: list[PyTree]
    sources: list[list[int]]
    missing: list[str]
    unexpected: list[str]


def has_form(state_dict: PyTree) -> TypeGuard[Mapping[str, PyTree]]:
    """Whether something is a mapping with the keys of a state dict."""
    return isinstance(state_dict, Mapping) and {"state", "param_groups"} <= state_dict.keys()


_ABSENT = object()  # the number of a leaf that the state dict lacks


def write_state_dict(
    layout: Layout,
    groups: Sequence[Mapping[str, PyTree]],
    numbers: Collection[str],
    counts: Sequence[int],
    entries: Sequence[Entry],
) -> dict[str, PyTree]:
    """Build ``{"state": {number: entry}, "param_groups": [...]}``; nothing in it is the live object.

    ``numbers`` names the options that are numbers. Everything else in a group is copied as it is, except scalars of
    NumPy and JAX, which become Python numbers.
    """
    order = layout.order
    saved = []
    for index, (group, count) in enumerate(zip(groups, counts, strict=True)):
        options = {
            key: plain(value, count) if key in numbers else scalar_or_same(copy.deepcopy(value))
            for key, value in group.items()
            if key != "params"
        }
        if any(is_schedule(value) for key, value in group.items() if key in numbers):
            options[COUNT] = count
        if "state_dtype" in options:
            options["state_dtype"] = plain_dtypes(options["state_dtype"])
        positions = [number for number, leaf in enumerate(order) if layout.group_of[leaf] == index]
        saved.append({**options, "params": positions})
    state = {number: dict(entries[leaf]) for number, leaf in enumerate(order) if entries and entries[leaf]}
    return {"state": state, "param_groups": saved}


def read_state_dict(
    layout: Layout,
    groups: Sequence[Mapping[str, PyTree]],
    counts: Sequence[int],
    numbers: Collection[str],
    state_dict: object,
    match: str | None,
    strict: bool,
) -> Loaded:
    """Read what ``state_dict`` has for the parameters of ``layout``, whose ``groups`` had ``counts`` updates.

    Raises:
        ValueError: it is not a state_dict; with ``strict`` and by position, it has other groups.
    """
    if match not in (None, "name", "position"):
        raise ValueError(f"match must be None, 'name' or 'position', but it is {match!r}")
    if not has_form(state_dict):
        raise ValueError("a state_dict is a mapping with the keys 'state' and 'param_groups'")
    saved, state, warning = state_dict["param_groups"], state_dict["state"], None
    _check_form(saved, state)
    if _has_names(layout, saved, match):
        pairing = _by_name(layout, groups, saved)
    else:
        pairing = _by_position(layout, groups, saved, strict)
        if layout.names is not None and match is None:
            warning = (
                "the loaded state dict has no names, so its states were given to the parameters in their order: "
                f"{', '.join(layout.names[:4])}, ... JAX sorts the keys of a dict; if the state comes from a module "
                "of torch, check that the order is the same, and pass match='position' if it is"
            )
    entries = [
        None
        if number is _ABSENT
        else {key: as_array(value) for key, value in state.get(number, state.get(str(number), {})).items()}
        for number in pairing.number_of
    ]
    leaf_of = {number: leaf for leaf, number in enumerate(pairing.number_of) if number is not _ABSENT}
    options, new_counts, differing = [], [], []
    for index, (live, sources) in enumerate(zip(groups, pairing.sources, strict=True)):
        merged, unequal = merged_options([saved[source] for source in sources])
        differing += [f"{key!r} of group {index}" for key in unequal]
        options.append(loaded_options(live, merged, unequal, numbers) if sources else _without_params(live))
        own = [entry for entry, group in zip(entries, layout.group_of, strict=True) if group == index and entry]
        new_counts.append(_count(merged, own) if sources else counts[index])
    if differing:
        warning = (
            "parameters of several saved groups are together here, and the groups' options differ: the present "
            f"{', '.join(differing)} stay"
        )
    order = [leaf_of.get(number) for group in saved for number in group["params"]]
    missing, unexpected = pairing.missing, pairing.unexpected
    return Loaded(entries, order, options, new_counts, missing, unexpected, warning, pairing.sources)


def _check_form(saved: PyTree, state: PyTree) -> None:
    if not isinstance(saved, Sequence) or not all(isinstance(g, Mapping) and "params" in g for g in saved):
        raise ValueError("the 'param_groups' of a state_dict must be a list of dicts with the key 'params'")
    if not isinstance(state, Mapping):
        raise ValueError(f"the 'state' of a state_dict must be a dict by number, but it is {type(state).__name__}")
    for number, entry in state.items():
        if not isinstance(entry, Mapping):
            raise ValueError(f"the state of number {number} must be a dict, but it is {type(entry).__name__}")


def count_of(step: Numeric) -> int:
    """Convert a saved count of steps to an int.

    Raises:
        ValueError: it is not a nonnegative integer.
    """
    array = np.asarray(step)
    if array.shape != () or not np.issubdtype(array.dtype, np.number) or not (array >= 0 and array == np.floor(array)):
        raise ValueError(f"must be one whole number from 0 on, but it is {step!r:.40}")
    return int(array)


def _has_names(layout: Layout, saved: Sequence[Mapping[str, PyTree]], match: str | None) -> bool:
    """Whether to match parameters by their names."""
    both = layout.names is not None and all(len(g.get("param_names", ())) == len(g["params"]) for g in saved)
    if match == "name" and not both:
        raise ValueError(
            f"match='name' needs names, but the {'loaded state' if layout.names else 'optimizer'} has none"
        )
    return both and match != "position"


def _by_name(layout: Layout, groups: Sequence[object], saved: Sequence[Mapping[str, PyTree]]) -> _Pairing:
    """Match parameters by name, in any order and any grouping."""
    assert layout.names is not None
    pairs = [(name, index) for index, group in enumerate(saved) for name in group["param_names"]]
    group_of = dict(pairs)
    if len(group_of) < len(pairs):
        repeated = sorted({name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1})
        raise ValueError(f"several parameters of the loaded state dict have the name {', '.join(repeated)}")
    found = {
        name: number for group in saved for name, number in zip(group["param_names"], group["params"], strict=True)
    }
    sources: list[list[int]] = [[] for _ in groups]
    for name, group in zip(layout.names, layout.group_of, strict=True):
        if name in found and group_of[name] not in sources[group]:
            sources[group].append(group_of[name])
    if len(saved) == len(groups):  # its place identifies an empty group
        empty = [index for index in range(len(groups)) if index not in layout.group_of]
        for index in empty:
            sources[index] = [index]
    known = set(layout.names)
    return _Pairing(
        [found.get(name, _ABSENT) for name in layout.names],
        sources,
        [name for name in layout.names if name not in found],
        [name for name in found if name not in known],
    )


def _by_position(
    layout: Layout, groups: Sequence[object], saved: Sequence[Mapping[str, PyTree]], strict: bool
) -> _Pairing:
    """Match parameters by position, as torch does: the groups in order, and in each the parameters in order."""
    if strict and len(saved) != len(groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved)}, the optimizer has {len(groups)}"
        )
    number_of: list[PyTree] = [_ABSENT] * len(layout.group_of)
    missing: list[str] = []
    unexpected = [str(number) for group in saved[len(groups) :] for number in group["params"]]
    for index in range(len(groups)):
        leaves = [leaf for leaf, group in enumerate(layout.group_of) if group == index]
        listed = saved[index]["params"] if index < len(saved) else []
        if strict and len(listed) != len(leaves):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"group {index} has {len(listed)} parameters, the optimizer's {len(leaves)}"
            )
        for leaf, number in zip(leaves, listed, strict=False):
            number_of[leaf] = number
        missing += [layout.labels[leaf] for leaf in leaves[len(listed) :]]
        unexpected += [str(number) for number in listed[len(leaves) :]]
    sources = [[index] if index < len(saved) else [] for index in range(len(groups))]
    return _Pairing(number_of, sources, missing, unexpected)


def reason(error: Exception) -> str:
    """The message of an error; for a KeyError, without the quotes."""
    return str(error.args[0] if error.args else error)


def check_strict(missing: Sequence[str], unexpected: Sequence[str], refused: Refused) -> None:
    """Raise if anything in a state dict was not loaded; one error lists all of it."""
    if not missing and not unexpected and len(refused) == 1:
        raise next(iter(refused.values()))
    parts = []
    if missing or unexpected:
        lists = [", ".join(map(trees.quote, names)) or "none" for names in (missing, unexpected)]
        parts.append(
            f"the names in the state dict are not those of the optimizer: missing {lists[0]}; unexpected {lists[1]}. "
            "match='position' matches by order instead, strict=False loads what fits"
        )
    parts += [reason(error) for error in list(refused.values())[:_SHOWN]]
    if len(refused) > _SHOWN:
        parts.append(f"and {len(refused) - _SHOWN} more parameters like these")
    if parts:
        raise ValueError("\n".join(parts))


def cast(value: Any, target: Any, dtype: DTypeLike | None, where: str) -> jax.Array:
    """Convert a saved array to dtype ``target``, which must hold its numbers unless ``dtype`` was requested.

    Raises:
        TypeError: precision or the imaginary part would be lost.
    """
    if not hasattr(value, "dtype"):  # a list of numbers, for example from JSON, has no precision of its own
        return own(np.asarray(value).astype(target))
    array, target = value, jnp.dtype(target)
    floating = jnp.issubdtype(array.dtype, jnp.inexact) and jnp.issubdtype(target, jnp.inexact)  # counts are not
    if jnp.issubdtype(array.dtype, jnp.complexfloating) and not jnp.issubdtype(target, jnp.complexfloating):
        raise TypeError(f"{where} is {array.dtype}, but it should be {target}")
    if floating and dtype is not None and jnp.finfo(target).dtype != dtype:
        raise TypeError(f"{where} is kept in {target} here, and cannot be cast to {dtype}")
    if dtype is None and floating and not trees.holds(target, array.dtype):
        raise TypeError(
            f"{where} is {array.dtype}, but here it is kept in {target}: load_state_dict(..., dtype={str(target)!r}) "
            "casts what was saved"
        )
    return own(array if array.dtype == target else array.astype(target))


def _count(group: OptionValues, entries: Sequence[Entry]) -> int:
    """How many updates a group has had: the saved count, else the largest of its parameters' counts."""
    return int(group.get(COUNT, max((_steps(entry) for entry in entries), default=0)))


def _steps(entry: Entry) -> int:
    """The steps of an entry; errors in it are raised when the entry is read."""
    try:
        return count_of(entry.get("step", 0))
    except ValueError:
        return 0


def _without_params(group: OptionValues) -> dict[str, PyTree]:
    return {key: value for key, value in group.items() if key != "params"}
