"""Flax variables that are not parameters: other kinds in nnx modules and states, other collections in linen."""

import sys
from collections.abc import Mapping
from typing import Any

import jax

from functorch_optim import foreign_models, trees
from functorch_optim.pages import see
from functorch_optim.typing import PyTree

_COLLECTIONS = ("batch_stats", "cache", "intermediates", "perturbations")


def nnx() -> Any:
    """Return ``flax.nnx`` if it was imported, else None: without the import no nnx module can exist."""
    return sys.modules.get("flax.nnx")


def is_nnx(model: PyTree) -> bool:
    """Whether ``model`` is a flax nnx module."""
    return nnx() is not None and isinstance(model, nnx().Module)


def parameters(tree: PyTree) -> PyTree:
    """Replace every nnx module in a tree with the state of its ``nnx.Param`` variables."""
    if not any(map(is_nnx, jax.tree.leaves(tree, is_leaf=is_nnx))):
        return tree
    return jax.tree.map(lambda node: nnx().state(node, nnx().Param) if is_nnx(node) else node, tree, is_leaf=is_nnx)


def plain(tree: PyTree) -> PyTree:
    """Replace flax's FrozenDicts and nnx states in a tree with dicts, and nnx variables with their values.

    Example:
        >>> from flax.core import FrozenDict
        >>> plain({"a": FrozenDict({"b": 1}), "c": [2]})
        {'a': {'b': 1}, 'c': [2]}
    """

    def replaced(node: PyTree) -> PyTree:
        inside = opened(node)
        return {key: plain(value) for key, value in inside.items()} if _is_mapping(node) else inside

    return jax.tree.map(
        replaced, tree, is_leaf=lambda node: trees.is_leaf(node) or _is_mapping(node) or _is_variable(node)
    )


def opened(node: PyTree) -> PyTree:
    """Return a dict for a FrozenDict, an nnx state or module, the value for a variable, and any other node itself."""
    if is_nnx(node):
        node = nnx().state(node)
    if _is_mapping(node):
        return dict(node.items())
    if _is_variable(node):
        (value,) = jax.tree.leaves(node, is_leaf=lambda child: child is not node)
        return value
    return node


def fitted(tree: PyTree, reference: PyTree) -> PyTree:
    """Return ``tree`` in the structure of ``reference`` if only the containers differ, otherwise ``tree`` itself.

    Example:
        >>> fitted({"a": {"0": 1, "1": 2}}, {"a": [3, 4]})
        {'a': [1, 2]}
    """
    if jax.tree.structure(tree) == jax.tree.structure(reference):
        return tree
    names, leaves, _ = trees.named_leaves(plain(tree), none_is_leaf=True)
    wanted, _, structure = trees.named_leaves(reference)
    places = set(wanted)
    found = [(name, leaf) for name, leaf in zip(names, leaves, strict=True) if leaf is not None or name in places]
    by_name = dict(found)
    if len(by_name) != len(found) or sorted(by_name) != sorted(wanted):
        return tree
    return structure.unflatten([by_name[name] for name in wanted])


def _is_mapping(node: PyTree) -> bool:
    """Whether a node is a mapping other than a dict."""
    return isinstance(node, Mapping) and not isinstance(node, dict)


def _is_variable(node: PyTree) -> bool:
    return nnx() is not None and isinstance(node, nnx().Variable)


def is_random_key(node: object) -> bool:
    """Whether a node is a variable of flax nnx that holds a random key, as ``Dropout`` has."""
    return nnx() is not None and isinstance(node, nnx().RngKey)


def other_variables(tree: PyTree) -> str:
    """Describe the flax variables in a tree that are not parameters; return an empty string if there are none."""
    if isinstance(tree, Mapping) and "params" in tree:
        beside = [key for key in _COLLECTIONS if key in tree and jax.tree.leaves(tree[key])]
        if beside:
            return f"variables of flax linen with {', '.join(map(trees.quote, beside))} in them"
    if nnx() is None:
        return ""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, nnx().Variable))
    others = {trees.path_name(path): type(node).__name__ for path, node in flat if _is_other(node)}
    if not others:
        return ""
    return f"variables of flax nnx ({', '.join(sorted(set(others.values())))}) in it: {trees.quote(next(iter(others)))}"


def _is_other(node: PyTree) -> bool:
    """Whether a node is a non-empty variable that is not a parameter."""
    return isinstance(node, nnx().Variable) and not isinstance(node, nnx().Param) and bool(jax.tree.leaves(node))


def check_parameters(tree: PyTree) -> None:
    """Raise if a tree holds flax variables that are not parameters, which an optimizer would train, or no arrays.

    Raises:
        TypeError: it does, or a leaf is not an array; ValueError: it is an nnx.GraphDef. The message says what to pass
            instead.
    """
    others = other_variables(tree)
    if others:
        raise TypeError(
            f"optimizer can only optimize parameters, but the tree has {others}. Pass nnx.state(model, nnx.Param), or "
            'variables["params"] of linen; to train a kind of variable of your own, make it a subclass of nnx.Param '
            f"({see('networks')})"
        )
    if nnx() is not None and isinstance(tree, nnx().GraphDef):
        raise ValueError(
            "optimizer got an empty parameter list: an nnx.GraphDef holds none. Pass nnx.state(model, nnx.Param) "
            f"({see('networks')})"
        )
    if not all(map(foreign_models.is_array, jax.tree.leaves(tree, is_leaf=trees.is_sparse))):
        names, leaves, _ = trees.named_leaves(tree)
        for name, leaf in zip(names, leaves, strict=True):
            if not trees.is_sparse(leaf):
                trees.check_array(name, leaf, model=tree)
