"""What every schedule is: a frozen, value-equal function of the step.

A schedule's class is named like the function it is used as. Given a Python number it calculates in doubles and returns
a float; given an array, in JAX's default float dtype.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim.hyperparams import Options, Scalar


class Schedule(Options):
    """Base of the schedules: a subclass declares its options and ``evaluate(step, xp)``."""

    def evaluate(self, step: Any, xp: Any) -> Any:
        """The value at ``step``, with numpy's or jax.numpy's functions in ``xp``."""
        raise NotImplementedError(f"{type(self).__name__} does not define evaluate")  # abstract: every subclass does

    def __call__(self, step: Any) -> Any:
        """The value at ``step``: the number of updates so far, an int, a fraction or an array of these."""
        traced = isinstance(step, jax.Array) or any(isinstance(option, Scalar) for option in vars(self).values())
        if not traced and np.ndim(step) == 0:
            return float(self.evaluate(step, np))
        dtype = jnp.result_type(float)
        return jnp.broadcast_to(jnp.asarray(self.evaluate(jnp.asarray(step), jnp), dtype), jnp.shape(step))


def number(option: Any) -> Any:
    """An option of a schedule for arithmetic: a Python float or a scalar of JAX's default float dtype."""
    return option.array.astype(jnp.result_type(float)) if isinstance(option, Scalar) else option


def fraction(numerator: Any, denominator: int, xp: Any) -> Any:
    """``numerator / denominator`` in the default float dtype, of integers or floats."""
    return numerator / denominator if xp is np else numerator.astype(jnp.result_type(float)) / denominator
