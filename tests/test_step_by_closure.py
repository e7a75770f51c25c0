"""``step(closure, *args)`` is one compiled call that equals ``backward`` and ``step``; clipping, micro-batches, aux."""

import copy
import pickle
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.optim.engine import assembly, packs
from functorch_optim.optim.utils import clip_grad_norm
from tests.algorithms import ALGORITHMS, full

OTHERS = ("SparseAdam", "LBFGS", "BFGS")  # they take row-sparse gradients, or evaluate the loss themselves
FEW = ("SGD", "AdamW", "Adafactor", "Muon")
CLASSES = [*FEW, *full(*(row.title for row in ALGORITHMS.values() if row.title not in OTHERS + FEW))]
TOLERANCE = 4 * float(np.finfo(np.float32).eps)
WAYS = ["given", "accumulated", "without arguments", "closure"]


def tree(count=3):
    rng = np.random.default_rng(0)
    layers = {f"layer{i}": jnp.asarray(rng.standard_normal((3, 2)), jnp.float32) for i in range(count)}
    return {"layers": layers, "top": jnp.asarray(rng.standard_normal((4, 3)), jnp.float32)}


def batch(seed=1, *axes):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((*axes, 5, 4)), jnp.float32)


def loss(params, x):
    hidden = x @ params["top"]
    return sum(jnp.mean(jnp.tanh(hidden @ kernel) ** 2) for kernel in params["layers"].values())


def make(name, params, **options):
    return getattr(optim, name)(params, **options)


def assert_close(one, other, tolerance=TOLERANCE):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        scale = max(1e-30, float(np.max(np.abs(np.asarray(b, np.float64)))))
        assert np.max(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))) <= tolerance * scale


def run_both(one, other, closure=loss, steps=4):
    """Step the first optimizer with the closure, and the second with ``backward`` and ``step``."""
    for seed in range(steps):
        value = one.step(closure, batch(seed))
        other.zero_grad()
        assert_close(value, other.backward(closure, batch(seed)))
        other.step()
        assert one.grads is None
        assert_close(one.params, other.params)
        other.params = one.params  # so that the differences of one step stay small


@pytest.mark.parametrize("name", CLASSES)
def test_a_step_by_closure_equals_backward_and_step(name):
    one, other = (make(name, tree()) for _ in range(2))
    run_both(one, other)
    assert_close(one.state_dict()["state"], other.state_dict()["state"])


@pytest.mark.parametrize(("foreach", "count"), [(True, 6), *full((None, 80))])
def test_it_does_so_with_packs_groups_and_frozen_parameters(foreach, count):
    rules = [("layer1$", {"lr": 0.5}), ("layer2$", {"frozen": True})]
    one, other = (optim.AdamW(tree(count), foreach=foreach, group_rules=rules) for _ in range(2))
    frozen = tree(count)["layers"]["layer2"]
    run_both(one, other)
    assert one.params["layers"]["layer2"].tolist() == frozen.tolist() and "layers.layer2" not in one.state
    for optimizer in (one, other):
        [group] = [group for group in optimizer.param_groups if group.get("frozen")]
        group["frozen"] = False
    run_both(one, other)
    assert one.state["layers.layer2"]["step"] == 4 and one.state["layers.layer1"]["step"] == 8


def test_packed_parameters_are_split_only_when_they_are_read(monkeypatch):
    optimizer = optim.Adam(tree(80))
    for _ in range(3):
        optimizer.step(loss, batch())
    split = []
    monkeypatch.setattr("functorch_optim.optim.engine.packs.cut_all", lambda *args: split.append(args))
    for _ in range(3):
        optimizer.step(loss, batch())
    assert not split


def test_composed_transformations_step_in_one_call_too(compilations):
    build = lambda lr: fo.chain(fo.clip_by_global_norm(0.1), fo.adam(lr=lr))  # noqa: E731 one line
    one, other = (optim.Optimizer.from_transform(build, tree(), {"lr": 0.1}) for _ in range(2))
    run_both(one, other)
    count = len(compilations)
    one.param_groups[0]["lr"] = 0.3
    one.step(loss, batch())
    assert len(compilations) == count


def test_a_step_compiles_once_whatever_the_numbers(compilations):
    optimizer = optim.AdamW(tree(), lr=0.1)
    optimizer.step(loss, batch(), clip_norm=1.0)
    optimizer.step(loss, batch(), clip_norm=1.0)
    count = len(compilations)
    for factor in (0.5, 0.25):
        optimizer.param_groups[0]["lr"] = factor
        optimizer.step(loss, batch(), clip_norm=factor)
    assert len(compilations) == count


