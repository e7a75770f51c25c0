"""Convert an optimizer's state between torch's layout and a JAX tree's."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.checkpoint.like import is_in_few_bits
from functorch_optim.checkpoint.pieces import Leaf, Piece, parts_of
from functorch_optim.checkpoint.state_names import has_form, strays
from functorch_optim.torch_tensors import as_array
from functorch_optim.typing import PyTree

Entry = Mapping[str, PyTree]

_SCALARS = ("step", "mu_product", "eta", "mu")  # single numbers, even for a scalar parameter
_FACTORED = {"row_var": "col_var", "col_var": "row_var"}  # the name of a statistic in the transposed matrix
_WHOLE = "variance"  # the statistic of a vector
_FLAT = "func_evals"  # key of an optimizer's only entry, whose vectors span all parameters
_ORIENTED = "ns_coefficients"  # option of groups whose algorithm depends on which axis has the outputs


def from_torch(layout: Any, state_dict: Mapping[str, PyTree], names: Sequence[str] | None) -> dict[str, PyTree]:
    """Convert torch's state dict to this library's; see ``TorchLayout.state_from_torch``."""
    groups = _groups(state_dict)
    named = _torch_names(layout, groups, names)
    entry_of = {name: _entry(state_dict, number) for own in named for name, number in own.items()}
    _check_shapes(layout, entry_of)
    saved, state, taken, start = [], {}, set(), 0
    for group, own in zip(groups, named, strict=True):
        leaves = [leaf for leaf in layout.leaves if _belongs(leaf, own)]
        taken |= {piece.name for leaf in leaves for piece in leaf.pieces}
        if any(_FLAT in entry_of[name] for name in own):
            order = _flat_order(layout, leaves, list(own))
            entries = _flat_entries(entry_of.values(), order, len(leaves))
        else:
            entries = [_joined(leaf, [entry_of[piece.name] for piece in leaf.pieces]) for leaf in leaves]
        state |= {start + i: dict(entry) for i, entry in enumerate(entries) if entry}
        options = {**_options(group), **_orientation(group, leaves)}
        saved.append({**options, "params": list(range(start, start + len(leaves)))})
        saved[-1]["param_names"] = [leaf.name for leaf in leaves]
        start += len(leaves)
    lost = [name for own in named for name in own if name not in taken and not layout.ignores(name)]
    if lost:
        raise CheckpointError(f"the layout has no leaf for these optimizer parameters: {', '.join(lost)}")
    return {"state": state, "param_groups": saved}


def to_torch(layout: Any, state_dict: Mapping[str, PyTree], order: Sequence[str] | None) -> dict[str, PyTree]:
    """Convert this library's state dict to torch's; see ``TorchLayout.state_to_torch``."""
    leaf_of = {leaf.name: leaf for leaf in layout.leaves}
    place = {name: number for number, name in enumerate(layout.torch_shapes if order is None else order)}
    parts: list[tuple[list[str], list[Entry], dict[str, PyTree]]] = []
    for index, group in enumerate(_groups(state_dict)):
        if len(group.get("param_names", ())) != len(group["params"]):
            raise CheckpointError(
                f"group {index} of the state dict has no names: build the optimizer from a named tree"
            )
        lost = [name for name in group["param_names"] if name not in leaf_of]
        if lost:
            raise CheckpointError(f"the layout has no leaf {', '.join(map(repr, lost))}, which the optimizer has")
        leaves = [leaf_of[name] for name in group["param_names"]]
        pairs = zip(leaves, group["params"], strict=True)
        entry_of = {leaf.name: _entry(state_dict, number) for leaf, number in pairs}
        _check_plain(entry_of)
        inside = {piece.name for leaf in leaves for piece in leaf.pieces}
        unknown = sorted(inside - place.keys())
        if unknown:
            raise CheckpointError(f"names= lacks {', '.join(map(repr, unknown))}, which the optimizer has")
        names = sorted(inside, key=place.__getitem__)
        if any(_FLAT in entry for entry in entry_of.values()):
            back = np.argsort(_flat_order(layout, leaves, names))
            entries = _flat_entries(entry_of.values(), back, len(names))
        else:
            entries = [_split(name, leaves, entry_of) for name in names]
        parts.append((names, entries, {key: value for key, value in _options(group).items() if key != "reshape"}))
    if order is not None:
        parts.sort(key=lambda part: min(map(place.__getitem__, part[0]), default=len(place)))
    saved, state, start = [], {}, 0
    for names, entries, options in parts:
        state |= {start + i: dict(entry) for i, entry in enumerate(entries) if entry}
        saved.append({**options, "params": list(range(start, start + len(names))), "param_names": names})
        start += len(names)
    return {"state": state, "param_groups": saved}


def _check_plain(entry_of: Mapping[str, Entry]) -> None:
    """Raise if a slot is in few bits, for which torch has no names."""
    for entry in entry_of.values():
        for key in entry:
            if is_in_few_bits(key):
                raise CheckpointError(
                    f"{key!r} is a slot in few bits (fo.quantized), for which torch's layout has no name: convert the "
                    "state first, fo.requantized(state, like) with like=jax.eval_shape(tx.init, params) of the "
                    "transformation inside"
                )


def _groups(state_dict: Mapping[str, PyTree]) -> Sequence[Mapping[str, PyTree]]:
    if not has_form(state_dict):
        raise CheckpointError("a state dict of an optimizer has the keys 'state' and 'param_groups', and nothing else")
    if strays(state_dict):
        raise CheckpointError(f"there are states of numbers that are in no group: {', '.join(strays(state_dict))}")
    return state_dict["param_groups"]


def _entry(state_dict: Mapping[str, PyTree], number: object) -> Entry:
    state = state_dict["state"]
    entry = state.get(number, state.get(str(number), {}))
    return {key: as_array(value) for key, value in entry.items()}


def _options(group: Mapping[str, PyTree]) -> dict[str, PyTree]:
    return {key: as_array(value) for key, value in group.items() if key not in ("params", "param_names")}


def _torch_names(
    layout: Any, groups: Sequence[Mapping[str, PyTree]], names: Sequence[str] | None
) -> list[dict[str, PyTree]]:
    """Each group's parameter numbers, by torch's names."""
    numbers = [number for group in groups for number in group["params"]]
    if names is None and all(len(group.get("param_names", ())) == len(group["params"]) for group in groups):
        names = [name for group in groups for name in group["param_names"]]
        name_of = dict(zip(numbers, names, strict=True))
    else:
        if names is None:
            names = [name for name in layout.trained if not layout.ignores(name) or layout.has(name)]
            if len(groups) > 1:
                raise CheckpointError(
                    "the state dict has several groups and no names: names= must list torch's names of the parameters "
                    "in the order of their numbers"
                )
        if len(names) != len(numbers):
            raise CheckpointError(
                f"the state dict has {len(numbers)} parameters, but there are {len(names)} names: names= must list "
                "torch's names of its parameters in the order of their numbers"
            )
        name_of = dict(zip(sorted(numbers), names, strict=True))
    if len(set(names)) < len(names):
        raise CheckpointError("names= has a name twice")
    unknown = [name for name in names if name not in layout.torch_shapes]
    if unknown:
        raise CheckpointError(f"the layout does not know {', '.join(map(repr, unknown))}, which the optimizer has")
    return [{name_of[number]: number for number in group["params"]} for group in groups]


def _check_shapes(layout: Any, entry_of: Mapping[str, Entry]) -> None:
    """Raise if a slot cannot belong to its parameter; most likely the names are in another order."""
    if any(_FLAT in entry for entry in entry_of.values()):
        return
    for name, entry in entry_of.items():
        expected = layout.torch_shapes[name]
        for key, value in entry.items():
            shape = np.shape(value)
            factored = len(shape) == len(expected) and all(
                n in (1, m) for n, m in zip(shape, expected, strict=True)
            )  # converting it finds one that is not a factored statistic
            if shape not in ((), expected) and not factored:
                raise CheckpointError(
                    f"{key} of torch's {name!r} has shape {shape}, the parameter {expected}: are the names in the "
                    "order of the optimizer's parameters?"
                )


def _belongs(leaf: Leaf, numbers: Mapping[str, PyTree]) -> bool:
    """Whether a leaf's parameters are in this group."""
    inside = [piece.name in numbers for piece in leaf.pieces]
    if any(inside) and not all(inside):
        raise CheckpointError(
            f"the leaf {leaf.name!r} is made of parameters that are not all in the same group of the optimizer: "
            f"{', '.join(piece.name for piece in leaf.pieces)}"
        )
    return bool(inside) and all(inside)


