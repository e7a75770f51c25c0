"""Which parameters of torch form a leaf of a JAX tree: rules for names and layouts, and the search with them."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from functorch_optim.checkpoint.pieces import Leaf, Piece, behind_images, fits, parts_of, piece_of
from functorch_optim.typing import PyTree

_COLLECTIONS = re.compile(r"^(params|batch_stats)\.")  # linen's, which torch's names lack


class LeafRule(NamedTuple):
    """Torch's name for a leaf of a JAX tree, and its layout there.

    Attributes:
        path: a regular expression that matches the leaf's whole dotted path.
        name: torch's name for it, with ``\\1`` for the match of the first parentheses.
        layout: ``"same"``; ``"kernel"``: a dense or convolution kernel with inputs and outputs last, (inputs, outputs)
            instead of torch's (outputs, inputs); ``"transposed_kernel"``: the kernel of flax's ``ConvTranspose``;
            ``"transposed_weight"``: the weight of equinox's. If input and output channels are equal, shapes cannot
            distinguish a transposed convolution from an ordinary one.
        part: (i, n) if the leaf is the i-th of n equal parts of torch's parameter, along its first axis.
        flattened: (channels, height, width) of the image whose flattened entries are the inputs of this dense kernel;
            flax flattens it in the order (height, width, channels). None: the inputs are not a flattened image.
    """

    path: str
    name: str
    layout: str = "same"
    part: tuple[int, int] | None = None
    flattened: tuple[int, ...] | None = None


_ATTENTION = [
    LeafRule(rf"(.*\.)?{own}\.{leaf}", rf"\1{name}", layout, part)
    for i, role in enumerate(("query", "key", "value"))
    for own, leaf, layout in ((role, "kernel", "kernel"), (f"{role}_proj", "weight", "same"))
    for name, part in (("in_proj_weight", (i, 3)), (f"{role[0]}_proj_weight", None))
] + [
    LeafRule(rf"(.*\.)?{role}(?:_proj)?\.bias", r"\1in_proj_bias", "same", (i, 3))
    for i, role in enumerate(("query", "key", "value"))
]
TORCH_NAMES: tuple[LeafRule, ...] = (
    *_ATTENTION,
    LeafRule(r"(.*\.)?out\.kernel", r"\1out_proj.weight", "kernel"),
    LeafRule(r"(.*\.)?output_proj\.weight", r"\1out_proj.weight"),
    LeafRule(r"(.*\.)?out(?:put_proj)?\.bias", r"\1out_proj.bias"),
    LeafRule(r"(.*\.)?kernel", r"\1weight", "kernel"),
    LeafRule(r"(.*\.)?(?:scale|embedding|negative_slope)", r"\1weight"),
    LeafRule(r"(.*\.)?mean", r"\1running_mean"),
    LeafRule(r"(.*\.)?var", r"\1running_var"),
    LeafRule(r"(.*)", r"\1"),
)
"""The rules for the names that flax and equinox give; :class:`TorchLayout` tries them after yours."""


class Search(NamedTuple):
    """Finds the parameters of torch that form a leaf."""

    shapes: Mapping[str, tuple[int, ...]]
    rules: Sequence[LeafRule]
    rename: list[tuple[str, str]]
    stacked: dict[str, str]

    def leaf(self, name: str, model: PyTree) -> Leaf | str | None:
        """Return the leaf, None if it is to be left alone, or what is wrong with it."""
        if not hasattr(model, "dtype") or not hasattr(model, "shape"):
            return None
        shape, dtype = tuple(model.shape), model.dtype
        inner = _COLLECTIONS.sub("", name)
        prefix = next((p for p in self.stacked if inner.startswith(f"{p}.")), None)
        if prefix is None:
            paths, own_shape = [name], shape
        elif not shape:
            return f"the leaf {name!r} has no axis of layers"
        else:
            rest, own_shape = inner[len(prefix) :], shape[1:]
            paths = [f"{self.stacked[prefix]}.{index}{rest}" for index in range(shape[0])]
        pieces = [self._piece(path, own_shape) for path in paths]
        problems = [piece for piece in pieces if isinstance(piece, str)]
        if problems:
            if not jnp.issubdtype(dtype, jnp.inexact):
                return None
            return f"the leaf {name!r} {shape}: {problems[0]}"
        found = tuple(piece for piece in pieces if isinstance(piece, Piece))
        return Leaf(name, shape, found, prefix is not None, jnp.issubdtype(dtype, jnp.complexfloating))

    def _piece(self, path: str, shape: tuple[int, ...]) -> Piece | str:
        path = self._renamed(path)
        looked, unfit = [], ""
        for rule in (*self.rules, *TORCH_NAMES):
            match = re.fullmatch(rule.path, path)
            if match is None:
                continue
            name = match.expand(rule.name)
            looked.append(name)
            if name in self.shapes:
                piece = piece_of(name, self.shapes[name], rule.layout, rule.part, rule.flattened, shape)
                if piece is not None and fits(piece):
                    return piece
                unfit = unfit or f"torch's {name!r} {self.shapes[name]} does not fit"
        return unfit or f"torch has none of {', '.join(dict.fromkeys(looked))}"

    def _renamed(self, path: str) -> str:
        """A leaf's path as the rules see it."""
        path = _COLLECTIONS.sub("", path)
        for pattern, replacement in self.rename:
            path = re.sub(pattern, replacement, path)
        return path

    def questions(self, leaves: Sequence[Leaf]) -> list[str]:
        """List dense kernels that may take a flattened image and that no given rule matches."""
        found = []
        for name, (convolution, channels) in behind_images(self.shapes, leaves).items():
            for leaf, _ in parts_of(name, leaves):
                path = self._renamed(leaf.name)
                if not any(re.fullmatch(rule.path, path) for rule in self.rules):
                    inputs = self.shapes[name][1]
                    found.append(
                        f"the leaf {leaf.name!r} {leaf.shape}: are its {inputs} inputs the flattened image of "
                        f"{channels} channels behind {convolution!r}? The twin has their entries in another order. If "
                        f"so, pass rules=[LeafRule({re.escape(path)!r}, {name!r}, 'kernel', flattened=({channels}, "
                        f"height, width))] with height * width = {inputs // channels}; if not, the same without "
                        "flattened="
                    )
        return found