def test_parameters_and_state_are_overwritten():
    optimizer = optim.Adam(tree())
    optimizer.step(loss, batch())
    before = [id(leaf) for leaf in optimizer._held.loose], optimizer._held.loose[0].unsafe_buffer_pointer()
    optimizer.step(loss, batch())
    assert before[1] in {leaf.unsafe_buffer_pointer() for leaf in [*optimizer._held.loose, *optimizer._engine.arrays()]}
    kept = optimizer.params
    optimizer.step(loss, batch())
    assert bool(jnp.all(jnp.isfinite(kept["top"])))  # what someone holds stays


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("foreach", [False, True])
def test_clip_norm_clips_as_clip_grad_norm_does(way, foreach):
    one, other = (optim.SGD(tree(), lr=0.5, momentum=0.9, foreach=foreach) for _ in range(2))
    for seed, bound in enumerate((0.1, 100.0)):
        x, params = batch(seed), other.params
        grads, norm = clip_grad_norm(jax.grad(loss)(params, x), bound)
        other.step(grads)
        if way == "closure":
            one.step(loss, x, clip_norm=bound)
        elif way == "given":
            one.step(jax.grad(loss)(params, x), clip_norm=bound)
        else:
            one.zero_grad()
            one.backward(loss, x)
            held = one.grads
            one.step(None if way == "accumulated" else lambda: None, clip_norm=bound)
            assert_close(one.grads, held, 0.0)
        assert_close(one.params, other.params)
        assert_close(one.grad_norm, norm)
        other.params = one.params
    assert norm > 0.1


def test_without_clipping_there_is_no_norm():
    optimizer = optim.SGD(tree(), lr=0.5)
    optimizer.step(loss, batch())
    assert optimizer.grad_norm is None


def test_aux_comes_back():
    optimizer = optim.SGD(tree(), lr=0.5)
    value, aux = optimizer.step(
        lambda params, x: (loss(params, x), {"top": params["top"], "x": x}), batch(), has_aux=True
    )
    assert_close(value, loss(tree(), batch()))
    assert_close(aux, {"top": tree()["top"], "x": batch()})


@pytest.mark.parametrize("form", ["tuple", "array", "dict"])
@pytest.mark.parametrize("name", ["AdamW", "from_transform"])
def test_micro_batches_give_the_update_of_the_mean(form, name):
    def mean(params, xs, y):
        return jnp.mean(jax.vmap(lambda x: loss(params, x))(xs)) * y

    closure = {
        "tuple": lambda params, y, x, z: loss(params, x) * y + 0 * z,
        "array": lambda params, y, x: loss(params, x) * y,
        "dict": lambda params, y, each: loss(params, each["x"]) * y,
    }[form]
    xs = batch(2, 3)
    batches = {"tuple": (xs, jnp.arange(3.0)), "array": xs, "dict": {"x": xs}}[form]
    build = lambda lr: fo.adamw(lr=lr)  # noqa: E731 one line
    one, other = (
        optim.AdamW(tree(), lr=0.1) if name == "AdamW" else optim.Optimizer.from_transform(build, tree(), {"lr": 0.1})
        for _ in range(2)
    )
    for bound in (None, 0.05):
        value = one.step(closure, 2.0, batches=batches, clip_norm=bound)
        assert_close(value, other.step(mean, xs, 2.0, clip_norm=bound), 1e-6)
        assert_close(one.params, other.params, 1e-6)
        other.params = one.params


def test_every_micro_batch_has_its_aux():
    optimizer = optim.SGD(tree(), lr=0.5)
    closure = lambda params, x: (loss(params, x), jnp.sum(x))  # noqa: E731 one line
    value, aux = optimizer.step(closure, batches=batch(2, 3), has_aux=True)
    assert value.shape == () and aux.shape == (3,)
    assert_close(aux, jnp.sum(batch(2, 3), (1, 2)))


def test_narrow_gradients_are_summed_in_float32():
    params = {"w": jnp.ones(1, jnp.bfloat16)}
    optimizer = optim.SGD(params, lr=1.0)
    optimizer.step(
        lambda params, x: jnp.sum(params["w"] * x).astype(jnp.float32), batches=jnp.full((257, 1), 1, jnp.bfloat16)
    )
    assert optimizer.params["w"].item() == 0.0  # in bfloat16 the sum would stay at 256


