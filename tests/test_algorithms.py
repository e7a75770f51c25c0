"""The table of the algorithms is complete, and each row is true."""

import inspect
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import functorch_optim as fo
from functorch_optim import optim
from tests.algorithms import ALGORITHMS, ELSEWHERE, FULL, cases_of, covering

TITLES = {**{name: row.title for name, row in ALGORITHMS.items()}, **{k: title for k, (title, _) in ELSEWHERE.items()}}
PER_FACE = ("foreach", "batched", "axis_name")  # options that save time in one face only
each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def test_every_algorithm_of_the_library_is_in_the_table():
    functions = {name for name in fo.__all__ if "lr" in signature_of(getattr(fo, name))} | {"muon_adamw"}
    assert {name for name in functions if not name.startswith("scale_by_")} == set(TITLES)
    kinds = {name for name in optim.__all__ if inspect.isclass(getattr(optim, name))} - {"Optimizer"}
    assert kinds == set(TITLES.values())
    for name, (_, file) in ELSEWHERE.items():
        assert f"fo.{name}(" in (Path(__file__).parent / file).read_text()


@pytest.mark.parametrize("name", [name for name, row in ALGORITHMS.items() if not row.is_in_torch])
def test_the_page_tells_the_bytes_of_each_algorithm_beyond_torch(name):
    page = (Path(__file__).parents[1] / "docs" / "reference" / "beyond-torch.md").read_text()
    (row,) = re.findall(rf"^\| `{name}`, `{TITLES[name]}` \|.*$", page, re.MULTILINE)
    told = float(re.match(r"[\d.]+", row.split("|")[3].strip())[0])
    kernel = jax.ShapeDtypeStruct((4096, 4096), jnp.float32)
    state = jax.eval_shape(getattr(fo, name)().init, {"kernel": kernel})
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / kernel.size
    assert held == pytest.approx(told, abs=0.01)


def signature_of(function):
    return inspect.signature(function).parameters if inspect.isfunction(function) else {}


@pytest.mark.parametrize(
    "name", [*ALGORITHMS, "sparse_adam", "lbfgs", "bfgs", "prodigy", "dadapt_adam", "adahessian", "sophia", "soap"]
)
def test_the_function_and_the_class_have_the_same_defaults(name):
    function, kind = signature_of(getattr(fo, name)), inspect.signature(getattr(optim, TITLES[name])).parameters
    shared = [key for key in function if key in kind and key not in PER_FACE]
    assert "lr" in shared
    assert {key: function[key].default for key in shared} == {key: kind[key].default for key in shared}


@each_algorithm
def test_the_rows_tell_what_the_rules_are(name):
    row, tx = ALGORITHMS[name], getattr(fo, name)(**ALGORITHMS[name].typical)
    rule = tx.update.of.rule
    assert (row.takes_rows, row.carried) == (rule.takes_rows, tuple(rule.carried))
    assert row.carries_doubles is rule.carries_doubles
    assert row.has_step is rule.counts_steps and row.packs is rule.elementwise
    held = set(tx.init(jnp.ones((2, 2)))._fields) - {"step", *row.carried}
    assert held == set(row.slots)
    assert row.has_betas is ("betas" in signature_of(getattr(fo, name)))


@each_algorithm
def test_every_two_options_of_the_product_stand_together_in_the_cases(name):
    every, chosen = ALGORITHMS[name].cases, covering(ALGORITHMS[name].cases)
    assert set(map(repr, chosen)) <= set(map(repr, every)) and len(chosen) <= len(every)
    for options in every:
        for one in options.items():
            for other in options.items():
                assert any({one, other} <= set(each.items()) for each in chosen), (one, other)
    assert len(cases_of(name)) == len(every if FULL else chosen)
