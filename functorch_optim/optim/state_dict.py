"""``state_dict`` in torch's layout: written from the live groups and entries, and read back."""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from functorch_optim import trees
from functorch_optim.hyperparams import Beta
from functorch_optim.optim.options import is_schedule, plain
from functorch_optim.optim.param_groups import Layout

Entry = dict[str, Any]
COUNT = "schedule_step"  # a group's count of updates, stored where a schedule stands in the group


class Loaded(NamedTuple):
    """What a ``state_dict`` says: an entry a leaf, the groups' options and counts; a warning, if there is need."""

    entries: list[Entry]
    groups: list[dict[str, Any]]
    counts: list[int]
    warning: str | None


def write(
    layout: Layout,
    groups: Sequence[Mapping[str, Any]],
    numbers: Collection[str],
    counts: Sequence[int],
    entries: Sequence[Entry],
) -> dict[str, Any]:
    """``{"state": {number: entry}, "param_groups": [...]}``; nothing in it is the live object.

    ``numbers`` names the options that are numbers; everything else in a group is kept as it is.
    """
    order = layout.order
    saved = []
    for index, (group, count) in enumerate(zip(groups, counts, strict=True)):
        options = {
            key: plain(value, count) if key in numbers else copy.deepcopy(value)
            for key, value in group.items()
            if key != "params"
        }
        if any(is_schedule(value) for key, value in group.items() if key in numbers):
            options[COUNT] = count
        positions = [number for number, leaf in enumerate(order) if layout.group_of[leaf] == index]
        saved.append({**options, "params": positions})
    state = {number: dict(entries[leaf]) for number, leaf in enumerate(order) if entries and entries[leaf]}
    return {"state": state, "param_groups": saved}


def read(
    layout: Layout,
    groups: Sequence[Mapping[str, Any]],
    numbers: Collection[str],
    state_dict: Mapping[str, Any],
    match: str | None,
) -> Loaded:
    """What ``state_dict`` has for the parameters of ``layout``.

    Raises:
        ValueError: it is no state_dict, or one of other groups; with ``match="name"``, of other names.
    """
    if match not in (None, "name", "position"):
        raise ValueError(f"match must be None, 'name' or 'position', but it is {match!r}")
    if not (isinstance(state_dict, Mapping) and {"state", "param_groups"} <= state_dict.keys()):
        raise ValueError("a state_dict is a mapping with the keys 'state' and 'param_groups'")
    saved = state_dict["param_groups"]
    if len(saved) != len(groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"{len(saved)}, the optimizer has {len(groups)}"
        )
    if match != "position":
        saved = _in_order(groups, saved)
    for index, group in enumerate(saved):
        if len(group["params"]) != layout.group_of.count(index):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"group {index} has {len(group['params'])} parameters, the optimizer's {layout.group_of.count(index)}"
            )
    listed = [number for group in saved for number in group["params"]]
    positions, warning = _numbers_of_leaves(layout, saved, listed, match)
    state = state_dict["state"]
    entries = [
        {key: as_array(value) for key, value in state.get(number, state.get(str(number), {})).items()}
        for number in positions
    ]
    counts = [
        _count(group, [e for e, g in zip(entries, layout.group_of, strict=True) if g == index])
        for index, group in enumerate(saved)
    ]
    return Loaded(
        entries, [_options(old, new, numbers) for old, new in zip(groups, saved, strict=True)], counts, warning
    )


def _numbers_of_leaves(
    layout: Layout, saved: Sequence[Mapping[str, Any]], numbers: list[Any], match: str | None
) -> tuple[list[Any], str | None]:
    """The number that each leaf has in the state_dict."""
    names = [name for group in saved for name in group.get("param_names", ())]
    both = layout.names is not None and len(names) == len(numbers)
    if match == "name" and not both:
        raise ValueError(
            f"match='name' needs names, but the {'loaded state' if layout.names else 'optimizer'} has none"
        )
    if layout.names is not None and both and match != "position":
        found = dict(zip(names, numbers, strict=True))
        missing = [trees.quote(name) for name in layout.names if name not in found]
        unexpected = [trees.quote(name) for name in found if name not in layout.names]
        if missing or unexpected:
            raise ValueError(
                f"the names in the state dict are not those of the optimizer: missing {', '.join(missing) or 'none'}; "
                f"unexpected {', '.join(unexpected) or 'none'}. match='position' goes by the order instead"
            )
        return [found[name] for name in layout.names], None
    position = dict(zip(layout.order, numbers, strict=True))
    warning = None
    if layout.names is not None and match is None:
        warning = (
            "the loaded state dict has no names, so its states were given to the parameters in their order: "
            f"{', '.join(layout.names[:4])}, ... JAX sorts the keys of a dict; where the state comes from a module of "
            "torch, look whether the order is the same, and say match='position' if it is"
        )
    return [position[leaf] for leaf in range(len(numbers))], warning


def as_array(value: Any) -> Any:
    """A leaf as NumPy's or JAX's array, or the number it is; torch's tensors are read through their own methods."""
    if isinstance(value, list):
        return [as_array(item) for item in value]
    if type(value).__module__.partition(".")[0] != "torch":
        return value
    tensor = value.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has none; float32 holds every bfloat16
        return jnp.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
    return tensor.numpy()


def _count(group: Mapping[str, Any], entries: Sequence[Entry]) -> int:
    """How many updates a group has had: as it was saved, else as many as its parameter with the most."""
    return int(group.get(COUNT, max((int(entry.get("step", 0)) for entry in entries), default=0)))


def _in_order(groups: Sequence[Mapping[str, Any]], saved: Sequence[Any]) -> Sequence[Any]:
    """The saved groups in the order of the live ones, where both have names and the same of them are together."""
    live = [frozenset(group.get("param_names", ())) for group in groups]
    found = {frozenset(group.get("param_names", ())): group for group in saved}
    return [found[names] for names in live] if set(live) == set(found) and len(found) == len(live) else saved


def _options(live: Mapping[str, Any], saved: Mapping[str, Any], numbers: Collection[str]) -> dict[str, Any]:
    """A group's options after loading: the saved ones, but the live names, and the live schedules."""
    options = {
        key: _like(live.get(key), plain(as_array(value), 0)) if key in numbers else copy.deepcopy(as_array(value))
        for key, value in saved.items()
        if key not in ("params", "param_names", COUNT)
    }
    kept = {k: value for k, value in live.items() if k == "param_names" or (k in numbers and is_schedule(value))}
    return {**options, **kept}


def _like(live: Any, value: Any) -> Any:
    """A number that was saved, as a :class:`Beta` where the live option is one."""
    if isinstance(live, Beta):
        return Beta.of(value)
    if isinstance(live, tuple) and isinstance(value, tuple) and len(live) == len(value):
        return tuple(map(_like, live, value))
    return value