def test_a_closure_that_calls_back_takes_two_calls():
    seen = []

    def closure(params, x):
        jax.debug.callback(lambda value: seen.append(float(value)), loss(params, x))
        return loss(params, x)

    one, other = (optim.AdamW(tree()) for _ in range(2))
    for seed in range(3):
        one.step(closure, batch(seed))
        other.step(loss, batch(seed))
        assert_close(one.params, other.params)
    jax.effects_barrier()
    assert len(seen) == 3


@pytest.mark.filterwarnings("ignore:closure was compiled, and:UserWarning")
def test_a_closure_that_reads_the_optimizer_while_it_is_traced_harms_nothing():
    held = []
    optimizer = optim.AdamW(tree())

    def closure(params, x):
        held.append((optimizer.params, optimizer.state_dict()))
        return loss(params, x) + 0 * jnp.sum(optimizer.params["top"])

    for _ in range(2):
        optimizer.step(closure, batch())
    assert held and all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(held[0][0]))
    other = optim.AdamW(tree())
    for _ in range(2):
        other.step(loss, batch())
    assert_close(optimizer.params, other.params)


def test_an_error_while_tracing_changes_nothing():
    optimizer = optim.AdamW(tree())
    optimizer.step(loss, batch())
    before = optimizer.state_dict()
    with pytest.raises(TypeError):
        optimizer.step(lambda params, x: "no number", batch())
    with pytest.raises(TypeError, match="scalar"):
        optimizer.step(lambda params, x: x, batch())
    assert_close(optimizer.state_dict()["state"], before["state"], 0.0)
    optimizer.step(loss, batch())


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda one: one.step(loss, batch(), clip_norm=-1.0),
            ValueError,
            "SGD.step: clip_norm must be at least 0, but",
        ),
        (lambda one: one.step(tree(), clip_norm=-1.0), ValueError, "clip_norm must be at least 0, but it is -1.0"),
        (lambda one: one.step(tree(), has_aux=True), TypeError, r"has_aux go with a closure\(params"),
        (lambda one: one.step(tree(), 1.0), TypeError, r"SGD.step: args, batches and has_aux go with a closure"),
        (lambda one: one.step(batches=batch()), TypeError, r"SGD.step: args, batches and has_aux go with a closure"),
        (lambda one: one.step(loss, batches=1.0), ValueError, "batches need arrays whose first axes .* are None"),
        (lambda one: one.step(loss, batches=()), ValueError, "the lengths are those of no array"),
        (lambda one: one.step(loss, batches=batch(0, 0)), ValueError, "at least 1, but the lengths are 0"),
        (lambda one: one.step(loss, batches=(batch(0, 2), batch(0, 3))), ValueError, "but the lengths are 2, 3"),
    ],
)
def test_what_does_not_fit_raises_and_changes_nothing(call, kind, message):
    optimizer = optim.SGD(tree(), lr=0.5)
    with pytest.raises(kind, match=message):
        call(optimizer)
    assert_close(optimizer.params, tree(), 0.0)


def test_what_evaluates_the_loss_itself_takes_no_more():
    sam = optim.Optimizer.from_transform(lambda lr: fo.sam(fo.sgd(lr=lr)), tree(), {"lr": 0.1})
    with pytest.raises(ValueError, match=r"the transformation evaluates the loss itself, .* fo.clip_by_global_norm"):
        sam.step(loss, batch(), clip_norm=1.0)
    sam.step(loss, batch())
    with pytest.raises(TypeError, match=r"LBFGS.step\(\) evaluates the loss itself, and takes no clip_norm"):
        optim.LBFGS(tree()).step(loss, batch(), clip_norm=1.0)


def test_sparse_adam_steps_in_two_calls_and_says_what_it_needs():
    with pytest.raises(RuntimeError, match="SparseAdam"):
        optim.SparseAdam(tree()).step(loss, batch())


def packed_pair():
    """Two equal optimizers whose small parameters are packed, and have stepped once."""
    pair = [optim.AdamW(tree(6), foreach=True, group_rules=[("layer1$", {"lr": 0.5})]) for _ in range(2)]
    for optimizer in pair:
        optimizer.step(loss, batch())
    return pair


