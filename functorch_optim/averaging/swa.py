"""The equal average of the parameters: stochastic weight averaging."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim.averaging.average import Average
from functorch_optim.base import GradientTransformation, transformation
from functorch_optim.hyperparams import Beta


class Swa(Average):
    def keep(self, n_averaged: Any) -> Beta:
        share = 1 / (n_averaged.astype(jnp.result_type(float)) + 1)
        return Beta(1 - share, share)


def swa(start_step: int = 0, every: int = 1, dtype: DTypeLike | None = None) -> GradientTransformation:
    r"""The mean of the parameters over the updates; place it last in a chain.

    The updates pass through. With p the parameters that result from them, and n how often they came in before::

        a <- a + (p - a) / (n + 1)

    Args:
        start_step: how many updates to let pass before; until then the average follows the parameters.
        every: parameters come in at every so many updates, once an epoch say.
        dtype: that of the average; by default the parameters', at least float32.

    Returns:
        A transformation with the state :class:`functorch_optim.AverageState`; its ``update`` needs ``params``. Read it
        by :func:`functorch_optim.averaged_params`, swap it in by :func:`functorch_optim.swap_params`.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018; torch's
    ``AveragedModel``.

    Example:
        >>> import functorch_optim as fo
        >>> fo.chain(fo.sgd(lr=0.1), swa(start_step=100, every=10)).init(jnp.zeros(2)).states[1].n_averaged.item()
        0
    """
    return transformation(Swa(start_step, every, dtype))
