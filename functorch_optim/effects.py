"""What a chain's links do to the sign and the size of its updates, which orders this rules out, what must come last."""

import enum
from typing import NamedTuple

from functorch_optim.typing import PyTree


class Kind(enum.Enum):
    """What a link does to what passes through it."""

    NEGATES = "negates"
    STEPS = "steps"  # an algorithm: turns a gradient into what to add to the parameters
    RATES = "rates"  # the same of a direction: multiplies by minus a learning rate
    DIRECTS = "directs"  # turns a gradient into a direction of its sign, which a later link must negate
    DECAYS = "decays"  # adds a multiple of the parameters, which a later link must negate
    CONSTRAINS = "constrains"  # makes the parameters fulfil a constraint, if what follows leaves the updates alone
    FOLLOWS = "follows"  # keeps where the parameters arrive, such as their average, on the same condition
    RENEWS = "renews"  # takes the gradient at another point, and only the way to it from what comes in
    EVALUATES = "evaluates"  # before STEPS: takes all gradients but the first from the objective itself
    UNKNOWN = "unknown"  # another library's link, a schedule, a traced factor
    NORMALIZES = "normalizes"  # before STEPS or DIRECTS: what comes out is no larger if what comes in is
    REMEMBERS = "remembers"  # before STEPS or DIRECTS: keeps slots, so it moves parameters by earlier gradients too
    PAUSES = "pauses"  # lets updates of zero out instead of what comes in, at some steps
    STOPS = "stops"  # makes all updates zero
    SHRINKS = "shrinks"  # an algorithm that also decays the parameters themselves, not through the gradient
    ASCENDS = "ascends"  # an algorithm with ``maximize``
    SCALES = "scales"  # by a known positive number; after NEGATES, by a negative one
    FACTORS = "factors"  # multiplies the learning rates of parameters
    CONJUGATES = "conjugates"  # turns a complex parameter's gradient of JAX into one to descend along, or back
    CHANGES = "changes"  # any other change of the updates


class Effect(NamedTuple):
    """An effect of a link, the link's name for messages, and whether a factor or a norm is one for all parameters.

    ``detail`` is what :func:`functorch_optim.plan` says of the parameter besides.
    """

    kind: Kind
    who: str
    shared: bool = False
    detail: str = ""


Effects = tuple[Effect, ...]  # of consecutive links
_ENDS = (Kind.STEPS, Kind.RATES)
_NEGATING = (Kind.NEGATES, *_ENDS)
_DETAILS = (Kind.SHRINKS, Kind.NORMALIZES, Kind.REMEMBERS, Kind.STOPS, Kind.SCALES, Kind.FACTORS, Kind.CHANGES)
_CHANGING = (*_NEGATING, Kind.DECAYS, Kind.DIRECTS, Kind.SCALES, Kind.FACTORS, Kind.CHANGES)


class Leaves(NamedTuple):
    """The parameters: their dotted names, and the tree with None for missing ones."""

    names: list[str]
    tree: PyTree


def for_each(at: Leaves | None, effects: Effects) -> list[Effects]:
    """Repeat the effects for every parameter; while parameters are unknown, for one that stands for all."""
    return [effects] * (1 if at is None else len(at.names))


def of_part(effects: Effects) -> Effects:
    """The effects on a part of the parameters: what is one factor for all of them is not one for the whole tree."""
    return tuple(effect._replace(shared=effect.shared and effect.kind is not Kind.FACTORS) for effect in effects)


def common(each: list[Effects]) -> Effects | None:
    """The effects that several transformations share, without details if only those differ; None if they share none."""
    whole = {tuple((effect.kind, effect.shared) for effect in effects) for effects in each}
    if len(whole) == 1:
        return each[0]
    signs = [tuple(effect for effect in effects if effect.kind not in _DETAILS) for effects in each]
    return signs[0] if len({tuple(effect.kind for effect in effects) for effects in signs}) == 1 else None


