"""Scalar math: in doubles if all inputs are Python numbers, in forms that keep their digits if one is traced."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from functorch_optim.hyperparams import Beta
from functorch_optim.typing import Numeric, PyTree


def on_host(*values: object) -> bool:
    """Whether all the values are Python numbers.

    Example:
        >>> on_host(0.9, 3), on_host(0.9, jnp.asarray(3))
        (True, False)
    """
    for value in values:  # noqa: SIM110 a generator would double the cost
        if isinstance(value, jax.Array):
            return False
    return True


def scalar_sqrt(value: Numeric) -> Numeric:
    """Return the square root: of a number in doubles, of a traced scalar in its dtype.

    Example:
        >>> scalar_sqrt(2.0), scalar_sqrt(jnp.float32(2.0)).dtype
        (1.4142135623730951, dtype('float32'))
    """
    return math.sqrt(value) if on_host(value) else jnp.sqrt(value)


def as_float(value: Any) -> PyTree:
    """Convert a step or a scalar to a Python float, or to an array of JAX's default float dtype.

    Example:
        >>> as_float(3), as_float(jnp.asarray(3, jnp.int32)).item()
        (3.0, 3.0)
    """
    return float(value) if on_host(value) else value.astype(jnp.result_type(float))


def power(base: Numeric, exponent: Numeric) -> Numeric:
    """Return ``base**exponent`` for positive numbers, in doubles on the host.

    Example:
        >>> power(0.5, 3), power(0.5, jnp.float32(3)).item()
        (0.125, 0.125)
    """
    return base**exponent if on_host(base, exponent) else jnp.power(base, exponent)


def maximum(a: Numeric, b: Numeric) -> Numeric:
    """Return the larger of two scalars.

    Example:
        >>> maximum(1.0, 2.0), maximum(1.0, jnp.float32(2)).item()
        (2.0, 2.0)
    """
    return max(a, b) if on_host(a, b) else jnp.maximum(a, b)


def minimum(a: Numeric, b: Numeric) -> Numeric:
    """Return the smaller of two scalars.

    Example:
        >>> minimum(1.0, 2.0), minimum(1.0, jnp.float32(2)).item()
        (1.0, 1.0)
    """
    return min(a, b) if on_host(a, b) else jnp.minimum(a, b)


def ratio(part: Numeric, whole: Numeric, empty: float) -> Numeric:
    """Return ``part / whole``, or ``empty`` where ``whole`` is 0.

    Example:
        >>> ratio(1.0, 2.0, 0.0), ratio(0.0, 0.0, 1.0), ratio(0.0, jnp.float32(0.0), 1.0).item()
        (0.5, 1.0, 1.0)
    """
    if on_host(part, whole):
        return part / whole if whole else empty
    return jnp.where(whole == 0, empty, part / jnp.where(whole == 0, 1.0, whole))


def rounded(value: Any, dtype: np.dtype) -> Numeric:
    """Round a scalar to a dtype, as torch does when it stores one in a tensor.

    Example:
        >>> rounded(0.1, np.dtype("float32")), rounded(0.1, np.dtype("float64"))
        (0.10000000149011612, 0.1)
    """
    return float(dtype.type(value)) if on_host(value) else value.astype(jax.dtypes.canonicalize_dtype(dtype))


def single(value: Any) -> Numeric:
    """Round a scalar to float32.

    Example:
        >>> single(0.1)
        0.10000000149011612
    """
    return rounded(value, np.dtype(np.float32))


def times_in_place(stored: Any, factor: Numeric) -> Numeric:
    """Return ``stored * factor`` in the dtype in which a scalar is stored: its own, or float32 for a Python number.

    As in torch a narrower dtype is multiplied in float32, and rounded once.

    Example:
        >>> times_in_place(0.5, 0.1), times_in_place(np.float64(0.5), 0.1)
        (0.05000000074505806, 0.05)
    """
    dtype = np.dtype(getattr(stored, "dtype", np.float32))
    wide = np.float64 if dtype == np.float64 else np.float32
    if on_host(stored, factor):
        return float(dtype.type(wide(stored) * wide(factor)))
    wide = jax.dtypes.canonicalize_dtype(wide)
    return (jnp.asarray(stored, wide) * jnp.asarray(factor, wide)).astype(jax.dtypes.canonicalize_dtype(dtype))


def one_minus_power(beta: Beta, step: Numeric) -> Numeric:
    """Return ``1 - beta**step``, the bias correction after ``step`` updates.

    On the host, it is torch's expression in doubles. Traced, it is ``-expm1(step * log1p(-(1 - beta)))``, which keeps
    its digits for beta near 1.

    Example:
        >>> one_minus_power(Beta.of(0.5), 2)
        0.75
    """
    if on_host(beta.value, step):
        return 1 - beta.value**step
    if on_host(beta.value):
        log_beta = math.log1p(-beta.complement) if beta.complement < 1 else -math.inf
    else:
        log_beta = jnp.log1p(-beta.complement)
    return -jnp.expm1(jnp.asarray(step, jnp.result_type(float)) * log_beta)