def _joined(leaf: Leaf, entries: Sequence[Entry]) -> Entry:
    """Join the entries of a leaf's pieces to the leaf's entry."""
    joined = {}
    for key in _same_keys(leaf.name, entries):
        values = [entry[key] for entry in entries]
        if not _is_slot(key, values[0]):
            joined[key] = _shared(key, values, leaf.name)
        elif key in _FACTORED:
            parts = [
                _factored(key, piece, value, inverse=False) for piece, value in zip(leaf.pieces, values, strict=True)
            ]
            joined[parts[0][0]] = leaf.join([array for _, array in parts])
        else:
            pairs = zip(leaf.pieces, values, strict=True)
            joined[key] = leaf.join([piece.to_jax(_like(key, value, piece)) for piece, value in pairs])
    return joined


def _split(name: str, leaves: Sequence[Leaf], entry_of: Mapping[str, Entry]) -> Entry:
    """Build the entry of a torch parameter from the entries of the leaves that hold it."""
    found = parts_of(name, leaves)
    if len(found) < (found[0][0].pieces[found[0][1]].part or (0, 1))[1]:
        raise CheckpointError(f"the parts of torch's {name!r} are not in one group of the optimizer")
    entries = [entry_of[leaf.name] for leaf, _ in found]
    split = {}
    for key in _same_keys(name, entries):
        values = [entry[key] for entry in entries]
        if not _is_slot(key, values[0]):
            split[key] = _shared(key, values, name)
            continue
        parts = []
        for (leaf, index), value in zip(found, values, strict=True):
            own, piece = leaf.split(np.asarray(value))[index], leaf.pieces[index]
            new, part = _factored(key, piece, own, inverse=True) if key in _FACTORED else (key, _back(key, own, piece))
            parts.append((new, part))
        arrays = [part for _, part in parts]
        split[parts[0][0]] = np.concatenate(arrays) if len(arrays) > 1 else _contiguous(arrays[0])
    return split


