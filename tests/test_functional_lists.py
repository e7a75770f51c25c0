"""``optim.functional``, the functions of ``torch.optim.functional``, against torch's recorded classes and functions."""

import functools
import inspect
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.sparse import BCOO
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.algorithms.adam import Adam
from functorch_optim.optim import functional
from functorch_optim.optim.list_functions import FIELDS
from tests import cases, comparison, sparse_cases, sparse_comparison
from tests.algorithms import ALGORITHMS, cases_of, few_of, label
from tests.equality import relative
from tests.functional_lists import (
    NAMES,
    arguments,
    compiled,
    first_lists,
    lists_of,
    options_of,
    stepped,
    theirs,
)
from tests.tools.stubs import FUNCTIONS, bare, functions

IN_TORCH = [name for name, row in ALGORITHMS.items() if row.is_in_torch]
CASES = [case for name in IN_TORCH for case in cases_of(name)]
FEW = [case for name in IN_TORCH for case in few_of(name)]
each_name = pytest.mark.parametrize("name", NAMES)
CHANGING = ("lr", "beta1", "beta2", "weight_decay", "momentum")
ADAM = {"amsgrad": False, "beta1": 0.9, "beta2": 0.999, "lr": 0.1, "weight_decay": 0.0, "eps": 1e-8, "maximize": False}


def errors(name, params, state, expected):
    """Return the largest relative difference of parameters, slots and carried scalars from torch's class."""
    keys = list(cases.shapes(name))
    found = [comparison.relative(name, dict(zip(keys, params, strict=True)), expected["param"])]
    for each, values in state.items():
        field = FIELDS.get(each, "step")
        if field not in expected:
            assert values == [] or each == "state_steps"
        elif field in ALGORITHMS[name].carried:
            found += [relative(np.float64(value), np.float64(expected[field])) for value in values]
        else:
            tree = {key: value for key, value in zip(keys, values, strict=True) if value is not None}
            found.append(comparison.relative(name, tree, expected[field], field))
    return comparison.largest(found)


def trajectory(case, dtype, steps=8, traced=False):
    """Return the worst difference of a free-running trajectory from torch's class."""
    name, options = case
    expected = comparison.reference(case, dtype)
    params = [jnp.asarray(array) for array in cases.parameters(name, np.dtype(dtype)).values()]
    state, found, step_of = first_lists(name, options, params), [], None
    for step in range(min(steps, len(expected["param"]) - 1)):
        grads = [jnp.asarray(grad) for grad in cases.gradients(name, step, np.dtype(dtype)).values()]
        whole = options_of(name, {**options, **cases.changing_options(name, step, options)})
        if traced:
            data = {key: whole.pop(key) for key in CHANGING if whole.get(key)}
            step_of = step_of or compiled(name, whole)
            numbers = {key: jnp.asarray(value, dtype) for key, value in data.items()}
            if step == 0 and None in state.get("momentum_buffer_list", []):
                params, state = stepped(name, params, grads, state, **whole, **data)  # the buffer begins
            else:
                params, state = step_of(params, grads, state, numbers)
        else:
            params, state = stepped(name, params, grads, state, **whole)
        found.append(errors(name, params, state, {key: rows[step + 1] for key, rows in expected.items()}))
        assert all(count == step + 1 for count in state.get("state_steps", []))
    return comparison.largest(found)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_numbers_are_torchs(case, x64):
    assert trajectory(case, "float64") <= 1e-12


@pytest.mark.full
@pytest.mark.parametrize("case", [case for case in FEW if ALGORITHMS[case[0]].takes_complex], ids=label)
def test_complex_numbers_are_torchs(case, x64):
    assert trajectory(case, "complex128") <= 1e-12


@pytest.mark.parametrize("case", [few_of(name)[-1] for name in IN_TORCH], ids=label)
def test_compiled_with_counts_and_numbers_as_data(case, x64):
    assert trajectory(case, "float64", traced=True) <= ALGORITHMS[case[0]].tolerance


