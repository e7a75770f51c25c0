"""The torch face against torch: steps, histories of single parameters, rewritten options, compilations."""

import copy
import gc
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.optim.engine.prepared import compiled_update
from tests import cases, comparison
from tests.algorithms import ALGORITHMS, CASES, few_of, full, label, names

each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
each_case = pytest.mark.parametrize("case", CASES, ids=label)
NAMES = ["SGD", "Adam", "AdamW"]


@each_algorithm
def test_float64_steps_with_missing_gradients(name, x64):
    """Every parameter's value, slots and step count are torch's, whatever its history."""
    assert not comparison.above(comparison.face_trajectory_errors(few_of(name), "gaps"), comparison.FACE_TOLERANCE)


@each_algorithm
def test_float32_synchronised_steps(name):
    """Each step starts from torch's state_dict, and is measured in ulp of max(|p|, |update|)."""
    assert not comparison.above(comparison.face_synchronised_ulps(few_of(name)), *comparison.FACE_ULPS)


@pytest.mark.parametrize("name", names(takes_complex=True))
def test_complex_steps_take_what_jax_grad_returns(name, x64):
    """torch's gradient of a real loss is the conjugate of JAX's; the recorded ones are torch's."""
    many = few_of(name)
    expected = [comparison.reference(case, "complex128")["param"] for case in many]
    face = comparison.Face(many, "complex128")
    for step in range(len(expected[0]) - 1):
        face.set_options(cases.changing_options, step)
        face.step(jax.tree.map(jnp.conj, comparison.gradients(name, step, "complex128")))
        for case, params, rows in zip(many, face.params(), expected, strict=True):
            assert comparison.worst(name, params, rows[step + 1]) <= 1e-12, (step, label(case))


LONG = [
    [("sgd", {"lr": 0.05, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": False})],
    *([next(c for c in CASES if c[0] == name and c[1]["weight_decay"])] for name in ("sgd", "adam", "adamw")),
]


@pytest.mark.parametrize("case", LONG, ids=lambda case: label(case[0]))
def test_rewritten_options_compile_nothing(case, x64, compilations):
    """200 steps, every number rewritten before each, nothing compiled after the third; torch's trajectory."""

    def at_step(step):
        if step == 3:
            compilations.clear()

    assert not comparison.above(comparison.face_trajectory_errors(case, "long", at_step), 1e-12)
    assert not compilations


def test_the_first_weight_decay_compiles_once_and_momentum_a_buffer(compilations):
    optimizer = optim.SGD([jnp.ones(3)], lr=0.1)
    grads = [jnp.ones(3)]
    optimizer.step(grads)
    for changes in ({"weight_decay": 0.1}, {"momentum": 0.9}):
        optimizer.param_groups[0].update(changes)
        compilations.clear()
        optimizer.step(grads)
        assert len(compilations) >= 1
        compilations.clear()
        for value in (0.0, 0.2):
            optimizer.param_groups[0]["weight_decay"] = value
            optimizer.step(grads)
        assert not compilations


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Adafactor", "SGD"])
def test_the_first_weight_decay_copies_no_slot(name, compilations):
    optimizer = getattr(optim, name)({"w": jnp.ones((40, 50))}, lr=0.1, weight_decay=0.0)
    optimizer.param_groups[0].update({"momentum": 0.9} if name == "SGD" else {})
    grads = {"w": jnp.ones((40, 50))}

    def pointers():  # hold nothing: arrays that are held get copied, and rightly
        held = [optimizer.params["w"], *optimizer.state["w"].values()]
        return {array.unsafe_buffer_pointer() for array in held if isinstance(array, jax.Array)}

    for _ in range(3):
        optimizer.step(grads)
    before = pointers()
    optimizer.param_groups[0]["weight_decay"] = 0.1
    compilations.clear()
    optimizer.step(grads)
    assert pointers() == before
    assert len(compilations) == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", NAMES)
def test_low_precision_parameters_keep_their_dtype(name, dtype):
    """The step is computed in float32 and rounded once, like the functional transformation's with the same numbers."""
    options = {"lr": 0.1, "weight_decay": 0.1, **({"momentum": 0.9} if name == "SGD" else {})}
    params = {"w": jnp.linspace(-1, 1, 7, dtype=dtype)}
    optimizer = getattr(optim, name)(params, **options)
    tx = getattr(fo, name.lower())(**options)
    state = tx.init(params)
    for step in range(3):
        grads = {"w": jnp.full(7, 0.3 * step - 0.5, dtype)}
        optimizer.step(grads)
        updates, state = tx.update(grads, state, params)
        params = fo.apply_updates(params, updates)
    assert optimizer.params["w"].dtype == dtype
    np.testing.assert_allclose(optimizer.params["w"].astype(jnp.float32), params["w"].astype(jnp.float32), rtol=1e-2)
    kept = jnp.float32 if dtype == jnp.float16 else dtype
    assert all(value.dtype == kept for key, value in optimizer.state["w"].items() if key != "step")


def test_a_slot_switched_off_and_on_again_is_kept():
    """torch keeps the buffer while the momentum is zero; a late AMSGrad maximum starts at that step, unlike in torch,
    which fails."""
    optimizer = optim.SGD([jnp.zeros(1)], lr=1.0, momentum=0.5)
    group = optimizer.param_groups[0]
    optimizer.step([jnp.ones(1)])
    group["momentum"] = 0
    optimizer.step([jnp.ones(1)])
    assert optimizer.params[0].item() == -2.0
    assert optimizer.state[0]["momentum_buffer"].item() == 1.0
    group["momentum"] = 0.5
    optimizer.step([jnp.ones(1)])
    assert optimizer.params[0].item() == -3.5

    late = optim.SGD([jnp.zeros(1)], lr=1.0, momentum=0, dampening=0.5)
    late.step([jnp.ones(1)])
    assert late.state_dict()["state"] == {}
    late.param_groups[0]["momentum"] = 0.5
    late.step([jnp.ones(1)])  # a fresh buffer: undamped, as torch starts it
    assert late.state[0]["momentum_buffer"].item() == 1.0
    late.step([jnp.ones(1)])
    assert late.state[0]["momentum_buffer"].item() == 1.0

    adam = optim.Adam([jnp.ones(1)], lr=0.1)
    adam.step([jnp.ones(1)])
    adam.param_groups[0]["amsgrad"] = True
    adam.step([jnp.ones(1)])
    assert list(adam.state[0]) == ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert adam.state[0]["max_exp_avg_sq"].item() == adam.state[0]["exp_avg_sq"].item()
    assert adam.state[0]["step"] == 2


def test_values_that_torch_takes_later_are_taken():
    """Later edits are not checked against the constructor's ranges: recursive schedulers end slightly below zero."""
    optimizer = optim.SGD([jnp.zeros(2)], lr=0.1)
    optimizer.param_groups[0]["lr"] = -1e-18
    optimizer.step([jnp.ones(2)])
    assert optimizer.params[0].tolist() == pytest.approx([1e-18, 1e-18])
    for value in (np.float32(0.5), jnp.float32(0.5), np.array([0.5]), 1):
        optimizer.param_groups[0]["lr"] = value
        before = optimizer.params[0]
        optimizer.step([jnp.ones(2)])
        assert (before - optimizer.params[0]).tolist() == [float(np.ravel(value)[0])] * 2


@pytest.mark.parametrize("name", NAMES)
def test_what_somebody_holds_is_left_alone(name):
    """Arrays from params, state or state_dict, and the given ones, read the same after ten more steps."""
    given = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2))}
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(optim, name)(given, lr=0.1, **options)
    step = lambda: optimizer.step(jax.tree.map(jnp.ones_like, given))  # noqa: E731 a helper of one line
    step()
    held = [given, optimizer.params, dict(optimizer.state), optimizer.state_dict(), optimizer.functional()[1:]]
    one_leaf = optimizer.param_groups[0]["params"][0]
    copies = jax.tree.map(lambda x: np.array(x), [held, one_leaf])
    for _ in range(10):
        step()
    jax.tree.map(np.testing.assert_array_equal, [held, one_leaf], copies)
    assert not np.array_equal(optimizer.params["a"], copies[1])


