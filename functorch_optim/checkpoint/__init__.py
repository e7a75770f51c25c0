"""Checkpoints: torch's files without torch, safetensors, arrays for any other format, and torch's layouts."""

from functorch_optim.checkpoint.atomic import atomic_write
from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.checkpoint.flat import from_arrays, to_arrays
from functorch_optim.checkpoint.safetensors_file import load_safetensors, save_safetensors
from functorch_optim.checkpoint.state_names import flatten_state_dict, unflatten_state_dict
from functorch_optim.checkpoint.torch_layout import TORCH_NAMES, LeafRule, TorchLayout
from functorch_optim.checkpoint.torch_reader import load_torch
from functorch_optim.checkpoint.torch_writer import save_torch

__all__ = [
    "TORCH_NAMES",
    "CheckpointError",
    "LeafRule",
    "TorchLayout",
    "atomic_write",
    "flatten_state_dict",
    "from_arrays",
    "load_safetensors",
    "load_torch",
    "save_safetensors",
    "save_torch",
    "to_arrays",
    "unflatten_state_dict",
]