@pytest.mark.parametrize("case", [case for case in sparse_cases.CASES if not case[1]["maximize"]], ids=label)
def test_row_sparse_numbers_are_torchs(case, x64):
    name, options = case
    expected = sparse_comparison.recorded(case, "float64")
    params = [jnp.asarray(array) for array in sparse_cases.parameters(np.float64).values()]
    state = first_lists(name, options, params)
    for step in range(8):
        whole = options_of(name, {**options, **sparse_cases.changing_options(name, step, options)})
        grads = list(sparse_comparison.gradient_tree(step, "float64").values())
        params, state = stepped(name, params, grads, state, **whole)
        for field, rows in expected.items():
            held = params if field == "param" else state[next(each for each in state if FIELDS.get(each) == field)]
            assert relative(np.concatenate([np.asarray(array).reshape(-1) for array in held]), rows[step + 1]) <= 1e-12


def tensors(torch, value):
    """Return arrays as torch's tensors, in lists and dicts of lists too."""
    return jax.tree.map(lambda x: torch.tensor(np.asarray(x)) if hasattr(x, "dtype") else x, value)


def draw(name, seed, dtype):
    rng = np.random.default_rng(seed)
    shapes = [(3, 4), (5, 2)] if name == "muon" else [(3, 4), (5,), ()]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    if np.issubdtype(dtype, np.complexfloating):
        arrays = [array + 1j * rng.standard_normal(array.shape) for array in arrays]
    return [jnp.asarray(array, dtype) for array in arrays]