def _contiguous(array: np.ndarray) -> np.ndarray:
    return np.array(array, order="C")


def _same_keys(name: str, entries: Sequence[Entry]) -> list[str]:
    keys = list(entries[0])
    if any(entry.keys() != entries[0].keys() for entry in entries):
        raise CheckpointError(f"the states of what {name!r} is made of have not all the same keys")
    return keys


def _is_slot(key: str, value: object) -> bool:
    """Whether a value is a parameter's own array, not a number that parameters may share."""
    return key not in _SCALARS and hasattr(value, "shape")


def _shared(key: str, values: Sequence[object], name: str) -> PyTree:
    if any(not np.array_equal(np.asarray(value), np.asarray(values[0])) for value in values):
        raise CheckpointError(f"{key} of what {name!r} is made of differs: {', '.join(map(str, values))}")
    return np.array(values[0]) if hasattr(values[0], "shape") else values[0]  # never torch's own memory


def _like(key: str, value: object, piece: Piece) -> np.ndarray:
    array = np.asarray(value)
    if array.shape != piece.torch_shape:
        raise CheckpointError(f"{key} of torch's {piece.name!r} has shape {array.shape}, not {piece.torch_shape}")
    _check_whole(key, piece)
    return array


def _back(key: str, value: np.ndarray, piece: Piece) -> np.ndarray:
    if value.shape != piece.jax_shape:
        raise CheckpointError(
            f"{key} of what torch calls {piece.name!r} has shape {value.shape}, not {piece.jax_shape}"
        )
    _check_whole(key, piece)
    return piece.to_torch(value)


def _check_whole(key: str, piece: Piece) -> None:
    """Raise if Adafactor keeps a vector's statistics whole in torch but by rows and columns here."""
    if key == _WHOLE and len(piece.torch_shape) < 2 <= len(piece.jax_shape):
        raise CheckpointError(
            f"{key} of torch's {piece.name!r} {piece.torch_shape}: as {piece.jax_shape} it has row_var and col_var. "
            "Remove the entry from the state dict to reset it"
        )