@pytest.mark.parametrize("name", ["Adam", *full("SGD", "AdamW")])
def test_the_usual_loop_copies_nothing(name):
    """Every buffer of the parameters and of the state is reused, in the eager loop and with backward."""
    options = {"momentum": 0.9} if name == "SGD" else {"amsgrad": True}
    optimizer = getattr(optim, name)([jnp.ones((64, 64)), jnp.ones(128)], lr=0.1, **options)
    loss = lambda params, x: x * sum(jnp.sum(leaf**2) for leaf in params)  # noqa: E731 a helper of one line
    gradient = jax.jit(jax.grad(loss))

    def buffers():
        trees = (optimizer.params, [{k: v for k, v in e.items() if k != "step"} for e in optimizer.state.values()])
        return {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(trees)}

    optimizer.step(gradient(optimizer.params, 0.5))
    at_first = buffers()
    for _ in range(5):
        grads = gradient(optimizer.params, 0.5)
        optimizer.step(grads)
        optimizer.zero_grad()
        optimizer.backward(loss, 0.5)
        optimizer.step()
        optimizer.step(loss, 0.5)
        assert buffers() == at_first
    del grads
    gc.collect()
    optimizer.zero_grad()
    before = sum(array.nbytes for array in jax.live_arrays())
    for _ in range(5):
        optimizer.step(loss, 0.5)
    gc.collect()
    assert sum(array.nbytes for array in jax.live_arrays()) <= before


@pytest.mark.parametrize("name", NAMES)
def test_the_compiled_step_aliases_parameters_and_state(name):
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(optim, name)([jnp.ones((64, 64))] + [jnp.ones(256) for _ in range(3)], lr=0.1, **options)
    optimizer.step(optimizer.params)
    engine = optimizer._engine
    prepared = engine.warm
    rows = [history.row for history in prepared.histories]
    plan, numbers, _ = prepared.at(optimizer._records())
    compiled = compiled_update(plan, True).lower(optimizer.params, rows, optimizer.params, numbers).compile()
    memory = compiled.memory_analysis()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((optimizer.params, rows)))
    assert memory.alias_size_in_bytes == size
    assert memory.temp_size_in_bytes <= 0.01 * size


