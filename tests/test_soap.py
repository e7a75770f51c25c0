"""SOAP: the reference's trajectories, the eigenbases, and what derivatives, ensembles and missing gradients find."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.eigenbases import eigenbases, refreshed
from tests.algorithms import label
from tests.comparison import recorded_run
from tests.soap_cases import CASES, KEPT, SHAPES, STEPS, changing_options, gradients, parameters

_FULL = [pytest.param(options, marks=pytest.mark.full) for options in CASES[1:]]
each_case = pytest.mark.parametrize("options", [CASES[0], *_FULL], ids=lambda options: label(("soap", options)))


def reference(options, kind):
    return recorded_run(("soap", options), kind, "soap")


def arrays(step, dtype, gaps=False):
    return {k: None if g is None else jnp.asarray(g) for k, g in gradients(step, dtype, gaps).items()}


def compiled(options):
    """A step whose rate and decay are data."""

    @jax.jit
    def step(params, state, grads, changed):
        updates, state = fo.soap(**{**options, **changed}).update(grads, state, params)
        return fo.apply_updates(params, updates), state, updates

    return step


def held(params, state):
    """Every array, as it is recorded."""
    slots = {"param": params, **{name: getattr(state, name) for name in state._fields[1:]}}
    return {f"{slot}/{key}": x for slot, tree in slots.items() if tree for key, x in tree.items() if x is not None}


def off(key, found, right):
    """The largest difference, relative to the array; the sign of an eigenvector does not matter."""
    found, right = (np.abs(x) if key.startswith("basis") else np.asarray(x) for x in (found, right))
    size = float(np.max(np.abs(right))) or 1.0
    return float(np.max(np.abs(found - right))) / size


@each_case
def test_float64_trajectory_is_the_references(options, x64):
    rows, step = reference(options, "float64"), compiled(options)
    params = jax.tree.map(jnp.asarray, parameters("float64"))
    state = fo.soap(**options).init(params)
    assert set(held(params, state)) == {key for key in rows if not key.startswith("step/")}
    for index in range(STEPS["float64"]):
        params, state, _ = step(params, state, arrays(index, "float64"), changing_options(index, options))
        wrong = {key: off(key, x, rows[key][index + 1]) for key, x in held(params, state).items()}
        assert max(wrong.values()) < 1e-10, (index, wrong)


@pytest.mark.full
@each_case
def test_the_torch_face_counts_for_each_parameter(options, x64):
    rows, names = reference(options, "gaps"), list(SHAPES)
    optimizer = optim.SOAP(jax.tree.map(jnp.asarray, parameters("float64")), **options)
    for index in range(STEPS["gaps"]):
        optimizer.param_groups[0].update(changing_options(index, options))
        optimizer.step(arrays(index, "float64", gaps=True))
        if (index + 1) % KEPT["gaps"] == 0:
            entries = {name: {"param": optimizer.params[name], **optimizer.state[name]} for name in names}
            for key, right in rows.items():
                slot, name = key.split("/")
                found = entries[name][slot]
                if slot == "step":
                    assert int(found) == right[(index + 1) // KEPT["gaps"]]
                else:
                    assert off(key, found, right[(index + 1) // KEPT["gaps"]]) < 1e-10, (index, key)


@each_case
def test_float32_synchronised_steps(options):
    rows, step = reference(options, "float32"), compiled(options)
    fresh = fo.soap(**options).init(jax.tree.map(jnp.asarray, parameters("float32")))
    for index in range(STEPS["float32"]):
        own = {key: jnp.asarray(values[index]) for key, values in rows.items()}
        params = {key: own[f"param/{key}"] for key in SHAPES}
        trees = {
            slot: {key: own.get(f"{slot}/{key}") for key in SHAPES}
            for slot in fresh._fields[1:]
            if getattr(fresh, slot) is not None
        }
        state = fresh._replace(step=jnp.asarray(index, jnp.int32), **trees) if index else fresh
        after, state, updates = step(params, state, arrays(index, "float32"), changing_options(index, options))
        for key, found in held(after, state).items():
            slot, name = key.split("/")
            right = rows[key][index + 1]
            if slot == "param":
                rounding = np.linalg.norm(np.spacing(np.abs(right)))  # that of the sum with the parameter
                assert np.linalg.norm(found - right) <= 1e-4 * np.linalg.norm(updates[name]) + rounding, (index, key)
            else:
                assert off(key, found, right) < 1e-4, (index, key)


@pytest.mark.torch
@each_case
@pytest.mark.parametrize("kind", STEPS)
def test_recorded_trajectories_are_the_references(options, kind):
    pytest.importorskip("torch", reason="compares with a live package")
    from tests import torch_run

    recorded, live = reference(options, kind), torch_run.run_soap(options, kind)
    assert set(live) == set(recorded)
    for key, values in live.items():
        assert off(key, values, recorded[key]) < {"float32": 1e-3}.get(kind, 1e-9), key


def conditioned(size, smallest, seed=0):
    """A matrix whose eigenvalues fall to the smallest."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return jnp.asarray(q * np.geomspace(1.0, smallest, size) @ q.T)


