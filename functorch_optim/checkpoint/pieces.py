"""A leaf of a JAX tree, and the pieces of torch's parameters that form it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np


class Piece(NamedTuple):
    """A torch parameter, or a part of it along its first axis, as JAX lays it out."""

    name: str
    torch_shape: tuple[int, ...]  # of the whole parameter
    part: tuple[int, int] | None
    expanded: tuple[int, ...]  # the part's shape in torch, with a flattened axis split into its axes
    axes: tuple[int, ...]  # the expanded axes in JAX's order
    flipped: tuple[int, ...]  # axes to flip after reordering
    jax_shape: tuple[int, ...]

    @property
    def own_shape(self) -> tuple[int, ...]:
        """The part's shape in torch."""
        if self.part is None:
            return self.torch_shape
        return (self.torch_shape[0] // self.part[1], *self.torch_shape[1:])

    @property
    def moved_shape(self) -> tuple[int, ...]:
        """The part's shape with its axes in JAX's order."""
        return tuple(self.expanded[axis] for axis in self.axes)

    def of(self, array: np.ndarray) -> np.ndarray:
        """Cut the part out of torch's array."""
        if self.part is None:
            return array
        size = array.shape[0] // self.part[1]
        return array[self.part[0] * size : (self.part[0] + 1) * size]

    def to_jax(self, array: np.ndarray) -> np.ndarray:
        moved = self.of(array).reshape(self.expanded).transpose(self.axes)
        return np.flip(moved, self.flipped).reshape(self.jax_shape)

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        moved = np.flip(array.reshape(self.moved_shape), self.flipped)
        return moved.transpose(tuple(np.argsort(self.axes))).reshape(self.own_shape) if self.axes else moved


class Leaf(NamedTuple):
    """A leaf of the tree: one piece, or several stacked along a new first axis."""

    name: str
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    stacked: bool
    is_complex: bool

    def join(self, arrays: list[np.ndarray]) -> np.ndarray:
        return np.stack(arrays) if self.stacked else np.array(arrays[0], order="C")  # never torch's own memory

    def split(self, array: np.ndarray) -> list[np.ndarray]:
        return list(array) if self.stacked else [array]


def parts_of(name: str, leaves: Sequence[Leaf]) -> list[tuple[Leaf, int]]:
    """The leaves that hold a torch parameter, each with the number of its piece there, in the order of the parts."""
    found = [(leaf, i) for leaf in leaves for i, piece in enumerate(leaf.pieces) if piece.name == name]
    return sorted(found, key=lambda pair: pair[0].pieces[pair[1]].part or (0, 1))


def piece_of(
    name: str,
    torch_shape: tuple[int, ...],
    layout: str,
    part: tuple[int, int] | None,
    flattened: tuple[int, ...] | None,
    jax_shape: tuple[int, ...],
) -> Piece | None:
    """Return the piece, or None if a parameter of this shape cannot be laid out and cut this way."""
    count = len(torch_shape)
    if part is not None and (not count or torch_shape[0] % part[1]):
        return None
    own = torch_shape if part is None else (torch_shape[0] // part[1], *torch_shape[1:])
    if flattened is not None:
        if count != 2 or own[1] != np.prod(flattened) or layout != "kernel":
            return None
        expanded = (own[0], *flattened)
        axes = (*range(2, len(expanded)), 1, 0)  # channels last, then the outputs
        return Piece(name, torch_shape, part, expanded, axes, (), jax_shape)
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, but it is {layout!r}")
    if layout != "same" and count < 2:
        return None
    axes, flipped = LAYOUTS[layout](count)
    return Piece(name, torch_shape, part, own, tuple(axes), tuple(flipped), jax_shape)


def behind_images(shapes: Mapping[str, tuple[int, ...]], leaves: Sequence[Leaf]) -> dict[str, tuple[str, int]]:
    """Find dense kernels whose inputs may be a flattened image, with the convolution before each and its channels.

    That is the last convolution before the kernel in torch's order, if JAX has its channels last. The channels are
    those of the norm behind it, if there is one. A kernel whose inputs are the previous kernel's outputs is not behind
    an image, nor is one with one input per channel.
    """
    turned = {piece.name for leaf in leaves for piece in leaf.pieces if _is_turned(piece)}
    found, convolution, channels, before = {}, "", 0, 0
    for name, shape in shapes.items():
        if len(shape) > 2:
            convolution, channels = (name, shape[0]) if name in turned else ("", 0)
            before = channels
        elif len(shape) == 2 and name in turned:
            if convolution and shape[1] not in (before, channels) and shape[1] % channels == 0:
                found[name] = (convolution, channels)
            before = shape[0]
        elif len(shape) == 1 and before == channels and shape[0] > 1:
            before = channels = shape[0]
    return found


def _is_turned(piece: Piece) -> bool:
    """Whether the channels, or inputs and outputs, are last in JAX but not in torch."""
    kernels = ((1, 0),) if len(piece.torch_shape) == 2 else ((1, 0), (0, 1))
    return len(piece.expanded) == len(piece.torch_shape) > 1 and piece.axes[-2:] in kernels


# For n axes in torch: their order in JAX, and which of the reordered axes are flipped.
LAYOUTS: dict[str, Callable[[int], tuple[Sequence[int], Sequence[int]]]] = {
    "same": lambda n: (range(n), ()),
    "kernel": lambda n: ((*range(2, n), 1, 0), ()),
    "transposed_kernel": lambda n: ((*range(2, n), 0, 1), range(n - 2)),
    "transposed_weight": lambda n: ((1, 0, *range(2, n)), range(2, n)),
}


def fits(piece: Piece) -> bool:
    """Whether the shapes agree: axes of a matrix or vector may be split (heads), and axes of size 1 come and go."""
    moved, jax_shape = piece.moved_shape, piece.jax_shape
    if len(piece.expanded) > len(piece.own_shape):  # a flattened axis is one axis in JAX too
        return jax_shape == (piece.own_shape[1], piece.own_shape[0])
    if tuple(n for n in moved if n != 1) == tuple(n for n in jax_shape if n != 1):
        return len(moved) <= 2 or moved == jax_shape
    return len(moved) <= 2 and 0 not in moved and {*_borders(moved)} <= {*_borders(jax_shape)} and _same_size(piece)


def _borders(shape: tuple[int, ...]) -> list[int]:
    return [int(np.prod(shape[: axis + 1], dtype=np.int64)) for axis in range(len(shape))] + [1]


def _same_size(piece: Piece) -> bool:
    return np.prod(piece.moved_shape, dtype=np.int64) == np.prod(piece.jax_shape, dtype=np.int64)
