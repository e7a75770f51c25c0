"""Transformations of transformations: chain, named_chain, partition, masked; and how to look into a composed state."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim import trees
from functorch_optim.base import (
    EmptyState,
    Frozen,
    GradientTransformation,
    Transform,
    Update,
    effects_of,
    exportable,
    identity,
    transformation,
)
from functorch_optim.effects import Effect, Effects, Kind, Leaves, check_effects, for_each


@exportable
class ChainState(NamedTuple):
    """The states of a chain's links, in order."""

    states: tuple[Any, ...]


@exportable
class NamedStates(NamedTuple):
    """The states of named transformations: a named chain's links, or a partition's labels."""

    states: dict[Any, Any]


@exportable
class MaskedState(NamedTuple):
    """The state of a masked transformation: ``inner`` has None where the mask is False."""

    inner: Any


class Wrapper(Transform):
    """A transformation around another, whose state stands under ``inner``."""

    inner: GradientTransformation

    def hyperparams(self, state: Any) -> dict[Any, Any]:
        return current_hyperparams(self.inner, state.inner)

    def effects(self, at: Leaves | None) -> list[Effects]:
        return effects_of(self.inner, at)


class Links(Transform):
    """Base of the chains: refuses links that together turn descent into ascent, or decay into growth.

    Where that depends on the parameter (on a mask, or on labels), ``init`` finds out.
    """

    links: tuple[GradientTransformation, ...]

    def __post_init__(self) -> None:
        check_effects(self.effects(None)[0])

    def effects(self, at: Leaves | None) -> list[Effects]:
        together = for_each(at, ())
        for link in self.links:
            together = [before + own for before, own in zip(together, effects_of(link, at), strict=True)]
        return together

    def check(self, params: Any) -> None:
        """Raise if the chain is wrong for one of the parameters."""
        if any(effect.kind is Kind.UNKNOWN for effect in self.effects(None)[0]):
            names, leaves, _ = trees.named_leaves(params, none_is_leaf=True)
            for name, leaf, effects in zip(names, leaves, self.effects(Leaves(names, params)), strict=True):
                if leaf is not None:
                    check_effects(effects, f" at the parameter {trees.quote(name)}")


class Chain(Links):
    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.links))})"

    def init(self, params: Any) -> ChainState:
        self.check(params)
        return ChainState(tuple(link.init(params) for link in self.links))

    def update(self, updates: Any, state: ChainState, params: Any = None, **extra: Any) -> tuple[Any, ChainState]:
        updates, states = _update_in_turn(self.links, updates, state.states, params, extra)
        return updates, ChainState(tuple(states))

    def hyperparams(self, state: ChainState) -> dict[str, Any]:
        each = [current_hyperparams(link, one) for link, one in zip(self.links, state.states, strict=True)]
        names = [name for values in each for name in values]
        return {
            name if names.count(name) == 1 else f"{index}.{name}": value
            for index, values in enumerate(each)
            for name, value in values.items()
        }


class NamedChain(Links):
    names: tuple[str, ...]

    def __repr__(self) -> str:
        pairs = ", ".join(f"({name!r}, {link!r})" for name, link in zip(self.names, self.links, strict=True))
        return f"named_chain({pairs})"

    def init(self, params: Any) -> NamedStates:
        self.check(params)
        return NamedStates({name: link.init(params) for name, link in zip(self.names, self.links, strict=True)})

    def update(self, updates: Any, state: NamedStates, params: Any = None, **extra: Any) -> tuple[Any, NamedStates]:
        states = [state.states[name] for name in self.names]
        updates, states = _update_in_turn(self.links, updates, states, params, extra)
        return updates, NamedStates(dict(zip(self.names, states, strict=True)))

    def hyperparams(self, state: NamedStates) -> dict[str, Any]:
        pairs = zip(self.names, self.links, strict=True)
        return {name: current_hyperparams(link, state.states[name]) for name, link in pairs}


def _update_in_turn(links: Any, updates: Any, states: Any, params: Any, extra: dict[str, Any]) -> tuple[Any, list[Any]]:
    if len(states) != len(links):
        raise ValueError(f"a chain of {len(links)} transformations got a state of {len(states)}")
    after = []
    for link, state in zip(links, states, strict=True):
        updates, state = link.update(updates, state, params, **extra)
        after.append(state)
    return updates, after


