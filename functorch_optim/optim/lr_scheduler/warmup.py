"""A warm-up, a plateau and a decay."""

from functorch_optim import schedules
from functorch_optim.optim.lr_scheduler.scheduled import ScheduledLR
from functorch_optim.optim.optimizer import Optimizer
from functorch_optim.schedules.schedule import check_number


class WarmupStableDecay(ScheduledLR):
    """Raise every group's learning rate from 0 to its base rate, hold it, and lower it to ``end``.

    torch has no such class. The schedule is :class:`functorch_optim.schedules.warmup_stable_decay`, with the group's
    base rate as the peak. It is computed from the epoch alone, so it overwrites a rate that was set by hand, as
    ``LambdaLR`` does. To train longer, load the state into one with a longer plateau and
    ``load_state_dict(saved, keep=["stable_steps"])``.

    Args:
        optimizer: the optimizer.
        warmup_steps, stable_steps, decay_steps: the lengths of the phases in epochs, at least 0.
        end: the final learning rate of every group.
        last_epoch: -1 to start.

    Raises:
        ValueError, TypeError: an option is out of range, or not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> from functorch_optim import optim
        >>> optimizer = optim.SGD([jnp.zeros(1)], lr=1.0)
        >>> scheduler = WarmupStableDecay(optimizer, warmup_steps=2, stable_steps=1, decay_steps=2)
        >>> rates = []
        >>> for epoch in range(6):
        ...     rates.append(scheduler.get_last_lr()[0])
        ...     optimizer.step([jnp.ones(1)])
        ...     scheduler.step()
        >>> rates
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        stable_steps: int,
        decay_steps: int,
        end: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup_steps = warmup_steps
        self.stable_steps = stable_steps
        self.decay_steps = decay_steps
        self.end = end
        super().__init__(optimizer, last_epoch)

    def _check_options(self) -> None:
        check_number("end", self.end, 0)
        super()._check_options()

    def schedule(self, base: float) -> schedules.warmup_stable_decay:
        return schedules.warmup_stable_decay(base, self.warmup_steps, self.stable_steps, self.decay_steps, self.end)

    def get_lr(self) -> list[float]:
        return self._closed(self.base_lrs)