@pytest.mark.parametrize("smallest", [1e-1, 1e-12, 1e-30])
def test_bases_of_ill_conditioned_matrices_are_orthonormal_and_diagonalize(smallest, x64):
    matrix, size = conditioned(6, smallest), 6
    basis, order = eigenbases(matrix[None])[0], jnp.arange(size)
    for _ in range(3):
        np.testing.assert_allclose(basis.T @ basis, np.eye(size), atol=1e-13)
        diagonal = basis.T @ matrix @ basis
        np.testing.assert_allclose(diagonal, jnp.diag(jnp.diagonal(diagonal)), atol=1e-14)
        assert sorted(order.tolist()) == list(range(size))
        basis, order = (x[0] for x in refreshed(matrix[None], basis[None]))


def test_bases_do_not_depend_on_rounding_where_there_was_no_gradient(x64):
    rng = np.random.default_rng(0)
    tall = rng.standard_normal((7, 2))
    one = jnp.asarray(tall @ tall.T)[None]
    other = one * (1 + 1e-15 * rng.standard_normal((1, 7, 7)))
    other = (other + jnp.swapaxes(other, 1, 2)) / 2
    found = [eigenbases(matrix) for matrix in (one, other)]
    np.testing.assert_allclose(*map(jnp.abs, found), atol=1e-11)
    more = jnp.asarray(np.outer(*[rng.standard_normal(7)] * 2))[None]
    for gradient in (0, more):  # of ranks 2 and 3: whichever columns are empty
        after = [refreshed(matrix + gradient, found[0])[0] for matrix in (one, other)]
        np.testing.assert_allclose(*map(jnp.abs, after), atol=1e-10)
        np.testing.assert_allclose(after[0][0].T @ after[0][0], np.eye(7), atol=1e-13)


def test_of_matrices_that_are_zero_the_basis_stays():
    zeros, eye = jnp.zeros((1, 3, 3)), jnp.eye(3)[None]
    np.testing.assert_array_equal(jnp.abs(eigenbases(zeros)), eye)
    turned = jnp.linalg.qr(jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 3)), jnp.float32))[0]
    np.testing.assert_allclose(jnp.abs(refreshed(zeros, turned)[0]), jnp.abs(turned), atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_matrices_that_are_not_finite_give_nan_and_leave_others_alone(bad):
    matrices = jnp.stack([jnp.eye(3), jnp.eye(3).at[0, 0].set(bad)])
    for found in (eigenbases(matrices), refreshed(matrices, jnp.stack([jnp.eye(3)] * 2))[0]):
        assert bool(jnp.all(jnp.isfinite(found[0]))) and bool(jnp.all(jnp.isnan(found[1])))


@pytest.mark.full
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_seen(bad):
    tx, params = fo.soap(precondition_frequency=2), {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 2))}
    state, grad = tx.init(params), jax.tree.map(jnp.ones_like, params)
    for index in range(4):
        own = {**grad, "a": grad["a"].at[0, 1].set(bad)} if index == 1 else grad
        updates, state = tx.update(own, state, params)
    assert bool(jnp.all(jnp.isnan(updates["a"]))) and bool(jnp.all(jnp.isfinite(updates["b"])))