def test_gradients_of_packed_parameters_are_split_only_when_they_are_read(monkeypatch):
    one, other = packed_pair()
    for _ in range(2):
        one.backward(loss, batch(3))
        one.step()
        one.zero_grad()
        other.step(loss, batch(3))
    assert_close(one.params, other.params)
    split = []
    cut_all = packs.cut_all
    monkeypatch.setattr(assembly, "cut_all", lambda *args: split.append(args) or cut_all(*args))
    monkeypatch.setattr(packs, "cut_all", lambda *args: split.append(args) or cut_all(*args))
    one.backward(loss, batch(4))
    one.backward(loss, batch(5))
    norm = one.clip_grad_norm(0.5)
    one.step()
    one.zero_grad()
    assert not split
    grads = jax.tree.map(jnp.add, *(jax.grad(loss)(other.params, batch(seed)) for seed in (4, 5)))
    clipped, wanted = clip_grad_norm(grads, 0.5)
    other.step(clipped)
    assert_close(norm, wanted)
    assert_close(one.params, other.params, 1e-6)


def test_packed_gradients_may_be_read_and_written_into():
    one, other = packed_pair()
    grads = jax.grad(loss)(one.params, batch(3))
    one.backward(loss, batch(3))
    assert_close(one.grads, grads, 1e-5)  # rounded at other places inside the loss
    one.grads["layers"]["layer5"] = jnp.ones((3, 2))
    grads["layers"]["layer5"] = jnp.ones((3, 2))
    one.backward(loss, batch(4))
    total = jax.tree.map(jnp.add, grads, jax.grad(loss)(one.params, batch(4)))
    assert_close(one.grads, total, 1e-5)
    one.step()
    other.step(total)
    assert_close(one.params, other.params, 1e-6)
    one.zero_grad(set_to_none=False)
    assert_close(one.grads, jax.tree.map(jnp.zeros_like, grads), 0.0)
    one.zero_grad()
    assert one.grads is None


def test_packed_gradients_survive_what_changes_the_packs():
    one, other = packed_pair()
    for change in (
        lambda optimizer: optimizer.params.update(top=jnp.ones((4, 3))),
        lambda optimizer: optimizer.param_groups[0].update(frozen=True),
        lambda optimizer: optimizer.state,
        lambda optimizer: optimizer.load_state_dict(optimizer.state_dict()),
        lambda optimizer: optimizer.add_param_group({"params": {"more": jnp.ones(2)}}),
    ):
        grads = jax.grad(loss)(one.params, batch(6))
        one.backward(loss, batch(6))
        assert isinstance(one._grads, assembly.PackedGrads)
        for optimizer in (one, other):
            change(optimizer)
        one.step()
        one.zero_grad()
        other.step(grads if isinstance(other.params, dict) else [grads, {"more": None}])
        assert_close(one.params, other.params, 1e-6)
        for optimizer in (one, other):
            optimizer.param_groups[0]["frozen"] = False
            optimizer.step(jax.tree.map(jnp.ones_like, optimizer.params))  # packs what it can


