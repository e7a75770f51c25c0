"""Parse what an optimizer is built from (a tree, a list, named pairs, groups, rules) into leaves, names and groups."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from functorch_optim import trees, variables
from functorch_optim.callers import warn_caller
from functorch_optim.foreign_models import instead_of
from functorch_optim.foreign_names import meaning_of
from functorch_optim.optim.engine.torch_habits import FUNCTIONAL_ONLY
from functorch_optim.optim.layout import Layout
from functorch_optim.option_names import closest
from functorch_optim.pages import see
from functorch_optim.typing import OptionValues, PyTree

GroupRules = Sequence[tuple[str | Callable[[str, PyTree], bool], Mapping[str, PyTree]]]

# Keys that torch and its schedulers put into groups: never taken for a misspelled option.
_KNOWN_EXTRAS = {"initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr", "param_names", "name"}
_SETS = (
    "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets will "
    "change between runs. Please use a list instead."
)


class Parsed(NamedTuple):
    """The leaves of the parameters, their layout, and the options of each group."""

    leaves: list[PyTree]
    layout: Layout
    options: list[dict[str, PyTree]]


class _Body(NamedTuple):
    """The parameters of one group; ``own_names`` says that the user gave each name."""

    tree: PyTree
    leaves: list[PyTree]
    names: list[str] | None
    own_names: bool = False


def parse(params: PyTree, group_rules: GroupRules, known: Collection[str]) -> Parsed:
    """Read ``params`` in any of the forms an optimizer takes; ``known`` are the options of a group.

    Raises:
        TypeError, ValueError: with torch's message if torch has one; the message names parameters.
    """
    if isinstance(params, set | frozenset):
        warn_caller(f"{_SETS} Here they stand in the order of their printed forms.", FutureWarning)
        params = sorted(params, key=repr)
    params = _listed(params, "params argument given to the optimizer should be an iterable of Tensors or dicts")
    if type(params) in (list, tuple) and params and all(isinstance(e, Mapping) and "params" in e for e in params):
        if group_rules:
            raise ValueError("group_rules make groups out of one tree: give them, or group dicts, not both")
        return _groups(params, known)
    body = _body(params)
    if not body.leaves:
        raise ValueError("optimizer got an empty parameter list")
    if group_rules:
        return _ruled(body, group_rules, known)
    return Parsed(body.leaves, Layout(trees.Structure.of(body.tree), body.names, [0] * len(body.leaves)), [{}])


def _listed(params: PyTree, complaint: str) -> PyTree:
    """Return pytrees unchanged, and other iterables as a list."""
    if isinstance(params, set | frozenset):
        raise TypeError(_SETS)
    if params is None or isinstance(params, str) or _is_array(params):
        raise TypeError(f"{complaint}, but got {type(params).__name__}{instead_of(params)}")
    if not jax.tree_util.all_leaves([params]):
        return params
    if not isinstance(params, Iterable):
        raise TypeError(f"{complaint}, but got {type(params).__name__}{instead_of(params)}")
    return list(params)


def _is_array(value: object) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic)


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)


def _body(params: PyTree) -> _Body:
    """Parse one group's parameters: named pairs, a flat list of arrays (no names), a tree, or a module."""
    params = variables.parameters(params)
    if trees.has_flat(params):
        raise ValueError(
            "optimizer got fo.flat_params, but it joins small parameters by itself: give it the tree, flat.tree()"
        )
    if type(params) in (list, tuple):
        pairs = [_is_pair(element) for element in params]
        if any(pairs):
            if not all(pairs):
                raise ValueError("all optimizer params should be with/without names. Some param names are missing")
            names, arrays = [name for name, _ in params], [array for _, array in params]
            _check_leaves(names, arrays)
            _check_unique(names)
            _check_distinct(arrays)
            return _Body(arrays, arrays, names, own_names=True)
        if all(map(_is_array, params)):
            _check_leaves([str(index) for index in range(len(params))], params)
            _check_distinct(params)
            return _Body(params, list(params), None)
    variables.check_parameters(params)
    names, leaves, _ = trees.named_leaves(params)
    _check_leaves(names, leaves)
    _check_unique(names)
    return _Body(params, leaves, names)


