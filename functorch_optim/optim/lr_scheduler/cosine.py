"""Half a cosine down, and up again."""

import math

from functorch_optim.optim.lr_scheduler.base import LRScheduler
from functorch_optim.optim.optimizer import Optimizer


class CosineAnnealingLR(LRScheduler):
    """Lowers the learning rate of every group to ``eta_min`` in ``T_max`` epochs along half a cosine, then raises it.

    ``eta_min + (base - eta_min) * (1 + cos(pi * epoch / T_max)) / 2``, each value from the one before it as torch does,
    so that a learning rate set by hand is carried on.

    Args:
        optimizer: the optimizer.
        T_max: number of epochs down to ``eta_min``.
        eta_min: the lowest learning rate.
        last_epoch: -1 to begin.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD([jnp.zeros(1)], lr=1.0)
        >>> scheduler = CosineAnnealingLR(optimizer, T_max=4, eta_min=0.1)
        >>> optimizer.step([jnp.ones(1)])
        >>> scheduler.step()
        >>> [round(lr, 6) for lr in scheduler.get_last_lr()]
        [0.868198]
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer, last_epoch)

    def _share(self, epoch: int) -> float:
        return (1 + math.cos(math.pi * epoch / self.T_max)) / 2

    def get_lr(self) -> list[float]:
        if self._is_initial:
            return self._lrs()
        if self._step_count == 1 and self.last_epoch > 0:
            return self._get_closed_form_lr()
        pairs = list(zip(self._lrs(), self.base_lrs, strict=True))
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # the last value was eta_min: no ratio to it
            return [lr + (base - self.eta_min) * (1 - self._share(1)) for lr, base in pairs]
        ratio = self._share(self.last_epoch) / self._share(self.last_epoch - 1)
        return [ratio * (lr - self.eta_min) + self.eta_min for lr, _ in pairs]

    def _get_closed_form_lr(self) -> list[float]:
        return [self.eta_min + (base - self.eta_min) * self._share(self.last_epoch) for base in self.base_lrs]
