"""Trees as named arrays and texts, which safetensors and any other format of named arrays can store."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import flat as flat_params
from functorch_optim import trees, variables
from functorch_optim.checkpoint.chunks import Lazy
from functorch_optim.checkpoint.errors import CheckpointError, shown
from functorch_optim.checkpoint.like import at, restored
from functorch_optim.checkpoint.state_names import flatten_state_dict, is_state_dict, unflatten_state_dict
from functorch_optim.checkpoint.work import Work
from functorch_optim.placement import place
from functorch_optim.typing import PyTree

FORMAT = 4  # bump it when the written data changes, and keep reading all; 2 added a checksum, 3 random keys, 4 shards
MARK = "__functorch_optim__"  # the text with the format, and how the names form the tree
_TEXTS = "__functorch_optim_texts__"  # in formats for arrays only: the bytes of the texts
_KEYS = "__functorch_optim_keys__."  # prefix of the text with the algorithm of an array of random keys


_RESERVED = ("__functorch_optim", "__metadata__", "__dtype__")  # prefixes that no name may have


class Flat(NamedTuple):
    """Arrays by name, and everything else by name as JSON."""

    arrays: dict[str, PyTree]
    texts: dict[str, str]


def flatten(tree: PyTree) -> Flat:
    """Split a tree into arrays, and JSON for everything else, by dotted name.

    An optimizer's state dict becomes ``state.<name>.exp_avg`` and ``param_groups.<name>.lr``, as in torch's
    distributed checkpoints.

    Raises:
        CheckpointError: a leaf is neither an array nor representable in JSON, or two leaves have the same name.
    """
    writer = _Writer({}, {})
    outline = writer.write(tree, ())
    return Flat(writer.arrays, {**writer.texts, MARK: json.dumps({"format": FORMAT, "tree": outline})})


def unflatten(flat: Flat, like: PyTree = None) -> PyTree:
    """Rebuild a flattened tree; with ``like``, in its structure, each leaf placed as the one in ``like``.

    Flat parameters were written as their tree; what is joined in ``like`` is joined again. Where ``like`` has ``...``
    or a state dict, the result has what was saved there as it is. Anything that :func:`flatten` did not write becomes
    a dict by name, or a state dict if the names are those of one.

    Raises:
        CheckpointError: a newer version wrote it, it is damaged, or it does not fit ``like``.
    """
    try:
        version = format_of(flat.texts) if MARK in flat.texts else None
        flat = _with_keys(flat)
        like = jax.tree.map(lambda node: ... if is_state_dict(node) else node, like, is_leaf=_is_node)
        told = {name: text for name, text in flat.texts.items() if name != MARK}
        found = None if like is None or like is ... else restored(flat.arrays, told, flat_params.unflatten(like))
        whole = found is None or any(model is ... for model in found[1])
        saved = (_foreign(flat) if version is None else _Reader(flat).tree()) if whole else None
    except CheckpointError:
        raise
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"what was saved is damaged: {shown(error)}") from error
    if found is None:
        return _read(saved)
    leaves, models, treedef = found
    tree = treedef.unflatten([_read(place(leaf, model)) for leaf, model in zip(leaves, models, strict=True)])
    tree = flat_params.flatten_like(tree, like) if trees.has_flat(like) else tree
    if not whole:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _read(at(saved, path)) if leaf is ... else leaf, tree, is_leaf=trees.is_sparse
    )


def _read(node: PyTree) -> PyTree:
    """Read what is still in a file."""
    if isinstance(node, Lazy):
        return np.asarray(node)
    if isinstance(node, dict):
        return {key: _read(value) for key, value in node.items()}
    return type(node)(map(_read, node)) if type(node) in (list, tuple) else node


def to_arrays(tree: PyTree) -> dict[str, PyTree]:
    """Convert a tree to a dict of arrays only, for formats that take nothing else (orbax, npz, msgpack).

    Arrays are neither copied nor moved, even sharded ones; flat parameters become their tree, random keys their data.
    Numbers, strings, lists of them and the structure go into one array of bytes. A functional state needs none of this:
    it is already a tree of arrays.

    Raises:
        CheckpointError: a leaf is neither an array nor representable in JSON.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> from functorch_optim.checkpoint import from_arrays
        >>> optimizer = optim.SGD({"w": jnp.ones(2)}, lr=0.5, momentum=0.9)
        >>> optimizer.step({"w": jnp.ones(2)})
        >>> arrays = to_arrays(optimizer.state_dict())
        >>> sorted(arrays)
        ['__functorch_optim_texts__', 'state.w.momentum_buffer']
        >>> from_arrays(arrays)["param_groups"][0]["lr"]
        0.5
    """
    arrays, texts = flatten(tree)
    return {**arrays, _TEXTS: np.frombuffer(json.dumps(texts).encode(), np.uint8)}


def from_arrays(arrays: Mapping[str, PyTree], like: PyTree = None) -> PyTree:
    """Rebuild the tree of :func:`to_arrays`; with ``like``, in its structure, each leaf placed as the one in ``like``.

    ``like`` is as for :func:`load_safetensors`.

    Raises:
        CheckpointError: :func:`to_arrays` did not create the arrays, a newer version did, or they do not fit ``like``.

    Example:
        >>> arrays = to_arrays({"epoch": 3, "w": np.ones(2)})
        >>> from_arrays(arrays)["epoch"], from_arrays(arrays)["w"].tolist()
        (3, [1.0, 1.0])
    """
    given = dict(arrays)
    if _TEXTS not in given:
        raise CheckpointError(f"there is no array {_TEXTS!r}: to_arrays did not make these")
    try:
        texts = json.loads(np.asarray(given.pop(_TEXTS)).tobytes())
        if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
            raise ValueError("it does not map names to texts")
    except (RecursionError, ValueError) as error:
        raise CheckpointError(f"the array {_TEXTS!r} is damaged: {shown(error)}") from error
    return unflatten(Flat(given, texts), like)


class _Writer(NamedTuple):
    """Collects arrays and texts; ``write`` returns a node's outline: how it is built from which names."""

    arrays: dict[str, PyTree]
    texts: dict[str, str]

    def write(self, node: PyTree, path: tuple[object, ...]) -> PyTree:
        node = node.tree() if isinstance(node, flat_params.FlatParams) else variables.opened(node)
        if is_state_dict(node):
            options, outline = flatten_state_dict(node), _outline_of_groups(node)
            return {"state_dict": outline, "entries": self._items(options.items(), path)}
        if isinstance(node, Mapping):
            for key in node:
                if type(key) not in (str, int, float, bool):
                    raise CheckpointError(f"a key of {_where(path)} is {type(key).__name__!r}, no name or number")
            return {"dict": self._items(node.items(), path)}
        if isinstance(node, str):
            node = str(node)  # NumPy's strings too
        elif isinstance(node, np.ndarray | np.generic | jax.Array):
            return (
                self._keep_keys(node, path) if is_keys(node) else self._keep(self.arrays, path, _storable(node, path))
            )
        if type(node) in (list, tuple):
            kind = type(node).__name__
            if all(map(_is_plain, node)):
                return {kind: self._keep(self.texts, path, json.dumps(node))}
            return {kind: [part for _, part in self._items(enumerate(node), path)]}
        if _is_plain(node):
            return self._keep(self.texts, path, json.dumps(node))
        children = children_of(node)
        if children is None:
            raise CheckpointError(f"{_where(path)} is {type(node).__name__!r}, which is neither an array nor JSON")
        return {"dict": [[trees.path_name(key), self.write(child, (*path, *key))] for key, child in children]}

    def _items(self, items: PyTree, path: tuple[object, ...]) -> list[list[PyTree]]:
        return [[key, self.write(value, (*path, jax.tree_util.DictKey(key)))] for key, value in items]

    def _keep_keys(self, keys: PyTree, path: tuple[object, ...]) -> str:
        algorithm = jax.random.key_impl(keys)
        if not isinstance(algorithm, str):
            raise CheckpointError(f"{_where(path)} is an array of random keys of an algorithm that JAX does not know")
        name = self._keep(self.arrays, path, jax.random.key_data(keys))
        self.texts[_KEYS + name] = algorithm
        return name

    def _keep(self, where: dict[str, PyTree], path: tuple[object, ...], value: object) -> str:
        name = trees.path_name(path) or "value"
        if name in self.arrays or name in self.texts:
            raise CheckpointError(f"two leaves of the tree have the name {name!r}")
        if name.startswith(_RESERVED):
            raise CheckpointError(f"a leaf must not have the name {name!r}: the format reserves it")
        where[name] = value
        return name


