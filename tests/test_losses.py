"""backward, closures and accumulated gradients."""

import dataclasses
import functools
import gc
import sys
import types
import warnings
import weakref

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from functorch_optim import optim


def loss(params, x=1.0):
    return x * jnp.sum(params["w"] ** 2)


def optimizer(**options):
    return optim.SGD({"w": jnp.array([1.0, 2.0])}, lr=0.25, **options)


def test_backward_accumulates_until_zero_grad():
    one = optimizer()
    assert one.grads is None
    assert float(one.backward(loss)) == 5.0
    assert float(one.backward(loss, 2.0)) == 10.0
    assert one.grads["w"].tolist() == [6.0, 12.0]
    kept = one.grads
    one.backward(loss)
    assert one.grads["w"].tolist() == [8.0, 16.0]
    assert kept["w"].tolist() == [6.0, 12.0]
    one.zero_grad(set_to_none=False)
    assert one.grads["w"].tolist() == [0.0, 0.0]
    one.zero_grad()
    assert one.grads is None
    one.step()  # does nothing, as in torch
    assert one.params["w"].tolist() == [1.0, 2.0]


def test_has_aux_and_without_jit():
    one = optimizer()
    with_aux = lambda params, x: (loss(params, x), {"n": x})  # noqa: E731 a helper of one line
    value, aux = one.backward(with_aux, 2.0, has_aux=True)
    assert (float(value), float(aux["n"])) == (10.0, 2.0)
    seen = []
    value, aux = one.backward(lambda params, x: (loss(params), seen.append(params)), "any", has_aux=True, jit=False)
    assert one.grads["w"].tolist() == [6.0, 12.0]
    assert len(seen) == 1


def test_assigned_gradients_and_missing_ones():
    one = optim.SGD({"a": jnp.ones(1), "b": jnp.ones(1)}, lr=1.0)
    one.grads = {"a": jnp.ones(1), "b": None}
    one.backward(lambda params: jnp.sum(params["b"] * 2.0))
    assert [float(g[0]) for g in one.grads.values()] == [1.0, 2.0]
    one.step()
    assert [float(p[0]) for p in one.params.values()] == [0.0, -1.0]
    one.grads = None
    assert one.grads is None


def test_a_closure_with_parameters_is_differentiated():
    one = optimizer()
    assert float(one.step(loss)) == 5.0
    assert one.params["w"].tolist() == [0.5, 1.0]
    assert float(one.step(loss, 2.0)) == 2.5
    assert one.params["w"].tolist() == [0.0, 0.0]
    assert one.grads is None


def test_a_closure_without_parameters_is_torchs():
    """It is called first, so it may also change the options; default arguments make no difference."""
    one = optimizer()

    def closure(x=1.0):
        one.zero_grad()
        one.param_groups[0]["lr"] = 0.5
        return one.backward(loss, x)

    assert float(one.step(closure)) == 5.0
    assert one.params["w"].tolist() == [0.0, 0.0]
    assert one.grads["w"].tolist() == [2.0, 4.0]


def test_an_error_in_a_closure_changes_nothing():
    one = optimizer(momentum=0.9)
    one.step(loss)
    before = jax.tree.map(np.array, (one.params, dict(one.state)))

    def bad(params):
        raise ValueError("from the user")

    with pytest.raises(ValueError, match="from the user"):
        one.step(bad)
    with pytest.raises(TypeError):
        one.step(lambda params: params["w"])  # not a scalar
    with pytest.raises(TypeError):
        one.backward(loss, object())
    jax.tree.map(np.testing.assert_array_equal, (one.params, dict(one.state)), before)
    assert one.grads is None


class Model:
    def __init__(self):
        self.traces = 0

    def loss(self, params, x):
        self.traces += 1
        return loss(params, x)


def test_bound_methods_and_partials_are_compiled_once():
    model, one = Model(), optimizer()
    for _ in range(4):
        one.step(model.loss, 1.0)
        one.backward(model.loss, 1.0)
    assert model.traces == 2  # with the update, and without
    partial = functools.partial(model.loss, x=1.0)
    for _ in range(4):
        one.step(partial)
    assert model.traces == 3


def test_a_loss_goes_with_its_owner():
    one = optimizer()

    def once():
        model = Model()
        one.step(model.loss, 1.0)
        one.step(lambda params: loss(params))

    once()
    gc.collect()
    assert not one._losses._entries


