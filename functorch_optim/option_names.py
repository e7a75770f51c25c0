"""Errors about unknown options that say which one is meant: a misspelled one, or another library's name for it."""

import difflib
import functools
import inspect
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, cast

from functorch_optim.foreign_names import meaning_of
from functorch_optim.pages import see

Function = TypeVar("Function", bound=Callable[..., Any])
Result = TypeVar("Result")


def explains_names(function: Function) -> Function:
    """Make a function name the option that is meant if it gets a keyword that it does not have.

    The error is a TypeError that starts as Python's own does. The function may not have ``**keywords``.

    Example:
        >>> @explains_names
        ... def rate(lr, gamma=0.5): ...
        >>> rate(1.0, gama=0.1)
        Traceback (most recent call last):
        TypeError: rate() got an unexpected keyword argument 'gama': did you mean gamma?
    """
    names = _names_of(function)

    @functools.wraps(function)
    def call(*args: object, **options: object) -> object:
        for name in options:
            if name not in names:
                raise TypeError(unexpected(function.__qualname__, name, names))
        return function(*args, **options)

    return cast(Function, call)


def explain_constructor(cls: type) -> None:
    """Apply :func:`explains_names` to the constructor that a class itself defines, unless it takes any keyword."""
    constructor = vars(cls).get("__init__")
    if isinstance(constructor, types.FunctionType) and not constructor.__code__.co_flags & inspect.CO_VARKEYWORDS:
        type.__setattr__(cls, "__init__", explains_names(constructor))


def _names_of(function: Any) -> tuple[str, ...]:
    code = function.__code__
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return names[1:] if names[:1] == ("self",) else names


def unexpected(function: str, name: str, options: Sequence[str]) -> str:
    """Return the message about a keyword that a function does not have."""
    return f"{function}() got an unexpected keyword argument {name!r}{hint(name, options)}"


def hint(name: str, options: Collection[str]) -> str:
    """Say which of ``options`` is meant by ``name``, or what they are; starts with the punctuation.

    Example:
        >>> hint("learning_rate", ["lr", "betas"])
        ': did you mean lr? (see docs/from-optax.md)'
        >>> hint("t_max", ["T_max", "eta_min"]), hint("colour", ["lr", "betas"])
        (': did you mean T_max?', '; the options are lr, betas')
    """
    meaning = meaning_of(name, options)
    if meaning is not None:
        said = f"did you mean {meaning.write}?" if meaning.option else meaning.write
        return f": {said} ({see(meaning.page)})"
    close = closest(name, options, 0.7)
    return f": did you mean {close}?" if close else f"; the options are {', '.join(options)}"


def closest(name: str, options: Collection[str], cutoff: float) -> str:
    """Return the option that ``name`` looks like, in any case; empty if none does."""
    known = {option.lower(): option for option in options}
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=cutoff)
    return known[close[0]] if close else ""


def meant(unknown: Collection[str], options: Collection[str]) -> str:
    """Say which of ``options`` the unknown names mean, if that is known; starts with the punctuation."""
    pairs = [(name, meaning_of(name, options), closest(name, options, 0.7)) for name in unknown]
    said = [f"; {name!r}{hint(name, options)}" for name, meaning, close in pairs if meaning or close]
    return "".join(said)


def call_with(function: Callable[..., Result], options: Mapping[str, object]) -> Result:
    """Call someone else's function with these keywords; a hint follows Python's error if it does not have one."""
    try:
        return function(**options)
    except TypeError as error:
        told = explained(error, function, options)
        if told is error:
            raise
        raise told from None


def explained(error: TypeError, function: Callable[..., object], given: Collection[str]) -> TypeError:
    """Return the error of a call of someone else's function with the keywords ``given``: with a hint if one is unknown.

    Example:
        >>> str(explained(TypeError("f() got ... 'learning_rate'"), lambda lr: None, ["learning_rate"]))
        "f() got ... 'learning_rate': did you mean lr? (see docs/from-optax.md)"
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a callable without a signature, or nothing that can be called
        if callable(function):
            return error
        return TypeError(f"{error}: pass the function that builds it, such as fo.adam or lambda lr: fo.adam(lr=lr)")
    names = [parameter.name for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_POSITIONAL]
    unknown = [name for name in given if name not in names]
    if not unknown or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return error
    about = hint(unknown[0], names)
    return error if str(error).endswith(about) else TypeError(f"{error}{about}")
