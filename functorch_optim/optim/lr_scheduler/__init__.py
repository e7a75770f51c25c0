"""Schedulers with the interface of ``torch.optim.lr_scheduler``: they write ``group["lr"]`` and compile nothing."""

from functorch_optim.optim.lr_scheduler.base import LRScheduler
from functorch_optim.optim.lr_scheduler.composed import ChainedScheduler, SequentialLR
from functorch_optim.optim.lr_scheduler.cycles import CyclicLR, OneCycleLR
from functorch_optim.optim.lr_scheduler.functions import LambdaLR, MultiplicativeLR
from functorch_optim.optim.lr_scheduler.plateau import ReduceLROnPlateau
from functorch_optim.optim.lr_scheduler.restarts import CosineAnnealingWarmRestarts
from functorch_optim.optim.lr_scheduler.scheduled import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from functorch_optim.optim.lr_scheduler.warmup import WarmupStableDecay

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "WarmupStableDecay",
]