def test_a_loss_without_hash_or_weak_references():
    class Odd:
        __slots__ = ()
        __hash__ = None

        def __call__(self, params):
            return loss(params)

    one, odd = optimizer(), Odd()
    for _ in range(3):
        one.step(odd)
    assert len(one._losses._entries) == 1


def test_the_third_compile_of_a_closure_in_the_loop_warns():
    one = optimizer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for factor in (1.0, 2.0):
            one.step(lambda params, factor=factor: loss(params, factor))

    def torch_style_loop():
        for factor in (1.0, 2.0, 3.0):

            def closure(params):
                return loss(params, factor)  # noqa: B023 what torch users write

            one.step(closure)

    with pytest.warns(UserWarning, match=r"compiled for the third time because it is defined anew: define it once"):
        torch_style_loop()


def test_a_variable_around_the_closure_may_change():
    """torch's idiom: the closure is defined once and reads the loop's batch."""
    one = optim.SGD({"w": jnp.zeros(())}, lr=1.0)
    batch = jnp.float32(0.0)

    def closure(params):
        return params["w"] * batch

    moved = []
    for value in (1.0, 2.0, 2.0):
        batch = jnp.float32(value)
        before = one.params["w"].item()
        if len(moved) == 2:
            with pytest.warns(UserWarning, match="because it reads variables that change"):
                one.step(closure)
        else:
            one.step(closure)
        moved.append(before - one.params["w"].item())
    assert moved == [1.0, 2.0, 2.0]


def test_complex_parameters_descend():
    one = optim.Adam({"z": jnp.array([1.0 + 2.0j, -3.0j])}, lr=0.1)
    size = lambda params: jnp.sum(jnp.abs(params["z"]) ** 2)  # noqa: E731 a helper of one line
    values = [float(one.step(size)) for _ in range(50)]
    assert values[-1] < 0.2 * values[0]
    two = optim.SGD({"z": jnp.array([1.0 + 2.0j])}, lr=0.25)
    two.backward(size)
    np.testing.assert_allclose(two.grads["z"], jax.grad(size)({"z": jnp.array([1.0 + 2.0j])})["z"])
    two.step()
    np.testing.assert_allclose(two.params["z"], [0.5 + 1.0j])


def test_clipping_acts_on_the_gradients():
    one = optimizer()
    one.backward(loss)
    norm = one.clip_grad_norm(1.0)
    assert float(norm) == pytest.approx(20**0.5)
    np.testing.assert_allclose(jnp.linalg.norm(one.grads["w"]), 1.0, rtol=1e-5)
    one.clip_grad_value(0.5)
    assert one.grads["w"].tolist() == pytest.approx([2 / 20**0.5, 0.5])
    one.zero_grad()
    assert float(one.clip_grad_norm(1.0)) == 0.0
    one.clip_grad_value(1.0)
    assert one.grads is None


