"""Check a rule's class when it is defined: whether it declares everything that the lift reads."""

import inspect
import types
from dataclasses import fields
from typing import Any, Union, get_args, get_origin, get_type_hints


def check_names(cls: type, base: type) -> None:
    """Raise if a class annotates a name of the contract, as in ``title: str = ...``, which would make it an option.

    Raises:
        TypeError: the message names the class and the fix.
    """
    for name, hint in _own_annotations(cls).items():
        if (hasattr(base, name) or name in base.__annotations__) and "ClassVar" not in str(hint):
            raise TypeError(
                f"{cls.__name__}.{name} is annotated, which makes it an option, but fo.Rule has that name for itself: "
                "leave the annotation out, or call the option something else"
            )


def check_declaration(cls: type, base: type) -> None:
    """Raise unless a class that derives from the contract ``base`` is complete.

    Raises:
        TypeError: something is missing or malformed; the message names the class and the fix.
    """
    if not hasattr(cls, "title"):
        raise TypeError(
            f'{cls.__name__} has no title, its name in messages and in print: title = "{cls.__name__}". Declare '
            f"a base class for other rules as class {cls.__name__}(..., abstract=True)"
        )
    _check_state(cls)
    _check_options(cls)
    scalars = "scalars" if cls.carry is base.carry and not cls.carried else "carry"
    for method in ("init", scalars, "update"):
        _check_method(cls, base, method)


def _check_state(cls: type) -> None:
    """Raise unless the state is a NamedTuple with a step and every carried scalar."""
    slots: tuple[str, ...] = getattr(getattr(cls, "state", None), "_fields", ())
    if "step" not in slots:
        raise TypeError(
            f"{cls.__name__}.state must be a NamedTuple that has a field step and one for each slot, but it is "
            f"{getattr(cls, 'state', 'missing')!r}"
        )
    for scalar in cls.carried:
        if scalar not in slots:
            raise TypeError(
                f"{cls.__name__} carries {scalar!r} from step to step, so {cls.__name__}.state needs a field of that "
                "name"
            )


def _check_options(cls: type) -> None:
    """Raise unless every number has a mark, and decoupled weight decay has the options it needs."""
    name, options, hints = cls.__name__, {field.name for field in fields(cls)}, _hints(cls)
    for option in sorted(options):
        if _is_number(hints.get(option)):
            raise TypeError(
                f"{name}.{option} is a number, and numbers are data that may be traced or scheduled: annotate it with "
                "a mark of functorch_optim.rules or .hyperparams (LearningRate, Betas, WeightDecay, AnyNumber, ...) "
                f"and not as {hints[option]}"
            )
    decoupled = "decoupled_weight_decay" in options or getattr(cls, "decoupled_weight_decay", False)
    if decoupled and not {"lr", "weight_decay"} <= options:
        raise TypeError(
            f"{name} has decoupled_weight_decay, which subtracts lr * weight_decay * parameter: declare the options lr "
            "and weight_decay"
        )


def _own_annotations(cls: type) -> dict[str, Any]:
    """Return the class's own annotations; none if one of them names something that is defined later."""
    try:
        return inspect.get_annotations(cls)
    except NameError:
        return {}


def _hints(cls: type) -> dict[str, Any]:
    """Evaluate the annotations of a class and its bases; return none if one names something that is defined later."""
    try:
        return get_type_hints(cls, include_extras=True)
    except NameError:
        return {}  # the first lift checks again


def _is_number(hint: object) -> bool:
    """Whether an unmarked annotation means a number or a tuple of numbers."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType, tuple) else ()
    return hint is float or any(map(_is_number, parts))


def _check_method(cls: type, base: type, method: str) -> None:
    """Raise unless a class defines a method that takes the lift's arguments."""
    own, expected = getattr(cls, method), inspect.signature(getattr(base, method))
    if own is getattr(base, method):
        raise TypeError(f"{cls.__name__} does not define {method}: def {method}{expected}")
    try:
        inspect.signature(own).bind(*expected.parameters)
    except TypeError as error:
        raise TypeError(f"{cls.__name__}.{method} must take what def {method}{expected} takes: {error}") from error
