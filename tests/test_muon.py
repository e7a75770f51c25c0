"""Muon beyond the shared table: bfloat16, stacks, kernels, sizes, errors, and its combination with AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.newton_schulz import POLAR_EXPRESS, orthogonalize

NS = ((3.4445, -4.7750, 2.0315), 5, 1e-7)


def draw(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


@pytest.mark.parametrize("nesterov", [False, True])
def test_bfloat16_update_is_the_exact_one_to_the_accuracy_of_the_iterations(nesterov):
    """Both round the direction to bfloat16; a rounding that goes the other way shifts the whole result."""
    params, grads = draw(16, 24, dtype=jnp.bfloat16), draw(16, 24, seed=1, dtype=jnp.bfloat16)
    tx = fo.muon(lr=0.1, weight_decay=0.0, nesterov=nesterov)
    update, state = tx.update(grads, tx.init(params), params)
    assert update.dtype == jnp.float32
    assert state.momentum_buffer.dtype == jnp.bfloat16
    with jax.enable_x64(True):
        wide = [x.astype(jnp.float64) for x in (params, grads)]
        exact, _ = tx.update(wide[1], tx.init(wide[0]), wide[0])
    difference = np.asarray(update, np.float64) - np.asarray(exact)
    assert np.linalg.norm(difference) <= 2e-2 * np.linalg.norm(np.asarray(exact))


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(128, 32), (32, 128), (64, 64), (256, 96)])
def test_larger_matrices_against_torch(shape):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch; the recorded trajectories do not")
    start, grad = np.asarray(draw(*shape)), np.asarray(draw(*shape, seed=1))
    param = torch.nn.Parameter(torch.tensor(start))
    param.grad = torch.tensor(grad)
    torch.optim.Muon([param], lr=0.1, weight_decay=0.0).step()
    theirs = param.detach().numpy() - start
    tx = fo.muon(lr=0.1, weight_decay=0.0)
    ours, _ = tx.update(jnp.asarray(grad), tx.init(jnp.asarray(start)), jnp.asarray(start))
    assert np.linalg.norm(ours - theirs) <= 2e-2 * np.linalg.norm(theirs)


def test_singular_values_go_to_one():
    values = np.linalg.svd(np.asarray(orthogonalize(draw(3, 20, 8), *NS)), compute_uv=False)
    assert values.shape == (3, 8)
    assert np.all((values > 0.45) & (values < 1.2))


def test_a_stack_is_its_matrices_one_by_one():
    params, grads, tx = draw(3, 4, 6), draw(3, 4, 6, seed=1), fo.muon(lr=0.1)
    together, state = tx.update(grads, tx.init(params), params)
    for index in range(3):
        alone, one = tx.update(grads[index], tx.init(params[index]), params[index])
        np.testing.assert_allclose(together[index], alone, rtol=2e-2, atol=1e-3)
        np.testing.assert_array_equal(state.momentum_buffer[index], one.momentum_buffer)


def test_kernels_become_matrices():
    """A kernel gets the same update with the same factor in torch's layout and in JAX's."""
    options = {"lr": 0.1, "weight_decay": 0.0}
    oihw, grad = draw(16, 2, 2, 2), draw(16, 2, 2, 2, seed=1)
    first = fo.muon(**options, reshape="out_first")
    update, _ = first.update(grad, first.init(oihw), oihw)
    plain = fo.muon(**options)
    flat, _ = plain.update(grad.reshape(16, 8), plain.init(oihw.reshape(16, 8)))
    np.testing.assert_array_equal(update, flat.reshape(oihw.shape))
    last = fo.muon(**options, reshape="out_last")
    hwio = [jnp.transpose(x, (2, 3, 1, 0)) for x in (oihw, grad)]
    moved, _ = last.update(hwio[1], last.init(hwio[0]))
    np.testing.assert_allclose(jnp.transpose(moved, (3, 2, 0, 1)), update, atol=5e-3)
    # the factor of an (inputs, outputs) matrix equals that of its transpose in torch's layout
    matrix = draw(8, 16, seed=2)
    ours, _ = last.update(matrix, last.init(matrix))
    theirs, _ = plain.update(matrix.T, plain.init(matrix.T))
    np.testing.assert_array_equal(ours, theirs.T)


@pytest.mark.parametrize("shape", [(8, 2), (2, 8), (4, 4), (3, 2, 6)])
@pytest.mark.parametrize("reshape", [None, "out_last"])
def test_the_unclamped_ratio_is_the_root_of_outputs_over_inputs(shape, reshape):
    """torch has it since 2.14; here it is written down in NumPy, with the orthogonalization as it is."""
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2, "adjust_lr_fn": "spectral_unclamped"}
    tx = fo.muon(**options, reshape=reshape)
    one, batched = {"w": draw(*shape)}, {"batched": True} if len(shape) > 2 and reshape is None else {}
    optimizer = optim.Muon(one, **options, **({"reshape": reshape} if reshape else batched))
    params, state, expected, buffer = one["w"], tx.init(one["w"]), np.asarray(one["w"]), np.zeros(shape)
    for step in range(1, 4):
        grad = draw(*shape, seed=step)
        updates, state = tx.update(grad, state, params)
        params = fo.apply_updates(params, updates)
        optimizer.step({"w": grad})
        buffer = 0.9 * buffer + 0.1 * np.asarray(grad)
        ahead = jnp.asarray(0.1 * np.asarray(grad) + 0.9 * buffer, jnp.float32)
        matrices = ahead.reshape(-1, shape[-1]) if reshape else ahead
        rows, columns = matrices.shape[-2:]
        ratio = np.sqrt(columns / rows) if reshape else np.sqrt(rows / columns)
        direction = np.asarray(orthogonalize(matrices, *NS)).reshape(shape)
        expected = expected - 0.1 * 0.2 * expected - 0.1 * ratio * direction
    for found in (params, optimizer.params["w"]):
        assert np.linalg.norm(found - expected) <= 2e-3 * np.linalg.norm(expected - np.asarray(one["w"]))
    assert optimizer.param_groups[0]["adjust_lr_fn"] == "spectral_unclamped"


def test_the_unclamped_ratio_of_matrices_without_entries():
    for shape in ((0, 3), (3, 0)):
        tx = fo.muon(adjust_lr_fn="spectral_unclamped")
        updates, _ = tx.update(jnp.ones(shape), tx.init(jnp.ones(shape)), jnp.ones(shape))
        assert updates.shape == shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, r"Learning rate should be >= 0 but is: -1\.0"),
        ({"momentum": -0.1}, r"momentum should be >= 0 but is: -0\.1"),
        ({"weight_decay": -0.1}, r"weight decay should be >= 0 but is: -0\.1"),
        ({"adjust_lr_fn": "half"}, "Adjust learning rate function half is not supported"),
        ({"ns_steps": 100}, "Number of steps must be less than 100 for computational efficiency"),
        ({"ns_coefficients": (1.0, 2.0)}, "Coefficients must be a tuple of exactly 3 values"),
        ({"ns_coefficients": 3.0}, "Coefficients must be a tuple of exactly 3 values"),
        ({"reshape": "HWIO"}, "reshape must be None, 'out_first' or 'out_last'"),
    ],
)
def test_bad_options(options, message):
    for make in (fo.muon, lambda **options: optim.Muon([jnp.ones((2, 2))], **options)):
        with pytest.raises(ValueError, match=message):
            make(**options)


def test_what_is_no_matrix_raises_and_is_named():
    params = {"dense": {"bias": jnp.ones(4)}}
    message = r"Muon only supports 2D parameters whereas we found a parameter with size: \(4,\).*'dense\.bias'"
    with pytest.raises(ValueError, match=message):
        fo.muon().init(params)
    with pytest.raises(ValueError, match=message):
        optim.Muon(params)
    stack = {"stack": jnp.ones((2, 3, 4))}
    with pytest.raises(ValueError, match=r"with size: \(2, 3, 4\).*batched=True"):
        optim.Muon(stack)
    for options in ({"batched": True}, {"reshape": "out_last"}):
        optimizer = optim.Muon(stack, **options)
        optimizer.step({"stack": jnp.ones((2, 3, 4))})
        assert options.items() <= optimizer.param_groups[0].items()
    assert not {"batched", "reshape"} & optim.Muon([jnp.ones((2, 2))]).param_groups[0].keys()


def test_a_zero_gradient_gives_no_update():
    tx = fo.muon(weight_decay=0.0)
    updates, _ = tx.update(jnp.zeros((3, 4)), tx.init(jnp.ones((3, 4))))
    np.testing.assert_array_equal(updates, np.zeros((3, 4)))


@pytest.mark.torch
def test_muon_adamw_is_the_two_optimizers_of_torch(x64):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch")
    shapes = {"bias": (4,), "embed": (5, 2), "kernel": (3, 4)}
    start = {key: np.asarray(draw(*shape, dtype=jnp.float64)) for key, shape in shapes.items()}
    tensors = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in start.items()}
    theirs = [
        torch.optim.Muon([tensors["kernel"]], lr=0.02),
        torch.optim.AdamW([tensors["bias"], tensors["embed"]], lr=3e-3),
    ]
    use_muon = lambda name, array: array.ndim == 2 and name != "embed"  # noqa: E731 one line
    ours = optim.MuonAdamW({key: jnp.asarray(v) for key, v in start.items()}, {"lr": 0.02}, {"lr": 3e-3}, use_muon)
    tx = fo.muon_adamw({"lr": 0.02}, {"lr": 3e-3}, use_muon)
    params = {key: jnp.asarray(value) for key, value in start.items()}
    state = tx.init(params)
    for step in range(10):
        grads = {key: np.asarray(draw(*shape, seed=step + 1, dtype=jnp.float64)) for key, shape in shapes.items()}
        for key, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[key])
        for optimizer in theirs:
            optimizer.step()
        ours.step({key: jnp.asarray(value) for key, value in grads.items()})
        updates, state = tx.update({key: jnp.asarray(value) for key, value in grads.items()}, state, params)
        params = fo.apply_updates(params, updates)
    for key, tensor in tensors.items():
        np.testing.assert_allclose(ours.params[key], tensor.detach().numpy(), rtol=1e-11)
        np.testing.assert_allclose(params[key], tensor.detach().numpy(), rtol=1e-11)
    saved = ours.state_dict()
    for group, optimizer in zip(saved["param_groups"], theirs, strict=True):
        kept = optimizer.state_dict()["param_groups"][0]
        assert all(kept[key] == value for key, value in group.items() if key in kept and key != "params")
    again = optim.MuonAdamW(ours.params, {"lr": 1.0}, {"lr": 1.0}, use_muon)
    again.load_state_dict(saved)
    assert [group["lr"] for group in again.param_groups] == [0.02, 3e-3]
    grads = {key: jnp.ones(shape) for key, shape in shapes.items()}
    ours.step(grads)
    again.step(grads)
    for key in shapes:
        np.testing.assert_array_equal(ours.params[key], again.params[key])


def test_muon_adamw_functional_and_back():
    params = {"bias": jnp.ones(4), "kernel": draw(3, 4)}
    one, other = (optim.MuonAdamW(params, {"lr": 0.1}) for _ in range(2))
    tx, carried, state = other.functional()
    for seed in range(3):
        grads = {"bias": draw(4, seed=seed), "kernel": draw(3, 4, seed=seed)}
        one.step(grads)
        updates, state = tx.update(grads, state, carried)
        carried = fo.apply_updates(carried, updates)
    other.restore(carried, state)
    for key in params:
        np.testing.assert_allclose(one.params[key], other.params[key], rtol=1e-5)
    assert other.state["bias"]["step"] == 3


def test_muon_adamw_errors():
    params = {"bias": jnp.ones(4), "kernel": draw(3, 4)}
    with pytest.raises(TypeError, match="muon has no option betas"):
        optim.MuonAdamW(params, {"betas": (0.9, 0.99)})
    with pytest.raises(ValueError, match="Invalid learning rate: -1"):
        optim.MuonAdamW(params, None, {"lr": -1.0})
    groups = [{"params": [params["kernel"]], "algorithm": "muon"}, {"params": [params["bias"]], "algorithm": "adamw"}]
    with pytest.raises(ValueError, match="parameter group 1 must say its algorithm, 'muon' or 'adamw'"):
        optim.MuonAdamW([groups[0], {"params": [params["bias"]]}])
    optimizer = optim.MuonAdamW(groups)
    assert [group["algorithm"] for group in optimizer.param_groups] == ["muon", "adamw"]
    optimizer.param_groups[0]["algorithm"] = "lion"
    with pytest.raises(ValueError, match="algorithm must be 'muon' or 'adamw', but it is 'lion'"):
        optimizer.step([[draw(3, 4)], [jnp.ones(4)]])


def test_muon_adamw_loads_what_two_optimizers_saved():
    """The saved groups do not name an algorithm; the live ones do."""
    params = {"bias": jnp.ones(4), "kernel": draw(3, 4)}
    muon, adamw = optim.Muon([params["kernel"]], lr=0.1), optim.AdamW([params["bias"]], lr=0.2)
    muon.step([draw(3, 4)])
    adamw.step([jnp.ones(4)])
    one, other = muon.state_dict(), adamw.state_dict()
    both = {
        "state": {0: one["state"][0], 1: other["state"][0]},
        "param_groups": [one["param_groups"][0], {**other["param_groups"][0], "params": [1]}],
    }
    optimizer = optim.MuonAdamW(params)
    optimizer.load_state_dict(both, match="position")
    assert [(group["algorithm"], group["lr"]) for group in optimizer.param_groups] == [("muon", 0.1), ("adamw", 0.2)]
    np.testing.assert_array_equal(optimizer.state["bias"]["exp_avg"], adamw.state[0]["exp_avg"])


def test_muon_adamw_without_gradients_for_some():
    """Labels come from the parameters, so a None gradient does not change the assignment."""
    params = {"bias": jnp.ones(4), "kernel": draw(3, 4)}
    tx = fo.muon_adamw()
    updates, state = tx.update({"bias": jnp.ones(4), "kernel": None}, tx.init(params), params)
    assert updates["kernel"] is None
    assert jax.tree.structure(state) == jax.tree.structure(tx.init(params))


HEADS = {"query": (8, 2, 4), "out": (2, 4, 8), "experts": (3, 6, 8), "conv": (3, 3, 4, 8), "dense": (8, 6)}
AXES = {
    "query": fo.MatrixAxes(outputs=2, inputs=0),  # a matrix for each head
    "out": fo.MatrixAxes(outputs=-1, inputs=(0, 1)),  # heads merged
    "experts": fo.MatrixAxes(outputs=2, inputs=1),
    "conv": fo.MatrixAxes(outputs=3, inputs=(0, 1, 2)),
    "dense": None,
}
BY_HAND = {  # to a stack of matrices (outputs, inputs), and back
    "query": (lambda x: x.transpose(1, 2, 0), lambda x: x.transpose(2, 0, 1)),
    "out": (lambda x: x.reshape(1, 8, 8).transpose(0, 2, 1), lambda x: x.transpose(0, 2, 1).reshape(2, 4, 8)),
    "experts": (lambda x: x.transpose(0, 2, 1), lambda x: x.transpose(0, 2, 1)),
    "conv": (lambda x: x.reshape(1, 36, 8).transpose(0, 2, 1), lambda x: x.transpose(0, 2, 1).reshape(3, 3, 4, 8)),
    "dense": (lambda x: x[None], lambda x: x[0]),
}


@pytest.mark.parametrize("make", [fo.muon, fo.normuon])
@pytest.mark.parametrize("given", ["tree", "function"])
def test_matrix_axes_name_the_matrices_inside_parameters(make, given):
    axes = AXES if given == "tree" else AXES.get
    params, grads = (
        {name: draw(*shape, seed=seed) for name, shape in HEADS.items()} for seed in (0, 1)
    )  # fmt: skip
    tx, plain = make(lr=0.1, matrix_axes=axes), make(lr=0.1)
    state = tx.init(params)
    stacks = {name: move(params[name]) for name, (move, _) in BY_HAND.items()}
    other = plain.init(stacks)
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        wanted, other = plain.update({name: BY_HAND[name][0](grad) for name, grad in grads.items()}, other, stacks)
        for name, (_, back) in BY_HAND.items():
            np.testing.assert_allclose(updates[name], back(wanted[name]), rtol=1e-3, atol=2e-3, err_msg=name)


def test_muon_adamw_takes_what_matrix_axes_names():
    params = {**{name: draw(*shape) for name, shape in HEADS.items()}, "bias": jnp.ones(4), "cube": jnp.ones((2, 2, 2))}
    for axes in ({**AXES, "bias": None, "cube": None}, AXES.get):
        state = fo.muon_adamw({"matrix_axes": axes}).init(params)
        taken = {name for name, leaf in fo.find_state(state, fo.MuonState).momentum_buffer.items() if leaf is not None}
        assert taken == set(HEADS)
    plan = fo.plan(fo.muon_adamw({"matrix_axes": AXES.get}), params)
    links = {one.name: one.links for one in plan.parameters}
    assert links["query"] == ("muon (2 matrices of 4 x 8, lr times 1)",)
    assert links["conv"] == ("muon (1 matrix of 8 x 36, lr times 1)",)
    assert links["cube"] == links["bias"] == ("adam (decoupled weight decay)",)
    assert str(plan).splitlines()[0] == "bias     float32[4]           adam (decoupled weight decay)"


@pytest.mark.parametrize(
    ("axes", "error", "message"),
    [
        (fo.MatrixAxes(0, 0), ValueError, "parameter 'w': .*does not name two different sides among 3 dimensions"),
        (fo.MatrixAxes(0, -3), ValueError, "does not name two different sides"),
        (fo.MatrixAxes((), 1), ValueError, "does not name two different sides"),
        (fo.MatrixAxes(3, 1), ValueError, "does not name two different sides"),
        (lambda path: (0, 1), TypeError, "must give a fo.MatrixAxes or None for each parameter, but for 'w' it gives"),
        (fo.MatrixAxes(1.0, 0), TypeError, "a side must be a dimension or a tuple of them"),
        (fo.MatrixAxes(True, False), TypeError, "a side must be a dimension or a tuple of them"),
        ({"w": "last"}, TypeError, "must give a fo.MatrixAxes or None for each parameter, but it gives 'last'"),
    ],
)
def test_wrong_matrix_axes_raise_and_name_the_parameter(axes, error, message):
    with pytest.raises(error, match=message):
        fo.muon(matrix_axes=axes).init({"w": jnp.ones((2, 3, 4))})
    assert fo.muon(matrix_axes=fo.MatrixAxes([0], np.int64(1))) == fo.muon(matrix_axes=fo.MatrixAxes((0,), 1))
    with pytest.raises(ValueError, match="'matrix_axes' belongs to the functional face"):
        optim.Muon([{"params": [jnp.ones((2, 3))], "matrix_axes": axes}])


def test_polar_express_brings_singular_values_closer_to_one():
    """Of singular values from 0.01 to 1, the least and the largest after five iterations, by the polynomials alone."""
    values = np.geomspace(0.01, 1.0, 24)
    rotations = [np.linalg.qr(np.asarray(draw(24, 24, seed=seed), np.float64))[0] for seed in (0, 1)]
    matrix = jnp.asarray(rotations[0] * values @ rotations[1].T, jnp.float32)
    expected = values / np.linalg.norm(values) / 1.01
    for a, b, c in POLAR_EXPRESS[:5]:
        expected = a * expected + b * expected**3 + c * expected**5
    assert np.all((expected > 0.8) & (expected < 1.2))
    found = np.linalg.svd(np.asarray(orthogonalize(matrix, POLAR_EXPRESS[:5], 5, 1e-7)), compute_uv=False)
    np.testing.assert_allclose(np.sort(found), np.sort(expected), atol=0.05)
    plain = np.linalg.svd(np.asarray(orthogonalize(matrix, *NS)), compute_uv=False)
    assert plain.min() < 0.7 < 0.8 < found.min()
    tx, own = (fo.muon(lr=1.0, weight_decay=0.0, ns_polynomials=one) for one in ("polar_express", POLAR_EXPRESS[:5]))
    assert tx == own
    update, _ = tx.update(matrix, tx.init(matrix))
    np.testing.assert_allclose(-update, orthogonalize(matrix, POLAR_EXPRESS[:5], 5, 1e-7), atol=0.05)
    repeated = fo.muon(ns_polynomials="polar_express", ns_steps=9).update.of.rule.ns_polynomials
    assert repeated[7] == repeated[8] == (1.875, -1.25, 0.375)


@pytest.mark.parametrize("polynomials", ["polar", ((1.0, 2.0, 3.0),), ((1.0, 2.0),) * 5])
def test_wrong_polynomials_raise(polynomials):
    with pytest.raises(ValueError, match="ns_polynomials must"):
        fo.muon(ns_polynomials=polynomials)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16), (3, 8, 40), (30, 40)])
@pytest.mark.parametrize("coefficients", [NS[0], POLAR_EXPRESS[:5]])
def test_the_gram_form_gives_what_the_iterations_give(shape, coefficients):
    """Both are off the exact iterations by bfloat16's roundings; a square matrix is iterated as usual."""
    matrix = draw(*shape)
    gram, plain = (np.asarray(orthogonalize(matrix, coefficients, 5, 1e-7, gram=gram)) for gram in (True, False))
    left, values, right = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    each = isinstance(coefficients[0], tuple)
    values = values / np.linalg.norm(values, axis=-1, keepdims=True) / (1.01 if each else 1.0)
    for a, b, c in coefficients if each else [coefficients] * 5:
        values = a * values + b * values**3 + c * values**5
    exact = left * values[..., None, :] @ right
    for found in (gram, plain):  # the polynomials of Polar Express have larger coefficients
        assert np.linalg.norm(found - exact) <= (5e-2 if each else 2e-2) * np.linalg.norm(exact)
    assert np.array_equal(gram, plain) == (shape == (30, 40))
    tx = fo.muon(lr=0.1, gram=True)
    updates, _ = tx.update(matrix, tx.init(matrix), matrix)
    assert updates.shape == shape


