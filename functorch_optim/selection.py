"""Transform part of the parameters: masked and partition, and the forms of masks and labels."""

import re
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import jax

from functorch_optim import trees
from functorch_optim.base import (
    EmptyState,
    GradientTransformation,
    Transform,
    check_transformation,
    conversion_of,
    effects_of,
    exportable,
    identity,
    needs_of,
    transformation,
    update_of,
)
from functorch_optim.combinators import NamedStates, Wrapper, current_hyperparams, states_of
from functorch_optim.effects import Effect, Effects, Kind, Leaves, common, for_each, of_part
from functorch_optim.labels import Labels, as_labels, as_mask, warn_of_empty
from functorch_optim.objectives import restricted
from functorch_optim.option_names import explains_names
from functorch_optim.paths import Found, as_rules, is_rules
from functorch_optim.typing import PyTree


@exportable
class MaskedState(NamedTuple):
    """The state of a masked transformation: ``inner`` has None where the mask is False."""

    inner: PyTree


def _as_labels_of(members: Collection[Hashable], labels: PyTree) -> Labels:
    """Convert the labels of a partition, which may be rules; ``members`` are the labels that have a transformation."""
    if isinstance(labels, re.Pattern):
        return Labels(Found(labels))
    if not is_rules(labels):
        return as_labels(labels)
    rules = as_rules("partition", labels, "label")
    ambiguous = all(isinstance(part, str) and part in members for pair in labels for part in pair)
    return replace(as_labels(labels), function=rules) if ambiguous else Labels(rules)


def _select(tree: PyTree, labels: list[Hashable], label: Hashable) -> PyTree:
    """Return ``tree`` with None at every leaf that has another label."""
    _, leaves, treedef = trees.named_leaves(tree, none_is_leaf=True)
    return treedef.unflatten([leaf if own == label else None for leaf, own in zip(leaves, labels, strict=True)])


def _of_part(extra: dict[str, PyTree], params: PyTree, labels: list[Hashable], label: Hashable) -> dict[str, PyTree]:
    """Restrict ``value_fn``, ``grad_fn`` and ``grad`` to the parameters with this label."""
    if params is None:
        return extra
    leaves, treedef = jax.tree.flatten(params, is_leaf=trees.is_leaf)

    def whole(part: PyTree) -> PyTree:
        return treedef.unflatten(_replaced(leaves, part, labels, label))

    def part(tree: PyTree) -> PyTree:
        trees.align(params, tree, "gradients")
        return _select(tree, labels, label)

    return restricted(extra, whole, part)


def _replaced(leaves: list[PyTree], new: PyTree, labels: list[Hashable], label: Hashable) -> list[PyTree]:
    """Take the leaves with this label from ``new``."""
    new_leaves = jax.tree.leaves(new, is_leaf=trees.is_leaf)
    return [n if own == label else old for n, old, own in zip(new_leaves, leaves, labels, strict=True)]


class Partition(Transform):
    labels: Labels
    names: tuple[Hashable, ...]
    members: tuple[GradientTransformation, ...]

    def __repr__(self) -> str:
        members = dict(zip(self.names, self.members, strict=True))
        return f"partition({members!r}, {self.labels!r})"

    def init(self, params: PyTree) -> NamedStates:
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

    def update(
        self, updates: PyTree, state: NamedStates, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, NamedStates]:
        if params is not None:
            trees.align(params, updates, "gradients")
        names, leaves, treedef = trees.named_leaves(updates, none_is_leaf=True)
        labels = self.labels.of(names, updates if params is None else params)
        states = {}
        for name, member, own in zip(self.names, self.members, states_of(state, self.names), strict=True):
            own_updates = _select(updates, labels, name)
            own_params = None if params is None else _select(params, labels, name)
            keywords = _of_part(extra, params, labels, name)
            new, states[name] = update_of(member, own_updates, own, own_params, keywords)
            leaves = _replaced(leaves, new, labels, name)
        return treedef.unflatten(leaves), NamedStates(states)

    def hyperparams(self, state: NamedStates) -> dict[Any, PyTree]:
        pairs = zip(self.names, self.members, strict=True)
        return {name: current_hyperparams(member, state.states[name]) for name, member in pairs}

    def effects(self, at: Leaves | None) -> list[Effects]:
        each = [effects_of(member, at) for member in self.members]
        if at is None:
            shared = common([of_part(effects) for [effects] in each])
            return for_each(at, (Effect(Kind.UNKNOWN, self._call_name()),) if shared is None else shared)
        own = dict(zip(self.names, each, strict=True))
        labels = self.labels.of(at.names, at.tree)
        return [of_part(own[label][index]) if label in own else () for index, label in enumerate(labels)]

    def needs(self) -> frozenset[str]:
        return frozenset().union(*map(needs_of, self.members))

    def conversion(self) -> Callable[[PyTree], PyTree] | None:
        each = [(name, conversion_of(member)) for name, member in zip(self.names, self.members, strict=True)]
        known = [(name, convert) for name, convert in each if convert is not None]

        def convert_parts(grads: PyTree) -> PyTree:
            names, leaves, treedef = trees.named_leaves(grads, none_is_leaf=True)
            labels = self.labels.of(names, grads)
            for name, convert in known:
                leaves = _replaced(leaves, convert(_select(grads, labels, name)), labels, name)
            return treedef.unflatten(leaves)

        return convert_parts if known else None