def check_effects(effects: Effects, where: str = "") -> None:
    """Raise if consecutive links turn descent into ascent or decay into growth, or if a learning rate has no effect.

    Args:
        effects: the links' effects, in order.
        where: the parameter, for the message.

    Raises:
        ValueError: an algorithm gets another's updates, ``add_decayed_weights`` would grow the weights or move those
            that an earlier link stops, a link that normalizes comes after a learning rate, a constraint or an average
            comes before what changes the updates, an algorithm with slots gets the zeros of what pauses, or a link
            before :func:`functorch_optim.sam` or :func:`functorch_optim.lbfgs` has no effect. The message has the right
            order.

    Example:
        >>> check_effects([Effect(Kind.DECAYS, "add_decayed_weights"), Effect(Kind.STEPS, "sgd")])
    """
    around = [(effect, effects[:index], effects[index + 1 :]) for index, effect in enumerate(effects)]
    for effect, before, after in around:
        if effect.kind in _ENDS:
            _check_algorithm(effect, before, where)
        elif effect.kind is Kind.DECAYS:
            _check_decay(effect, before, after, where)
        elif effect.kind is Kind.NORMALIZES:
            _check_sizes(effect, before, after, where)
    _check_end(effects, where)
    for effect, before, after in around:
        if effect.kind in (Kind.CONSTRAINS, Kind.FOLLOWS):
            _check_last(effect, after, where)
        elif effect.kind is Kind.PAUSES:
            _check_pause(effect, after, where)
        elif effect.kind is Kind.RENEWS:
            _check_probe(effect, before, after, where)
        elif effect.kind is Kind.EVALUATES:
            _check_objective(effect, before, where)
        elif effect.kind is Kind.DECAYS:
            _check_standstill(effect, before, after, where)


def check_descent(effects: Effects, where: str = "") -> None:
    """Raise if no link of an outermost chain negates a direction: its updates are added as they are.

    Raises:
        ValueError: the message says what to add.
    """
    directing = [effect.who for effect in effects if effect.kind is Kind.DIRECTS]
    if directing and _are_known(effects) and not any(effect.kind in _NEGATING for effect in effects):
        raise ValueError(
            f"the optimizer would ascend{where}: no link negates the direction of {directing[-1]}. End the chain with "
            "fo.scale_by_learning_rate(lr); to ascend, put fo.scale(-1.0) first as well"
        )


def _check_sizes(effect: Effect, before: Effects, after: Effects, where: str) -> None:
    """Raise if a link that normalizes takes the effect of an earlier factor or learning rate."""
    _check_factors(effect, before, where)
    if after and after[0].kind is Kind.DIRECTS:
        resized = any(other.kind in (*_NEGATING, Kind.SCALES, Kind.FACTORS, Kind.UNKNOWN) for other in after)
        _check_rate(effect, before, resized, where)
        if not resized:
            _check_scale(effect, before, where)


def _check_algorithm(effect: Effect, before: Effects, where: str) -> None:
    """Raise if the algorithm, or the learning rate, gets updates that are negated already."""
    ends = [index for index, other in enumerate(before) if other.kind in _ENDS]
    between = before[ends[-1] + 1 :] if ends else ()
    if not ends or not _are_known(between) or _negate(between):
        return
    first = before[ends[-1]]
    two = first.kind is effect.kind is Kind.STEPS
    raise ValueError(
        f"{'a chain of two algorithms' if two else 'the chain'} would ascend{where}: the updates of {first.who} are "
        f"negated already, and {effect.who} negates them again. {_one_rate(first, effect)}"
    )


def _one_rate(first: Effect, second: Effect) -> str:
    """Say what to do instead of two algorithms, two learning rates, or one of each."""
    if first.kind is second.kind:
        if first.kind is Kind.STEPS:
            return "Use one of the two, or give each its own parameters with fo.partition"
        return f"Use {first.who} once, and fo.scale for a further factor"
    algorithm, rate = (first, second) if first.kind is Kind.STEPS else (second, first)
    return (
        f"{algorithm.who} has a learning rate of its own, lr=: leave {rate.who} out, or leave the rate out of the "
        f"algorithm: fo.chain(fo.scale_by({algorithm.who}), fo.{rate.who}(lr))"
    )


def _check_end(effects: Effects, where: str) -> None:
    """Raise if later links negate the updates of the last algorithm, which are already negated."""
    ends = [index for index, effect in enumerate(effects) if effect.kind in _ENDS]
    after = effects[ends[-1] + 1 :] if ends else ()
    turning = [effect.who for effect in after if effect.kind is Kind.NEGATES]
    if turning and _are_known(after) and _negate(after):
        last = effects[ends[-1]]
        ascend = "to ascend, " + ("pass maximize=True" if last.kind is Kind.STEPS else "put fo.scale(-1.0) first")
        ascend = "to ascend there, put fo.masked(fo.scale(-1.0), mask) first" if where else ascend
        raise ValueError(
            f"the chain would ascend{where}: the updates of {last.who} are negated already, and "
            f"{', '.join(turning)} negates them again. Scale them by a positive number; {ascend}"
        )


