"""The plan of a transformation: what updates each parameter, to read before a run."""

from typing import NamedTuple

from functorch_optim import trees
from functorch_optim.base import GradientTransformation, effects_of
from functorch_optim.effects import Effect, Leaves
from functorch_optim.typing import PyTree


class Planned(NamedTuple):
    """A parameter, and the names of the transformations that act on its gradient."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    links: tuple[str, ...]


class Plan(NamedTuple):
    """The result of :func:`plan`; it prints as a table."""

    parameters: tuple[Planned, ...]

    def __str__(self) -> str:
        rows = [(one.name, f"{one.dtype}{list(one.shape)}", ", ".join(one.links)) for one in self.parameters]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)] if rows else []
        padded = [[text.ljust(width) for text, width in zip(row, widths, strict=True)] for row in rows]
        return "\n".join("  ".join(row).rstrip() for row in padded)


def plan(tx: GradientTransformation, params: PyTree) -> Plan:
    """Say for each parameter which transformations act on its gradient, and what Muon takes for its matrices.

    The links of a chain are in order. Wrappers that leave the numbers alone, such as :func:`functorch_optim.zero`, are
    not named; one that does not comes after what it wraps.

    Args:
        tx: any transformation, such as a :func:`functorch_optim.partition` or :func:`functorch_optim.muon_adamw`.
        params: the parameters, or their shapes (``jax.ShapeDtypeStruct``).

    Returns:
        A :class:`Plan`, which has the parameters in order. ``print`` it.

    Raises:
        TypeError: a parameter is no array.

    Example:
        >>> import functorch_optim as fo, jax.numpy as jnp
        >>> params = {"bias": jnp.zeros(16), "embed": jnp.zeros((32, 8)), "kernel": jnp.zeros((8, 16))}
        >>> tx = fo.muon_adamw(use_muon=lambda name, array: name == "kernel")
        >>> print(fo.plan(fo.chain(fo.clip_by_global_norm(1.0), tx), params))
        bias    float32[16]     clip_by_global_norm, adam (decoupled weight decay)
        embed   float32[32, 8]  clip_by_global_norm, adam (decoupled weight decay)
        kernel  float32[8, 16]  clip_by_global_norm, muon (1 matrix of 8 x 16, lr times 1)
    """
    names, leaves, _ = trees.named_leaves(params, none_is_leaf=True)
    rows: list[Planned] = []
    for name, leaf, effects in zip(names, leaves, effects_of(tx, Leaves(names, params)), strict=True):
        if leaf is not None:
            trees.check_array(name, leaf)
            rows.append(Planned(name, tuple(leaf.shape), str(leaf.dtype), _links(effects)))
    return Plan(tuple(rows))


def _links(effects: tuple[Effect, ...]) -> tuple[str, ...]:
    """The links by name, each once, although it may have several effects."""
    return tuple(dict.fromkeys(f"{one.who} ({one.detail})" if one.detail else one.who for one in effects))