def chain(*transformations: GradientTransformation) -> GradientTransformation:
    """Apply transformations one after the other, each to what the one before returned.

    Every keyword given to ``update`` reaches every link. The state is a :class:`ChainState`; reach a link's state with
    :func:`find_state`.

    Raises:
        ValueError: the links turn descent into ascent (two algorithms, each of which negates the updates), or decay
            into growth (:func:`functorch_optim.add_decayed_weights` after an algorithm). Where that depends on a
            mask, ``init`` raises and names the parameter.

    Example:
        >>> import functorch_optim as fo
        >>> chain(fo.scale(2.0), fo.identity())
        chain(scale(factor=2.0), identity())
    """
    return transformation(Chain(tuple(transformations)))


def named_chain(*pairs: tuple[str, GradientTransformation]) -> GradientTransformation:
    """A :func:`chain` of ``(name, transformation)`` pairs, whose states are found by name.

    Raises:
        ValueError: a name occurs twice, or as for :func:`chain`.

    Example:
        >>> import functorch_optim as fo
        >>> tx = named_chain(("clip", fo.clip_by_value(1.0)), ("optimizer", fo.sgd(lr=0.1)))
        >>> find_state(tx.init(jax.numpy.zeros(2)), "optimizer").step.item()
        0
    """
    names = tuple(name for name, _ in pairs)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"named_chain: the name {name!r} occurs more than once")
    return transformation(NamedChain(tuple(link for _, link in pairs), names))


class ByLeaf(Frozen):
    """Labels by the dotted path and the array, whose values must not matter."""

    function: Callable[[str, Any], Any]

    def label(self, name: str, leaf: Any) -> Hashable:
        return self.function(name, leaf)


class Labels(Frozen):
    """A pytree of labels, or a function of the dotted path; compared by its content."""

    function: Callable[[str], Hashable] | ByLeaf | None
    leaves: tuple[Hashable, ...] = ()
    structure: Any = None

    def __repr__(self) -> str:
        return repr(self.function or self.structure.unflatten(self.leaves))

    def of(self, names: trees.Names, tree: Any) -> list[Hashable]:
        """The label of every leaf of ``tree``; a label may stand for a whole subtree."""
        if isinstance(self.function, ByLeaf):
            pairs = zip(names, jax.tree.leaves(tree, is_leaf=trees.is_leaf), strict=True)
            return [None if leaf is None else self.function.label(name, leaf) for name, leaf in pairs]
        if self.function is not None:
            return [self.function(name) for name in names]
        if not names:  # nothing to label; also optax's placeholder, which has no structure to compare
            return []
        try:
            subtrees = self.structure.treedef.flatten_up_to(tree)
        except ValueError as error:
            raise ValueError(f"the labels do not have the structure of the parameters: {error}") from error
        sizes = [len(jax.tree.leaves(subtree, is_leaf=trees.is_leaf)) for subtree in subtrees]
        return [label for label, size in zip(self.leaves, sizes, strict=True) for _ in range(size)]


def as_labels(labels: Any, is_leaf: Callable[[Any], bool] = trees.is_leaf) -> Labels:
    if callable(labels) and jax.tree_util.all_leaves([labels]):  # and not a module of labels
        return Labels(labels)
    leaves, structure = jax.tree.flatten(labels, is_leaf=is_leaf)
    return Labels(None, tuple(leaves), trees.Structure(structure))


def as_mask(who: str, mask: Any) -> Labels:
    """The labels True and False of a tree of booleans, or of a function of the dotted path.

    Raises:
        TypeError: a leaf of the tree is no boolean.
    """
    labels = as_labels(mask)
    if labels.function is not None:
        return labels
    for leaf in labels.leaves:
        if leaf is not None and not _is_flag(leaf):
            raise TypeError(f"{who}: a mask is a tree of booleans, or a function of the path, but it holds {leaf!r}")
    return replace(labels, leaves=tuple(None if leaf is None else bool(leaf) for leaf in labels.leaves))


def flags_of(who: str, mask: Labels, tree: Any) -> list[bool]:
    """What a mask says of the leaves of ``tree``.

    Raises:
        ValueError: another structure; TypeError: the function of the path gives something else than a boolean.
    """
    names, leaves, _ = trees.named_leaves(tree, none_is_leaf=True)
    flags = []
    for name, leaf, flag in zip(names, leaves, mask.of(names, tree), strict=True):
        if leaf is None:
            continue
        if not _is_flag(flag):
            raise TypeError(f"{who} must be True or False at the parameter {trees.quote(name)}, but it is {flag!r}")
        flags.append(bool(flag))
    return flags


