"""State dicts by name, as torch's distributed checkpoints flatten them."""

import re
from collections.abc import Hashable, Mapping, Sequence

from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.typing import PyTree

_EMPTY = re.compile(r"\(group \d+\)")  # placeholder for a group without parameters
_OUTSIDE = ("params", "param_names")  # what a group has in addition to its options

Group = tuple[list[PyTree], list[str] | None]  # the numbers of a group's parameters, and their names


def is_state_dict(node: PyTree) -> bool:
    """Whether a node is an optimizer's state dict, with states only for parameters in groups."""
    return has_form(node) and not strays(node)


def strays(state_dict: Mapping[str, PyTree]) -> list[str]:
    """The numbers of states whose parameters are in no group."""
    known = {str(number) for group in state_dict["param_groups"] for number in group["params"]}
    return [str(number) for number in state_dict["state"] if str(number) not in known]


def has_form(node: PyTree) -> bool:
    """Whether a node has the form of an optimizer's state dict."""
    if not (isinstance(node, Mapping) and node.keys() == {"state", "param_groups"}):  # pyright: ignore[reportUnnecessaryComparison] keys compare as sets
        return False
    groups, state = node["param_groups"], node["state"]
    return (
        isinstance(groups, list | tuple)
        and isinstance(state, Mapping)
        and all(isinstance(group, Mapping) and isinstance(group.get("params"), list | tuple) for group in groups)
        and all(isinstance(entry, Mapping) for entry in state.values())
    )


def flatten_state_dict(state_dict: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """Flatten a state dict to one dict of ``state.<name>.<slot>`` and ``param_groups.<name>.<option>``.

    This is what ``torch.distributed.checkpoint.state_dict.get_optimizer_state_dict`` returns with
    ``flatten_optimizer_state_dict=True``. The number of a parameter without a name serves as its name; the options of
    a group without parameters are under ``param_groups.(group <number>)``.

    Raises:
        CheckpointError: it is not a state dict, or two parameters have the same name.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD({"w": jnp.ones(2)}, lr=0.5, momentum=0.9)
        >>> optimizer.step({"w": jnp.ones(2)})
        >>> flat = flatten_state_dict(optimizer.state_dict())
        >>> flat["state.w.momentum_buffer"].tolist(), flat["param_groups.w.lr"]
        ([1.0, 1.0], 0.5)
    """
    if not is_state_dict(state_dict):
        raise CheckpointError("a state dict of an optimizer has the keys 'state' and 'param_groups', and nothing else")
    flat: dict[str, PyTree] = {}
    name_of: dict[Hashable, str] = {}
    taken: set[str] = set()
    for index, group in enumerate(state_dict["param_groups"]):
        names = [str(name) for name in group.get("param_names", group["params"])]
        if len(names) != len(group["params"]):
            raise CheckpointError(f"group {index} has {len(group['params'])} parameters and {len(names)} names")
        for name in names:
            if name in taken:
                raise CheckpointError(f"several parameters have the name {name!r}")
            taken.add(name)
        name_of.update(zip(group["params"], names, strict=True))
        for name in names or [_empty(index)]:
            flat |= {f"param_groups.{name}.{key}": value for key, value in group.items() if key not in _OUTSIDE}
    by_text = {str(number): name for number, name in name_of.items()}  # a format may have turned numbers into strings
    for number, entry in state_dict["state"].items():
        name = by_text[str(number)]
        flat |= {f"state.{name}.{slot}": value for slot, value in entry.items()}
    return flat


def unflatten_state_dict(flat: Mapping[str, PyTree], groups: Sequence[Group] | None = None) -> dict[str, PyTree]:
    """Rebuild the state dict that :func:`flatten_state_dict` flattened.

    Args:
        flat: the values by name.
        groups: the numbers and names of each group's parameters, if known. Otherwise parameters with equal options
            form a group, in the order of the names in ``flat``, and are numbered; then options must not contain dots.

    Raises:
        CheckpointError: a key belongs to neither a state nor an option; a parameter with a state has no options.

    Example:
        >>> flat = {"state.w.step": 3.0, "param_groups.w.lr": 0.5, "param_groups.b.lr": 0.5}
        >>> unflatten_state_dict(flat)
        {'state': {0: {'step': 3.0}}, 'param_groups': [{'lr': 0.5, 'params': [0, 1], 'param_names': ['w', 'b']}]}
    """
    kinds: dict[str, dict[str, PyTree]] = {"state": {}, "param_groups": {}}
    for key, value in flat.items():
        kind, _, rest = str(key).partition(".")
        if kind not in kinds:
            raise CheckpointError(f"{key!r} is neither 'state.<name>.<slot>' nor 'param_groups.<name>.<option>'")
        kinds[kind][rest] = value
    if groups is None:
        groups, options_of = _grouped(_divided("param_groups", kinds["param_groups"], None))
    else:
        options = _divided("param_groups", kinds["param_groups"], _labels(groups))
        options_of = [options.get(labels[0], {}) for labels in _labels(groups)]
    state = _divided("state", kinds["state"], _labels(groups))
    saved, number_of = [], {}
    for labels, (numbers, names), options in zip(_labels(groups), groups, options_of, strict=True):
        saved.append({**options, "params": list(numbers), **({} if names is None else {"param_names": list(names)})})
        number_of.update(zip(labels, numbers, strict=False))
    return {"state": {number_of[name]: entry for name, entry in state.items()}, "param_groups": saved}


def _empty(index: int) -> str:
    return f"(group {index})"


def _labels(groups: Sequence[Group]) -> list[list[str]]:
    """A label for each parameter of each group; one label for a group without parameters."""
    return [
        (list(map(str, numbers)) if names is None else list(names)) or [_empty(index)]
        for index, (numbers, names) in enumerate(groups)
    ]


def _divided(kind: str, flat: Mapping[str, PyTree], labels: list[list[str]] | None) -> dict[str, dict[str, PyTree]]:
    """Split ``<name>.<key>`` at the longest known name, or at the last dot; return the values by name and key."""
    known = {label for group in labels or () for label in group}
    lengths = sorted({len(label) for label in known}, reverse=True)
    found: dict[str, dict[str, PyTree]] = {}
    for rest, value in flat.items():
        if labels is None:
            name = rest.rpartition(".")[0] if "." in rest else None
        else:
            name = next((rest[:n] for n in lengths if rest[n : n + 1] == "." and rest[:n] in known), None)
        if name is None:
            raise CheckpointError(f"'{kind}.{rest}' belongs to no parameter whose options are known")
        found.setdefault(name, {})[rest[len(name) + 1 :]] = value
    return found


def _grouped(options: dict[str, dict[str, PyTree]]) -> tuple[list[Group], list[dict[str, PyTree]]]:
    """Group parameters with equal options and number them group by group; lists among options become tuples."""
    together: dict[str, tuple[dict[str, PyTree], list[str]]] = {}
    for name, own in options.items():
        own |= {key: tuple(value) for key, value in own.items() if isinstance(value, list)}
        together.setdefault(repr(own), (own, []))[1].append(name)
    groups: list[Group] = []
    start, numbered = 0, all(name.isdecimal() or _EMPTY.fullmatch(name) for name in options)
    for _, names in together.values():
        own = [name for name in names if not _EMPTY.fullmatch(name)]
        numbers = list(map(int, own)) if numbered else list(range(start, start + len(own)))
        groups.append((numbers, None if numbered else own))
        start += len(own)
    return groups, [own for own, _ in together.values()]