def _check_leaves(names: Iterable[str], leaves: Iterable[PyTree]) -> None:
    for name, leaf in zip(names, leaves, strict=True):
        if not trees.is_sparse(leaf):  # check_dense reports those, with torch's numbers
            trees.check_parameter(name, leaf)


def check_dense(parsed: Parsed, who: str) -> None:
    """Raise, with torch's message, if a parameter itself is sparse; the message has its group and its number there.

    Raises:
        ValueError: names the sparse parameters.
    """
    indices: list[list[int]] = []
    names: list[str] = []
    count: Counter[int] = Counter()
    fresh = len(parsed.layout.group_of) - len(parsed.leaves)
    for name, leaf, group in zip(
        parsed.layout.labels[fresh:], parsed.leaves, parsed.layout.group_of[fresh:], strict=True
    ):
        if trees.is_sparse(leaf):
            indices.append([group, count[group]])
            names.append(trees.quote(name))
        count[group] += 1
    if indices:
        raise ValueError(
            f"Sparse params at indices {indices}: {who} requires dense parameter tensors; only gradients may be "
            f"row-sparse: {', '.join(names)}"
        )


def _check_unique(names: Sequence[str]) -> None:
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"several parameters have the name {', '.join(map(trees.quote, repeated))}")


def _check_distinct(arrays: Sequence[PyTree]) -> None:
    first: dict[int, int] = {}
    for index, array in enumerate(arrays):
        if id(array) in first:
            raise ValueError(
                "optimizer contains a parameter group with duplicate parameters: "
                f"numbers {first[id(array)]} and {index} are the same array"
            )
        first[id(array)] = index


def _groups(elements: Sequence[Mapping[str, PyTree]], known: Collection[str]) -> Parsed:
    pairs = [_element(index, element, known) for index, element in enumerate(elements)]
    bodies, options = [body for body, _ in pairs], [own for _, own in pairs]
    named = [body.names is not None for body in bodies if body.leaves]
    if any(named) and not all(named):
        raise ValueError(_partly_named(not named[0]))
    owner: dict[int, int] = {}
    for index, body in enumerate(bodies):
        for leaf in body.leaves:
            if owner.setdefault(id(leaf), index) != index:
                raise ValueError(
                    f"some parameters appear in more than one parameter group: groups {owner[id(leaf)]} and {index}"
                )
    group_of = [index for index, body in enumerate(bodies) for _ in body.leaves]
    names = _joined_names(bodies) if any(named) else None
    places = tuple(range(len(bodies)))
    layout = Layout(trees.Structure.of([body.tree for body in bodies]), names, group_of, places)
    return Parsed([leaf for body in bodies for leaf in body.leaves], layout, options)


def _element(index: int, element: Mapping[str, PyTree], known: Collection[str]) -> tuple[_Body, dict[str, PyTree]]:
    """The parameters and the options of a group dict."""
    given = element["params"]
    given = [given] if _is_array(given) else _listed(given, f"params of parameter group {index} should be Tensors")
    options = {key: value for key, value in element.items() if key != "params"}
    check_options(options, known, f"parameter group {index}")
    return _body(given), options


def _partly_named(named: bool) -> str:
    return (
        "all optimizer param groups should be with/without names. cannot add param group "
        f"{'with names' if named else 'without names'} to the optimizer"
    )


def extended(layout: Layout, index: int, element: object, known: Collection[str]) -> Parsed:
    """The leaves and options of one more group, number ``index``, and the layout with it.

    The tree becomes a list: the old tree, or the groups' trees if it already was such a list, then the new one.

    Raises:
        TypeError, ValueError: with torch's message if torch has one.
    """
    if not isinstance(element, Mapping):
        raise TypeError(f"param_group must be a dict, but got {type(element)}")
    body, options = _element(index, element, known)
    if body.leaves and layout.group_of and (body.names is None) != (layout.names is None):
        raise ValueError(_partly_named(body.names is not None))
    names = layout.names or []
    new = _new_names(index, body, names)
    whole = layout.structure.unflatten(range(len(layout.group_of)))
    before = [whole] if layout.element_of is None else whole
    element_of = (*(layout.element_of or (0,) * index), len(before))
    structure = trees.Structure.of([*before, body.tree])
    has_names = layout.names is not None or (body.names is not None and bool(body.leaves))
    group_of = [*layout.group_of, *[index] * len(body.leaves)]
    return Parsed(
        body.leaves, Layout(structure, [*names, *new] if has_names else None, group_of, element_of), [options]
    )


