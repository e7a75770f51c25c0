"""The available optimizers, with suitable options for each."""

import functorch_optim as fo
from functorch_optim import optim
from functorch_optim.typing import PyTree

WARMUP_EPOCHS, DECAY_EPOCHS = 1, 30  # the schedule's horizon; independent of --epochs, so that a run can be extended
DEFAULT_LR = {"sgd": 0.1, "adam": 2e-3, "adamw": 2e-3}
OPTIONS: dict[str, dict[str, PyTree]] = {"sgd": {"momentum": 0.9, "nesterov": True}, "adam": {}, "adamw": {}}
CLASSES = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}
MAX_NORM = 1.0


def make_schedule(lr: float, steps_per_epoch: int) -> PyTree:
    return fo.schedules.warmup_cosine(lr, WARMUP_EPOCHS * steps_per_epoch, DECAY_EPOCHS * steps_per_epoch, end=lr / 100)


def make_optimizer(name: str, lr: float, steps_per_epoch: int) -> fo.GradientTransformation:
    schedule = make_schedule(lr, steps_per_epoch)
    return fo.chain(fo.clip_by_global_norm(MAX_NORM), getattr(fo, name)(lr=schedule, **OPTIONS[name]))