GRADS = {
    "ordinary": [np.array([[1.0, -2.0], [3.0, 0.5]]), None, np.array(4.0)],
    "one without entries": [np.zeros((0, 2)), np.array([2.0])],
    "small": [np.array([1e-3])],
    "zero": [np.zeros(3)],
    "infinite": [np.array([1.0, np.inf]), np.array([2.0])],
    "empty": [],
}


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, 0.5, float("inf")])
@pytest.mark.parametrize("kind", GRADS)
def test_clip_grad_norm_has_torchs_numbers(kind, norm_type, dtype, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    if kind == "one without entries" and norm_type == float("inf"):
        _, norm = optim.utils.clip_grad_norm([jnp.asarray(g, dtype) for g in GRADS[kind]], 1.5, norm_type)
        assert norm == 2.0  # torch raises
        return
    ours = [None if g is None else jnp.asarray(g, dtype) for g in GRADS[kind]]
    tensors = [torch.nn.Parameter(torch.zeros((1,) if g is None else g.shape)) for g in GRADS[kind]]
    for tensor, grad in zip(tensors, GRADS[kind], strict=True):
        if grad is not None:
            tensor.data = tensor.data.to(getattr(torch, dtype))
            tensor.grad = torch.tensor(grad).to(getattr(torch, dtype))
    expected = torch.nn.utils.clip_grad_norm_(tensors, 1.5, norm_type)
    clipped, norm = optim.utils.clip_grad_norm(ours, 1.5, norm_type)
    rtol = 1e-12 if dtype == "float64" else 1e-6
    np.testing.assert_allclose(norm, expected.numpy(), rtol=rtol)
    for one, tensor in zip(clipped, tensors, strict=True):
        if one is None:
            assert tensor.grad is None
        else:
            assert one.dtype == dtype
            np.testing.assert_allclose(one, tensor.grad.numpy(), rtol=rtol)


def test_clip_grad_norm_may_refuse_a_nonfinite_norm():
    grads = {"w": jnp.array([jnp.nan])}
    with pytest.raises(RuntimeError, match=r"The total norm of order 2.0 for gradients from `parameters` is non-fin"):
        optim.utils.clip_grad_norm(grads, 1.0, error_if_nonfinite=True)
    one = optimizer()
    one.grads = {"w": jnp.array([jnp.inf, 1.0])}
    with pytest.raises(RuntimeError):
        one.clip_grad_norm(1.0, error_if_nonfinite=True)
    assert one.grads["w"].tolist() == [float("inf"), 1.0]
    clipped, norm = jax.jit(optim.utils.clip_grad_norm)({"w": jnp.array([3.0, 4.0])}, 1.0)
    assert float(norm) == 5.0
    assert clipped["w"].tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


@pytest.mark.torch
def test_clip_grad_value_has_torchs_numbers():
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    for grads in ([np.array([1.0, -2.0, np.nan, np.inf])], [np.array(0.1), np.ones((2, 2))]):
        tensors = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads]
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.tensor(grad, dtype=torch.float32)
        torch.nn.utils.clip_grad_value_(tensors, 0.5)
        clipped = optim.utils.clip_grad_value([jnp.asarray(g, jnp.float32) for g in grads], 0.5)
        for one, tensor in zip(clipped, tensors, strict=True):
            np.testing.assert_array_equal(one, tensor.grad.numpy())


def test_arguments_go_to_a_closure_with_defaults():
    one = optimizer()

    def closure(params=None, x=1.0):
        return loss(params, x)

    assert float(one.step(closure, 2.0)) == 10.0


def test_methods_of_objects_without_a_hash_are_compiled_once():
    @dataclasses.dataclass
    class Trainer:
        factor: float = 1.0

        def loss(self, params):
            return loss(params, self.factor)

    one, trainer = optimizer(), Trainer()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(4):
            one.step(trainer.loss)
    assert len(one._losses._entries) == 1
    del trainer
    gc.collect()
    assert not one._losses._entries


class Layer:
    def __init__(self):
        self.on, self.factor = True, np.float32(1.0)

    def __call__(self, x):
        return x * self.factor if self.on else x


class Trainer:
    """Things a loss may read, each in one way; ``seen`` of the loss is the square of the value put there."""

    root: jax.Array

    def __init__(self):
        self.data, self.layers, self.counter = {"x": jnp.zeros(4), "all": [jnp.zeros(4)]}, [Layer(), Layer()], 0
        self.box = dataclasses.make_dataclass("Box", ["x"])(jnp.zeros(4))

    def square(self, params, x):
        return jnp.mean((x - params["w"]) ** 2)

    def array(self, params):
        return self.square(params, self.root)

    def with_aux(self, params):
        return self.array(params), self.counter

    def number(self, params):
        return self.square(params, jnp.full(4, self.root))

    def through_a_property(self, params):
        return self.square(params, self.given)

    @property
    def given(self):
        return self.root

    def through_a_function(self, params):
        return self.square(params, root_of(self))

    def by_name(self, params):
        return self.square(params, vars(self)["root"])

    def nested(self, params):
        box = self.box
        return self.square(params, box.x)

    def in_a_dict(self, params):
        return self.square(params, self.data["x"])

    def in_a_list(self, params):
        return self.square(params, jnp.stack(self.data["all"])[-1])

    def in_an_object(self, params):
        x = jnp.ones(4)
        for layer in self.layers:
            x = layer(x)
        return self.square(params, x)

    def __call__(self, params):
        return self.array(params)


class Derived(Trainer):
    def array(self, params):
        return super().array(params)


def root_of(trainer):
    return trainer.root


def put(name, value):
    return lambda trainer, b: setattr(trainer, name, value(b))


def full(b):
    return jnp.full(4, b)


