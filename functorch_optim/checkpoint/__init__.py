"""Checkpoints: torch's files, read and written without torch."""

from functorch_optim.checkpoint.atomic import atomic_write
from functorch_optim.checkpoint.errors import CheckpointError
from functorch_optim.checkpoint.torch_reader import load_torch
from functorch_optim.checkpoint.torch_writer import save_torch

__all__ = ["CheckpointError", "atomic_write", "load_torch", "save_torch"]
