"""Inside flax, nnx.Optimizer and TrainState take our transformations unchanged."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import functorch_optim as fo

pytestmark = pytest.mark.usefixtures("standard_promotion")

PAIRS = [
    (fo.adam(lr=0.1), optax.adam(0.1)),
    (fo.sgd(lr=0.1, momentum=0.9), optax.sgd(0.1, momentum=0.9)),
    (fo.adamw(lr=0.1, weight_decay=0.1), optax.adamw(0.1, weight_decay=0.1)),
    (
        fo.partition({"a": fo.adam(lr=0.1), "b": fo.sgd(lr=0.1)}, lambda path: "b" if path.endswith("bias") else "a"),
        None,
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_nnx_optimizer(ours, theirs):
    def train(tx):
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer, x):
            loss, grads = nnx.value_and_grad(lambda model: jnp.mean(model(x) ** 2))(model)
            optimizer.update(model, grads)
            return loss

        losses = [float(step(model, optimizer, jnp.ones((4, 3)))) for _ in range(5)]
        return losses, nnx.to_pure_dict(nnx.state(model))

    losses, params = train(ours)
    assert losses[-1] < losses[0]
    if theirs is not None:
        chex.assert_trees_all_close(params, train(theirs)[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_train_state(ours, theirs):
    def train(tx):
        params = {"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}
        state = TrainState.create(apply_fn=lambda p, x: x @ p["kernel"] + p["bias"], params=params, tx=tx)

        @jax.jit
        def step(state, x):
            grads = jax.grad(lambda p: jnp.mean((state.apply_fn(p, x) - 1.0) ** 2))(state.params)
            return state.apply_gradients(grads=grads)

        for _ in range(5):
            state = step(state, jnp.ones((4, 3)))
        return state

    state = train(ours)
    assert int(state.step) == 5
    if theirs is not None:
        chex.assert_trees_all_close(state.params, train(theirs).params, rtol=1e-4, atol=1e-6)
