"""What was saved, in the structure of a tree that says how it is to be."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from functorch_optim import trees
from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.typing import PyTree


def restored(
    arrays: Mapping[str, PyTree], texts: Mapping[str, str], like: PyTree
) -> tuple[list[PyTree], list[PyTree], PyTree]:
    """The saved leaves under the names of the leaves of ``like``, the leaves of ``like``, and its structure."""
    names, models, treedef = trees.named_leaves(like)
    names = [name or "value" for name in names]
    known = set(names)
    held = {**_told(texts), **arrays}
    as_saved = tuple(f"{name}." for name, model in zip(names, models, strict=True) if model is ...)
    held = {name: leaf for name, leaf in held.items() if name in known or not name.startswith(as_saved)}
    problems = [f"{name} is missing" for name in names if name not in held and f"{name}." not in as_saved]
    unexpected = [name for name in held if name not in known]
    heads = {name.partition(".")[0] for name in names}
    beside = dict.fromkeys(head for name in unexpected if (head := name.partition(".")[0]) not in heads)
    problems += [f"{name} is unexpected" for name in unexpected if name.partition(".")[0] in heads]
    problems += [f"{name} is unexpected" for name in beside]
    leaves = []
    for name, model in zip(names, models, strict=True):
        if model is ...:
            leaves.append(model)
        elif name in held:
            leaf = held[name]
            found, expected = _kind(leaf), _kind(model)
            if found != expected:
                problems.append(f"{name} is {found}, not {expected}")
            problems += _misplaced(name, model)
            leaves.append(leaf)
    if problems:
        mend = f". In like= write ... for what is to stay as it was saved: {_entries(beside)}" if beside else ""
        raise CheckpointError(f"what was saved does not fit: {'; '.join(problems)}{mend}{_of_few_bits(names, held)}")
    return leaves, models, treedef


def is_in_few_bits(name: str) -> bool:
    """Whether a leaf of a state, by its name, is of a slot that :func:`functorch_optim.quantized` holds."""
    return name.endswith((".codes", ".scales", ".values"))


def _of_few_bits(*names: Iterable[str]) -> str:
    """What to do if only one of the states, or each in its way, has slots in few bits."""
    if not any(is_in_few_bits(name) for each in names for name in each):
        return ""
    return ". Load it as it was saved, like= of that transformation, and convert it: fo.requantized(state, like)"


def _misplaced(name: str, model: PyTree) -> list[str]:
    """Say so if a leaf of ``like`` cannot be split as it asks."""
    if isinstance(model, jax.ShapeDtypeStruct) and model.sharding is not None:
        try:
            model.sharding.shard_shape(model.shape)
        except ValueError as error:
            return [f"{name} of like= is split as does not fit its shape: {error}"]
    return []


def at(saved: PyTree, path: tuple[Any, ...]) -> PyTree:
    """Return what was saved at a place.

    Raises:
        CheckpointError: there is nothing.
    """
    for key in path:
        try:
            saved = saved[next(getattr(key, kind) for kind in ("key", "idx", "name") if hasattr(key, kind))]
        except (IndexError, KeyError, TypeError) as error:
            raise CheckpointError(f"what was saved does not fit: {trees.path_name(path)} is missing") from error
    return saved


def _entries(names: Iterable[str]) -> str:
    return "{" + ", ".join(f"{name!r}: ..." for name in names) + "}"


def _told(texts: Mapping[str, str]) -> dict[str, PyTree]:
    """The saved numbers and strings as JAX sees leaves: items of a list one by one, without None."""
    found: dict[str, PyTree] = {}
    for name, text in texts.items():
        value = json.loads(text)
        found |= {f"{name}.{i}": one for i, one in enumerate(value)} if isinstance(value, list) else {name: value}
    return {name: value for name, value in found.items() if value is not None}


def _kind(leaf: PyTree) -> str:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    return type(leaf).__name__
