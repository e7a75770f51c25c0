"""Functions with the signatures of ``torch.optim.functional``, each built from one line of names.

As in :mod:`functorch_optim.optim.signatures`, every fact is stated once: what an option is, at the field of its rule;
what a list holds, in :data:`FIELDS`; the order of the arguments, in the line. ``make stubs`` writes ``functional.pyi``.
"""

import inspect
import textwrap
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

import jax
import jax.numpy as jnp

from functorch_optim.base import GradientTransformation, exportable
from functorch_optim.optim.engine.list_checks import flag
from functorch_optim.optim.engine.lists import PAIRS, STEPS, ListUpdate
from functorch_optim.optim.signatures import option_docs, with_signature
from functorch_optim.typing import PyTree

# Arguments that are lists of state, and the field of the rule's state that each list holds.
FIELDS = {
    "acc_deltas": "acc_delta",
    "axs": "ax",
    "col_vars": "col_var",
    "etas": "eta",
    "exp_avg_sqs": "exp_avg_sq",
    "exp_avgs": "exp_avg",
    "exp_infs": "exp_inf",
    "grad_avgs": "grad_avg",
    "max_exp_avg_sqs": "max_exp_avg_sq",
    "momentum_buffer_list": "momentum_buffer",
    "mu_products": "mu_product",
    "mus": "mu",
    "muon_momentum_bufs": "momentum_buffer",
    "prevs": "prev",
    "row_vars": "row_var",
    "square_avgs": "square_avg",
    "state_sums": "sum",
    "step_sizes": "step_size",
    "variances": "variance",
}
_IDLE = "no effect: it says how torch computes, not what"
_FLAGS: dict[str, tuple[Any, Any, str]] = {  # type, default and description
    "foreach": (bool | None, None, _IDLE),
    "capturable": (bool, False, _IDLE),
    "differentiable": (bool, False, _IDLE),
    "fused": (bool | None, None, _IDLE),
    "has_complex": (bool, False, _IDLE),
    "has_sparse_grad": (bool, False, _IDLE),
    "grad_scale": (Any, None, "the number to divide the gradients by"),
    "found_inf": (Any, None, "if it is not zero, nothing changes"),
}
_COUNTED = "how often each parameter has been updated: arrays of one element, or integers"
_COUNT = "the number of this update for each parameter, from 1; the caller counts"
_MODULE = "functorch_optim.optim.functional"
_DOCSTRING = """\
Update lists of parameters and of their state by {title}.

The equations are in :func:`functorch_optim.{name}`. As in torch, numbers outside their ranges
are not rejected. What all these functions have in common is in :mod:`functorch_optim.optim.functional`.

Args:
{arguments}

Returns:
    {returns}

Raises:
    ValueError, TypeError, RuntimeError: lists of different lengths or shapes; a count that is no whole number; an
        option that is not a number. The message names the function, the list and the place.

Example:
{example}"""
_EXAMPLE = """\
    >>> import jax.numpy as jnp
    >>> ones, zeros, number = [jnp.ones({shape})], [jnp.zeros({shape})], [jnp.ones(())]
    >>> new = {name}(
{call}
    ... )
    >>> bool(jnp.all(new.params[0] < 1))
    True"""


def list_function(
    title: str,
    constructor: Callable[..., GradientTransformation],
    args: str,
    counts: bool = True,
    refused: Mapping[str, Exception] | None = None,
    example: str = "",
) -> tuple[Callable[..., PyTree], Any]:
    """Build the function of an algorithm, and the type of its result.

    Args:
        title: the name of the algorithm's class.
        constructor: the algorithm's function; or a partial of it, which fixes options that are not arguments here.
        args: the names of the arguments in torch's order, with a ``*`` before the keyword-only ones.
        counts: whether the function counts the steps; if not, the caller does.
        refused: argument -> the error to raise if it is True.
        example: the docstring's example; by default a generic one.
    """
    names, keywords = (part.split() for part in args.partition("*")[::2])
    fields = {each: FIELDS[each] for each in names if each in FIELDS}
    update = ListUpdate(constructor, names[1], fields, counts)
    lists = ["params", *fields, *([STEPS] if counts and STEPS in names else [])]
    result = namedtuple(f"{title}Result", lists)  # pyright: ignore[reportUntypedNamedTuple]

    def call(given: dict[str, PyTree]) -> PyTree:
        for argument, error in (refused or {}).items():
            if given[argument] is not None and flag(f"{name}: {argument}", given[argument]):
                raise error
        after = update(given)
        return result(*[after[each] for each in lists])

    name, kinds = update.name, _kinds(update, [*names, *keywords])
    body = f"return _call({{{', '.join(f'{each!r}: {each}' for each in kinds)}}})"
    signature = inspect.Signature([_parameter(each, kinds[each], each in keywords) for each in kinds])
    function = with_signature(name, signature, body, _MODULE, _call=call)
    function.__module__ = result.__module__ = _MODULE
    function.__annotations__ = {**kinds, "return": result}
    function.__doc__ = _docstring(function, update, title, lists, example)
    result.__doc__ = f"What :func:`{name}` changes, in the order of its arguments."
    return function, exportable(result)