def _is_flag(leaf: Any) -> bool:
    """Whether a leaf of a mask is a boolean, or an array of one."""
    if isinstance(leaf, jax.Array):
        return leaf.shape == () and jnp.issubdtype(leaf.dtype, jnp.bool_)
    return isinstance(leaf, bool | np.bool_)


def _select(tree: Any, labels: list[Hashable], label: Hashable) -> Any:
    """``tree`` with None at every leaf that has another label."""
    _, leaves, treedef = trees.named_leaves(tree, none_is_leaf=True)
    return treedef.unflatten([leaf if own == label else None for leaf, own in zip(leaves, labels, strict=True)])


def _of_part(extra: dict[str, Any], params: Any, labels: list[Hashable], label: Hashable) -> dict[str, Any]:
    """``value_fn`` as a function of the parameters with this label, the others as they are."""
    value_fn = extra.get("value_fn")
    if not callable(value_fn) or params is None:
        return {}
    leaves, treedef = jax.tree.flatten(params, is_leaf=trees.is_leaf)

    def of_part(part: Any) -> Any:
        own = jax.tree.leaves(part, is_leaf=trees.is_leaf)
        pairs = zip(own, leaves, labels, strict=True)
        return value_fn(treedef.unflatten([new if mine == label else other for new, other, mine in pairs]))

    return {"value_fn": of_part}


class Partition(Transform):
    labels: Labels
    names: tuple[Hashable, ...]
    members: tuple[GradientTransformation, ...]

    def __repr__(self) -> str:
        members = dict(zip(self.names, self.members, strict=True))
        return f"partition({members!r}, {self.labels!r})"

    def init(self, params: Any) -> NamedStates:
        names, leaves, _ = trees.named_leaves(params, none_is_leaf=True)
        labels = self.labels.of(names, params)
        for name, leaf, label in zip(names, leaves, labels, strict=True):
            if leaf is not None and label not in self.names:
                raise ValueError(
                    f"partition: the parameter {trees.quote(name)} has the label {label!r}, "
                    f"which is none of {', '.join(map(repr, self.names))}"
                )
        pairs = zip(self.names, self.members, strict=True)
        return NamedStates({name: member.init(_select(params, labels, name)) for name, member in pairs})

    def update(self, updates: Any, state: NamedStates, params: Any = None, **extra: Any) -> tuple[Any, NamedStates]:
        if params is not None:
            trees.align(params, updates, "gradients")
        names, leaves, treedef = trees.named_leaves(updates, none_is_leaf=True)
        labels = self.labels.of(names, updates if params is None else params)
        states = {}
        for name, member in zip(self.names, self.members, strict=True):
            own_updates = _select(updates, labels, name)
            own_params = None if params is None else _select(params, labels, name)
            keywords = {**extra, **_of_part(extra, params, labels, name)}
            new, states[name] = member.update(own_updates, state.states[name], own_params, **keywords)
            new_leaves = jax.tree.leaves(new, is_leaf=trees.is_leaf)
            leaves = [n if own == name else old for n, old, own in zip(new_leaves, leaves, labels, strict=True)]
        return treedef.unflatten(leaves), NamedStates(states)

    def hyperparams(self, state: NamedStates) -> dict[Any, Any]:
        pairs = zip(self.names, self.members, strict=True)
        return {name: current_hyperparams(member, state.states[name]) for name, member in pairs}

    def effects(self, at: Leaves | None) -> list[Effects]:
        each = [effects_of(member, at) for member in self.members]
        if at is None:
            same = len({tuple(effect.kind for effect in effects) for [effects] in each}) == 1
            return each[0] if same else for_each(at, (Effect(Kind.UNKNOWN, self._call_name()),))
        own = dict(zip(self.names, each, strict=True))
        labels = self.labels.of(at.names, at.tree)
        return [own[label][index] if label in own else () for index, label in enumerate(labels)]


