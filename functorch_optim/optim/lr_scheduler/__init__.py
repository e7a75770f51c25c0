"""Schedulers with the face of ``torch.optim.lr_scheduler``: they write ``group["lr"]``, which compiles nothing."""

from functorch_optim.optim.lr_scheduler.base import LRScheduler
from functorch_optim.optim.lr_scheduler.cosine import CosineAnnealingLR
from functorch_optim.optim.lr_scheduler.step import StepLR

__all__ = ["CosineAnnealingLR", "LRScheduler", "StepLR"]
