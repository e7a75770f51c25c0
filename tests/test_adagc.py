"""AdaGC against its equations in NumPy, and with AdamW against pytorch-optimizer's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo

SHAPES = {"bias": (3,), "kernel": (4, 3)}


def draw(seed, size=1.0):
    rng = np.random.default_rng(seed)
    return {key: size * rng.standard_normal(shape) for key, shape in SHAPES.items()}


def spikes(step):
    """Gradients of which some are far larger than the others."""
    return draw(step, 20.0 if step % 4 == 3 else 0.0 if step == 6 else 1.0)


def test_the_equations(x64):
    """The warm-up, the relative bound, a gradient of zeros, and a parameter whose gradient is missing."""
    tx, gamma = fo.clip_by_adagc(lambda_rel=1.1, lambda_abs=2.0, beta=0.9, warmup_steps=4), {}
    state = tx.init(draw(0))
    for step in range(1, 13):
        grads = spikes(step)
        if step in (2, 9):
            grads["bias"] = None
        there = {key: grad for key, grad in grads.items() if grad is not None}
        clipped, state = tx.update(jax.tree.map(jnp.asarray, grads), state)
        whole = np.sqrt(sum(np.sum(grad**2) for grad in there.values()))
        for key, grad in there.items():
            norm = np.sqrt(np.sum(grad**2))
            if step < 4:
                factor = min(2.0 / (whole + 1e-8), 1)
                gamma[key] = min(gamma.get(key, np.inf), factor * norm)
            else:
                factor = min(1.1 * max(gamma[key], 1e-8) / max(norm, 1e-8), 1)
                gamma[key] = 0.9 * gamma[key] + 0.1 * factor * norm
            np.testing.assert_allclose(clipped[key], factor * grad, rtol=1e-12, atol=1e-15)
            np.testing.assert_allclose(state.gamma[key], gamma[key], rtol=1e-12)
        assert clipped["bias"] is None or step not in (2, 9)


def test_what_is_not_finite_passes_and_changes_nothing():
    tx = fo.clip_by_adagc(warmup_steps=1)
    _, state = tx.update({"a": jnp.ones(2), "b": jnp.ones(2)}, tx.init({"a": jnp.ones(2), "b": jnp.ones(2)}))
    bad = {"a": jnp.array([1.0, jnp.nan]), "b": jnp.full(2, 100.0)}
    clipped, after = tx.update(bad, state)
    np.testing.assert_array_equal(clipped["a"], bad["a"])
    np.testing.assert_array_equal(clipped["b"], bad["b"])
    assert after.gamma == state.gamma


@pytest.mark.torch
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_with_adamw_it_is_the_packages(weight_decay, x64):
    torch = pytest.importorskip("torch", reason="compares with pytorch-optimizer")
    import pytorch_optimizer

    tensors = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in draw(0).items()}
    options = {"lr": 0.1, "weight_decay": weight_decay}
    theirs = pytorch_optimizer.AdaGC(list(tensors.values()), warmup_steps=5, foreach=False, **options)
    tx, params = fo.chain(fo.clip_by_adagc(warmup_steps=5), fo.adamw(**options)), jax.tree.map(jnp.asarray, draw(0))
    state = tx.init(params)
    for step in range(1, 51):
        for key, grad in spikes(step).items():
            tensors[key].grad = torch.tensor(grad)
        theirs.step()
        updates, state = tx.update(jax.tree.map(jnp.asarray, spikes(step)), state, params)
        params = fo.apply_updates(params, updates)
        for key, tensor in tensors.items():
            # the package sums the norm of all gradients in float32, and bounds the first ones by it
            np.testing.assert_allclose(params[key], tensor.detach().numpy(), rtol=1e-6, atol=1e-7)