def partition(transformations: Mapping[Any, GradientTransformation], labels: Any) -> GradientTransformation:
    """Give each parameter to the transformation of its label.

    Args:
        transformations: label -> transformation. Each sees the whole tree with None at the others' leaves.
        labels: a pytree of labels with the parameters' structure (a label may stand for a whole subtree), or a
            function from a parameter's dotted path (``"layers.0.weight"``) to its label.

    Returns:
        A transformation whose state holds one state a label; :func:`find_state` finds it by the label.

    Raises:
        ValueError: from ``init``, a label that has no transformation; the message names the parameter.

    Example:
        >>> import functorch_optim as fo
        >>> members = {"decay": fo.adamw(), "plain": fo.adam()}
        >>> tx = partition(members, lambda path: "plain" if "bias" in path else "decay")
        >>> state = tx.init({"bias": jax.numpy.zeros(2), "kernel": jax.numpy.zeros(3)})
        >>> fo.find_state(state, "plain").exp_avg
        {'bias': Array([0., 0.], dtype=float32), 'kernel': None}
    """
    names = tuple(sorted(transformations, key=str))
    return transformation(Partition(as_labels(labels), names, tuple(transformations[name] for name in names)))


class Masked(Wrapper):
    mask: Labels

    inside: ClassVar[bool] = True  # what the mask says where ``inner`` is applied
    elsewhere: ClassVar[GradientTransformation] = identity()

    def __repr__(self) -> str:
        return f"{self._call_name()}({self.inner!r}, {self.mask!r})"

    @property
    def _both(self) -> Partition:
        members = (self.elsewhere, self.inner) if self.inside else (self.inner, self.elsewhere)
        return Partition(self.mask, (False, True), members)

    def init(self, params: Any) -> MaskedState:
        return MaskedState(self._both.init(params).states[self.inside])

    def update(self, updates: Any, state: MaskedState, params: Any = None, **extra: Any) -> tuple[Any, MaskedState]:
        states = NamedStates({not self.inside: EmptyState(), self.inside: state.inner})
        updates, states = self._both.update(updates, states, params, **extra)
        return updates, MaskedState(states.states[self.inside])

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self._both.effects(at)


def masked(inner: GradientTransformation, mask: Any) -> GradientTransformation:
    """Apply ``inner`` where ``mask`` is True; elsewhere the updates pass unchanged.

    What passes an algorithm unchanged is the gradient itself, which :func:`apply_updates` would add: to let parameters
    stand still use :func:`functorch_optim.freeze`.

    Args:
        inner: a transformation.
        mask: a pytree of booleans with the parameters' structure (one may stand for a subtree), or a function from a
            parameter's dotted path to a boolean.

    Raises:
        TypeError: the mask holds something else than booleans.

    Example:
        >>> import functorch_optim as fo
        >>> tx = masked(fo.scale(0.0), {"frozen": True, "free": False})
        >>> grads = {"frozen": jax.numpy.ones(()), "free": jax.numpy.ones(())}
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> updates["frozen"].item(), updates["free"].item()
        (0.0, 1.0)
    """
    return transformation(Masked(inner, as_mask("masked", mask)))


def find_state(state: Any, type_or_name: type | str) -> Any:
    """The one state inside a composed state that has a type, or the name given in a named chain or a partition.

    Raises:
        KeyError: there is none, or there are several.

    Example:
        >>> import functorch_optim as fo
        >>> tx = fo.chain(fo.clip_by_global_norm(1.0), fo.adam())
        >>> find_state(tx.init(jax.numpy.zeros(2)), fo.AdamState).step.item()
        0
    """
    found = list(_named(state, type_or_name) if isinstance(type_or_name, str) else _typed(state, type_or_name))
    if len(found) != 1:
        what = type_or_name if isinstance(type_or_name, str) else type_or_name.__name__
        raise KeyError(f"{'no state' if not found else f'{len(found)} states'} of the name or type {what!r}")
    return found[0]


def _typed(state: Any, kind: type) -> list[Any]:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


def _named(state: Any, name: str) -> Iterator[Any]:
    for node in _typed(state, NamedStates):
        for own, inner in node.states.items():
            if own == name:
                yield inner
            yield from _named(inner, name)


def current_hyperparams(tx: GradientTransformation, state: Any) -> dict[str, Any]:
    """What the next update of ``tx`` would use: numbers as they are, schedules at the state's step.

    Returns:
        Name -> value. In a chain a name that several links have is prefixed with the link's index (``"0.lr"``); a named
        chain and a partition give one dictionary a name. Transformations of other libraries report nothing.

    Example:
        >>> import functorch_optim as fo
        >>> tx = fo.chain(fo.clip_by_global_norm(1.0), fo.sgd(lr=0.5))
        >>> current_hyperparams(tx, tx.init(jax.numpy.zeros(2)))["lr"]
        0.5
    """
    return tx.update.of.hyperparams(state) if isinstance(tx.update, Update) else {}
