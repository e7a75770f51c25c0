"""The 8-bit dynamic maps of Dettmers et al., and what encodes numbers in them.

A map has 256 numbers in [-1, 1], sorted; a code is a place in it. The numbers lie in seven decades: the higher the
decade, the more numbers it has, evenly spaced. The signed map has 127 negative numbers, 0 and 128 positive ones, the
unsigned map 0 and 255 positive ones. Both end with 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

DECADES = 7
ZERO = 127  # the code of 0 in the signed map
_LOWEST = -25  # the exponent of 2 below which a magnitude is nearer to 0 than to any other number


def dynamic_map(signed: bool) -> np.ndarray:
    """The map, with float32 numbers: that of ``bitsandbytes.functional.create_dynamic_map(signed)``.

    Source: Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2022.

    Example:
        >>> signed, unsigned = dynamic_map(True), dynamic_map(False)
        >>> signed.size, float(signed[127]), float(unsigned[0]), float(signed[-1]), float(unsigned[-1])
        (256, 0.0, 0.0, 1.0, 1.0)
    """
    positive = []
    for decade in range(DECADES):
        edges = _edges(2 ** (decade + (not signed)))
        means = (edges[:-1] + edges[1:]) / np.float32(2)
        positive += (np.float32(10.0 ** (decade + 1 - DECADES)) * means).tolist()
    negative = [-number for number in positive] if signed else []
    return np.sort(np.asarray([*negative, 0.0, *positive, 1.0])).astype(np.float32)


def _edges(count: int) -> np.ndarray:
    """The edges of equal intervals from 0.1 to 1, rounded as ``torch.linspace`` rounds them."""
    first, last = np.float32(0.1), np.float32(1)
    step, places = np.float64((last - first) / np.float32(count)), np.arange(count + 1)
    return np.where(places < (count + 1) // 2, first + step * places, last - step * (count - places)).astype(np.float32)


def midpoints(signed: bool) -> np.ndarray:
    """The borders between the magnitudes of neighboring codes."""
    magnitudes = dynamic_map(signed)[ZERO if signed else 0 :]
    return (magnitudes[1:] + magnitudes[:-1]) / np.float32(2)


def _buckets(signed: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each value of a float32's upper half: the number of borders below, and the next border.

    No two borders have the same upper half, so one comparison finds the code.
    """
    first, last = (int(np.float32(number).view(np.int32)) >> 16 for number in (2.0**_LOWEST, 1.0))
    starts = (np.arange(first, last + 1, dtype=np.int32) << 16).view(np.float32)
    borders = midpoints(signed)
    below = np.searchsorted(borders, starts)
    return below.astype(np.uint8), np.append(borders, np.float32(np.inf))[below]


_FIRST = int(np.float32(2.0**_LOWEST).view(np.int32)) >> 16
_NUMBERS = np.concatenate([dynamic_map(False), dynamic_map(True)])
_BELOW, _BORDERS = (np.concatenate(pair) for pair in zip(_buckets(False), _buckets(True), strict=True))
_COUNT = len(_BELOW) // 2
LOWEST = float(-dynamic_map(True)[0])  # the largest magnitude of a negative number


def encode(numbers: jax.Array, signed: jax.Array) -> jax.Array:
    """The codes of the numbers of a map that are nearest to float32 numbers in [-1, 1]; of two, the smaller one.

    In the unsigned map a positive number stays positive, however small. A second moment that became zero beside a first
    moment that is not would give an enormous step.

    Args:
        numbers: the numbers. A NaN gets some code.
        signed: whether to use the signed map; it broadcasts. Else the sign is ignored.

    Example:
        >>> encode(jnp.array([0.0, 1.0, -1.0, 0.5]), jnp.bool_(True)).tolist()
        [127, 255, 0, 219]
    """
    magnitudes = jnp.abs(numbers)
    upper = jax.lax.bitcast_convert_type(magnitudes, jnp.int32) >> 16
    places = jnp.clip(upper - _FIRST, 0, _COUNT - 1) + jnp.where(signed, _COUNT, 0)
    above = magnitudes > _gathered(_BORDERS, places)
    found = _gathered(_BELOW, places).astype(jnp.int32) + above.astype(jnp.int32)
    either = jnp.where(numbers < 0, ZERO - jnp.minimum(found, ZERO), ZERO + found)
    positive = jnp.maximum(found, (numbers > 0).astype(jnp.int32))
    return jnp.where(signed, either, positive).astype(jnp.uint8)


def decode(codes: jax.Array, signed: jax.Array) -> jax.Array:
    """The float32 numbers of a map that have these codes.

    Example:
        >>> decode(encode(jnp.array([0.0, 1.0]), jnp.bool_(False)), jnp.bool_(False)).tolist()
        [0.0, 1.0]
    """
    return _gathered(_NUMBERS, codes.astype(jnp.int32) + jnp.where(signed, 256, 0))


def _gathered(table: np.ndarray, places: jax.Array) -> jax.Array:
    """The numbers of a table at places that are in it; they lie where the places lie."""
    sharding = jax.typeof(places).sharding
    return (
        jnp.asarray(table)
        .at[places]
        .get(
            mode="promise_in_bounds",
            wrap_negative_indices=False,
            out_sharding=sharding if AxisType.Explicit in sharding.mesh.axis_types else None,
        )
    )
