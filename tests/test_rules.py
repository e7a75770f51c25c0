"""A rule from outside the library: what lifting gives it, and the errors for mistakes in it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import functorch_optim as fo
from functorch_optim.algorithms import adagrad, rprop
from functorch_optim.core.rule_checks import check_class, check_update
from functorch_optim.hyperparams import AnyNumber, Hyperparameter, LearningRate, WeightDecay
from functorch_optim.testing import check_rule
from tests.table import TABLE

PARAMS = {"a": jnp.ones((2, 2)), "b": jnp.ones(3)}


class SignState(NamedTuple):
    step: Any
    average: Any


class Sign(fo.Rule):
    title = "Sign"
    state = SignState
    elementwise = True

    lr: LearningRate
    weight_decay: WeightDecay = 0.0

    def init(self, p, h):  # named differently than in the base
        return SignState(None, jnp.zeros_like(p, dtype=p.dtype))

    def scalars(self, step, hyperparams):
        return (hyperparams.lr,)

    def update(self, grad, param, slots, scalars):
        average = (slots.average + grad) / 2
        return -scalars[0] * jnp.sign(average), SignState(None, average)


def test_a_rule_gets_everything_by_being_lifted():
    tx = fo.lift(Sign(0.5, 0.1), decay_mask=lambda path: path == "a")
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert updates["b"].tolist() == [-0.5] * 3
    packed = fo.lift(Sign(0.5), foreach=True)
    assert packed.update(PARAMS, packed.init(PARAMS), PARAMS)[0]["a"].tolist() == [[-0.5] * 2] * 2
    assert repr(tx).startswith("sign(lr=0.5, weight_decay=0.1, decay_mask=<function")
    traced = jax.jit(lambda lr: fo.lift(Sign(lr)).update(PARAMS, fo.lift(Sign(lr)).init(PARAMS))[0])(0.25)
    assert traced["b"].tolist() == [-0.25] * 3


def changed(**members):
    """Return a rule like Sign with other class attributes; None removes one."""
    own = {name: value for name, value in vars(Sign).items() if name in ("init", "scalars", "update")}
    body = {"title": "Slip", "state": SignState, "__annotations__": {"lr": LearningRate}, **own, **members}
    return type("Slip", (fo.Rule,), {name: value for name, value in body.items() if value is not None})


SLIPS = {
    "title": ({"title": None}, "Slip has no title, its name in messages and in print: title = "),
    "state": ({"state": None}, r"Slip\.state must be a NamedTuple that has a field step .* but it is 'missing'"),
    "state without step": (
        {"state": NamedTuple("NoStep", [("average", Any)])},
        r"Slip\.state must be a NamedTuple that has a field step .*NoStep",
    ),
    "state of a dict": ({"state": dict}, r"Slip\.state must be a NamedTuple that has a field step"),
    "carried": ({"carried": ("eta",)}, r"Slip carries 'eta' .* so Slip\.state needs a field of that name"),
    "float": ({"__annotations__": {"lr": float}}, r"Slip\.lr is a number.*annotate it with a mark of .*hyperparams"),
    "union": ({"__annotations__": {"lr": Hyperparameter}}, r"Slip\.lr is a number.*LearningRate"),
    "pair": ({"__annotations__": {"lr": tuple[float, float]}}, r"Slip\.lr is a number.*Betas"),
    "an annotated title": (
        {"title": "Slip", "__annotations__": {"title": str, "lr": LearningRate}},
        r"Slip\.title is annotated, which makes it an option, .*: leave the annotation out, or call",
    ),
    "an option called like a method": (
        {"start": 0.5, "__annotations__": {"lr": LearningRate, "start": LearningRate}},
        r"Slip\.start is annotated, .* fo\.Rule has that name for itself",
    ),
    "decoupled_weight_decay": (
        {"decoupled_weight_decay": True},
        r"Slip has decoupled_weight_decay, .*: declare the options lr and weight_decay",
    ),
    "update": ({"update": None}, r"Slip does not define update: def update\(self, grad.*scalars"),
    "scalars": ({"scalars": None}, r"Slip does not define scalars: def scalars\(self, step"),
    "init's arguments": ({"init": lambda self, param: None}, r"Slip\.init must take what def init\(self, param.*takes"),
    "init's step": (
        {"init": lambda self, p, h: SignState(jnp.zeros(()), jnp.zeros_like(p))},
        r"Slip\.init must return SignState with None for step",
    ),
    "one result": (
        {"update": lambda self, grad, param, slots, scalars: -grad},
        r"Slip\.update must return \(delta, slots\)",
    ),
    "other slots": (
        {"update": lambda self, grad, param, slots, scalars: (-grad, SignState(None, None))},
        r"Slip\.update must return the slots that init makes",
    ),
    "needs_params": (
        {"update": lambda self, grad, param, slots, scalars: (-grad * param, slots)},
        r"Slip\.update reads the parameter, .*: say needs_params = True",
    ),
    "needs_params by a method": (
        {"update": lambda self, grad, param, slots, scalars: (-grad * param.mean(), slots)},
        r"Slip\.update reads the parameter, .*: say needs_params = True",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_names_the_class_and_the_mend(slip):
    members, message = SLIPS[slip]
    with pytest.raises(TypeError, match=message):
        fo.lift(changed(**members)(0.5))


OF_UPDATE = ("init's step", "one result", "other slots", "needs_params", "needs_params by a method")


@pytest.mark.parametrize("slip", [slip for slip in SLIPS if slip not in OF_UPDATE])
def test_a_class_is_checked_when_it_is_made(slip):
    members, message = SLIPS[slip]
    with pytest.raises(TypeError, match=message):
        changed(**members)


def test_what_others_complete_is_checked_when_it_is_complete():
    class Base(fo.Rule, abstract=True):
        lr: LearningRate

    with pytest.raises(TypeError, match="Slip has no title"):
        type("Slip", (Base,), {})
    whole = {name: vars(Sign)[name] for name in ("title", "state", "init", "scalars", "update")}
    assert repr(type("Whole", (Base,), whole)(0.5)) == "sign(lr=0.5)"


def test_a_name_that_is_defined_later_is_looked_up_at_the_first_use():
    rule = changed(__annotations__={"lr": "Later"}, __module__=__name__)
    with pytest.raises(NameError):
        rule(0.5)
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(globals(), "Later", LearningRate)
        assert rule(0.5).lr == 0.5
        patched.setitem(globals(), "Later", float)
        with pytest.raises(TypeError, match=r"Slip\.lr is a number"):
            fo.lift(rule(0.5))


def by_norm(self, grad, param, slots, scalars):
    return -grad / jnp.sqrt(jnp.sum(grad * grad)), slots


def by_size(self, grad, param, slots, scalars):
    return -grad / grad.size, slots


def by_order(self, grad, param, slots, scalars):
    return -jnp.cumsum(grad.reshape(-1)).reshape(grad.shape), slots


def in_the_slot(self, grad, param, slots, scalars):
    return -grad, SignState(None, slots.average + grad.max())


@pytest.mark.parametrize("update", [by_norm, by_size, by_order, in_the_slot])
def test_elementwise_claimed_wrongly_raises(update):
    rule = changed(update=update, elementwise=True)(0.5)
    for foreach in (False, True):
        with pytest.raises(ValueError, match="Slip says elementwise = True, but two arrays joined are"):
            fo.lift(rule, foreach)
    fo.lift(changed(update=update)(0.5))


def test_a_slot_of_another_shape_is_not_elementwise():
    def update(self, grad, param, slots, scalars):
        return -grad, SignState(None, jnp.mean(grad))

    rule = changed(init=lambda self, p, h: SignState(None, jnp.zeros((), p.dtype)), update=update, elementwise=True)
    with pytest.raises(ValueError, match="Slip says elementwise = True, but a slot has another shape than"):
        fo.lift(rule(0.5))


def test_a_rule_is_checked_once(compilations):
    lifted = [fo.lift(Sign(lr)) for lr in (0.1, 0.1)]
    compilations.clear()
    lifted += [fo.lift(Sign(lr), foreach=True) for lr in (0.1, 0.2, fo.schedules.constant(0.1))]
    assert not compilations


RULES = {name: tx.update.of.rule for name, tx in TABLE.items() if hasattr(getattr(tx.update, "of", None), "rule")}


@pytest.mark.parametrize("name", RULES)
def test_the_rules_of_the_library_are_what_they_say(name):
    check_class(type(RULES[name]))
    check_update(RULES[name])


def test_those_that_read_an_option_at_the_start_too():
    for rule in (adagrad.adagrad(initial_accumulator_value=1.0), rprop.rprop()):
        check_update(rule.update.of.rule)


PROMISES = {"class", "update", "structure", "dtype", "numbers", "vmap", "grad", "sharding", "pickling"}
PROMISES |= {"None gradients"}


def test_a_rule_that_keeps_the_promises_is_told_what_was_checked():
    report = check_rule(Sign(0.5, 0.1))
    assert set(report.checked) == {*PROMISES, "elementwise", "packing", "rate"} and not report.not_checked
    rest = check_rule(fo.muon(0.0, weight_decay=0.0, momentum=0.5).update.of.rule, {"only": jnp.eye(3)}).not_checked
    assert rest == {
        "sharding": "no parameter has an even number of rows",
        "None gradients": "there is one parameter: give two",
        "packing": "it does not say elementwise = True",
    }


@pytest.mark.full
@pytest.mark.parametrize("name", [*RULES, "muon", "sparse_adam"])
def test_the_rules_of_the_library_keep_the_promises(name):
    others = {"muon": fo.muon().update.of.rule, "sparse_adam": fo.sparse_adam().update.of.rule}
    params = {"one": jnp.ones((4, 2)), "other": jnp.ones((2, 3))} if name == "muon" else None
    report = check_rule({**RULES, **others}[name], params)
    assert set(report.checked) >= PROMISES
    assert ("rate" in report.not_checked) is name.startswith(("adafactor", "asgd", "laprop", "madgrad", "rprop"))


def average_of(make):
    return lambda self, param, hyperparams: SignState(None, make(param))


def moves(direction):
    return lambda self, grad, param, slots, scalars: (-direction(grad), slots)


def centred(grad):
    shape = jax.ShapeDtypeStruct(grad.shape, grad.dtype)
    return jax.pure_callback(lambda x: x - x.mean(), shape, grad, vmap_method="broadcast_all")


BROKEN = {
    "weak type": (
        {"init": average_of(lambda p: jnp.full(p.shape, 0.0))},
        r"'average\.\w+' with a weak type, .*zeros_like",
    ),
    "another slot": (
        {
            "init": average_of(lambda p: jnp.zeros(p.shape[1:], p.dtype)),
            "update": lambda self, grad, param, slots, scalars: (-grad, SignState(None, grad)),
        },
        r"update turns the slot 'average\.\w+' of float32\(.*\) into .*: return every slot as init makes it",
    ),
    "narrow delta": (
        {"update": moves(lambda grad: grad.astype(jnp.bfloat16))},
        r"a delta of bfloat16.*: calculate in the gradient's dtype, float32",
    ),
    "a branch": (
        {"scalars": lambda self, step, hyperparams: (0.1 if hyperparams.lr > 0.1 else 0.2,)},
        r"a number among the options must be traceable: choose by jnp\.where",
    ),
    "another number": (
        {
            "scalars": lambda self, step, hyperparams: (hyperparams.lr if isinstance(hyperparams.lr, float) else 9.0,),
            "update": lambda self, grad, param, slots, scalars: (-scalars[0] * grad, slots),
        },
        r"traced numbers update otherwise than Python's",
    ),
    "the whole ensemble": (
        {"update": moves(centred)},
        r"under vmap a member of an ensemble moves otherwise than alone",
    ),
    "no epsilon": (
        {"update": moves(lambda grad: grad / abs(grad))},
        r"is not finite: divide by no less than an epsilon",
    ),
    "a root": ({"update": moves(lambda grad: jnp.sqrt(grad * grad))}, r"derivative .* take roots by fo\.rules\.sqrt"),
    "a slot in one place": (
        {"init": average_of(lambda p: jnp.zeros(p.shape, p.dtype))},
        r"the slot average of 'matrix' is not split as its parameter: make it by fo\.rules\.zeros_like",
    ),
    "a class in a function": ({}, r"cannot be pickled: define it and its state at a module's top level"),
    "elementwise by size": (
        {"update": moves(lambda grad: grad if grad.size < 10 else 2 * grad), "elementwise": True},
        r"with foreach=True it moves otherwise than one by one: leave elementwise out",
    ),
    "a rate that is no factor": (
        {"update": lambda self, grad, param, slots, scalars: (-scalars[0] * scalars[0] * grad, slots)},
        r"the update is not lr times what does not depend on lr: say rate_is_factor = False",
    ),
}


@pytest.mark.parametrize("slip", BROKEN)
def test_a_broken_promise_names_the_class_and_the_mend(slip, monkeypatch):
    members, message = BROKEN[slip]
    kind = changed(**members)
    if slip != "a class in a function":
        monkeypatch.setitem(globals(), "Slip", kind)
    with pytest.raises(AssertionError, match=rf"Slip: .*{message}"):
        check_rule(kind(0.5))


ROOT = Path(fo.__file__).parent.parent


def imports_of(module):
    """Return the library's modules that a module imports, anywhere in its code."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("functorch_optim"):
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in {*named, node.module} if (ROOT / f"{name.replace('.', '/')}.py").exists()}
    return found


def test_what_a_rule_rests_on_is_imported_in_no_circle():
    graph, waiting = {}, [f"functorch_optim.core.{path.stem}" for path in (ROOT / "functorch_optim/core").glob("[!_]*")]
    while waiting:
        module = waiting.pop()
        if module not in graph:
            graph[module] = imports_of(module)
            waiting += graph[module]
    TopologicalSorter(graph).prepare()
    assert "functorch_optim.base" in graph and "functorch_optim.algorithms.adam" not in graph


def test_options_may_have_any_name():
    class Own(fo.Rule):
        title = "Own"
        state = SignState
        lr: LearningRate = 0.5
        _count: AnyNumber = 2.0
        index: AnyNumber = 3.0

        def init(self, param, hyperparams):
            return SignState(None, None)

        def scalars(self, step, hyperparams):
            return (hyperparams.lr * hyperparams._count * hyperparams.index,)

        def update(self, grad, param, slots, scalars):
            return -scalars[0] * grad, slots

    tx = fo.lift(Own())
    updates, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
    assert updates.item() == -3.0
    assert fo.current_hyperparams(tx, state) == {"lr": 0.5, "_count": 2.0, "index": 3.0}
