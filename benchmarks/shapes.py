"""The parameter shapes that the speed runs use: ResNet-50, GPT-2 small, and many small leaves."""

import jax
import jax.numpy as jnp
import numpy as np

Shapes = dict[str, tuple[int, ...]]


def arrays(of: Shapes, seed: int) -> dict[str, jax.Array]:
    """Return normal numbers in arrays of these shapes."""
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(shape, np.float32)) for name, shape in of.items()}


def resnet50() -> Shapes:
    """25.6 M parameters in 161 leaves; convolution kernels in JAX's layout (height, width, in, out)."""
    shapes: Shapes = {"stem": (7, 7, 3, 64), "stem.scale": (64,), "stem.bias": (64,)}
    channels = 64
    for stage, (blocks, width) in enumerate([(3, 64), (4, 128), (6, 256), (3, 512)]):
        for block in range(blocks):
            convolutions = [(1, 1, channels, width), (3, 3, width, width), (1, 1, width, 4 * width)]
            if block == 0:
                convolutions.append((1, 1, channels, 4 * width))
            for index, kernel in enumerate(convolutions):
                name = f"{stage}.{block}.{index}"
                shapes |= {name: kernel, f"{name}.scale": kernel[-1:], f"{name}.bias": kernel[-1:]}
            channels = 4 * width
    return shapes | {"head.kernel": (channels, 1000), "head.bias": (1000,)}


def gpt2_small() -> Shapes:
    """124 M parameters in 148 leaves."""
    width = 768
    ends = {"ln_f.scale": (width,), "ln_f.bias": (width,)}
    return {"wte": (50257, width), "wpe": (1024, width)} | blocks(12, width) | ends


def blocks(count: int, width: int) -> Shapes:
    """Blocks of a transformer, 12 leaves each."""
    shapes: Shapes = {}
    for layer in range(count):
        for name, shape in {
            "ln_1.scale": (width,),
            "ln_1.bias": (width,),
            "attn.kernel": (width, 3 * width),
            "attn.bias": (3 * width,),
            "proj.kernel": (width, width),
            "proj.bias": (width,),
            "ln_2.scale": (width,),
            "ln_2.bias": (width,),
            "mlp_in.kernel": (width, 4 * width),
            "mlp_in.bias": (4 * width,),
            "mlp_out.kernel": (4 * width, width),
            "mlp_out.bias": (width,),
        }.items():
            shapes[f"h{layer}.{name}"] = shape
    return shapes


def many_leaves(count: int = 1000) -> Shapes:
    """``count`` leaves, half of shape (32, 32) and half of shape (32,)."""
    pair = (("kernel", (32, 32)), ("bias", (32,)))
    return {f"{index}.{name}": shape for index in range(count // 2) for name, shape in pair}


def gpt2_matrices() -> Shapes:
    """The matrices of GPT-2 small that suit Muon: those in its layers."""
    return {name: shape for name, shape in gpt2_small().items() if len(shape) == 2 and name.startswith("h")}


def torch_layout(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a kernel's shape in torch's layout: (out, in, height, width), or (out, in)."""
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


ALL = {
    "ResNet-50": resnet50,
    "GPT-2 small": gpt2_small,
    "1000 leaves": many_leaves,
    "1500 leaves": lambda: many_leaves(1500),
    "48 equal blocks": lambda: blocks(48, 64),
    "4000 leaves": lambda: many_leaves(4000),
    "GPT-2 matrices": gpt2_matrices,
}