@explains_names
def partition(transformations: Mapping[Hashable, GradientTransformation], labels: PyTree) -> GradientTransformation:
    """Give each parameter to the transformation of its label.

    Args:
        transformations: label -> transformation. Each sees the whole tree with None at the others' leaves.
        labels: a label for every parameter, in one of these forms: a pytree of labels with the parameters' structure (a
            label may stand for a whole subtree); a function from a parameter's dotted path (``"layers.0.weight"``) to
            its label; a list of rules ``(regular expression, label)``, where the first found in the path
            decides; a compiled regular expression, whose labels are True where it is found in the path and False
            elsewhere.

    Returns:
        A transformation whose state holds one state per label; :func:`find_state` finds it by the label.

    Raises:
        TypeError: what belongs to a label is no transformation. ValueError: a rule is not a regular expression. From
            ``init``: a label that has no transformation, a parameter
            that no rule covers, a rule that is found in no parameter; the message names it.

    Example:
        >>> import functorch_optim as fo
        >>> members = {"decay": fo.adamw(), "plain": fo.adam()}
        >>> tx = partition(members, [("bias|norm", "plain"), ("", "decay")])
        >>> state = tx.init({"bias": jax.numpy.zeros(2), "kernel": jax.numpy.zeros(3)})
        >>> fo.find_state(state, "plain").exp_avg
        {'bias': Array([0., 0.], dtype=float32), 'kernel': None}
    """
    if not isinstance(transformations, Mapping):
        raise TypeError(f"partition needs a dict of transformations by label, but it got {transformations!r:.100}")
    for label, tx in transformations.items():
        check_transformation(f"partition: what belongs to the label {label!r}", tx)
    names = tuple(sorted(transformations, key=str))
    members = tuple(transformations[name] for name in names)
    return transformation(Partition(_as_labels_of(names, labels), names, members))


class Masked(Wrapper):
    mask: Labels

    entrywise: ClassVar[bool] = False
    inside: ClassVar[bool] = True  # the mask's value where ``inner`` is applied
    elsewhere: ClassVar[GradientTransformation] = identity()

    def __repr__(self) -> str:
        return f"{self._call_name()}({self.inner!r}, {self.mask!r})"

    @property
    def _both(self) -> Partition:
        members = (self.elsewhere, self.inner) if self.inside else (self.inner, self.elsewhere)
        return Partition(self.mask, (False, True), members)

    def init(self, params: PyTree) -> MaskedState:
        warn_of_empty(self._call_name(), self.mask, params)
        return MaskedState(self._both.init(params).states[self.inside])

    def update(
        self, updates: PyTree, state: MaskedState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, MaskedState]:
        states = NamedStates({not self.inside: EmptyState(), self.inside: state.inner})
        updates, states = self._both.update(updates, states, params, **extra)
        return updates, MaskedState(states.states[self.inside])

    def effects(self, at: Leaves | None) -> list[Effects]:
        return self._both.effects(at)

    def conversion(self) -> Callable[[PyTree], PyTree] | None:
        return self._both.conversion()


@explains_names
def masked(inner: GradientTransformation, mask: PyTree) -> GradientTransformation:
    """Apply ``inner`` where ``mask`` is True; elsewhere the updates pass unchanged.

    Updates that bypass an algorithm are the gradients themselves, which :func:`apply_updates` would add: to freeze
    parameters use :func:`functorch_optim.freeze`.

    Args:
        inner: a transformation.
        mask: a pytree of booleans with the parameters' structure (one may stand for a subtree), a function from a
            parameter's dotted path (``"layers.0.weight"``) to a boolean, or a compiled regular expression
            (``re.compile("bias$")``), which is True where it is found in the path.

    Raises:
        TypeError: the mask holds something other than booleans.

    Example:
        >>> import functorch_optim as fo
        >>> tx = masked(fo.scale(0.0), {"frozen": True, "free": False})
        >>> grads = {"frozen": jax.numpy.ones(()), "free": jax.numpy.ones(())}
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> updates["frozen"].item(), updates["free"].item()
        (0.0, 1.0)
    """
    return transformation(Masked(inner, as_mask("masked", mask)))
