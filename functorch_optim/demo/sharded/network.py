"""A decoder-only transformer in plain JAX: its parameters and its loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from functorch_optim.demo.sharded.text import VOCABULARY
from functorch_optim.typing import PyTree


class Config(NamedTuple):
    """The sizes of a transformer."""

    width: int = 256
    layers: int = 3
    heads: int = 8
    length: int = 64
    vocabulary: int = VOCABULARY


def init_params(config: Config, key: jax.Array) -> PyTree:
    """Draw the parameters. Inside ``jit`` each device draws its own part, and the numbers are the same on any mesh."""
    width = config.width

    def kernel(key: jax.Array, inputs: int, outputs: int, scale: float = 1.0) -> dict[str, jax.Array]:
        return {"kernel": scale * jax.random.normal(key, (inputs, outputs)) / inputs**0.5}

    def layer(key: jax.Array) -> PyTree:
        query, key, value, out, up, down = jax.random.split(key, 6)
        small = (2 * config.layers) ** -0.5  # as in GPT-2: all layers together add as much as one
        return {
            "norm1": {"scale": jnp.ones(width)},
            "query": kernel(query, width, width),
            "key": kernel(key, width, width),
            "value": kernel(value, width, width),
            "out": kernel(out, width, width, small),
            "norm2": {"scale": jnp.ones(width)},
            "up": kernel(up, width, 4 * width),
            "down": kernel(down, 4 * width, width, small),
        }

    ends, *layers = jax.random.split(key, config.layers + 1)
    tokens, positions, head = jax.random.split(ends, 3)
    return {
        "tokens": 0.4 * jax.random.normal(tokens, (config.vocabulary, width)),
        "positions": 0.4 * jax.random.normal(positions, (config.length, width)),
        "layers": [layer(each) for each in layers],
        "norm": {"scale": jnp.ones(width)},
        "head": kernel(head, width, config.vocabulary),
    }


def loss_fn(config: Config, params: PyTree, tokens: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of each token after those before it, in nats."""
    logits = logits_of(config, params, tokens[:, :-1])
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1)
    return -jnp.mean(picked)


def logits_of(config: Config, params: PyTree, tokens: jax.Array) -> jax.Array:
    x = params["tokens"][tokens] + params["positions"]
    for layer in params["layers"]:
        x = x + _attention(config, layer, _norm(x, layer["norm1"]))
        x = x + jax.nn.gelu(_norm(x, layer["norm2"]) @ layer["up"]["kernel"]) @ layer["down"]["kernel"]
    return _norm(x, params["norm"]) @ params["head"]["kernel"]


def _attention(config: Config, layer: PyTree, x: jax.Array) -> jax.Array:
    heads = [(x @ layer[name]["kernel"]).reshape(*x.shape[:2], config.heads, -1) for name in ("query", "key", "value")]
    return jax.nn.dot_product_attention(*heads, is_causal=True).reshape(x.shape) @ layer["out"]["kernel"]


def _norm(x: jax.Array, layer: PyTree) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * layer["scale"]