READS = {
    "an attribute": (lambda t: t.array, put("root", full)),
    "an array of NumPy": (lambda t: t.array, put("root", lambda b: np.full(4, b, np.float32))),
    "an array of NumPy that is converted": (lambda t: t.array, put("root", lambda b: np.full(4, b))),
    "a view": (lambda t: t.array, put("root", lambda b: DATA[int(b)])),
    "a number": (lambda t: t.number, put("root", float)),
    "a property": (lambda t: t.through_a_property, put("root", full)),
    "another function": (lambda t: t.through_a_function, put("root", full)),
    "a name": (lambda t: t.by_name, put("root", full)),
    "an attribute of an attribute": (lambda t: t.nested, lambda t, b: setattr(t.box, "x", full(b))),
    "an item": (lambda t: t.in_a_dict, lambda t, b: t.data.update(x=full(b))),
    "a list that grows": (lambda t: t.in_a_list, lambda t, b: t.data["all"].append(full(b))),
    "an object in a list": (lambda t: t.in_an_object, lambda t, b: setattr(t.layers[1], "factor", np.float32(b))),
    "a base class": (lambda t: Derived.array.__get__(t), put("root", full)),
    "a callable object": (lambda t: t, put("root", full)),
    "a partial": (lambda t: functools.partial(Trainer.array, t), put("root", full)),
    "a variable's attribute": (lambda t: lambda params: t.array(params), put("root", full)),
}
DATA = np.arange(4, dtype=np.float32)[:, None]


@pytest.mark.parametrize(("loss_of", "give"), READS.values(), ids=READS)
def test_what_a_loss_reads_may_change(loss_of, give):
    """It gives 1 4 9, as torch does, however the value is reached; unchanged values compile nothing."""
    trainer, one = Derived(), optim.SGD({"w": jnp.zeros(1)}, lr=0.0)
    loss_fn, values = loss_of(trainer), []
    for b in (1.0, 2.0):
        give(trainer, b)
        values.append(float(one.backward(loss_fn)))
    (entry,) = one._losses._entries.values()
    before = dict(entry)
    trainer.counter, trainer.other = 1, full(9.0)
    values.append(float(one.backward(loss_fn)))
    assert values == [1.0, 4.0, 4.0]
    assert entry == before
    give(trainer, 3.0)
    with pytest.warns(
        UserWarning, match="because it reads variables that change.* pass (what changes as arguments|it as an argument)"
    ) as w:
        assert float(one.backward(loss_fn)) == 9.0
    assert w[0].filename == __file__


MAKE = """
def make():
    cell, holder = full(0.0), Trainer()

    def loss(params):
        return jnp.mean((jnp.asarray({read}, jnp.float32).ravel() - params["w"]) ** 2)

    def give(value):
        nonlocal cell
        global BATCH
        cell = holder.root = BATCH = value

    return loss, give
"""


@pytest.mark.parametrize(
    "read", ["{}.astype(jnp.float16)", "{}[::2]", "{}.T", "{}.at[0].add(0.0)", "{}.reshape(2, 2).T"]
)
@pytest.mark.parametrize("place", ["BATCH", "cell", "holder.root"])
def test_a_value_made_of_what_a_loss_reads_may_change(read, place):
    """The array itself is not captured: what its method returned is."""
    names = dict(globals())
    exec(MAKE.format(read=read.format(place)), names)
    loss_fn, give = names["make"]()
    one, values = optim.SGD({"w": jnp.zeros(1)}, lr=0.0), []
    for b in (1.0, 2.0):
        give(full(b))
        values.append(float(one.backward(loss_fn)))
    assert values == [1.0, 4.0]


@pytest.mark.parametrize("read", ["shape[0]", "ndim", "size", "dtype.itemsize"])
def test_an_array_that_is_read_for_its_shape_may_change_its_values(read, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "BATCH", full(1.0))
    loss_fn = eval(f"lambda params: jnp.mean((BATCH.{read} - params['w']) ** 2)", globals())
    one = optim.SGD({"w": jnp.zeros(1)}, lr=0.0)
    first = float(one.backward(loss_fn))
    (entry,) = one._losses._entries.values()
    before = dict(entry)
    monkeypatch.setattr(sys.modules[__name__], "BATCH", full(2.0))
    assert float(one.backward(loss_fn)) == first and entry == before
    monkeypatch.setattr(sys.modules[__name__], "BATCH", jnp.zeros((2, 9), jnp.bfloat16))
    expected = float(jnp.mean((eval(f"BATCH.{read}", globals()) - jnp.zeros(1)) ** 2))
    assert float(one.backward(loss_fn)) == expected != first


