"""Errors that say what to write instead: torch's habits, values read while tracing, whole models, wrong masks."""

import ast
import pickle
import warnings
from pathlib import Path

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.core import FrozenDict
from flax.training.train_state import TrainState

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.optim.loss_errors import check_loss
from functorch_optim.pages import PAGES

ROOT = Path(__file__).parents[1]
PARAMS = {"w": jnp.ones(2), "b": jnp.ones(1)}
MLP = eqx.nn.MLP(2, 2, 2, 1, key=jax.random.key(0))


def sgd():
    return optim.SGD(PARAMS, lr=0.1)


def loss(params, *args):
    return jnp.sum(params["w"] ** 2)


@pytest.mark.parametrize("value", [1.0, jnp.ones(()), None, PARAMS, (jnp.ones(()), 1)], ids=repr)
def test_backward_of_a_value_asks_for_the_function(value):
    optimizer = sgd()
    for options in ({}, {"jit": False}, {"sparse": "w"}):
        with pytest.raises(TypeError, match=r"^Expected a callable value, got .*backward\(loss_fn, \*batch\)"):
            optimizer.backward(value, **options)
    assert optimizer.grads is None
    check_loss(loss)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (1.0, "not the loss's value"),
        (jnp.ones(()), "not the loss's value"),
        (np.float32(1.0), "not the loss's value"),
        ("w", "gradients with the parameters' structure"),
        (jnp.ones((3, 2)), "gradients with the parameters' structure"),
        ((jnp.ones(()), PARAMS), "jax.value_and_grad returns pass the second"),
    ],
    ids=repr,
)
def test_a_step_of_something_else_asks_for_gradients_or_the_closure(given, words):
    optimizer = sgd()
    with pytest.raises(ValueError, match=r"^gradients do not have the structure of the parameters: ") as caught:
        optimizer.step(given)
    assert words in str(caught.value)
    assert "optimizer.step(closure, *batch)" in str(caught.value)
    with pytest.raises(
        TypeError, match=r"^LBFGS.step\(\) evaluates the loss itself: pass it closure\(params, \*args\)"
    ):
        optim.LBFGS(PARAMS).step(given)


def test_a_loss_that_is_no_scalar_is_told_what_to_return():
    optimizer = sgd()
    for of in (jax.grad(loss), jax.value_and_grad(loss), lambda params: params["w"]):
        for jit in (True, False):
            with pytest.raises(TypeError, match=r"^Gradient only defined for scalar-output functions.*jnp\.mean"):
                optimizer.backward(of, jit=jit)


def with_item(value):
    return value.item()


def with_float(value):
    return float(value)


def with_if(value):
    return 1 if value > 1 else 0


def with_numpy(value):
    return np.asarray(value)


def with_range(value):
    return range(value.astype(int))


KINDS = {
    with_item: jax.errors.ConcretizationTypeError,
    with_float: jax.errors.ConcretizationTypeError,
    with_if: jax.errors.TracerBoolConversionError,
    with_numpy: jax.errors.TracerArrayConversionError,
    with_range: jax.errors.TracerIntegerConversionError,
}
CALLS = {
    "backward": lambda of: sgd().backward(of),
    "step": lambda of: sgd().step(of),
    "step, clipped": lambda of: sgd().step(of, clip_norm=1.0),
    "LBFGS": lambda of: optim.LBFGS(PARAMS).step(of),
    "BFGS": lambda of: optim.BFGS(PARAMS).step(of),
    "MuonAdamW": lambda of: optim.MuonAdamW({"w": jnp.ones((2, 2))}).step(of),
    "from_transform": lambda of: optim.Optimizer.from_transform(fo.sgd, PARAMS, {"lr": 0.1}).step(of),
    "differentiable": lambda of: optim.SGD(PARAMS, differentiable=True).step(of),
}