def compare(torch, name, options, dtype, steps=4, change=lambda step: {}, **more):
    """Step our function and torch's side by side, with the same lists and arguments."""
    params = draw(name, 0, dtype)
    ours = params, first_lists(name, options, params)
    held = {"params": tensors(torch, params), **tensors(torch, ours[1])}
    whole = {**options_of(name, options), **more}
    for step in range(steps):
        grads = draw(name, 1 + step, dtype)
        changed = change(step)
        ours = stepped(name, ours[0], grads, ours[1], **whole, **changed)
        own = {key: tensors(torch, value) for key, value in changed.items()}
        theirs(name)(**held, **{arguments(name)[1]: tensors(torch, grads)}, **whole, **own)
        for each, right in held.items():
            left = ours[0] if each == "params" else ours[1][each]
            assert len(left) == len(right)
            for one, other in zip(left, right, strict=True):
                assert (one is None) == (other is None)
                if other is not None:
                    np.testing.assert_allclose(
                        np.asarray(one, np.complex128), other.numpy(), rtol=1e-10, atol=1e-14, err_msg=each
                    )


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("case", CASES, ids=label)
def test_side_by_side_with_torchs_function(case, dtype, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    name, options = case
    if dtype == "float64" or ALGORITHMS[name].takes_complex:
        compare(torch, name, options, dtype)


@pytest.mark.torch
def test_side_by_side_with_torchs_sparse_adam(x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    for maximize in (False, True):
        options = options_of("sparse_adam", {"lr": 0.1, "maximize": maximize})
        params = [jnp.asarray(array) for array in sparse_cases.parameters(np.float64).values()]
        ours = params, first_lists("sparse_adam", {}, params)
        held = {"params": tensors(torch, params), **tensors(torch, ours[1])}
        for step in range(8):
            grads = sparse_comparison.gradient_tree(step, "float64")
            own = []
            for key, (rows, values) in sparse_cases.gradients(step, np.float64).items():
                places = torch.tensor(rows[None].astype(np.int64))
                shape = sparse_cases.SHAPES[key]
                own.append(torch.sparse_coo_tensor(places, torch.tensor(values), shape, check_invariants=True))
            theirs("sparse_adam")(**{**held, "state_steps": ours[1]["state_steps"]}, grads=own, **options)
            ours = stepped("sparse_adam", ours[0], list(grads.values()), ours[1], **options)
            for each, right in {key: value for key, value in held.items() if key != "state_steps"}.items():
                for one, other in zip(ours[0] if each == "params" else ours[1][each], right, strict=True):
                    np.testing.assert_allclose(one, other.numpy(), rtol=1e-10, atol=1e-14)


FUSED = {"adam": {"amsgrad": True}, "adamw": {}, "adagrad": {}, "sgd": {"momentum": 0.9}}


@pytest.mark.torch
@pytest.mark.parametrize("name", FUSED)
def test_scaled_and_infinite_gradients_as_in_torchs_fused_functions(name, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    options = {"lr": 0.1, "weight_decay": 0.1, **FUSED[name]}

    def change(step):
        return {"grad_scale": np.float32(8.0), "found_inf": np.float32(step == 2)}

    compare(torch, name, options, "float64", change=change, fused=True)


@pytest.mark.parametrize("name", [*FUSED, "adafactor"])
@pytest.mark.parametrize("traced", [False, True])
def test_scaled_and_infinite_gradients(name, traced, x64):
    options = options_of(name, {"lr": 0.1, "weight_decay": 0.1, **FUSED.get(name, {})})
    params = draw(name, 0, "float64")
    state = first_lists(name, {**FUSED.get(name, {}), "lr": 0.1}, params)
    grads = draw(name, 1, "float64")
    plain = stepped(name, params, grads, state, **options)
    step = functools.partial(stepped, name, **options)
    step = jax.jit(step) if traced else step
    scaled = step(params, [8.0 * g for g in grads], state, grad_scale=jnp.float32(8.0), found_inf=jnp.zeros(1))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-12), scaled, plain)
    infinite = [jnp.full_like(grad, jnp.nan) for grad in grads]
    again = step(plain[0], infinite, plain[1], found_inf=jnp.float32(1.0))
    jax.tree.map(np.testing.assert_array_equal, again, plain)


@each_name
@pytest.mark.torch
def test_signatures_are_torchs(name):
    pytest.importorskip("torch", reason="compares with a live torch")
    assert str(bare(getattr(functional, name))) == str(bare(theirs(name)))


def test_the_stub_is_up_to_date():
    assert FUNCTIONS.read_text() == functions(), "write it anew: make stubs"


@each_name
def test_functions_and_what_they_return_are_values(name):
    function = getattr(functional, name)
    assert pickle.loads(pickle.dumps(function)) is function
    result = inspect.signature(function).return_annotation
    lists = [each for each in lists_of(name) if name != "sparse_adam" or each != "state_steps"]
    assert list(result._fields) == ["params", *lists]
    new = result(*[[jnp.ones(1)] for _ in result._fields])
    assert type(pickle.loads(pickle.dumps(new))) is result and type(jax.tree.map(jnp.negative, new)) is result
    assert re.search(rf"Returns:\n +``{result.__name__}\(", function.__doc__) and "Example:" in function.__doc__
    exported = jax.export.export(jax.jit(lambda: new))()
    assert type(jax.export.deserialize(exported.serialize()).call()) is result


def adam(params, grads, steps, *moments, **more):
    return functional.adam(params, grads, *(moments or (params, params)), [], steps, **{**ADAM, **more})


def test_counts_may_differ_and_are_of_any_kind():
    ones, grads = [jnp.ones(2)] * 4, [jnp.full(2, 0.5)] * 4
    zeros = [jnp.zeros(2)] * 4
    steps = [0, np.float32(3.0), jnp.zeros((), jnp.int32), jnp.full(1, 3.0)]
    new = adam(ones, grads, steps, zeros, zeros)
    assert new.state_steps == [1, 4.0, 1, 4.0]
    assert [type(step) for step in new.state_steps[:2]] == [int, np.float32]
    assert new.state_steps[2].dtype == jnp.int32 and new.state_steps[3].shape == (1,)
    for first, second in ((0, 2), (1, 3)):
        np.testing.assert_array_equal(new.params[first], new.params[second])
    assert new.params[0][0] != new.params[1][0]
    traced = jax.jit(lambda steps: adam(ones, grads, steps, zeros, zeros))(steps)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-6), traced, new)


def test_every_traced_count_is_its_own():
    ones, zeros = [jnp.ones(1)] * 40, [jnp.zeros(1)] * 40
    steps = [jnp.float32(index) for index in range(40)]
    expected = adam(ones, ones, steps, zeros, zeros)
    assert len(set(np.ravel(expected.params).tolist())) > 30
    new = jax.jit(lambda steps: adam(ones, ones, steps, zeros, zeros))(steps)
    np.testing.assert_allclose(np.ravel(new.params), np.ravel(expected.params), rtol=1e-5)
    batched = jax.vmap(lambda steps: adam(ones, ones, steps, zeros, zeros))([step[None] for step in steps])
    np.testing.assert_allclose(np.ravel(batched.params), np.ravel(expected.params), rtol=1e-5)


