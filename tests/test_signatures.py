"""Options are consistent: rules, functions, classes, their docstrings and the stub agree."""

import ast
import copy
import functools
import inspect
import pickle
import re
from dataclasses import fields
from typing import get_type_hints

import jax.numpy as jnp
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.core.options import data_options
from functorch_optim.optim.engine.torch_habits import FUNCTIONAL_ONLY
from functorch_optim.optim.signatures import COMMON, option_docs
from tests.algorithms import ALGORITHMS, oracle
from tests.tools.stubs import SIGNATURES, STUBS, bare, signatures, stub

RECORD = SIGNATURES.read_text().splitlines()
FUNCTIONS = {**{row.title: name for name, row in ALGORITHMS.items()}, "SparseAdam": "sparse_adam"}
each_class = pytest.mark.parametrize("title", FUNCTIONS)


def rule_of(title):
    return type(getattr(fo, FUNCTIONS[title])().update.of.rule)


def options_of(function):
    """Return the parameters of an algorithm's function that are also group options."""
    return {k: p for k, p in inspect.signature(function).parameters.items() if k not in FUNCTIONAL_ONLY}


def arguments_in(docstring):
    """Return the entries of the Args section, each as one line."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", inspect.cleandoc(docstring), re.MULTILINE)[1]
    entries = re.split(r"^    (?=\S)", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in (entry.split(": ", 1) for entry in entries)}


def test_signatures_and_keys_of_groups_are_those_on_record():
    found = signatures().splitlines()
    assert found[::2] == RECORD[::2]
    assert found[1::2] == RECORD[1::2]


@pytest.mark.torch
@pytest.mark.parametrize("title", ["SparseAdam", *[row.title for row in ALGORITHMS.values() if row.is_in_torch]])
def test_signatures_are_torchs(title):
    pytest.importorskip("torch", reason="compares with a live torch")
    theirs, ours = bare(oracle(title)), bare(getattr(optim, title))
    beyond = ("group_rules", "state_dtype", "batched", "reshape")
    assert str(ours.replace(parameters=[p for n, p in ours.parameters.items() if n not in beyond])) == str(theirs)


@each_class
def test_functions_have_the_options_of_their_rules(title):
    options, rule = options_of(getattr(fo, FUNCTIONS[title])), rule_of(title)
    declared = {f.name for f in fields(rule)} - {*FUNCTIONAL_ONLY} - getattr(optim, title).forced.keys()
    assert options.keys() == declared
    types = get_type_hints(rule)
    assert {name: option.annotation for name, option in options.items()} == {name: types[name] for name in options}


@each_class
def test_functions_call_their_rules_by_keywords(title):
    function, rule = getattr(fo, FUNCTIONS[title]), rule_of(title)
    nodes = ast.walk(ast.parse(inspect.getsource(function)))
    (call,) = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == rule.__name__]
    assert not call.args
    passed = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert {name: passed[name] for name in options_of(function)} == {name: name for name in options_of(function)}


@each_class
def test_docstrings_of_functions_begin_an_option_as_the_rule_says(title):
    function = getattr(fo, FUNCTIONS[title])
    told, docs = arguments_in(function.__doc__), option_docs(rule_of(title))
    assert list(told) == list(inspect.signature(function).parameters)
    assert not {name: text for name, text in told.items() if not text.startswith(docs.get(name, ""))}
    assert options_of(function).keys() <= docs.keys()


@each_class
def test_classes_have_the_options_of_their_functions(title):
    function, kind = getattr(fo, FUNCTIONS[title]), getattr(optim, title)
    parameters = inspect.signature(kind).parameters
    assert parameters.keys() - COMMON.keys() == options_of(function).keys()
    data = data_options(rule_of(title))
    assert all(
        parameters[name].annotation == p.annotation for name, p in options_of(function).items() if name not in data
    )
    assert list(arguments_in(kind.__doc__)) == list(parameters)
    for part in (f":func:`functorch_optim.{FUNCTIONS[title]}`", "\nRaises:\n", "\nExample:\n    >>> "):
        assert part in kind.__doc__


@pytest.mark.parametrize("path", STUBS, ids=lambda path: path.stem)
def test_the_stubs_are_up_to_date(path):
    assert path.read_text() == stub(STUBS[path]), "write it anew: make stubs"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, r"Adam.__init__\(\) missing 1 required positional argument: 'params'"),
        (
            ([],),
            {"learning_rate": 0.1},
            r"Adam.__init__\(\) got an unexpected keyword argument 'learning_rate': did you mean lr.*",
        ),
        (([], 0.1), {"lr": 0.1}, r"Adam.__init__\(\) got multiple values for argument 'lr'"),
        (([], *[0.1] * 6), {}, r"Adam.__init__\(\) takes from 2 to 7 positional arguments but 8 were given"),
    ],
)
def test_wrong_arguments_are_told_in_pythons_words(arguments, options, message):
    with pytest.raises(TypeError, match=f"^{message}$"):
        optim.Adam(*arguments, **options)


class Counted(optim.Optimizer):
    """A class that takes part in cooperative construction."""

    made = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        Counted.made += 1


class Mine(optim.AdamW, Counted):
    """A class of a user."""

    def __init__(self, params, lr=0.5, **options):
        super().__init__(params, lr, **options)


def test_subclasses_construct_as_ever():
    optimizer = Mine({"w": jnp.ones(2)}, weight_decay=0.25)
    assert Counted.made == 1
    for each in (optimizer, copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        each.step({"w": jnp.ones(2)})
        group = each.param_groups[0]
        assert (type(each), group["lr"], group["weight_decay"], group["decoupled_weight_decay"]) == (
            Mine,
            0.5,
            0.25,
            True,
        )
    assert inspect.getdoc(Mine) == "A class of a user."
    assert list(inspect.signature(Mine).parameters) == ["params", "lr", "options"]
    partial = functools.partial(optim.SGD, lr=0.25)
    assert partial([jnp.ones(1)]).param_groups[0]["lr"] == 0.25
