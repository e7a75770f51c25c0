"""Constructors with torch's signatures, each made of one line of names.

Every fact of an option stands once: the default in the signature of the algorithm's function, type, range and words at
the field of its rule, what the classes have beside them in :data:`COMMON`. The line adds the order. For those who read
without running, ``make stubs`` writes what comes of it into ``classes.pyi``.
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any, NamedTuple

from functorch_optim.core.options import data_options, field_notes
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.optim.param_groups import GroupRules
from functorch_optim.typing import OptionValues, PyTree


class Argument(NamedTuple):
    """An argument of a constructor: its type, its default, and what it is."""

    type: object
    default: object
    doc: str


_IDLE = "stored in the groups and otherwise without effect"
_BASE = ":class:`functorch_optim.optim.Optimizer`"
COMMON = {
    "params": Argument(Any, Parameter.empty, f"the parameters, in any form that {_BASE} takes"),
    "foreach": Argument(
        bool | None, None, "whether small parameters are updated together; None decides by their number"
    ),
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
    ValueError: an option outside its range, with torch's message, before ``params`` is looked at.

Example:
{example}"""
_EXAMPLE = """\
    >>> import jax.numpy as jnp
    >>> optimizer = {name}([jnp.ones((2, 2))])
    >>> optimizer.step([jnp.ones((2, 2))])
    >>> bool(jnp.all(optimizer.params[0] < 1))
    True"""


class Declared(Optimizer):
    """Base of the classes whose constructors are made here.

    ``of`` is the algorithm's function, and ``args`` has the names of the arguments between ``params`` and
    ``group_rules`` in torch's order, with a ``*`` before those that are keywords only. A group has them in the same
    order, but for the names in ``last``, which come last. The docstring of such a class is its first sentence, and what
    else is particular about it.
    """

    def __init_subclass__(
        cls, of: Callable[..., PyTree] | None = None, args: str = "", last: str = "", **more: object
    ) -> None:
        super().__init_subclass__(**more)
        if of is not None:
            names, keywords = (part.split() for part in args.partition("*")[::2])
            options = [*names, *keywords]
            known, rule = inspect.signature(of).parameters, type(of().update.of.rule)
            beyond = ("state_dtype", "group_rules")
            arguments = {name: _argument(name, known, rule) for name in ("params", *options, *beyond)}
            keys = sorted(options, key=lambda name: last.split().index(name) if name in last.split() else -1)
            cls.constructor = staticmethod(of)
            cls.__init__ = _init(cls, arguments, {*keywords, *beyond}, [*keys, "state_dtype"])
            cls.__doc__ = _docstring(cls, getattr(of, "func", of).__name__, arguments)

    def _begin(self, params: PyTree, options: OptionValues, group_rules: GroupRules) -> None:
        """What the constructor does with its arguments, the options in the order of a group's keys."""
        if options["state_dtype"] is None:
            options = {name: value for name, value in options.items() if name != "state_dtype"}
        super().__init__(params, {**options, **self.forced}, group_rules=group_rules)


def _argument(name: str, known: Mapping[str, Parameter], rule: type) -> Argument:
    """An argument of a class: an option of the algorithm's function, or what is common to the classes."""
    if name in COMMON:
        return COMMON[name] if name != "foreach" or name in known else COMMON[name]._replace(doc=_IDLE)
    own, data = known[name], data_options(rule).get(name)
    kind = own.annotation if data is None else tuple[(Any,) * data.length] if data.length else Any
    return Argument(kind, own.default, option_docs(rule)[name])


def option_docs(cls: type) -> dict[str, str]:
    """What the fields of a class are, as it stands beside their types, with their ranges."""
    words = {name: [note for note in notes if isinstance(note, str)] for name, notes in field_notes(cls).items()}
    ranges = {name: option.range for name, option in data_options(cls).items()}
    return {name: ", ".join(filter(None, [own[-1], ranges.get(name)])) for name, own in words.items() if own}


def _init(cls: type, arguments: Mapping[str, Argument], keywords: set[str], keys: Sequence[str]) -> Callable[..., None]:
    """A function that has this signature by itself: Python binds the arguments, and says what is wrong with them."""
    parameters = [Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)]
    for name, argument in arguments.items():
        kind = Parameter.KEYWORD_ONLY if name in keywords else Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(Parameter(name, kind, default=argument.default))
    options = ", ".join(f"{key!r}: {key}" for key in keys)
    body = f"self._begin(params, {{{options}}}, group_rules)"
    function = with_signature(f"{cls.__qualname__}.__init__", inspect.Signature(parameters), body, cls.__module__)
    function.__annotations__ = {name: argument.type for name, argument in arguments.items()} | {"return": None}
    return function


def with_signature(
    qualname: str, signature: inspect.Signature, body: str, module: str, **names: object
) -> Callable[..., PyTree]:
    """A function with this signature and one line of code, which may use ``names``."""
    name = qualname.rpartition(".")[2]
    namespace: dict[str, Any] = {"__name__": module, **names}
    exec(compile(f"def {name}{signature}: {body}", f"<the signature of {qualname}>", "exec"), namespace)
    function = namespace[name]
    function.__qualname__ = qualname
    return function


def _docstring(cls: type, function: str, arguments: Mapping[str, Argument]) -> str:
    """The docstring of a class, of what it says itself and what its arguments are; by default with an example."""
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