@pytest.mark.parametrize("look", KINDS, ids=lambda look: look.__name__)
@pytest.mark.parametrize("call", CALLS)
def test_reading_a_value_inside_the_loss_is_explained(call, look):
    def reading(params):
        value = loss(params)
        look(value)
        return value

    with pytest.raises(KINDS[look], match=r"^the loss is compiled") as caught:
        CALLS[call](reading)
    assert type(caught.value) is type(caught.value.__cause__) is KINDS[look]
    assert str(caught.value).endswith(str(caught.value.__cause__))
    assert str(caught.value).count("the loss is compiled") == 1
    for words in ("print what backward or step returned", "jax.debug.print", "jit=False", "docs/fast-loop.md"):
        assert words in str(caught.value)


def test_without_compilation_values_are_known():
    def reading(params):
        value = loss(params)
        assert value.item() == 2.0
        return value * 2 if value > 1 else value

    assert sgd().backward(reading, jit=False) == 4.0
    with pytest.raises(jax.errors.ConcretizationTypeError, match=r"^the loss is differentiated"):
        sgd().backward(lambda params: loss(params) * float(loss(params)), jit=False)


@pytest.mark.parametrize("look", KINDS, ids=lambda look: look.__name__)
@pytest.mark.parametrize("make", [fo.lbfgs, fo.bfgs], ids=lambda make: make.__name__)
def test_reading_a_value_inside_value_fn_is_explained(make, look):
    def reading(params):
        value = loss(params)
        look(value)
        return value

    tx, grads = make(), PARAMS
    state = tx.init(PARAMS)
    for update in (tx.update, jax.jit(tx.update, static_argnames="value_fn")):
        with pytest.raises(KINDS[look], match=rf"^{make.__name__} differentiates and compiles value_fn: ") as caught:
            update(grads, state, PARAMS, value_fn=reading)
        assert type(caught.value) is KINDS[look]
        for words in ("jnp.where", "jax.debug.print", "docs/fast-loop.md"):
            assert words in str(caught.value)
        assert str(caught.value).count("differentiates and compiles") == 1


MLP_PARAMS = eqx.filter(MLP, eqx.is_inexact_array)
CALLED = {
    "a dict": PARAMS,
    "an nnx state": nnx.state(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.Param),
    "an nnx module": nnx.Linear(2, 2, rngs=nnx.Rngs(0)),
    "an equinox module's arrays": MLP_PARAMS,
}


@pytest.mark.parametrize("params", CALLED.values(), ids=CALLED)
def test_calling_the_parameters_is_told_to_merge_them(params):
    calling = lambda model, x: jnp.sum(model(x))  # noqa: E731 a helper of one line
    for make in (optim.SGD, optim.LBFGS):
        optimizer = make(params)
        calls = [optimizer.step, optimizer.backward, lambda *args: optimizer.backward(*args, jit=False)]  # noqa: B023
        for call in calls:
            with pytest.raises(
                TypeError, match=r"^'\w+' object is not callable: the loss gets the parameters"
            ) as caught:
                call(calling, jnp.ones(2))
            for words in ("nnx.merge(graph, params, rest, copy=True)(x)", "eqx.combine", "docs/networks.md"):
                assert words in str(caught.value)
    with pytest.raises(TypeError, match=r"^'int' object is not callable") as caught:
        optimizer.backward(lambda params, x: x.size(x), jnp.ones(2))  # the loss's own error
    assert "the loss gets" not in str(caught.value)


STEPS = {
    "backward": lambda of, **options: sgd().backward(of, jnp.ones(2), **options),
    "backward, packed": lambda of: optim.AdamW(PARAMS, foreach=True).backward(of, jnp.ones(2)),
    "backward, frozen": lambda of: optim.SGD(PARAMS, group_rules=[("w", {"frozen": True})]).backward(of, jnp.ones(2)),
    "step": lambda of: sgd().step(of, jnp.ones(2)),
    "step, clipped": lambda of: sgd().step(of, jnp.ones(2), clip_norm=1.0),
    "step, batches": lambda of: sgd().step(of, batches=jnp.ones((3, 2))),
    "step, frozen": lambda of: optim.SGD(PARAMS, group_rules=[("w", {"frozen": True})]).step(of, jnp.ones(2)),
    "LBFGS": lambda of: optim.LBFGS(PARAMS).step(of, jnp.ones(2)),
    "from_transform": lambda of: optim.Optimizer.from_transform(fo.sgd, PARAMS, {"lr": 0.1}).step(of, jnp.ones(2)),
    "differentiable": lambda of: optim.SGD(PARAMS, differentiable=True).step(of, jnp.ones(2)),
}


