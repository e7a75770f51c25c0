"""Apply transformations one after the other (chain, named_chain), and look into a composed state."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import jax

from functorch_optim import trees
from functorch_optim.base import (
    GradientTransformation,
    Transform,
    Update,
    check_transformation,
    clips_of,
    conversion_of,
    effects_of,
    exportable,
    needs_of,
    norm_after_of,
    transformation,
    update_of,
)
from functorch_optim.core.packing import ForeachState
from functorch_optim.effects import Effects, Kind, Leaves, check_descent, check_effects, for_each
from functorch_optim.objectives import converted
from functorch_optim.typing import PyTree


@exportable
class ChainState(NamedTuple):
    """The states of a chain's links, in order."""

    states: tuple[PyTree, ...]


@exportable
class NamedStates(NamedTuple):
    """The states of named transformations: a named chain's links, or a partition's labels."""

    states: dict[Any, PyTree]


def states_of(state: NamedStates, names: Sequence[Any]) -> list[PyTree]:
    """Return the states of these names.

    Raises:
        TypeError: the state has not all of them.
    """
    held = state.states
    missing = [name for name in names if name not in held] if isinstance(held, dict) else names
    if missing:
        raise TypeError(
            f"the state has no part {missing[0]!r}, so another transformation made it: call update(updates, state, "
            "params) with the state of this transformation"
        )
    return [held[name] for name in names]


class Wrapper(Transform):
    """A transformation around another, whose state is in ``inner``."""

    entrywise: ClassVar[bool] = True

    inner: GradientTransformation

    hands_on: ClassVar[bool] = False  # whether ``inner`` gets the gradient itself

    def __post_init__(self) -> None:
        super().__post_init__()
        check_transformation(f"inner of {self._call_name()}", self.inner)

    def inner_state(self, state: PyTree) -> PyTree:
        """The state of ``inner``."""
        return state.inner

    def hyperparams(self, state: PyTree) -> dict[Any, PyTree]:
        return current_hyperparams(self.inner, self.inner_state(state))

    def effects(self, at: Leaves | None) -> list[Effects]:
        return effects_of(self.inner, at)

    def clips(self, state: PyTree, norm: jax.Array, new: PyTree) -> jax.Array | None:
        return clips_of(self.inner, self.inner_state(state), norm, self.inner_state(new)) if self.hands_on else None

    def effects_and(self, kind: Kind, at: Leaves | None) -> list[Effects]:
        """The effects of ``inner``, and after them one of the wrapper itself."""
        return [each + own for each, own in zip(effects_of(self.inner, at), self.effect(kind, at), strict=True)]

    def needs(self) -> frozenset[str]:
        return needs_of(self.inner)

    def conversion(self) -> Callable[[PyTree], PyTree] | None:
        return conversion_of(self.inner)


class Links(Transform):
    """Base of the chains: refuses links that together turn descent into ascent or decay into growth, or lose a rate.

    If that depends on the parameter (on a mask, or on labels), ``init`` checks it.
    """

    entrywise: ClassVar[bool] = True

    links: tuple[GradientTransformation, ...]

    def __post_init__(self) -> None:
        for link in self.links:
            check_transformation(f"a link of {self._call_name()}", link)
        check_effects(self.effects(None)[0])

    def in_order(self, state: PyTree) -> Sequence[PyTree]:
        """The links' states in the order of the links."""
        raise NotImplementedError(f"{type(self).__name__} does not define in_order")  # abstract: every subclass does

    def effects(self, at: Leaves | None) -> list[Effects]:
        together = for_each(at, ())
        for link in self.links:
            together = [before + own for before, own in zip(together, effects_of(link, at), strict=True)]
        return together

    def needs(self) -> frozenset[str]:
        return frozenset().union(*map(needs_of, self.links))

    def conversion(self) -> Callable[[PyTree], PyTree] | None:
        each = [convert for convert in map(conversion_of, self.links) if convert is not None]
        return functools.partial(_in_turn, each) if each else None

    def clips(self, state: PyTree, norm: jax.Array, new: PyTree) -> jax.Array | None:
        clipped = None
        for link, own, next_own in zip(self.links, self.in_order(state), self.in_order(new), strict=True):
            found = clips_of(link, own, norm, next_own)
            if found is not None:
                clipped = found if clipped is None else clipped | found
            after = norm_after_of(link, own, norm)
            if after is None:
                break
            norm = after
        return clipped


def _at_each(effects_at: Callable[[Leaves], list[Effects]], params: PyTree) -> Iterator[tuple[str, Effects]]:
    """Yield the different effects on parameters, each with the first parameter that has them, for messages."""
    names, leaves, _ = trees.named_leaves(params, none_is_leaf=True)
    seen = set()
    for name, leaf, effects in zip(names, leaves, effects_at(Leaves(names, params)), strict=True):
        if leaf is not None and effects not in seen:
            seen.add(effects)
            yield f" at the parameter {trees.quote(name)}", effects


def _in_turn(conversions: Sequence[Callable[[PyTree], PyTree]], grads: PyTree) -> PyTree:
    for convert in conversions:
        grads = convert(grads)
    return grads


def check_at_each(effects_at: Callable[[Leaves], list[Effects]], params: PyTree) -> None:
    """Raise if the order of links is wrong for one of the parameters."""
    for where, effects in _at_each(effects_at, params):
        check_effects(effects, where)


def check_outermost(tx: GradientTransformation, params: PyTree) -> None:
    """Raise if the updates of ``tx`` are a direction that is not negated, for one of the parameters or all of them.

    A chain cannot know whether it is part of another, so whoever adds the updates calls this.
    """
    check_descent(effects_of(tx, None)[0])
    for where, effects in _at_each(lambda at: effects_of(tx, at), params):
        check_descent(effects, where)


