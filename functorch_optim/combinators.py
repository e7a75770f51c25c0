"""Transformations of transformations: chain, named_chain, partition, masked; and how to look into a composed state."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from functorch_optim import trees
from functorch_optim.base import Frozen, GradientTransformation, Transform, Update, exportable, identity, transformation


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


class Chain(Transform):
    links: tuple[GradientTransformation, ...]

    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.links))})"

    def init(self, params: Any) -> ChainState:
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


class NamedChain(Transform):
    names: tuple[str, ...]
    links: tuple[GradientTransformation, ...]

    def __repr__(self) -> str:
        pairs = ", ".join(f"({name!r}, {link!r})" for name, link in zip(self.names, self.links, strict=True))
        return f"named_chain({pairs})"

    def init(self, params: Any) -> NamedStates:
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

    Example:
        >>> import functorch_optim as fo
        >>> chain(fo.scale(2.0), fo.identity())
        chain(scale(factor=2.0), identity())
    """
    return transformation(Chain(tuple(transformations)))


def named_chain(*pairs: tuple[str, GradientTransformation]) -> GradientTransformation:
    """A :func:`chain` of ``(name, transformation)`` pairs, whose states are found by name.

    Raises:
        ValueError: a name occurs twice.

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
    return transformation(NamedChain(names, tuple(link for _, link in pairs)))


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
        return repr(self.function or jax.tree.unflatten(self.structure, self.leaves))

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
            subtrees = self.structure.flatten_up_to(tree)
        except ValueError as error:
            raise ValueError(f"the labels do not have the structure of the parameters: {error}") from error
        sizes = [len(jax.tree.leaves(subtree, is_leaf=trees.is_leaf)) for subtree in subtrees]
        return [label for label, size in zip(self.leaves, sizes, strict=True) for _ in range(size)]


def as_labels(labels: Any, is_leaf: Callable[[Any], bool] = trees.is_leaf) -> Labels:
    if callable(labels) and jax.tree_util.all_leaves([labels]):  # and not a module of labels
        return Labels(labels)
    leaves, structure = jax.tree.flatten(labels, is_leaf=is_leaf)
    return Labels(None, tuple(leaves), structure)


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


class Masked(Transform):
    inner: GradientTransformation
    mask: Labels

    def __repr__(self) -> str:
        return f"masked({self.inner!r}, {self.mask!r})"

    def _both(self) -> Partition:
        return Partition(self.mask, (False, True), (identity(), self.inner))

    def init(self, params: Any) -> MaskedState:
        return MaskedState(self._both().init(params).states[True])

    def update(self, updates: Any, state: MaskedState, params: Any = None, **extra: Any) -> tuple[Any, MaskedState]:
        states = NamedStates({False: (), True: state.inner})
        updates, states = self._both().update(updates, states, params, **extra)
        return updates, MaskedState(states.states[True])

    def hyperparams(self, state: MaskedState) -> dict[str, Any]:
        return current_hyperparams(self.inner, state.inner)


def masked(inner: GradientTransformation, mask: Any) -> GradientTransformation:
    """Apply ``inner`` where ``mask`` is True; elsewhere the updates pass unchanged.

    Args:
        inner: a transformation.
        mask: a pytree of booleans with the parameters' structure (one may stand for a subtree), or a function from a
            parameter's dotted path to a boolean.

    Example:
        >>> import functorch_optim as fo
        >>> tx = masked(fo.scale(0.0), {"frozen": True, "free": False})
        >>> grads = {"frozen": jax.numpy.ones(()), "free": jax.numpy.ones(())}
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> updates["frozen"].item(), updates["free"].item()
        (0.0, 1.0)
    """
    return transformation(Masked(inner, as_labels(mask)))


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
