"""Preconditioned dimensions of a parameter: small neighbouring ones become one."""

from collections.abc import Sequence


def merged_shape(shape: Sequence[int], limit: int) -> tuple[int, ...]:
    """Return a shape with the same number of entries, whose neighbouring dimensions are one where that is small.

    Dimensions become one while their product is at most ``limit``; sizes of 1 vanish. It is ``merge_small_dims`` of the
    authors' Shampoo and SOAP.

    Example:
        >>> merged_shape((3, 3, 64, 128), 64), merged_shape((1, 1), 64), merged_shape((5, 1, 7), 8)
        ((9, 64, 128), (1,), (5, 7))
    """
    sizes, product = [], 1
    for size in shape:
        if product * size <= limit:
            product *= size
        else:
            sizes.append(product)
            product = size
    sizes.append(product)
    return tuple(size for size in sizes if size != 1) or (1,)
