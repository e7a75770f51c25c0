"""What flax keeps beside parameters: variables of other kinds in modules and states of nnx, collections of linen."""

import sys
from collections.abc import Mapping
from typing import Any

import jax

from functorch_optim import trees
from functorch_optim.typing import PyTree

_COLLECTIONS = ("batch_stats", "cache", "intermediates", "perturbations")


def nnx() -> Any:
    """``flax.nnx`` where it was imported, else None: without it there is no module of it either."""
    return sys.modules.get("flax.nnx")


def is_nnx(model: PyTree) -> bool:
    """Whether this is a module of flax nnx."""
    return nnx() is not None and isinstance(model, nnx().Module)


def parameters(tree: PyTree) -> PyTree:
    """A tree with the state of its ``nnx.Param`` variables in the place of every module of nnx."""
    if not any(map(is_nnx, jax.tree.leaves(tree, is_leaf=is_nnx))):
        return tree
    return jax.tree.map(lambda node: nnx().state(node, nnx().Param) if is_nnx(node) else node, tree, is_leaf=is_nnx)


def other_variables(tree: PyTree) -> str:
    """The variables of flax in a tree that are no parameters, in words; nothing where there are none."""
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
    """Whether a node is a variable that holds something, and no parameter."""
    return isinstance(node, nnx().Variable) and not isinstance(node, nnx().Param) and bool(jax.tree.leaves(node))


def check_parameters(tree: PyTree) -> None:
    """Raise if a tree holds variables of flax that are no parameters: an optimizer would train them.

    Raises:
        TypeError: it does; the message says what to give instead.
    """
    others = other_variables(tree)
    if others:
        raise TypeError(
            f"optimizer can only optimize parameters, but the tree has {others}. Give nnx.state(model, nnx.Param), or "
            'variables["params"] of linen; a kind of variables of your own is trained if it is a subclass of nnx.Param'
        )