def _joined_names(bodies: Sequence[_Body]) -> list[str]:
    """The names of all groups; if a tree shares names with earlier ones, its group's index prefixes its names."""
    names: list[str] = []
    for index, body in enumerate(bodies):
        names += _new_names(index, body, names)
    return names


def _new_names(index: int, body: _Body, names: Sequence[str]) -> list[str]:
    """The names of one more group, number ``index``, given those of the groups before it."""
    new = body.names or []
    if not body.own_names and not set(names).isdisjoint(new):
        new = [f"{index}.{name}" for name in new]
    _check_unique([*names, *new])
    return new


def _ruled(body: _Body, group_rules: GroupRules, known: Collection[str]) -> Parsed:
    """One group per rule, in order, then one for unmatched parameters; the first match decides."""
    if body.names is None and not all(callable(pattern) for pattern, _ in group_rules):
        raise ValueError("group_rules need parameters with names: a tree, or (name, array) pairs")
    names = body.names if body.names is not None else [str(index) for index in range(len(body.leaves))]
    options = [dict(values) for _, values in group_rules]
    for index, ((pattern, _), values) in enumerate(zip(group_rules, options, strict=True)):
        check_options(values, known, f"group rule {index} ({pattern!r})")
    matches = [_matcher(pattern) for pattern, _ in group_rules]
    pairs = list(zip(names, body.leaves, strict=True))
    found = [next((i for i, match in enumerate(matches) if match(*pair)), len(matches)) for pair in pairs]
    for index, (pattern, _) in enumerate(group_rules):
        if index not in found:
            raise ValueError(
                f"group rule {index} ({pattern!r}) matches no parameter that the rules before it left; "
                f"the names are {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
            )
    rest = [{}] if len(matches) in found else []
    return Parsed(body.leaves, Layout(trees.Structure.of(body.tree), body.names, found), options + rest)


def _matcher(pattern: Any) -> Callable[[str, PyTree], PyTree]:
    """A rule's pattern as a function of a parameter's name and array."""
    if callable(pattern):
        return pattern
    search = re.compile(pattern).search
    return lambda name, array: search(name)


def check_options(options: OptionValues, known: Collection[str], where: str) -> None:
    """Raise if a key looks like a misspelled option; any other unknown key is the user's own."""
    for key in options:
        if not isinstance(key, str):
            raise TypeError(f"{where}: an option's name must be a string, but it is {key!r}")
        if key in known or key in _KNOWN_EXTRAS:
            continue
        if key == "params":
            raise ValueError(f"{where}: 'params' belongs to group dicts, a rule has only options")
        if key in ("decay_mask", "axis_name"):
            raise ValueError(
                f"{where}: {key!r} belongs to the functional face; here make groups, one without the decay "
                f"({see('groups-and-masks')})"
            )
        if key in FUNCTIONAL_ONLY:
            raise ValueError(
                f"{where}: {key!r} belongs to the functional face; bind it there, and make an optimizer of that: "
                "Optimizer.from_transform(functools.partial(fo.muon, matrix_axes=...), params, {'lr': 0.02})"
            )
        meaning = meaning_of(key, known)
        if meaning is not None and meaning.option:
            more = "" if meaning.write == meaning.option else f" Write {meaning.write}"
            raise ValueError(
                f"{where}: {key!r} is no option of this optimizer; did you mean {meaning.option!r}?{more} "
                f"({see(meaning.page)})"
            )
        if close := closest(key, known, 0.84):
            raise ValueError(f"{where}: {key!r} is no option of this optimizer; did you mean {close!r}?")
