"""Muon beyond the shared table: bfloat16, stacks, kernels, sizes, errors, and its combination with AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.newton_schulz import orthogonalize

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