def test_traced_counts_are_traced_once(monkeypatch):
    """The scalar math of a step, and the update, are traced once for all parameters of a shape."""
    calls = []
    original = Adam.scalars
    monkeypatch.setattr(Adam, "scalars", lambda *given: calls.append(given) or original(*given))
    ones, steps = [jnp.ones(3)] * 20 + [jnp.ones(2)] * 20, [jnp.float32(index) for index in range(40)]
    traced = jax.jit(lambda ones, steps: adam(ones, ones, steps)).trace(ones, steps)
    assert len(calls) == 2 and len(traced.jaxpr.eqns) <= 4 * 40
    calls.clear()
    one = jax.jit(lambda ones, step: adam(ones, ones, [step] * 40)).trace(ones, steps[0])
    assert len(calls) == 1 and len(one.jaxpr.eqns) <= 4 * 40


def nadam(products, params=None, **options):
    params = [jnp.ones(2) for _ in products] if params is None else params
    state = {"exp_avgs": params, "exp_avg_sqs": params, "mu_products": products, "state_steps": [0 for _ in products]}
    return functional.nadam(params, params, **state, **{**options_of("nadam", {"lr": 0.1}), **options})


@pytest.mark.parametrize("traced", [False, True])
def test_carried_scalars_keep_their_dtype(traced, x64):
    """torch multiplies ``mu_products`` in place: float64 products are not rounded, narrow ones are rounded once."""
    narrow = [np.float64(1.0), np.float32(1.0), jnp.ones((), "bfloat16"), jnp.ones(1, "float16"), jnp.ones(())]
    new = (jax.jit(nadam) if traced else nadam)(narrow)
    mu = 0.9 * (1.0 - 0.5 * 0.96**4e-3)
    assert [product.dtype for product in new.mu_products] == ["float64", "float32", "bfloat16", "float16", "float64"]
    assert [product.shape for product in new.mu_products] == [(), (), (), (1,), ()]
    for product in new.mu_products:
        right = np.float32(mu) if product.dtype != np.float64 else mu
        assert float(product.reshape(())) == pytest.approx(float(np.asarray(right, product.dtype)), rel=1e-15)
    assert new.params[0][0] != new.params[1][0] != new.params[2][0]
    assert np.float64(new.params[0][0]) == np.float64(new.params[4][0])


def test_carried_scalars_of_numpy_stay_numpys():
    """Outside 64-bit mode too, where JAX has no float64."""
    new = nadam([np.float64(1.0), np.ones(1), np.float32(1.0), 1.0, 1])
    kinds = [(type(each), each.dtype.name) for each in new.mu_products[:3]]
    assert kinds == [(np.float64, "float64"), (np.ndarray, "float64"), (np.float32, "float32")]
    assert [product.dtype for product in new.mu_products[3:]] == ["float32", "float32"]
    values = [float(product.reshape(())) for product in new.mu_products]
    assert values[0] == values[1] == 0.9 * (1.0 - 0.5 * 0.96**4e-3) != values[2] == values[3] == values[4]