class Chain(Links):
    def __repr__(self) -> str:
        return f"chain({', '.join(map(repr, self.links))})"

    def init(self, params: PyTree) -> ChainState:
        check_at_each(self.effects, params)
        return ChainState(tuple(link.init(params) for link in self.links))

    def update(
        self, updates: PyTree, state: ChainState, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, ChainState]:
        updates, states = _update_in_turn(self.links, updates, self.in_order(state), params, extra)
        return updates, ChainState(tuple(states))

    def in_order(self, state: ChainState) -> Sequence[PyTree]:
        return state.states

    def hyperparams(self, state: ChainState) -> dict[str, PyTree]:
        each = [current_hyperparams(link, one) for link, one in zip(self.links, self.in_order(state), strict=True)]
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

    def init(self, params: PyTree) -> NamedStates:
        check_at_each(self.effects, params)
        return NamedStates({name: link.init(params) for name, link in zip(self.names, self.links, strict=True)})

    def update(
        self, updates: PyTree, state: NamedStates, params: PyTree = None, **extra: object
    ) -> tuple[PyTree, NamedStates]:
        updates, states = _update_in_turn(self.links, updates, self.in_order(state), params, extra)
        return updates, NamedStates(dict(zip(self.names, states, strict=True)))

    def in_order(self, state: NamedStates) -> Sequence[PyTree]:
        return states_of(state, self.names)

    def hyperparams(self, state: NamedStates) -> dict[str, PyTree]:
        triples = zip(self.names, self.links, self.in_order(state), strict=True)
        return {name: current_hyperparams(link, own) for name, link, own in triples}


def _update_in_turn(
    links: PyTree, updates: PyTree, states: PyTree, params: PyTree, extra: dict[str, PyTree]
) -> tuple[PyTree, list[PyTree]]:
    if len(states) != len(links):
        raise ValueError(f"a chain of {len(links)} transformations got a state of {len(states)}")
    after = []
    for link, state in zip(links, states, strict=True):
        updates, state = update_of(link, updates, state, params, extra)
        extra = converted(extra, conversion_of(link)) if "grad_fn" in extra else extra
        after.append(state)
    return updates, after


def chain(*transformations: GradientTransformation) -> GradientTransformation:
    """Apply transformations one after the other, each to the result of the previous one.

    Every keyword given to ``update`` reaches every link; another library's gets those that its signature takes. The
    state is a :class:`ChainState`; reach a link's state with
    :func:`find_state`.

    Raises:
        TypeError: a link is no transformation.
        ValueError: the links turn descent into ascent (two algorithms, each of which negates the updates) or decay into
            growth (:func:`functorch_optim.add_decayed_weights` after an algorithm), or a learning rate is lost (before
            :func:`functorch_optim.scale_by_adam`). The message has the right order. If it depends on a mask, ``init``
            raises and names the parameter.

    Example:
        >>> import functorch_optim as fo
        >>> chain(fo.scale(2.0), fo.identity())
        chain(scale(factor=2.0), identity())
    """
    return transformation(Chain(tuple(transformations)))


def named_chain(*pairs: tuple[str, GradientTransformation]) -> GradientTransformation:
    """A :func:`chain` of ``(name, transformation)`` pairs, whose states are found by name.

    Raises:
        TypeError: something is no pair of a name and a transformation. ValueError: a name occurs twice, or as for
            :func:`chain`.

    Example:
        >>> import functorch_optim as fo
        >>> tx = named_chain(("clip", fo.clip_by_value(1.0)), ("optimizer", fo.sgd(lr=0.1)))
        >>> find_state(tx.init(jax.numpy.zeros(2)), "optimizer").step.item()
        0
    """
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise TypeError(f"named_chain needs pairs of a name and a transformation, but it got {pair!r:.100}")
    names = tuple(name for name, _ in pairs)
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"named_chain: the name {name!r} occurs more than once")
    return transformation(NamedChain(tuple(link for _, link in pairs), names))


def find_state(state: PyTree, type_or_name: type | str) -> PyTree:
    """Find the one state inside a composed state that has a type, or a name from a named chain or a partition.

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
        packed = len(found) > 1 and bool(_typed(state, ForeachState))
        where = ": foreach=True has packed it; fo.find_state(state, fo.ForeachState).unpack(params) has it as one"
        hint = where if packed else ""
        raise KeyError(f"{'no state' if not found else f'{len(found)} states'} of the name or type {what!r}{hint}")
    return found[0]


def _typed(state: PyTree, kind: type) -> list[PyTree]:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


def _named(state: PyTree, name: str) -> Iterator[PyTree]:
    for node in _typed(state, NamedStates):
        for own, inner in node.states.items():
            if own == name:
                yield inner
            yield from _named(inner, name)


def current_hyperparams(tx: GradientTransformation, state: PyTree) -> dict[str, PyTree]:
    """The values that the next update of ``tx`` would use, schedules evaluated at the state's step.

    Returns:
        Name -> value. In a chain a name that several links have is prefixed with the link's index (``"0.lr"``); a named
        chain and a partition return one dictionary per name. Transformations of other libraries report nothing.

    Example:
        >>> import functorch_optim as fo
        >>> tx = fo.chain(fo.clip_by_global_norm(1.0), fo.sgd(lr=0.5))
        >>> current_hyperparams(tx, tx.init(jax.numpy.zeros(2)))["lr"]
        0.5
    """
    return tx.update.of.hyperparams(state) if isinstance(tx.update, Update) else {}
