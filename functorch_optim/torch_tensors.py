"""Tensors of torch as arrays, without importing torch."""

from typing import Any

import jax.numpy as jnp


def as_array(value: Any) -> Any:
    """A leaf as NumPy's or JAX's array, or the number it is; torch's tensors are read through their own methods."""
    if isinstance(value, list):
        return [as_array(item) for item in value]
    if type(value).__module__.partition(".")[0] != "torch":
        return value
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has none; float32 holds every bfloat16
        return jnp.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
    return tensor.numpy()
