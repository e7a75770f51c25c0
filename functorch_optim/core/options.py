"""Options as the fields of a frozen dataclass: checked at construction, turned into numbers at each step."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import fields, make_dataclass
from typing import Any, NoReturn, get_type_hints

import jax

from functorch_optim.base import Frozen
from functorch_optim.hyperparams import Beta, Option, normalize, resolve
from functorch_optim.typing import Numeric, PyTree


@functools.cache
def data_options(cls: type) -> dict[str, Option]:
    """Return the fields of a class that are data, with their marks."""
    return {name: mark for name, notes in field_notes(cls).items() for mark in notes if isinstance(mark, Option)}


@functools.cache
def field_notes(cls: type) -> dict[str, tuple[object, ...]]:
    """Return the annotations beside each field's type; outer ones come after those that the type itself has."""
    hints = get_type_hints(cls, include_extras=True)
    return {f.name: getattr(hints[f.name], "__metadata__", ()) for f in fields(cls)}


def checked(name: str, option: Option, value: object) -> Any:
    """Check an option, and return its stored form.

    Raises:
        ValueError, TypeError: it is not a number or outside its range; the message names it.
    """
    if value is None and option.optional:
        return None
    if not option.length:
        value = normalize(name, value)
        option.check(name, value)
        return value
    items = tuple(
        None if item is None and option.optional else normalize(f"{name}[{index}]", item)
        for index, item in enumerate(_several(name, value, option.length))
    )
    for index, item in enumerate(items):
        option.check(name, item, index)
    return items


def _several(name: str, value: Any, length: int) -> tuple[Any, ...]:
    """Convert an option with several values, such as betas, to a tuple of ``length``."""
    try:
        values = tuple(value)
    except TypeError as error:
        raise TypeError(f"{name} must hold {length} values, but it is {value!r}") from error
    if len(values) != length:
        raise ValueError(f"{name} must hold {length} values, but it holds {len(values)}")
    return values


class Options(Frozen):
    """A frozen dataclass whose :class:`Option` fields are normalized and checked at construction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, option in data_options(type(self)).items():
            object.__setattr__(self, name, checked(name, option, getattr(self, name)))

    def at(self, step: Any) -> PyTree:
        """Return the data options at ``step`` (the number of updates so far), as :func:`hyperparams_of` does."""
        return hyperparams_of(type(self), vars(self), step)

    def placeholder(self) -> PyTree:
        """Return a record like that of :meth:`at` with arbitrary numbers, for use where only shapes matter."""
        numbers: list[PyTree] = []
        for option in data_options(type(self)).values():
            one = Beta.of(0.5) if option.beta else 0.5
            numbers.append((one,) * option.length if option.length else one)
        return _record_of(type(self))(*numbers)

    def hyperparams_at(self, step: Numeric) -> dict[str, PyTree]:
        """Return the data options at ``step`` as a dictionary of plain values, for people to read."""
        numbers = self.numbers_at(step)
        return jax.tree.map(lambda x: x.value if isinstance(x, Beta) else x, numbers, is_leaf=is_beta)

    def numbers_at(self, step: Any) -> dict[str, PyTree]:
        """Return what :meth:`at` returns as a dictionary."""
        numbers = self.at(step)
        return {name: getattr(numbers, name) for name in data_options(type(self))}


def is_beta(value: object) -> bool:
    """Whether a value is a :class:`Beta`, for use as ``is_leaf``."""
    return isinstance(value, Beta)


@functools.cache
def _record_of(cls: type) -> Callable[..., PyTree]:
    """Return the class of the records of a class's data options."""
    return make_dataclass(f"{cls.__name__}Hyperparams", data_options(cls), frozen=True, slots=True)


def hyperparams_of(cls: type, values: Mapping[str, Any], step: Any) -> PyTree:
    """Return the data options of ``cls`` as a record: numbers at ``step``, betas as :class:`Beta`.

    Args:
        cls: a subclass of :class:`Options`.
        values: every option by name: numbers or schedules.
        step: the number of updates so far, to call schedules with.
    """
    numbers: list[PyTree] = []
    for name, option in data_options(cls).items():
        value = values[name]
        if option.length:
            numbers.append(tuple([resolve(name, item, step, option.beta) for item in value]))
        else:
            numbers.append(resolve(name, value, step, option.beta))
    return _record_of(cls)(*numbers)


class Deferred(Frozen):
    """Stands for an option whose number is known only at the step: see :func:`hyperparams_of`."""

    def __call__(self, step: object) -> NoReturn:
        raise TypeError("this option has no number yet: it comes with the step")
