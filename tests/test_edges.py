"""Edge cases against an installed torch, and the memory of a compiled step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import functorch_optim as fo
from tests.algorithms import ALGORITHMS, oracle
from tests.comparison import slots_of

EDGES = [(name, options) for name, row in ALGORITHMS.items() for options in row.edges]
SHAPES = [(), (0,), (1,), (3, 0, 2), (4, 3)]


@pytest.mark.torch
@pytest.mark.parametrize(("name", "options"), EDGES)
def test_against_torch(name, options, x64):
    torch = pytest.importorskip("torch", reason="the live comparison needs torch; the recorded trajectories do not")
    rng = np.random.default_rng(0)
    shapes = [shape for shape in SHAPES if ALGORITHMS[name].takes_empty or 0 not in shape]  # some divide by zero
    start = [np.asarray(rng.standard_normal(shape)) for shape in shapes]
    tensors = [torch.nn.Parameter(torch.tensor(array)) for array in start]
    optimizer = oracle(ALGORITHMS[name].title)(tensors, **options)
    tx = getattr(fo, name)(**options)
    params = [jnp.asarray(array) for array in start]
    state = tx.init(params)
    for step in range(8):
        grads = [np.asarray(rng.standard_normal(shape) if step != 4 else np.ones(shape)) for shape in shapes]
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.tensor(grad)
        optimizer.step()
        updates, state = tx.update([jnp.asarray(grad) for grad in grads], state, params)
        params = fo.apply_updates(params, updates)
        for ours, tensor in zip(params, tensors, strict=True):
            np.testing.assert_allclose(ours, tensor.detach().numpy(), rtol=1e-11, atol=1e-13)
    for key, slots in slots_of(state).items():
        for slot, tensor in zip(slots, tensors, strict=True):
            if slot is None:
                continue
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


def test_adafactor_leaves_empty_parameters_alone():
    """torch divides by their number of entries, zero."""
    tx, params = fo.adafactor(), [jnp.zeros((0,)), jnp.zeros((0, 3))]
    updates, state = tx.update(params, tx.init(params), params)
    assert [update.shape for update in updates] == [(0,), (0, 3)]
    assert int(state.step) == 1


def test_rmsprop_clamps_a_variance_that_rounding_made_negative():
    """With equal gradients the variance is zero up to rounding; torch's root of a negative one is NaN."""
    tx = fo.rmsprop(lr=0.1, centered=True, alpha=0.9)
    state = tx.init(jnp.zeros(1000))
    grads = jnp.linspace(0.1, 3.0, 1000)
    for _ in range(200):
        updates, state = jax.jit(tx.update)(grads, state)
    assert float(jnp.min(state.square_avg - state.grad_avg**2)) < 0
    assert bool(jnp.all(jnp.isfinite(updates)))


def test_adafactor_takes_the_epsilon_of_each_dtype():
    """torch uses the first parameter's epsilon for its whole group."""
    for dtype in (jnp.bfloat16, jnp.float32):
        tx, params = fo.adafactor(lr=1.0), jnp.ones(4, dtype)
        updates, _ = tx.update(jnp.full(4, 1e-3, dtype), tx.init(params), params)
        root = max(float(jnp.asarray(1e-3, dtype)), float(jnp.finfo(dtype).eps))
        np.testing.assert_allclose(updates, -float(jnp.asarray(1e-3, dtype)) / root, rtol=1e-2)