BATCH = jnp.zeros(4)


@pytest.mark.parametrize("how", ["step", "has_aux", "without jit", "LBFGS"])
def test_every_way_to_evaluate_a_loss_sees_attributes(how):
    trainer, cls = Trainer(), optim.LBFGS if how == "LBFGS" else optim.SGD
    one, values = cls({"w": jnp.zeros(1)}, lr=1e-20), []
    calls = {
        "has_aux": lambda: one.backward(trainer.with_aux, has_aux=True)[0],
        "without jit": lambda: one.backward(trainer.array, jit=False),
    }
    for b in (1.0, 2.0):
        trainer.root = full(b)
        values.append(float(calls.get(how, lambda: one.step(trainer.array))()))
    assert values == [1.0, 4.0]


def test_a_key_in_an_attribute_gives_new_numbers():
    class Dropout:
        def loss(self, params):
            return jnp.sum(jax.random.uniform(self.key, 2) * params["w"])

    one, dropout, values = optimizer(), Dropout(), []
    for seed in (0, 1):
        dropout.key = jax.random.key(seed)
        values.append(float(one.backward(dropout.loss)))
    assert values[0] != values[1]


def test_what_cannot_be_watched_is_said_once():
    class Splitting:
        key = jax.random.key(0)

        def loss(self, params):
            self.key, key = jax.random.split(self.key)
            return jnp.sum(jax.random.uniform(key) * params["w"])

    batches = iter([1.0, 2.0])

    def reading(params):
        return jnp.sum(next(batches) * params["w"])

    one, splitting = optimizer(), Splitting()
    for loss_fn, message in (
        (
            splitting.loss,
            r"Splitting.loss was compiled, and 1 of the arrays that it reads stand where no change",
        ),
        (reading, r"reading was compiled, and it takes what an iterator gives.* pass what changes as arguments"),
    ):
        with pytest.warns(UserWarning, match=message) as caught:
            one.backward(loss_fn)
        assert [w.filename for w in caught] == [__file__]
        one.backward(loss_fn)


def test_constants_of_the_code_are_not_complained_of(recwarn):
    table = jnp.arange(2.0)
    inner = jax.jit(lambda w: w * table)

    def loss_fn(params):
        return jnp.sum(inner(params["w"]) * np.array([1.0, 2.0], np.float32) * jnp.array([1.0, 2.0]))

    one = optimizer()
    assert float(one.backward(loss_fn)) == 8.0
    assert not recwarn


def test_objects_that_refer_to_each_other_are_gone_through_once():
    class Node:
        def value(self):
            return self.scale * (1.0 if self.other.last else self.other.value())

    first, second, one = Node(), Node(), optimizer()
    first.other, second.other, first.last, second.last = second, first, False, False
    first.scale, second.scale, first.everything, first.last = 2.0, 3.0, [first, second], True
    second.everything = {"all": first.everything}

    def loss_fn(params):
        return second.value() * jnp.sum(params["w"]) + 0.0 * first.other.other.scale * len(second.everything["all"])

    assert float(one.backward(loss_fn)) == 9.0
    second.scale = 4.0
    assert float(one.backward(loss_fn)) == 12.0
    (entry,) = (entry for kinds in one._losses._entries.values() for entry in kinds.values())
    assert len(entry.watch.checks) < 100


def test_what_was_read_is_not_kept_alive():
    trainer, one = Trainer(), optim.SGD({"w": jnp.zeros(1)}, lr=0.0)
    trainer.method = trainer.square  # a method, a cycle
    trainer.root = full(1.0)
    one.backward(trainer.array)
    (entries,) = one._losses._entries.values()
    first = weakref.ref(next(iter(entries.values())))
    trainer.root = full(2.0)
    one.backward(trainer.array)
    gc.collect()
    assert first() is None
    del trainer, entries
    gc.collect()
    assert not one._losses._entries


