"""Convert torch's tensors to arrays, without importing torch."""

from typing import Any

import jax
import jax.numpy as jnp

from functorch_optim.typing import PyTree


def is_tensor(value: object) -> bool:
    """Whether an option is what torch calls a Tensor: here a JAX array, or one of torch's own."""
    return isinstance(value, jax.Array) or _is_torchs(value)


def _is_torchs(value: object) -> bool:
    return type(value).__module__.partition(".")[0] == "torch"


def as_array(value: Any) -> PyTree:
    """Convert torch's tensors, through their own methods, to NumPy's or JAX's arrays; return anything else as it is."""
    if isinstance(value, list):
        return [as_array(item) for item in value]
    if not _is_torchs(value):
        return value
    tensor = value.detach().cpu().resolve_conj().resolve_neg()
    if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no bfloat16; float32 holds all its values
        return jnp.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
    return tensor.numpy()
