"""The network, its loss and its accuracy."""

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim.typing import PyTree


def init_params(seed: int) -> dict[str, dict[str, jax.Array]]:
    """Initialize two convolutions and two dense layers as He et al. do."""
    shapes = {"conv1": (3, 3, 1, 16), "conv2": (3, 3, 16, 32), "dense1": (128, 64), "dense2": (64, 10)}
    rng = np.random.default_rng(seed)
    return {
        name: {
            "kernel": jnp.array(rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape), jnp.float32),
            "bias": jnp.zeros(shape[-1]),
        }
        for name, shape in shapes.items()
    }


def predict(params: PyTree, images: jax.Array) -> jax.Array:
    """Compute logits (n, 10)."""
    x = images
    for name in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(
            x, params[name]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + params[name]["bias"].reshape(1, 1, 1, -1))
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(x.shape[0], -1)
    x = jax.nn.relu(x @ params["dense1"]["kernel"] + params["dense1"]["bias"].reshape(1, -1))
    return x @ params["dense2"]["kernel"] + params["dense2"]["bias"].reshape(1, -1)


def loss_fn(params: PyTree, images: jax.Array, labels: jax.Array) -> jax.Array:
    log_probs = jax.nn.log_softmax(predict(params, images))
    return -jnp.mean(jnp.take_along_axis(log_probs, labels[:, None], axis=1))


@jax.jit
def accuracy(params: PyTree, images: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(jnp.argmax(predict(params, images), axis=1) == labels)