def test_weakly_typed_and_numpy_parameters(compilations):
    optimizer = optim.Adam([jnp.asarray(1.0), np.float32(2.0), np.ones(3, np.float32)], lr=0.1)
    grads = [jnp.float32(1.0), np.float32(1.0), np.ones(3, np.float32)]
    optimizer.step(grads)
    compilations.clear()
    for _ in range(3):
        optimizer.step(grads)
    assert not compilations
    assert all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in optimizer.params)


def test_sharded_parameters_stay_where_they_are():
    mesh = jax.make_mesh((2,), ("x",))
    split = jax.NamedSharding(mesh, jax.P("x"))
    optimizer = optim.Adam({"w": jax.device_put(jnp.ones((4, 2)), split)}, lr=0.1)
    for _ in range(3):
        optimizer.step({"w": jax.device_put(jnp.ones((4, 2)), split)})
    assert optimizer.params["w"].sharding.is_equivalent_to(split, 2)
    assert optimizer.state["w"]["exp_avg"].sharding.is_equivalent_to(split, 2)


@pytest.mark.parametrize("name", NAMES)
def test_pickle_and_deepcopy_continue_the_same(name):
    options = {"momentum": 0.9} if name == "SGD" else {}
    optimizer = getattr(optim, name)({"a": jnp.ones(2), "b": jnp.ones(3)}, lr=0.1, **options)
    grads = {"a": jnp.ones(2), "b": None}
    optimizer.step(grads)
    optimizer.param_groups[0]["note"] = "kept"
    for twin in (pickle.loads(pickle.dumps(optimizer)), copy.deepcopy(optimizer)):
        assert repr(twin) == repr(optimizer)
        reference = copy.deepcopy(optimizer)
        for _ in range(3):
            twin.step({"a": jnp.ones(2), "b": jnp.ones(3)})
            reference.step({"a": jnp.ones(2), "b": jnp.ones(3)})
        jax.tree.map(np.testing.assert_array_equal, twin.params, reference.params)
        jax.tree.map(np.testing.assert_array_equal, dict(twin.state), dict(reference.state))
        assert len(twin.param_groups[0]["params"]) == 2
    assert optimizer.params["b"].tolist() == [1.0, 1.0, 1.0]


def test_a_schedule_in_a_group_is_evaluated_at_the_count_of_updates():
    schedule = fo.schedules.cosine_annealing(1.0, T_max=4)
    optimizer = optim.SGD([jnp.zeros(1)], lr=schedule)
    moved = []
    for _ in range(4):
        before = optimizer.params[0].item()
        optimizer.step([jnp.ones(1)])
        moved.append(before - optimizer.params[0].item())
    assert moved == pytest.approx([schedule(step) for step in range(4)], abs=1e-6)
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["lr"] == schedule(4)
    assert saved["param_groups"][0]["schedule_step"] == 4
    fresh = optim.SGD([optimizer.params[0]], lr=schedule)
    fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["lr"] is schedule
    for _ in range(2):
        fresh.step([jnp.ones(1)])
        optimizer.step([jnp.ones(1)])
        np.testing.assert_array_equal(fresh.params[0], optimizer.params[0])
    with pytest.raises(ValueError, match=r"the lr of parameter group 0 is a schedule"):
        optim.lr_scheduler.StepLR(fresh, 2)


def test_repr_is_torchs():
    optimizer = optim.SGD([jnp.ones(1)], lr=1.0)
    optim.lr_scheduler.StepLR(optimizer, 2)
    lines = ["SGD (", "Parameter Group 0"]
    lines += ["    dampening: 0", "    differentiable: False", "    foreach: None", "    fused: None"]
    lines += ["    initial_lr: 1.0", "    lr: 1.0", "    maximize: False", "    momentum: 0", "    nesterov: False"]
    assert repr(optimizer) == "\n".join([*lines, "    weight_decay: 0", ")"])


def test_no_warnings_in_a_usual_run():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = optim.Adam({"w": jnp.ones(3)}, lr=0.1)
        optimizer.step({"w": jnp.ones(3)})
        optimizer.step({"w": None})
        optimizer.load_state_dict(optimizer.state_dict())


@pytest.mark.torch
@each_case
@pytest.mark.parametrize("kind", ["gaps", "long"])
def test_recorded_trajectories_are_torchs(case, kind):
    pytest.importorskip("torch", reason="the live comparison needs torch; the recorded trajectories do not")
    from tests import torch_run

    recorded = comparison.reference(case, kind)
    live = torch_run.run_with_gaps(case, cases.GAPS_AT if kind == "gaps" else cases.LONG_AT, kind == "gaps")
    assert set(live) == set(recorded)
    for slot, rows in live.items():
        np.testing.assert_allclose(rows, recorded[slot], rtol=1e-11, atol=1e-12 * np.nanmax(np.abs(rows)))