def children_of(node: PyTree) -> list[tuple[tuple[Any, ...], PyTree]] | None:
    """Return what a pytree node holds, with the key of each, or None if it is a leaf."""
    children = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)[0]
    return None if any(child is node for _, child in children) else children


def is_keys(array: PyTree) -> bool:
    """Whether ``array`` is an array of random keys."""
    return isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def _outline_of_groups(state_dict: Mapping[str, PyTree]) -> list[PyTree]:
    return [
        [list(group["params"]), list(group["param_names"]) if "param_names" in group else None]
        for group in state_dict["param_groups"]
    ]


def _is_plain(node: PyTree) -> bool:
    return node is None or type(node) in (bool, int, float, str)


def _where(path: tuple[object, ...]) -> str:
    return trees.quote(trees.path_name(path)) if path else "the tree"


def _storable(array: PyTree, path: tuple[object, ...]) -> PyTree:
    try:
        known = np.dtype(array.dtype.name) == array.dtype.newbyteorder("=") and array.dtype != object
    except TypeError:
        known = False
    if not known:
        raise CheckpointError(f"{_where(path)} is an array of {array.dtype}, which is no number")
    return array


def format_of(texts: Mapping[str, str]) -> int:
    """Return the format that the texts declare.

    Raises:
        CheckpointError: a newer version wrote it. ValueError: they declare none.
    """
    version = json.loads(texts[MARK])["format"]
    if type(version) is not int or version < 1:
        raise ValueError(f"its format is {shown(version)!r}")
    if version > FORMAT:
        raise CheckpointError(
            f"it was written in format {shown(version)} by a newer functorch_optim; this one reads formats up to "
            f"{FORMAT}: upgrade functorch_optim"
        )
    return version


