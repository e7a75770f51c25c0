"""Constructors with torch's signatures, each built from one line of names.

Every fact about an option is stated once: its default in the signature of the algorithm's function; its type, range and
description at the field of the rule. :data:`COMMON` has the other arguments of the classes. The line adds the order.
For editors and type checkers, ``make stubs`` writes the result to ``classes.pyi``.
"""

import inspect
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NamedTuple

from functorch_optim.core.options import data_options, field_notes
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules
from functorch_optim.option_names import explains_names
from functorch_optim.typing import OptionValues, PyTree


class Argument(NamedTuple):
    """An argument of a constructor: its type, default and description."""

    type: object
    default: object
    doc: str


_IDLE = "stored in the groups, without any other effect"
_BASE = ":class:`functorch_optim.optim.Optimizer`"
COMMON = {
    "params": Argument(Any, Parameter.empty, f"the parameters, in any form that {_BASE} takes"),
    "foreach": Argument(bool | None, None, "whether to update small parameters together; None decides by their number"),
    "capturable": Argument(bool, False, _IDLE),
    "differentiable": Argument(bool, False, f"whether a step may be traced, as for {_BASE}"),
    "fused": Argument(bool | None, None, _IDLE),
    "state_dtype": Argument(
        Any, None, "the dtype to keep all slots in, or a dict of slots, as in :func:`functorch_optim.state_dtype`"
    ),
    "group_rules": Argument(GroupRules, (), f"``(regular expression, options)`` pairs, as for {_BASE}"),
}
_DOCSTRING = """\
{head}

The equations are in :func:`functorch_optim.{function}`, with more about the options.

Args:
{arguments}

A number may be a Python number, a scalar array or a schedule, and may change in ``param_groups`` from step to step.
{more}
Raises:
    ValueError: an option outside its range, with torch's message, before ``params`` is read.

Example:
{example}"""
_EXAMPLE = """\
    >>> import jax.numpy as jnp
    >>> optimizer = {name}([jnp.ones((2, 2))])
    >>> optimizer.step([jnp.ones((2, 2))])
    >>> bool(jnp.all(optimizer.params[0] < 1))
    True"""


class Declared(Optimizer):
    """Base of the classes whose constructors are built here.

    ``of`` is the algorithm's function. ``args`` names the arguments between ``params`` and ``group_rules`` in torch's
    order, with a ``*`` before the keyword-only ones. A group has them in the same order, except for the names in
    ``last``, which come last. The docstring of such a class has a first sentence, and only what is particular to it.
    """

    def __init_subclass__(
        cls, of: Callable[..., PyTree] | None = None, args: str = "", last: str = "", **more: object
    ) -> None:
        super().__init_subclass__(**more)
        if of is not None:
            names, keywords = (part.split() for part in args.partition("*")[::2])
            options = [*names, *keywords]
            known, made = inspect.signature(of).parameters, of().update.of
            rule = type(getattr(made, "rule", made))
            beyond = ("state_dtype", "group_rules")
            arguments = {name: _argument(name, known, rule) for name in ("params", *options, *beyond)}
            keys = sorted(options, key=lambda name: last.split().index(name) if name in last.split() else -1)
            cls.constructor = staticmethod(vars(cls).get("constructor", of))
            cls.__init__ = _init(cls, arguments, {*keywords, *beyond}, [*keys, "state_dtype"])
            cls.__doc__ = _docstring(cls, getattr(of, "func", of).__name__, arguments)

    def _begin(self, params: PyTree, options: OptionValues, group_rules: GroupRules) -> None:
        """Construct the optimizer from the arguments, with the options in the order of a group's keys."""
        if options["state_dtype"] is None:
            options = {name: value for name, value in options.items() if name != "state_dtype"}
        super().__init__(params, {**options, **self.forced}, group_rules=group_rules)


def _argument(name: str, known: Mapping[str, Parameter], rule: type) -> Argument:
    """Return an argument of a class: an option of the algorithm's function, or one common to the classes."""
    if name in COMMON:
        return COMMON[name] if name != "foreach" or name in known else COMMON[name]._replace(doc=_IDLE)
    own, data = known[name], data_options(rule).get(name)
    kind = own.annotation if data is None else tuple[(Any,) * data.length] if data.length else Any
    return Argument(kind, own.default, option_docs(rule)[name])


def option_docs(cls: type) -> dict[str, str]:
    """Return the descriptions beside the types of a class's fields, with the fields' ranges."""
    words = {name: [note for note in notes if isinstance(note, str)] for name, notes in field_notes(cls).items()}
    ranges = {name: option.range for name, option in data_options(cls).items()}
    return {name: ", ".join(filter(None, [own[-1], ranges.get(name)])) for name, own in words.items() if own}


def _init(cls: type, arguments: Mapping[str, Argument], keywords: set[str], keys: Sequence[str]) -> Callable[..., None]:
    """Build a function that really has this signature: Python binds the arguments, and reports wrong ones."""
    parameters = [Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)]
    for name, argument in arguments.items():
        kind = Parameter.KEYWORD_ONLY if name in keywords else Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(Parameter(name, kind, default=argument.default))
    options = ", ".join(f"{key!r}: {key}" for key in keys)
    body = f"self._begin(params, {{{options}}}, group_rules)"
    function = with_signature(f"{cls.__qualname__}.__init__", inspect.Signature(parameters), body, cls.__module__)
    function.__annotations__ = {name: argument.type for name, argument in arguments.items()} | {"return": None}
    return explains_names(function)


def with_signature(
    qualname: str, signature: inspect.Signature, body: str, module: str, **names: object
) -> Callable[..., PyTree]:
    """Build a function with this signature and one line of code, which may use ``names``."""
    name = qualname.rpartition(".")[2]
    namespace: dict[str, Any] = {"__name__": module, "inf": math.inf, **names}
    exec(compile(f"def {name}{signature}: {body}", f"<the signature of {qualname}>", "exec"), namespace)
    function = namespace[name]
    function.__qualname__ = qualname
    return function


def _docstring(cls: type, function: str, arguments: Mapping[str, Argument]) -> str:
    """Build a class's docstring from its own text, its arguments, and a default example if it has none."""
    head, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
    more, _, example = rest.partition("Example:\n")
    lines = [f"{name}: {argument.doc}." for name, argument in arguments.items()]
    return _DOCSTRING.format(
        head=head,
        function=function,
        arguments="\n".join(textwrap.fill(x, 112, initial_indent=" " * 4, subsequent_indent=" " * 8) for x in lines),
        more=f"\n{more.strip()}\n" if more else "",
        example=example or _EXAMPLE.format(name=cls.__name__),
    )