@pytest.mark.torch
@pytest.mark.parametrize("name", ["nadam", "asgd"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_carried_scalars_are_torchs_in_every_dtype(name, dtype, x64):
    torch = pytest.importorskip("torch", reason="compares with a live torch")
    params, options = draw(name, 0, "float64"), {"lr": 0.1, **({"t0": 1.0} if name == "asgd" else {})}
    scalars = ("mu_products", "etas", "mus")
    state = first_lists(name, options, params)
    state = {k: [jnp.asarray(x, dtype) for x in v] if k in scalars else v for k, v in state.items()}

    def tensor(x):
        return torch.tensor(np.asarray(x, np.float64), dtype=getattr(torch, str(x.dtype)))

    held = {"params": list(map(tensor, params)), **{key: list(map(tensor, value)) for key, value in state.items()}}
    for step in range(4):
        grads = draw(name, 1 + step, "float64")
        params, state = stepped(name, params, grads, state, **options_of(name, options))
        theirs(name)(**held, grads=list(map(tensor, grads)), **options_of(name, options))
        for each in set(scalars) & set(state):
            for one, other in zip(state[each], held[each], strict=True):
                assert str(one.dtype) == dtype == str(other.dtype).removeprefix("torch.")
                assert float(one) == other.item()
        for one, other in zip(params, held["params"], strict=True):
            np.testing.assert_allclose(one, other.numpy(), rtol=1e-12)


def test_without_a_gradient_a_parameter_stays():
    ones, steps = [jnp.ones(2)] * 3, [jnp.zeros(())] * 3
    nothing = np.zeros(2, jax.dtypes.float0)
    new = adam(ones, [None, nothing, jnp.ones(2)], steps)
    assert new.state_steps == [0, 0, 1]
    for index in (0, 1):
        assert new.params[index] is new.exp_avgs[index] is ones[0]
    assert adam([], [], []) == functional.AdamResult([], [], [], [], [])


def test_a_buffer_of_sgd_begins_and_lists_that_nobody_needs_come_back():
    options = {"weight_decay": 0.0, "lr": 0.5, "dampening": 0.5, "nesterov": False, "maximize": False}
    grads = [jnp.ones(2), jnp.ones(2)]
    new = functional.sgd([jnp.ones(2)] * 2, grads, [None, jnp.ones(2)], momentum=0.5, **options)
    assert [buffer.tolist() for buffer in new.momentum_buffer_list] == [[1.0, 1.0], [1.0, 1.0]]
    given = ["kept"]
    plain = functional.sgd([jnp.ones(2)] * 2, grads, given, momentum=0, **options)
    assert plain.momentum_buffer_list == given and plain.params[0].tolist() == [0.5, 0.5]


def test_inside_transformations(compilations):
    """Numbers and counts are data; a derivative goes through; a batch of runs is one call."""
    params, grads = [jnp.ones(3), jnp.ones((2, 2))], [jnp.full(3, 0.5), jnp.full((2, 2), -1.0)]
    zeros = jax.tree.map(jnp.zeros_like, params)

    @jax.jit
    def step(state, lr, beta1):
        params, averages, squares, _, steps = state
        return adam(params, grads, steps, averages, squares, lr=lr, beta1=beta1)

    state = functional.AdamResult(params, zeros, zeros, [], [jnp.zeros(())] * 2)
    first = step(state, 0.1, fo.Beta.of(0.9))
    count = len(compilations)
    second = step(first, 0.2, fo.Beta.of(0.8))
    assert len(compilations) == count and second.state_steps[0] == 2
    many = jax.vmap(lambda lr: adam(params, grads, [0, 0], zeros, zeros, lr=lr).params[0])(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(many[:, 0], [0.9, 0.8], rtol=1e-5)
    slope = jax.grad(lambda lr: adam(params, grads, [0, 0], zeros, zeros, lr=lr).params[0][0])(0.1)
    np.testing.assert_allclose(slope, -1.0, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_parameters_keep_their_dtypes(dtype):
    params, moments = [jnp.ones(4, dtype)], [jnp.zeros(4)]
    new = adam(params, [jnp.full(4, 64.0, dtype)], [0], moments, moments, grad_scale=64.0)
    assert (new.params[0].dtype, new.exp_avgs[0].dtype) == (dtype, "float32")
    np.testing.assert_allclose(new.params[0].astype(jnp.float32), 0.9, rtol=1e-2)
    narrow = adam([jnp.ones(4)], [jnp.ones(4)], [0], [jnp.zeros(4, jnp.bfloat16)], [jnp.zeros(4, jnp.bfloat16)])
    assert (narrow.params[0].dtype, narrow.exp_avg_sqs[0].dtype) == ("float32", "bfloat16")  # torch 2.15's fused Adam


def test_numbers_outside_their_ranges_pass_as_in_torch():
    down, up = (adam([jnp.ones(2)], [jnp.ones(2)], [0], lr=lr).params[0] for lr in (0.1, -0.1))
    np.testing.assert_allclose(up - 1, 1 - down, rtol=1e-6)
    assert "numbers outside their ranges are not rejected" in " ".join(functional.adam.__doc__.split())


ONE, ZERO, SHAPE = [jnp.ones(2)], [jnp.zeros(2)], jax.ShapeDtypeStruct((2,), jnp.float32)
MUON = options_of("muon", {"lr": 0.1, "weight_decay": 0.0})
SQUARE = [jnp.ones((2, 2))]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: adam(ONE, ONE, []), ValueError, "^adam: state_steps has 0 entries, but params has 1"),
        (lambda: adam(ONE, [], [0]), ValueError, "grads has 0 entries, but params has 1"),
        (lambda: adam(ONE, ONE, [0], [], ONE), ValueError, "exp_avgs has 0 entries, but params has 1"),
        (lambda: adam(ONE, ONE, [0], amsgrad=True), ValueError, "max_exp_avg_sqs has 0 entries"),
        (lambda: adam(ONE, ONE, [0], [None], ONE), ValueError, r"exp_avgs\[0\] is None, but .* of shape \(2,\)"),
        (lambda: adam(ONE, ONE, [0], ONE, [jnp.ones(1)]), ValueError, r"exp_avg_sqs\[0\] has shape \(1,\)"),
        (lambda: adam(ONE, ONE, [0], [jnp.arange(2)], ONE), TypeError, r"exp_avgs\[0\] is int32"),
        (lambda: adam(ONE, ONE, [0], ONE, [jnp.ones(2, jnp.complex64)]), TypeError, r"exp_avg_sqs\[0\] is complex64"),
        (
            lambda: adam(ONE, [jnp.ones(3)], [0]),
            ValueError,
            r"gradient of the parameter 'params\[0\]' has shape \(3,\)",
        ),
        (lambda: adam([jnp.arange(2)], ONE, [0]), TypeError, r"the parameter 'params\[0\]' has dtype int32"),
        (lambda: adam([1.0], ONE, [0]), TypeError, r"^adam: .* can only optimize Tensors .* float: .*'params\[0\]'"),
        (lambda: adam(ONE, [1.0], [0]), TypeError, r"^adam: the gradient of .*'params\[0\]' is not an array but float"),
        (
            lambda: adam(ONE, ONE, [0], [1.0], ONE),
            ValueError,
            r"^adam: exp_avgs\[0\] is 1.0, but it should be an",
        ),
        (lambda: adam([SHAPE], ONE, [0]), TypeError, r"^adam: params\[0\] must be an array .* ShapeDtypeStruct"),
        (lambda: adam(ONE, [SHAPE], [0]), TypeError, r"^adam: grads\[0\] must be an array .* ShapeDtypeStruct"),
        (lambda: adam(ONE, ONE, [0], [SHAPE], ONE), ValueError, r"^adam: exp_avgs\[0\] is ShapeDtypeStruct"),
        (lambda: adam(None, ONE, [0]), TypeError, "^adam: params must be a list of arrays, but it is None"),
        (lambda: adam({"a": 1}, ONE, [0]), TypeError, "^adam: params must be a list of arrays, but it is {'a': 1}"),
        (lambda: adam(ONE, jnp.ones(()), [0]), TypeError, "^adam: grads must be a list of arrays, but it is Array"),
        (lambda: adam(ONE, ONE, 0), TypeError, "^adam: state_steps must be a list of arrays, but it is 0"),
        (lambda: adam(ONE, ONE, [0], ONE, None), TypeError, "^adam: exp_avg_sqs must be a list of arrays"),
        (lambda: adam(ONE, ONE, [0], lr=lambda step: 0.1), TypeError, "lr must be a number, but it is <function"),
        (lambda: adam(ONE, ONE, [0], beta1="0.9"), TypeError, "beta1 must be a number, but it is '0.9'"),
        (lambda: adam(ONE, ONE, [0], eps=None), TypeError, "eps must be a number, but it is None"),
        (lambda: adam(ONE, ONE, [0], lr=jnp.ones(2)), ValueError, r"^adam: lr .* one element, but it has shape \(2,\)"),
        (lambda: adam(ONE, ONE, [0], lr=[0.1, 0.2]), TypeError, "^adam: lr must be a number, but it is "),
        (lambda: adam(ONE, ONE, [0], lr=np.complex64(1)), TypeError, "^adam: lr must be a number, .* dtype complex64"),
        (lambda: adam(ONE, ONE, [0], eps=fo.Beta.of(0.9)), TypeError, "^adam: eps must be a number, but it is Beta"),
        (lambda: jax.jit(lambda lr: adam(ONE, ONE, [0], lr=lr))(jnp.ones(2)), ValueError, "^adam: lr .* shape"),
        (lambda: adam(ONE, ONE, [0], amsgrad="no"), TypeError, "^adam: amsgrad must be True or False, but it is 'no'"),
        (
            lambda: adam(ONE, ONE, [0], maximize=None),
            TypeError,
            "^adam: maximize must be True or False, but it is None",
        ),
        (
            lambda: jax.jit(lambda m: adam(ONE, ONE, [0], maximize=m))(True),
            TypeError,
            "^adam: maximize must be True",
        ),
        (
            lambda: adam(ONE, ONE, [0], beta1=1.0),
            ValueError,
            "^adam: with these options update 1 has no numbers: fl",
        ),
        (lambda: adam(ONE, ONE, [0], beta2=1.5), ValueError, "^adam: with these options update 1 has no numbers: ma"),
        (
            lambda: functional.muon(SQUARE, SQUARE, SQUARE, **{**MUON, "ns_coefficients": (1, 2)}),
            TypeError,
            "3 numbers",
        ),
        (
            lambda: functional.muon(SQUARE, SQUARE, SQUARE, **{**MUON, "ns_coefficients": (1, 2, "x")}),
            TypeError,
            r"^muon: ns_coefficients\[2\] must be a number, but it is 'x'",
        ),
        (
            lambda: functional.muon(SQUARE, SQUARE, SQUARE, **{**MUON, "has_complex": jnp.ones(2, bool)}),
            TypeError,
            "^muon: has_complex must be True or False",
        ),
        (lambda: functional.adam(ONE, ONE, ONE, ONE, [], [0]), TypeError, "missing 7 required keyword-only arguments"),
        (lambda: functional.muon(ONE, ONE, ONE, **MUON), ValueError, "Muon only supports 2D parameters"),
        (
            lambda: functional.muon(SQUARE, SQUARE, SQUARE, **MUON, foreach=True),
            RuntimeError,
            "Foreach is not supported for Muon yet",
        ),
        (
            lambda: functional.muon(SQUARE, SQUARE, SQUARE, **{**MUON, "has_complex": True}),
            ValueError,
            "Complex parameters are not supported",
        ),
        (
            lambda: functional.sparse_adam(ONE, ONE, ZERO, ZERO, [1], **options_of("sparse_adam", {})),
            RuntimeError,
            r"does not support dense gradients.*params\[0\]",
        ),
    ],
)
def test_what_does_not_fit_raises_and_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


NUMBERS = "must be a number"
ONE_ELEMENT = r"must be a number or an array of one element, but it has shape \(2,\)"


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (None, TypeError, f"{NUMBERS}, but it is None"),
        ("1", TypeError, f"{NUMBERS}, but it is '1'"),
        (True, TypeError, f"{NUMBERS}, but it is True"),
        ([1.0], TypeError, f"{NUMBERS}, but it is \\[1.0\\]"),
        (1j, TypeError, f"{NUMBERS}, but it is 1j"),
        (jnp.ones((), bool), TypeError, f"{NUMBERS}, but it has dtype bool"),
        (jnp.ones((), jnp.complex64), TypeError, f"{NUMBERS}, but it has dtype complex64"),
        (jax.random.key(0), TypeError, f"{NUMBERS}, but it has dtype key"),
        (jnp.ones(2), ValueError, ONE_ELEMENT),
        (np.ones(2), ValueError, ONE_ELEMENT),
        (-1, ValueError, "must be a whole number, at least 0, but it is -1"),
        (jnp.float32(-2.0), ValueError, "must be a whole number, at least 0, but it is -2.0"),
        (0.5, ValueError, "must be a whole number, at least 0, but it is 0.5"),
        (np.float32(1.5), ValueError, "must be a whole number, at least 0, but it is 1.5"),
        (np.nan, ValueError, "must be a whole number, at least 0, but it is nan"),
        (np.inf, ValueError, "must be a whole number, at least 0, but it is inf"),
    ],
)
def test_counts_and_carried_scalars_that_are_none(bad, error, message):
    with pytest.raises(error, match=rf"^adam: state_steps\[1\] {message}"):
        adam(ONE * 2, ONE * 2, [0, bad])
    if "whole" not in message:
        with pytest.raises(error, match=rf"^nadam: mu_products\[1\] {message}"):
            nadam([1.0, bad])
    if isinstance(bad, jax.Array) and "whole" not in message:  # what is known of a traced one is checked too
        with pytest.raises(error, match=rf"^adam: state_steps\[1\] {message}"):
            jax.jit(lambda step: adam(ONE * 2, ONE * 2, [0, step]))(bad)
        with pytest.raises(error, match=rf"^nadam: mu_products\[1\] {message}"):
            jax.jit(lambda product: nadam([1.0, product]))(bad)