def _parameter(name: str, kind: Any, keyword: bool) -> Parameter:
    """Build an argument: flags have defaults, except among the keywords; ``foreach`` has one everywhere."""
    default = Parameter.empty
    if name == "foreach" or (not keyword and (name in _FLAGS or kind is bool)):
        default = _FLAGS[name][1] if name in _FLAGS else False
    return Parameter(name, Parameter.KEYWORD_ONLY if keyword else Parameter.POSITIONAL_OR_KEYWORD, default=default)


def _kinds(update: ListUpdate, names: Sequence[str]) -> dict[str, Any]:
    """Find the type of every argument, in order."""
    data, known = update.kind.data_names, inspect.signature(update.kind.constructor).parameters
    kinds: dict[str, Any] = {}
    for name in names:
        if name in _FLAGS:
            kinds[name] = _FLAGS[name][0]
        elif name in ("params", update.grads, STEPS, *FIELDS):
            kinds[name] = Sequence[Any]
        else:
            kinds[name] = known[name].annotation if name in known and name not in data else Any
    return kinds


def _docstring(
    function: Callable[..., PyTree], update: ListUpdate, title: str, lists: Sequence[str], example: str
) -> str:
    arguments = inspect.signature(function).parameters
    words = [f"{name}: {_words(name, update)}." for name in arguments]
    changed = f"``{title}Result({', '.join(lists)})``, all lists."
    return _DOCSTRING.format(
        name=function.__name__,
        title=title,
        arguments="\n".join(textwrap.fill(x, 112, initial_indent=" " * 4, subsequent_indent=" " * 8) for x in words),
        returns=textwrap.fill(changed, 112, subsequent_indent=" " * 4),
        example=example or _example(function, update),
    )


def _words(name: str, update: ListUpdate) -> str:
    """Describe an argument."""
    docs = option_docs(update.kind.rule_type)
    for pair, halves in PAIRS.items():
        if name in halves:
            return f"the {('first', 'second')[halves.index(name)]} of ``{pair}``, {docs[pair]}"
    if name in FIELDS:
        return f"``{FIELDS[name]}`` of each parameter"
    fixed = {
        "params": "the parameters",
        update.grads: "their gradients; None leaves a parameter and its state as they are",
        STEPS: _COUNTED if update.counts else _COUNT,
    }
    return fixed.get(name) or (_FLAGS[name][2] if name in _FLAGS else docs[name])


def _example(function: Callable[..., PyTree], update: ListUpdate) -> str:
    """Write an example that updates one array by the defaults of the algorithm's function."""
    rule, shape = update.kind.rule_type, (2, 2) if update.kind.rule_type.title == "Muon" else (2,)
    made = update.kind.build(update.options).rule.shapes(jax.ShapeDtypeStruct(shape, jnp.float32))
    halves = {half: (pair, index) for pair, both in PAIRS.items() for index, half in enumerate(both)}
    given = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in ("params", update.grads):
            given.append("ones")
        elif name == STEPS or FIELDS.get(name) in rule.carried:
            given.append("number")
        elif name in FIELDS:
            given.append("[]" if getattr(made, FIELDS[name]) is None else "zeros")
        elif parameter.default is Parameter.empty:
            pair, index = halves.get(name, ("", 0))
            value = update.options[pair][index] if pair in update.options else update.options.get(name, False)
            given.append(f"{name}={value!r}")
    call = textwrap.fill(", ".join(given), 112, initial_indent="    ...     ", subsequent_indent="    ...     ")
    return _EXAMPLE.format(shape=shape, name=function.__name__, call=call)
