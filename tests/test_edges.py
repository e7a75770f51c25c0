"""Edge cases against an installed torch, and what compiled memory the step takes."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo

EDGES = [
    ("Adam", {"betas": (0.0, 0.0)}),
    ("Adam", {"betas": (0.3, 0.5), "eps": 0.1}),
    ("Adam", {"betas": (0.0, 0.99), "amsgrad": True, "eps": 0.0}),
    ("Adam", {"betas": (0.99, 0.0), "lr": 0.0}),
    ("AdamW", {"lr": 1.0, "weight_decay": 1.0}),
    ("AdamW", {"lr": 0.5, "weight_decay": 3.0, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 1.5}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 1.0}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": -0.5, "weight_decay": 2.0}),
    ("SGD", {"lr": 0.0, "momentum": 0.9, "nesterov": True}),
]
SHAPES = [(), (0,), (1,), (3, 0, 2), (4, 3)]


@pytest.mark.parametrize(("name", "options"), EDGES)
def test_against_torch(name, options, x64):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch; the recorded trajectories do not")
    rng = np.random.default_rng(0)
    start = [np.asarray(rng.standard_normal(shape)) for shape in SHAPES]
    tensors = [torch.nn.Parameter(torch.tensor(array)) for array in start]
    optimizer = getattr(torch.optim, name)(tensors, **options)
    tx = getattr(fo, name.lower())(**options)
    params = [jnp.asarray(array) for array in start]
    state = tx.init(params)
    for step in range(8):
        grads = [np.asarray(rng.standard_normal(shape) if step != 4 else np.ones(shape)) for shape in SHAPES]
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.tensor(grad)
        optimizer.step()
        updates, state = tx.update([jnp.asarray(grad) for grad in grads], state, params)
        params = fo.apply_updates(params, updates)
        for ours, tensor in zip(params, tensors, strict=True):
            np.testing.assert_allclose(ours, tensor.detach().numpy(), rtol=1e-11, atol=1e-13)
    for key in set(state._fields) - {"step"}:
        for slot, tensor in zip(getattr(state, key) or [], tensors, strict=False):
            np.testing.assert_allclose(slot, optimizer.state[tensor][key].numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("tx", [fo.sgd(momentum=0.9), fo.adam(), fo.adamw(amsgrad=True)])
def test_a_donated_step_reuses_every_buffer(tx):
    params = {f"{i}.{j}": jnp.ones((64, 64)) for i, j in itertools.product(range(3), repeat=2)}
    state = tx.init(params)

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return fo.apply_updates(params, updates), state

    memory = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, params).compile().memory_analysis()
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((params, state)))
    assert memory.alias_size_in_bytes == held
    assert memory.temp_size_in_bytes < 0.01 * held


def test_step_stays_at_the_largest_integer():
    tx = fo.adam()
    state = tx.init(jnp.ones(()))._replace(step=jnp.asarray(np.iinfo(np.int32).max, jnp.int32))
    updates, state = tx.update(jnp.ones(()), state)
    assert int(state.step) == np.iinfo(np.int32).max
    assert np.isfinite(updates)