def test_modules_that_a_loss_captures_may_change(standard_promotion):
    module = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
    frozen = types.SimpleNamespace(module=module, keep=equinox.nn.Linear(1, 1, use_bias=False, key=jax.random.key(0)))

    def loss_fn(params):
        return jnp.sum(frozen.module(params["w"][:, None]) + jax.vmap(frozen.keep)(params["w"][:, None]))

    one = optim.SGD({"w": jnp.ones(1)}, lr=0.0)
    module.kernel[...], values = jnp.ones((1, 1)), []
    for b in (1.0, 2.0):
        frozen.keep = equinox.tree_at(lambda m: m.weight, frozen.keep, jnp.full((1, 1), b))
        values.append(float(one.backward(loss_fn)))
    assert values == [2.0, 3.0]
    module.kernel[...] = jnp.full((1, 1), 4.0)
    with pytest.warns(UserWarning, match="compiled for the third time"):
        assert float(one.backward(loss_fn)) == 6.0


class Column:
    """What gives an array and is none, as a column of a table does."""

    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, 2.0], np.float32)


def of_batch(params, batch):
    return jnp.sum(params["w"] * batch["x"])


@pytest.mark.parametrize("jit", [True, False])
def test_what_gives_an_array_is_one_in_a_batch(jit):
    one = optimizer()
    assert float(one.backward(of_batch, {"x": Column()}, jit=jit)) == 5.0
    assert one.grads["w"].tolist() == [1.0, 2.0]
    assert float(one.step(of_batch, {"x": Column()})) == 5.0


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "bool"])
def test_a_batch_of_torchs_tensors_is_one_of_arrays(dtype):
    import torch

    def loss_fn(params, x, y):
        return jnp.sum(params["w"] * x) + jnp.sum(jnp.where(y.astype(bool), 0.5, 0.0) * params["w"])

    x, y = torch.tensor([1.0, 3.0], requires_grad=True), torch.tensor([1, 0]).to(getattr(torch, dtype))
    arrays = jnp.array([1.0, 3.0]), jnp.array([1, 0])
    for make in (optimizer, lambda: optim.LBFGS({"w": jnp.array([1.0, 2.0])}, lr=0.1, max_iter=1)):
        one, two = make(), make()
        assert float(one.backward(loss_fn, x, y)) == float(two.backward(loss_fn, *arrays)) == 7.5
        assert one.grads["w"].tolist() == two.grads["w"].tolist() == [1.5, 3.0]
        assert float(one.step(loss_fn, x, y)) == 7.5
        two.step(loss_fn, *arrays)
        assert one.params["w"].tolist() == two.params["w"].tolist()
    one, two = optimizer(), optimizer()
    one.step(loss_fn, batches=(torch.stack([x, x]), torch.stack([y, y])))
    two.step(loss_fn, *arrays)
    assert one.params["w"].tolist() == two.params["w"].tolist()


class Reads:
    """Losses that read what changes, each in one way."""

    def __init__(self, step):
        self.batch, self.scale, self.data = (jnp.full(2, step), jnp.full(2, step)), step, {"x": jnp.full(2, step)}

    def tuples(self, params):
        x, y = self.batch
        return jnp.sum(params["w"] * x - y)

    def number(self, params):
        return self.scale * jnp.sum(params["w"])

    def entry(self, params):
        return jnp.sum(params["w"] * self.data["x"])

    def within(self, params):
        return self.number(params)

    @property
    def batch_of_a_property(self):
        return self.data["x"]

    def indirect(self, params):
        return jnp.sum(params["w"] * self.batch_of_a_property)


batch_of_globals = None


def reads_a_global(params):
    return jnp.sum(params["w"] * batch_of_globals)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tuples", "here self.batch: pass it as an argument, backward(self.tuples, *self.batch) or step(self.tuples, "),
        ("number", "here self.scale: pass it as an argument, backward(self.number, self.scale) or step(self.number, "),
        ("entry", "here self.data: pass it as an argument, backward(self.entry, self.data)"),
        ("within", "here self.scale: "),
        ("indirect", "here self.data: "),
    ],
)
def test_the_attribute_that_changes_is_named(name, words):
    one, reads = optimizer(), Reads(0.0)
    for step in (1.0, 2.0):
        one.backward(getattr(reads, name))
        reads.__init__(step)
    with pytest.warns(UserWarning, match="compiled for the third time because it reads variables that change") as got:
        one.backward(getattr(reads, name))
    assert words in str(got[0].message)