@pytest.mark.parametrize("call", STEPS)
def test_a_loss_that_ignores_the_parameters_warns(call):
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    with pytest.warns(
        UserWarning, match=r"the loss does not use its first argument.*nnx\.merge.*docs/networks\.md"
    ) as got:
        STEPS[call](lambda params, x: jnp.sum(model(x[None])))
    assert [warning.filename for warning in got] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        STEPS[call](lambda params, x: jnp.sum(params["w"] * x))
        STEPS[call](lambda params, x: jax.jit(jnp.sum)(jax.lax.stop_gradient(params["w"]) * x))


@jax.jit
def compiled_constant(params, x):
    return jnp.sum(x)


@jax.jit
def compiled(params, x):
    return jnp.sum(params["w"] * x)


def test_what_a_compiled_loss_uses_is_known():
    for loss_fn in (compiled_constant, lambda params, x: compiled_constant(params, x) * 2.0):
        with pytest.warns(UserWarning, match="the loss does not use its first argument"):
            sgd().step(loss_fn, jnp.ones(2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sgd().step(compiled, jnp.ones(2))


def test_a_loss_that_ignores_the_parameters_warns_once():
    def constant(params, x):
        return jnp.sum(x)

    optimizer = sgd()
    with pytest.warns(UserWarning, match="does not use its first argument"):
        optimizer.backward(constant, jnp.ones(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for size in (1, 2):
            optimizer.step(constant, jnp.ones(size))
            optimizer.backward(constant, jnp.ones(size))


class Network(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.norm = nnx.Linear(2, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)


class Linen(nn.Module):
    width: int = 2


def variables():
    return {"params": {"kernel": jnp.ones((2, 2))}, "batch_stats": {"mean": jnp.ones(2)}}


def train_state():
    return TrainState.create(apply_fn=Linen().apply, params=variables()["params"], tx=fo.sgd())


class KerasVariable:
    shape, dtype = (2,), np.dtype("float32")


KerasVariable.__module__ = "keras.src.backend"

EQX, LINEN, NNX = "eqx.filter(model, eqx.is_inexact_array)", 'variables["params"]', "nnx.state(model, nnx.Param)"
MODELS = {
    "equinox": (lambda: MLP, EQX),
    "equinox in a dict": (lambda: {"net": MLP}, EQX),
    "equinox, partitioned": (lambda: eqx.partition(MLP, eqx.is_array), EQX),
    "equinox with state": (lambda: eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "b", mode="ema"), EQX),
    "linen": (Linen, LINEN),
    "linen with variables": (lambda: (Linen(), {"params": variables()["params"]}), LINEN),
    "linen's variables": (variables, LINEN),
    "train state": (train_state, "state.params"),
    "nnx state": (lambda: nnx.state(Network(nnx.Rngs(0))), NNX),
    "nnx split": (lambda: nnx.split(Network(nnx.Rngs(0))), NNX),
    "keras": (lambda: [KerasVariable()], "variable.value"),
    "a class": (lambda: Linen, "create the model"),
    "a function": (lambda: loss, "not a function"),
    "numbers": (lambda: [1.0], "jnp.asarray(1.0)"),
}
INITS = {
    "torch face": optim.SGD,
    "functional": fo.sgd(momentum=0.9).init,
    "chain": fo.chain(fo.clip_by_global_norm(1.0), fo.adam()).init,
    "lbfgs": fo.lbfgs().init,
    "LBFGS": optim.LBFGS,
}
START = (
    r"^(optimizer can only optimize |params argument given to the optimizer should be an iterable of Tensors or dicts)"
)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("model", MODELS)
def test_a_whole_model_is_told_what_to_pass(init, model):
    make, words = MODELS[model]
    with pytest.raises(TypeError, match=START) as caught:
        INITS[init](make())
    assert words in str(caught.value)
    assert model == "numbers" or "docs/networks.md" in str(caught.value)


def test_an_nnx_module_and_its_graph_definition():
    model = Network(nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"^optimizer can only optimize parameters.*nnx\.state\(model, nnx\.Param\)"):
        fo.adam().init(model)
    for init in (optim.SGD, fo.sgd(momentum=0.9).init):
        with pytest.raises(ValueError, match=r"^optimizer got an empty parameter list.*nnx\.state\(model, nnx"):
            init(nnx.split(model)[0])
    optim.SGD(model)
    fo.adam().init(nnx.state(model, nnx.Param))


@pytest.mark.torch
@pytest.mark.parametrize("init", INITS)
def test_a_torch_network_is_told_about_torch_layout(init):
    import torch

    model = torch.nn.Linear(2, 2)
    forms = [model, model.parameters(), model.named_parameters(), model.state_dict(), [torch.ones(2)], [model]]
    if "face" in init:
        forms.append([{"params": model.parameters()}])
    for form in forms:
        with pytest.raises(TypeError, match=START) as caught:
            INITS[init](form)
        assert "fo.checkpoint.TorchLayout(params, torch_model.state_dict())" in str(caught.value)
        assert "docs/checkpoints.md" in str(caught.value)
    optimizer = sgd()
    with pytest.raises(TypeError, match=r"^the gradient of the parameter 'b' is not an array but torch's Tensor"):
        optimizer.step({"w": torch.ones(2), "b": torch.ones(1)})


MASKS = {
    "a string": ("bias", TypeError, "re.compile('bias')"),
    "names": (["bias", "w"], TypeError, "lambda path: path in ['bias', 'w']"),
    "numbers": ({"w": 1, "b": 0}, TypeError, "holds 0"),
    "rules": ([("w", True)], TypeError, "holds 'w'"),
    "another tree": ({"w": True}, ValueError, "function of the dotted path"),
    "more leaves": ({"w": True, "b": False, "c": True}, ValueError, "function of the dotted path"),
}


@pytest.mark.parametrize("form", MASKS)
def test_a_decay_mask_in_the_wrong_form_names_the_right_one(form):
    mask, kind, words = MASKS[form]
    start = {TypeError: "decay_mask: a mask is ", ValueError: "the labels do not have the structure of the parameters"}
    with pytest.raises(kind) as caught:
        fo.adamw(decay_mask=mask).init(PARAMS)
    assert str(caught.value).startswith(start[kind])
    assert words in str(caught.value)
    assert "docs/groups-and-masks.md" in str(caught.value)


def test_the_count_of_an_average_is_a_number():
    averaged = optim.swa_utils.AveragedModel(PARAMS)
    averaged.update_parameters(PARAMS)
    for call in (lambda n: n.fill_(0), lambda n: n.zero_(), lambda n: n.item(), lambda n: n.to("cpu")):
        with pytest.raises(AttributeError, match=r"^'int' object has no attribute .*write averaged\.n_averaged = 0"):
            call(averaged.n_averaged)
    assert averaged.n_averaged == 1
    averaged.n_averaged = 0
    averaged.update_parameters({"w": jnp.full(2, 5.0), "b": jnp.zeros(1)})
    assert averaged.params["w"].tolist() == [5.0, 5.0]
    assert type(pickle.loads(pickle.dumps(averaged.n_averaged)) + 1) is int


def test_the_pages_that_messages_name_exist():
    assert [page for page in PAGES if not (ROOT / "docs" / f"{page}.md").exists()] == []


def test_every_page_is_named_and_only_through_one_function():
    named, elsewhere = set(), []
    for path in (ROOT / "functorch_optim").rglob("*.py"):
        text = path.read_text()
        if path.name == "pages.py" or not ("docs/" in text or "pages import" in text):
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= {node.value} & set(PAGES)
                is_docstring = "\n" in node.value
                elsewhere += [path.name] * ("docs/" in node.value and not is_docstring)
    assert (named, elsewhere) == (set(PAGES), [])


@pytest.mark.parametrize("way", ["step", "grads"])
def test_gradients_in_other_containers_fit_by_their_names(way):
    module, ones = nnx.Linear(2, 2, rngs=nnx.Rngs(0)), {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    one, two = optim.AdamW(module), optim.AdamW(nnx.to_pure_dict(nnx.state(module)))
    for grads in (ones, FrozenDict(ones), {"kernel": None, "bias": jnp.ones(2)}):
        for optimizer in (one, two):
            if way == "step":
                optimizer.step(grads)
            else:
                optimizer.grads = grads
                optimizer.step()
    assert [int(one.state[name]["step"]) for name in ("bias", "kernel")] == [3, 2]
    found = nnx.to_pure_dict(one.params)
    assert all(found[name].tolist() == two.params[name].tolist() for name in found)
    with pytest.raises(ValueError, match="gradients do not have the structure of the parameters: missing 'bias'"):
        one.step({"kernel": jnp.ones((2, 2))})


def test_gradients_by_name_fit_groups():
    ones = jnp.ones(2)
    groups = [{"params": {"w": jnp.zeros(2)}}, {"params": {"b": jnp.zeros(2)}, "lr": 0.2}]
    for params, names in ((groups, "wb"), ([("b", jnp.zeros(2)), ("a", jnp.zeros(2))], "ba")):
        optimizer = optim.SGD(params, lr=0.1)
        optimizer.step(dict(zip(names, (ones, 3 * ones), strict=True)))
        rates = [0.1, 0.2] if params is groups else [0.1, 0.1]
        moved = [leaf.tolist() for leaf in jax.tree.leaves(optimizer.params)]
        np.testing.assert_allclose(moved, [[-rates[0]] * 2, [-3 * rates[1]] * 2], rtol=1e-6)


class Trainer:
    """A training class that is ported line by line."""

    def __init__(self, **parts):
        vars(self).update(parts)

    def no_arguments(self):
        return jnp.sum(self.x)

    def batch_alone(self, x):
        return jnp.sum(x)

    def calls_its_module(self, params, x):
        return jnp.sum(self.model(x))

    def counts(self, params, x):
        return jnp.sum(params["w"] * x), {"seen": jnp.ones(300)}

    def reads_torch(self, params):
        return jnp.sum(params["w"] * self.x)


@pytest.mark.parametrize("way", ["backward", "step", "backward, jit=False"])
def test_a_loss_with_other_arguments_is_told_how_it_is_called(way):
    trainer = Trainer(x=jnp.ones(2))
    call = {"backward": sgd().backward, "step": sgd().step}.get(way, lambda *args: sgd().backward(*args, jit=False))
    told = r"positional argument.* the loss is called as loss\(params, \*batch\).*docs/from-torch\.md"
    for loss_fn, batch in ((trainer.batch_alone, [1.0]), (lambda: 0.0, []), (lambda params, x, y: x, [1.0])):
        if way == "step" and not batch:  # torch's own closure, which takes nothing
            continue
        with pytest.raises(TypeError, match=told):
            call(loss_fn, *batch)
    with pytest.raises(TypeError, match=r"^'(int|float)' object|argument") as caught:
        call(lambda params, x: (lambda: x)(1), 1.0)  # another function's arguments
    assert "is called as" not in str(caught.value)


@pytest.mark.parametrize("way", ["backward", "step"])
def test_a_module_that_is_called_from_outside_is_told_to_be_merged(way, standard_promotion):
    trainer = Trainer(model=nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
    with pytest.raises(Exception, match="from a different trace level") as caught:
        getattr(sgd(), way)(trainer.calls_its_module, jnp.ones(2))
    (note,) = [note for note in caught.value.__notes__ if "merge" in note]
    assert "nnx.merge(graph, params, rest, copy=True)" in note and "docs/networks.md" in note


def test_what_a_loss_returns_beside_its_value_is_told_before_it_is_shown():
    with pytest.raises(TypeError) as caught:
        sgd().backward(Trainer().counts, jnp.ones(2))
    message = str(caught.value)
    assert message.startswith("Gradient only defined for scalar-output functions. The loss must return one real number")
    assert len(message) < 800


@pytest.mark.torch
def test_a_tensor_that_a_loss_reads_is_told_to_be_passed():
    torch = pytest.importorskip("torch", reason="reads a tensor of torch")
    trainer = Trainer(x=torch.ones(2))
    with pytest.raises(TypeError, match=r"the loss reads a tensor of torch.*backward\(loss, \*batch\)"):
        sgd().backward(trainer.reads_torch)
