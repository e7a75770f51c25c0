"""Stochastic weight averaging: the mean of the parameters with equal weights."""

from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from functorch_optim.averaging.average import Average
from functorch_optim.base import GradientTransformation, transformation
from functorch_optim.hyperparams import Beta
from functorch_optim.option_names import explains_names


class Swa(Average):
    def keep(self, n_averaged: Any) -> Beta:
        share = 1 / (n_averaged.astype(jnp.result_type(float)) + 1)
        return Beta(1 - share, share)


@explains_names
def swa(start_step: int = 0, every: int = 1, dtype: DTypeLike | None = None) -> GradientTransformation:
    r"""Mean of the parameters over the updates; place it last in a chain.

    Updates pass through unchanged. Each time the resulting parameters p enter the average a, after n earlier ones::

        a <- a + (p - a) / (n + 1)

    Args:
        start_step: number of updates to skip first; until then the average follows the parameters.
        every: average only once per this many updates, for example those of an epoch.
        dtype: the average's dtype; by default the parameters', at least float32.

    Returns:
        A transformation with the state :class:`functorch_optim.AverageState`; its ``update`` needs ``params``. Read it
        with :func:`functorch_optim.averaged_params`, swap it in with :func:`functorch_optim.swap_params`.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018; torch's
    ``AveragedModel``.

    Example:
        >>> import functorch_optim as fo
        >>> fo.chain(fo.sgd(lr=0.1), swa(start_step=100, every=10)).init(jnp.zeros(2)).states[1].n_averaged.item()
        0
    """
    return transformation(Swa(start_step, every, dtype))