class _Reader:
    """Rebuilds a tree; each name is used for one leaf, so that the tree cannot outgrow what was written."""

    def __init__(self, flat: Flat) -> None:
        self._outline = json.loads(flat.texts[MARK])["tree"]
        self._left = {**flat.texts, **flat.arrays}
        self._work = Work(sum(map(len, flat.texts.values())))

    def tree(self) -> PyTree:
        return self._read(self._outline)

    def _read(self, outline: Any) -> PyTree:
        """Build the node of an outline."""
        if isinstance(outline, str):
            leaf = self._take(outline)
            return json.loads(leaf) if isinstance(leaf, str) else leaf
        if "state_dict" in outline:
            groups = [tuple(group) for group in outline["state_dict"]]
            self._work.keyed((number, None) for numbers, _ in groups for number in numbers)
            entries = {key: self._read(node) for key, node in outline["entries"]}
            return unflatten_state_dict(entries, groups)
        if "dict" in outline:
            if _is_variable(outline["dict"]):
                return self._read(outline["dict"][0][1])
            return self._work.keyed((key, self._read(node)) for key, node in outline["dict"])
        kind = "list" if "list" in outline else "tuple"
        given = outline[kind]
        items = json.loads(self._take(given)) if isinstance(given, str) else list(map(self._read, given))
        return items if kind == "list" else tuple(items)

    def _take(self, name: str) -> PyTree:
        if name not in self._left:
            raise CheckpointError(f"what was saved is damaged: {shown(name)!r} is missing, or in two places")
        return self._left.pop(name)


def _is_variable(items: list[list[PyTree]]) -> bool:
    """Whether they are an nnx variable as earlier formats wrote it: its value, without a name of its own."""
    return len(items) == 1 and items[0][0] == "" and isinstance(items[0][1], str) and items[0][1][-1:] not in ("", ".")


def _with_keys(flat: Flat) -> Flat:
    """Wrap the data of random keys."""
    algorithms = {name.removeprefix(_KEYS): text for name, text in flat.texts.items() if name.startswith(_KEYS)}
    if not algorithms:
        return flat
    arrays = dict(flat.arrays)
    for name, algorithm in algorithms.items():
        arrays[name] = jax.random.wrap_key_data(jnp.asarray(arrays[name]), impl=algorithm)
    return Flat(arrays, {name: text for name, text in flat.texts.items() if not name.startswith(_KEYS)})


def _is_node(node: PyTree) -> bool:
    return is_state_dict(node) or trees.is_sparse(node)


def _foreign(flat: Flat) -> PyTree:
    """Read what another program wrote: a dict of arrays by name, or a state dict if the names are those of one."""
    plain = {
        name: json.loads(text) for name, text in flat.texts.items() if name.startswith(("param_groups.", "state."))
    }
    if not plain:
        return dict(flat.arrays)
    everything = {**flat.arrays, **plain}  # files keep no order
    return unflatten_state_dict({name: everything[name] for name in sorted(everything, key=_natural)})


def _natural(name: str) -> list[tuple[int, int | str]]:
    """A sort key that puts ``layers.10`` after ``layers.9``."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in name.split(".")]
