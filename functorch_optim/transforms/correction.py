"""Master weights in three bytes: a bfloat16 parameter, and the next eight bits of the float32 number."""

import jax
import jax.numpy as jnp


def parts_of(whole: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Split float32 numbers into the nearest bfloat16 numbers and corrections of int8.

    The two together have the upper 24 bits, rounded to nearest. A finite number stays finite; of an infinite one, and
    of NaN, the correction is 0.

    Example:
        >>> high, low = parts_of(jnp.array([1.001, -3.0]))
        >>> high.tolist(), low.tolist(), joined(high, low).tolist()
        ([1.0, -3.0], [33, 0], [1.001007080078125, -3.0])
    """
    bits = jax.lax.bitcast_convert_type(whole, jnp.uint32)
    sign, rest = bits & jnp.uint32(0x80000000), bits & jnp.uint32(0x7FFFFFFF)
    upper = jnp.minimum(
        (rest + jnp.uint32(0x80)) >> 8, jnp.uint32(0x7F7FFF)
    )  # 23 bits, of the largest finite number at most
    high = jnp.minimum((upper + jnp.uint32(0x80)) >> 8, jnp.uint32(0x7F7F))
    low = jnp.minimum(upper.astype(jnp.int32) - (high << 8).astype(jnp.int32), 127)
    near = jax.lax.bitcast_convert_type(sign | (high << 16), jnp.float32)
    finite = jnp.isfinite(whole)
    return jnp.where(finite, near, whole).astype(jnp.bfloat16), jnp.where(finite, low, 0).astype(jnp.int8)


def joined(high: jax.Array, low: jax.Array) -> jax.Array:
    """The float32 numbers of which :func:`parts_of` gives these parts."""
    bits = jax.lax.bitcast_convert_type(high.astype(jnp.float32), jnp.uint32)
    sign, rest = bits & jnp.uint32(0x80000000), (bits & jnp.uint32(0x7FFFFFFF)).astype(jnp.int32)
    # The sum is negative only if someone else has made the parameter zero.
    moved = jnp.maximum(rest + (low.astype(jnp.int32) << 8), 0).astype(jnp.uint32)
    whole = jax.lax.bitcast_convert_type(sign | moved, jnp.float32)
    return jnp.where(jnp.isfinite(high), whole, high.astype(jnp.float32))