def test_counts_of_the_caller_and_integer_products():
    options, grads = options_of("sparse_adam", {}), [BCOO.fromdense(jnp.ones((2, 2)), n_dense=1)]
    tables = [jnp.zeros((2, 2))]
    with pytest.raises(ValueError, match=r"^sparse_adam: state_steps\[0\] must be a whole number, at least 1, but it"):
        functional.sparse_adam(tables, grads, tables, tables, [0], **options)
    for product in (np.int32(1), jnp.ones((), jnp.int32)):
        with pytest.raises(TypeError, match=r"^nadam: mu_products\[0\] is int32, but it should be of a floating dtype"):
            nadam([product])


@pytest.mark.parametrize("name", ["grad_scale", "found_inf"])
@pytest.mark.parametrize("traced", [False, True])
def test_a_scale_and_a_flag_are_single_numbers(name, traced):
    def step(given):
        return adam(ONE, ONE, [0], **{name: given})

    call = jax.jit(step) if traced else step
    bad = [jnp.ones(2), jnp.ones((1, 2)), jnp.ones(0), jnp.ones((), jnp.complex64), jax.random.key(0)]
    for value in bad + ([] if traced else ["x", [1.0], 1j, object(), np.array(None), ONE]):
        with pytest.raises((TypeError, ValueError), match=rf"^adam: {name} must be a number"):
            call(value)
    good = {
        "grad_scale": [1, 1.0, np.float64(1), jnp.ones((1, 1)), jnp.int32(1)],
        "found_inf": [0, False, np.False_, jnp.zeros(1), jnp.zeros((), bool), jnp.zeros((), jnp.int32)],
    }
    for value in good[name]:
        pairs = zip(jax.tree.leaves(call(value)), jax.tree.leaves(adam(ONE, ONE, [0])), strict=True)
        for one, other in pairs:
            np.testing.assert_allclose(one, other, rtol=1e-6)
    if name == "found_inf":
        for value in (True, 1, np.nan, jnp.ones(1, bool)):
            np.testing.assert_array_equal(call(value).params, ONE)