def test_copies_and_pickles_have_the_packed_gradients():
    one, _ = packed_pair()
    one.backward(loss, batch(3))
    for other in (copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert_close(one.grads, other.grads, 0.0)
        other.step()
    one.step()
    assert_close(one.params, other.params, 0.0)


def under(transformation, call):
    """Call inside a transformation of JAX, with a traced number."""
    if transformation == "grad":
        return jax.grad(lambda x: (call(x), x)[1])(1.0)
    return jax.vmap(lambda x: (call(x), x)[1])(jnp.ones(2))


@pytest.mark.parametrize("transformation", ["grad", "vmap"])
@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("where", ["captured", "clip_norm", "given", *full("argument", "batches")])
def test_inside_a_transformation_it_raises_and_nothing_is_lost(transformation, foreach, where):
    optimizer = optim.Adam(tree(6), foreach=foreach)
    optimizer.step(loss, batch())
    before = optimizer.params
    scaled = lambda params, x: loss(params, batch()) * x  # noqa: E731 one line
    call = {
        "argument": lambda x: optimizer.step(scaled, x),
        "batches": lambda x: optimizer.step(scaled, batches=jnp.stack([x, x])),
        "captured": lambda x: optimizer.step(lambda params: scaled(params, x)),
        "clip_norm": lambda x: optimizer.step(loss, batch(), clip_norm=x),
        "given": lambda x: optimizer.step(jax.tree.map(jnp.ones_like, before), clip_norm=x),
    }[where]
    with pytest.raises(RuntimeError, match="the optimizer keeps its parameters outside of a traced function"):
        under(transformation, call)
    assert_close(optimizer.params, before, 0.0)
    optimizer.step(loss, batch())


def test_a_loss_with_an_empty_tuple_in_its_code():
    optimizer = optim.SGD({"w": jnp.ones(2)}, lr=0.1)
    optimizer.step(lambda params: jnp.sum(params["w"] ** 2) + jnp.zeros(()))
    assert_close(optimizer.params["w"], jnp.full(2, 0.8))


class Odd:
    """An object that raises whatever the library reads of it."""

    def __getattr__(self, name):
        raise (
            AttributeError(name)
            if name in ("__wrapped__", "pytest_mock_example_attribute_that_shouldnt_exist")
            else KeyError(name)
        )


ODD = Odd()


def uses(odd):
    return 1.0


def odd_loss(params):
    return jnp.sum(params["w"] ** 2) * uses(ODD)


@pytest.mark.filterwarnings("ignore:odd_loss was compiled, and something that it reads raises KeyError:UserWarning")
def test_what_raises_when_it_is_looked_at_is_no_error(compilations):
    optimizer = optim.SGD({"w": jnp.ones(2)}, lr=0.1)
    optimizer.step(odd_loss)
    count = len(compilations)
    optimizer.step(odd_loss)
    assert len(compilations) == count
    assert_close(optimizer.params["w"], jnp.full(2, 0.64))


@pytest.mark.usefixtures("standard_promotion")
def test_transformations_without_keywords_step_by_closure():
    build = lambda lr: fo.chain(optax.scale_by_adam(), optax.scale(-lr))  # noqa: E731 one line
    one, other = (optim.Optimizer.from_transform(build, tree(), {"lr": 0.1}) for _ in range(2))
    run_both(one, other)


def test_a_plateau_takes_all_keywords():
    build = lambda lr: fo.chain(fo.sgd(lr=lr), fo.reduce_on_plateau())  # noqa: E731 one line
    optimizer = optim.Optimizer.from_transform(build, tree(), {"lr": 0.1})
    value, aux = optimizer.step(lambda params, x: (loss(params, x), x), batches=batch(0, 2), clip_norm=1, has_aux=True)
    assert value.shape == () and aux.shape == (2, 5, 4)


@pytest.mark.parametrize("way", WAYS)
def test_frozen_groups_do_not_count_in_the_norm(way):
    groups = [{"params": {"w": jnp.array([3.0, 4.0])}}, {"params": {"f": jnp.array([30.0, 40.0])}, "frozen": True}]
    square = lambda params: sum(jnp.sum(leaf**2) / 2 for leaf in jax.tree.leaves(params))  # noqa: E731 one line
    optimizer = optim.SGD(groups, lr=1.0)
    if way in ("accumulated", "without arguments"):
        optimizer.grads = jax.grad(square)(optimizer.params)
    given = {"given": jax.grad(square)(optimizer.params), "closure": square, "without arguments": lambda: None}.get(way)
    optimizer.step(given, clip_norm=1)
    assert optimizer.grad_norm == 5.0
    assert_close(optimizer.params[0]["w"], jnp.array([2.4, 3.2]), 1e-6)


def test_a_closure_that_catches_errors_still_reads_the_optimizer():
    optimizer = optim.SGD({"w": jnp.ones(3)}, lr=0.1)

    def closure(params):
        try:
            start = optimizer.params["w"]
        except Exception:
            start = jnp.zeros(3)
        return jnp.sum((params["w"] - start) ** 2)

    assert optimizer.step(closure) == 0.0


def test_norms_that_count_arrays_count_parameters():
    one, _ = packed_pair()
    other = optim.AdamW(tree(6), foreach=False)
    for optimizer in (one, other):
        optimizer.backward(loss, batch(3))
    assert one.clip_grad_norm(1.0, norm_type=0) == other.clip_grad_norm(1.0, norm_type=0)


def test_clipping_names_the_parameter_of_a_sparse_gradient():
    optimizer = optim.SGD({"table": jnp.ones((5, 2))}, lr=0.1)
    optimizer.backward(lambda params, x: jnp.sum(params["table"][x]), jnp.array([1]), sparse="table")
    with pytest.raises(RuntimeError, match="clip_grad_norm does not support sparse gradients: the parameter 'table'"):
        optimizer.step(clip_norm=1.0)


class Pair(NamedTuple):
    x: jax.Array
    y: jax.Array


def test_a_named_tuple_of_micro_batches_is_one_argument():
    optimizer = optim.SGD(tree(), lr=0.1)
    optimizer.step(lambda params, pair: loss(params, pair.x) * pair.y, batches=Pair(batch(0, 2), jnp.ones(2)))


def test_line_searches_accept_keywords_that_ask_for_nothing():
    optim.LBFGS(tree()).step(loss, batch(), clip_norm=None, has_aux=False, batches=None)


@pytest.mark.parametrize("foreach", [False, True])
def test_gradients_are_added_in_place(foreach):
    optimizer = optim.Adam(tree(6), foreach=foreach)
    optimizer.step(loss, batch())
    places = []
    for seed in range(3):
        optimizer.backward(loss, batch(seed))
        places.append([leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(optimizer._grads)])
    assert places[0] == places[1] == places[2]


FIRST = {
    "many": lambda: optim.AdamW({str(index): jnp.ones(3) for index in range(64)}),
    "foreach": lambda: optim.Adam(tree(4), foreach=True, group_rules=[("layer1$", {"lr": 0.5})]),
    "foreach, some large": lambda: optim.SGD(tree(4) | {"large": jnp.ones(9000)}, momentum=0.9, foreach=True),
    "foreach, narrow slots": lambda: optim.Adam(tree(4), foreach=True, state_dtype="bfloat16"),
    "foreach, slots from the start": lambda: optim.Adagrad(tree(4), foreach=True),
    "few": lambda: optim.AdamW(tree(4)),
}


@pytest.mark.parametrize("make", FIRST.values(), ids=FIRST)
def test_backward_compiles_the_loss_once(make, capsys):
    def noisy(params):
        print("traced")
        return sum(jnp.sum((leaf - 2.0) ** 2) for leaf in jax.tree.leaves(params))

    optimizer = make()
    first = jax.tree.map(lambda leaf: 2 * leaf, jax.grad(noisy)(optimizer.params))
    capsys.readouterr()
    optimizer.backward(noisy)
    optimizer.backward(noisy)
    assert bool(optimizer.state) == isinstance(optimizer, optim.Adagrad)
    assert_close(optimizer.grads, first)
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad()
        optimizer.backward(noisy)
    assert capsys.readouterr().out == "traced\n"


def test_options_written_between_the_first_backward_and_the_step_are_those_of_the_step():
    one, other = (optim.Adam(tree(4), foreach=True) for _ in range(2))
    one.backward(loss, batch())
    for optimizer in (one, other):
        optimizer.param_groups[0].update(amsgrad=True, lr=0.5)
    one.step()
    other.step(jax.grad(loss)(other.params, batch()))
    assert_close(one.params, other.params, 1e-5)
    assert sorted(one.state["top"]) == sorted(other.state["top"])


EDITS = [
    ("SGD", {}, {"maximize": True}),
    ("SGD", {}, {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9}, {"nesterov": True}),
    ("Adam", {}, {"amsgrad": True}),
    ("RMSprop", {}, {"centered": True}),
]


@pytest.mark.parametrize(("name", "options", "edit"), EDITS, ids=str)
def test_an_edit_of_a_flag_compiles_the_loss_once_and_edits_of_numbers_never(name, options, edit, capsys):
    def noisy(params):
        print("traced")
        return sum(jnp.sum((leaf - 2.0) ** 2) for leaf in jax.tree.leaves(params))

    optimizer = make(name, tree(), lr=0.01, weight_decay=0.1, **options)
    group, traces = optimizer.param_groups[0], []
    group["weight_decay"] = 0.0  # it was nonzero once: an anneal from 0 compiles nothing
    before = {key: group[key] for key in edit}
    for values in ({}, {"lr": 0.5, "weight_decay": 0.2}, edit, before, edit, before):
        group.update(values)
        optimizer.step(noisy)
        traces.append(capsys.readouterr().out.count("traced"))
    assert traces == [1, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("step", ["step", "backward"])
def test_an_argument_that_is_no_array_is_named(step):
    optimizer = optim.SGD({"a": jnp.ones(2)}, lr=0.1)
    with pytest.raises(TypeError, match="the loss gets 'train' of the class str, which is no array: bind it"):
        getattr(optimizer, step)(lambda params, mode: jnp.sum(params["a"]), "train")
    with pytest.raises(TypeError, match="add got incompatible shapes"):  # the loss's own error
        getattr(optimizer, step)(lambda params, x: jnp.sum(params["a"] + x), jnp.ones(3))
    assert optimizer.params["a"].tolist() == [1.0, 1.0]
