"""The sign of a chain's updates: what each link does to it, and which chains this rules out; what must come last."""

import enum
from typing import NamedTuple

from functorch_optim.typing import PyTree


class Kind(enum.Enum):
    """What a link does to the sign of what passes through; a link that only rescales has no effect."""

    NEGATES = "negates"
    STEPS = "steps"  # an algorithm: turns a gradient into what to add to the parameters
    DECAYS = "decays"  # adds a multiple of the parameters, which a later link must negate
    CONSTRAINS = "constrains"  # makes the parameters fulfil a constraint, if what follows leaves the updates alone
    UNKNOWN = "unknown"  # another library's link, a schedule, a traced factor


class Effect(NamedTuple):
    """A link's effect, and its name for messages."""

    kind: Kind
    who: str


Effects = tuple[Effect, ...]  # of consecutive links


class Leaves(NamedTuple):
    """The parameters: their dotted names, and the tree with None for missing ones."""

    names: list[str]
    tree: PyTree


def for_each(at: Leaves | None, effects: Effects) -> list[Effects]:
    """Repeat the effects for every parameter; while parameters are unknown, for one that stands for all."""
    return [effects] * (1 if at is None else len(at.names))


def check_effects(effects: Effects, where: str = "") -> None:
    """Raise if consecutive links turn descent into ascent, or decay into growth.

    Args:
        effects: the links' effects, in order.
        where: the parameter, for the message.

    Raises:
        ValueError: an algorithm gets another's updates, ``add_decayed_weights`` would grow the weights, or a
            constraint comes before what changes the updates.

    Example:
        >>> check_effects([Effect(Kind.DECAYS, "add_decayed_weights"), Effect(Kind.STEPS, "sgd")])
    """
    for index, effect in enumerate(effects):
        before, after = effects[:index], effects[index + 1 :]
        if effect.kind is Kind.STEPS:
            _check_algorithm(effect, before, where)
        elif effect.kind is Kind.DECAYS:
            _check_decay(effect, before, after, where)
        elif effect.kind is Kind.CONSTRAINS:
            _check_constraint(effect, after, where)
    _check_end(effects, where)


def _check_algorithm(effect: Effect, before: Effects, where: str) -> None:
    """Raise if the algorithm gets the updates of another, still negated."""
    steps = [index for index, other in enumerate(before) if other.kind is Kind.STEPS]
    between = before[steps[-1] + 1 :] if steps else ()
    if steps and _are_known(between) and not _negate(between):
        raise ValueError(
            f"a chain of two algorithms would ascend{where}: the updates of {before[steps[-1]].who} are negated "
            f"already, and {effect.who} negates them again. Use one of the two, or give each its own parameters with "
            "fo.partition"
        )


def _check_end(effects: Effects, where: str) -> None:
    """Raise if later links negate the updates of the last algorithm, which are already negated."""
    steps = [index for index, effect in enumerate(effects) if effect.kind is Kind.STEPS]
    after = effects[steps[-1] + 1 :] if steps else ()
    turning = [effect.who for effect in after if effect.kind is Kind.NEGATES]
    if turning and _are_known(after) and _negate(after):
        raise ValueError(
            f"the chain would ascend{where}: the updates of {effects[steps[-1]].who} are negated already, and "
            f"{', '.join(turning)} negates them again. Scale them by a positive number; to ascend, pass maximize=True"
        )


def _check_decay(effect: Effect, before: Effects, after: Effects, where: str) -> None:
    """Raise if the decay is added to the parameters instead of subtracted."""
    turning = [one.who for one in (*before, *after) if one.kind in (Kind.NEGATES, Kind.STEPS)]
    if turning and _are_known(after) and not _negate(after):
        raise ValueError(
            f"the weights would grow{where}: what {effect.who} adds is not negated by the links after it (these "
            f"links negate: {', '.join(turning)}). For decoupled decay give the algorithm weight_decay= (fo.adamw, or "
            f"decoupled_weight_decay=True); for L2 regularization put {effect.who} right before the algorithm"
        )


def _check_constraint(effect: Effect, after: Effects, where: str) -> None:
    """Raise if later links change the updates that fulfil a constraint."""
    changing = [one.who for one in after if one.kind in (Kind.NEGATES, Kind.STEPS, Kind.DECAYS)]
    if changing:
        raise ValueError(
            f"the constraint of {effect.who} would not hold{where}: {', '.join(changing)} comes after it and changes "
            f"the updates. Put {effect.who} last in the chain"
        )


def _are_known(effects: Effects) -> bool:
    return all(effect.kind is not Kind.UNKNOWN for effect in effects)


def _negate(effects: Effects) -> bool:
    """Whether known links negate in combination."""
    return sum(effect.kind in (Kind.NEGATES, Kind.STEPS) for effect in effects) % 2 == 1