def _check_decay(effect: Effect, before: Effects, after: Effects, where: str) -> None:
    """Raise if the decay is added to the parameters instead of subtracted."""
    turning = [one for one in (*before, *after) if one.kind in _NEGATING]
    if not turning or not _are_known(after) or _negate(after):
        return
    rates = [one.who for one in turning if one.kind is Kind.RATES]
    mend = (
        "For decoupled decay give the algorithm weight_decay= (fo.adamw, or decoupled_weight_decay=True); for L2 "
        f"regularization put {effect.who} right before the algorithm"
    )
    if rates:
        mend = (
            f"Put {effect.who} before {rates[0]}: after the direction for decoupled decay, first for L2 regularization"
        )
    raise ValueError(
        f"the weights would grow{where}: what {effect.who} adds is not negated by the links after it (these "
        f"links negate: {', '.join(one.who for one in turning)}). {mend}"
    )


def _check_factors(effect: Effect, before: Effects, where: str) -> None:
    """Raise if factors of learning rates come before a link that normalizes."""
    for index, other in enumerate(before):
        lost = other.shared or not effect.shared  # a norm of all parameters keeps what differs between them
        if other.kind is Kind.FACTORS and lost and _are_known(before[index:]):
            raise ValueError(
                f"the factors of {other.who} are lost{where}: {effect.who} normalizes what it gets. Put {other.who} "
                f"after {effect.who}"
            )


def _check_rate(effect: Effect, before: Effects, resized: bool, where: str) -> None:
    """Raise if a learning rate comes before a direction that is normalized; an algorithm's is 1 if another follows."""
    for index, other in enumerate(before):
        if (other.kind is Kind.RATES or (other.kind is Kind.STEPS and not resized)) and _are_known(before[index:]):
            raise ValueError(
                f"the learning rate of {other.who} is lost{where}: {effect.who} normalizes what it gets. Put "
                f"{other.who} after {effect.who}"
            )


def _check_scale(effect: Effect, before: Effects, where: str) -> None:
    """Raise if a negative number is meant as the learning rate of a direction, but comes before it."""
    normalizing = [index for index, other in enumerate(before) if other.kind is Kind.NORMALIZES]
    recent = before[normalizing[-1] :] if normalizing else before
    places = [index for index, other in enumerate(recent) if other.kind in (Kind.NEGATES, Kind.SCALES)]
    sized = [recent[index].who for index in places if recent[index].kind is Kind.SCALES]
    turns = [[other.kind for other in part].count(Kind.NEGATES) for part in (before, recent)]
    if sized and turns == [1, 1] and _are_known(recent[places[0] :]):
        raise ValueError(
            f"the size of {sized[0]} is lost{where}: {effect.who} normalizes what it gets. Put {sized[0]} after "
            f"{effect.who}; to ascend, scale by -1.0 here and end the chain with fo.scale_by_learning_rate(lr)"
        )


def _check_last(effect: Effect, after: Effects, where: str) -> None:
    """Raise if later links change the updates of a link that acts on the parameters after the step."""
    constrains = effect.kind is Kind.CONSTRAINS
    kinds = _CHANGING if constrains else (*_CHANGING, Kind.CONSTRAINS, Kind.STOPS)
    changing = [one.who for one in after if one.kind in (*kinds, Kind.CONJUGATES)]
    if changing:
        broken = "the constraint of {} would not hold" if constrains else "{} would not get the parameters of the step"
        raise ValueError(
            f"{broken.format(effect.who)}{where}: {', '.join(dict.fromkeys(changing))} comes after it and changes the "
            f"updates. Put {effect.who} last in the chain"
        )


