"""Tensors of torch as arrays, without importing torch."""

from typing import Any

import jax
import jax.numpy as jnp

from functorch_optim.typing import PyTree


def is_tensor(value: object) -> bool:
    """Whether an option is what torch calls a Tensor: an array of JAX here, or one of torch's own."""
    return isinstance(value, jax.Array) or _is_torchs(value)


def _is_torchs(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "torch"


def as_array(value: Any) -> PyTree:
    """A leaf as NumPy's or JAX's array, or the number it is; torch's tensors are read through their own methods."""
    if isinstance(value, list):
        return [as_array(item) for item in value]
    if not _is_torchs(value):
        return value
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has none; float32 holds every bfloat16
        return jnp.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
    return tensor.numpy()
