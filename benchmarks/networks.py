"""The networks whose training loops are timed: many small layers, and a transformer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Network(NamedTuple):
    """Parameters, ``loss(params, batch)``, and a batch."""

    params: Any
    loss: Callable[[Any, jax.Array], jax.Array]
    batch: jax.Array


def small_layers(count: int = 500, width: int = 32, batch: int = 8) -> Network:
    """Residual layers of a kernel and a bias each: their arithmetic takes less time than handing them over."""
    rng = np.random.default_rng(0)

    def layer() -> dict[str, jax.Array]:
        kernel = rng.standard_normal((width, width), np.float32) / width**0.5
        return {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(width)}

    def loss(params: Any, x: jax.Array) -> jax.Array:
        for each in params:
            x = x + 0.05 * jnp.tanh(x @ each["kernel"] + each["bias"])
        return jnp.mean(x**2)

    return Network([layer() for _ in range(count)], loss, jnp.asarray(rng.standard_normal((batch, width), np.float32)))


def transformer(blocks: int = 12, width: int = 128, heads: int = 4, vocabulary: int = 512, length: int = 16) -> Network:
    """GPT with 12 arrays a block and 6 others, and a batch of two short sequences."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal(shape, np.float32) * 0.02)

    def norm(x: jax.Array, of: Any) -> jax.Array:
        centered = x - jnp.mean(x, -1, keepdims=True)
        return centered * jax.lax.rsqrt(jnp.mean(centered**2, -1, keepdims=True) + 1e-5) * of["scale"] + of["bias"]

    def linear(x: jax.Array, of: Any) -> jax.Array:
        return x @ of["kernel"] + of["bias"]

    def new_norm() -> Any:
        return {"scale": jnp.ones(width), "bias": jnp.zeros(width)}

    def new_linear(inside: int, outside: int) -> Any:
        return {"kernel": normal(inside, outside), "bias": jnp.zeros(outside)}

    def new_block() -> Any:
        return {
            "norm_1": new_norm(),
            "qkv": new_linear(width, 3 * width),
            "out": new_linear(width, width),
            "norm_2": new_norm(),
            "up": new_linear(width, 4 * width),
            "down": new_linear(4 * width, width),
        }

    def block(x: jax.Array, of: Any) -> jax.Array:
        qkv = linear(norm(x, of["norm_1"]), of["qkv"]).reshape(*x.shape[:2], 3, heads, width // heads)
        attended = jax.nn.dot_product_attention(*jnp.moveaxis(qkv, 2, 0), is_causal=True)
        x = x + linear(attended.reshape(x.shape), of["out"])
        return x + linear(jax.nn.gelu(linear(norm(x, of["norm_2"]), of["up"])), of["down"])

    def loss(params: Any, tokens: jax.Array) -> jax.Array:
        x = params["tokens"][tokens[:, :-1]] + params["positions"]
        for each in params["blocks"]:
            x = block(x, each)
        logits = jax.nn.log_softmax(linear(norm(x, params["norm"]), params["head"]))
        return -jnp.mean(jnp.take_along_axis(logits, tokens[:, 1:, None], -1))

    params = {
        "tokens": normal(vocabulary, width),
        "positions": normal(length, width),
        "blocks": [new_block() for _ in range(blocks)],
        "norm": new_norm(),
        "head": new_linear(width, vocabulary),
    }
    return Network(params, loss, jnp.asarray(rng.integers(0, vocabulary, (2, length + 1))))


ALL = {"500 small layers": small_layers, "transformer of 12 blocks": transformer}
