"""Match regular expressions to the dotted paths of parameters, and call functions of these paths."""

import re
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard, TypeVar

from functorch_optim import trees
from functorch_optim.base import Frozen
from functorch_optim.typing import PyTree

Regex = str | re.Pattern[str]
Value = TypeVar("Value")

_SHOWN = 20  # names in a message, at most


def called(function: Callable[..., Value], what: str, name: str, *more: PyTree) -> Value:
    """Call a function of a parameter's path.

    Raises:
        TypeError, ValueError: the function raises; the message says what it gets.
    """
    try:
        return function(name, *more)
    except Exception as error:  # a user's function may raise anything
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"a function that selects parameters gets the dotted {what} of each one. At the parameter "
            f"{trees.quote(name)} it raised {type(error).__name__}: {error}. A function of the whole tree, as optax "
            "takes, you must call yourself: pass function(params)"
        ) from error


class Found(Frozen):
    """Whether a compiled regular expression is found in a path."""

    pattern: re.Pattern[str]

    def __repr__(self) -> str:
        return repr(self.pattern)

    def __call__(self, path: str) -> bool:
        return self.pattern.search(path) is not None


class PathRules(Frozen):
    """``(regular expression, value)`` pairs in order; the first found in a path decides."""

    pairs: tuple[tuple[Regex, Any], ...]
    who: str

    def __repr__(self) -> str:
        return repr(list(self.pairs))

    def match(self, path: str) -> tuple[int, re.Match[str]] | None:
        """Return the index and the match of the first rule found in a path; None if none is."""
        for index, (pattern, _) in enumerate(self.pairs):
            found = re.search(pattern, path)
            if found is not None:
                return index, found
        return None

    def check(self, names: Sequence[str]) -> None:
        """Raise if there are paths, and an expression is found in none of them.

        Raises:
            ValueError: the message shows the expression and the paths.
        """
        for pattern, _ in self.pairs:
            if names and not any(re.search(pattern, name) for name in names):
                raise ValueError(
                    f"{self.who}: the rule for {_text(pattern)!r} is found in no parameter: correct it, or leave it "
                    f"out. The parameters are {listed(names)}"
                )

    def values(self, names: Sequence[str], leaves: Sequence[PyTree]) -> list[Any]:
        """Return the value for every path; None if no rule is found in it and the leaf is None.

        Raises:
            ValueError: no rule is found in the path of another leaf, or a rule is found in no path. The message
                shows the paths.
        """
        self.check(names)
        matches = [self.match(name) for name in names]
        rows = zip(names, leaves, matches, strict=True)
        self.check_covered([name for name, leaf, match in rows if match is None and leaf is not None])
        return [None if match is None else self.pairs[match[0]][1] for match in matches]

    def check_covered(self, left: Sequence[str]) -> None:
        """Raise if any paths are ``left`` that no rule covers."""
        if left:
            raise ValueError(
                f"{self.who}: no rule is found in {listed(left)}. Add rules for them, or end with one that is found "
                'everywhere: ("", ...)'
            )


def _text(pattern: Regex) -> str:
    return pattern if isinstance(pattern, str) else pattern.pattern


def listed(names: Sequence[str]) -> str:
    """Quote names for a message, and show only the first of many."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(trees.quote, names[:_SHOWN])) + more


def is_regex(given: object) -> TypeGuard[Regex]:
    """Whether an option is a regular expression, compiled or as a string."""
    return isinstance(given, str | re.Pattern)


def is_rules(given: PyTree) -> TypeGuard[list[tuple[Regex, Any]]]:
    """Whether an option is a list of pairs that begin with a regular expression."""
    return isinstance(given, list) and bool(given) and all(map(_is_pair, given))


def _is_pair(given: PyTree) -> bool:
    return type(given) is tuple and len(given) == 2 and is_regex(given[0])


def as_rules(who: str, given: PyTree, what: str) -> PathRules:
    """Convert a list of ``(regular expression, value)`` pairs; ``what`` names the values in messages.

    Raises:
        TypeError: it is not such a list. ValueError: a regular expression is invalid.
    """
    if not isinstance(given, list | tuple) or not all(map(_is_pair, given)):
        raise TypeError(
            f"{who}: the rules must be a list of pairs (regular expression, {what}), but they are {given!r}"
        )
    for pattern, _ in given:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{who}: {pattern!r} is not a regular expression: {error}") from error
    return PathRules(tuple((pattern, value) for pattern, value in given), who)