def _factored(key: str, piece: Piece, value: object, inverse: bool) -> tuple[str, np.ndarray]:
    """Convert a row or column statistic of the last two axes to the other layout; return its name and value there."""
    last = piece.axes[-2:]
    count = len(piece.axes)
    if (
        piece.part
        or piece.expanded != piece.torch_shape
        or piece.moved_shape != piece.jax_shape
        or {*last} != {count - 2, count - 1}
    ):
        raise CheckpointError(
            f"{key} of torch's {piece.name!r} {piece.torch_shape} cannot be laid out as {piece.jax_shape}: its rows "
            "and columns are other axes there. Remove the entry from the state dict to reset it"
        )
    axes = tuple(np.argsort(piece.axes)) if inverse else piece.axes  # of a matrix that is neither cut nor expanded
    return (_FACTORED[key] if last[0] > last[1] else key), _contiguous(np.asarray(value).transpose(axes))


def _flat_order(layout: Any, leaves: Sequence[Leaf], names: Sequence[str]) -> np.ndarray:
    """For each entry of JAX's flat vector, its index in torch's."""
    widths = {piece.name: 2 if leaf.is_complex else 1 for leaf in leaves for piece in leaf.pieces}
    held, start = {}, 0
    for name in names:
        shape = layout.torch_shapes[name]
        if name not in widths:
            raise CheckpointError(f"the layout has no leaf for {name!r}, which is in the flat history")
        size = int(np.prod(shape, dtype=np.int64))
        held[name] = (start + widths[name] * np.arange(size)).reshape(shape)
        start += widths[name] * size
    order = []
    for leaf in leaves:
        places = leaf.join([piece.to_jax(held[piece.name]) for piece in leaf.pieces]).reshape(-1)
        order.append(np.stack([places, places + 1], -1).reshape(-1) if leaf.is_complex else places)
    return np.concatenate(order)


def _flat_entries(entries: Iterable[Entry], order: np.ndarray, count: int) -> list[Entry]:
    """The entries of ``count`` parameters; the first has the history of all."""
    whole = next(entry for entry in entries if _FLAT in entry)
    return [_permuted(whole, order), *[{} for _ in range(count - 1)]]


def _permuted(entry: Entry, order: np.ndarray) -> Entry:
    """Permute a flat history: vectors, matrices and lists of them."""

    def moved(key: str) -> Callable[[PyTree], PyTree]:
        def move(value: PyTree) -> PyTree:
            if isinstance(value, list):
                return [move(item) for item in value]
            array = np.array(value) if hasattr(value, "shape") else value
            for axis in range(np.ndim(array)):
                if array.shape[axis] != len(order):
                    raise CheckpointError(f"{key} has {array.shape[axis]} entries, the parameters {len(order)}")
                array = np.take(array, order, axis)
            return array

        return move

    return {key: moved(key)(value) for key, value in entry.items()}


def _orientation(group: Mapping[str, PyTree], leaves: Sequence[Leaf]) -> dict[str, PyTree]:
    """The option that tells Muon that the outputs are the last axis here; they are the first in torch."""
    if _ORIENTED not in group:
        return {}
    pieces = [piece for leaf in leaves for piece in leaf.pieces]
    cut = [piece.name for piece in pieces if piece.part or piece.jax_shape[-1:] != piece.moved_shape[-1:]]
    if cut:
        raise CheckpointError(
            f"Muon orthogonalizes a matrix as a whole, and here {', '.join(dict.fromkeys(cut))} is cut in parts or "
            "heads: its steps would not be torch's. Keep it a matrix in the twin, or out of this state dict"
        )
    turned = {piece.axes[-2:] == (1, 0) for piece in pieces}
    if turned == {True, False} and group.get("adjust_lr_fn") != "match_rms_adamw":
        raise CheckpointError(
            "some matrices of the group are transposed here and some are not, and the factor of Muon's learning rate "
            "depends on their shape: put them into two groups"
        )
    return {"reshape": "out_last"} if turned == {True} else {}