def test_normuon_is_its_equations():
    """Its authors' update, written in NumPy, with the orthogonalization as it is."""
    params, state = draw(6, 4), None
    tx, buffer, squares = fo.normuon(lr=0.1, weight_decay=0.2), np.zeros((6, 4)), np.zeros((6, 1))
    state = tx.init(params)
    for step in range(1, 5):
        grad = np.asarray(draw(6, 4, seed=step))
        updates, state = tx.update(jnp.asarray(grad), state, params)
        buffer = 0.95 * buffer + 0.05 * grad
        own = np.asarray(orthogonalize(jnp.asarray(0.05 * grad + 0.95 * buffer, jnp.float32), *NS), np.float64)
        squares = 0.95 * squares + 0.05 * np.mean(own**2, axis=1, keepdims=True)
        scaled = own / (np.sqrt(squares) + 1e-10)
        scaled *= np.linalg.norm(own) / (np.linalg.norm(scaled) + 1e-10)
        wanted = -0.1 * 0.2 * np.asarray(params) - 0.1 * np.sqrt(6 / 4) * scaled
        assert np.linalg.norm(updates - wanted) <= 2e-2 * np.linalg.norm(wanted)
        params = fo.apply_updates(params, updates)
    np.testing.assert_allclose(state.second_momentum_buffer, squares, rtol=2e-2)
    assert state.second_momentum_buffer.shape == (6, 1)


def test_the_class_of_normuon_steps_as_the_function_and_keeps_its_state():
    params = {"w": draw(6, 4), "stack": draw(2, 4, 5)}
    one = optim.NorMuon(params, lr=0.1, weight_decay=0.1, beta2=0.9, batched=True)
    tx = fo.normuon(lr=0.1, weight_decay=0.1, beta2=0.9)
    state = tx.init(params)
    for step in range(1, 4):
        grads = {name: draw(*leaf.shape, seed=step) for name, leaf in params.items()}
        one.step(grads)
        updates, state = tx.update(grads, state, params)
        params = fo.apply_updates(params, updates)
    again = optim.NorMuon(one.params, batched=True)
    again.load_state_dict(one.state_dict())
    assert again.param_groups[0]["beta2"] == 0.9
    for each in (one, again):
        each.step(grads)
    updates, _ = tx.update(grads, state, params)
    for name, leaf in fo.apply_updates(params, updates).items():
        np.testing.assert_allclose(one.params[name], leaf, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(one.params[name], again.params[name])