def test_the_first_update_moves_and_decays_nothing():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    tx = fo.soap(lr=0.1, weight_decay=0.5)
    updates, state = tx.update(params, tx.init(params), params)
    assert not any(jnp.any(update) for update in updates.values())
    assert not jnp.any(state.exp_avg["w"]) and jnp.any(state.gram_0["w"])
    updates, _ = tx.update(params, state, params)
    assert all(jnp.all(update != 0) for update in updates.values())


@pytest.mark.full
def test_numbers_are_data_and_a_refresh_does_not_compile_again():
    traces = 0

    @jax.jit
    def step(params, state, grads, lr, every, beta):
        nonlocal traces
        traces += 1
        tx = fo.soap(lr=lr, precondition_frequency=every, shampoo_beta=beta)
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    runs = []
    for beta in (-1.0, 0.95):
        params = jax.tree.map(jnp.asarray, parameters("float32"))
        state = fo.soap().init(params)
        for index in range(5):
            numbers = jnp.float32(0.01), jnp.float32(2.0), jnp.float32(beta)
            params, state = step(params, state, arrays(index, "float32"), *numbers)
        runs.append(params)
    assert traces == 1
    fixed, state = jax.tree.map(jnp.asarray, parameters("float32")), fo.soap().init(runs[0])
    for index in range(5):
        updates, state = fo.soap(lr=0.01, precondition_frequency=2).update(arrays(index, "float32"), state, fixed)
        fixed = fo.apply_updates(fixed, updates)
    for key in SHAPES:
        np.testing.assert_allclose(runs[0][key], runs[1][key], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(runs[0][key], fixed[key], rtol=1e-4, atol=1e-5)


def run(params, grads, lr=0.1):
    """The parameters after a scan over gradients."""
    tx = fo.soap(lr=lr, precondition_frequency=2)

    def body(carry, grad):
        params, state = carry
        updates, state = tx.update(grad, state, params)
        return (fo.apply_updates(params, updates), state), None

    return jax.lax.scan(body, (params, tx.init(params)), grads)[0][0]


@pytest.mark.full
def test_it_scans_and_an_ensemble_is_its_members(x64):
    rng = np.random.default_rng(0)
    params, grads = jnp.asarray(rng.standard_normal((2, 3, 3))), jnp.asarray(rng.standard_normal((2, 5, 3, 3)))
    together = jax.vmap(run)(params, grads)
    for index in range(2):
        np.testing.assert_allclose(together[index], run(params[index], grads[index]), rtol=1e-9)


@pytest.mark.full
@pytest.mark.parametrize("size", [1.0, 0.0])
def test_derivatives_are_finite_and_of_the_rate_exact(size, x64):
    rng = np.random.default_rng(0)
    params, grads = jnp.asarray(rng.standard_normal((3, 4))), size * jnp.asarray(rng.standard_normal((5, 3, 4)))
    loss = lambda params, grads, lr: jnp.sum(jnp.sin(run(params, grads, lr)))  # noqa: E731 one line
    found = jax.grad(loss, (0, 1, 2))(params, grads, jnp.asarray(0.1))
    assert all(bool(jnp.all(jnp.isfinite(x))) for x in found)
    near = [loss(params, grads, jnp.asarray(0.1 + step)) for step in (1e-6, -1e-6)]
    np.testing.assert_allclose(found[2], (near[0] - near[1]) / 2e-6, rtol=1e-6, atol=1e-8)


@pytest.mark.full
def test_low_precision_keeps_the_matrices_in_float32():
    params = {"w": jnp.ones((3, 2), jnp.bfloat16)}
    tx, state = fo.soap(), fo.soap().init(params)
    for index in range(3):
        updates, state = tx.update({"w": params["w"] * (index - 1)}, state, params)
        assert bool(jnp.all(jnp.isfinite(updates["w"])))
    assert state.exp_avg["w"].dtype == jnp.bfloat16
    assert {state.gram_0["w"].dtype, state.basis_1["w"].dtype} == {jnp.dtype("float32")}


@pytest.mark.full
def test_parameters_that_start_late_begin_with_the_identity(x64):
    tx = fo.soap(weight_decay=0.0, precondition_frequency=2)
    rng, params = np.random.default_rng(0), {"a": jnp.ones((3, 3)), "late": jnp.ones((2, 2))}
    state = tx.init(params)
    for index in range(5):
        grads = {"a": jnp.asarray(rng.standard_normal((3, 3))), "late": jnp.asarray(rng.standard_normal((2, 2)))}
        updates, state = tx.update({**grads, "late": grads["late"] if index > 1 else None}, state, params)
        if index == 1:
            assert updates["late"] is None and not jnp.any(state.gram_0["late"])
            np.testing.assert_array_equal(state.basis_0["late"], np.eye(2))
    assert bool(jnp.all(jnp.isfinite(updates["late"]))) and jnp.any(state.basis_0["late"][0, 1])


REFUSED = [
    (lambda: fo.soap(shampoo_beta=1.0), ValueError, "Invalid shampoo_beta value: 1.0"),
    (lambda: fo.soap(precondition_frequency=0), ValueError, "Invalid precondition_frequency value: 0"),
    (lambda: fo.soap(max_precond_dim=0), ValueError, "max_precond_dim must be an integer of at least 1"),
    (lambda: fo.soap().init({"w": jnp.ones((2, 2), "complex64")}), RuntimeError, "complex parameters: .* 'w'"),
    (lambda: fo.soap().init({"w": jnp.ones((1,) * 7)}), RuntimeError, "at most 6 dimensions: .* 'w' has 7"),
]


@pytest.mark.parametrize(("make", "error", "message"), REFUSED)
def test_what_it_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


@functools.cache
def trained(wrap):
    tx, params = wrap(fo.soap(lr=0.1, precondition_frequency=2)), {"w": jnp.ones((48, 40)), "b": jnp.ones(3)}
    state = tx.init(params)
    for index in range(4):
        draws = jax.random.split(jax.random.key(index))
        grads = {"w": jax.random.normal(draws[0], (48, 40)), "b": jax.random.normal(draws[1], (3,))}
        updates, state = tx.update(grads, state, params)
        params = fo.apply_updates(params, updates)
    return params, state


@pytest.mark.full
def test_few_bits_come_close():
    params, _ = trained(lambda tx: tx)
    keep = {"exp_avg": "dynamic8", "exp_avg_sq": "dynamic8"}
    found, state = trained(lambda tx: fo.quantized(tx, keep))
    assert isinstance(fo.find_state(state, fo.SOAPState).gram_0["w"], jax.Array)
    assert jnp.linalg.norm(found["w"] - params["w"]) < 0.1 * jnp.linalg.norm(params["w"] - 1)


def test_the_bytes_of_a_square_parameter():
    kernel = jax.ShapeDtypeStruct((4096, 4096), jnp.float32)
    state = jax.eval_shape(fo.soap().init, {"kernel": kernel})
    assert sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)) / kernel.size == pytest.approx(24)


@pytest.mark.full
def test_a_state_dict_resumes(x64):
    make = lambda: optim.SOAP(jax.tree.map(jnp.asarray, parameters("float64")), precondition_frequency=2)  # noqa: E731
    whole, half, resumed = make(), make(), make()
    for index in range(6):
        whole.step(arrays(index, "float64"))
        half.step(arrays(index, "float64")) if index < 3 else None
    resumed.load_state_dict(half.state_dict())
    resumed.params = half.params
    for index in range(3, 6):
        resumed.step(arrays(index, "float64"))
    for key in SHAPES:
        np.testing.assert_allclose(resumed.params[key], whole.params[key], rtol=1e-12)
