"""Labels of parameters, and masks: trees of booleans, functions of the dotted path, regular expressions."""

import contextlib
import re
from collections.abc import Callable, Generator, Hashable
from contextvars import ContextVar
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import trees, variables
from functorch_optim.base import Frozen
from functorch_optim.callers import warn_caller
from functorch_optim.pages import see
from functorch_optim.paths import Found, PathRules, called, listed
from functorch_optim.typing import PyTree, TreeDef


class ByLeaf(Frozen):
    """Labels from a parameter's dotted path and array; they must not depend on the array's values."""

    function: Callable[[str, PyTree], PyTree]

    def label(self, name: str, leaf: PyTree) -> Hashable:
        return called(self.function, "path and the array", name, leaf)


class Labels(Frozen):
    """A pytree of labels, a function of the dotted path, or rules for it; compared by content.

    Rules that could also be a tree of labels are one if it has the parameters' structure.
    """

    function: Callable[[str], Hashable] | ByLeaf | PathRules | None
    leaves: tuple[Hashable, ...] = ()
    structure: PyTree = None

    def __repr__(self) -> str:
        return repr(self.function or self.structure.unflatten(self.leaves))

    def of(self, names: trees.Names, tree: PyTree) -> list[Hashable]:
        """Find the label of every leaf of ``tree``; a label may stand for a whole subtree.

        Raises:
            ValueError: the structures differ, or the rules do not fit the paths.
        """
        function, (leaves, treedef) = self.function, jax.tree.flatten(tree, is_leaf=trees.is_leaf)
        if isinstance(function, ByLeaf):
            pairs = list(zip(names, leaves, strict=True))
            for name, leaf in pairs:
                if leaf is not None:
                    trees.check_array(name, leaf)
            return [None if leaf is None else function.label(name, leaf) for name, leaf in pairs]
        if callable(function):
            return [called(function, "path", name) for name in names]
        if not names:  # nothing to label; also optax's placeholder, which has no structure to compare
            return []
        if function is not None and self.structure is None:
            return function.values(names, leaves)
        try:
            return self._of_tree(leaves, treedef)
        except ValueError as error:
            if function is not None:
                return function.values(names, leaves)
            raise ValueError(
                f"the labels do not have the structure of the parameters: {error} A mask or a tree of labels has one "
                f"at each parameter; or pass a function of the dotted path ({see('groups-and-masks')})"
            ) from error

    def _of_tree(self, leaves: list[PyTree], treedef: TreeDef) -> list[Hashable]:
        places = variables.plain(treedef.unflatten(range(len(leaves))))
        labels: list[Hashable] = [None] * len(leaves)
        for label, subtree in zip(self.leaves, self.structure.treedef.flatten_up_to(places), strict=True):
            for place in jax.tree.leaves(subtree):
                labels[place] = label
        return labels


_PART: ContextVar[bool] = ContextVar("part", default=False)


@contextlib.contextmanager
def part_of_a_tree() -> Generator[None, None, None]:
    """Within it a mask that is True nowhere may be so elsewhere: the tree is a part of the parameters."""
    token = _PART.set(True)
    try:
        yield
    finally:
        _PART.reset(token)


def _is_part_of_optax(tree: PyTree) -> bool:
    """Whether optax's masks have taken leaves out of the tree."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: type(node).__name__ == "MaskedNode")
    return any(type(node).__name__ == "MaskedNode" for node in nodes)


def warn_of_empty(who: str, mask: Labels, tree: PyTree) -> None:
    """Warn if a mask, a function or a regular expression, is True at no parameter: a slip in a name would undo it."""
    if mask.leaves or isinstance(mask.function, ByLeaf) or _PART.get():
        return
    names, leaves, _ = trees.named_leaves(tree, none_is_leaf=True)
    if all(leaf is None for leaf in leaves) or any(mask.of(names, tree)) or _is_part_of_optax(tree):
        return
    warn_caller(
        f"{who}: the mask {mask!r} is True at no parameter, so it selects none; the parameters are {listed(names)} "
        f"({see('groups-and-masks')})"
    )


def as_labels(labels: PyTree, is_leaf: Callable[[PyTree], bool] = trees.is_leaf) -> Labels:
    if callable(labels) and jax.tree_util.all_leaves([labels]):  # not a module of labels
        return Labels(labels)
    leaves, structure = jax.tree.flatten(variables.plain(labels), is_leaf=is_leaf)
    return Labels(None, tuple(leaves), trees.Structure(structure))


def as_mask(who: str, mask: PyTree) -> Labels:
    """Convert a mask to the labels True and False.

    A mask is a tree of booleans, a function of the dotted path, or a compiled regular expression, which is True where
    it is found in the path.

    Raises:
        TypeError: a leaf of the tree is not a boolean.
    """
    if isinstance(mask, re.Pattern):
        return Labels(Found(mask))
    labels = as_labels(mask)
    if labels.function is not None:
        return labels
    for leaf in labels.leaves:
        if leaf is not None and not is_flag(leaf):
            raise TypeError(
                f"{who}: a mask is a tree of booleans, a function of the path, or a compiled regular expression, but "
                f"it holds {leaf!r}{_instead_of(mask)} ({see('groups-and-masks')})"
            )
    return replace(labels, leaves=tuple(None if leaf is None else bool(leaf) for leaf in labels.leaves))


def _instead_of(mask: PyTree) -> str:
    """Say what to write instead of a regular expression or names as a mask; starts with the punctuation."""
    if isinstance(mask, str):
        return f"; a regular expression must be compiled: re.compile({mask!r})"
    if isinstance(mask, list | tuple | set | frozenset) and mask and all(isinstance(name, str) for name in mask):
        return f"; to name parameters pass lambda path: path in {mask!r:.80}, which is True at them"
    return ""


def flags_of(who: str, mask: Labels, tree: PyTree) -> list[bool]:
    """Return the mask's value for each leaf of ``tree`` that is not None.

    Raises:
        ValueError: the structures differ; TypeError: the function of the path returns something other than a boolean.
    """
    names, leaves, _ = trees.named_leaves(tree, none_is_leaf=True)
    flags = []
    for name, leaf, flag in zip(names, leaves, mask.of(names, tree), strict=True):
        if leaf is None:
            continue
        if not is_flag(flag):
            raise TypeError(f"{who} must be True or False at the parameter {trees.quote(name)}, but it is {flag!r}")
        flags.append(bool(flag))
    return flags


def decaying(mask: Labels | None, params: PyTree) -> list[bool]:
    """Whether each parameter that is not None decays: with a ``decay_mask`` those where it is True, else all."""
    return [True] * len(jax.tree.leaves(params)) if mask is None else flags_of("decay_mask", mask, params)


def is_flag(leaf: PyTree) -> bool:
    """Whether a value, such as a leaf of a mask, is a boolean, or a scalar array of booleans."""
    if isinstance(leaf, jax.Array | np.ndarray):
        return leaf.shape == () and jnp.issubdtype(leaf.dtype, jnp.bool_)
    return isinstance(leaf, bool | np.bool_)
