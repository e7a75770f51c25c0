"""Exponential moving average of the parameters."""

from types import ModuleType

import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim.averaging.average import Average
from functorch_optim.base import GradientTransformation, transformation
from functorch_optim.hyperparams import Beta, BetaOption, Decay, resolve
from functorch_optim.option_names import explains_names
from functorch_optim.schedules.schedule import Schedule, as_float
from functorch_optim.typing import Numeric


class Ema(Average):
    decay: Decay
    debias: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.debias and (self.decay == 1.0 if isinstance(self.decay, float) else self.decay == Beta(1.0, 0.0)):
            raise ValueError("with a decay of 1 no parameters come in, and there is no bias to remove")

    @property
    def from_zero(self) -> bool:
        return self.debias

    def keep(self, n_averaged: Numeric) -> Beta:
        if isinstance(self.decay, ema_warmup):
            return self.decay.pair(n_averaged)
        return resolve("decay", self.decay, n_averaged, beta=True)


class ema_warmup(Schedule):
    """A decay that starts small: ``min(decay, (1 + t) / (10 + t))``.

    Args:
        decay: the largest value.

    Example:
        >>> [round(ema_warmup(0.999)(t), 4) for t in (0, 10, 100_000)]
        [0.1, 0.55, 0.999]
    """

    decay: Decay

    def evaluate(self, step: Numeric, xp: ModuleType) -> Numeric:
        t = as_float(step, xp)
        return xp.minimum(resolve("decay", self.decay, step, beta=True).value, (1 + t) / (10 + t))

    def pair(self, step: Numeric) -> Beta:
        """Return the value and one minus it, without loss of digits."""
        t, largest = jnp.asarray(step, jnp.result_type(float)), resolve("decay", self.decay, step, beta=True)
        return Beta(jnp.minimum(largest.value, (1 + t) / (10 + t)), jnp.maximum(largest.complement, 9 / (10 + t)))


@explains_names
def ema(
    decay: BetaOption = 0.999,
    debias: bool = False,
    start_step: int = 0,
    every: int = 1,
    dtype: DTypeLike | None = None,
) -> GradientTransformation:
    r"""Exponential moving average of the parameters; place it last in a chain.

    Updates pass through unchanged. Each time the resulting parameters p enter the average a::

        a <- p                                the first time
        a <- decay * a + (1 - decay) * p      afterwards

    Args:
        decay: from 0 to 1: a number, a scalar array, or a function of how often parameters entered so far, such as
            :class:`functorch_optim.ema_warmup`.
        debias: whether to start at zeros instead of the first parameters; reading the average then removes the zeros'
            share, the product of all decays.
        start_step: number of updates to skip first; until then the average follows the parameters.
        every: average only once per this many updates.
        dtype: the average's dtype; by default the parameters', at least float32.

    Returns:
        A transformation with the state :class:`functorch_optim.AverageState`; its ``update`` needs ``params``. Read it
        with :func:`functorch_optim.averaged_params`, swap it in with :func:`functorch_optim.swap_params`.

    Raises:
        ValueError: ``decay`` is out of range, with torch's message.

    Source: Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; torch's
    ``AveragedModel`` with ``get_ema_multi_avg_fn``.

    Example:
        >>> import functorch_optim as fo
        >>> tx = fo.chain(fo.adamw(lr=1e-3), ema(decay=0.999))
        >>> ema(decay=1.5)
        Traceback (most recent call last):
            ...
        ValueError: Invalid decay value 1.5 provided. Please provide a value in [0,1] range. (option 'decay')
    """
    return transformation(Ema(start_step, every, dtype, decay, debias))