@pytest.mark.torch
def test_tensors_of_torch_are_refused_in_words():
    torch = pytest.importorskip("torch", reason="needs a tensor of torch")
    tensors = [torch.ones(2)]
    for call, message in (
        (lambda: adam(tensors, ONE, [0]), r"params\[0\] must be an array of JAX or NumPy, but it is tensor"),
        (lambda: adam(ONE, tensors, [0]), r"grads\[0\] must be an array of JAX or NumPy, but it is tensor"),
        (lambda: adam(ONE, ONE, [0], tensors, ONE), r"exp_avgs\[0\] is tensor"),
        (lambda: adam(ONE, ONE, [torch.ones(())]), r"state_steps\[0\] must be a number, but it is tensor"),
        (lambda: adam(ONE, ONE, [0], grad_scale=torch.ones(1)), "grad_scale must be a number, but it is tensor"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^adam: {message}"):
            call()


def test_shards_of_a_matrix_are_refused_where_the_whole_is_needed():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))

    def update(matrix):
        return functional.muon([matrix], [matrix], [matrix], **MUON).params[0]

    with pytest.raises(ValueError, match="axis_name"):
        jax.jit(jax.shard_map(update, mesh=mesh, in_specs=P("x"), out_specs=P("x")))(jnp.ones((4, 2)))


def test_the_module_stands_in_the_torch_face():
    assert optim.functional is functional and "functional" in optim.__all__
    assert functional.__all__ == sorted(functional.__all__) == NAMES