def test_the_variable_that_changes_is_named(monkeypatch):
    one = optimizer()
    for step in (1.0, 2.0, 3.0):
        monkeypatch.setitem(globals(), "batch_of_globals", jnp.full(2, step))
        if step < 3.0:
            one.backward(reads_a_global)
    with pytest.warns(UserWarning, match=r"batch_of_globals: .*backward\(reads_a_global, batch_of_globals\)"):
        one.backward(reads_a_global)
    x = jnp.zeros(2)

    def closure(params):
        return jnp.sum(params["w"] * x)

    for step in (1.0, 2.0):
        one.step(closure)
        x = jnp.full(2, step)
    with pytest.warns(
        UserWarning, match=r"here x: pass it as an argument, backward\(closure, x\) or step\(closure, x\)"
    ):
        one.step(closure)


class Slots:
    """What cannot be passed as an argument, and what a loss reads through another function."""

    def __init__(self, step):
        self.flag, self.scale, self.mode = bool(step % 2), float(step), "ab"[int(step) % 2]

    def flagged(self, params):
        return jnp.sum(params["w"]) if self.flag else -jnp.sum(params["w"])

    def moded(self, params):
        return jnp.sum(params["w"]) * {"a": 1.0, "b": 2.0}[self.mode]

    def with_a_batch(self, params, x):
        return jnp.sum(params["w"] * x) * self.scale


def through_another(params):
    return reads_a_global(params)


@pytest.mark.parametrize(
    ("loss_of", "words"),
    [
        (lambda slots: slots.flagged, "here slots.flag: pass what changes as arguments"),
        (lambda slots: slots.moded, "here slots.mode: pass what changes as arguments"),
        (lambda slots: slots.with_a_batch, "backward(self.with_a_batch, ..., self.scale)"),
        (lambda slots: through_another, "here batch_of_globals: pass what changes as arguments"),
    ],
    ids=["a flag", "a string", "with a batch", "through another function"],
)
def test_only_what_may_be_passed_is_advised(monkeypatch, loss_of, words):
    one, slots = optimizer(), Slots(0.0)
    loss_fn = loss_of(slots)
    batch = [jnp.ones(2)] if "with_a_batch" in words else []
    for step in (1.0, 2.0, 3.0):
        monkeypatch.setitem(globals(), "batch_of_globals", jnp.full(2, step))
        if step == 3.0:
            break
        one.backward(loss_fn, *batch)
        slots.__init__(step)
    with pytest.warns(UserWarning, match="compiled for the third time because it reads variables that change") as got:
        one.backward(loss_fn, *batch)
    assert words.replace("slots.", "self.") in str(got[0].message)


def test_the_mode_of_a_module_is_no_argument(standard_promotion):
    module = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def loss_fn(params):
        return jnp.sum(params["w"]) * (1.0 if module.deterministic else 2.0)

    one = optimizer()
    for _ in range(2):
        one.backward(loss_fn)
        module.deterministic = not module.deterministic
    with pytest.warns(UserWarning, match=r"reads the mode of a module that changes, here module\.deterministic: split"):
        one.backward(loss_fn)


class WithDropout(nnx.Module):
    def __init__(self):
        self.w, self.dropout = nnx.Param(jnp.ones(64)), nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return jnp.sum(self.dropout(self.w * x))


@pytest.mark.parametrize("way", ["split inside", "split outside"])
def test_random_keys_that_a_loss_does_not_get_warn(way, standard_promotion):
    module = WithDropout()
    graph, _, rest = nnx.split(module, nnx.Param, ...)

    def frozen_mask(params, x):
        own = nnx.split(module, nnx.Param, ...)[2] if way == "split inside" else rest
        return nnx.merge(graph, params, own, copy=True)(x)

    def right(params, rest, x):
        merged = nnx.merge(graph, params, rest, copy=True)
        return merged(x), nnx.state(merged, nnx.Not(nnx.Param))

    one = optim.SGD(module, lr=0.0)
    with pytest.warns(UserWarning, match=r"frozen_mask: the loss reads random keys.*has_aux=True") as got:
        values = {float(one.step(frozen_mask, 1.0)) for _ in range(3)}
    assert len(values) == len(got) == 1
    values = set()
    for _ in range(3):
        value, rest = one.step(right, rest, 1.0, has_aux=True)
        values.add(float(value))
    assert len(values) == 3
    module.eval()
    graph, _, rest = nnx.split(module, nnx.Param, ...)
    one = optim.SGD(module, lr=0.0)
    assert float(one.step(frozen_mask, 1.0)) == 64.0  # without a warning: nothing is drawn
