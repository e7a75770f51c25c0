"""A rule from outside of the library: what it gets by being lifted, and what is said of the slips in it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest

import functorch_optim as fo
from functorch_optim.algorithms import adagrad, rprop
from functorch_optim.core.rule_checks import check_class, check_update
from functorch_optim.hyperparams import Hyperparameter, LearningRate, WeightDecay
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

    def init(self, p, h):  # named otherwise than in the base
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
    """A rule like Sign, with something else in its class; None leaves it out."""
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