def check_within(who: str, effects: Effects, where: str = "") -> None:
    """Raise if a wrapper changes updates after something inside it has taken them for where the parameters arrive.

    Raises:
        ValueError: the message names both.

    Example:
        >>> check_within("lookahead", (Effect(Kind.STEPS, "sgd"), Effect(Kind.FOLLOWS, "ema")))
        Traceback (most recent call last):
        ValueError: ema would not get the parameters of the step: lookahead is around it and changes the updates. ...
    """
    follower = next((effect.who for effect in effects if effect.kind is Kind.FOLLOWS), None)
    if follower is not None:
        raise ValueError(
            f"{follower} would not get the parameters of the step{where}: {who} is around it and changes the updates. "
            f"Put {follower} behind or around {who}, or leave one of them out"
        )


def _check_pause(effect: Effect, after: Effects, where: str) -> None:
    """Raise if a later algorithm gets zeros for gradients, which its slots take for gradients."""
    for index, other in enumerate(after):
        if other.kind is Kind.REMEMBERS and _are_known(after[:index]):
            raise ValueError(
                f"{effect.who} comes before {other.who}{where}, which would take its updates of zero for gradients, "
                f"and move on. Put {other.who} inside: fo.{effect.who}(fo.chain(...), ...)"
            )


def _check_standstill(effect: Effect, before: Effects, after: Effects, where: str) -> None:
    """Raise if the decay moves parameters that an earlier link stops, always or at some steps."""
    if any(other.kind is Kind.STOPS for other in after):
        return
    for other in before:
        if other.kind is Kind.STOPS:
            raise ValueError(
                f"the parameters would decay{where} although {other.who} stops them: {effect.who} comes after it. Put "
                f"{other.who} after {effect.who}, or {effect.who} inside the partition, or give it a mask: "
                f"fo.{effect.who}(weight_decay, mask)"
            )
        if other.kind is Kind.PAUSES:
            raise ValueError(
                f"the parameters would decay{where} when {other.who} lets no update through: {effect.who} comes after "
                f"it. Put {effect.who} inside: fo.{other.who}(fo.chain(..., fo.{effect.who}(...)), ...)"
            )


def _check_probe(effect: Effect, before: Effects, after: Effects, where: str) -> None:
    """Raise if the gradient at another point does not pass through earlier links, or is conjugated by later ones."""
    lost = _bypassed(before)
    if lost:
        raise ValueError(
            f"{lost[0]} has no effect on the update{where}: {effect.who} takes the gradient at another point, and what "
            f"comes before only finds that point. Put it inside, fo.{effect.who}(fo.chain(fo.{lost[0]}(...), ...)), or "
            "do it in grad_fn instead"
        )
    mirrored = [one.who for one in after if one.kind is Kind.CONJUGATES]
    if len(mirrored) % 2 == 1:
        raise ValueError(
            f"{effect.who} would look along the conjugate of the gradient{where}: {mirrored[0]} comes after it. "
            f"Put {mirrored[0]} before it: fo.chain(fo.{mirrored[0]}(), fo.{effect.who}(...))"
        )


def _check_objective(effect: Effect, before: Effects, where: str) -> None:
    """Raise if gradients that an algorithm takes from the objective itself do not pass through earlier links."""
    lost = [*_bypassed(before), *[one.who for one in before if one.kind is Kind.RENEWS]]
    if lost:
        raise ValueError(
            f"{lost[0]} is lost{where}: {effect.who} evaluates the objective itself, and those gradients do not pass "
            "through what comes before. Put a decay into the loss, and wrap to leave parameters out: "
            f"fo.freeze(fo.{effect.who}(...), frozen) or fo.partition. Only fo.conjugate belongs before {effect.who}"
        )


def _bypassed(before: Effects) -> list[str]:
    """The links that do not act on gradients from elsewhere."""
    return [one.who for one in before if one.kind in (*_CHANGING, Kind.CONSTRAINS, Kind.STOPS, Kind.PAUSES)]


def _are_known(effects: Effects) -> bool:
    return all(effect.kind is not Kind.UNKNOWN for effect in effects)


def _negate(effects: Effects) -> bool:
    """Whether known links negate in combination."""
    return sum(effect.kind in _NEGATING for effect in effects) % 2 == 1


def descends(effects: Effects) -> bool:
    """Whether what comes out is to be added; another library's links count as an algorithm.

    Example:
        >>> descends((Effect(Kind.DIRECTS, "scale_by_adam"),)), descends((Effect(Kind.STEPS, "adam"),))
        (False, True)
    """
    return not _are_known(effects) or _negate(effects)
